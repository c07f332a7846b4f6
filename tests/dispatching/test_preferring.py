"""Splits within the level that are nearest, or least changed: against every split there is, and a program with all sources."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import linprog

from equipoise import Cluster
from equipoise.dispatching import preferring
from equipoise.dispatching.preferring import prefer_near, prefer_near_then_previous, prefer_previous
from equipoise.dispatching.routing import crossings, route_sources, share_sources, spread_sources
from equipoise.errors import ArgumentError, EquipoiseError, InvalidPlacementError

FAR = 9.0


def _distance(cluster, far=FAR):
    """What a token costs from each rank to each slot, [ranks, slots]."""
    node = np.array(cluster.node_of_rank)
    rank, of_slot = np.arange(cluster.num_ranks)[:, np.newaxis], cluster.rank_of_slot
    return np.where(rank == of_slot, 0.0, np.where(node[rank] == node[of_slot], 1.0, far))


def _cost(routed, cluster, far=FAR):
    return (routed[:, 0] * _distance(cluster, far)).sum()


def _least_level(slots, cluster, load):
    """The least largest rank time: any ranks together take at least the load of the experts that only they hold."""
    held = np.array(
        [[np.any((slots[0] == e) & (cluster.rank_of_slot == r)) for r in range(cluster.num_ranks)] for e in range(len(load))]
    )
    speed, best = np.array(cluster.rank_speeds), 0.0
    for chosen in itertools.product([False, True], repeat=cluster.num_ranks):
        if any(chosen):
            inside = ~held[:, ~np.array(chosen)].any(axis=1)
            best = max(best, load[inside].sum() / speed[np.array(chosen)].sum())
    return best


def _least_cost(slots, cluster, load, level, source, far=FAR):
    """The least cost over all splits and routings, by a program that has every pair of rank and slot."""
    filled = np.flatnonzero(slots[0] >= 0)
    pairs = list(itertools.product(range(cluster.num_ranks), filled))
    sums = {(i, e): n for n, (i, e) in enumerate(itertools.product(range(cluster.num_ranks), range(len(load))))}
    equal, within = np.zeros((len(sums), len(pairs))), np.zeros((cluster.num_ranks, len(pairs)))
    for n, (i, s) in enumerate(pairs):
        equal[sums[i, slots[0, s]], n] = within[cluster.rank_of_slot[s], n] = 1.0
    cost = [_distance(cluster, far)[pair] for pair in pairs]
    found = linprog(cost, within, level * np.array(cluster.rank_speeds) * (1 + 1e-12), equal, source[:, 0].ravel())
    assert found.status == 0
    return found.fun


def _whole_splits(slots, cluster, load, level):
    """Every split of whole tokens within the level, [splits, slots]."""
    of_expert = []
    for e, x in enumerate(load.astype(int)):
        mine = np.flatnonzero(slots[0] == e)
        parts = [p for p in itertools.product(range(x + 1), repeat=len(mine)) if sum(p) == x]
        of_expert.append([dict(zip(mine, part, strict=True)) for part in parts])
    found = []
    for chosen in itertools.product(*of_expert):
        tokens = np.zeros(slots.shape[1])
        for part in chosen:
            for s, n in part.items():
                tokens[s] = n
        rank_load = np.bincount(cluster.rank_of_slot, tokens, cluster.num_ranks)
        if (rank_load <= level * np.array(cluster.rank_speeds)).all():
            found.append(tokens)
    return np.array(found)


def _change(tokens, slots, load, before):
    """Sum of |tokens - what shares before would send|, over slots; [..., slots] in, [...] out."""
    wanted = np.where(slots[0] >= 0, before[0] * load[np.maximum(slots[0], 0)], 0.0)
    return np.abs(tokens - wanted).sum(axis=-1)


def _check_split(tokens, slots, cluster, load, level):
    """No token is lost or made, none is below 0, and every rank keeps to the level."""
    assert tokens.shape == slots.shape
    assert (tokens >= 0.0).all()
    assert (tokens[slots < 0] == 0.0).all()
    for e, x in enumerate(load):
        assert tokens[slots == e].sum() == pytest.approx(x, rel=1e-13, abs=0)
    rank_load = np.bincount(cluster.rank_of_slot, tokens[0], cluster.num_ranks)
    assert (rank_load <= level * np.array(cluster.rank_speeds) * (1 + 1e-9)).all()


def _check_routing(routed, tokens, slots, source):
    assert (routed >= 0.0).all()
    np.testing.assert_allclose(routed.sum(axis=0), tokens, rtol=1e-9, atol=1e-9 * source.max(initial=0))
    for e in range(source.shape[2]):
        np.testing.assert_allclose(routed[:, slots == e].sum(axis=1), source[:, 0, e], rtol=1e-9, atol=0)


def _level_split(slots, cluster, load, level):
    """Some split within the level, of all those the one that a program without an aim happens to find."""
    everywhere = np.where(slots >= 0, 1.0, 0.0) / np.maximum(1, (slots[:, :, np.newaxis] == slots[:, np.newaxis]).sum(axis=2))
    return prefer_previous(slots, cluster, [load], [level], everywhere)


@st.composite
def layers(draw, most=8, speeds=(0.5, 1.0, 1.7, 4.0), max_ranks=5, max_slots=3):
    """Draw (slots [1, slots], cluster, source_load [ranks, 1, experts], shares before [1, slots]).

    Slots may be empty, experts stand twice on a rank or have no load, ranks be down.
    """
    num_ranks = draw(st.integers(1, max_ranks))
    slots_per_rank = draw(st.integers(1, max_slots))
    num_nodes = draw(st.integers(1, num_ranks))
    nodes = [*range(num_nodes), *(draw(st.integers(0, num_nodes - 1)) for _ in range(num_ranks - num_nodes))]
    alive = [True, *(draw(st.sampled_from([True, True, True, False])) for _ in range(num_ranks - 1))]
    pace = [draw(st.sampled_from(speeds)) for _ in range(num_ranks)]
    cluster = Cluster(
        num_ranks, slots_per_rank, num_nodes, node_of_rank=draw(st.permutations(nodes)), rank_speeds=pace, alive=alive
    )
    is_up = np.repeat(alive, slots_per_rank)
    num_experts = draw(st.integers(1, int(is_up.sum())))
    others = [draw(st.integers(-1, num_experts - 1)) for _ in range(int(is_up.sum()) - num_experts)]
    slots = np.full((1, num_ranks * slots_per_rank), -1)
    slots[0, is_up] = draw(st.permutations([*range(num_experts), *others]))
    amounts = st.sampled_from([st.integers(0, most), st.floats(0, 1e6).map(lambda x: round(x, 3)), st.just(0)])
    one = draw(amounts) if draw(st.booleans()) else st.integers(0, most)
    source = np.array([[[draw(one) for _ in range(num_experts)]] for _ in range(num_ranks)], np.float64)
    before = np.array([[draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for _ in slots[0]]])
    return slots, cluster, source, before / _most(1.0, slots, before)


def _most(least, slots, shares):
    """What the shares of each slot's expert add up to, at least ``least``."""
    return np.maximum(least, ((slots[:, :, np.newaxis] == slots[:, np.newaxis]) * shares[:, np.newaxis]).sum(axis=2))


TWICE = (np.array([[0, 0, 0, 1]]), Cluster(2, 2, 2), np.array([[[5.0, 1.0]], [[2.0, 0.0]]]), np.array([[0.0, 0.5, 0.5, 1.0]]))
DOWN = (
    np.array([[0, 1, -1, -1, 0, 1]]),
    Cluster(3, 2, 3, alive=[1, 0, 1]),
    np.array([[[3.0, 0.0]], [[4.0, 4.0]], [[0.0, 1.0]]]),
    np.full((1, 6), 0.5),
)


@given(layers())
@example(TWICE)
@example(DOWN)
def test_nearest_as_a_program_with_all_sources(case):
    """Tokens are conserved, the level holds, and no split with any routing is nearer, at the least level and above it."""
    slots, cluster, source, _ = case
    load = source.sum(axis=0)[0]
    for slack in (1.0, 1.1):
        level = slack * _least_level(slots, cluster, load)
        tokens = prefer_near(slots, cluster, [load], [level], source)
        _check_split(tokens, slots, cluster, load, level)
        routed = route_sources(slots, cluster, tokens, source)
        _check_routing(routed, tokens, slots, source)
        least = _least_cost(slots, cluster, load, level, source)
        assert _cost(routed, cluster) == pytest.approx(least, rel=1e-7, abs=1e-6 * load.sum())


@given(layers())
@example(TWICE)
@example(DOWN)
def test_nearer_than_any_other_split(case):
    """Neither a split found without sources is nearer, nor one whose ranks all split alike; crossings are part of the cost."""
    slots, cluster, source, before = case
    load = source.sum(axis=0)[0]
    level = _least_level(slots, cluster, load)
    found = _cost(route_sources(slots, cluster, prefer_near(slots, cluster, [load], [level], source), source), cluster)
    for plain in (_level_split(slots, cluster, load, level), prefer_previous(slots, cluster, [load], [level], before)):
        near, spread = route_sources(slots, cluster, plain, source), spread_sources(slots, cluster, plain, source)
        _check_routing(spread, plain, slots, source)
        rounding = 1e-7 * FAR * load.sum()
        assert found <= _cost(near, cluster) + rounding
        assert _cost(near, cluster) <= _cost(spread, cluster) + rounding
        assert crossings(near, cluster)[0] <= crossings(spread, cluster)[0] + rounding
        for routed in (near, spread):
            leaving = _cost(routed, cluster, far=1.0 + 1.0) - _cost(routed, cluster, far=1.0)
            assert crossings(routed, cluster)[0] == pytest.approx(leaving, rel=1e-9, abs=rounding)


@given(layers())
@example(TWICE)
@example(DOWN)
def test_both_keep_to_the_first_and_change_least(case):
    """Both together are as near as the nearest, and less changed than it; previous alone is the least changed of the three."""
    slots, cluster, source, before = case
    load = source.sum(axis=0)[0]
    level = _least_level(slots, cluster, load)
    near = prefer_near(slots, cluster, [load], [level], source)
    both = prefer_near_then_previous(slots, cluster, [load], [level], source, before)
    alone = prefer_previous(slots, cluster, [load], [level], before)
    for tokens in (both, alone):
        _check_split(tokens, slots, cluster, load, level)
    costs = [_cost(route_sources(slots, cluster, tokens, source), cluster) for tokens in (near, both)]
    assert costs[1] == pytest.approx(costs[0], rel=1e-7, abs=1e-6 * load.sum())
    changes = [float(_change(tokens, slots, load, before)[0]) for tokens in (alone, both, near)]
    assert changes[0] <= changes[1] + 1e-6 * load.sum()
    assert changes[1] <= changes[2] + 1e-6 * load.sum()


@given(layers(most=3, speeds=(1.0, 2.0), max_ranks=3, max_slots=2))
@example(TWICE)
def test_as_good_as_every_whole_split(case):
    """Where level and tokens are whole, so is some best split: neither objective, nor both, miss it."""
    slots, cluster, source, before = case
    source = np.minimum(np.floor(source), 4.0)
    load = source.sum(axis=0)[0]
    level = np.ceil(_least_level(slots, cluster, load))
    whole = _whole_splits(slots, cluster, load, level)
    if len(whole) == 0 or len(whole) > 2000:
        return
    kept = np.floor(before * np.where(slots >= 0, load[np.maximum(slots, 0)], 0.0))  # whole as well
    before = np.divide(kept, np.maximum(load[np.maximum(slots, 0)], 1.0))
    costs = np.array([_cost(route_sources(slots, cluster, tokens[np.newaxis], source), cluster) for tokens in whole])
    changes = _change(whole, slots, load, before)
    near = prefer_near(slots, cluster, [load], [level], source)
    assert _cost(route_sources(slots, cluster, near, source), cluster) == pytest.approx(costs.min(), abs=1e-6)
    alone = prefer_previous(slots, cluster, [load], [level], before)
    assert _change(alone, slots, load, before)[0] == pytest.approx(changes.min(), abs=1e-6)
    both = prefer_near_then_previous(slots, cluster, [load], [level], source, before)
    assert _change(both, slots, load, before)[0] == pytest.approx(changes[costs <= costs.min() + 1e-9].min(), abs=1e-6)


def _many_layers():
    """Five layers, unlike each other, of 12 experts on 4 ranks and 2 nodes."""
    rng = np.random.default_rng(3)
    cluster = Cluster(4, 5, 2, rank_speeds=[1.0, 0.8, 1.0, 1.2])
    slots = np.array([rng.permutation([*range(12), *rng.integers(0, 12, 8)]) for _ in range(5)])
    source = rng.integers(0, 50, (4, 5, 12)).astype(np.float64)
    load = source.sum(axis=0)
    level = np.array([_least_level(slots[x : x + 1], cluster, load[x]) for x in range(5)])
    before = rng.random(slots.shape)
    return slots, cluster, load, level, source, before / _most(1.0, slots, before)


@pytest.mark.parametrize("far", [1.0, 1.5, 3.0, 9.0])
def test_any_price_of_leaving_the_node(far):
    """Layers with much to choose: whatever leaving the node costs, no split is cheaper."""
    slots, cluster, load, level, source, _ = _many_layers()
    tokens = prefer_near(slots, cluster, load, level, source, far=far)
    for x in range(5):
        one = slice(x, x + 1)
        routed = route_sources(slots[one], cluster, tokens[one], source[:, one])
        least = _least_cost(slots[one], cluster, load[x], level[x], source[:, one], far)
        assert _cost(routed, cluster, far) == pytest.approx(least, rel=1e-7)


def test_layers_are_alone_and_answers_repeat():
    """Each layer gets what it gets by itself, to the bit, and so does each repetition."""
    slots, cluster, load, level, source, before = _many_layers()
    tokens = prefer_near_then_previous(slots, cluster, load, level, source, before)
    again = prefer_near_then_previous(slots, cluster, load, level, source, before)
    assert tokens.tobytes() == again.tobytes()
    for x in range(5):
        one = slice(x, x + 1)
        alone = prefer_near_then_previous(slots[one], cluster, load[one], level[one], source[:, one], before[one])
        assert alone.tobytes() == tokens[one].tobytes()
        _check_split(tokens[one], slots[one], cluster, load[x], level[x])


@pytest.mark.parametrize("mutant", ["nodes ignored", "ranks ignored", "a token moved", "caps ignored"])
def test_oracle_sees_mutants(mutant, monkeypatch):
    """What these tests compare with would not let a wrong program pass: each mutant costs more than the least."""
    slots, cluster, load, level, source, _ = _many_layers()
    wishes = preferring._wishes_near
    if mutant == "nodes ignored":
        monkeypatch.setattr(preferring, "_wishes_near", lambda *args: wishes(*args)[:1])
    if mutant == "ranks ignored":
        monkeypatch.setattr(preferring, "_wishes_near", lambda *args: wishes(*args)[1:])
    if mutant == "caps ignored":
        uncapped = preferring._Wish
        monkeypatch.setattr(preferring, "_Wish", lambda group, cap, weight=1.0: uncapped(group, cap + 1e3, weight))
    excess = []
    for x in range(5):
        one = slice(x, x + 1)
        tokens = prefer_near(slots[one], cluster, load[one], level[one], source[:, one])
        if mutant == "a token moved":
            e = np.argmax([tokens[0, slots[x] == e].max(initial=0) * ((slots[x] == e).sum() > 1) for e in range(12)])
            mine = np.flatnonzero(slots[x] == e)
            mine = mine[np.argsort(tokens[0, mine])]
            tokens[0, mine[[0, -1]]] += [1.0, -1.0]
        routed = route_sources(slots[one], cluster, tokens, source[:, one])
        least = _least_cost(slots[one], cluster, load[x], level[x], source[:, one])
        excess.append(_cost(routed, cluster) - least)
    assert max(np.abs(excess)) > 0.5


def test_own_rank_then_own_node_then_far():
    """Two of rank 0's tokens stay, one goes to the other rank of its node, the rest leaves it; others come after."""
    cluster = Cluster(4, 1, 2)
    source = np.array([[[6.0]], [[0.0]], [[1.0]], [[0.0]]])
    routed = route_sources([[0, 0, 0, 0]], cluster, [[2.0, 1.0, 2.0, 2.0]], source)
    assert routed[:, 0].tolist() == [[2, 1, 1, 2], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert crossings(routed, cluster).tolist() == [3.0]
    shares = share_sources([[0, 0, 0, 0]], routed, source, [[0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(shares[[0, 2], 0], [[2 / 6, 1 / 6, 1 / 6, 2 / 6], [0, 0, 1, 0]])
    assert shares[1, 0].tolist() == [0.25] * 4


@given(layers())
def test_source_shares_add_up(case):
    """Each rank's shares of an expert's slots add up to 1, whether or not it has tokens of it."""
    slots, cluster, source, _ = case
    load = source.sum(axis=0)[0]
    tokens = prefer_near(slots, cluster, [load], [_least_level(slots, cluster, load)], source)
    count = np.array([np.maximum((slots[0] == e).sum(), 1) for e in range(len(load))])
    overall = np.where(slots >= 0, 1.0 / count[np.maximum(slots, 0)], 0.0)
    shares = share_sources(slots, route_sources(slots, cluster, tokens, source), source, overall)
    for e in range(len(load)):
        np.testing.assert_allclose(shares[:, slots == e].sum(axis=1), 1.0, rtol=1e-9)
    assert (shares[:, slots < 0] == 0.0).all()


def test_previous_shares_that_still_fit_stay():
    """Where shares of before keep to the level, nothing changes, experts twice on a rank included."""
    cluster = Cluster(2, 3)
    slots, before = [[0, 0, 1, 0, 1, -1]], np.array([[0.2, 0.3, 0.75, 0.5, 0.25, 0.0]])
    tokens = prefer_previous(slots, cluster, [[20.0, 8.0]], [17.0], before)
    np.testing.assert_allclose(tokens, [[4, 6, 6, 10, 2, 0]], rtol=1e-12)


def test_layers_without_load_get_nothing():
    """Zero load needs no level, and an expert without load no slot."""
    cluster = Cluster(2, 1)
    source = np.zeros((2, 2, 3))
    source[1, 1, 0] = 4.0
    tokens = prefer_near([[0, 1], [0, 0]], cluster, source.sum(axis=0), [0.0, 2.0], source)
    assert tokens.tolist() == [[0, 0], [2, 2]]
    assert crossings(route_sources([[0, 1], [0, 0]], cluster, tokens, source), cluster).tolist() == [0, 0]


def test_ranks_that_are_down_serve_nothing():
    """Even where the placement still lists experts on them."""
    cluster = Cluster(2, 2, alive=[True, False])
    tokens = prefer_near([[0, 1, 0, 1]], cluster, [[4.0, 2.0]], [6.0], [[[0.0, 0.0]], [[4.0, 2.0]]])
    assert tokens.tolist() == [[4, 2, 0, 0]]


def test_one_token_of_a_thousand_is_not_dust():
    """It is what keeps rank 0 within the level."""
    source = np.array([[[1000.0, 0.0]], [[0.0, 998.0]]])
    assert prefer_near([[0, -1, 0, 1]], Cluster(2, 2), source.sum(axis=0), [999.0], source).tolist() == [[999, 0, 1, 998]]


GOOD = {
    "expert_of_slot": [[0, 1, 0, 2]],
    "cluster": Cluster(2, 2),
    "load": [[4.0, 1.0, 1.0]],
    "level": [3.0],
    "source_load": [[[2.0, 1.0, 1.0]], [[2.0, 0.0, 0.0]]],
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"level": [2.9]}, "layer 0: level is 2.9"),
        ({"level": [0.5]}, "layer 0: level is 0.5"),
        ({"level": [3.0, 3.0]}, r"level has shape \[2\]"),
        ({"level": [np.nan]}, r"level\[0\] is nan"),
        ({"load": [[4.0, -1.0, 1.0]]}, r"load\[0, 1\] is -1.0"),
        ({"load": [[4.0, 1.0, 2.0]]}, "layer 0, expert 2: source_load adds up to 1.0"),
        ({"source_load": [[[4.0, 1.0, 1.0]]]}, r"source_load has shape \[1, 1, 3\]"),
        ({"expert_of_slot": [[0, 1, 0]]}, r"expert_of_slot has shape \[1, 3\]"),
        ({"far": 0.5}, "far is 0.5"),
        ({"far": np.inf}, "far is inf"),
    ],
)
def test_what_does_not_fit_is_refused(change, found):
    """With the value found."""
    with pytest.raises(ArgumentError, match=found):
        prefer_near(**{**GOOD, **change})


def test_shares_before_that_add_up_to_more_than_one_are_refused():
    """Less than 1 is a replica that is gone; more is a mistake."""
    given = [GOOD["expert_of_slot"], GOOD["cluster"], GOOD["load"], GOOD["level"]]
    assert prefer_previous(*given, [[0.25, 1.0, 0.25, 1.0]]).sum() == 6.0
    with pytest.raises(ArgumentError, match=r"layer 0, expert 0 had shares that add up to 1\.5"):
        prefer_previous(*given, [[0.75, 1.0, 0.75, 1.0]])


def test_lost_experts_are_refused():
    """An expert with load and no slot on a rank that is up; on one that is down it would never be served."""
    with pytest.raises(InvalidPlacementError, match=r"layer 0: expert 2 has 1\.0 tokens and no slot"):
        prefer_near(**{**GOOD, "expert_of_slot": [[0, 1, 0, -1]]})
    with pytest.raises(InvalidPlacementError, match=r"layer 0: expert 2 has 1\.0 tokens and no slot"):
        prefer_near(**{**GOOD, "cluster": Cluster(2, 2, alive=[True, False])})


def test_routing_refuses_other_tokens():
    """Tokens that do not add up to the sources' are not routed."""
    with pytest.raises(ArgumentError, match=r"layer 0, expert 0: tokens adds up to 5.0"):
        route_sources([[0, 0]], Cluster(2, 1), [[3.0, 2.0]], [[[4.0]], [[0.0]]])


def test_a_solver_that_fails_is_not_believed(monkeypatch):
    """It stops: said so. It answers beyond the level: not used."""
    with monkeypatch.context() as patch:
        patch.setattr(preferring, "_solve", lambda free, wishes: free.total)
        with pytest.raises(EquipoiseError, match="the solver broke the level of 3"):
            prefer_near(**GOOD)
    monkeypatch.setattr(preferring, "_OPTIONS", {"maxiter": 0, "presolve": False})
    with pytest.raises(EquipoiseError, match="the solver stopped"):
        prefer_near(**GOOD)
