"""Plans for several scenarios: strict, bounded, never worse than the plan for the mean, the same for any threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from equipoise import Cluster, Placement, RankCost, plan
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.problem import make_problem
from equipoise.planning.scenarios import mean_load, plan_for_scenarios
from strategies import loads


@st.composite
def several(draw):
    """Draw (scenarios, cluster, groups, locality): rooms and speeds may differ, a rank may be down."""
    nodes = draw(st.sampled_from([1, 2]))
    num_ranks = nodes * draw(st.integers(1, 3))
    groups = 2 * nodes
    experts = groups * draw(st.integers(1, 2))
    least, most = -(-experts // num_ranks) + 1, experts // nodes
    room = draw(st.lists(st.integers(min(least, most), most), min_size=num_ranks, max_size=num_ranks))
    speed = draw(st.sampled_from([(), tuple(draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in range(num_ranks))]))
    down = draw(st.integers(-1, num_ranks - 1)) if least <= most else -1
    alive = [rank != down for rank in range(num_ranks)]
    layer = st.lists(loads, min_size=experts, max_size=experts)
    num_layers, count = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    scenarios = draw(st.lists(st.lists(layer, min_size=num_layers, max_size=num_layers), min_size=count, max_size=count))
    return np.array(scenarios, float), {"room": room, "speed": speed, "alive": alive, "nodes": nodes}, groups


def _problem(scenarios, shape, groups, locality):
    cluster = Cluster(len(shape["room"]), shape["room"], shape["nodes"], rank_speeds=shape["speed"], alive=shape["alive"])
    return make_problem(scenarios[0], cluster, groups, locality)


def _mean_largest(slots, problem, scenarios):
    placement = Placement(slots, problem.cluster, problem.num_experts)
    return np.mean([placement.rank_time(load).max(axis=1) for load in scenarios], axis=0)


@given(several(), st.sampled_from(["none", "strict"]), st.sampled_from(list(EFFORTS)))
@settings(max_examples=60)
def test_plans_are_strict_bounded_and_no_worse_than_for_the_mean(drawn, locality, effort):
    """Strict placements, groups at home, figures by definition, and no layer ends later than the plan for the mean."""
    scenarios, shape, groups = drawn
    try:
        problem = _problem(scenarios, shape, groups, locality)
    except ArgumentError:
        return  # too few slots are up
    found = plan_for_scenarios(problem, scenarios, effort)
    Placement(found.slots, problem.cluster, problem.num_experts).validate()
    np.testing.assert_allclose(found.largest, _mean_largest(found.slots, problem, scenarios), rtol=1e-12)
    assert (found.bound <= found.largest * (1 + 1e-9)).all()
    assert (found.bound >= mean_load(scenarios).sum(axis=1) / problem.everything.speed.sum() * (1 - 1e-9)).all()
    ordinary = plan(mean_load(scenarios), problem.cluster, num_groups=groups, locality=locality, effort=effort)
    started = _mean_largest(ordinary.placement.expert_of_slot, problem, scenarios)
    assert (found.largest <= started * (1 + 1e-12)).all()
    if problem.has_homes:
        node = np.asarray(problem.cluster.node_of_rank)[problem.cluster.rank_of_slot]
        for slots, home in zip(found.slots, np.repeat(found.home_of_group, problem.num_experts // groups, axis=1), strict=True):
            assert (home[slots[slots >= 0]] == node[slots >= 0]).all()


def test_between_the_bound_and_the_best_of_all_placements():
    """On tiny problems all strict placements are tried: none ends before the bound, and the plan is within 5 % on average."""
    rng = np.random.default_rng(8)
    ratios = []
    for _ in range(12):
        scenarios = np.floor(rng.random((3, 1, 5)) ** 2 * 50)
        found = plan_for_scenarios(make_problem(scenarios[0], Cluster(3, 2)), scenarios)
        each = [twins.strict_rank_loads([int(x) for x in load[0]], 3, 2) for load in scenarios]
        best = min(sum(max(ranks) for ranks in ranked) / 3 for ranked in zip(*each, strict=True))
        assert found.bound[0] <= float(best) * (1 + 1e-12)
        assert found.largest[0] >= float(best) * (1 - 1e-12)
        ratios.append(found.largest[0] / float(best))
    assert np.mean(ratios) < 1.05
    assert max(ratios) < 1.3


def test_the_bound_under_strict_locality_holds():
    """The same with groups whole on a node."""
    rng = np.random.default_rng(9)
    for _ in range(6):
        scenarios = np.floor(rng.random((2, 1, 4)) ** 2 * 50)
        found = plan_for_scenarios(make_problem(scenarios[0], Cluster(4, 2, 2), 2, "strict"), scenarios)
        each = [twins.strict_rank_loads([int(x) for x in load[0]], 4, 2, [0, 0, 1, 1], [0, 0, 1, 1]) for load in scenarios]
        best = min(sum(max(ranks) for ranks in ranked) / 2 for ranked in zip(*each, strict=True))
        assert found.bound[0] <= float(best) * (1 + 1e-12)
        assert found.largest[0] >= float(best) * (1 - 1e-12)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("copies", [1, 3])
def test_one_scenario_is_the_ordinary_problem(skewed, effort, copies):
    """One scenario, or the same several times: no layer ends later than the ordinary plan, and bounds are as high."""
    problem = make_problem(skewed, Cluster(8, 9))
    found = plan_for_scenarios(problem, np.stack([skewed] * copies), effort)
    ordinary = plan(skewed, problem.cluster, effort=effort)
    assert (found.largest <= ordinary.largest * (1 + 1e-12)).all()
    np.testing.assert_allclose(found.largest, _mean_largest(found.slots, problem, [skewed]), rtol=1e-12)
    assert (found.bound >= ordinary.bound * (1 - 1e-12)).all()


def _swinging(skewed, scenarios=5):
    rng = np.random.default_rng(1)
    return skewed * rng.uniform(0.3, 1.7, (scenarios, *skewed.shape))


@pytest.mark.parametrize("cluster", [Cluster(8, 9), Cluster(8, 9, 4), Cluster(4, [20, 18, 17, 16], rank_speeds=[1, 2, 1, 1])])
def test_threads_and_the_order_of_layers_change_nothing(skewed, cluster):
    """Any number of threads gives the same bytes, shuffled layers the same rows, shuffled."""
    scenarios = _swinging(skewed)
    locality = {"num_groups": 8, "locality": "strict"} if cluster.num_nodes > 1 else {}
    problem = make_problem(skewed, cluster, **locality)
    one = plan_for_scenarios(problem, scenarios)
    order = [3, 1, 5, 0, 4, 2]
    shuffled = plan_for_scenarios(problem, np.ascontiguousarray(scenarios[:, order]))
    for threads in (2, 5, 64):
        many = plan_for_scenarios(problem, scenarios, num_threads=threads)
        for name in ("slots", "largest", "bound", "home_of_group"):
            assert getattr(one, name).tobytes() == getattr(many, name).tobytes()
            assert getattr(one, name)[order].tobytes() == getattr(shuffled, name).tobytes()


def test_no_layer_is_worse_for_a_higher_effort(skewed):
    """Each effort goes on from the one below; what they gain over the plan for the mean is worth having."""
    scenarios = _swinging(skewed)
    for cluster in (Cluster(8, 9), Cluster(24, 3)):
        problem = make_problem(skewed, cluster)
        largest = [plan_for_scenarios(problem, scenarios, effort).largest for effort in EFFORTS]
        assert all((high <= low).all() for low, high in itertools.pairwise(largest))
        mean = plan(mean_load(scenarios), cluster, effort="best").placement.expert_of_slot
        assert largest[0].sum() < 0.97 * _mean_largest(mean, problem, scenarios).sum()


def test_ranks_that_are_down_stay_empty():
    """Their slots hold ABSENT, as in any plan."""
    scenarios = np.random.default_rng(0).random((3, 2, 8))
    problem = make_problem(scenarios[0], Cluster(4, 3, alive=[True, False, True, True]))
    found = plan_for_scenarios(problem, scenarios)
    assert (found.slots[:, 3:6] == -1).all()
    assert (np.delete(found.slots, [3, 4, 5], axis=1) >= 0).all()


def test_what_was_given_is_left_as_it_was(skewed):
    """Scenarios are read, read-only ones too."""
    scenarios = _swinging(skewed)
    kept = scenarios.copy()
    scenarios.setflags(write=False)
    plan_for_scenarios(make_problem(skewed, Cluster(8, 9)), scenarios, "fast")
    assert np.array_equal(scenarios, kept)


def test_what_cannot_be_planned_is_refused_by_name():
    """Soft locality and costs, with the rule and what to do; on one node soft locality rules nothing."""
    load = np.arange(1.0, 9.0)[np.newaxis]
    soft = make_problem(load, Cluster(4, 3, 2), 2, "soft")
    with pytest.raises(NotSupportedError, match=r"soft locality: .*; take strict or none"):
        plan_for_scenarios(soft, load[np.newaxis])
    with pytest.raises(NotSupportedError, match=r"cost other than tokens: .*; leave the cost out"):
        plan_for_scenarios(make_problem(load, Cluster(4, 3), cost=RankCost(per_rank=1.0)), load[np.newaxis])
    one_node = plan_for_scenarios(make_problem(load, Cluster(4, 3), 2, "soft"), load[np.newaxis])
    assert one_node.home_share.tolist() == [1.0]


@pytest.mark.parametrize(
    "scenarios", [np.ones((2, 1, 7)), np.ones((2, 2, 8)), np.full((2, 1, 8), -1.0), np.full((2, 1, 8), np.nan)]
)
def test_scenarios_that_are_no_loads_of_the_problem_are_refused(scenarios):
    """Another shape, or what is no load."""
    with pytest.raises(ArgumentError):
        plan_for_scenarios(make_problem(np.ones((1, 8)), Cluster(4, 3)), scenarios)


@pytest.mark.compiled
def test_the_recorded_load_gains(example):
    """On the load that ships, eight windows planned for together end earlier than under the plan for their mean."""
    scenarios = example.load[:8].astype(float)
    problem = make_problem(scenarios[0], Cluster(8, 5))
    found = plan_for_scenarios(problem, scenarios)
    mean = plan(mean_load(scenarios), problem.cluster).placement.expert_of_slot
    assert found.largest.sum() < 0.99 * _mean_largest(mean, problem, scenarios).sum()
