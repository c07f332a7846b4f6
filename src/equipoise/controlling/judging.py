"""How a placement stands: its times under the split that serves it, and the layers that lack replicas they must have."""

from __future__ import annotations

import numpy as np

from equipoise.arrays import frozen
from equipoise.constraints import Constraints
from equipoise.dispatching.splitting import split_batch
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT, Placement


def layer_times(placement: Placement, load: Floats, dispatch: str = "equal") -> tuple[Floats, Floats]:
    """Return the largest rank time and the ideal time of each layer, [layers] each, under an equal or an optimal split.

    As with :meth:`equipoise.Placement.layer_times`, only load of experts that have a slot counts.

    >>> from equipoise import Cluster
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=3)
    >>> load = np.array([[6.0, 1.0, 4.0]])
    >>> [layer_times(placement, load, dispatch)[0].tolist() for dispatch in ("equal", "optimal")]
    [[7.0], [5.5]]
    """
    if dispatch == "equal":
        return placement.layer_times(load)
    served = frozen(np.where(placement.replica_count > 0, load, 0.0))
    rank_load = split_batch(served, placement)[1]
    speed = np.asarray(placement.cluster.rank_speeds, np.float64)
    largest: Floats = (rank_load / speed).max(axis=1)
    return largest, rank_load.sum(axis=1) / float(speed[np.asarray(placement.cluster.alive)].sum())


def owed_layers(placement: Placement, constraints: Constraints) -> Flags:
    """Return the layers with experts that have no replica, or fewer, or on fewer nodes, than is asked of all: bool [layers].

    >>> from equipoise import Cluster
    >>> placement = Placement([[0, 1, 0, 1], [0, 1, 1, -1]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=2)
    >>> owed_layers(placement, Constraints(min_replicas=2)).tolist(), owed_layers(placement, Constraints()).tolist()
    ([False, True], [False, False])
    """
    owed = np.zeros(placement.num_layers, np.bool_)
    owed[[layer for layer, _ in placement.lost_experts]] = True
    if not constraints.asks_for_replicas:
        return owed
    cluster = placement.cluster
    owed |= (_held_by(placement, cluster.rank_of_slot, cluster.num_ranks) < constraints.min_replicas).any(axis=1)
    if constraints.spread == "nodes":
        node_of_rank = np.asarray(cluster.node_of_rank)
        nodes = min(constraints.min_replicas, np.unique(node_of_rank[np.asarray(cluster.alive)]).size)
        owed |= (_held_by(placement, node_of_rank[cluster.rank_of_slot], cluster.num_nodes) < nodes).any(axis=1)
    return owed


def _held_by(placement: Placement, holder_of_slot: Ints, num_holders: int) -> Ints:
    """Count the ranks, or nodes, that hold each expert, [layers, experts]."""
    held = np.zeros((placement.num_layers, num_holders, placement.num_experts), np.bool_)
    layer, slot = np.nonzero(placement.expert_of_slot != ABSENT)
    held[layer, holder_of_slot[slot], placement.expert_of_slot[layer, slot]] = True
    return np.asarray(held.sum(axis=1), np.int64)
