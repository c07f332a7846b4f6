"""A placement improved with few moves: exchanges between ranks, and slots given to other experts, paid for with moves.

For a time that every rank shall keep, the slowest rank above it is relieved by the step that takes most tokens off all ranks'
excess over that time per replica to be received, until no rank is above it or nothing helps within the budget. The time is set
where about as many ranks lie above it as moves are left can relieve, and lowered as they are spent. What counts as a move is
told from what ranks held at first, so a step that undoes another is paid back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.types import Flags, Floats, Ints

_NONE = -1
_ROUNDING = 1e-9
_FREE = 0.25  # moves that a step without any counts as, beside steps that move
_RANKS_A_MOVE = 0.8
_NEAREST = 0.1  # of the excess of the slowest rank, that a time to keep lies above the ideal at least
_LEVEL = 3e-4  # excess over the ideal that is as good as none
_FIRST_GUESS = 0.85
_MOST_STEPS = 4096
_REPLICA, _EXCHANGE = 1, 2


class ImproveWork(NamedTuple):
    """Scratch of one thread, and what holds for all layers of a cluster; made by :func:`make_improve_work`."""

    rank: Ints  # [slots] of each slot
    first: Ints  # [ranks + 1] slots before each rank
    region: Ints  # [ranks] within which steps stay
    node: Ints  # [ranks]
    speed: Floats  # [ranks]
    pace: Floats  # [ranks] 1 / speed
    rank_held: Ints  # [held] rank of what was held, -1: gone
    slots: Ints  # [slots] expert, -1: empty
    share: Floats  # [slots] tokens
    later: Ints  # [slots] next slot of the same expert
    earlier: Ints  # [slots]
    head: Ints  # [experts] first slot
    replicas: Ints  # [experts]
    head_held: Ints  # [experts]
    later_held: Ints  # [held]
    was_held: Flags  # [slots] whether the rank held at first what the slot holds
    has_left: Flags  # [experts] whether some rank that held it does no longer
    is_touched: Flags  # [ranks] whether it holds other than at first
    load: Floats  # [ranks] tokens
    cap: Floats  # [ranks] tokens within the time to keep
    is_stuck: Flags  # [ranks] whether nothing helps it now
    times: Floats  # [ranks]
    step: Ints  # [4] kind, slot of the slow rank, slot of the other, moves


@kernel
def make_improve_work(num_experts: int, rank: Ints, region: Ints, node: Ints, speed: Floats, rank_held: Ints) -> ImproveWork:
    """Make the scratch that :func:`improve_rows` writes on; slots are in rank order, every rank has one at least."""
    num_slots, num_ranks, num_held = rank.shape[0], speed.shape[0], rank_held.shape[0]
    first = np.zeros(num_ranks + 1, np.int64)
    for r in rank:
        first[r + 1] += 1
    first = np.cumsum(first)
    return ImproveWork(
        rank.copy(),
        first,
        region.copy(),
        node.copy(),
        speed.copy(),
        1.0 / speed,
        rank_held.copy(),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.float64),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_held, np.int64),
        np.empty(num_slots, np.bool_),
        np.empty(num_experts, np.bool_),
        np.empty(num_ranks, np.bool_),
        np.empty(num_ranks, np.float64),
        np.empty(num_ranks, np.float64),
        np.empty(num_ranks, np.bool_),
        np.empty(num_ranks, np.float64),
        np.empty(4, np.int64),
    )


@kernel
def improve_rows(
    load: Floats,
    start: Ints,
    held: Ints,
    least: Ints,
    spread: int,
    budget: Ints,
    price: float,
    most_steps: int,
    work: ImproveWork,
    slots: Ints,
    moves: Ints,
    curve: Floats,
) -> None:
    """Improve every layer's row of ``start`` within its budget of moves; the last three arrays are written.

    Parameters
    ----------
    load : float64 [layers, experts]
        Tokens.
    start : int64 [layers, slots]
        Experts, -1 for empty; no rank holds one twice, and what it holds beyond ``held`` counts as moved already.
    held : int64 [layers, held]
        What ranks (``work.rank_held``) had, -1 for nothing.
    least : int64 [layers, experts]
        Replicas that each expert keeps at least, >= 1; none with fewer loses any.
    spread : int
        Nodes over which the replicas of experts with ``least`` above 1 stay spread; 1: anywhere.
    budget : int64 [layers]
        Moves, those of ``start`` included.
    price : float
        Part of the ideal time that a move must save.
    most_steps : int
        Another search begins as long as fewer steps were taken; 0: one search.
    slots, moves : int64 [layers, slots], [layers]
        What was found: the least time of the slowest rank with the price of its moves.
    curve : float64 [layers, n]
        Least time of the slowest rank found with up to as many moves as its index, the last one of all.
    """
    for x in range(load.shape[0]):
        moves[x] = _improve(
            load[x], start[x], held[x], least[x], spread, budget[x], price, most_steps, work, slots[x], curve[x]
        )


@kernel
def _improve(
    load: Floats,
    start: Ints,
    held: Ints,
    least: Ints,
    spread: int,
    budget: int,
    price: float,
    most_steps: int,
    work: ImproveWork,
    slots: Ints,
    curve: Floats,
) -> int:
    ideal = load.sum() / work.speed.sum()
    _remember(held, work)
    spent = _begin(load, start, work)
    slots[:] = start
    curve[:] = np.inf
    fee = price * ideal
    best, moves, steps = _slowest(work), spent, 0
    before = best
    _note(best, spent, curve)
    best += fee * spent
    low, high, is_first, now = ideal, before, True, spent
    level = _next_time(ideal, budget - spent, work)
    for _ in range(_MOST_STEPS):
        if high <= ideal * (1.0 + _LEVEL) or best <= ideal * (1.0 + _LEVEL):
            break
        now, best, moves, taken = _descend(load, level, least, spread, budget, ideal, fee, now, best, moves, work, slots, curve)
        steps += taken
        is_kept = _slowest(work) <= level * (1.0 + 1e-6)
        if is_first and is_kept and now < budget:
            following = _next_time(ideal, budget - now, work)
            if following < level:
                level = following
                continue
        if steps >= most_steps:
            break
        if is_first:
            is_first, high = False, _least(curve)
            level = ideal + _FIRST_GUESS * (high - ideal)
        else:
            if is_kept:
                high = level
            else:
                low, high = level, min(high, _least(curve))
            level = 0.5 * (low + high)
        if high - low <= _LEVEL * ideal:
            break
        now = _begin(load, start, work)
    for m in range(1, curve.shape[0]):
        curve[m] = min(curve[m], curve[m - 1])
    return moves


@kernel
def _least(curve: Floats) -> float:
    level = np.inf
    for time in curve:
        level = min(level, time)
    return level


@kernel
def _note(level: float, moves: int, curve: Floats) -> None:
    m = min(moves, curve.shape[0] - 1)
    curve[m] = min(curve[m], level)


@kernel
def _next_time(ideal: float, left: int, work: ImproveWork) -> float:
    """Return a time that about as many ranks are above as the moves that are left can relieve."""
    times, load, pace = work.times, work.load, work.pace
    for r in range(times.shape[0]):
        times[r] = load[r] * pace[r]
    times.sort()
    last = times.shape[0] - 1
    place = last - max(1, int(left * _RANKS_A_MOVE)) if left < 2 * last + 2 else _NONE
    level = times[place] if place >= 0 else 0.0
    return float(max(level, ideal + _NEAREST * (times[last] - ideal)))


@kernel
def _slowest(work: ImproveWork) -> float:
    load, pace, level = work.load, work.pace, 0.0
    for r in range(load.shape[0]):
        level = max(level, load[r] * pace[r])
    return level


@kernel
def _remember(held: Ints, work: ImproveWork) -> None:
    """List, for each expert, the ranks that held it."""
    head, later, rank = work.head_held, work.later_held, work.rank_held
    head[:] = _NONE
    for i in range(held.shape[0] - 1, -1, -1):
        if held[i] >= 0 and rank[i] >= 0:
            later[i] = head[held[i]]
            head[held[i]] = i


@kernel
def _begin(load: Floats, start: Ints, work: ImproveWork) -> int:
    """Lay out a row; return the moves it takes."""
    slots, head, count, share, rank = work.slots, work.head, work.replicas, work.share, work.rank
    later, earlier, rank_load = work.later, work.earlier, work.load
    head_held, later_held, rank_held, was_held = work.head_held, work.later_held, work.rank_held, work.was_held
    head[:] = _NONE
    count[:] = 0
    rank_load[:] = 0.0
    work.is_touched[:] = False
    slots[:] = start
    for s in range(start.shape[0] - 1, -1, -1):
        e = start[s]
        if e >= 0:
            _link(s, e, head, later, earlier)
            count[e] += 1
    moves = 0
    for e in range(load.shape[0]):
        work.has_left[e] = False
        i = head_held[e]
        while i >= 0:
            work.has_left[e] |= not _holds(rank_held[i], e, head, later, rank)
            i = later_held[i]
    for s in range(start.shape[0]):
        e = start[s]
        share[s], was_held[s] = 0.0, True
        if e >= 0:
            share[s] = load[e] / count[e]
            rank_load[rank[s]] += share[s]
            was_held[s] = _holds(rank[s], e, head_held, later_held, rank_held)
            if not was_held[s]:
                moves += 1
                work.is_touched[rank[s]] = True
    return moves


@part
def _holds(r: int, e: int, head: Ints, later: Ints, rank: Ints) -> bool:
    s = head[e]
    while s >= 0 and rank[s] != r:
        s = later[s]
    return bool(s >= 0)


@part
def _link(s: int, e: int, head: Ints, later: Ints, earlier: Ints) -> None:
    later[s], earlier[s] = head[e], _NONE
    if head[e] >= 0:
        earlier[head[e]] = s
    head[e] = s


@part
def _unlink(s: int, e: int, head: Ints, later: Ints, earlier: Ints) -> None:
    if earlier[s] >= 0:
        later[earlier[s]] = later[s]
    else:
        head[e] = later[s]
    if later[s] >= 0:
        earlier[later[s]] = earlier[s]


@kernel
def _descend(
    load: Floats,
    level: float,
    least: Ints,
    spread: int,
    budget: int,
    ideal: float,
    fee: float,
    spent: int,
    best: float,
    moves: int,
    work: ImproveWork,
    slots: Ints,
    curve: Floats,
) -> tuple[int, float, int, int]:
    """Take steps until every rank keeps ``level`` or none helps; return moves spent, the best cost, its moves, and steps."""
    rank_load, cap, pace, is_stuck = work.load, work.cap, work.pace, work.is_stuck
    for r in range(cap.shape[0]):
        cap[r] = level * work.speed[r]
    is_stuck[:] = False
    steps = 0
    while steps < _MOST_STEPS and (fee == 0.0 or ideal + fee * (spent + 1) < best):
        slow = _NONE
        for r in range(cap.shape[0]):
            is_late = rank_load[r] > cap[r] * (1.0 + _ROUNDING) and not is_stuck[r]
            if is_late and (slow == _NONE or rank_load[r] * pace[r] > rank_load[slow] * pace[slow]):
                slow = r
        if slow == _NONE:
            break
        steps += 1
        score = _find_replica(slow, load, least, spread, budget - spent, work)
        score = _find_other(slow, score, load, least, spread, budget - spent, work)
        score = _find_exchange(slow, score, least, spread, budget - spent, work)
        if score <= 0.0:
            is_stuck[slow] = True
            continue
        is_stuck[:] = False
        spent += work.step[3]
        if work.step[0] == _REPLICA:
            _replicate(load, work)
        else:
            _exchange(work)
        time = _slowest(work)
        _note(time, spent, curve)
        if time + fee * spent < best * (1.0 - 1e-12):
            best, moves = time + fee * spent, spent
            slots[:] = work.slots
    return spent, best, moves, steps


@kernel
def _find_replica(slow: int, load: Floats, least: Ints, spread: int, left: int, work: ImproveWork) -> float:
    """Find the best slot to give to one more replica of an expert of the slow rank; note the step, return its score."""
    slots, share, rank, first, region, step = work.slots, work.share, work.rank, work.first, work.region, work.step
    head, later, count, rank_load, cap = work.head, work.later, work.replicas, work.load, work.cap
    head_held, later_held, rank_held = work.head_held, work.later_held, work.rank_held
    was_held, has_left, is_touched = work.was_held, work.has_left, work.is_touched
    best = 0.0
    for s in range(first[slow], first[slow + 1]):
        a = slots[s]
        if a < 0 or share[s] <= 0.0:
            continue
        shrunk = load[a] / (count[a] + 1)
        eased = share[s] - shrunk
        relief = 0.0
        q = head[a]
        while q >= 0:
            relief += min(max(rank_load[rank[q]] - cap[rank[q]], 0.0), eased)
            q = later[q]
        if relief <= best * _FREE:
            continue
        for r in range(cap.shape[0]):
            room = cap[r] - rank_load[r]
            if room <= 0.0 or region[r] != region[slow]:
                continue
            is_plain = not has_left[a] and not is_touched[r]
            if (is_plain and (relief <= best or left < 1)) or _holds(r, a, head, later, rank):
                continue
            returns = has_left[a] and _holds(r, a, head_held, later_held, rank_held)
            for t in range(first[r], first[r + 1]):
                b = slots[t]
                if b >= 0 and count[b] <= least[b]:
                    continue
                cost = (0 if returns else 1) - (0 if was_held[t] else 1)
                if cost > left:
                    continue
                gain = relief - max(shrunk - share[t] - room, 0.0)
                if gain <= 0.0 or gain <= (best if cost == 1 else best * _FREE):
                    continue
                if b >= 0:
                    if spread > 1 and least[b] > 1 and not _stays_spread(b, t, _NONE, spread, work):
                        continue
                    grown = load[b] / (count[b] - 1) - share[t]
                    q = head[b]
                    while q >= 0:
                        k = rank[q]
                        if k != r:
                            over = rank_load[k] - cap[k]
                            if _holds(k, a, head, later, rank):
                                over -= eased
                            gain -= min(max(over + grown, 0.0), grown)
                        q = later[q]
                score = gain if cost == 1 else gain / _FREE
                if score > best:
                    best = score
                    step[0], step[1], step[2], step[3] = _REPLICA, s, t, cost
    return best


@kernel
def _find_other(slow: int, best: float, load: Floats, least: Ints, spread: int, left: int, work: ImproveWork) -> float:
    """Find the best slot of the slow rank to give to an expert of another rank, if better than ``best``; as above."""
    slots, share, rank, first, region, step = work.slots, work.share, work.rank, work.first, work.region, work.step
    head, later, count, rank_load, cap = work.head, work.later, work.replicas, work.load, work.cap
    head_held, later_held, rank_held = work.head_held, work.later_held, work.rank_held
    was_held, has_left = work.was_held, work.has_left
    excess = rank_load[slow] - cap[slow]
    for t in range(first[slow], first[slow + 1]):
        b = slots[t]
        if b < 0 or count[b] <= least[b] or share[t] <= 0.0:
            continue
        grown = load[b] / (count[b] - 1) - share[t]
        growth = 0.0
        q = head[b]
        while q >= 0:
            if q != t:
                growth += min(max(rank_load[rank[q]] - cap[rank[q]] + grown, 0.0), grown)
            q = later[q]
        most = min(share[t], excess) - growth
        if most <= best * _FREE:
            continue
        if spread > 1 and least[b] > 1 and not _stays_spread(b, t, _NONE, spread, work):
            continue
        for s in range(slots.shape[0]):
            a = slots[s]
            if a < 0 or head[a] != s:
                continue
            enough = best if was_held[t] and not has_left[a] else best * _FREE
            if most <= enough or share[t] - growth - 0.5 * share[s] <= enough or region[rank[s]] != region[slow]:
                continue
            gain = min(share[t] - load[a] / (count[a] + 1), excess) - growth
            if gain <= enough or _holds(slow, a, head, later, rank):
                continue
            cost = (0 if _holds(slow, a, head_held, later_held, rank_held) else 1) - (0 if was_held[t] else 1)
            score = gain if cost == 1 else gain / _FREE
            if cost <= left and score > best:
                best = score
                step[0], step[1], step[2], step[3] = _REPLICA, s, t, cost
    return best


@kernel
def _find_exchange(slow: int, best: float, least: Ints, spread: int, left: int, work: ImproveWork) -> float:
    """Find the best exchange of an expert of the slow rank for a lighter one, if better than ``best``; as above."""
    slots, share, rank, first, region, step = work.slots, work.share, work.rank, work.first, work.region, work.step
    head, later, rank_load, cap = work.head, work.later, work.load, work.cap
    head_held, later_held, rank_held = work.head_held, work.later_held, work.rank_held
    was_held, has_left, is_touched = work.was_held, work.has_left, work.is_touched
    excess = rank_load[slow] - cap[slow]
    for s in range(first[slow], first[slow + 1]):
        a = slots[s]
        if a < 0 or share[s] <= 0.0:
            continue
        for r in range(cap.shape[0]):
            room = cap[r] - rank_load[r]
            if room <= 0.0 or region[r] != region[slow]:
                continue
            is_plain = was_held[s] and not has_left[a] and not is_touched[r] and not is_touched[slow]
            enough = best * 2.0 if is_plain else best * _FREE
            if min(min(share[s], excess), room) <= enough or (is_plain and left < 2):
                continue
            if _holds(r, a, head, later, rank):
                continue
            comes_back = has_left[a] and _holds(r, a, head_held, later_held, rank_held)
            for t in range(first[r], first[r + 1]):
                less = share[s] - share[t]
                gain = min(less, excess) - max(less - room, 0.0)
                b = slots[t]
                if gain <= enough or b < 0:
                    continue
                cost = (0 if comes_back else 1) - (0 if was_held[t] else 1) - (0 if was_held[s] else 1)
                if not (has_left[b] and _holds(slow, b, head_held, later_held, rank_held)):
                    cost += 1
                score = gain / cost if cost > 0 else gain / _FREE
                if score <= best or cost > left or _holds(slow, b, head, later, rank):
                    continue
                if spread > 1 and not (
                    (least[a] <= 1 or _stays_spread(a, s, r, spread, work))
                    and (least[b] <= 1 or _stays_spread(b, t, slow, spread, work))
                ):
                    continue
                best = score
                step[0], step[1], step[2], step[3] = _EXCHANGE, s, t, cost
                enough = best * 2.0 if is_plain else best * _FREE
    return best


@kernel
def _stays_spread(e: int, without: int, onto: int, spread: int, work: ImproveWork) -> bool:
    """Tell whether an expert stays on ``spread`` nodes, or gets no nearer together, when a slot goes and a rank comes."""
    head, later, rank, node = work.head, work.later, work.rank, work.node
    before = _nodes_of(e, _NONE, _NONE, head, later, rank, node)
    after = _nodes_of(e, without, onto, head, later, rank, node)
    return after >= min(before, spread)


@kernel
def _nodes_of(e: int, without: int, onto: int, head: Ints, later: Ints, rank: Ints, node: Ints) -> int:
    nodes = 1 if onto >= 0 else 0
    q = head[e]
    while q >= 0:
        is_new = q != without and not (onto >= 0 and node[rank[q]] == node[onto])
        p = head[e]
        while p != q and is_new:
            is_new = p == without or node[rank[p]] != node[rank[q]]
            p = later[p]
        if is_new:
            nodes += 1
        q = later[q]
    return nodes


@kernel
def _replicate(load: Floats, work: ImproveWork) -> None:
    """Give the noted slot to one more replica of the slow rank's expert."""
    s, t = work.step[1], work.step[2]
    a, b = work.slots[s], work.slots[t]
    if b >= 0:
        _unlink(t, b, work.head, work.later, work.earlier)
        work.replicas[b] -= 1
        work.load[work.rank[t]] -= work.share[t]
        _reshare(b, load, work)
    _put(t, a, work)
    work.replicas[a] += 1
    work.share[t] = 0.0
    _reshare(a, load, work)


@kernel
def _reshare(e: int, load: Floats, work: ImproveWork) -> None:
    """Split an expert's tokens evenly over the slots it has now."""
    share, rank_load, rank, later = work.share, work.load, work.rank, work.later
    part = load[e] / work.replicas[e]
    q = work.head[e]
    while q >= 0:
        rank_load[rank[q]] += part - share[q]
        share[q] = part
        q = later[q]


@kernel
def _exchange(work: ImproveWork) -> None:
    s, t = work.step[1], work.step[2]
    a, b = work.slots[s], work.slots[t]
    _unlink(s, a, work.head, work.later, work.earlier)
    _unlink(t, b, work.head, work.later, work.earlier)
    less = work.share[s] - work.share[t]
    work.load[work.rank[s]] -= less
    work.load[work.rank[t]] += less
    work.share[s], work.share[t] = work.share[t], work.share[s]
    _put(s, b, work)
    _put(t, a, work)


@kernel
def _put(s: int, e: int, work: ImproveWork) -> None:
    """Let a slot hold an expert, and note what its rank held at first."""
    slots, rank, was_held = work.slots, work.rank, work.was_held
    if slots[s] >= 0 and was_held[s]:
        work.has_left[slots[s]] = True
    slots[s] = e
    was_held[s] = _holds(rank[s], e, work.head_held, work.later_held, work.rank_held)
    work.is_touched[rank[s]] = True
    _link(s, e, work.head, work.later, work.earlier)
