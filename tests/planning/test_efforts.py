"""Efforts: a higher one is worse on no layer, whatever the locality rule and the ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, Constraints, plan
from strategies import problems

TOY = [[600, 560, 120, 120, 20, 10, 10, 10]]


def _largest(effort, load, cluster, **options):
    return plan(np.array(load), cluster, effort=effort, **options).largest


def _check(load, cluster, **options):
    fast, default, best = (_largest(effort, load, cluster, **options) for effort in ("fast", "default", "best"))
    assert (default <= fast).all()
    assert (best <= default).all()


@given(problems(locality=True), st.sampled_from(["rule", "soft"]), st.floats(0, 1))
def test_no_layer_is_worse_for_a_higher_effort(problem, rule, share):
    """Freely, strictly and softly."""
    load, ranks, slots, nodes, groups = problem
    cluster = Cluster(ranks, slots, nodes)
    if nodes == 1:
        _check(load, cluster)
    elif rule == "soft":
        _check(load, cluster, num_groups=groups, locality="soft", constraints=Constraints(home_share=share))
    else:
        _check(load, cluster, num_groups=groups, locality="strict")


def test_a_soft_plan_that_a_higher_effort_alone_would_miss():
    """The long search's free plan no longer keeps the share; the quick one's did."""
    load = [[115, 9, 274, 5, 20, 59, 6, 22, 74, 3162, 76, 94, 7, 301, 3, 208, 23, 3, 16, 29, 35, 30, 25, 35]]
    _check(load, Cluster(6, 6, 2), num_groups=6, locality="soft", constraints=Constraints(home_share=0.5))


@pytest.mark.compiled
def test_no_layer_is_worse_on_seeded_loads():
    """Few and many slots a rank, unequal speeds, strict nodes: four layers each."""
    load = np.random.default_rng(7).lognormal(0, 1.5, (4, 64)).round(3)
    for cluster in (Cluster(40, 2), Cluster(24, 3), Cluster(8, 9), Cluster(8, 9, rank_speeds=[1, 1, 1, 1, 1, 2, 0.5, 0.1])):
        _check(load, cluster)
    _check(load, Cluster(8, 9, 4), num_groups=8, locality="strict")


def test_the_published_toy_is_solved_by_default():
    """Counts and packing decided together: 590 / 3, where greedy counts end at 232 and no packing of them lower."""
    assert np.isclose(_largest("default", TOY, Cluster(8, 2))[0], 590 / 3)
    assert _largest("fast", TOY, Cluster(8, 2))[0] == 232


def test_hot_experts_stay_off_slow_ranks():
    """Greedy counts would put a share of the hottest expert on ranks a twentieth as fast; the optimum is 133."""
    cluster = Cluster(3, (3, 2, 2), rank_speeds=[2, 0.1, 0.1])
    assert np.isclose(_largest("default", [[235, 4, 16, 17, 15]], cluster)[0], 133)
