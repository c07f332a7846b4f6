"""Plan rows of experts from end to end: count, pack, exchange, and then whatever the budget allows for.

A row is one set of experts on one set of packs (ranks). Each step starts from what the one before found and keeps only what
ends earlier, so a larger budget is never worse on any row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.copying import copy_to
from equipoise.kernels.counts import Counts, make_counts, open_with_replicas, share_with
from equipoise.kernels.coupling import couple_counts, largest_pair, make_couples, sort_by_share
from equipoise.kernels.doubling import double_in_row, make_pairs
from equipoise.kernels.packing import Dealing, deal, deal_unequal, make_dealing
from equipoise.kernels.packs import Packs, clearly_below, empty_packs, make_packs, rank_packs, slowest
from equipoise.kernels.recounting import make_handovers, recount_row
from equipoise.kernels.refining import UNTIL_NONE_HELPS, swap_in_row
from equipoise.kernels.replicating import count_row, list_sorted_row, take_replica
from equipoise.kernels.types import Floats, Ints
from equipoise.kernels.ways import first_way, has_few_ways, next_way


class Budget(NamedTuple):
    """How much one stage tries on a row; all but the two shares are counts of work, none is a time.

    ``exchanges`` at most (-1: until none helps); a row within ``slack`` of its bound is then done with the stage. ``ways``:
    replicas packed while all ways to count are tried, where that suffices for all; ``paired``: experts looked at in pairings,
    and ``chains`` started, where packs have two places; ``handovers`` tried a step, ``mending`` exchanges after each, and
    ``comparisons`` of packs in all, while slots are handed over. A row within ``tolerance`` of its bound is then left; else
    at most ``doubles`` exchanges of two items for two are made.
    """

    exchanges: int
    slack: float
    ways: int
    paired: int
    chains: int
    handovers: int
    mending: int
    comparisons: int
    tolerance: float
    doubles: int


class Replicas(NamedTuple):
    """The replicas of a row from heavy to light: ``weight``, ``expert`` and ``pack``, [slots]; ``straight`` counts them.

    ``scratch`` is [experts]; ``saved_item`` [packs, largest room] and ``saved_count`` [experts] hold a packing to go back to.
    """

    weight: Floats
    expert: Ints
    pack: Ints
    straight: Ints
    scratch: Ints
    saved_item: Ints
    saved_count: Ints


@kernel
def plan_rows(
    load: Floats,
    expert: Ints,
    room: Ints,
    speed: Floats,
    floor: Floats,
    token_cost: float,
    active_cost: float,
    budgets: Floats,
) -> tuple[Ints, Floats, Floats]:
    """Plan every row of ``load`` [rows, experts], which falls along each row; ``expert`` [rows, experts] holds the ids.

    ``room`` and ``speed`` are those of the packs, [packs]; ``floor`` [rows] is a time below which nothing is gained;
    ``budgets`` [stages, 10] holds a Budget a stage. Returns the expert of every slot [rows, slots], pack by pack and
    rising within, the slowest pack's time [rows], and the time [rows] that the largest replica, or the mean, makes certain.
    """
    num_rows, num_experts = load.shape
    num_packs, num_slots = room.shape[0], int(room.sum())
    slots = np.empty((num_rows, num_slots), np.int64)
    largest = np.empty(num_rows, np.float64)
    bound = np.empty(num_rows, np.float64)
    counts = make_counts(num_experts, min(num_packs, num_slots - num_experts + 1), token_cost, active_cost)
    packs = make_packs(room, speed, num_experts)
    dealing = make_dealing(num_packs, num_experts)
    replicas = _make_replicas(num_slots, num_experts, packs)
    most = _largest_budget(budgets)
    couples = make_couples(num_experts, most.chains)
    handovers = make_handovers(most.handovers, most.mending)
    pairs = make_pairs(room.max() if most.doubles > 0 else 1)
    is_uniform = room.min() == room.max() and packs.is_even
    stage_of_all_ways = _stage_of_all_ways(counts, num_slots, room, budgets) if is_uniform else -1
    limits = limits_of(room)
    limit = limits.copy()
    for x in range(num_rows):
        copy_to(load[x], counts.load)
        copy_to(limits, limit)
        count_row(counts, num_slots, counts.where.shape[1], limit, replicas.scratch)
        bound[x] = _certain_time(counts, packs)
        _pack(counts, packs, dealing, replicas, is_uniform)
        for stage in range(budgets.shape[0]):
            budget = _budget(budgets, stage)
            certain = max(floor[x], bound[x])
            swap_in_row(packs, budget.exchanges)
            bar = certain * (1.0 + budget.slack)
            if slowest(packs) > bar and stage == stage_of_all_ways:
                _try_all(counts, packs, dealing, replicas, bar)
            elif slowest(packs) > bar and is_uniform and room[0] == 2 and budget.paired > 0:
                _save(counts, packs, replicas)
                so_far = slowest(packs)
                couple_counts(counts, bar * speed[0], budget.paired // num_experts, budget.chains, couples)
                _repack(counts, packs, dealing, replicas, so_far, True)
            if slowest(packs) > bar and budget.comparisons > 0 and not packs.is_even:
                _try_cold_spares(counts, packs, dealing, replicas, limits)
            if slowest(packs) > bar and budget.comparisons > 0:
                recount_row(counts, packs, bar, budget.comparisons, (budget.handovers, budget.mending), handovers)
            double_in_row(packs, certain * (1.0 + budget.tolerance), budget.doubles, pairs)
        largest[x] = slowest(packs)
        _write(packs, expert[x], slots[x])
        empty_packs(packs)
    return slots, largest, bound


@kernel
def _budget(budgets: Floats, stage: int) -> Budget:
    row = budgets[stage]
    return Budget(
        int(row[0]), row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5]), int(row[6]), int(row[7]), row[8], int(row[9])
    )


@kernel
def _largest_budget(budgets: Floats) -> Budget:
    """Return the largest of each number over all stages."""
    most = budgets[:1].copy()
    for stage in range(budgets.shape[0]):
        for field in range(budgets.shape[1]):
            most[0, field] = max(most[0, field], budgets[stage, field])
    return _budget(most, 0)


@kernel
def _make_replicas(num_slots: int, num_experts: int, packs: Packs) -> Replicas:
    return Replicas(
        np.empty(num_slots, np.float64),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.int64),
        np.arange(num_slots),
        np.empty(num_experts, np.int64),
        np.empty_like(packs.item),
        np.empty(num_experts, np.int64),
    )


@kernel
def limits_of(room: Ints) -> Ints:
    """For each k >= 1, the replicas that may be beyond k of their expert: the places of all but the k roomiest packs.

    Counts within these limits, and only those, can be packed with equal ids apart (Gale 1957, Ryser 1957). Packs of equal room
    set no limit.
    """
    if room.min() == room.max():
        return np.empty(0, np.int64)
    limits = np.zeros(room.shape[0], np.int64)
    left = room.copy()
    for k in range(room.shape[0]):
        left[left.argmax()] = 0
        limits[k] = left.sum()
    return limits


@kernel
def _stage_of_all_ways(counts: Counts, num_slots: int, room: Ints, budgets: Floats) -> int:
    """Return the first stage whose budget suffices to try all ways to count, -1 if none does."""
    num_experts, most = counts.where.shape
    for stage in range(budgets.shape[0]):
        budget = _budget(budgets, stage)
        ways = budget.paired // num_experts if room[0] == 2 else budget.ways // num_slots
        if ways > 0 and has_few_ways(num_experts, num_slots, most, ways):
            return stage
    return -1


@kernel
def _certain_time(counts: Counts, packs: Packs) -> float:
    """Time that some pack takes: the mean, and the largest replica, which no counts make smaller, on the fastest pack."""
    total, largest = 0.0, 0.0
    for e in range(counts.load.shape[0]):
        total += counts.load[e]
        largest = max(largest, counts.share[e])
    mean = total * counts.token_cost / packs.speed.sum()
    return float(mean if counts.active_cost > 0.0 else max(mean, largest * packs.pace.min()))


@kernel
def _pack(counts: Counts, packs: Packs, dealing: Dealing, replicas: Replicas, is_uniform: bool) -> None:
    """Pack the row with the counts it has, from heavy to light; the packs are then open."""
    weight, expert, pack = replicas.weight, replicas.expert, replicas.pack
    list_sorted_row(counts.share, counts.count, weight, expert, replicas.scratch)
    if is_uniform:
        deal(weight, expert, replicas.straight, pack, dealing)
    else:
        deal_unequal(weight, expert, packs.room, packs.speed, counts.count, pack, packs.holds)
    open_with_replicas(expert, pack, weight, packs)


@kernel
def _try_all(counts: Counts, packs: Packs, dealing: Dealing, replicas: Replicas, bar: float) -> None:
    """Pack the row with every way to count, but for those whose largest replica or pair is too large already."""
    way = np.empty_like(counts.count)
    order = np.empty_like(counts.count)
    most = counts.where.shape[1]
    first_way(way, 0, replicas.expert.shape[0], most)
    more = True
    while more and slowest(packs) > bar:
        so_far = slowest(packs)
        best = clearly_below(so_far) * packs.speed[0]
        _save(counts, packs, replicas)
        copy_to(way, counts.count)
        if _could_end_below(counts, order, packs.room[0], best):
            _repack(counts, packs, dealing, replicas, so_far, True)
        else:
            _put_back_counts(counts, replicas.saved_count)
        more = next_way(way, most)


@kernel
def _try_cold_spares(counts: Counts, packs: Packs, dealing: Dealing, replicas: Replicas, limits: Ints) -> None:
    """Give ever more of the spare slots greedily, and the rest to the coldest experts: slow packs want light replicas.

    Every replica of an expert takes the same share, so a hot expert with many replicas must lie on slow packs too.
    """
    num_experts, most = counts.where.shape
    spare = replicas.expert.shape[0] - num_experts
    hot = 0
    while hot < spare:
        so_far = slowest(packs)
        _save(counts, packs, replicas)
        limit = limits.copy()
        count_row(counts, num_experts + hot, most, limit, replicas.scratch)
        if _fill_from_coldest(counts, spare - hot, most, limit):
            _repack(counts, packs, dealing, replicas, so_far, False)
        else:
            _put_back_counts(counts, replicas.saved_count)
        hot = max(1, 2 * hot)


@kernel
def _fill_from_coldest(counts: Counts, left: int, most: int, limit: Ints) -> bool:
    """Give replicas to the coldest experts, one each and then once more; False where that cannot use up all."""
    given = True
    while left > 0 and given:
        given = False
        for e in range(counts.load.shape[0] - 1, -1, -1):
            if left > 0 and counts.count[e] < most and take_replica(limit, counts.count[e]):
                counts.count[e] += 1
                left -= 1
                given = True
    for e in range(counts.load.shape[0]):
        counts.share[e] = share_with(counts, e, counts.count[e])
    return left == 0


@kernel
def _could_end_below(counts: Counts, order: Ints, room: int, best: float) -> bool:
    for e in range(counts.load.shape[0]):
        counts.share[e] = share_with(counts, e, counts.count[e])
        if counts.share[e] >= best:
            return False
    if room != 2:
        return True
    sort_by_share(counts.share, order)
    return bool(largest_pair(counts.share, counts.count, order, best)[0] < best)


@kernel
def _save(counts: Counts, packs: Packs, replicas: Replicas) -> None:
    for p in range(packs.room.shape[0]):
        copy_to(packs.item[p], replicas.saved_item[p])
    copy_to(counts.count, replicas.saved_count)


@kernel
def _put_back_counts(counts: Counts, saved: Ints) -> None:
    for e in range(saved.shape[0]):
        counts.count[e] = saved[e]
        counts.share[e] = share_with(counts, e, saved[e])


@kernel
def _repack(counts: Counts, packs: Packs, dealing: Dealing, replicas: Replicas, so_far: float, is_uniform: bool) -> None:
    """Pack with the counts as they are now; go back to what was saved unless that ends clearly earlier."""
    empty_packs(packs)
    _pack(counts, packs, dealing, replicas, is_uniform)
    swap_in_row(packs, UNTIL_NONE_HELPS)
    if slowest(packs) < clearly_below(so_far):
        return
    empty_packs(packs)
    _put_back_counts(counts, replicas.saved_count)
    _reopen(replicas.saved_item, counts.share, packs)


@kernel
def _reopen(saved: Ints, share: Floats, packs: Packs) -> None:
    """Fill the packs with the experts that were saved, [packs, largest room]."""
    for p in range(packs.room.shape[0]):
        for i in range(packs.room[p]):
            e = saved[p, i]
            packs.item[p, i] = e
            packs.item_id[p, i] = e
            packs.weight[p, i] = share[e]
            packs.holds[p, e] = True
    rank_packs(packs)


@kernel
def _write(packs: Packs, expert: Ints, slots: Ints) -> None:
    """Write the experts of every pack, rising within it, one pack after the other."""
    first = 0
    for p in range(packs.room.shape[0]):
        for i in range(packs.room[p]):
            e = expert[packs.item[p, i]]
            slot = first + i
            while slot > first and slots[slot - 1] > e:
                slots[slot] = slots[slot - 1]
                slot -= 1
            slots[slot] = e
        first += packs.room[p]
