"""Compile what schedules need, or load it from the cache, before its time counts."""

from __future__ import annotations

from equipoise.cluster import Cluster
from equipoise.kernels.compiling import is_interpreted
from equipoise.migrating.scheduling import schedule_moves
from equipoise.placement import Placement


def warm_up() -> None:
    """Schedule a swap in both modes."""
    if is_interpreted():
        return
    cluster = Cluster(num_ranks=4, slots_per_rank=1, num_nodes=2)
    old, new = (Placement([row], cluster, num_experts=4) for row in ([0, 1, 2, 3], [1, 0, 3, 2]))
    for mode in ("duplex", "one-peer"):
        schedule_moves(old, new, mode=mode)
