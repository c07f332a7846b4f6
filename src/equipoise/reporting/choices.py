"""What would buy balance: slots, which cost memory, and moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from equipoise.cluster import Cluster
from equipoise.errors import EquipoiseError
from equipoise.placement import Placement
from equipoise.planning.redundancy import compare_redundancy
from equipoise.planning.trading import trade_off
from equipoise.reporting.asked import Asked, NamedPlacement, Omissions
from equipoise.reporting.report import MovePoint, Moves, Redundancy, SlotChoice
from equipoise.reporting.shrinking import pick_points
from equipoise.trace import LoadTrace

_MOST_TRIED = 48
"""Windows that slots counts are tried on, the last ones: a mean of as many tells counts apart."""

_SPARES = (0, 1, 2, 4)
"""Slots a rank beyond the least that are tried."""


def count_plans(trace: LoadTrace) -> int:
    """Return about how many plans :func:`weigh_slots` makes."""
    return min(trace.num_steps, _MOST_TRIED) * (len(_SPARES) + 1)


def slots_that_fit(cluster: Cluster, num_experts: int, locality: str) -> tuple[int, int]:
    """Return the fewest and the most slots a rank, equal on all, that a plan can have.

    Every expert needs a slot and no rank holds one twice; under strict locality both are so on each node.

    >>> slots_that_fit(Cluster(8, 4, 4), 32, "strict")
    (4, 8)
    """
    if locality != "strict":
        return -(-num_experts // sum(cluster.alive)), num_experts
    up = np.bincount(np.array(cluster.node_of_rank), weights=cluster.alive, minlength=cluster.num_nodes)
    experts = num_experts // cluster.num_nodes
    return -(-experts // max(int(up.min()), 1)), experts


def weigh_slots(
    trace: LoadTrace,
    cluster: Cluster,
    asked: Asked,
    omissions: Omissions,
    progress: Callable[[], object],
) -> Redundancy | None:
    """Say what more or fewer slots a rank give, on the last windows planned one by one; None where that is left out."""
    if asked.locality == "soft":
        omissions.append(("redundancy against balance", "slots counts are weighed without a locality rule or a strict one"))
        return None
    tried = trace.last(min(trace.num_steps, _MOST_TRIED)) if trace.is_in_order else LoadTrace(trace.sum(), trace.layer_ids)
    least, most = slots_that_fit(cluster, trace.num_experts, asked.locality)
    own = int(cluster.slot_counts.max())
    counts = sorted({least + spare for spare in _SPARES} | {own})
    clusters = [replace(cluster, slots_per_rank=count) for count in counts if least <= count <= most]
    try:
        scores = compare_redundancy(
            tried,
            clusters,
            num_groups=asked.num_groups,
            locality=asked.locality,
            effort=asked.effort,
            expert_bytes=asked.expert_bytes,
            progress=progress,
        )
    except EquipoiseError as error:
        omissions.append(("redundancy against balance", str(error)))
        return None
    return Redundancy(
        windows=tried.num_steps,
        choices=tuple(
            SlotChoice(
                slots=score.slots,
                spare_per_rank=score.spare_per_rank,
                memory_slots=score.memory_slots,
                memory_bytes=score.memory_bytes,
                in_sample=score.balancedness,
                next_window=score.next_window,
                next_window_error=score.next_window_error,
                is_knee=bool(score.is_knee),
            )
            for score in scores
        ),
    )


def weigh_moves(trace: LoadTrace, before: NamedPlacement, after: Placement, asked: Asked, omissions: Omissions) -> Moves | None:
    """Say what moves from a placement buy on this load; None where that is left out."""
    if asked.locality == "soft":
        omissions.append(("moves against balance", "moves are weighed without a locality rule or under a strict one"))
        return None
    try:
        found = trade_off(
            trace.sum(),
            after.cluster,
            before.placement,
            num_groups=asked.num_groups,
            locality=asked.locality,
            effort=asked.effort,
            dispatch=asked.dispatch,
        )
    except EquipoiseError as error:
        omissions.append(("moves against balance", str(error)))
        return None
    kept = pick_points(len(found.moves), found.knee)
    total, share, balance, worst = found.total_moves, found.share_moved, found.balancedness, found.worst_layer
    return Moves(
        previous=before.name,
        replicas=found.replicas,
        knee=int(np.searchsorted(kept, found.knee)),
        points=tuple(MovePoint(int(total[p]), float(share[p]), float(balance[p]), float(worst[p])) for p in kept),
    )
