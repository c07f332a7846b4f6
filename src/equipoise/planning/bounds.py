"""Lower bounds on the largest rank load over every strict placement the cluster and the locality rule allow."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.types import Floats
from equipoise.planning.locality import Pairing
from equipoise.planning.problem import Problem
from equipoise.planning.replicas import greedy_replicas

_ROUNDING = 1e-9


def lower_bound(problem: Problem, pairing: Pairing | None) -> Floats:
    """Return a proven lower bound of each layer, tokens, float64 [layers]: the largest of three.

    - the ideal: some rank carries at least the mean;
    - the largest replica: some replica is at least as large as greedy counts make the largest one (they are the best), with
      as many replicas an expert as it may have ranks;
    - under strict locality with exact pairing: the heaviest node's load, level over its ranks.
    """
    cluster = problem.cluster
    ranks_per_domain = cluster.num_ranks // problem.num_domains
    count = greedy_replicas(problem.load, cluster.num_slots, ranks_per_domain)
    bounds = [problem.load.sum(axis=1) / cluster.num_ranks, (problem.load / count).max(axis=1)]
    if pairing is not None and pairing.is_exact:
        bounds.append(pairing.heaviest / ranks_per_domain)
    best: Floats = np.maximum.reduce(bounds)
    return best


def gap(largest: Floats, bound: Floats) -> Floats:
    """Return largest / bound - 1 of each layer; 0 where a layer has no load."""
    ratio: Floats = np.divide(largest, bound, out=np.ones_like(largest), where=bound > 0)
    return ratio - 1.0


def without_rounding(bound: Floats, largest: Floats) -> Floats:
    """Lower a bound that stands above an achieved value by rounding alone, so that no gap is negative.

    Both are sums of the same numbers in another order. A bound that is really too high is a fault and must not be hidden.
    """
    if (bound > largest * (1.0 + _ROUNDING) + np.finfo(np.float64).tiny).any():
        raise AssertionError("a lower bound exceeds an achieved value: please report this load")
    return np.minimum(bound, largest)
