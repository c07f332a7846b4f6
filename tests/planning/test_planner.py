"""plan(): strict, never below its bound or the optimum, the same whatever experts are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import twins
from equipoise import Cluster, Constraints, LoadTrace, Placement, RankCost, plan
from equipoise.errors import ArgumentError, EquipoiseError
from strategies import problems


def _plan(problem, **options):
    load, ranks, slots, nodes, groups = problem
    locality = "strict" if nodes > 1 else "none"
    return plan(np.array(load), Cluster(ranks, slots, nodes), num_groups=groups, locality=locality, **options)


@given(problems(locality=True))
def test_plans_are_strict_and_fill_every_slot(problem):
    """Every slot holds an expert, every expert has a slot, no rank holds one twice, groups stay on a node."""
    load, _, _, nodes, groups = problem
    placement = _plan(problem).placement
    placement.validate()
    assert placement.expert_of_slot.min() >= 0
    assert placement.duplicates.sum() == 0
    node_of_slot = np.array(placement.cluster.node_of_rank)[placement.cluster.rank_of_slot]
    group_of_slot = placement.expert_of_slot // (len(load[0]) // groups)
    for groups_of_layer in group_of_slot:
        homes = {(int(g), int(n)) for g, n in zip(groups_of_layer, node_of_slot, strict=True)}
        assert nodes == 1 or len(homes) == groups


@given(problems(locality=True))
def test_load_is_conserved_and_rank_loads_equal_the_twin(problem):
    """Rank loads are those of the definition and add up to the load."""
    load, ranks, slots, _, _ = problem
    placement = _plan(problem).placement
    rank_load = placement.rank_load(load)
    assert np.allclose(rank_load.sum(axis=1), np.sum(load, axis=1), rtol=1e-12)
    for layer, row in enumerate(placement.expert_of_slot.tolist()):
        assert np.allclose(rank_load[layer], twins.rank_loads(row, load[layer], ranks, slots), rtol=1e-12)


@given(problems(locality=True))
def test_figures_agree_with_the_placement(problem):
    """The plan's own figures are those its placement has on the load planned for, and bound <= largest."""
    load = problem[0]
    result = _plan(problem)
    largest, ideal = result.placement.layer_times(load)
    assert np.allclose(result.largest, largest, rtol=1e-12)
    assert np.allclose(result.ideal, ideal, rtol=1e-12)
    assert np.isclose(result.balancedness, result.placement.balancedness(load), rtol=1e-12)
    assert np.isclose(result.worst_layer, result.placement.worst_layer(load), rtol=1e-12)
    assert np.isclose(result.fifth_percentile, result.placement.fifth_percentile(load), rtol=1e-12)
    assert (result.bound <= result.largest).all()
    assert (result.bound >= ideal * (1 - 1e-12)).all()
    assert (result.gap >= 0).all()
    assert result.moves.tolist() == [0] * len(load)


@st.composite
def tiny(draw):
    """Draw a problem of at most a few thousand strict placements."""
    ranks, slots, experts = draw(
        st.sampled_from([(2, 1, 2), (2, 2, 3), (2, 3, 4), (2, 3, 5), (3, 2, 4), (3, 2, 5), (3, 2, 6), (2, 4, 6), (4, 2, 5)])
    )
    return [draw(st.lists(st.integers(0, 60), min_size=experts, max_size=experts))], ranks, slots, 1, 1


@given(tiny())
def test_bound_and_plan_lie_on_either_side_of_the_optimum(problem):
    """On tiny sizes: bound <= exhaustive optimum over strict placements <= plan."""
    load, ranks, slots, _, _ = problem
    result = _plan(problem)
    best = float(twins.optimum(load[0], ranks, slots))
    assert result.bound[0] <= best * (1 + 1e-12)
    assert best <= result.largest[0] * (1 + 1e-12)


@given(st.lists(st.integers(0, 60), min_size=8, max_size=8), st.sampled_from([2, 4]))
def test_strict_locality_lies_on_either_side_of_its_optimum(load, groups):
    """The same under strict locality, over the placements that keep groups whole on a node."""
    result = plan([load], Cluster(2, 4, 2), num_groups=groups, locality="strict")
    rule = {"node_of_rank": [0, 1], "group_of_expert": [e * groups // 8 for e in range(8)]}
    best = float(twins.optimum(load, 2, 4, **rule))
    assert result.bound[0] <= best * (1 + 1e-12)
    assert np.isclose(best, result.largest[0], rtol=1e-12)


def test_exchanges_reach_the_optimum_most_of_the_time():
    """On tiny random loads the plan is optimal in most cases and never 25 % off: a planner that stops early is seen here."""
    rng = np.random.default_rng(5)
    ratios = []
    for load in rng.integers(1, 100, (60, 6)).tolist():
        result = plan([load], Cluster(3, 2))
        ratios.append(result.largest[0] / float(twins.optimum(load, 3, 2)))
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.5
    assert max(ratios) < 1.25


@given(problems(locality=False), st.randoms(use_true_random=False))
def test_renumbering_experts_of_distinct_loads_changes_no_rank_load(problem, random):
    """Experts are told apart by load, not by number."""
    load, ranks, slots, nodes, groups = problem
    assume(all(len(set(layer)) == len(layer) for layer in load))
    order = list(range(len(load[0])))
    random.shuffle(order)
    renumbered = [[layer[e] for e in order] for layer in load]
    first = _plan(problem)
    second = _plan((renumbered, ranks, slots, nodes, groups))
    sorted_loads = [np.sort(r.placement.rank_load(x)) for r, x in ((first, load), (second, renumbered))]
    assert np.allclose(*sorted_loads, rtol=1e-12)


def test_renumbering_with_ties_between_replicas():
    """Distinct loads whose replicas tie (8 in two, 4 in one) are told apart by load: 400 layers renumbered, none changes."""
    rng = np.random.default_rng(9)
    load = np.array([rng.permutation(16)[:10] for _ in range(400)])
    order = rng.permutation(10)
    plans = [plan(x, Cluster(5, 3)).placement.rank_load(x) for x in (load, load[:, order])]
    assert np.allclose(*(np.sort(rank_load) for rank_load in plans), rtol=1e-12)


@pytest.mark.compiled
def test_example_load_is_balanced_well(example):
    """On the load that ships, planning window by window reaches what greedy LPT alone does not."""
    scores = [plan(window, Cluster(8, 5)).balancedness for window in example.load]
    assert np.mean(scores) > 0.995


def test_zero_layers_one_rank_no_redundancy_and_full_redundancy():
    """The corner shapes give strict plans with bound 0 and gap 0 where there is no load."""
    empty = plan(np.zeros((2, 6)), Cluster(3, 2))
    assert empty.balancedness == 1.0
    assert empty.bound.tolist() == empty.gap.tolist() == [0, 0]
    one_rank = plan([[5, 1, 2]], Cluster(1, 3))
    assert one_rank.placement.expert_of_slot.tolist() == [[0, 1, 2]]
    assert one_rank.gap.tolist() == [0]
    one_expert = plan([[7]], Cluster(4, 1))
    assert one_expert.placement.expert_of_slot.tolist() == [[0, 0, 0, 0]]
    assert one_expert.balancedness == 1.0
    everything = plan([[9, 0, 3]], Cluster(2, 3))
    assert everything.placement.expert_of_slot.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert everything.balancedness == 1.0
    mixed = plan([[0, 0, 0, 0], [4, 4, 4, 4]], Cluster(2, 2))
    assert mixed.balancedness == 1.0
    assert mixed.worst_layer == 1.0


def test_traces_and_three_dimensions_are_added_up(example):
    """A trace, its array and its sum give the same plan."""
    cluster = Cluster(8, 5)
    plans = [plan(load, cluster).placement.expert_of_slot for load in (example, example.load, example.sum())]
    assert np.array_equal(plans[0], plans[1])
    assert np.array_equal(plans[1], plans[2])


def test_nodes_that_interleave_keep_groups_whole():
    """node_of_rank in any order: the slots of a node's ranks hold its groups only."""
    rng = np.random.default_rng(2)
    load = rng.integers(1, 100, (3, 16))
    cluster = Cluster(4, 5, 2, node_of_rank=[0, 1, 0, 1])
    result = plan(load, cluster, num_groups=4, locality="strict")
    result.placement.validate()
    for slots in result.placement.expert_of_slot.reshape(3, 4, 5) // 4:
        homes = [set(slots[[0, 2]].ravel().tolist()), set(slots[[1, 3]].ravel().tolist())]
        assert not homes[0] & homes[1]


def test_many_groups_fall_back_to_packing_them():
    """With more pairings than can be tried, groups are packed and the plan stays strict and bounded."""
    load = np.random.default_rng(3).integers(1, 1000, (2, 64))
    result = plan(load, Cluster(8, 9, 4), num_groups=32, locality="strict")
    result.placement.validate()
    assert (result.bound <= result.largest).all()
    assert result.balancedness > 0.9


def test_strict_on_one_node_is_none():
    """One node: the locality rule says nothing."""
    load = np.random.default_rng(4).integers(0, 1000, (3, 32))
    plans = [plan(load, Cluster(4, 9), num_groups=4, locality=rule) for rule in ("none", "strict")]
    assert np.array_equal(*(p.placement.expert_of_slot for p in plans))


BAD = [
    ({"load": [[1, -2, 3, 4]]}, "load is -2 at step 0, layer 0, expert 1"),
    ({"load": [[[1, 1, 1, 1]], [[1, 1, float("nan"), 1]]]}, "load is nan at step 1, layer 0, expert 2"),
    ({"load": [[1, 1, 1, float("inf")]]}, "load is inf at step 0, layer 0, expert 3"),
    ({"load": [1, 2, 3, 4]}, "load has shape [4]"),
    ({"load": [[[[1, 2]]]]}, "load has shape [1, 1, 1, 2]"),
    ({"load": np.zeros((2, 0))}, "load has shape [1, 2, 0]"),
    ({"load": [["a", "b"]]}, "load has dtype <U1"),
    ({"load": [[1, 2], [3]]}, "load is ragged"),
    ({"load": [[True, False, True, True]]}, "load has dtype bool"),
    ({"load": np.ma.masked_array([[1, 2, 3, 4]], [[0, 0, 0, 1]])}, "load is a masked array"),
    ({"cluster": None}, "cluster is a NoneType"),
    ({"load": [[1e300] * 4, [1e308] * 4]}, "loads as large as 1e+308"),
    ({"cluster": Cluster(1, 3)}, "3 slots for 4 experts"),
    ({"cluster": Cluster(2, 5)}, "5 slots per rank for 4 experts"),
    ({"num_groups": 3}, "3 groups of 4 experts"),
    ({"num_groups": 0}, "num_groups is 0"),
    ({"num_groups": 2, "locality": "strict", "cluster": Cluster(4, 1, 4)}, "2 groups on 4 nodes"),
    ({"num_groups": 2, "locality": "strict", "cluster": Cluster(2, 3, 2)}, "3 slots per rank for the 2 experts of a node"),
    ({"locality": "tight"}, "locality is 'tight'"),
    ({"locality": "soft"}, "locality is soft without a home share"),
    ({"constraints": Constraints(home_share=0.5)}, "home_share is 0.5 with locality none"),
    ({"constraints": 0.5}, "constraints is a float"),
    ({"cost": 3}, "cost is a int"),
    ({"cost": RankCost(per_token=1e307)}, "a rank could take 1e+308"),
    ({"cluster": Cluster(2, 2, rank_speeds=[1e-99, 1]), "cost": RankCost(per_token=1e250)}, "a rank could take inf"),
    ({"cluster": Cluster(3, 2, alive=[True, False, False])}, "2 slots on the 1 ranks that are up for 4 experts"),
    ({"cluster": Cluster(2, (2, 5))}, "5 slots per rank for 4 experts"),
    ({"effort": "turbo"}, "effort is 'turbo'"),
    ({"dispatch": "nearest"}, "dispatch is 'nearest'"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**63}, "seed is 9223372036854775808"),
    ({"num_threads": 0}, "num_threads is 0"),
]


@pytest.mark.parametrize(("change", "found"), BAD)
def test_bad_arguments_name_value_rule_and_next_step(change, found):
    """Each bad argument is a ValueError of our family that starts with what was found and ends with what to do."""
    arguments = {"load": [[4, 3, 2, 1]], "cluster": Cluster(2, 2), **change}
    with pytest.raises(ArgumentError) as error:
        plan(**arguments)
    assert isinstance(error.value, EquipoiseError)
    assert isinstance(error.value, ValueError)
    assert str(error.value).startswith(found)
    assert error.value.rule
    assert error.value.next_step
    assert "\n" not in str(error.value)


def test_plan_takes_what_it_gives():
    """A plan's placement can be held, written and scored on another load."""
    result = plan([[4, 3, 2, 1]], Cluster(2, 2))
    again = Placement(result.placement.expert_of_slot, result.placement.cluster, 4)
    assert again.balancedness(LoadTrace([[1, 2, 3, 4]])) == result.placement.balancedness([[1, 2, 3, 4]])
