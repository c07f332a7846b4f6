"""Tables that engines load: how probable each replica is, and which replica each source rank always uses."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.dispatching.tokens import check_held, checked_loads, checked_shares
from equipoise.kernels.apportioning import fix_sources
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import ABSENT, Placement

_AXES = ("ranks", "layers", "experts")


def probability_table(placement: Placement, shares: Any) -> Floats:
    """Return how probable each replica of an expert is, for engines that draw one for each token.

    Parameters
    ----------
    placement : Placement
        Which expert each slot holds.
    shares : array_like of float [layers, slots]
        Over an expert's slots they add up to 1, but for 1e-6 (float32), and are scaled to do so; 0 in empty slots.

    Returns
    -------
    float64 [layers, experts, max_replicas]
        In the order of ``placement.slots_of_expert`` and padded with 0 where that is padded. All 0 for an expert without a
        slot.

    Raises
    ------
    ArgumentError
        On bad shares.

    Examples
    --------
    >>> from equipoise import Cluster
    >>> placement = Placement([[1, 0, 1]], Cluster(num_ranks=3, slots_per_rank=1), num_experts=2)
    >>> probability_table(placement, [[0.75, 1.0, 0.25]]).tolist()
    [[[1.0, 0.0], [0.75, 0.25]]]
    """
    scaled = checked_shares(shares, placement)
    slots = placement.slots_of_expert
    layer = np.arange(placement.num_layers)[:, np.newaxis, np.newaxis]
    return np.where(slots == ABSENT, 0.0, scaled[layer, np.maximum(slots, 0)])


def fixed_table(placement: Placement, shares: Any, source_load: Any = None) -> Ints:
    """Return the one slot that each source rank always uses for an expert, for engines with a static table a rank.

    How many sources a slot gets is decided first, so that shares are met as nearly as whole sources allow: sources are taken
    from heavy to light, each by the slot that is owed most, share * load less what it got; on ties by the slot with
    most sources of that load on its rank, then its node, then by the replicas in turn, beginning with number expert mod
    replicas. With equal sources that is the largest remainder, and each slot is less than one
    source away from its share; with unequal ones it is a good, not always the best, division. A slot with share 0 gets none.

    Which sources is decided next, among sources of equal load: a rank that holds the expert uses its own slot, then ranks use
    slots on their node, then any, each time the slot with most sources to come, as far as the numbers allow. Sources
    without load of an expert are divided by the shares among themselves.

    Parameters
    ----------
    placement : Placement
        Which expert each slot holds; its cluster says which ranks are near and which are up.
    shares : array_like of float [layers, slots]
        As for :func:`probability_table`.
    source_load : array_like [ranks, layers, experts], optional
        Tokens each source rank has, finite, >= 0. Default: all the same. Of ranks that are down it is not looked at.

    Returns
    -------
    int64 [ranks, layers, experts]
        -1 for ranks that are down, and for an expert without a slot, which must have no load.

    Raises
    ------
    ArgumentError
        On bad shares or loads, and an expert that has tokens and no slot.

    Examples
    --------
    >>> from equipoise import Cluster
    >>> placement = Placement([[0, 1, 0, 1]], Cluster(num_ranks=4, slots_per_rank=1, num_nodes=2), num_experts=2)
    >>> fixed_table(placement, [[0.75, 0.5, 0.25, 0.5]])[:, 0].tolist()
    [[0, 1], [0, 1], [2, 3], [0, 3]]
    """
    scaled = checked_shares(shares, placement)
    cluster = placement.cluster
    up = np.flatnonzero(cluster.alive)
    shape = (cluster.num_ranks, placement.num_layers, placement.num_experts)
    load = np.ones(shape) if source_load is None else checked_loads("source_load", source_load, _AXES, shape)
    if source_load is not None:
        check_held(placement, load[up].sum(axis=0))
    weight = np.ascontiguousarray(np.moveaxis(load, 0, -1))
    order = np.ascontiguousarray(up[np.argsort(-weight[..., up], axis=-1, kind="stable")])
    table = np.full(shape, ABSENT, np.int64)
    nodes = np.asarray(cluster.node_of_rank, np.int64)
    fix_sources(placement.expert_of_slot, scaled, weight, order, cluster.rank_of_slot, nodes, table)
    return table
