"""Improve a packing by exchanges between two packs. Each keeps the number of items a pack and equal ids apart.

A packing is handed over as the pack of each item, items sorted from large to small within a row; inside, every pack lists
its items in that order, so two packs are compared by walking both lists once. Packs are ranked from heavy to light, lower
numbers first on ties.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Flags, Floats, Ints

UNTIL_NONE_HELPS = -1

_ROUNDING = 1e-13


@kernel
def clearly_below(load: float) -> float:
    """Return what a heaviest pack of ``load`` must fall below to count as a gain.

    Sums of loads carry a few units in the last place; and where a load is so small that it has no place for a share of itself,
    nothing is a gain, or exchanges would never end.
    """
    bar = load * (1.0 - _ROUNDING)
    return bar if bar < load else -np.inf


class Packs(NamedTuple):
    """The packs of one row, and scratch.

    ``item``, ``weight`` and ``item_id`` are [packs, size], items in rising order; ``load`` and ``ranking`` [packs]; ``holds``
    [packs, ids] is all false while the packs are closed.
    """

    item: Ints
    weight: Floats
    item_id: Ints
    load: Floats
    ranking: Ints
    holds: Flags
    value_scratch: Floats
    order_scratch: Ints


@kernel
def make_packs(num_packs: int, size: int, num_ids: int) -> Packs:
    """Return closed packs of ``size`` items with ids in [0, num_ids)."""
    return Packs(
        np.empty((num_packs, size), np.int64),
        np.empty((num_packs, size), np.float64),
        np.empty((num_packs, size), np.int64),
        np.empty(num_packs, np.float64),
        np.empty(num_packs, np.int64),
        np.zeros((num_packs, num_ids), np.bool_),
        np.empty(num_packs, np.float64),
        np.empty(num_packs, np.int64),
    )


@kernel
def open_packs(weight: Floats, item_id: Ints, pack: Ints, packs: Packs) -> None:
    """Fill the packs with a row's items: ``weight``, ``item_id`` and ``pack`` are [n]."""
    num_packs = packs.load.shape[0]
    packs.load[:] = 0.0
    packs.ranking[:] = 0  # counts the items of each pack until the packs are ranked
    for i in range(weight.shape[0]):
        p = pack[i]
        place = packs.ranking[p]
        packs.item[p, place] = i
        packs.weight[p, place] = weight[i]
        packs.item_id[p, place] = item_id[i]
        packs.holds[p, item_id[i]] = True
        packs.load[p] += weight[i]
        packs.ranking[p] += 1
    sorted_load = np.empty(num_packs, np.float64)
    for p in range(num_packs):
        packs.ranking[p] = p
        sorted_load[p] = packs.load[p]
    sort_descending(sorted_load, packs.ranking, packs.value_scratch, packs.order_scratch)


@kernel
def close_packs(pack: Ints, packs: Packs) -> None:
    """Write each item's pack back to ``pack`` [n] and empty the packs."""
    num_packs, size = packs.item.shape
    for p in range(num_packs):
        for i in range(size):
            pack[packs.item[p, i]] = p
            packs.holds[p, packs.item_id[p, i]] = False


@kernel
def best_swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange items out of the heaviest pack, always the exchange that lowers the larger of its two packs most.

    ``weight``, ``item_id`` and ``pack`` are [rows, n]; ``pack`` is improved in place. Stops when no exchange helps, or after
    ``rounds`` exchanges.
    """
    num_rows, n = weight.shape
    packs = make_packs(num_packs, n // num_packs, num_ids)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        swap_in_row(packs, rounds)
        close_packs(pack[x], packs)


@kernel
def swap_in_row(packs: Packs, rounds: int) -> None:
    """Apply :func:`best_swap` to one row of open packs.

    Comparing two packs costs O(n/num_packs). The lightest goes first; once the mean of a pack with the heaviest cannot beat the
    best exchange found, neither can the heavier ones that follow.
    """
    num_packs = packs.load.shape[0]
    done = 0
    while done != rounds:
        heavy = packs.ranking[0]
        best = clearly_below(packs.load[heavy])
        best_rank = -1
        best_i = -1
        best_j = -1
        for rank in range(num_packs - 1, 0, -1):
            other = packs.ranking[rank]
            if 0.5 * (packs.load[heavy] + packs.load[other]) >= best:
                break
            found, i, j = _best_exchange(packs, heavy, other, best)
            if i >= 0:
                best, best_rank, best_i, best_j = found, rank, i, j
        if best_rank < 0:
            break
        _exchange(packs, best_i, best_rank, best_j)
        done += 1


@kernel
def swap(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Exchange one item of the heaviest for one of the lightest pack, so that they end closest; as published.

    Arguments as for :func:`best_swap`; stops when this pair has no exchange that helps.
    """
    num_rows, n = weight.shape
    packs = make_packs(num_packs, n // num_packs, num_ids)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        done = 0
        while done != rounds and num_packs > 1:
            heavy = packs.ranking[0]
            bar = clearly_below(packs.load[heavy])
            _, i, j = _best_exchange(packs, heavy, packs.ranking[num_packs - 1], bar)
            if i < 0:
                break
            _exchange(packs, i, num_packs - 1, j)
            done += 1
        close_packs(pack[x], packs)


@kernel
def reconstruct(weight: Floats, item_id: Ints, num_ids: int, pack: Ints, num_packs: int, rounds: int) -> None:
    """Empty the heaviest and the lightest pack and deal their items anew, from large to small, to the lighter with room.

    The published rule, mended: a rebuild is kept only where it lowers the larger of the two; where it does not, the next
    lightest pack is tried; equal ids stay apart. Arguments as for :func:`best_swap`; a round is one rebuild that was kept.
    """
    num_rows, n = weight.shape
    packs = make_packs(num_packs, n // num_packs, num_ids)
    dealt = np.empty((2, n // num_packs), np.int64)
    for x in range(num_rows):
        open_packs(weight[x], item_id[x], pack[x], packs)
        done = 0
        while done != rounds and _rebuild_heaviest(weight[x], item_id[x], packs, dealt):
            done += 1
        close_packs(pack[x], packs)


@kernel
def _best_exchange(packs: Packs, heavy: int, other: int, bar: float) -> tuple[float, int, int]:
    """Find positions (i in ``heavy``, j in ``other``) whose exchange ends lowest, below ``bar``; (bar, -1, -1) if none.

    An exchange ends at mean + |miss|, the miss being how far it is from leaving both packs equal. Both lists fall, so as i
    goes on, the j with the smallest miss only goes on too. Items whose id the other pack holds cannot go there; for a given i
    the nearest j that can is taken on either side.
    """
    size = packs.item.shape[1]
    mean = 0.5 * (packs.load[heavy] + packs.load[other])
    half = 0.5 * (packs.load[heavy] - packs.load[other])
    least_miss = bar - mean
    best_i = -1
    best_j = -1
    j = 0
    for i in range(size):
        wanted = packs.weight[heavy, i] - half
        while j < size and packs.weight[other, j] > wanted:
            j += 1
        may_go = True
        if j < size and wanted - packs.weight[other, j] < least_miss:
            may_go = not packs.holds[other, packs.item_id[heavy, i]]
            lower = j
            while may_go and lower < size and packs.holds[heavy, packs.item_id[other, lower]]:
                lower += 1
            if may_go and lower < size and wanted - packs.weight[other, lower] < least_miss:
                least_miss = wanted - packs.weight[other, lower]
                best_i, best_j = i, lower
        if may_go and j > 0 and packs.weight[other, j - 1] - wanted < least_miss:
            may_go = not packs.holds[other, packs.item_id[heavy, i]]
            upper = j - 1
            while may_go and upper >= 0 and packs.holds[heavy, packs.item_id[other, upper]]:
                upper -= 1
            if may_go and upper >= 0 and packs.weight[other, upper] - wanted < least_miss:
                least_miss = packs.weight[other, upper] - wanted
                best_i, best_j = i, upper
    return mean + least_miss, best_i, best_j


@kernel
def _exchange(packs: Packs, i: int, rank: int, j: int) -> None:
    """Exchange item i of the heaviest pack for item j of the pack at ``rank``, and rank both anew."""
    heavy = packs.ranking[0]
    other = packs.ranking[rank]
    packs.holds[heavy, packs.item_id[heavy, i]] = False
    packs.holds[other, packs.item_id[other, j]] = False
    packs.holds[heavy, packs.item_id[other, j]] = True
    packs.holds[other, packs.item_id[heavy, i]] = True
    given, given_weight, given_id = packs.item[heavy, i], packs.weight[heavy, i], packs.item_id[heavy, i]
    _replace(packs, heavy, i, packs.item[other, j], packs.weight[other, j], packs.item_id[other, j])
    _replace(packs, other, j, given, given_weight, given_id)
    _rank_anew(packs, rank)


@kernel
def _replace(packs: Packs, p: int, place: int, item: int, weight: float, item_id: int) -> None:
    """Put an item in the place of another, keep the pack sorted, and sum its load afresh: no error builds up."""
    size = packs.item.shape[1]
    while place + 1 < size and packs.item[p, place + 1] < item:
        _copy(packs, p, place + 1, place)
        place += 1
    while place > 0 and packs.item[p, place - 1] > item:
        _copy(packs, p, place - 1, place)
        place -= 1
    packs.item[p, place] = item
    packs.weight[p, place] = weight
    packs.item_id[p, place] = item_id
    packs.load[p] = 0.0
    for i in range(size):
        packs.load[p] += packs.weight[p, i]


@kernel
def _copy(packs: Packs, p: int, source: int, target: int) -> None:
    packs.item[p, target] = packs.item[p, source]
    packs.weight[p, target] = packs.weight[p, source]
    packs.item_id[p, target] = packs.item_id[p, source]


@kernel
def _rank_anew(packs: Packs, rank: int) -> None:
    """Move the pack at ``rank`` and the one that was heaviest to where their new loads belong."""
    ranking, load = packs.ranking, packs.load
    heavy = ranking[0]
    risen = ranking[rank]
    while rank > 0 and _is_before(load, risen, ranking[rank - 1]):
        ranking[rank] = ranking[rank - 1]
        rank -= 1
    ranking[rank] = risen
    rank = 0 if ranking[0] == heavy else 1
    while rank + 1 < ranking.shape[0] and _is_before(load, ranking[rank + 1], heavy):
        ranking[rank] = ranking[rank + 1]
        rank += 1
    ranking[rank] = heavy


@kernel
def _is_before(load: Floats, p: int, q: int) -> bool:
    return load[p] > load[q] or (load[p] == load[q] and p < q)


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
    _rank_anew(packs, rank)


@kernel
def _contains(item_id: Ints, dealt: Ints, filled: int, this_id: int) -> bool:
    for place in range(filled):
        if item_id[dealt[place]] == this_id:
            return True
    return False
