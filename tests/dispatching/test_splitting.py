"""dispatch(): no split ends sooner, no token is lost, and what is refused; against linear programs and recounts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from equipoise import Cluster, LoadTrace, Placement, plan
from equipoise.dispatching.splitting import dispatch, proven_level
from equipoise.errors import ArgumentError, InvalidPlacementError

LEAST = 5e-324  # the least number above 0
SPEEDS = st.sampled_from([0.25, 0.7, 1.0, 1.0, 1.0, 1.6, 4.0])
UNLIKE_SPEEDS = st.sampled_from([1e-3, 0.1, 1.0, 10.0, 1e3])
UNLIKE_TOKENS = st.sampled_from([0.0, LEAST, 1e-15, 1e-3, 0.3, 1.0, 7.0, 1e6, 1e15])
TOKENS = st.one_of(
    st.just(0.0),
    st.integers(0, 9).map(float),
    st.integers(0, 10_000).map(float),
    st.floats(0.0, 1e4).map(lambda x: round(x, 6)),
)
WHOLE = st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 10_000))


@st.composite
def placements(draw, min_ranks=2, max_layers=2, speeds=SPEEDS, nodes=(1,)):
    """Draw a placement with empty slots, experts twice on a rank or nowhere, unequal speeds, and ranks that are down."""
    ranks, experts = draw(st.integers(min_ranks, 6)), draw(st.integers(1, 7))
    num_nodes = min(ranks, draw(st.sampled_from(nodes)))
    node = [*range(num_nodes), *(draw(st.integers(0, num_nodes - 1)) for _ in range(ranks - num_nodes))]
    room = draw(st.lists(st.integers(1, 4), min_size=ranks, max_size=ranks))
    speed = draw(st.one_of(st.just([1.0] * ranks), st.lists(speeds, min_size=ranks, max_size=ranks)))
    is_up = draw(st.one_of(st.just([True] * ranks), st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any)))
    cluster = Cluster(ranks, room, num_nodes, node_of_rank=node, rank_speeds=speed, alive=is_up)
    rows = [
        [draw(st.integers(-1, experts - 1)) if is_up[r] else -1 for r in cluster.rank_of_slot]
        for _ in range(draw(st.integers(1, max_layers)))
    ]
    return Placement(rows, cluster, experts)


def _draw_load(draw, placement, tokens):
    return [
        [draw(tokens) if placement.replica_count[x, e] else 0 for e in range(placement.num_experts)]
        for x in range(placement.num_layers)
    ]


@st.composite
def cases(draw, tokens=TOKENS, scales=(1.0, 1.0, 1e-9, 1e12), **options):
    """Draw (load [layers][experts], placement); every expert with load has a slot."""
    placement = draw(placements(**options))
    scale = draw(st.sampled_from(scales))
    return [[x * scale for x in row] for row in _draw_load(draw, placement, tokens)], placement


@st.composite
def sourced(draw):
    """Draw (source_load [ranks, layers, experts] of whole tokens, placement) on one to three nodes."""
    placement = draw(placements(max_layers=1, nodes=(1, 2, 2, 3)))
    ranks = range(placement.cluster.num_ranks)
    return np.array([_draw_load(draw, placement, st.one_of(st.just(0), st.integers(0, 40))) for _ in ranks]), placement


def _least_time(load, row, cluster):
    """Least largest rank time of one layer, by a linear program over the tokens of each slot, in units of the whole load."""
    unit, speed = float(np.sum(load)), np.asarray(cluster.rank_speeds)
    if unit == 0.0:
        return 0.0
    slots = np.flatnonzero(row >= 0)
    experts = np.unique(row[slots])
    sums = np.column_stack([experts[:, np.newaxis] == row[slots], np.zeros(len(experts))]).astype(float)
    on_rank = np.arange(cluster.num_ranks)[:, np.newaxis] == cluster.rank_of_slot[slots]
    found = linprog(
        np.append(np.zeros(len(slots)), 1.0),
        A_ub=np.column_stack([on_rank, -speed]).astype(float),
        b_ub=np.zeros(cluster.num_ranks),
        A_eq=sums,
        b_eq=np.asarray(load, float)[experts] / unit,
        method="highs",
    )
    assert found.status == 0
    return found.fun * unit


def _least_cost(source, row, cluster, level, far=9.0):
    """Least cost of sending a layer's tokens [ranks, experts] within a level: 1 a token off its rank, ``far`` off its node."""
    slots, node = np.flatnonzero(row >= 0), np.asarray(cluster.node_of_rank)
    rank = cluster.rank_of_slot[slots]
    unit = float(source.sum())
    if unit == 0.0:
        return 0.0
    pairs = list(itertools.product(range(cluster.num_ranks), range(len(slots))))
    cost = [0.0 if i == rank[s] else 1.0 if node[i] == node[rank[s]] else far for i, s in pairs]
    experts = np.unique(row[slots])
    sums = [[float(i == r and row[slots[s]] == e) for i, s in pairs] for r in range(cluster.num_ranks) for e in experts]
    loads = [[float(rank[s] == r) for _, s in pairs] for r in range(cluster.num_ranks)]
    most = level * (1 + 1e-9) * np.asarray(cluster.rank_speeds) / unit
    found = linprog(cost, A_ub=loads, b_ub=most, A_eq=sums, b_eq=source[:, experts].ravel() / unit, method="highs")
    assert found.status == 0
    return found.fun * unit


def _sum_by_expert(placement, values):
    """Add up values [layers][slots] over each expert's slots, without rounding on the way."""
    rows = zip(placement.expert_of_slot.tolist(), np.asarray(values).tolist(), strict=True)
    experts = range(placement.num_experts)
    return np.array(
        [[math.fsum(v for v, held in zip(got, row, strict=True) if held == e) for e in experts] for row, got in rows]
    )


def _sum_by_rank(placement, values):
    ranks, of_slot = range(placement.cluster.num_ranks), placement.cluster.rank_of_slot.tolist()
    return np.array(
        [[math.fsum(v for v, r in zip(got, of_slot, strict=True) if r == rank) for rank in ranks] for got in values.tolist()]
    )


def _recounted_level(load, placement, tight):
    """What sets of ranks prove: the tokens of experts all of whose slots are theirs, over their speed."""
    of_slot, speed = placement.cluster.rank_of_slot.tolist(), placement.cluster.rank_speeds
    levels = []
    for row, layer_load, marked in zip(placement.expert_of_slot.tolist(), np.asarray(load).tolist(), tight, strict=True):
        free = {e for s, e in enumerate(row) if not marked[of_slot[s]]}
        held = math.fsum(x for e, x in enumerate(layer_load) if e not in free)
        levels.append(held / math.fsum(v for v, is_tight in zip(speed, marked, strict=True) if is_tight))
    return np.array(levels)


def _assert_sound(load, placement, found, least=0.0):
    """What holds for every split: tokens add up, nothing where nothing may be, figures are what they say, and the proof."""
    load, slots, cluster = np.asarray(load, float), placement.expert_of_slot, placement.cluster
    assert found.placement is placement
    np.testing.assert_array_equal(found.load, load)
    np.testing.assert_allclose(_sum_by_expert(placement, found.tokens), load, rtol=1e-12, atol=least)
    assert (found.tokens >= 0.0).all()
    assert (found.rank_load >= 0.0).all()
    is_off = (slots < 0) | ~np.asarray(cluster.alive)[cluster.rank_of_slot]
    assert (found.tokens[is_off] == 0.0).all()
    assert (found.shares[is_off] == 0.0).all()
    assert (found.shares >= 0.0).all()
    np.testing.assert_allclose(_sum_by_expert(placement, found.shares), placement.replica_count > 0, rtol=1e-12)
    whole = load.sum(axis=1, keepdims=True)
    on_rank = _sum_by_rank(placement, found.tokens)
    assert (np.abs(found.rank_load - on_rank) <= 1e-12 * whole + least).all()
    assert found.largest.tolist() == (found.rank_load / cluster.rank_speeds).max(axis=1).tolist()
    speed_up = sum(v for v, up in zip(cluster.rank_speeds, cluster.alive, strict=True) if up)
    np.testing.assert_allclose(found.ideal, load.sum(axis=1) / speed_up, rtol=1e-12, atol=least)
    assert (found.gap >= 0.0).all()
    assert (found.bound <= found.largest).all()
    np.testing.assert_allclose(found.bound, _recounted_level(load, placement, found.tight), rtol=1e-12, atol=least)
    np.testing.assert_allclose(found.bound, proven_level(load, placement, found.tight), rtol=1e-12, atol=least)


def _bytes(found):
    names = ("shares", "tokens", "rank_load", "largest", "ideal", "bound", "gap", "tight")
    return [getattr(found, name).tobytes() for name in names]


@given(cases())
def test_no_split_ends_sooner(drawn):
    """A linear program finds the same time; tokens add up, figures and proof hold."""
    load, placement = drawn
    found = dispatch(load, placement)
    _assert_sound(load, placement, found)
    assert (found.gap <= 1e-9).all()
    for x, row in enumerate(placement.expert_of_slot):
        assert found.largest[x] == pytest.approx(_least_time(load[x], row, placement.cluster), rel=1e-6, abs=0.0)


@given(cases())
def test_never_worse_than_equal_shares(drawn):
    """No layer ends later than with as many tokens on each replica of an expert."""
    load, placement = drawn
    found = dispatch(load, placement)
    assert (found.largest <= placement.rank_time(load).max(axis=1) * (1 + 1e-12)).all()
    assert (found.largest >= found.ideal * (1 - 1e-12)).all()


@given(cases(tokens=UNLIKE_TOKENS, speeds=UNLIKE_SPEEDS, scales=(1.0,)))
def test_unlike_loads_and_speeds(drawn):
    """Experts 15 decades apart and more, on ranks 6 decades apart, are split as exactly."""
    load, placement = drawn
    found = dispatch(load, placement)
    _assert_sound(load, placement, found, least=1e3 * LEAST)
    is_normal = found.ideal > 1e-300
    assert (found.gap[is_normal] <= 1e-9).all()


@pytest.mark.parametrize("cluster", [Cluster(4, 3), Cluster(4, 3, rank_speeds=[1e-3, 1.0, 2.0, 1e3])])
@pytest.mark.parametrize(
    "load",
    [
        [1e300 / 16, 1e300 / 8, 0.0, 1.0, 1e-300, 0.0],
        [1e296] * 6,
        [1e-300] * 6,
        [1e15, 1.0, 1.0, 1.0, 1.0, 1.0],
        [1e15, 1e-15, 1e8, 3.0, 1e-3, 0.0],
        [0.0, 0.0, 0.0, 7e9, 0.0, 0.0],
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    ],
)
def test_extreme_loads(cluster, load):
    """Totals near the largest and least numbers, and one expert with everything, leave no gap."""
    placement = Placement([[0, 1, 2, 0, 3, 4, 0, 5, 3, 1, 4, 5]], cluster, 6)
    if max(load) > 1e297 and min(cluster.rank_speeds) < 1.0:
        load = [x * 1e-3 for x in load]
    found = dispatch([load], placement)
    _assert_sound([load], placement, found)
    assert found.gap[0] <= 1e-12


def test_a_hot_expert_is_on_all_ranks_in_proportion_to_their_speed():
    """With one expert alone on every rank, each gets its speed's part of it."""
    speeds = [1e-3, 0.5, 1.0, 1e3]
    found = dispatch([[1e9]], Placement([[0] * 4], Cluster(4, 1, rank_speeds=speeds), 1))
    np.testing.assert_allclose(found.shares[0], np.array(speeds) / sum(speeds), rtol=1e-12)
    assert found.gap[0] <= 1e-12
    assert found.balancedness == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("least", [1, 2, 3, 7, 1000])
def test_the_least_numbers_there_are(least):
    """A few of the least numbers add up too; what they cannot express is all they miss."""
    placement = Placement([[0, 1, 0, 2, 0, 2]], Cluster(3, 2), 3)
    load = [[least * LEAST, 0.0, LEAST]]
    found = dispatch(load, placement)
    _assert_sound(load, placement, found, least=2 * LEAST)
    assert found.largest[0] <= found.bound[0] + 3 * LEAST


def test_a_batch_of_nothing():
    """A valid split: even shares, no tokens, no time, no gap, perfectly balanced."""
    placement = Placement([[0, 1, 0, -1, 0, 2], [2, 2, 1, 0, -1, -1]], Cluster(3, 2), 4)
    found = dispatch(np.zeros((2, 4), np.int64), placement)
    _assert_sound(np.zeros((2, 4)), placement, found)
    assert found.shares.tolist() == [[1 / 3, 1.0, 1 / 3, 0.0, 1 / 3, 1.0], [0.5, 0.5, 1.0, 1.0, 0.0, 0.0]]
    for name in ("tokens", "rank_load", "largest", "ideal", "bound", "gap"):
        assert not getattr(found, name).any()
    assert found.whole_tokens.tolist() == [[0] * 6] * 2
    assert found.balancedness == found.worst_layer == found.fifth_percentile == 1.0


def test_one_rank_takes_everything():
    """There is no choice, and the mean is the bound; the first of two slots of an expert gets all."""
    found = dispatch([[3, 4, 0]], Placement([[0, 1, 1, -1]], Cluster(1, 4, rank_speeds=[2.0]), 3))
    assert found.tokens.tolist() == [[3.0, 4.0, 0.0, 0.0]]
    assert found.shares.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert (found.largest, found.ideal, found.bound, found.gap) == (3.5, 3.5, 3.5, 0.0)
    assert found.tight.tolist() == [[True]]


def test_an_expert_twice_on_its_only_rank():
    """Its tokens are all on the first slot, none dropped."""
    found = dispatch([[6, 1, 4]], Placement([[0, 0, 1, 2]], Cluster(2, 2), 3))
    assert found.tokens.tolist() == [[6.0, 0.0, 1.0, 4.0]]
    assert found.rank_load.tolist() == [[6.0, 5.0]]
    assert found.bound.tolist() == [6.0]


def test_a_rank_that_is_down_serves_nothing():
    """A placement that still has experts there is refused, whether they have load or not."""
    for load in ([6, 1, 0], [6, 1, 3], [0, 1, 0]):
        with pytest.raises(InvalidPlacementError, match="a rank that is down holds experts"):
            dispatch([load], Placement([[0, 1, 0, 2]], Cluster(2, 2, alive=[True, False]), 3))
    found = dispatch([[6, 1, 0]], Placement([[0, 1, -1, -1]], Cluster(2, 2, alive=[True, False]), 3))
    assert found.rank_load.tolist() == [[7.0, 0.0]]
    assert found.bound.tolist() == [7.0]


@pytest.mark.compiled
@pytest.mark.parametrize("speeds", [(), (1.0, 0.9, 1.1, 1.0, 0.5, 2.0, 1.0, 1.3)])
@pytest.mark.parametrize("slots", [4, 5, 6, 9])
def test_recorded_loads(example, slots, speeds):
    """Every fifth window and seventh layer of the load that ships, on the plan for the window before: as a program finds."""
    cluster = Cluster(8, slots, rank_speeds=speeds)
    for window in range(5, example.num_steps, 5):
        load = example.load[window, ::7]
        placement = plan(example.load[window - 1, ::7], cluster, effort="fast").placement
        found = dispatch(load, placement)
        _assert_sound(load, placement, found)
        assert (found.gap <= 1e-9).all()
        assert (found.largest <= placement.rank_time(load).max(axis=1) * (1 + 1e-12)).all()
        for x, row in enumerate(placement.expert_of_slot):
            assert found.largest[x] == pytest.approx(_least_time(load[x], row, cluster), rel=1e-6)


class TestDeterminism:
    """A pure function, byte for byte."""

    @given(cases(tokens=WHOLE, scales=(1,)))
    @settings(max_examples=50)
    def test_however_the_load_is_given(self, drawn):
        """Lists, integers, floats, either order of memory, strides, steps to add up and traces give the same bytes."""
        load, placement = drawn
        whole = np.array(load, np.int64)
        expected = _bytes(dispatch(load, placement))
        wide = np.zeros((whole.shape[0] * 2, whole.shape[1] * 3))
        wide[::2, ::3] = whole
        others = [
            whole,
            whole.astype(np.int32),
            whole.astype(np.float64),
            np.asfortranarray(whole, np.float64),
            wide[::2, ::3],
            whole[np.newaxis],
            np.stack([whole // 2, whole - whole // 2]),
            LoadTrace(whole),
        ]
        for other in others:
            assert _bytes(dispatch(other, placement)) == expected

    @given(cases(max_layers=4), st.randoms(use_true_random=False))
    @settings(max_examples=50)
    def test_layers_stand_alone(self, drawn, random):
        """Layers in another order give the same rows in that order, and a layer alone the same row."""
        load, placement = drawn
        order = random.sample(range(len(load)), len(load))
        shuffled = Placement(placement.expert_of_slot[order], placement.cluster, placement.num_experts)
        found, again = dispatch(load, placement), dispatch([load[x] for x in order], shuffled)
        for name in ("shares", "tokens", "rank_load", "largest", "ideal", "bound", "gap", "tight"):
            assert getattr(found, name)[order].tobytes() == getattr(again, name).tobytes()

    @given(cases(), st.integers(-40, 40))
    @settings(max_examples=50)
    def test_powers_of_two_scale_exactly(self, drawn, power):
        """Tokens and times are multiplied to the last bit; shares, gap and proof stay."""
        load, placement = drawn
        found = dispatch(load, placement)
        scaled = dispatch([[x * 2.0**power for x in row] for row in load], placement)
        for name in ("tokens", "rank_load", "largest", "ideal", "bound"):
            assert (getattr(found, name) * 2.0**power).tolist() == getattr(scaled, name).tolist()
        for name in ("shares", "gap", "tight"):
            assert getattr(found, name).tobytes() == getattr(scaled, name).tobytes()

    def test_what_was_given_is_left_as_it_was(self):
        """The load is read, and kept as a copy of its own that cannot be written."""
        load = np.array([[6.0, 1.0, 4.0]])
        placement = Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)
        found = dispatch(load, placement)
        assert load.tolist() == [[6.0, 1.0, 4.0]]
        load[0, 0] = 100.0
        assert found.load.tolist() == [[6.0, 1.0, 4.0]]
        assert not found.load.flags.writeable


class TestWholeTokens:
    """Rounded to whole tokens."""

    @given(cases(tokens=WHOLE, scales=(1, 1, 1000)))
    def test_they_add_up(self, drawn):
        """Exactly to every expert's load, each within one of what it rounds, none where nothing is held."""
        load, placement = drawn
        found = dispatch(load, placement)
        whole = found.whole_tokens
        assert whole.dtype == np.int64
        assert _sum_by_expert(placement, whole).tolist() == load
        assert (np.abs(whole - found.tokens) < 1.0 + 1e-9).all()
        assert (whole[placement.expert_of_slot < 0] == 0).all()
        assert (whole >= 0).all()

    def test_the_largest_that_is_whole(self):
        """2**40 tokens of an expert are rounded, one more is refused, though it can be split."""
        placement = Placement([[0, 1, 0, -1]], Cluster(2, 2), 2)
        assert dispatch([[2**40, 3]], placement).whole_tokens.sum() == 2**40 + 3
        found = dispatch([[2**40 + 1, 3]], placement)
        with pytest.raises(ArgumentError, match=r"it must be a whole number in 0\.\.2\*\*40"):
            _ = found.whole_tokens

    def test_parts_of_tokens_are_refused(self):
        """Load of half a token cannot be whole."""
        found = dispatch([[6.5, 3]], Placement([[0, 1, 0, -1]], Cluster(2, 2), 2))
        with pytest.raises(ArgumentError, match=r"load\[0, 0\] is 6.5"):
            _ = found.whole_tokens


class TestSources:
    """Where routers ran: of all optimal splits, one whose tokens stay near."""

    @given(sourced())
    def test_still_optimal(self, drawn):
        """As soon as the split that knows no sources, and no token lost."""
        source, placement = drawn
        load = source.sum(axis=0)
        found = dispatch(load, placement, source_load=source)
        _assert_sound(load, placement, found)
        assert (found.largest <= found.bound * (1 + 1e-9)).all()
        np.testing.assert_allclose(found.bound, dispatch(load, placement).bound, rtol=1e-9)

    @given(sourced())
    def test_shares_of_sources(self, drawn):
        """Each source's shares add up to 1 for every expert with a slot, their tokens to the slots'; crossing is counted."""
        source, placement = drawn
        found = dispatch(source.sum(axis=0), placement, source_load=source)
        slots, cluster = placement.expert_of_slot, placement.cluster
        for shares in found.source_shares:
            assert (shares >= 0.0).all()
            assert (shares[slots < 0] == 0.0).all()
            np.testing.assert_allclose(_sum_by_expert(placement, shares), placement.replica_count > 0, rtol=1e-9)
        sent = found.source_shares * np.where(slots >= 0, source[:, [0], np.maximum(slots[0], 0)][:, np.newaxis], 0)
        np.testing.assert_allclose(sent.sum(axis=0), found.tokens, rtol=1e-9, atol=1e-9 * source.sum())
        node = np.asarray(cluster.node_of_rank)
        leaves = node[:, np.newaxis] != node[cluster.rank_of_slot]
        assert found.crossing[0] == pytest.approx((sent[:, 0] * leaves).sum(), abs=1e-9 * (1 + source.sum()))

    @given(sourced())
    @settings(max_examples=80)
    def test_as_near_as_a_program_finds(self, drawn):
        """A linear program over the tokens of every source to every slot finds no nearer split that ends as soon.

        Leaving the node costs 9 times what leaving the rank does. With up to 6 ranks no more tokens cross than under equal
        treatment of all sources: to spare one rank's tokens the way, a ring of more than 9 ranks would have to shift for one
        that crosses.
        """
        source, placement = drawn
        found = dispatch(source.sum(axis=0), placement, source_load=source)
        row, cluster = placement.expert_of_slot[0], placement.cluster
        node = np.asarray(cluster.node_of_rank)
        sent = found.source_shares[:, 0] * np.where(row >= 0, source[:, 0, np.maximum(row, 0)], 0)
        off_rank = sent[np.arange(cluster.num_ranks)[:, np.newaxis] != cluster.rank_of_slot].sum()
        off_node = sent[node[:, np.newaxis] != node[cluster.rank_of_slot]].sum()
        least = _least_cost(source[:, 0], row, cluster, found.bound[0])
        assert off_rank + 8.0 * off_node == pytest.approx(least, rel=1e-6, abs=1e-6 * (1 + source.sum()))
        assert found.crossing[0] <= found.crossing_evenly[0] + 1e-6 * (1 + source.sum())

    def test_without_sources_nothing_is_said_of_them(self):
        """No shares by source, no crossing."""
        found = dispatch([[6, 1, 4]], Placement([[0, 1, 0, 2]], Cluster(2, 2), 3))
        assert found.source_shares is found.crossing is found.crossing_evenly is None

    @given(sourced(), st.data())
    @settings(max_examples=60)
    def test_with_shares_before(self, drawn, data):
        """Both wishes together: still optimal, and as near as with the first alone."""
        source, placement = drawn
        load = source.sum(axis=0)
        before = dispatch(_draw_load(data.draw, placement, WHOLE), placement).shares
        near = dispatch(load, placement, source_load=source)
        found = dispatch(load, placement, source_load=source, previous=before)
        _assert_sound(load, placement, found)
        assert (found.largest <= found.bound * (1 + 1e-9)).all()
        assert found.crossing[0] <= near.crossing[0] + near.crossing_evenly[0] * 1e-3 + 1e-6 * (1 + source.sum())

    def test_unlike_speeds(self):
        """Ranks six decades apart in speed: the slowest is kept as exactly as the fastest."""
        speeds = [1e-3, 1.0, 1e3]
        placement = Placement([[0, 1, 1, 2, 2, 0]], Cluster(3, 2, rank_speeds=speeds), 3)
        source = np.random.default_rng(3).integers(0, 10_000, (3, 1, 3))
        found = dispatch(source.sum(axis=0), placement, source_load=source)
        _assert_sound(source.sum(axis=0), placement, found)
        assert found.largest[0] <= found.bound[0] * (1 + 1e-9)


class TestBefore:
    """Shares of the batch before: of all optimal splits, one that changes least."""

    @given(cases(tokens=WHOLE, scales=(1,)), st.data())
    def test_optimal_and_no_more_changed_than_without(self, drawn, data):
        """As soon as without the wish, and no more tokens elsewhere."""
        load, placement = drawn
        before = dispatch(_draw_load(data.draw, placement, WHOLE), placement).shares
        plain, found = dispatch(load, placement), dispatch(load, placement, previous=before)
        _assert_sound(load, placement, found)
        assert (found.largest <= found.bound * (1 + 1e-9)).all()
        kept = before * np.where(placement.expert_of_slot >= 0, 1.0, 0.0)
        kept *= np.take_along_axis(np.array(load, float), np.maximum(placement.expert_of_slot, 0), axis=1)
        changed, least = np.abs(found.tokens - kept).sum(axis=1), np.abs(plain.tokens - kept).sum(axis=1)
        assert (changed <= least + 1e-6 * (1.0 + np.sum(load, axis=1))).all()

    @given(cases(tokens=WHOLE, scales=(1,)))
    @settings(max_examples=50)
    def test_the_same_batch_again_stays(self, drawn):
        """What is optimal already is kept."""
        load, placement = drawn
        plain = dispatch(load, placement)
        again = dispatch(load, placement, previous=plain.shares)
        np.testing.assert_allclose(again.tokens, plain.tokens, rtol=0.0, atol=1e-6 * (1.0 + np.sum(load)))


class TestProvenLevel:
    """What a set of ranks proves."""

    @given(cases(), st.data())
    def test_no_set_proves_more_than_the_split_reaches(self, drawn, data):
        """Any set of ranks, counted anew, stays at or below the time of the slowest rank."""
        load, placement = drawn
        marks = st.lists(st.booleans(), min_size=placement.cluster.num_ranks, max_size=placement.cluster.num_ranks).filter(any)
        tight = [data.draw(marks) for _ in load]
        level = proven_level(load, placement, tight)
        np.testing.assert_allclose(level, _recounted_level(load, placement, tight), rtol=1e-12)
        assert (level <= dispatch(load, placement).largest * (1 + 1e-12)).all()

    def test_no_rank_proves_nothing(self):
        """An empty set has no tokens and no speed: level 0."""
        placement = Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)
        assert proven_level([[6, 1, 4]], placement, [[False, False]]).tolist() == [0.0]

    @pytest.mark.parametrize("tight", [[True, True], [[True]], [[True, True, True]], [[True, True]] * 2])
    def test_wrong_shapes_are_refused(self, tight):
        """One mark a layer and rank."""
        with pytest.raises(ArgumentError, match="tight"):
            proven_level([[6, 1, 4]], Placement([[0, 1, 0, 2]], Cluster(2, 2), 3), tight)


def test_figures_over_layers():
    """Balancedness is the sum of ideal over largest times; the worst layer and the low percentile count layers with load."""
    placement = Placement([[0, 1, 2, 3]] * 3, Cluster(2, 2), 4)
    found = dispatch([[3, 1, 2, 2], [6, 2, 0, 0], [0, 0, 0, 0]], placement)
    assert found.largest.tolist() == [4.0, 8.0, 0.0]
    assert found.ideal.tolist() == [4.0, 4.0, 0.0]
    assert found.balancedness == 8 / 12
    assert found.worst_layer == 0.5
    assert found.fifth_percentile == pytest.approx(0.525)


HERE = Placement([[0, 1, 0, 2], [0, 1, 0, 1]], Cluster(2, 2), 3)
LOAD = [[6, 1, 4], [3, 3, 0]]


def _sources():
    return np.array([[[6, 0, 1], [3, 0, 0]], [[0, 1, 3], [0, 3, 0]]])


def test_an_expert_with_load_and_no_slot():
    """Named by layer and number, with its tokens and how many more there are."""
    with pytest.raises(
        InvalidPlacementError, match=r"layer 1: expert 2 has 5 tokens and no slot \(1 such\).*no token is dropped"
    ):
        dispatch([[6, 1, 4], [3, 3, 5]], HERE)


@pytest.mark.parametrize(
    ("load", "found"),
    [
        ([[6, 1, 4]], "1 layers of 3 experts"),
        ([[6, 1], [3, 3]], "2 layers of 2 experts"),
        ([6, 1, 4], "shape"),
        ([[6, 1, np.nan], [3, 3, 0]], "nan"),
        ([[6, 1, np.inf], [3, 3, 0]], "inf"),
        ([[6, 1, -4], [3, 3, 0]], "-4"),
        ([["a", "b", "c"], ["a", "b", "c"]], "load"),
        ([[1e300, 1e300, 1e300], [3, 3, 0]], r"at most 1e\+300"),
    ],
)
def test_bad_loads(load, found):
    """Refused with what was found."""
    with pytest.raises(ArgumentError, match=found):
        dispatch(load, HERE)


def test_a_time_that_floats_cannot_hold():
    """A slow rank's time counts, not the tokens alone."""
    with pytest.raises(ArgumentError, match="scale the load or the speeds"):
        dispatch([[1e299]], Placement([[0, 0]], Cluster(2, 1, rank_speeds=[1.0, 1e-3]), 1))


@pytest.mark.parametrize("placement", [[[0, 1, 0, 2]], None, np.zeros((1, 4), np.int64)])
def test_what_is_no_placement(placement):
    """Refused by its type."""
    with pytest.raises(ArgumentError, match="it must be a Placement"):
        dispatch([[6, 1, 4]], placement)


def _changed(at, value):
    source = _sources().astype(float)
    source[at] = value
    return source


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (_sources()[:1], "shape"),
        (_sources()[:, :1], "shape"),
        (_sources()[0], "shape"),
        (_changed((0, 0, 0), 5), r"layer 0, expert 0: source_load adds up to 5.*load of 6"),
        (_changed((1, 1, 1), 4), r"layer 1, expert 1: source_load adds up to 4.*load of 3"),
        (_changed((0, 0, 0), -1), "-1"),
        (_changed((0, 0, 0), np.nan), "nan"),
        (_changed((0, 0, 0), np.inf), "inf"),
    ],
)
def test_bad_sources(source, found):
    """Refused with what was found, and where."""
    assert dispatch(LOAD, HERE, source_load=_sources()).gap.max() <= 1e-9
    with pytest.raises(ArgumentError, match=found):
        dispatch(LOAD, HERE, source_load=source)


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ([[1, 1, 0, 1]], "shape"),
        ([[1, 1, 0], [1, 1, 0]], "shape"),
        ([[1, 1, 0, 1], [1, 1, 0, np.nan]], "nan"),
        ([[1, 1, 0, 1], [1, 1, 0, -0.5]], "-0.5"),
    ],
)
def test_bad_shares_before(before, found):
    """Refused with what was found."""
    with pytest.raises(ArgumentError, match=found):
        dispatch(LOAD, HERE, previous=before)


@given(cases(tokens=WHOLE, scales=(1,)), st.data())
@settings(max_examples=40)
def test_any_expert_without_a_slot_is_found(drawn, data):
    """Wherever load is put that no slot serves, that layer and expert are named."""
    load, placement = drawn
    assume(placement.lost_experts)
    layer, expert = data.draw(st.sampled_from(placement.lost_experts))
    load[layer][expert] = 12
    with pytest.raises(InvalidPlacementError, match=f"layer {layer}: expert {expert} has 12 tokens and no slot"):
        dispatch(load, placement)
