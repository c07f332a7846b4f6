"""Improve packings by exchanges between two packs. Each keeps the number of items a pack and equal ids apart.

A packing is handed over as the pack of each item, items sorted from large to small within a row.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.packs import (
    Packs,
    best_exchange,
    clearly_below,
    close_packs,
    exchange,
    find_exchange,
    make_packs,
    open_packs,
    rank_anew,
)
from equipoise.kernels.types import Floats, Ints

UNTIL_NONE_HELPS = -1


@kernel
def even_packs(n: int, num_packs: int, num_ids: int) -> Packs:
    """Return closed packs of n/num_packs items and speed 1."""
    return make_packs(np.full(num_packs, n // num_packs), np.ones(num_packs), num_ids)


@kernel
def best_swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange items out of the heaviest pack with whichever other pack helps, lightest first; see ``find_exchange``.

    ``weight``, ``item_id`` and ``pack`` are [rows, n]; ``pack`` is improved in place. Stops when no exchange helps, or after
    ``rounds`` exchanges.
    """
    num_rows, n = weight.shape
    packs = even_packs(n, num_packs, num_ids)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        swap_in_row(packs, rounds)
        close_packs(pack[x], packs)


@kernel
def swap_in_row(packs: Packs, rounds: int) -> None:
    """Apply :func:`best_swap` to one row of open packs. Comparing two packs costs O(n/num_packs)."""
    done = 0
    while done != rounds:
        i, other, j, _ = find_exchange(packs)
        if other < 0:
            break
        exchange(packs, packs.ranking[0], i, other, j)
        done += 1


@kernel
def swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange one item of the heaviest for one of the lightest pack, so that they end closest; as published.

    Arguments as for :func:`best_swap`; stops when this pair has no exchange that helps.
    """
    num_rows, n = weight.shape
    packs = even_packs(n, num_packs, num_ids)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        done = 0
        while done != rounds and num_packs > 1:
            heavy, light = packs.ranking[0], packs.ranking[num_packs - 1]
            level = 0.5 * (packs.load[heavy] + packs.load[light])
            _, i, j = best_exchange(packs, heavy, light, level, clearly_below(packs.load[heavy]))
            if i < 0:
                break
            exchange(packs, heavy, i, light, j)
            done += 1
        close_packs(pack[x], packs)


@kernel
def reconstruct(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Empty the heaviest and the lightest pack and deal their items anew, from large to small, to the lighter with room.

    The published rule, mended: a rebuild is kept only where it lowers the larger of the two; where it does not, the next
    lightest pack is tried; equal ids stay apart. Arguments as for :func:`best_swap`; a round is one rebuild that was kept.
    """
    num_rows, n = weight.shape
    packs = even_packs(n, num_packs, num_ids)
    dealt = np.empty((2, n // num_packs), np.int64)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        done = 0
        while done != rounds and _rebuild_heaviest(weight[x], item_id[x], packs, dealt):
            done += 1
        close_packs(pack[x], packs)


@kernel
def _rebuild_heaviest(weight: Floats, item_id: Ints, packs: Packs, dealt: Ints) -> bool:
    """Rebuild the heaviest pack with the lightest for which it helps; False where none does."""
    for rank in range(packs.load.shape[0] - 1, 0, -1):
        if _deal_pair(weight, item_id, packs, rank, dealt):
            _keep_pair(weight, item_id, packs, rank, dealt)
            return True
    return False


@kernel
def _deal_pair(weight: Floats, item_id: Ints, packs: Packs, rank: int, dealt: Ints) -> bool:
    """Deal the items of the heaviest pack and the one at ``rank`` into ``dealt`` [2, size]; tell whether that helps."""
    heavy = packs.ranking[0]
    light = packs.ranking[rank]
    size = packs.item.shape[1]
    i, j, filled_0, filled_1, load_0, load_1 = 0, 0, 0, 0, 0.0, 0.0
    while filled_0 + filled_1 < 2 * size:
        if j == size or (i < size and packs.item[heavy, i] < packs.item[light, j]):
            item = packs.item[heavy, i]
            i += 1
        else:
            item = packs.item[light, j]
            j += 1
        first = filled_1 == size or (filled_0 < size and load_0 <= load_1)
        if _contains(item_id, dealt[0], filled_0, item_id[item]):
            first = False
        elif _contains(item_id, dealt[1], filled_1, item_id[item]):
            first = True
        if (first and filled_0 == size) or (not first and filled_1 == size):
            return False
        if first:
            dealt[0, filled_0] = item
            filled_0 += 1
            load_0 += weight[item]
        else:
            dealt[1, filled_1] = item
            filled_1 += 1
            load_1 += weight[item]
    return bool(max(load_0, load_1) < clearly_below(packs.load[heavy]))


@kernel
def _keep_pair(weight: Floats, item_id: Ints, packs: Packs, rank: int, dealt: Ints) -> None:
    """Make ``dealt`` the contents of the heaviest pack and the one at ``rank``."""
    light = packs.ranking[rank]
    pair = (packs.ranking[0], light)
    for p in pair:
        for i in range(packs.item.shape[1]):
            packs.holds[p, packs.item_id[p, i]] = False
    for side in range(2):
        p = pair[side]
        packs.load[p] = 0.0
        for i in range(packs.item.shape[1]):
            item = dealt[side, i]
            packs.item[p, i] = item
            packs.weight[p, i] = weight[item]
            packs.item_id[p, i] = item_id[item]
            packs.holds[p, item_id[item]] = True
            packs.load[p] += weight[item]
        packs.time[p] = packs.load[p]
        rank_anew(packs, p)


@kernel
def _contains(item_id: Ints, dealt: Ints, filled: int, this_id: int) -> bool:
    for place in range(filled):
        if item_id[dealt[place]] == this_id:
            return True
    return False
