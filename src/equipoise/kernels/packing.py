"""Deal items onto packs, one after the other, each onto the lightest pack that has room and does not hold its id.

Dealt from large to small this is LPT (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, section 5); every
published first packing differs from it only in the order of dealing.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.random import below, draw, key_of, uniform
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Floats, Ints

SORTED = 0
INTERLEAVED = 1
SHUFFLED = 2
NOISY = 3


@kernel
def pack_in_orders(
    weight: Floats, item_id: Ints, num_ids: int, num_packs: int, order_kind: Ints, noise: float, seed: int
) -> tuple[Ints, Floats]:
    """Pack each row in several orders of dealing and keep the packing with the smallest largest pack.

    ``weight`` [rows, n] falls along each row, ``item_id`` [rows, n] lies in [0, num_ids); items of one id end on different
    packs, n/num_packs items on each. ``order_kind`` [candidates] names each candidate's order; ties go to the earlier one.
    Returns the pack of each item [rows, n] and the largest pack of each row [rows].
    """
    num_rows, n = weight.shape
    room_per_pack = n // num_packs
    best_pack = np.empty((num_rows, n), np.int64)
    best_largest = np.empty(num_rows, np.float64)
    order = np.empty(n, np.int64)
    pack = np.empty(n, np.int64)
    noisy = np.empty(n, np.float64)
    value_scratch = np.empty(n, np.float64)
    order_scratch = np.empty(n, np.int64)
    load = np.empty(num_packs, np.float64)
    room = np.empty(num_packs, np.int64)
    holds = np.zeros((num_packs, num_ids), np.bool_)
    leaves = 1
    while leaves < num_packs:
        leaves *= 2
    winner = np.empty(2 * leaves, np.int64)
    leaf_load = np.empty(leaves, np.float64)
    skipped = np.empty(num_packs, np.int64)
    for x in range(num_rows):
        key = key_of(seed, weight[x]) if order_kind.shape[0] > 1 or order_kind[0] >= SHUFFLED else np.uint64(0)
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
            _deal(weight[x], item_id[x], order, room_per_pack, pack, load, room, holds, winner, leaf_load, skipped)
            largest = load.max()
            if candidate == 0 or largest < best_largest[x]:
                best_largest[x] = largest
                best_pack[x] = pack
    return best_pack, best_largest


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
def _deal(
    weight: Floats,
    item_id: Ints,
    order: Ints,
    room_per_pack: int,
    pack: Ints,
    load: Floats,
    room: Ints,
    holds: np.ndarray,
    winner: Ints,
    leaf_load: Floats,
    skipped: Ints,
) -> None:
    """Fill ``pack`` [n] and ``load`` [packs]; ``holds`` comes and goes all false.

    A tournament tree (``winner``, ``leaf_load``) keeps the lightest pack with room on top, lower numbers first on ties.
    """
    n = order.shape[0]
    num_packs = load.shape[0]
    leaves = leaf_load.shape[0]
    for p in range(num_packs):
        load[p] = 0.0
        room[p] = room_per_pack
        leaf_load[p] = 0.0
    for p in range(num_packs, leaves):
        leaf_load[p] = np.inf
    for p in range(leaves):
        winner[leaves + p] = p
    for node in range(leaves - 1, 0, -1):
        _play(winner, leaf_load, node)
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
            target = _make_room(weight, item_id, order, position, pack, load, room, holds, skipped[0])
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
def _make_room(
    weight: Floats,
    item_id: Ints,
    order: Ints,
    position: int,
    pack: Ints,
    load: Floats,
    room: Ints,
    holds: np.ndarray,
    receiver: int,
) -> int:
    """Free a place for the item at ``position`` when every pack with room holds its id already; return the pack.

    One item moves from a full pack without the id to ``receiver``, so that the larger of the two ends smallest. There is
    always one: the full pack holds at least two ids more than the receiver shares with it.
    """
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
