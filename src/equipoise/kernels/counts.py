"""The replica counts of one row, and the slots of open packs that change hands between experts.

Here an item is a replica, and both item and id are its expert: a pack holds an expert at most once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.packs import Packs, exchange, put, rank_packs
from equipoise.kernels.types import Floats, Ints


class Counts(NamedTuple):
    """Replica counts of one row.

    ``load``, ``count`` and ``share`` (the cost of one replica) are [experts]; ``where`` [experts, most] lists the packs
    that hold each expert, the first ``count`` of them in use; ``token_cost`` and ``active_cost`` make a share of a load.
    """

    load: Floats
    count: Ints  # type: ignore[assignment]
    share: Floats
    where: Ints
    token_cost: float
    active_cost: float


@kernel
def make_counts(num_experts: int, most: int, token_cost: float, active_cost: float) -> Counts:
    """Return empty counts for at most ``most`` replicas of an expert."""
    return Counts(
        np.empty(num_experts, np.float64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.float64),
        np.empty((num_experts, most), np.int64),
        token_cost,
        active_cost,
    )


@part
def share_of(load: float, count: int, token_cost: float, active_cost: float) -> float:
    """Return what one of ``count`` replicas of an expert of ``load`` costs its pack: its tokens, and being active at all.

    Of a batch's tokens, L on c replicas leave min(1, L/c) of each replica active.
    """
    tokens = load / count
    return token_cost * tokens + active_cost * min(1.0, tokens)


@part
def share_with(counts: Counts, e: int, count: int) -> float:
    """Return the share of expert e with another count."""
    return share_of(counts.load[e], count, counts.token_cost, counts.active_cost)


@part
def may_grow(counts: Counts, e: int) -> bool:
    """Tell whether expert e may have another replica."""
    return bool(counts.count[e] < counts.where.shape[1])


@kernel
def open_with_replicas(expert: Ints, pack: Ints, weight: Floats, packs: Packs) -> None:
    """Fill the packs with a row's replicas, sorted from heavy to light: all are [slots]."""
    filled = packs.place
    filled[:] = 0
    for slot in range(expert.shape[0]):
        e, p = expert[slot], pack[slot]
        packs.item[p, filled[p]] = e
        packs.weight[p, filled[p]] = weight[slot]
        packs.item_id[p, filled[p]] = e
        packs.holds[p, e] = True
        filled[p] += 1
    rank_packs(packs)


@kernel
def locate(counts: Counts, packs: Packs) -> None:
    """List the packs that hold each expert; from then on, exchanges must keep the lists up to date."""
    counts.count[:] = 0
    for p in range(packs.room.shape[0]):
        for i in range(packs.room[p]):
            e = packs.item[p, i]
            counts.where[e, counts.count[e]] = p
            counts.count[e] += 1


@kernel
def exchange_experts(counts: Counts, packs: Packs, p: int, a: int, q: int, b: int) -> None:
    """Exchange expert a of pack p for expert b of pack q."""
    _relocate(counts, a, p, q)
    _relocate(counts, b, q, p)
    exchange(packs, p, _find(packs, p, a), q, _find(packs, q, b))


@kernel
def give_slot(counts: Counts, packs: Packs, p: int, donor: int, receiver: int) -> None:
    """Give the slot of ``donor`` on pack p to ``receiver``: all replicas of both change their share.

    Giving it back undoes it, to the last bit.
    """
    last = counts.count[donor] - 1
    _relocate(counts, donor, p, counts.where[donor, last])
    counts.count[donor] = last
    counts.where[receiver, counts.count[receiver]] = p
    counts.count[receiver] += 1
    counts.share[donor] = share_with(counts, donor, counts.count[donor])
    counts.share[receiver] = share_with(counts, receiver, counts.count[receiver])
    packs.holds[p, donor] = False
    packs.holds[p, receiver] = True
    put(packs, p, _find(packs, p, donor), receiver, counts.share[receiver], receiver)
    _weigh_anew(counts, packs, donor)
    _weigh_anew(counts, packs, receiver)


@kernel
def _weigh_anew(counts: Counts, packs: Packs, e: int) -> None:
    for x in range(counts.count[e]):
        p = counts.where[e, x]
        place = _find(packs, p, e)
        if packs.weight[p, place] != counts.share[e]:
            put(packs, p, place, e, counts.share[e], e)


@kernel
def _relocate(counts: Counts, e: int, p: int, q: int) -> None:
    """Let the list of where expert e is say q instead of p."""
    for x in range(counts.count[e]):
        if counts.where[e, x] == p:
            counts.where[e, x] = q
            return


@kernel
def _find(packs: Packs, p: int, e: int) -> int:
    place = 0
    while packs.item[p, place] != e:
        place += 1
    return place
