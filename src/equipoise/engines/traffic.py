"""Tokens that leave the rank, or the node, where their router ran, under a placement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from equipoise.cluster import Cluster
from equipoise.dispatching.routing import crossings, spread_sources
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats
from equipoise.placement import ABSENT, Placement


@dataclass(frozen=True)
class Traffic:
    """Under a dispatch rule, how many of ``tokens`` leave their rank, and how many of those also their node."""

    dispatch: str
    tokens: float
    leave_rank: float
    leave_node: float


def count_traffic(placement: Placement, source_load: npt.ArrayLike) -> tuple[Traffic, ...]:
    """Count the tokens that leave their rank and node, under equal and under nearest dispatch.

    ``equal``: every rank splits its tokens of an expert evenly over all replicas. ``nearest``: they stay on the rank if it
    holds the expert, else on the node if that does.

    Parameters
    ----------
    placement : Placement
        Which expert each slot holds.
    source_load : [ranks, layers, experts] or [steps, ranks, layers, experts]
        Tokens whose router ran on each rank; steps are added up.

    Raises
    ------
    ArgumentError
        When the array does not fit the placement.

    Examples
    --------
    Expert 0 is on both ranks, each a node; rank 0 has 4 tokens of it, rank 1 has 2 of expert 1, which only rank 0 holds:

    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2, num_nodes=2)
    >>> equal, nearest = count_traffic(Placement([[0, 1, 0, 2]], cluster, 3), [[[4, 0, 0]], [[0, 2, 0]]])
    >>> equal.leave_node, nearest.leave_node
    (4.0, 2.0)
    """
    source = _checked(placement, source_load)
    total = float(source.sum())
    cluster = placement.cluster
    apart = replace(cluster, num_nodes=cluster.num_ranks, node_of_rank=range(cluster.num_ranks))
    return (
        Traffic("equal", total, _leaving_evenly(placement, source, apart), _leaving_evenly(placement, source, cluster)),
        Traffic("nearest", total, _leaving_at_most(placement, source, apart), _leaving_at_most(placement, source, cluster)),
    )


def _checked(placement: Placement, source_load: npt.ArrayLike) -> Floats:
    given = np.asarray(source_load, np.float64)
    source: Floats = given.sum(axis=0) if given.ndim == 4 else given
    wanted = (placement.cluster.num_ranks, placement.num_layers, placement.num_experts)
    if source.shape != wanted:
        raise ArgumentError(
            f"tokens by source have shape {list(given.shape)}",
            f"they must be [ranks, layers, experts] = {list(wanted)}, with steps before or not",
            "take a placement and a load of the same ranks and model",
        )
    return source


def _leaving_evenly(placement: Placement, source: Floats, cluster: Cluster) -> float:
    per_replica = source.sum(axis=0) / np.maximum(placement.replica_count, 1)
    expert = placement.expert_of_slot
    tokens = np.where(expert == ABSENT, 0.0, np.take_along_axis(per_replica, np.maximum(expert, 0), axis=1))
    return float(crossings(spread_sources(expert, cluster, tokens, source), cluster).sum())


def _leaving_at_most(placement: Placement, source: Floats, cluster: Cluster) -> float:
    """Count the tokens of experts that no rank of their node holds."""
    layer, slot = np.nonzero(placement.expert_of_slot != ABSENT)
    node = np.asarray(cluster.node_of_rank)
    is_held = np.zeros((cluster.num_nodes, *source.shape[1:]), bool)
    is_held[node[cluster.rank_of_slot[slot]], layer, placement.expert_of_slot[layer, slot]] = True
    return float(source[~is_held[node]].sum())
