"""Ranks that differ in slots and speed, or are down: plans are strict, and lie between bound and optimum."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import ABSENT, Cluster, RankCost, plan
from equipoise.errors import ArgumentError


def optimum(load, room, speed, weigh=lambda load, count: Fraction(load) / count):
    """Return the least time of the slowest rank over all placements that fill every slot, exhaustively and exactly."""
    best = None
    choices = [list(itertools.combinations(range(len(load)), slots)) for slots in room]
    for ranks in itertools.product(*choices):
        held = [e for rank in ranks for e in rank]
        count = [held.count(e) for e in range(len(load))]
        if 0 in count:
            continue
        time = max(sum(weigh(load[e], count[e]) for e in rank) / Fraction(s) for rank, s in zip(ranks, speed, strict=True))
        best = time if best is None else min(best, time)
    return best


@st.composite
def unequal(draw):
    """Draw (load, room, speed, alive) with few enough placements to try all."""
    experts = draw(st.integers(2, 4))
    ranks = draw(st.integers(2, 4))
    room = draw(st.lists(st.integers(1, min(3, experts)), min_size=ranks, max_size=ranks))
    alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks))
    while sum(r for r, up in zip(room, alive, strict=True) if up) < experts:
        if all(alive):
            room[room.index(min(room))] += 1
        else:
            alive[alive.index(False)] = True
    speed = draw(st.lists(st.sampled_from([1, 2, 0.5, 0.25]), min_size=ranks, max_size=ranks))
    load = draw(st.lists(st.integers(0, 60), min_size=experts, max_size=experts))
    return load, room, speed, alive


@given(unequal(), st.sampled_from(["fast", "default", "best"]))
def test_plans_are_strict_and_lie_between_bound_and_optimum(problem, effort):
    """Every slot of a rank that is up is filled, none of one that is down; bound <= exhaustive optimum <= plan."""
    load, room, speed, alive = problem
    cluster = Cluster(len(room), room, rank_speeds=speed, alive=alive)
    result = plan([load], cluster, effort=effort)
    result.placement.validate()
    up = np.array(alive)[cluster.rank_of_slot]
    assert ((result.placement.expert_of_slot[0] != ABSENT) == up).all()
    assert np.allclose(result.largest, result.placement.rank_time([load]).max(axis=1), rtol=1e-12)
    assert np.isclose(result.balancedness, result.placement.balancedness([load]), rtol=1e-12)
    live = [(r, s) for r, s, is_up in zip(room, speed, alive, strict=True) if is_up]
    best = float(optimum(load, [r for r, _ in live], [s for _, s in live]))
    assert result.bound[0] <= best * (1 + 1e-12)
    assert best <= result.largest[0] * (1 + 1e-12)


def test_most_tiny_problems_are_solved():
    """Over seeded loads on unequal ranks the plan is the optimum in most cases and never 30 % off."""
    rng = np.random.default_rng(11)
    ratios = []
    for _ in range(60):
        load, room, speed = rng.integers(1, 100, 5).tolist(), [3, 2, 2], [1.0, 0.5, 2.0]
        largest = plan([load], Cluster(3, room, rank_speeds=speed)).largest[0]
        ratios.append(largest / float(optimum(load, room, speed)))
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.5
    assert max(ratios) < 1.3


def test_a_rank_that_is_down_changes_only_who_serves():
    """Planning on the ranks that are up is planning on a cluster of these alone."""
    load = np.random.default_rng(4).integers(1, 1000, (3, 24))
    alive = [True, False, True, True]
    masked = plan(load, Cluster(4, 9, alive=alive)).placement.expert_of_slot.reshape(3, 4, 9)
    alone = plan(load, Cluster(3, 9)).placement.expert_of_slot.reshape(3, 3, 9)
    assert np.array_equal(masked[:, [0, 2, 3]], alone)
    assert (masked[:, 1] == ABSENT).all()


def test_faster_ranks_take_more():
    """With ample experts, load follows speed: balance in time is near perfect where balance in tokens is not."""
    load = np.random.default_rng(5).integers(1, 1000, (4, 128))
    result = plan(load, Cluster(8, 18, rank_speeds=[1, 1, 1, 1, 2, 2, 2, 2]))
    assert result.balancedness > 0.99
    tokens = result.placement.rank_load(load)
    assert np.allclose(tokens[:, 4:].sum(axis=1) / tokens[:, :4].sum(axis=1), 2, rtol=0.02)


def test_slots_that_ranks_do_not_divide():
    """290 slots on 32 ranks are planned: two ranks have ten."""
    load = np.random.default_rng(6).integers(1, 1000, (2, 256))
    cluster = Cluster(32, (10, 10, *[9] * 30))
    result = plan(load, cluster)
    result.placement.validate()
    assert result.balancedness > 0.999


def test_counts_keep_within_what_unequal_ranks_can_hold():
    """Two ranks that hold nearly everything: the hottest experts cannot have as many replicas as greedy counts give them."""
    result = plan([[100, 90, 1, 1, 1]], Cluster(3, (4, 4, 1)))
    result.placement.validate()
    assert result.placement.replica_count.sum() == 9


def test_strict_locality_on_nodes_of_unequal_speed():
    """The heaviest groups go to the fastest node, and the bound is the node's time."""
    load = np.array([[80, 10, 10, 10, 5, 5, 5, 5]])
    cluster = Cluster(4, 3, 2, rank_speeds=[1, 1, 3, 3])
    result = plan(load, cluster, num_groups=4, locality="strict")
    result.placement.validate()
    assert set(result.placement.expert_of_slot[0, 6:].tolist()) >= {0, 1}
    assert (result.bound <= result.largest).all()


def test_strict_locality_names_the_node_that_is_short():
    """A node whose ranks are down cannot hold its groups: which, and how many slots are missing."""
    cluster = Cluster(4, 3, 2, alive=[True, True, True, False])
    with pytest.raises(ArgumentError, match=r"node 1 has 3 slots .* 1 slots are missing"):
        plan(np.ones((1, 8)), cluster, num_groups=2, locality="strict")


@given(unequal(), st.sampled_from([(0.0, 1.0, 0.0), (2.0, 1.0, 3.0), (0.0, 0.5, 10.0), (1.0, 0.0, 1.0)]))
def test_costs_are_planned_for_and_bounded_by_the_ideal(problem, prices):
    """Largest is the slowest rank's time by definition; ideal = bound <= exhaustive optimum <= plan."""
    load, room, speed, alive = problem
    cost = RankCost(*prices)
    result = plan([load], Cluster(len(room), room, rank_speeds=speed, alive=alive), cost=cost)
    result.placement.validate()
    live = [(r, s) for r, s, is_up in zip(room, speed, alive, strict=True) if is_up]

    def weigh(load, count):
        tokens = Fraction(load) / count
        return Fraction(cost.per_token) * tokens + Fraction(cost.per_active) * min(1, tokens)

    best = float(optimum(load, [r for r, _ in live], [s for _, s in live], weigh)) + cost.per_rank
    assert best <= result.largest[0] * (1 + 1e-12)
    assert result.ideal[0] <= best * (1 + 1e-12)
    assert result.bound[0] <= best * (1 + 1e-12)
    if cost.per_active:
        assert np.isclose(result.bound[0], result.ideal[0], rtol=1e-12)


def test_spare_slots_go_to_idle_experts_where_being_active_costs():
    """In memory-bound decode a second replica of a hot expert costs a rank more than its tokens: spare slots stay cold."""
    load = [[8, 8, 8, 8, 0, 0, 0, 0]]
    plain = plan(load, Cluster(4, 3))
    priced = plan(load, Cluster(4, 3), cost=RankCost(per_token=0.01, per_active=10.0))
    assert plain.placement.replica_count[0, :4].sum() > 4
    assert priced.placement.replica_count[0, :4].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"per_token": -1}, "per_token is -1"),
        ({"per_active": float("nan")}, "per_active is nan"),
        ({"per_rank": "1"}, "per_rank is '1'"),
        ({"per_token": 0}, "per_token and per_active are both 0"),
    ],
)
def test_bad_costs_are_named(values, found):
    """Each says what was found."""
    with pytest.raises(ArgumentError, match=found):
        RankCost(**values)
