"""Lower bounds on the slowest rank's time over every strict placement the cluster and the locality rule allow."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.types import Floats
from equipoise.planning.locality import Pairing
from equipoise.planning.problem import Problem
from equipoise.planning.replicas import greedy_replicas

_ROUNDING = 1e-9


def lower_bound(problem: Problem, pairing: Pairing | None) -> Floats:
    """Return a proven lower bound of each layer, float64 [layers]: the largest of three.

    - the ideal: some rank takes at least the mean;
    - the largest replica: some replica is at least as large as greedy counts make the largest one (they are the best), with
      as many replicas an expert as it may have ranks, on the fastest rank;
    - under strict locality with exact pairing: the slowest node's load, level over its ranks.

    Where a rank's time is more than tokens, the ideal alone.
    """
    if problem.cost.per_active:
        return problem.ideal
    domain = problem.everything
    most = domain.ranks.size if pairing is None else max(node.ranks.size for node in problem.nodes)
    count = greedy_replicas(problem.load, domain.slots.size, most)
    largest_replica = (problem.load / count).max(axis=1) / domain.speed.max()
    bounds = [problem.ideal, problem.cost.per_token * largest_replica]
    if pairing is not None and pairing.is_exact:
        bounds.append(problem.cost.per_token * pairing.level)
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
