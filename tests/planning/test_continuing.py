"""plan(previous=...): elastic changes, locality, least replicas and their price, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters import random_cluster
from equipoise import Cluster, Constraints, LoadTrace, MoveBudget, Placement, RankCost, dispatch, plan
from equipoise.errors import ArgumentError, NotSupportedError

SEEDS = st.integers(0, 2**32 - 1)
BUDGETS = st.sampled_from([None, MoveBudget(per_layer=2), MoveBudget(per_layer=9), MoveBudget(total=4)])


def _random_case(seed):
    """Draw anything as previous: duplicates, empty slots, experts nowhere, another cluster; a cluster now, and a load."""
    rng = np.random.default_rng(seed)
    experts, num_nodes = int(rng.integers(1, 8)), int(rng.integers(1, 4))
    before, now = (random_cluster(rng, experts, num_nodes) for _ in range(2))
    previous = Placement(rng.integers(-1, experts, (2, before.num_slots)), before, experts)
    return previous, now, np.floor(rng.random((2, experts)) ** 3 * 1000)


def _pairs(placement, x):
    ranks = placement.cluster.rank_of_slot.tolist()
    return [(r, e) for r, e in zip(ranks, placement.expert_of_slot[x].tolist(), strict=True) if e >= 0]


def _received(placement, previous, x):
    return len(set(_pairs(placement, x)) - set(_pairs(previous, x)))


def _largest(placement, load, x):
    """Time of the slowest rank under an even split, exactly."""
    pairs, tokens = _pairs(placement, x), {}
    for r, e in pairs:
        count = sum(held == e for _, held in pairs)
        tokens[r] = tokens.get(r, 0) + Fraction(load[x, e]) / count
    return max(t / Fraction(placement.cluster.rank_speeds[r]) for r, t in tokens.items())


def _assert_sound(found, previous, load, budget):
    """Strict, within the budget, moves counted against what ranks held, figures those of the placement."""
    found.placement.validate()
    for x in range(len(load)):
        assert found.moves[x] == _received(found.placement, previous, x)
        if found.dispatch == "equal":
            assert found.largest[x] == pytest.approx(float(_largest(found.placement, load, x)), rel=1e-12)
    assert (found.bound <= found.largest).all()
    assert (found.largest >= found.ideal * (1 - 1e-12)).all()
    if budget is not None and budget.per_layer is not None:
        assert found.moves.max() <= budget.per_layer
    if budget is not None and budget.total is not None:
        assert found.moves.sum() <= budget.total


def _planned(load, cluster, previous, budget, **options):
    """Plan, or check that the moves asked for in the refusal do, and are all that is missing."""
    try:
        return plan(load, cluster, previous=previous, budget=budget, **options)
    except ArgumentError as error:
        words = error.next_step.split()
        assert words[0] == "allow"
        more = MoveBudget(per_layer=int(words[1])) if budget.total is None else MoveBudget(total=int(words[1]))
        plan(load, cluster, previous=previous, budget=more, **options)
        return None


@given(SEEDS, BUDGETS)
def test_any_old_placement_on_any_new_cluster(seed, budget):
    """Accepted, or refused for a budget that does not serve every expert."""
    previous, cluster, load = _random_case(seed)
    found = _planned(load, cluster, previous, budget)
    if found is not None:
        _assert_sound(found, previous, load, budget)


@given(SEEDS, BUDGETS)
@settings(max_examples=50)
def test_optimal_dispatch(seed, budget):
    """The same where tokens are split optimally; the figures are those of that split."""
    previous, cluster, load = _random_case(seed)
    found = _planned(load, cluster, previous, budget, dispatch="optimal")
    if found is not None:
        _assert_sound(found, previous, load, budget)
        np.testing.assert_allclose(found.largest, dispatch(load, found.placement).largest, rtol=1e-6)


@given(SEEDS, BUDGETS)
@settings(max_examples=60)
def test_strict_locality(seed, budget):
    """Groups stay on the nodes where they are; no layer gets worse."""
    rng = np.random.default_rng(seed)
    num_nodes, ranks = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    groups, size = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    room = min(groups * size, -(-groups * size // ranks) + int(rng.integers(0, 3)))
    cluster, groups = Cluster(num_nodes * ranks, room, num_nodes), groups * num_nodes
    experts = groups * size
    before, load = (np.floor(rng.random((2, experts)) ** 3 * 1000) for _ in range(2))
    rules = {"num_groups": groups, "locality": "strict"}
    previous = plan(before, cluster, **rules).placement
    found = plan(load, cluster, previous=previous, budget=budget, **rules)
    _assert_sound(found, previous, load, budget)
    for x in range(2):
        assert _largest(found.placement, load, x) <= _largest(previous, load, x) * (1 + Fraction(1, 10**12))
        homes = {(e * groups // experts, cluster.node_of_rank[r]) for r, e in _pairs(found.placement, x)}
        assert len(homes) == groups
        assert homes == {(g, int(n)) for g, n in enumerate(found.home_of_group[x])}
        if budget == MoveBudget(per_layer=2) and cluster.num_slots > 4:  # too few for the free plan, which has other homes
            assert homes == {(e * groups // experts, cluster.node_of_rank[r]) for r, e in _pairs(previous, x)}


@st.composite
def promises(draw):
    """Draw Constraints that ask for replicas."""
    hottest, spread = draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from(["ranks", "nodes"]))
    return Constraints(min_replicas=draw(st.integers(2, 3)), hottest=hottest, spread=spread)


def _assert_kept(found, load, constraints):
    """Every one of the hottest has its replicas, on ranks and nodes of their own."""
    cluster, num_experts = found.placement.cluster, load.shape[1]
    num_hot = next(n for n in range(num_experts + 1) if n >= constraints.hottest * num_experts - 1e-9)
    up = {cluster.node_of_rank[r] for r in range(cluster.num_ranks) if cluster.alive[r]}
    for x, row in enumerate(load.tolist()):
        hottest = sorted(range(num_experts), key=lambda e: (-row[e], e))[:num_hot]
        for e in hottest:
            ranks = {r for r, held in _pairs(found.placement, x) if held == e}
            assert len(ranks) >= constraints.min_replicas
            if constraints.spread == "nodes":
                assert len({cluster.node_of_rank[r] for r in ranks}) >= min(constraints.min_replicas, len(up))


@given(SEEDS, promises(), BUDGETS, st.booleans())
@settings(max_examples=200)
def test_least_replicas_are_kept_or_refused(seed, constraints, budget, from_nothing):
    """With a placement before and without; the price is told; moves are 0 where there was nothing to move from."""
    previous, cluster, load = _random_case(seed)
    options = {"constraints": constraints}
    try:
        if from_nothing:
            found = plan(load, cluster, **options)
        else:
            found = plan(load, cluster, previous=previous, budget=budget, **options)
    except ArgumentError as error:
        message = str(error)
        assert message.startswith(("min_replicas is ", "a budget of ")) or "finds no slot" in message
        return
    _assert_kept(found, load, constraints)
    found.placement.validate()
    if from_nothing:
        assert not found.moves.any()
        assert found.unconstrained_balancedness == pytest.approx(plan(load, cluster).balancedness, rel=1e-12)
    else:
        _assert_sound(found, previous, load, budget)
        free = plan(load, cluster, previous=previous, budget=budget).balancedness
        assert found.unconstrained_balancedness == pytest.approx(free, rel=1e-12)


@pytest.mark.compiled
def test_the_price_of_replicas():
    """The hottest tenth on two nodes costs little balance on real loads, and is 1 minus nothing where none are asked."""
    example = LoadTrace.example()
    cluster, load = Cluster(8, 5, 2), example.load[0].astype(float)
    constraints = Constraints(min_replicas=2, hottest=0.1, spread="nodes")
    found = plan(load, cluster, constraints=constraints)
    _assert_kept(found, load, constraints)
    assert found.unconstrained_balancedness == plan(load, cluster).balancedness
    assert 0.95 < found.balancedness <= found.unconstrained_balancedness + 0.005
    assert np.isnan(plan(load, cluster).unconstrained_balancedness)
    later = plan(example.load[1], cluster, previous=found.placement, max_moves=6, constraints=constraints)
    _assert_kept(later, example.load[1].astype(float), constraints)
    assert later.moves.max() <= 6


class TestElastic:
    """One rank after another, by hand."""

    load = np.array([[9.0, 5.0, 3.0, 2.0, 1.0, 1.0]])

    def test_dies_and_comes_back(self):
        """What is lost is received by others; the rank that comes back receives what it gets, and the rest stays."""
        whole = Cluster(4, 2)
        first = plan(self.load, whole).placement
        down = Cluster(4, 2, alive=[True, True, False, True])
        second = plan(self.load, down, previous=first, max_moves=2)
        _assert_sound(second, first, self.load, MoveBudget(per_layer=2))
        assert (second.placement.expert_of_slot[:, 4:6] == -1).all()
        third = plan(self.load, whole, previous=second.placement, max_moves=2)
        _assert_sound(third, second.placement, self.load, MoveBudget(per_layer=2))
        assert (third.largest <= second.largest).all()

    def test_added_and_removed(self):
        """More ranks hold more; fewer serve every expert."""
        first = plan(self.load, Cluster(3, 2)).placement
        more = plan(self.load, Cluster(5, 2), previous=first)
        _assert_sound(more, first, self.load, None)
        fewer = plan(self.load, Cluster(3, 2), previous=more.placement)
        _assert_sound(fewer, more.placement, self.load, None)

    def test_all_ranks_that_held_anything_are_gone(self):
        """Every expert is received."""
        first = Placement([[0, 1, 2, 3, 4, 5, -1, -1, -1, -1, -1, -1]], Cluster(4, 3), 6)
        found = plan(self.load, Cluster(4, 3, alive=[False, False, True, True]), previous=first)
        assert found.moves.tolist() == [(found.placement.expert_of_slot >= 0).sum()]
        assert found.placement.lost_experts == ()

    @pytest.mark.parametrize("load", [[0.0] * 4, [0.0, 7.0, 0.0, 0.0], [1e-300] * 4, [1e299, 1e298, 1e-300, 0.0]])
    def test_extreme_loads(self, load):
        """No load, all on one expert, next to none, next to all that floats hold."""
        previous = Placement([[0, 1, 2, 3, 0, 1]], Cluster(3, 2), 4)
        for options in ({}, {"max_moves": 2}, {"budget": MoveBudget(total=2, gain_per_move=0.01)}):
            found = plan([load], previous.cluster, previous=previous, **options)
            _assert_sound(found, previous, np.array([load]), None)
            assert found.largest[0] <= _largest(previous, np.array([load]), 0)

    def test_one_rank(self):
        """Nothing moves."""
        previous = Placement([[1, 0]], Cluster(1, 2), 2)
        found = plan([[3, 1]], previous.cluster, previous=previous)
        assert found.placement.expert_of_slot.tolist() == [[1, 0]]
        assert found.moves.tolist() == [0]


PREVIOUS = Placement([[0, 1, 2, 3]], Cluster(2, 2), 4)
BAD = [
    ({"previous": 3}, "previous is a int"),
    ({"previous": Placement([[0, 1, 2, 0]], Cluster(2, 2), 3)}, "previous has 1 layers of 3 experts"),
    ({"previous": Placement([[0, 1, 2, 3]] * 2, Cluster(2, 2), 4)}, "previous has 2 layers of 4 experts"),
    ({"previous": PREVIOUS, "max_moves": -1}, "max_moves is -1"),
    ({"previous": PREVIOUS, "max_moves": 1.5}, "max_moves is 1.5"),
    ({"previous": PREVIOUS, "budget": 3}, "budget is a int"),
    ({"previous": PREVIOUS, "budget": MoveBudget(), "max_moves": 3}, "budget and max_moves were given"),
    ({"previous": PREVIOUS, "num_threads": 0}, "num_threads is 0"),
    ({"previous": PREVIOUS, "max_moves": 1, "num_threads": 0}, "num_threads is 0"),
    ({"previous": PREVIOUS, "max_moves": 1, "effort": "most"}, "effort is 'most'"),
    ({"max_moves": 3}, "a budget without previous"),
    ({"budget": MoveBudget()}, "a budget without previous"),
    ({"constraints": Constraints(min_replicas=3)}, "min_replicas is 3 with 2 ranks that are up"),
    ({"constraints": Constraints(min_replicas=2)}, "min_replicas is 2 for 4 experts, which takes 8 slots of 4"),
    ({"previous": PREVIOUS, "constraints": Constraints(min_replicas=2)}, "min_replicas is 2 for 4 experts"),
]


@pytest.mark.parametrize(("change", "found"), BAD)
def test_bad_arguments_are_named(change, found):
    """The value found, the rule and the next step."""
    with pytest.raises(ArgumentError) as error:
        plan([[4, 3, 2, 1]], Cluster(2, 2), **change)
    assert str(error.value).startswith(found)
    assert error.value.rule
    assert error.value.next_step


ON_NODES = {"cluster": Cluster(2, 2, 2), "num_groups": 2}
NOT_YET = [
    ({"previous": PREVIOUS, "cost": RankCost(per_active=1.0)}, "a cost of active experts"),
    ({"previous": PREVIOUS, "forecast": "scenarios:2"}, "a forecast of several loads"),
    (
        {"previous": PREVIOUS, "constraints": Constraints(home_share=0.5), "locality": "soft", **ON_NODES},
        "locality soft",
    ),
    (
        {"previous": Placement([[0, 2, 1, 3]], Cluster(2, 2), 4), "locality": "strict", **ON_NODES},
        "previous has group 0 of layer 0 on nodes [0, 1]",
    ),
    ({"constraints": Constraints(min_replicas=2, hottest=0.1), "dispatch": "optimal"}, "min_replicas under optimal dispatch"),
    (
        {"constraints": Constraints(min_replicas=2, spread="nodes"), "locality": "strict", **ON_NODES},
        "replicas spread over nodes under strict locality",
    ),
]


@pytest.mark.parametrize(("change", "found"), NOT_YET)
def test_what_cannot_be_planned_from_a_placement_is_named(change, found):
    """Legal, and not carried out."""
    with pytest.raises(NotSupportedError) as error:
        plan(**{"load": [[[4, 3, 2, 1]], [[1, 2, 3, 4]]], "cluster": Cluster(2, 2), **change})
    assert str(error.value).startswith(found)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "rules", [{"max_moves": 1}, {"max_moves": 4}, {"budget": MoveBudget(total=9, gain_per_move=0.001)}, {}]
)
def test_under_optimal_dispatch_no_layer_ends_later_than_before(example, rules):
    """On the load planned for, whatever the budget; and no layer's moves are made for nothing."""
    for window in range(1, 12, 3):
        old = plan(example.load[window - 1], Cluster(8, 5)).placement
        before = dispatch(example.load[window], old).largest
        found = plan(example.load[window], Cluster(8, 5), previous=old, dispatch="optimal", **rules)
        assert (found.largest <= before * (1 + 1e-9)).all()
        assert (found.largest < before)[found.moves > 0].all()
