"""Deal items onto packs, one after the other, each onto the lightest pack that has room and does not hold its id.

Dealt from large to small this is LPT (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, section 5); every
published first packing differs from it only in the order of dealing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.random import below, draw, key_of, uniform
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Flags, Floats, Ints

SORTED = 0
INTERLEAVED = 1
SHUFFLED = 2
NOISY = 3


class Dealing(NamedTuple):
    """Scratch of :func:`deal`, made once a call for a number of packs and ids.

    ``load`` and ``room`` are [packs], ``holds`` [packs, ids]; ``winner`` and ``leaf_load`` are a tournament tree that keeps the
    lightest pack with room on top, lower numbers first on ties; ``skipped`` [packs] are packs set aside for an item.
    """

    load: Floats
    room: Ints
    holds: Flags
    winner: Ints
    leaf_load: Floats
    skipped: Ints


@kernel
def make_dealing(num_packs: int, num_ids: int) -> Dealing:
    """Return scratch for ``num_packs`` packs and ids in [0, num_ids)."""
    leaves = 1
    while leaves < num_packs:
        leaves *= 2
    return Dealing(
        np.empty(num_packs, np.float64),
        np.empty(num_packs, np.int64),
        np.zeros((num_packs, num_ids), np.bool_),
        np.empty(2 * leaves, np.int64),
        np.empty(leaves, np.float64),
        np.empty(num_packs, np.int64),
    )


@kernel
def pack_in_orders(
    weight: Floats, item_id: Ints, num_ids: int, num_packs: int, order_kind: Ints, noise: float, seed: int
) -> Ints:
    """Pack each row in several orders of dealing and keep the packing with the smallest largest pack.

    ``weight`` [rows, n] falls along each row, ``item_id`` [rows, n] lies in [0, num_ids); items of one id end on different
    packs, n/num_packs items on each. ``order_kind`` [candidates] names each candidate's order; ties go to the earlier one.
    Returns the pack of each item [rows, n].
    """
    num_rows, n = weight.shape
    best_pack = np.empty((num_rows, n), np.int64)
    order = np.empty(n, np.int64)
    pack = np.empty(n, np.int64)
    noisy = np.empty(n, np.float64)
    value_scratch = np.empty(n, np.float64)
    order_scratch = np.empty(n, np.int64)
    dealing = make_dealing(num_packs, num_ids)
    for x in range(num_rows):
        best_largest = np.inf
        key = key_of(seed, weight[x]) if order_kind.max() >= SHUFFLED else np.uint64(0)
        for candidate in range(order_kind.shape[0]):
            kind = order_kind[candidate]
            if kind == SORTED:
                for i in range(n):
                    order[i] = i
            elif kind == INTERLEAVED:
                for i in range(n):
                    order[i] = i // 2 if i % 2 == 0 else n - 1 - i // 2
            elif kind == SHUFFLED:
                _shuffle(order, draw(key, candidate))
            else:
                _sort_noisily(weight[x], noise, draw(key, candidate), order, noisy, value_scratch, order_scratch)
            deal(weight[x], item_id[x], order, pack, dealing)
            largest = dealing.load.max()
            if largest < best_largest:
                best_largest = largest
                best_pack[x] = pack
    return best_pack


@kernel
def _shuffle(order: Ints, key: np.uint64) -> None:
    n = order.shape[0]
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        j = below(key, i, i + 1)
        order[i], order[j] = order[j], order[i]


@kernel
def _sort_noisily(
    weight: Floats, noise: float, key: np.uint64, order: Ints, noisy: Floats, value_scratch: Floats, order_scratch: Ints
) -> None:
    for i in range(weight.shape[0]):
        order[i] = i
        noisy[i] = weight[i] * (1.0 + noise * (2.0 * uniform(key, i) - 1.0))
    sort_descending(noisy, order, value_scratch, order_scratch)


@kernel
def deal(weight: Floats, item_id: Ints, order: Ints, pack: Ints, dealing: Dealing) -> None:
    """Deal items [n] in ``order`` [n]: fills ``pack`` [n] and ``dealing.load``; ``dealing.holds`` comes and goes all false."""
    load, room, holds, winner, leaf_load, skipped = dealing
    n = order.shape[0]
    num_packs = load.shape[0]
    _start(load, room, winner, leaf_load, n // num_packs)
    for position in range(n):
        item = order[position]
        this_id = item_id[item]
        num_skipped = 0
        target = winner[1]
        while leaf_load[target] < np.inf and holds[target, this_id]:
            skipped[num_skipped] = target
            num_skipped += 1
            _set_leaf(winner, leaf_load, target, np.inf)
            target = winner[1]
        if leaf_load[target] == np.inf:
            target = _make_room(weight, item_id, order, position, pack, dealing, skipped[0])
        pack[item] = target
        load[target] += weight[item]
        room[target] -= 1
        holds[target, this_id] = True
        _set_leaf(winner, leaf_load, target, load[target] if room[target] > 0 else np.inf)
        for s in range(num_skipped):
            p = skipped[s]
            _set_leaf(winner, leaf_load, p, load[p] if room[p] > 0 else np.inf)
    for item in range(n):
        holds[pack[item], item_id[item]] = False


@kernel
def _start(load: Floats, room: Ints, winner: Ints, leaf_load: Floats, room_per_pack: int) -> None:
    leaves = leaf_load.shape[0]
    for p in range(leaves):
        winner[leaves + p] = p
        leaf_load[p] = np.inf
    for p in range(load.shape[0]):
        load[p] = 0.0
        room[p] = room_per_pack
        leaf_load[p] = 0.0
    for node in range(leaves - 1, 0, -1):
        _play(winner, leaf_load, node)


@kernel
def _make_room(weight: Floats, item_id: Ints, order: Ints, position: int, pack: Ints, dealing: Dealing, receiver: int) -> int:
    """Free a place for the item at ``position`` when every pack with room holds its id already; return the pack.

    One item moves from a full pack without the id to ``receiver``, so that the larger of the two ends smallest. There is
    always one: the full pack holds at least two ids more than the receiver shares with it.
    """
    load, room, holds, _, _, _ = dealing
    item = order[position]
    best = np.inf
    moved = -1
    for earlier in range(position):
        other = order[earlier]
        giver = pack[other]
        if holds[giver, item_id[item]] or holds[receiver, item_id[other]]:
            continue
        largest = max(load[giver] - weight[other] + weight[item], load[receiver] + weight[other])
        if largest < best:
            best = largest
            moved = other
    giver = int(pack[moved])
    pack[moved] = receiver
    load[giver] -= weight[moved]
    load[receiver] += weight[moved]
    room[giver] += 1
    room[receiver] -= 1
    holds[giver, item_id[moved]] = False
    holds[receiver, item_id[moved]] = True
    return giver


@kernel
def _play(winner: Ints, leaf_load: Floats, node: int) -> None:
    left = winner[2 * node]
    right = winner[2 * node + 1]
    winner[node] = right if leaf_load[right] < leaf_load[left] else left


@kernel
def _set_leaf(winner: Ints, leaf_load: Floats, leaf: int, value: float) -> None:
    leaf_load[leaf] = value
    node = (leaf + leaf_load.shape[0]) // 2
    while node >= 1:
        _play(winner, leaf_load, node)
        node //= 2
