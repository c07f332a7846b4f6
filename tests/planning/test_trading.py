"""What moves buy: Pareto curves a layer and in total, which plan() keeps, and the knee's rule."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, Constraints, MoveBudget, Placement, plan
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.planning.trading import find_knee_of_moves, trade_off

CLUSTER = Cluster(num_ranks=4, slots_per_rank=4, num_nodes=2)
BUDGETS = (0, 1, 3, 6)


def _case(seed=3, layers=3, experts=12):
    """Return a load and a placement that was planned for another one."""
    rng = np.random.default_rng(seed)
    before, load = (rng.integers(1, 1000, (layers, experts)) ** 2 for _ in range(2))
    return load, plan(before, CLUSTER, effort="fast").placement


@pytest.fixture(scope="module")
def case():
    """Return one such case."""
    return _case()


@pytest.fixture(scope="module")
def found(case):
    """Return its curves under four budgets."""
    load, previous = case
    return trade_off(load, CLUSTER, previous, budgets=BUDGETS)


def test_layers_have_what_plans_reach(case, found):
    """Each point of a layer is what plan() finds under one of the budgets, and no such plan is better than the curve."""
    load, previous = case
    times = previous.layer_times(load)[0]
    plans = [plan(load, CLUSTER, previous=previous, max_moves=budget) for budget in BUDGETS]
    for x, layer in enumerate(found.layers):
        reached = {(0, times[x])} | {(int(made.moves[x]), made.largest[x]) for made in plans}
        points = list(zip(layer.moves.tolist(), layer.largest.tolist(), strict=True))
        assert set(points) <= reached
        assert (np.diff(layer.moves) > 0).all()
        assert (np.diff(layer.largest) < 0).all()
        for moves, largest in reached:
            assert any(m <= moves and t <= largest for m, t in points)
        assert np.array_equal(layer.balancedness, layer.ideal / layer.largest)
        assert layer.ideal == load[x].sum() / 4
    assert len(points) > 1


def _best_of_all(layers, total):
    """Return the least sum of times over all choices of one point a layer with ``total`` moves at most, by trying them."""
    choices = product(*(zip(layer.moves, layer.largest, strict=True) for layer in layers))
    return min(sum(time for _, time in choice) for choice in choices if sum(moves for moves, _ in choice) <= total)


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([4, 7, 12]))
@settings(max_examples=10)
def test_totals_are_shared_out_best(seed, layers, experts):
    """No other choice of the layers' points has as few moves and a smaller sum; the curve rises and falls strictly."""
    load, previous = _case(seed, layers, experts)
    curve = trade_off(load, CLUSTER, previous, budgets=BUDGETS, effort="fast")
    for row, total, largest in zip(curve.moves, curve.total_moves, curve.largest, strict=True):
        assert row.sum() == total
        assert np.isclose(largest.sum(), _best_of_all(curve.layers, total), rtol=1e-12)
    assert (np.diff(curve.total_moves) > 0).all()
    assert (np.diff(curve.largest.sum(axis=1)) < 0).all()


@pytest.mark.parametrize("dispatch", ["equal", pytest.param("optimal", marks=pytest.mark.compiled)])
def test_plan_keeps_what_the_curve_promises(case, dispatch):
    """A total budget of any point gives its balance, moves and layers."""
    load, previous = case
    curve = trade_off(load, CLUSTER, previous, dispatch=dispatch)
    assert len(curve.moves) > 4
    for point in (0, 1, curve.knee, len(curve.moves) - 1):
        budget = MoveBudget(total=int(curve.total_moves[point]))
        made = plan(load, CLUSTER, previous=previous, budget=budget, dispatch=dispatch)
        assert np.array_equal(made.moves, curve.moves[point])
        assert np.array_equal(made.largest, curve.largest[point])
        assert made.balancedness == curve.balancedness[point]
        assert made.worst_layer == curve.worst_layer[point]


def test_the_curve_starts_where_things_stand(case, found):
    """Without a move it is the previous placement itself; shares are of all slots."""
    load, previous = case
    assert found.total_moves[0] == 0
    assert np.isclose(found.balancedness[0], previous.balancedness(load), rtol=1e-12)
    assert found.replicas == 3 * 16
    assert np.array_equal(found.share_moved, found.total_moves / 48)
    assert np.array_equal(found.ideal, load.sum(axis=1) / 4)


def test_a_rank_that_is_down_costs_moves_first(case):
    """What only it held must be placed: that is where the curve begins."""
    load, previous = case
    down = Cluster(4, 4, 2, alive=[True, True, False, True])
    curve = trade_off(load, down, previous, budgets=[0, 4])
    alone = previous.expert_of_slot.reshape(3, 4, 4)
    lost = [sum(not (np.delete(row, 2, axis=0) == expert).any() for expert in range(12)) for row in alone]
    assert curve.moves[0].tolist() == lost
    assert sum(lost) > 0
    assert curve.replicas == 3 * 12
    made = plan(load, down, previous=previous, budget=MoveBudget(total=sum(lost)))
    assert np.array_equal(made.largest, trade_off(load, down, previous).largest[0])


@pytest.mark.compiled
def test_least_replicas_cost_moves_first(case):
    """So do replicas that are asked for."""
    load, previous = case
    curve = trade_off(load, CLUSTER, previous, constraints=Constraints(min_replicas=2, hottest=0.25))
    lacking = [sum(previous.replica_count[x, e] < 2 for e in np.argsort(-load[x], kind="stable")[:3]) for x in range(3)]
    assert curve.moves[0].tolist() == lacking
    assert sum(lacking) > 0


def test_within(found):
    """The last point with so many moves; the first where even that has more."""
    totals = found.total_moves.tolist()
    for point, total in enumerate(totals):
        assert found.within(total) == point
        assert found.within(total + 1) == (point + 1 if total + 1 in totals else point)
    assert found.within(10**6) == len(totals) - 1
    assert found.within(-1) == 0


@pytest.mark.parametrize(
    ("time", "moves", "knee"),
    [
        ([100], [0], 0),
        ([100, 80, 79], [0, 10, 20], 1),
        ([100, 99.5, 60], [0, 10, 20], 2),
        ([100, 95], [0, 10], 0),
        ([100, 100 / 1.1], [0, 10], 0),
        ([100, 90], [0, 10], 1),
        ([100, 90], [30, 40], 1),
        ([0.0], [0], 0),
    ],
)
def test_the_knee_by_hand(time, moves, knee):
    """Of 100 replicas: 10 moves must buy more than a tenth of balance, and a dear step may lead to one that pays."""
    assert find_knee_of_moves(np.array(time, np.float64), np.array(moves), 100) == knee
    assert find_knee_of_moves(7 * np.array(time, np.float64), 3 * np.array(moves), 300) == knee


def test_knees_are_the_most_balance_for_what_is_held_and_moved(found):
    """Over all points, in total and a layer; following the curve less far leaves the knee where it is."""
    time = found.largest.sum(axis=1)
    assert found.knee == int(np.argmax(1 / time / (48 + found.total_moves)))
    assert 0 < found.knee < len(time) - 1
    end = found.knee + 1
    assert find_knee_of_moves(time[:end], found.total_moves[:end], 48) == found.knee
    for layer in found.layers:
        assert layer.knee == int(np.argmax(1 / layer.largest / (16 + layer.moves)))


def test_threads_and_repeated_budgets_change_nothing(case, found):
    """Same bytes; budgets in any order."""
    load, previous = case
    again = trade_off(load, CLUSTER, previous, budgets=[6, 3, 0, 1, 3], num_threads=3)
    assert np.array_equal(again.moves, found.moves)
    assert np.array_equal(again.largest, found.largest)
    assert again.knee == found.knee


def test_a_layer_without_load_moves_nothing(case):
    """It has one point, and no balance to speak of; all layers so: one point in all."""
    load, previous = case
    idle = load.copy()
    idle[1] = 0
    curve = trade_off(idle, CLUSTER, previous, budgets=[0, 4])
    assert curve.layers[1].moves.tolist() == [0]
    assert np.isnan(curve.layers[1].balancedness).all()
    assert (curve.moves[:, 1] == 0).all()
    nothing = trade_off(0 * load, CLUSTER, previous, budgets=[0, 4])
    assert (nothing.total_moves.tolist(), nothing.balancedness.tolist(), nothing.knee) == ([0], [1.0], 0)


BAD = [
    ({"budgets": []}, "no budgets to try: there must be one at least"),
    ({"budgets": [0, -1]}, "a budget is -1: it must be an integer >= 0"),
    ({"budgets": [1.5]}, r"a budget is 1\.5"),
    ({"effort": "more"}, "effort is 'more'"),
    ({"dispatch": "hash"}, "dispatch is 'hash'"),
    ({"locality": "some"}, "locality is 'some'"),
    ({"num_groups": 5}, "5 groups of 12 experts"),
    ({"previous": "p.json"}, "previous is a str"),
    ({"previous": Placement([[0, 1, 2, 3]], Cluster(4, 1), 12)}, "previous has 1 layers of 12 experts"),
    ({"previous": Placement([[0, 1, 2, 3]] * 3, Cluster(4, 1), 4)}, "previous has 3 layers of 4 experts"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_input(case, given, message):
    """Value, rule and next step."""
    load, previous = case
    with pytest.raises(ArgumentError, match=message):
        trade_off(load, CLUSTER, **{"previous": previous, **given})


def test_soft_locality_is_refused(case):
    """As by plan()."""
    load, previous = case
    with pytest.raises(NotSupportedError, match="locality soft"):
        trade_off(load, CLUSTER, previous, num_groups=4, locality="soft")
