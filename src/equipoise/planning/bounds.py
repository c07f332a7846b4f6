"""Lower bounds on the slowest rank's time over every strict placement the cluster and the locality rule allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise.kernels.bounding import heavy_replica_bound, paired_replica_bound
from equipoise.kernels.sorting import sort_rows_descending
from equipoise.kernels.types import Floats
from equipoise.planning.efforts import Stage
from equipoise.planning.locality import Pairing
from equipoise.planning.problem import Problem
from equipoise.planning.replicas import greedy_replicas

_ROUNDING = 1e-9

_FEW_SLOTS = 4
_OPEN = 1e-4


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


def sharpened(problem: Problem, bound: Floats, largest: Floats, stages: Sequence[Stage]) -> Floats:
    """Return a bound at least as high where ranks have few slots and a layer's gap is still open.

    A heavy replica stands beside k - 1 others, and with two slots a rank each needs a partner light enough; see
    :mod:`equipoise.kernels.bounding`. For equally fast ranks without a locality rule.
    """
    rounds = max(stage.sharpening for stage in stages)
    domain, scale = problem.everything, problem.cost.per_token / problem.everything.speed[0]
    is_open = np.flatnonzero(largest > bound * (1.0 + _OPEN))
    if rounds < 0 or is_open.size == 0 or domain.room.min() > _FEW_SLOTS or np.unique(domain.speed).size > 1:
        return bound
    load, _ = sort_rows_descending(problem.load[is_open])
    known, upper = bound[is_open] / scale, largest[is_open] / scale
    num_slots, num_ranks = domain.slots.size, domain.ranks.size
    known = heavy_replica_bound(load, num_slots, num_ranks, int(domain.room.min()), known, upper)
    if rounds > 0 and (domain.room == 2).all():
        known = paired_replica_bound(load, num_slots, num_ranks, known, upper, rounds, _OPEN)
    best = bound.copy()
    best[is_open] = np.maximum(best[is_open], known * scale)
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
