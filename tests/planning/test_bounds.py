"""Bounds by hand, and what pairing groups with nodes is worth."""

from __future__ import annotations

import numpy as np
import pytest

import twins
from equipoise import Cluster, plan
from equipoise.planning import bounds, layers, locality
from equipoise.planning.problem import Problem


def _bound(load, cluster, **rule):
    problem = Problem(np.array([load], np.float64), cluster, **rule)
    return bounds.lower_bound(problem, locality.pair_groups(problem))[0]


def test_each_of_the_three_bounds_by_hand():
    """The ideal; the largest replica; the heaviest node, and the cap on replicas that a node's ranks set."""
    assert _bound([4, 4, 4, 4], Cluster(2, 2)) == 8  # the mean
    assert _bound([90, 1, 1, 1], Cluster(4, 1)) == 90  # no spare slot for the hot expert
    assert _bound([90, 1, 1, 1], Cluster(4, 2)) == 23.25  # four copies of 22.5, so the mean again
    assert _bound([90, 30, 1, 1], Cluster(4, 2, 2), num_groups=2, locality="strict") == 60  # 120 on one node of two ranks
    assert _bound([90, 0, 0, 0, 0, 0], Cluster(4, 2, 2), num_groups=2, locality="strict") == 45  # at most two copies on a node


def test_a_bound_above_an_achieved_value_is_a_fault():
    """Rounding is forgiven, a wrong bound is not hidden."""
    assert bounds.without_rounding(np.array([1.0 + 1e-12]), np.array([1.0])).tolist() == [1.0]
    with pytest.raises(AssertionError, match="lower bound exceeds"):
        bounds.without_rounding(np.array([1.001]), np.array([1.0]))


def test_pairing_that_is_not_exact_gives_no_bound(monkeypatch):
    """With too many pairings to try, groups are packed; the heaviest node of that pairing proves nothing."""
    monkeypatch.setattr(locality, "MAX_PAIRINGS", 0)
    rng = np.random.default_rng(8)
    rule = {"node_of_rank": [0, 1], "group_of_expert": [0, 0, 1, 1, 2, 2, 3, 3]}
    suboptimal = 0
    for load in rng.integers(0, 60, (40, 8)).tolist():
        result = plan([load], Cluster(2, 4, 2), num_groups=4, locality="strict")
        best = float(twins.optimum(load, 2, 4, **rule))
        assert result.bound[0] <= best * (1 + 1e-12)
        assert best <= result.largest[0] * (1 + 1e-12)
        suboptimal += result.largest[0] > best * (1 + 1e-9)
    assert suboptimal < 40


def test_exact_pairing_is_never_heavier_than_packing():
    """Over seeded loads the exact pairing's heaviest node is at most LPT's, and often lighter."""
    load = np.random.default_rng(3).integers(1, 1000, (30, 60)).astype(np.float64)
    problem = Problem(load, Cluster(8, 9, 4), 12, "strict")
    exact, dealt = locality.pair_groups(problem).level, locality.pair_groups_as_published(problem).level
    assert (exact <= dealt * (1 + 1e-12)).all()
    assert (exact < dealt).sum() > 5


def test_the_published_pairing_is_tried_where_it_could_end_lower(monkeypatch):
    """The lightest heaviest node is not always the best start: with LPT's pairing too, some layers end lower, none higher."""
    load = (np.random.default_rng(3).random((60, 32)) ** 4 * 1000).astype(np.int64)
    arguments = {"num_groups": 8, "locality": "strict"}
    both = plan(load, Cluster(16, 4, 4), **arguments).largest
    monkeypatch.setattr(layers, "pair_groups_as_published", layers.pair_groups)
    exact_only = plan(load, Cluster(16, 4, 4), **arguments).largest
    assert (both <= exact_only).all()
    assert (both < exact_only).any()
