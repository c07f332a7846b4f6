"""Which rank's tokens go to which slot, once it is known how many each slot gets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from equipoise.cluster import Cluster
from equipoise.dispatching.checking import check_sums, checked, checked_slots
from equipoise.kernels.types import Floats, Ints


def route_sources(expert_of_slot: npt.ArrayLike, cluster: Cluster, tokens: npt.ArrayLike, source_load: npt.ArrayLike) -> Floats:
    """Say which slot takes how many tokens of which rank: own tokens first, then those of the node, then the others.

    No routing of the same ``tokens`` is nearer. Among ranks and slots equally far, both are taken in rising order.

    Parameters
    ----------
    expert_of_slot : int [layers, slots]
        Expert in each slot, -1 for none.
    cluster : Cluster
        Ranks and their nodes.
    tokens : float [layers, slots]
        Tokens of each slot, as :func:`prefer_near` returns them.
    source_load : float [ranks, layers, experts]
        Tokens whose router ran on each rank.

    Returns
    -------
    float64 [ranks, layers, slots]
        Over ranks they add up to ``tokens``, over an expert's slots to its ``source_load``, but for rounding.

    Raises
    ------
    ArgumentError
        When arrays do not fit each other, or an expert's tokens do not add up to its ``source_load``.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=1)
    >>> route_sources([[0, 0]], cluster, [[3, 2]], [[[1]], [[4]]]).tolist()
    [[[1.0, 0.0]], [[2.0, 2.0]]]
    """
    slots, filled, source = _checked_sources(expert_of_slot, cluster, tokens, source_load)
    routed = np.zeros((cluster.num_ranks, *slots.shape))
    node = np.asarray(cluster.node_of_rank)
    for x, expert in enumerate(slots):
        count = np.bincount(expert[expert >= 0], minlength=source.shape[2])
        alone = np.flatnonzero((expert >= 0) & (count[expert] == 1))
        routed[:, x, alone] = source[:, x, expert[alone]]
        for e in np.flatnonzero(count > 1):
            mine = np.flatnonzero(expert == e)
            routed[:, x, mine] = _route(filled[x, mine], source[:, x, e], cluster.rank_of_slot[mine], node)
    return routed


def spread_sources(
    expert_of_slot: npt.ArrayLike, cluster: Cluster, tokens: npt.ArrayLike, source_load: npt.ArrayLike
) -> Floats:
    """Say the same where every rank splits its tokens alike, by the slots' overall shares, wherever these are.

    What :func:`route_sources` saves, it saves against this.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=1)
    >>> spread_sources([[0, 0]], cluster, [[3, 2]], [[[1]], [[4]]]).tolist()
    [[[0.6, 0.4]], [[2.4, 1.6]]]
    """
    slots, filled, source = _checked_sources(expert_of_slot, cluster, tokens, source_load)
    total = _of_slot(source.sum(axis=0), slots)
    share = np.divide(filled, total, out=np.zeros_like(filled), where=total > 0.0)
    return np.asarray(_of_slot(source, slots) * share)


def share_sources(
    expert_of_slot: npt.ArrayLike, source_tokens: npt.ArrayLike, source_load: npt.ArrayLike, shares: npt.ArrayLike
) -> Floats:
    """Return the part of its tokens of an expert that each rank sends to each slot, float64 [ranks, layers, slots].

    ``shares`` [layers, slots], those over all ranks, stand in for ranks that have no tokens of the expert.

    Examples
    --------
    >>> share_sources([[0, 0]], [[[1, 0]], [[0, 0]]], [[[1]], [[0]]], [[0.6, 0.4]]).tolist()
    [[[1.0, 0.0]], [[0.6, 0.4]]]
    """
    routed, source = np.asarray(source_tokens, np.float64), np.asarray(source_load, np.float64)
    total = _of_slot(source, np.asarray(expert_of_slot, np.int64))
    overall = np.broadcast_to(np.asarray(shares, np.float64), routed.shape).copy()
    return np.divide(routed, total, out=overall, where=total > 0.0)


def crossings(source_tokens: npt.ArrayLike, cluster: Cluster) -> Floats:
    """Count the tokens that leave their node, float64 [layers].

    Examples
    --------
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=1, num_nodes=2)
    >>> crossings([[[1, 0]], [[2, 2]]], cluster).tolist()
    [2.0]
    """
    node = np.asarray(cluster.node_of_rank)
    leaves = node[:, np.newaxis] != node[cluster.rank_of_slot]
    return np.asarray(np.einsum("ils,is->l", np.asarray(source_tokens, np.float64), leaves.astype(np.float64)))


def _checked_sources(
    expert_of_slot: npt.ArrayLike, cluster: Cluster, tokens: npt.ArrayLike, source_load: npt.ArrayLike
) -> tuple[Ints, Floats, Floats]:
    """Return slots, their tokens and the ranks' loads, which fit each other; empty slots without tokens."""
    slots = checked_slots(expert_of_slot, cluster)
    source = checked("source_load", source_load, (cluster.num_ranks, len(slots), None))
    filled = np.where(slots >= 0, checked("tokens", tokens, slots.shape), 0.0)
    held = np.zeros(source.shape[1:])
    layer, slot = np.nonzero(slots >= 0)
    np.add.at(held, (layer, slots[layer, slot]), filled[layer, slot])
    check_sums("tokens", held, source.sum(axis=0))
    return slots, filled, source


def _of_slot(of_expert: Floats, expert_of_slot: Ints) -> Floats:
    """Return each slot's entry of [..., layers, experts], 0 for an empty slot: [..., layers, slots]."""
    layer = np.arange(len(expert_of_slot))[:, np.newaxis]
    return np.where(expert_of_slot >= 0, of_expert[..., layer, np.maximum(expert_of_slot, 0)], 0.0)


def _route(tokens: Floats, source: Floats, rank: Ints, node_of_rank: Ints) -> Floats:
    """Route one expert's tokens [ranks] to its slots: [ranks, slots]; three rounds, from near to far."""
    num_ranks = len(source)
    routed = np.zeros((num_ranks, len(tokens)))
    wanted, left = tokens.copy(), source.copy()
    anywhere = np.ones(num_ranks, bool)
    for is_far in range(3):
        for i, r in enumerate(rank):
            near = [np.arange(num_ranks) == r, node_of_rank == node_of_rank[r], anywhere][is_far]
            offer = np.where(near, left, 0.0)
            taken = np.clip(wanted[i] - (np.cumsum(offer) - offer), 0.0, offer)
            routed[:, i] += taken
            left -= taken
            wanted[i] = max(wanted[i] - taken.sum(), 0.0)
    routed[:, np.argmax(tokens)] += left
    return routed
