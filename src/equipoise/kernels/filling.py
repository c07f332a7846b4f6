"""What spare slots hold for one batch: replicas that let the slowest rank end earlier, few of them.

For a time that every rank shall keep, ranks above it give tokens of one expert to ranks below it that have a spare slot. A
receiver is always filled to the brim, even where that takes the giver below the time: the giver then receives from others with
a spare slot of its own, so no room is lost (as in Walker's alias tables, 1977). What is tried is the time to keep.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.splitting import SplitWork, split_row
from equipoise.kernels.types import Flags, Floats, Ints

_NONE = -1
_ROUNDING = 1e-9
_WORK = 2.6  # moves a rank that all trials together may take, beside which each counts as a few
_WORK_OF_TRIAL = 6.0
_BISECTIONS = 10
_MOVES_A_RANK = 0.5  # about what filling all spare slots anew takes
_COARSE = 1.7
_WORTH_KEEPING = 0.02  # tokens over the ideal time, of a replica that is held
_START = 3e-3
_EXCESS_A_MOVE = 5.0  # measured: with moves of price p the best excess over the ideal is near 5 p


class FillWork(NamedTuple):
    """Scratch of one thread, and what holds for all layers of a cluster; made by :func:`make_fill_work`."""

    num_nodes: int
    node: Ints  # [ranks]
    is_up: Flags  # [ranks]
    room: Ints  # [ranks] spare slots, a rank's last
    most_received: Ints  # [ranks]
    free: Ints  # [ranks] spare slots that may be filled
    base: Ints  # [slots]
    base_tokens: Floats  # [slots]
    base_load: Floats  # [ranks]
    order: Ints  # [ranks] slowest first
    slots: Ints  # [slots]
    tokens: Floats  # [slots]
    cap: Floats  # [ranks] tokens that a rank can still take
    source: Ints  # [slots]
    spare: Ints  # [ranks]
    line: Ints  # [ranks] ranks that can take tokens, rising by cap
    sent: Floats  # [ranks]
    received: Floats  # [ranks]
    largest: Ints  # [experts]
    is_full: Flags  # [ranks]
    done: Ints  # [1] moves of the last filling, kept or not
    has_replicas: Flags  # [1] whether ``base`` has an expert on several ranks
    is_uneven: Flags  # [1] whether speeds differ


class Fees(NamedTuple):
    """What a batch pays for moves, in tokens of a rank's time, and how far it goes."""

    of_move: float  # as a share of the ideal time
    near: float  # a rank's time to send or receive one replica within its node
    far: float  # the same to or from another node
    stop_at: float  # largest over ideal time that is good enough; 0: as low as pays
    prefer_near: bool


@kernel
def make_fill_work(num_experts: int, rank_of_slot: Ints, node: Ints, is_up: Flags, room: Ints, most_received: Ints) -> FillWork:
    """Make the scratch that :func:`fill_rows` writes on."""
    num_slots, num_ranks = rank_of_slot.shape[0], node.shape[0]
    return FillWork(
        node.max() + 1,
        node.copy(),
        is_up.copy(),
        room.copy(),
        most_received.copy(),
        np.empty(num_ranks, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.float64),
        np.empty(num_ranks, np.float64),
        np.empty(num_ranks, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.float64),
        np.empty(num_ranks, np.float64),
        np.empty(num_slots, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.float64),
        np.empty(num_ranks, np.float64),
        np.empty(num_experts, np.int64),
        np.empty(num_ranks, np.bool_),
        np.empty(1, np.int64),
        np.empty(1, np.bool_),
        np.empty(1, np.bool_),
    )


@kernel
def fill_rows(
    home: Ints,
    held: Ints,
    load: Floats,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    expert_of_slot: Ints,
    source: Ints,
    tokens: Floats,
    rank_load: Floats,
    bound: Floats,
    tight: Flags,
) -> None:
    """Fill the spare slots of every layer and split its load; all arrays have a row a layer, those after ``split`` are written.

    ``home`` [layers, slots] has -1 in spare slots, ``held`` what these hold already (or is ``home`` itself). ``source`` is the
    rank that a slot's replica must come from, -1 where nothing moves; ``bound`` a time before which no filling ends.
    """
    for x in range(home.shape[0]):
        bound[x] = fill_row(
            home[x], held[x], load[x], fees, fill, split, expert_of_slot[x], source[x], tokens[x], rank_load[x], tight[x]
        )


@kernel
def fill_row(
    home: Ints,
    held: Ints,
    load: Floats,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
    tokens: Floats,
    rank_load: Floats,
    tight: Flags,
) -> float:
    """Fill one layer's spare slots; return a level that no filling of them and no split can end before."""
    slots[:] = held
    kept = split_row(slots, load, split, fill.base_tokens, fill.base_load, tight)
    ideal = _ideal(fill, split)
    bound = _bound(home, held, load, fill, split)
    source[:] = _NONE
    goal = max(bound, fees.stop_at * ideal) * (1.0 + _ROUNDING)
    if kept > goal:
        _choose(home, held, load, kept, bound, ideal, fees, fill, split, slots, source, tight)
    level = split_row(slots, load, split, tokens, rank_load, tight)
    if level > goal and _is_hard(home, load, split):
        _polish(held, load, goal, ideal, fees, fill, split, slots, source, tokens, rank_load, tight)
    while _drop_unused(held, tokens, split, tight, slots, source):
        split_row(slots, load, split, tokens, rank_load, tight)
    if fill.num_nodes > 1:
        _take_from_nearest(held, fill, split, slots, source)
    return bound


@kernel
def _is_hard(home: Ints, load: Floats, split: SplitWork) -> bool:
    """Tell whether handing on copies alone may stop early: where home has replicas, or speeds differ."""
    filled = 0
    for e in home:
        if e >= 0:
            filled += 1
    return filled > load.shape[0] or _is_uneven(split.speed)


@kernel
def _is_uneven(speed: Floats) -> bool:
    for r in range(speed.shape[0]):
        if speed[r] != speed[0]:
            return True
    return False


@kernel
def _polish(
    held: Ints,
    load: Floats,
    goal: float,
    ideal: float,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
    tokens: Floats,
    rank_load: Floats,
    tight: Flags,
) -> None:
    """Give what the tight ranks hold most of to the rank with most room beside them, as long as that pays."""
    cost = _cost_of_split(ideal, fees, fill, split, slots, source, rank_load)
    for _ in range(tight.shape[0]):
        if _slowest(split, rank_load) <= goal:
            return
        taker = _roomiest(fill, split, slots, source, rank_load, tight)
        giver = _fullest(taker, held, split, slots, tokens, tight)
        if giver == _NONE:
            return
        t = split.first_slot[taker + 1] - fill.room[taker]
        while slots[t] >= 0:
            t += 1
        slots[t], source[t] = slots[giver], source[giver] if source[giver] >= 0 else split.rank_of_slot[giver]
        split_row(slots, load, split, tokens, rank_load, tight)
        then = _cost_of_split(ideal, fees, fill, split, slots, source, rank_load)
        if then >= cost:
            slots[t], source[t] = held[t], _NONE
            split_row(slots, load, split, tokens, rank_load, tight)
            return
        cost = then


@kernel
def _slowest(split: SplitWork, rank_load: Floats) -> float:
    level = 0.0
    for r in range(rank_load.shape[0]):
        level = max(level, rank_load[r] / split.speed[r])
    return level


@kernel
def _cost_of_split(
    ideal: float, fees: Fees, fill: FillWork, split: SplitWork, slots: Ints, source: Ints, rank_load: Floats
) -> float:
    """Return the time of the slowest rank and the fees."""
    moves = 0
    for r in source:
        if r >= 0:
            moves += 1
    links = time_of_links(slots, source, fees.near, fees.far, split.rank_of_slot, fill.node, fill.sent, fill.received)
    return _slowest(split, rank_load) + fees.of_move * ideal * moves + links


@kernel
def _roomiest(fill: FillWork, split: SplitWork, slots: Ints, source: Ints, rank_load: Floats, tight: Flags) -> int:
    """Return the rank with most room below the slowest, not tight, that has an empty spare slot; -1 without one."""
    level, best, most = _slowest(split, rank_load), _NONE, 0.0
    for r in range(tight.shape[0]):
        empty, received = 0, 0
        for t in range(split.first_slot[r + 1] - fill.room[r], split.first_slot[r + 1]):
            if slots[t] < 0:
                empty += 1
            elif source[t] >= 0:
                received += 1
        room = level * split.speed[r] - rank_load[r]
        if not tight[r] and empty > 0 and received < fill.most_received[r] and room > most:
            best, most = r, room
    return best


@kernel
def _fullest(taker: int, held: Ints, split: SplitWork, slots: Ints, tokens: Floats, tight: Flags) -> int:
    """Return the slot of a tight rank with most tokens, of an expert that the taker has not, nor had; -1 without one."""
    best = _NONE
    if taker == _NONE:
        return best
    for s in range(slots.shape[0]):
        if slots[s] < 0 or not tight[split.rank_of_slot[s]] or tokens[s] <= 0.0:
            continue
        if best != _NONE and tokens[s] <= tokens[best]:
            continue
        is_there = False
        for t in range(split.first_slot[taker], split.first_slot[taker + 1]):
            is_there |= slots[t] == slots[s] or held[t] == slots[s]
        if not is_there:
            best = s
    return best


@kernel
def _take_from_nearest(held: Ints, fill: FillWork, split: SplitWork, slots: Ints, source: Ints) -> None:
    """Let each moved replica come from a holder on its own node where there is one, of several from who sends least."""
    sent, rank, node = fill.sent, split.rank_of_slot, fill.node
    sent[:] = 0.0
    for s in range(slots.shape[0]):
        if source[s] < 0:
            continue
        best = source[s]
        for t in range(slots.shape[0]):
            r = rank[t]
            if held[t] != slots[s] or r == best:
                continue
            is_near, was_near = node[r] == node[rank[s]], node[best] == node[rank[s]]
            if (is_near and not was_near) or (is_near == was_near and sent[r] < sent[best]):
                best = r
        source[s] = best
        sent[best] += 1.0


@kernel
def _choose(
    home: Ints,
    held: Ints,
    load: Floats,
    kept: float,
    bound: float,
    ideal: float,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
    tight: Flags,
) -> None:
    """Choose among what is held, what is held and used with more beside it, and filling all spare slots anew."""
    base = fill.base
    base[:] = held
    is_held = False
    for s in range(home.shape[0]):
        is_held |= held[s] != home[s]
        if home[s] < 0 and held[s] >= 0 and fill.base_tokens[s] <= _WORTH_KEEPING * ideal:
            _send_home(s, home, held, fill, split)
            base[s] = _NONE
    before = _slowest(split, fill.base_load) if is_held else kept
    least = _improve(base, held, before, kept, bound, ideal, fees, fill, split, slots, source)
    usual = ideal * (1.0 + fees.of_move * (_EXCESS_A_MOVE + _MOVES_A_RANK * fill.room.shape[0]))
    if is_held and least > max(bound, fees.stop_at * ideal, usual) * (1.0 + _ROUNDING):
        base[:] = home
        before = split_row(base, load, split, fill.base_tokens, fill.base_load, tight)
        _improve(base, held, before, least, bound, ideal, fees, fill, split, slots, source)


@kernel
def _send_home(s: int, home: Ints, held: Ints, fill: FillWork, split: SplitWork) -> None:
    """Give a spare slot's few tokens back to a home slot of the same expert."""
    tokens, rank, e = fill.base_tokens, split.rank_of_slot, held[s]
    for t in split.slot[split.first[e] : split.first[e] + split.copies[e]]:
        if home[t] >= 0:
            tokens[t] += tokens[s]
            fill.base_load[rank[t]] += tokens[s]
            fill.base_load[rank[s]] -= tokens[s]
            tokens[s] = 0.0
            return


@kernel
def _improve(
    base: Ints,
    held: Ints,
    before: float,
    least: float,
    bound: float,
    ideal: float,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
) -> float:
    """Fill the empty slots of ``base`` where that costs less than ``least``; return the least cost then."""
    _line_up(split, fill)
    _prepare(base, fill, split)
    if fees.stop_at > 0.0:
        aim = max(bound, fees.stop_at * ideal)
        return _reach(base, held, before, aim, ideal, least, fees, fill, split, slots, source)
    return _search(base, held, before, bound, ideal, least, fees, fill, split, slots, source)


@kernel
def _prepare(base: Ints, fill: FillWork, split: SplitWork) -> None:
    """Note what holds for all fillings of the empty slots of ``base``."""
    first_slot = split.first_slot
    fill.slots[:] = base
    fill.source[:] = _NONE
    fill.is_uneven[0] = _is_uneven(split.speed)
    fill.has_replicas[0] = False
    for e in range(split.copies.shape[0]):
        if split.copies[e] > 1:
            fill.has_replicas[0] = True
    for r in range(fill.room.shape[0]):
        fill.free[r] = 0
        for t in range(first_slot[r + 1] - fill.room[r], first_slot[r + 1]):
            if base[t] < 0:
                fill.free[r] += 1
        fill.free[r] = min(fill.free[r], fill.most_received[r])


@kernel
def _ideal(fill: FillWork, split: SplitWork) -> float:
    total, width = 0.0, 0.0
    for r in range(fill.is_up.shape[0]):
        if fill.is_up[r]:
            total += fill.base_load[r]
            width += split.speed[r]
    return total / width


@kernel
def _keep(held: Ints, fill: FillWork, split: SplitWork, slots: Ints, source: Ints) -> None:
    """Take over a filling: what a slot held stays in it where nothing else comes, or its rank holds the same elsewhere."""
    first_slot, room = split.first_slot, fill.room
    slots[:] = fill.slots
    source[:] = fill.source
    for r in range(room.shape[0]):
        begin, end = first_slot[r + 1] - room[r], first_slot[r + 1]
        for t in range(begin, end):
            for s in range(begin, end):
                if slots[s] >= 0 and slots[s] == held[t] and s != t:
                    slots[s], slots[t] = slots[t], slots[s]
                    source[s], source[t] = source[t], source[s]
        for s in range(begin, end):
            if slots[s] >= 0 and slots[s] == held[s]:
                source[s] = _NONE
            elif slots[s] < 0:
                slots[s] = held[s]
                source[s] = _NONE


@kernel
def _drop_unused(held: Ints, tokens: Floats, split: SplitWork, tight: Flags, slots: Ints, source: Ints) -> bool:
    """Undo moves of replicas that get no tokens; whether what that puts back could level more, so that to split anew pays."""
    is_a_way = False
    for s in range(slots.shape[0]):
        if source[s] >= 0 and tokens[s] <= 0.0:
            slots[s] = held[s]
            source[s] = _NONE
            if held[s] >= 0 and not tight[split.rank_of_slot[s]]:
                is_a_way |= _is_within(tight, held[s], split)
    return is_a_way


@kernel
def _is_within(tight: Flags, expert: int, split: SplitWork) -> bool:
    """Tell whether tight ranks alone have an expert, as it was split last."""
    for t in split.slot[split.first[expert] : split.first[expert] + split.copies[expert]]:
        if not tight[split.rank_of_slot[t]]:
            return False
    return True


@kernel
def _line_up(split: SplitWork, fill: FillWork) -> None:
    """Order ranks by what they can take at any time to keep, where speeds are equal; the slowest first."""
    order, load, pace = fill.order, fill.base_load, split.pace
    for r in range(load.shape[0]):
        j = r
        while j > 0 and load[order[j - 1]] * pace[order[j - 1]] < load[r] * pace[r]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = r


@kernel
def _search(
    base: Ints,
    held: Ints,
    before: float,
    bound: float,
    ideal: float,
    least: float,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
) -> float:
    """Try times to keep; take over the filling that costs least, in time and fees, if less than ``least``; return that.

    Costs fall and rise again over the excess of that time over the ideal, so it is multiplied and divided by a step, and by a
    finer one when neither helps.
    """
    has_fees = fees.of_move > 0.0 or fees.near > 0.0 or fees.far > 0.0
    most = before / ideal - 1.0
    best = min(max(_EXCESS_A_MOVE * fees.of_move, _START), 0.7 * most)
    lowest, excess, step, factor, known, is_found = np.inf, best, _COARSE, 1.0 / _COARSE, 0, False
    left = _WORK * fill.room.shape[0] * (1.0 if has_fees else 2.0)
    while left > 0.0 if is_found else excess < most:
        cost = np.inf
        if excess < most:
            level = max(ideal * (1.0 + excess), bound)
            cost = _cost_of_keeping(base, level, ideal, min(least, lowest), fees, fill, split)
            left -= fill.done[0] + _WORK_OF_TRIAL
        if cost < np.inf and not is_found:
            is_found, best = True, excess
        elif not is_found:
            excess *= _COARSE
            continue
        elif cost < lowest:
            best, known = excess, 1
        else:
            known, factor = known + 1, 1.0 / factor
        lowest = min(lowest, cost)
        if cost < least:
            least = cost
            _keep(held, fill, split, slots, source)
        if known == 2:
            known, step = 0, 0.5 * (1.0 + step)
            factor = 1.0 / step
        excess = best * factor
    return least


@kernel
def _reach(
    base: Ints,
    held: Ints,
    before: float,
    aim: float,
    ideal: float,
    least: float,
    fees: Fees,
    fill: FillWork,
    split: SplitWork,
    slots: Ints,
    source: Ints,
) -> float:
    """Take over a filling for a time of ``aim``, or near above it, if it costs less than ``least``; return the least cost."""
    lower, upper, level = aim, before, aim
    for _ in range(_BISECTIONS):
        if upper <= aim * (1.0 + _ROUNDING):
            break
        cost = _cost_of_keeping(base, level, ideal, np.inf, fees, fill, split)
        if cost < np.inf:
            upper = level
        else:
            lower = level
        if cost < least:
            least = cost
            _keep(held, fill, split, slots, source)
        level = 0.5 * (lower + upper)
    return least


@kernel
def _cost_of_keeping(
    base: Ints, level: float, ideal: float, limit: float, fees: Fees, fill: FillWork, split: SplitWork
) -> float:
    """Fill for a time of ``level``; return that and the fees, or infinity where it cannot be kept or costs above ``limit``."""
    price = fees.of_move * ideal
    most = (limit - level) / price if price > 0.0 else np.inf
    moves = _fill(base, level, most, fees.prefer_near, fill, split)
    if moves < 0:
        return np.inf
    cost = level + price * moves
    if fees.near > 0.0 or fees.far > 0.0:
        cost += time_of_links(
            fill.slots, fill.source, fees.near, fees.far, split.rank_of_slot, fill.node, fill.sent, fill.received
        )
    return cost


@kernel
def time_of_links(
    slots: Ints, source: Ints, near: float, far: float, rank: Ints, node: Ints, sent: Floats, received: Floats
) -> float:
    """Return the time of the rank that sends or receives longest, one replica after the other."""
    sent[:] = 0.0
    received[:] = 0.0
    for s in range(slots.shape[0]):
        if source[s] >= 0:
            fee = near if node[source[s]] == node[rank[s]] else far
            sent[source[s]] += fee
            received[rank[s]] += fee
    slowest = 0.0
    for r in range(node.shape[0]):
        slowest = max(slowest, max(sent[r], received[r]))
    return slowest


@kernel
def _fill(base: Ints, level: float, most: float, prefer_near: bool, fill: FillWork, split: SplitWork) -> int:
    """Fill spare slots so that no rank ends after ``level``; return the replicas received, or -1 where it cannot be kept."""
    slots, tokens, source, cap, spare, line = fill.slots, fill.tokens, fill.source, fill.cap, fill.spare, fill.line
    order, node, room, first_slot, speed = fill.order, fill.node, fill.room, split.first_slot, split.speed
    has_replicas = fill.has_replicas[0]
    tokens[:] = fill.base_tokens
    waiting = 0
    for r in order:
        cap[r] = level * speed[r] - fill.base_load[r]
        spare[r] = fill.free[r]
        for t in range(first_slot[r + 1] - room[r], first_slot[r + 1]):
            slots[t] = base[t]
            source[t] = _NONE
        if spare[r] > 0 and cap[r] > 0.0:
            waiting = _stand_in_line(r, waiting, line, cap)
    if fill.is_uneven[0]:
        _sort_by_room(order, cap)
    moves = 0
    fill.done[0] = 0
    for giver in order:
        rounding = _ROUNDING * level * speed[giver]
        if cap[giver] >= -rounding:
            continue
        while cap[giver] < -rounding:
            fill.done[0] = moves
            if waiting == 0 or moves >= most:
                return -1
            amount = 0.0
            for s in range(first_slot[giver], first_slot[giver + 1]):
                amount = max(amount, tokens[s])
            amount = min(-cap[giver], min(amount, cap[line[waiting - 1]]))
            if amount <= rounding:
                return -1
            place = _first_in_line(amount, waiting, line, cap)
            if prefer_near:
                place = _nearest_in_line(place, waiting, line, node, giver)
            taker = line[place]
            t = first_slot[taker + 1] - room[taker]
            may_hold = has_replicas or slots[t] >= 0
            s = _slot_that_fits(base, slots, tokens, cap[taker], first_slot, giver, taker, may_hold)
            if s == _NONE:
                waiting = _leave_line(place, waiting, line)
                continue
            amount = min(cap[taker], tokens[s])
            while slots[t] >= 0:
                t += 1
            slots[t] = slots[s]
            source[t] = giver
            tokens[t] = amount
            tokens[s] -= amount
            spare[taker] -= 1
            cap[taker] -= amount
            cap[giver] += amount
            moves += 1
            waiting = _leave_line(place, waiting, line)
            if spare[taker] > 0 and cap[taker] > rounding:
                waiting = _stand_in_line(taker, waiting, line, cap)
        if cap[giver] > 0.0 and spare[giver] > 0:
            waiting = _stand_in_line(giver, waiting, line, cap)
    fill.done[0] = moves
    return moves


@kernel
def _sort_by_room(order: Ints, cap: Floats) -> None:
    """Order ranks by what they can take, those that must give most first: with equal speeds the slowest are."""
    for i in range(order.shape[0]):
        r = order[i]
        j = i
        while j > 0 and cap[order[j - 1]] > cap[r]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = r


@part
def _stand_in_line(rank: int, waiting: int, line: Ints, cap: Floats) -> int:
    j = waiting
    while j > 0 and cap[line[j - 1]] > cap[rank]:
        line[j] = line[j - 1]
        j -= 1
    line[j] = rank
    return waiting + 1


@part
def _leave_line(place: int, waiting: int, line: Ints) -> int:
    for j in range(place, waiting - 1):
        line[j] = line[j + 1]
    return waiting - 1


@part
def _first_in_line(amount: float, waiting: int, line: Ints, cap: Floats) -> int:
    """Return the place of the rank with the smallest room that is enough."""
    low, high = 0, waiting - 1
    while low < high:
        middle = (low + high) >> 1
        if cap[line[middle]] >= amount:
            high = middle
        else:
            low = middle + 1
    return low


@part
def _nearest_in_line(place: int, waiting: int, line: Ints, node: Ints, giver: int) -> int:
    for i in range(place, waiting):
        if node[line[i]] == node[giver]:
            return i
    return place


@part
def _slot_that_fits(
    base: Ints, slots: Ints, tokens: Floats, room: float, first_slot: Ints, giver: int, taker: int, may_hold: bool
) -> int:
    """Return the giver's slot with the fewest tokens that fill the room, else with most, of an expert the taker has not."""
    best = _NONE
    for s in range(first_slot[giver], first_slot[giver + 1]):
        if base[s] < 0 or tokens[s] <= 0.0:
            continue
        if best != _NONE:
            if tokens[s] >= room:
                if room <= tokens[best] <= tokens[s]:
                    continue
            elif tokens[s] <= tokens[best]:
                continue
        is_there = False
        if may_hold:
            for t in range(first_slot[taker], first_slot[taker + 1]):
                is_there |= slots[t] == slots[s]
        if not is_there:
            best = s
    return best


@kernel
def _bound(home: Ints, held: Ints, load: Floats, fill: FillWork, split: SplitWork) -> float:
    """Return a time before which no filling ends: where each rank has its experts' tokens and as many largest others as fit."""
    reach, is_full, largest, first_slot = fill.received, fill.is_full, fill.largest, split.first_slot
    most = 0
    for r in range(first_slot.shape[0] - 1):
        most = max(most, first_slot[r + 1] - first_slot[r])
    listed = _list_largest(load, most, largest)
    for r in range(reach.shape[0]):
        reach[r] = 0.0
        for s in range(first_slot[r], first_slot[r + 1]):
            if home[s] >= 0:
                reach[r] += load[home[s]]
        room, left = fill.room[r], fill.most_received[r]
        for e in largest[:listed]:
            if room == 0:
                break
            is_there = False
            is_held = False
            for s in range(first_slot[r], first_slot[r + 1]):
                is_there |= home[s] == e
                is_held |= held[s] == e
            if is_there or (left == 0 and not is_held):
                continue
            reach[r] += load[e]
            room -= 1
            if not is_held:
                left -= 1
        for s in range(first_slot[r], first_slot[r + 1]):
            if room > 0 and home[s] < 0 and held[s] >= 0:
                is_there = False
                for e in largest[:listed]:
                    is_there |= held[s] == e
                if not is_there:
                    reach[r] += load[held[s]]
                    room -= 1
        is_full[r] = False
    return _level_within(fill.base_load.sum(), reach, split.speed, is_full)


@kernel
def _list_largest(load: Floats, most: int, largest: Ints) -> int:
    """List the experts with most tokens, falling; return how many: up to ``most``."""
    listed = 0
    for e in range(load.shape[0]):
        if listed == most and load[e] <= load[largest[listed - 1]]:
            continue
        j = listed if listed < most else most - 1
        while j > 0 and load[largest[j - 1]] < load[e]:
            largest[j] = largest[j - 1]
            j -= 1
        largest[j] = e
        listed = min(listed + 1, most)
    return listed


@kernel
def _level_within(total: float, reach: Floats, speed: Floats, is_full: Flags) -> float:
    """Return the least time in which ranks take ``total`` tokens, none more than its reach."""
    level = 0.0
    while True:
        left, width = total, 0.0
        for r in range(reach.shape[0]):
            if is_full[r]:
                left -= reach[r]
            else:
                width += speed[r]
        if width == 0.0:
            return level
        level = max(left / width, level)
        is_done = True
        for r in range(reach.shape[0]):
            if not is_full[r] and reach[r] < level * speed[r]:
                is_full[r], is_done = True, False
        if is_done:
            return level
