"""Exchanges of two items for two: packs of k items have k (k - 1) / 2 pairs, and so far finer steps than single items give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.packs import Packs, clearly_below, exchange, slowest
from equipoise.kernels.refining import UNTIL_NONE_HELPS, swap_in_row
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Floats, Ints


class Pairs(NamedTuple):
    """Pairs of items of two packs, from heavy to light: their ``weight`` and ``code`` [2, most], and scratch for sorting.

    The code of the items at places a < b is a * room + b.
    """

    weight: Floats
    code: Ints
    value_scratch: Floats
    order_scratch: Ints


@kernel
def make_pairs(room: int) -> Pairs:
    """Return room for the pairs of packs of ``room`` items."""
    most = max(room * (room - 1) // 2, 1)
    return Pairs(
        np.empty((2, most), np.float64), np.empty((2, most), np.int64), np.empty(most, np.float64), np.empty(most, np.int64)
    )


@kernel
def double_in_row(packs: Packs, bar: float, rounds: int, pairs: Pairs) -> None:
    """Exchange two items of the slowest pack for two of another, and then single ones, while that helps.

    Stops once the slowest pack takes at most ``bar``, or after ``rounds`` exchanges of pairs. Comparing two packs of k items
    costs O(k^2 log k). Equally fast packs of three have no pair whose exchange is not one of single items and of names.
    """
    if packs.is_even and packs.item.shape[1] < 4:
        return
    for _ in range(rounds):
        if slowest(packs) <= bar or not double_once(packs, pairs):
            return
        swap_in_row(packs, UNTIL_NONE_HELPS)


@kernel
def double_once(packs: Packs, pairs: Pairs) -> bool:
    """Make an exchange of pairs with the slowest pack that helps, found as ``find_exchange`` finds one; False if none does."""
    heavy = packs.ranking[0]
    best = clearly_below(packs.time[heavy])
    best_other, best_code, best_other_code = -1, 0, 0
    for rank in range(packs.load.shape[0] - 1, 0, -1):
        other = packs.ranking[rank]
        level = (packs.load[heavy] + packs.load[other]) / (packs.speed[heavy] + packs.speed[other])
        if level >= best:
            if packs.is_even:
                break
            continue
        found, code, other_code = _best_double(packs, heavy, other, level, best, pairs)
        if code >= 0:
            best, best_other, best_code, best_other_code = found, other, code, other_code
            if best <= packs.time[packs.ranking[1]]:
                break
    if best_other < 0:
        return False
    most = packs.item.shape[1]
    a, b = best_code // most, best_code % most
    c, d = best_other_code // most, best_other_code % most
    items = packs.item[heavy, a], packs.item[heavy, b], packs.item[best_other, c], packs.item[best_other, d]
    exchange(packs, heavy, _place(packs, heavy, items[0]), best_other, _place(packs, best_other, items[2]))
    exchange(packs, heavy, _place(packs, heavy, items[1]), best_other, _place(packs, best_other, items[3]))
    return True


@kernel
def _best_double(packs: Packs, heavy: int, other: int, level: float, bar: float, pairs: Pairs) -> tuple[float, int, int]:
    """Find the pairs whose exchange ends earliest, below ``bar``, as their codes; (bar, -1, -1) if none."""
    num_heavy = _list_pairs(packs, heavy, other, pairs, 0)
    num_other = _list_pairs(packs, other, heavy, pairs, 1)
    excess = packs.load[heavy] - level * packs.speed[heavy]
    least_miss = bar - level
    best, best_other = -1, -1
    j = 0
    for i in range(num_heavy):
        wanted = pairs.weight[0, i] - excess
        while j < num_other and pairs.weight[1, j] > wanted:
            j += 1
        if j < num_other and (wanted - pairs.weight[1, j]) * packs.pace[other] < least_miss:
            least_miss = (wanted - pairs.weight[1, j]) * packs.pace[other]
            best, best_other = pairs.code[0, i], pairs.code[1, j]
        if j > 0 and (pairs.weight[1, j - 1] - wanted) * packs.pace[heavy] < least_miss:
            least_miss = (pairs.weight[1, j - 1] - wanted) * packs.pace[heavy]
            best, best_other = pairs.code[0, i], pairs.code[1, j - 1]
    return level + least_miss, best, best_other


@kernel
def _list_pairs(packs: Packs, p: int, other: int, pairs: Pairs, side: int) -> int:
    """List the pairs of pack p that the other pack may take, from heavy to light; returns how many."""
    most = packs.item.shape[1]
    found = 0
    for a in range(packs.room[p]):
        if packs.holds[other, packs.item_id[p, a]]:
            continue
        for b in range(a + 1, packs.room[p]):
            if not packs.holds[other, packs.item_id[p, b]]:
                pairs.weight[side, found] = packs.weight[p, a] + packs.weight[p, b]
                pairs.code[side, found] = a * most + b
                found += 1
    sort_descending(pairs.weight[side, :found], pairs.code[side, :found], pairs.value_scratch, pairs.order_scratch)
    return found


@kernel
def _place(packs: Packs, p: int, item: int) -> int:
    place = 0
    while packs.item[p, place] != item:
        place += 1
    return place
