"""Improve a packing by exchanges between two packs. Each keeps the number of items a pack and equal ids apart.

A packing is handed over as the pack of each item, items sorted from large to small within a row; inside, every pack lists
its items in that order, so two packs are compared by walking both lists once.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Flags, Floats, Ints

UNTIL_NONE_HELPS = -1

# An exchange counts as a gain only above rounding: sums of loads carry a few units in the last place.
_ROUNDING = 1e-13


@kernel
def best_swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange items out of the heaviest pack, always the exchange that lowers the larger of its two packs most.

    ``weight``, ``item_id`` and ``pack`` are [rows, n]; ``pack`` is improved in place. Stops when no exchange helps, or after
    ``rounds`` exchanges. An exchange with another pack costs O(n/num_packs); packs whose mean with the heaviest cannot beat
    the best exchange found are passed over.
    """
    num_rows, n = weight.shape
    size = n // num_packs
    items = np.empty((num_packs, size), np.int64)
    load = np.empty(num_packs, np.float64)
    holds = np.zeros((num_packs, num_ids), np.bool_)
    for x in range(num_rows):
        _open_row(weight[x], item_id[x], pack[x], items, load, holds)
        done = 0
        while done != rounds:
            heavy, light = _extremes(load)
            best = load[heavy] * (1.0 - _ROUNDING)
            best_other = -1
            best_i = -1
            best_j = -1
            for visit in range(-1, num_packs):
                other = light if visit == -1 else visit
                if other == heavy or (visit == light) or 0.5 * (load[heavy] + load[other]) >= best:
                    continue
                found, i, j = _best_exchange(weight[x], item_id[x], items, load, holds, heavy, other, best)
                if i >= 0:
                    best, best_other, best_i, best_j = found, other, i, j
            if best_other < 0:
                break
            _exchange(weight[x], item_id[x], items, load, holds, heavy, best_i, best_other, best_j)
            done += 1
        _close_row(item_id[x], items, holds, pack[x])


@kernel
def swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange one item of the heaviest for one of the lightest pack, so that they end closest; as published.

    Arguments as for :func:`best_swap`; stops when this pair has no exchange that helps.
    """
    num_rows, n = weight.shape
    size = n // num_packs
    items = np.empty((num_packs, size), np.int64)
    load = np.empty(num_packs, np.float64)
    holds = np.zeros((num_packs, num_ids), np.bool_)
    for x in range(num_rows):
        _open_row(weight[x], item_id[x], pack[x], items, load, holds)
        done = 0
        while done != rounds:
            heavy, light = _extremes(load)
            if heavy == light:
                break
            bar = load[heavy] * (1.0 - _ROUNDING)
            _, i, j = _best_exchange(weight[x], item_id[x], items, load, holds, heavy, light, bar)
            if i < 0:
                break
            _exchange(weight[x], item_id[x], items, load, holds, heavy, i, light, j)
            done += 1
        _close_row(item_id[x], items, holds, pack[x])


@kernel
def reconstruct(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Empty the heaviest and the lightest pack and deal their items anew, from large to small, to the lighter with room.

    The published rule, mended: a rebuild is kept only where it lowers the larger of the two; where it does not, the next
    lightest pack is tried; equal ids stay apart. Arguments as for :func:`best_swap`; a round is one rebuild that was kept.
    """
    num_rows, n = weight.shape
    size = n // num_packs
    items = np.empty((num_packs, size), np.int64)
    load = np.empty(num_packs, np.float64)
    holds = np.zeros((num_packs, num_ids), np.bool_)
    tried = np.empty(num_packs, np.bool_)
    dealt = np.empty((2, size), np.int64)
    for x in range(num_rows):
        _open_row(weight[x], item_id[x], pack[x], items, load, holds)
        done = 0
        while done != rounds:
            heavy, _ = _extremes(load)
            tried[:] = False
            tried[heavy] = True
            rebuilt = False
            for _ in range(num_packs - 1):
                light = -1
                for p in range(num_packs):
                    if not tried[p] and (light < 0 or load[p] < load[light]):
                        light = p
                tried[light] = True
                if _rebuild(weight[x], item_id[x], items, load, holds, heavy, light, dealt):
                    rebuilt = True
                    break
            if not rebuilt:
                break
            done += 1
        _close_row(item_id[x], items, holds, pack[x])


@kernel
def _open_row(weight: Floats, item_id: Ints, pack: Ints, items: Ints, load: Floats, holds: Flags) -> None:
    filled = np.zeros(load.shape[0], np.int64)
    load[:] = 0.0
    for item in range(weight.shape[0]):
        p = pack[item]
        items[p, filled[p]] = item
        filled[p] += 1
        load[p] += weight[item]
        holds[p, item_id[item]] = True


@kernel
def _close_row(item_id: Ints, items: Ints, holds: Flags, pack: Ints) -> None:
    num_packs, size = items.shape
    for p in range(num_packs):
        for i in range(size):
            pack[items[p, i]] = p
            holds[p, item_id[items[p, i]]] = False


@kernel
def _extremes(load: Floats) -> tuple[int, int]:
    heavy = 0
    light = 0
    for p in range(1, load.shape[0]):
        if load[p] > load[heavy]:
            heavy = p
        if load[p] < load[light]:
            light = p
    return heavy, light


@kernel
def _best_exchange(
    weight: Floats, item_id: Ints, items: Ints, load: Floats, holds: Flags, heavy: int, other: int, bar: float
) -> tuple[float, int, int]:
    """Find positions (i in ``heavy``, j in ``other``) whose exchange ends lowest, below ``bar``; (bar, -1, -1) if none.

    Both lists fall, so as i goes on, the j that closes the difference only goes on too: one walk over both.
    """
    size = items.shape[1]
    heavy_load = load[heavy]
    other_load = load[other]
    half = 0.5 * (heavy_load - other_load)
    best = bar
    best_i = -1
    best_j = -1
    j = 0
    above = -1
    for i in range(size):
        item = items[heavy, i]
        if holds[other, item_id[item]]:
            continue
        target = weight[item] - half
        while j < size:
            mate = items[other, j]
            if not holds[heavy, item_id[mate]]:
                if weight[mate] <= target:
                    break
                above = j
            j += 1
        if above >= 0:
            shift = weight[item] - weight[items[other, above]]
            largest = max(heavy_load - shift, other_load + shift)
            if largest < best:
                best, best_i, best_j = largest, i, above
        if j < size:
            shift = weight[item] - weight[items[other, j]]
            largest = max(heavy_load - shift, other_load + shift)
            if largest < best:
                best, best_i, best_j = largest, i, j
    return best, best_i, best_j


@kernel
def _exchange(weight: Floats, item_id: Ints, items: Ints, load: Floats, holds: Flags, p: int, i: int, q: int, j: int) -> None:
    given = items[p, i]
    taken = items[q, j]
    holds[p, item_id[given]] = False
    holds[q, item_id[taken]] = False
    holds[p, item_id[taken]] = True
    holds[q, item_id[given]] = True
    _replace_sorted(items[p], i, taken)
    _replace_sorted(items[q], j, given)
    _sum_pack(weight, items, load, p)
    _sum_pack(weight, items, load, q)


@kernel
def _replace_sorted(row: Ints, position: int, item: int) -> None:
    while position + 1 < row.shape[0] and row[position + 1] < item:
        row[position] = row[position + 1]
        position += 1
    while position > 0 and row[position - 1] > item:
        row[position] = row[position - 1]
        position -= 1
    row[position] = item


@kernel
def _sum_pack(weight: Floats, items: Ints, load: Floats, p: int) -> None:
    total = 0.0
    for i in range(items.shape[1]):
        total += weight[items[p, i]]
    load[p] = total


@kernel
def _rebuild(
    weight: Floats, item_id: Ints, items: Ints, load: Floats, holds: Flags, heavy: int, light: int, dealt: Ints
) -> bool:
    size = items.shape[1]
    i = 0
    j = 0
    filled_0 = 0
    filled_1 = 0
    load_0 = 0.0
    load_1 = 0.0
    while filled_0 + filled_1 < 2 * size:
        if j == size or (i < size and items[heavy, i] < items[light, j]):
            item = items[heavy, i]
            i += 1
        else:
            item = items[light, j]
            j += 1
        first = filled_1 == size or (filled_0 < size and load_0 <= load_1)
        twin_in_first = _contains(item_id, dealt[0], filled_0, item_id[item])
        twin_in_second = _contains(item_id, dealt[1], filled_1, item_id[item])
        if twin_in_first:
            first = False
        elif twin_in_second:
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
    if max(load_0, load_1) >= load[heavy] * (1.0 - _ROUNDING):
        return False
    for position in range(size):
        holds[heavy, item_id[items[heavy, position]]] = False
        holds[light, item_id[items[light, position]]] = False
    for position in range(size):
        items[heavy, position] = dealt[0, position]
        items[light, position] = dealt[1, position]
        holds[heavy, item_id[dealt[0, position]]] = True
        holds[light, item_id[dealt[1, position]]] = True
    load[heavy] = load_0
    load[light] = load_1
    return True


@kernel
def _contains(item_id: Ints, dealt: Ints, filled: int, this_id: int) -> bool:
    for position in range(filled):
        if item_id[dealt[position]] == this_id:
            return True
    return False
