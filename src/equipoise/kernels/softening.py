"""Exchanges across nodes within an allowance: how much load may be served away from its home node."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.packs import Packs, clearly_below, empty_packs, exchange, make_packs, rank_packs, slowest
from equipoise.kernels.types import Floats, Ints


@kernel
def soften_rows(
    slots: Ints,
    share: Floats,
    home: Ints,
    node: Ints,
    room: Ints,
    speed: Floats,
    allowance: Floats,
    bar: Floats,
    thrift: float,
) -> Floats:
    """Exchange experts out of the slowest rank of each layer, across nodes too, while the load away from home allows it.

    ``slots`` [layers, slots] holds experts rank by rank and is improved in place; ``share`` [layers, experts] is the load of a
    replica, ``home`` [layers, experts] a node, ``node``, ``room`` and ``speed`` [ranks]; ``allowance`` [layers] is how much
    load more may leave its home. Each time the exchange is made that gains most time for its load sent away plus ``thrift``
    mean loads of a rank. Layers at ``bar`` [layers] are left. Returns the slowest rank's time, [layers].
    """
    num_layers = slots.shape[0]
    packs = make_packs(room, speed, share.shape[1])
    largest = np.empty(num_layers, np.float64)
    for x in range(num_layers):
        _open(slots[x], share[x], packs)
        left = allowance[x]
        least_cost = thrift * packs.load.sum() / room.shape[0]
        while slowest(packs) > bar[x]:
            i, other, j, away = _find(packs, home[x], node, left, least_cost)
            if other < 0:
                break
            exchange(packs, packs.ranking[0], i, other, j)
            left -= away
        largest[x] = slowest(packs)
        _write(packs, slots[x])
        empty_packs(packs)
    return largest


@kernel
def _open(slots: Ints, share: Floats, packs: Packs) -> None:
    first = 0
    for p in range(packs.room.shape[0]):
        for i in range(packs.room[p]):
            e = slots[first + i]
            place = i
            while place > 0 and _goes_before(share, e, packs.item[p, place - 1]):
                packs.item[p, place] = packs.item[p, place - 1]
                place -= 1
            packs.item[p, place] = e
            packs.holds[p, e] = True
        for i in range(packs.room[p]):
            packs.weight[p, i] = share[packs.item[p, i]]
            packs.item_id[p, i] = packs.item[p, i]
        first += packs.room[p]
    rank_packs(packs)


@kernel
def _goes_before(share: Floats, e: int, f: int) -> bool:
    return share[e] > share[f] or (share[e] == share[f] and e < f)


@kernel
def _find(packs: Packs, home: Ints, node: Ints, left: float, least_cost: float) -> tuple[int, int, int, float]:
    """Find the exchange with the slowest pack that gains most for what it sends away, at most ``left``; other -1 if none."""
    heavy = packs.ranking[0]
    bar = clearly_below(packs.time[heavy])
    best, best_other, best_i, best_j, best_away = 0.0, -1, -1, -1, 0.0
    for other in range(packs.room.shape[0]):
        if other == heavy or packs.time[other] >= bar:
            continue
        for i in range(packs.room[heavy]):
            a = packs.item[heavy, i]
            if packs.holds[other, a]:
                continue
            for j in range(packs.room[other]):
                b = packs.item[other, j]
                shift = packs.weight[heavy, i] - packs.weight[other, j]
                if shift <= 0.0:
                    continue
                ends = max((packs.load[heavy] - shift) * packs.pace[heavy], (packs.load[other] + shift) * packs.pace[other])
                if ends >= bar or packs.holds[heavy, b]:
                    continue
                away = 0.0
                if node[heavy] != node[other]:
                    away = packs.weight[heavy, i] * _leaves(home[a], node[heavy], node[other])
                    away += packs.weight[other, j] * _leaves(home[b], node[other], node[heavy])
                gain = (packs.time[heavy] - ends) / (max(away, 0.0) + least_cost)
                if away <= left and gain > best:
                    best, best_other, best_i, best_j, best_away = gain, other, i, j, away
    return best_i, best_other, best_j, best_away


@kernel
def _leaves(home: int, source: int, target: int) -> float:
    """Return 1 where an expert leaves its home, -1 where it comes home, else 0."""
    if home == source:
        return 1.0
    return -1.0 if home == target else 0.0


@kernel
def _write(packs: Packs, slots: Ints) -> None:
    first = 0
    for p in range(packs.room.shape[0]):
        for i in range(packs.room[p]):
            e = packs.item[p, i]
            slot = first + i
            while slot > first and slots[slot - 1] > e:
                slots[slot] = slots[slot - 1]
                slot -= 1
            slots[slot] = e
        first += packs.room[p]
