"""The packs of one row of items: what each holds, how long each takes, and the exchange of two items.

A pack has room for a fixed number of items, keeps equal ids apart, and takes load / speed; with all speeds 1 its time is its
load. Packs list their items from heavy to light, so that two packs are compared by walking both lists once, and are
ranked from slow to fast, lower numbers first on ties.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Flags, Floats, Ints

ENOUGH = 64
"""Packs compared for one exchange, at most, if one of them helps."""

MOST = 384
"""Packs compared for one exchange, at most: the fastest of them."""

_ROUNDING = 1e-13


@part
def clearly_below(time: float) -> float:
    """Return what a slowest pack of ``time`` must fall below to count as a gain.

    Sums of loads carry a few units in the last place; and where a load is so small that it has no place for a share of itself,
    nothing is a gain, or exchanges would never end.
    """
    bar = time * (1.0 - _ROUNDING)
    return bar if bar < time else -np.inf


class Packs(NamedTuple):
    """The packs of one row.

    ``item``, ``weight`` and ``item_id`` are [packs, largest room], from heavy to light, lower items first on ties; ``room``,
    ``speed``, ``pace`` (1 / speed), ``load``, ``time``, ``ranking`` and ``place`` (where in the ranking) are [packs];
    ``holds`` [packs, ids] is all false while the packs are closed; ``is_even`` tells that all speeds are the same.
    """

    item: Ints
    weight: Floats
    item_id: Ints
    room: Ints
    speed: Floats
    pace: Floats
    is_even: bool
    load: Floats
    time: Floats
    ranking: Ints
    place: Ints
    holds: Flags


@kernel
def make_packs(room: Ints, speed: Floats, num_ids: int) -> Packs:
    """Return closed packs with ``room`` [packs] places and ``speed`` [packs] > 0, for ids in [0, num_ids)."""
    num_packs = room.shape[0]
    shape = (num_packs, room.max())
    return Packs(
        np.empty(shape, np.int64),
        np.empty(shape, np.float64),
        np.empty(shape, np.int64),
        room.copy(),
        speed.copy(),
        1.0 / speed,
        speed.min() == speed.max(),
        np.empty(num_packs, np.float64),
        np.empty(num_packs, np.float64),
        np.empty(num_packs, np.int64),
        np.empty(num_packs, np.int64),
        np.zeros((num_packs, num_ids), np.bool_),
    )


@kernel
def open_packs(weight: Floats, item_id: Ints, pack: Ints, packs: Packs) -> None:
    """Fill the packs with a row's items, sorted from heavy to light: ``weight``, ``item_id`` and ``pack`` are [n]."""
    filled = packs.place
    filled[:] = 0
    for i in range(weight.shape[0]):
        p = pack[i]
        packs.item[p, filled[p]] = i
        packs.weight[p, filled[p]] = weight[i]
        packs.item_id[p, filled[p]] = item_id[i]
        packs.holds[p, item_id[i]] = True
        filled[p] += 1
    rank_packs(packs)


@kernel
def rank_packs(packs: Packs) -> None:
    """Sum all packs and rank them."""
    for p in range(packs.load.shape[0]):
        total = 0.0
        for i in range(packs.room[p]):
            total += packs.weight[p, i]
        packs.load[p] = total
        packs.time[p] = total * packs.pace[p]
        packs.ranking[p] = p
    sorted_time = packs.time.copy()
    sort_descending(sorted_time, packs.ranking, np.empty_like(sorted_time), np.empty_like(packs.ranking))
    for rank in range(packs.ranking.shape[0]):
        packs.place[packs.ranking[rank]] = rank


@kernel
def close_packs(pack: Ints, packs: Packs) -> None:
    """Write each item's pack back to ``pack`` [n] and empty the packs."""
    for p in range(packs.load.shape[0]):
        for i in range(packs.room[p]):
            pack[packs.item[p, i]] = p
    empty_packs(packs)


@kernel
def empty_packs(packs: Packs) -> None:
    """Close the packs without a word of what they held."""
    for p in range(packs.load.shape[0]):
        for i in range(packs.room[p]):
            packs.holds[p, packs.item_id[p, i]] = False


@part
def slowest(packs: Packs) -> float:
    """Return the time of the slowest pack."""
    return float(packs.time[packs.ranking[0]])


@kernel
def find_exchange(packs: Packs) -> tuple[int, int, int, int]:
    """Find an exchange with the slowest pack that helps: (i, other, j, packs compared); other is -1 where there is none.

    The fastest partner goes first. Two packs cannot end below the time they take when level; once that of equally fast packs
    cannot beat the best exchange found, neither can that of the slower ones that follow. And once both packs end below the
    second slowest, a better exchange would not lower the slowest pack further: the first such is taken. Nor is more
    looked for once ENOUGH packs have been compared and one of them helps, or MOST have.
    """
    num_packs = packs.load.shape[0]
    heavy = packs.ranking[0]
    best = clearly_below(packs.time[heavy])
    best_other, best_i, best_j = -1, -1, -1
    compared = 0
    for rank in range(num_packs - 1, 0, -1):
        other = packs.ranking[rank]
        level = (packs.load[heavy] + packs.load[other]) / (packs.speed[heavy] + packs.speed[other])
        if level >= best:
            if packs.is_even:
                break
            continue
        compared += 1
        found, i, j = best_exchange(packs, heavy, other, level, best)
        if i >= 0:
            best, best_other, best_i, best_j = found, other, i, j
        if best_other >= 0 and (compared >= ENOUGH or best <= packs.time[packs.ranking[1]]):
            break
        if compared == MOST:
            break
    return best_i, best_other, best_j, compared


@part
def best_exchange(packs: Packs, heavy: int, other: int, level: float, bar: float) -> tuple[float, int, int]:
    """Find positions (i in ``heavy``, j in ``other``) whose exchange ends earliest, below ``bar``; (bar, -1, -1) if none.

    An exchange ends at ``level`` plus its miss, how much longer one of the two takes for not being level.
    """
    excess = packs.load[heavy] - level * packs.speed[heavy]
    least_miss, i, j = _least_miss(
        packs.weight[heavy, : packs.room[heavy]],
        packs.weight[other, : packs.room[other]],
        packs.item_id[heavy],
        packs.item_id[other],
        packs.holds[heavy],
        packs.holds[other],
        excess,
        packs.pace[heavy],
        packs.pace[other],
        bar - level,
    )
    return level + least_miss, i, j


@part
def _least_miss(
    heavy: Floats,
    other: Floats,
    heavy_id: Ints,
    other_id: Ints,
    heavy_holds: Flags,
    other_holds: Flags,
    excess: float,
    heavy_pace: float,
    other_pace: float,
    least_miss: float,
) -> tuple[float, int, int]:
    """Find the exchange that misses level least, by less than ``least_miss``.

    Both lists of weights fall, so as i goes on, the j that would leave both level only goes on too. Items whose id the other
    pack holds cannot go there; for a given i the nearest j that can is taken on either side.
    """
    num_other = other.shape[0]
    best_i = -1
    best_j = -1
    j = 0
    for i in range(heavy.shape[0]):
        wanted = heavy[i] - excess
        while j < num_other and other[j] > wanted:
            j += 1
        may_go = True
        if j < num_other and (wanted - other[j]) * other_pace < least_miss:
            may_go = not other_holds[heavy_id[i]]
            lower = j
            while may_go and lower < num_other and heavy_holds[other_id[lower]]:
                lower += 1
            if may_go and lower < num_other and (wanted - other[lower]) * other_pace < least_miss:
                least_miss = (wanted - other[lower]) * other_pace
                best_i, best_j = i, lower
        if may_go and j > 0 and (other[j - 1] - wanted) * heavy_pace < least_miss:
            may_go = not other_holds[heavy_id[i]]
            upper = j - 1
            while may_go and upper >= 0 and heavy_holds[other_id[upper]]:
                upper -= 1
            if may_go and upper >= 0 and (other[upper] - wanted) * heavy_pace < least_miss:
                least_miss = (other[upper] - wanted) * heavy_pace
                best_i, best_j = i, upper
    return least_miss, best_i, best_j


@part
def exchange(packs: Packs, p: int, i: int, q: int, j: int) -> None:
    """Exchange item i of pack p for item j of pack q, and rank both anew."""
    given, given_weight, given_id = packs.item[p, i], packs.weight[p, i], packs.item_id[p, i]
    taken, taken_weight, taken_id = packs.item[q, j], packs.weight[q, j], packs.item_id[q, j]
    packs.holds[p, given_id] = False
    packs.holds[q, taken_id] = False
    packs.holds[p, taken_id] = True
    packs.holds[q, given_id] = True
    put(packs, p, i, taken, taken_weight, taken_id)
    put(packs, q, j, given, given_weight, given_id)


@part
def put(packs: Packs, p: int, place: int, item: int, weight: float, item_id: int) -> None:
    """Put an item in the place of another, keep the pack sorted, sum it afresh, and rank it anew: no error builds up."""
    room = packs.room[p]
    load = _replace(packs.item[p, :room], packs.weight[p, :room], packs.item_id[p, :room], place, item, weight, item_id)
    packs.load[p] = load
    packs.time[p] = load * packs.pace[p]
    _rank_anew(packs.time, packs.ranking, packs.place, p)


@part
def _replace(items: Ints, weights: Floats, ids: Ints, place: int, item: int, weight: float, item_id: int) -> float:
    """Replace an item in the lists of one pack, keep them sorted, and return the sum of weights."""
    room = items.shape[0]
    while place + 1 < room and (weights[place + 1] > weight or (weights[place + 1] == weight and items[place + 1] < item)):
        items[place], weights[place], ids[place] = items[place + 1], weights[place + 1], ids[place + 1]
        place += 1
    while place > 0 and (weights[place - 1] < weight or (weights[place - 1] == weight and items[place - 1] > item)):
        items[place], weights[place], ids[place] = items[place - 1], weights[place - 1], ids[place - 1]
        place -= 1
    items[place], weights[place], ids[place] = item, weight, item_id
    total = 0.0
    for i in range(room):
        total += weights[i]
    return total


@part
def _rank_anew(time: Floats, ranking: Ints, place: Ints, p: int) -> None:
    """Move pack p to where its new time belongs."""
    rank = place[p]
    while rank > 0 and _is_before(time, p, ranking[rank - 1]):
        ranking[rank] = ranking[rank - 1]
        place[ranking[rank]] = rank
        rank -= 1
    while rank + 1 < ranking.shape[0] and _is_before(time, ranking[rank + 1], p):
        ranking[rank] = ranking[rank + 1]
        place[ranking[rank]] = rank
        rank += 1
    ranking[rank] = p
    place[p] = rank


@kernel
def rank_anew(packs: Packs, p: int) -> None:
    """Move pack p to where its new time belongs."""
    _rank_anew(packs.time, packs.ranking, packs.place, p)


@part
def _is_before(time: Floats, p: int, q: int) -> bool:
    return time[p] > time[q] or (time[p] == time[q] and p < q)
