"""Deal items onto packs, one after the other, each onto the lightest pack that has room and does not hold its id.

Dealt from large to small this is LPT (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, section 5); every
published first packing differs from it only in the order of dealing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.random import below, draw, key_of, uniform
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Flags, Floats, Ints

SORTED = 0
INTERLEAVED = 1
SHUFFLED = 2
NOISY = 3

_ONE = np.uint64(1)


class Dealing(NamedTuple):
    """Scratch of :func:`deal`, made once a call for a number of packs and ids.

    ``load`` and ``room`` are [packs], ``holds`` [packs, ids]; ``winner`` and ``winner_load`` are a tournament tree that keeps
    the lightest pack with room on top, lower numbers first on ties.
    """

    load: Floats
    room: Ints
    holds: Flags
    winner: Ints
    winner_load: Floats


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
        np.empty(2 * leaves, np.float64),
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
    load, room, holds, winner, winner_load = dealing
    n = order.shape[0]
    load[:] = 0.0
    room[:] = n // load.shape[0]
    dealt = _deal_one_each(weight, item_id, order, pack, dealing)
    _start_tree(dealing)
    for position in range(dealt, n):
        item = order[position]
        this_id = item_id[item]
        target = winner[1]
        if holds[target, this_id]:
            target = _lightest_without(this_id, dealing)
            if target < 0:
                target = _make_room(weight, item_id, order, position, pack, dealing)
        pack[item] = target
        load[target] += weight[item]
        room[target] -= 1
        holds[target, this_id] = True
        _set_leaf(winner, winner_load, target, load[target] if room[target] > 0 else np.inf)
    for item in range(n):
        holds[pack[item], item_id[item]] = False


@kernel
def _deal_one_each(weight: Floats, item_id: Ints, order: Ints, pack: Ints, dealing: Dealing) -> int:
    """Deal the first items, each to the next pack, which is empty and so the lightest; returns how many."""
    for position in range(dealing.load.shape[0]):
        item = order[position]
        if weight[item] == 0.0:
            return position
        pack[item] = position
        dealing.load[position] = weight[item]
        dealing.room[position] -= 1
        dealing.holds[position, item_id[item]] = True
    return int(dealing.load.shape[0])


@kernel
def _lightest_without(this_id: int, dealing: Dealing) -> int:
    """Return the lightest pack with room that does not hold the id, -1 if there is none."""
    lightest = np.inf
    found = -1
    for p in range(dealing.load.shape[0]):
        if dealing.room[p] > 0 and not dealing.holds[p, this_id] and dealing.load[p] < lightest:
            found, lightest = p, dealing.load[p]
    return found


@kernel
def _start_tree(dealing: Dealing) -> None:
    """Set the leaves, behind the inner nodes, to the packs, and let them play; what has no room cannot win."""
    leaves = dealing.winner.shape[0] // 2
    for p in range(leaves):
        has_room = p < dealing.load.shape[0] and dealing.room[p] > 0
        dealing.winner[leaves + p] = p
        dealing.winner_load[leaves + p] = dealing.load[p] if has_room else np.inf
    for node in range(leaves - 1, 0, -1):
        best = 2 * node
        if dealing.winner_load[best + 1] < dealing.winner_load[best]:
            best += 1
        dealing.winner[node] = dealing.winner[best]
        dealing.winner_load[node] = dealing.winner_load[best]


@part
def _set_leaf(winner: Ints, winner_load: Floats, leaf: int, value: float) -> None:
    """Set a leaf and play its way up. Unsigned numbers index without a test for negative ones."""
    node = np.uint64(leaf + winner.shape[0] // 2)
    winner_load[node] = value
    node >>= _ONE
    while node >= _ONE:
        left = node << _ONE
        right = left | _ONE
        left_load, right_load = winner_load[left], winner_load[right]
        if right_load < left_load:
            winner[node] = winner[right]
            winner_load[node] = right_load
        else:
            winner[node] = winner[left]
            winner_load[node] = left_load
        node >>= _ONE


@kernel
def _make_room(weight: Floats, item_id: Ints, order: Ints, position: int, pack: Ints, dealing: Dealing) -> int:
    """Free a place for the item at ``position`` when every pack with room holds its id already; return the pack.

    One item moves from a full pack without the id to the lightest with room, so that the larger of the two ends smallest.
    There is always one: the full pack holds at least two ids more than the receiver shares with it.
    """
    load, room, holds, winner, winner_load = dealing
    receiver = winner[1]
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
    _set_leaf(winner, winner_load, receiver, load[receiver] if room[receiver] > 0 else np.inf)
    return giver


@kernel
def deal_unequal(weight: Floats, item_id: Ints, room: Ints, speed: Floats, count: Ints, pack: Ints, holds: Flags) -> None:
    """Deal items [n], from heavy to light, onto unequal packs, each to the one that then ends earliest; fills ``pack`` [n].

    ``room`` and ``speed`` are [packs], ``count`` [ids] the items of each id; ``holds`` [packs, ids] comes and goes all false.
    Where the last items fit nowhere, all are dealt anew, id by id. O(n * packs).
    """
    load = np.zeros(room.shape[0], np.float64)
    left = room.copy()
    fits = True
    for item in range(weight.shape[0]):
        target = -1
        best = np.inf
        for p in range(room.shape[0]):
            ends = (load[p] + weight[item]) / speed[p]
            if left[p] > 0 and ends < best and not holds[p, item_id[item]]:
                target, best = p, ends
        if target < 0:
            fits = False
            break
        pack[item] = target
        load[target] += weight[item]
        left[target] -= 1
        holds[target, item_id[item]] = True
    holds[:] = False
    if not fits:
        _deal_by_id(item_id, room, count, pack)


@kernel
def _deal_by_id(item_id: Ints, room: Ints, count: Ints, pack: Ints) -> None:
    """Put the items of each id, most items first, on the packs with most room left.

    This finds a packing wherever there is one (Gale, "A theorem on flows in networks", 1957; Ryser, 1957).
    """
    left = room.copy()
    packs_by_room = np.empty_like(room)
    for num in range(count.max(), 0, -1):
        for this_id in range(count.shape[0]):
            if count[this_id] != num:
                continue
            for p in range(room.shape[0]):
                place = p
                while place > 0 and left[packs_by_room[place - 1]] < left[p]:
                    packs_by_room[place] = packs_by_room[place - 1]
                    place -= 1
                packs_by_room[place] = p
            given = 0
            for item in range(item_id.shape[0]):
                if item_id[item] == this_id:
                    pack[item] = packs_by_room[given]
                    left[packs_by_room[given]] -= 1
                    given += 1
