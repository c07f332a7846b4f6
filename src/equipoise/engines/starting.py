"""What engines serve with before any load is known."""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.placement import ABSENT, Placement


def in_id_order(cluster: Cluster, num_layers: int, num_experts: int) -> Placement:
    """Return what engines start from: slot s holds expert s, and the spare slots experts 0, 1, 2, ... once more.

    >>> in_id_order(Cluster(2, 3), 1, 4).expert_of_slot.tolist()
    [[0, 1, 2, 3, 0, 1]]
    """
    up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    experts = np.full(cluster.num_slots, ABSENT)
    experts[up] = np.arange(up.sum()) % num_experts
    return Placement(np.tile(experts, (num_layers, 1)), cluster, num_experts)
