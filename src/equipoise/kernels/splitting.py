"""The split of every expert's tokens over its replicas that makes the slowest rank least slow: exact, with its proof.

A sweep levels the ranks: each expert that has a choice is taken off its ranks and poured back level. What that leaves is
finished by pushing tokens along shortest ways from ranks above a proven level to ranks below it. Where no way leads on, the
ranks that were reached prove a higher level: all tokens on them are of experts that have no replica elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.types import Flags, Floats, Ints

_SWEEPS = 2
_ROUNDING = 1e-13
_MOST_LEVELS = 1000  # levels rise and ways get longer, so few are needed; rounding must not make it more
_MOST_ROUNDS = 1000


class SplitWork(NamedTuple):
    """Scratch of one thread, and what holds for all layers of a cluster; made by :func:`make_split_work`."""

    rank_of_slot: Ints  # [slots]
    first_slot: Ints  # [ranks + 1] where a rank's slots begin
    speed: Floats  # [ranks]
    pace: Floats  # [ranks] 1 / speed
    expert: Ints  # [slots] one layer's expert_of_slot, writable, so that one signature of split_row is compiled
    copies: Ints  # [experts] ranks that hold an expert
    first: Ints  # [experts + 1] where an expert's slots begin in ``slot``
    slot: Ints  # [slots] slots by expert, rising, one a rank
    shared: Ints  # [experts] experts that have a choice
    order: Ints  # [ranks]
    position: Ints  # [ranks]
    inner: Floats  # [ranks]
    time: Floats  # [slots]
    via: Ints  # [ranks] slot whose tokens a rank can give away; NONE, SINK
    to: Ints  # [ranks] slot that takes them
    is_new: Flags  # [experts] whose replicas are not yet looked at
    queue: Ints  # [slots]


_NONE = -1
_SINK = -2


@kernel
def make_split_work(num_experts: int, rank_of_slot: Ints, speed: Floats) -> SplitWork:
    """Make the scratch that :func:`split_rows` writes on."""
    num_slots, num_ranks = rank_of_slot.shape[0], speed.shape[0]
    first_slot = np.zeros(num_ranks + 1, np.int64)
    for s in range(num_slots):
        first_slot[rank_of_slot[s] + 1] += 1
    for r in range(num_ranks):
        first_slot[r + 1] += first_slot[r]
    return SplitWork(
        rank_of_slot.copy(),
        first_slot,
        speed.copy(),
        1.0 / speed,
        np.empty(num_slots, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts + 1, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.float64),
        np.empty(num_slots, np.float64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_experts, np.bool_),
        np.empty(num_slots, np.int64),
    )


@kernel
def split_rows(
    expert_of_slot: Ints, load: Floats, work: SplitWork, tokens: Floats, rank_load: Floats, bound: Floats, tight: Flags
) -> None:
    """Split every layer's load [layers, experts]: what :func:`split_row` writes, a row a layer, and ``bound`` [layers]."""
    for x in range(expert_of_slot.shape[0]):
        work.expert[:] = expert_of_slot[x]
        bound[x] = split_row(work.expert, load[x], work, tokens[x], rank_load[x], tight[x])


@kernel
def split_row(expert: Ints, load: Floats, work: SplitWork, tokens: Floats, rank_load: Floats, tight: Flags) -> float:
    """Split one layer's load; return the level proven, which the slowest rank reaches to the last digits.

    ``tokens`` [slots] and ``rank_load`` [ranks] are written, and ``tight`` [ranks]: the ranks that prove the level, as the
    tokens of all experts held by them alone.
    """
    num_shared = _lay_out(expert, load, work, tokens, rank_load)
    if num_shared == 0:
        return _level_without_choice(work, rank_load, tight)
    for sweep in range(_SWEEPS):
        _pour_all(num_shared, load, sweep > 0, work, tokens, rank_load)
    level = _level_of_slowest(load, work, rank_load, tight)
    _even_out(expert, tight, work, tokens, rank_load)
    for _ in range(_MOST_LEVELS):
        if _push_all(expert, level, work, tokens, rank_load):
            break
        higher = _level_of_stuck(work, rank_load, tight)
        if higher <= level:
            break
        level = higher
    return _prove(load, work, tight)


@kernel
def _level_without_choice(work: SplitWork, rank_load: Floats, tight: Flags) -> float:
    """Return the time of the slowest rank, and mark it."""
    slowest, level = 0, 0.0
    for r in range(rank_load.shape[0]):
        tight[r] = False
        if rank_load[r] / work.speed[r] > level:
            slowest, level = r, rank_load[r] / work.speed[r]
    tight[slowest] = True
    return level


@kernel
def _lay_out(expert: Ints, load: Floats, work: SplitWork, tokens: Floats, rank_load: Floats) -> int:
    """List slots by expert, put what has no choice in place, and list what has: how many experts that is."""
    copies, first, slot, shared, rank = work.copies, work.first, work.slot, work.shared, work.rank_of_slot
    num_experts, num_slots = copies.shape[0], expert.shape[0]
    copies[:] = 0
    rank_load[:] = 0.0
    for s in range(num_slots):
        tokens[s] = 0.0
        if expert[s] >= 0:
            copies[expert[s]] += 1
    first[0] = 0
    num_shared = 0
    for e in range(num_experts):
        first[e + 1] = first[e] + copies[e]
        copies[e] = 0
    for s in range(num_slots):
        e = expert[s]
        if e < 0:
            continue
        at = first[e] + copies[e]
        if copies[e] == 0 or rank[slot[at - 1]] != rank[s]:
            slot[at] = s
            copies[e] += 1
    for e in range(num_experts):
        if copies[e] == 1:
            s = slot[first[e]]
            tokens[s] = load[e]
            rank_load[rank[s]] += load[e]
        elif copies[e] == 2 and load[e] > 0.0:
            shared[num_shared] = e
            num_shared += 1
    for e in range(num_experts):
        if copies[e] > 2 and load[e] > 0.0:
            shared[num_shared] = e
            num_shared += 1
    return num_shared


@kernel
def _pour_all(num_shared: int, load: Floats, again: bool, work: SplitWork, tokens: Floats, rank_load: Floats) -> None:
    """Pour the tokens of every expert that has a choice level over its ranks, in rank time; ``again``: take them off first."""
    shared, first, copies, slot = work.shared, work.first, work.copies, work.slot
    rank, speed, pace, queue, time = work.rank_of_slot, work.speed, work.pace, work.queue, work.time
    for nth in range(num_shared):
        e = shared[nth]
        mine = slot[first[e] : first[e] + copies[e]]
        if again:
            for s in mine:
                rank_load[rank[s]] -= tokens[s]
        if copies[e] == 2:
            _pour_over_two(mine, load[e], rank, speed, tokens, rank_load)
        else:
            _pour(mine, load[e], rank, speed, pace, queue, time, tokens, rank_load)


@part
def _pour_over_two(slot: Ints, total: float, rank: Ints, speed: Floats, tokens: Floats, rank_load: Floats) -> None:
    s, t = slot[0], slot[1]
    a, b = rank[s], rank[t]
    level = (rank_load[a] + rank_load[b] + total) / (speed[a] + speed[b])
    here = min(max(level * speed[a] - rank_load[a], 0.0), total)
    tokens[s] = here
    tokens[t] = total - here
    rank_load[a] += here
    rank_load[b] += total - here


@part
def _pour(
    slot: Ints,
    total: float,
    rank: Ints,
    speed: Floats,
    pace: Floats,
    queue: Ints,
    time: Floats,
    tokens: Floats,
    rank_load: Floats,
) -> None:
    for i in range(slot.shape[0]):
        own = rank_load[rank[slot[i]]] * pace[rank[slot[i]]]
        j = i
        while j > 0 and time[j - 1] > own:
            queue[j] = queue[j - 1]
            time[j] = time[j - 1]
            j -= 1
        queue[j] = slot[i]
        time[j] = own
    filled, width, wet = total, 0.0, 0
    while wet < slot.shape[0] and (wet == 0 or filled > time[wet] * width):
        filled += rank_load[rank[queue[wet]]]
        width += speed[rank[queue[wet]]]
        wet += 1
    left = total
    for i in range(slot.shape[0]):
        s = queue[i]
        here = 0.0
        if i + 1 < wet:
            here = min(max(filled / width * speed[rank[s]] - rank_load[rank[s]], 0.0), left)
        elif i + 1 == wet:
            here = left
        tokens[s] = here
        rank_load[rank[s]] += here
        left -= here


@kernel
def _level_of_slowest(load: Floats, work: SplitWork, rank_load: Floats, tight: Flags) -> float:
    """Return the highest level that the k slowest ranks prove by the experts held by them alone, and mark these ranks."""
    order, position, inner, time, rank = work.order, work.position, work.inner, work.time, work.rank_of_slot
    num_ranks = rank_load.shape[0]
    for r in range(num_ranks):
        own = rank_load[r] * work.pace[r]
        j = r
        while j > 0 and time[j - 1] < own:
            order[j] = order[j - 1]
            time[j] = time[j - 1]
            j -= 1
        order[j] = r
        time[j] = own
    for i in range(num_ranks):
        position[order[i]] = i
        inner[i] = 0.0
    for e in range(work.copies.shape[0]):
        last = 0
        for i in range(work.first[e], work.first[e] + work.copies[e]):
            last = max(last, position[rank[work.slot[i]]])
        inner[last] += load[e]
    level, held, width = 0.0, 0.0, 0.0
    k = 0
    for i in range(num_ranks):
        held += inner[i]
        width += work.speed[order[i]]
        if held > level * width:
            level = held / width
            k = i
    for i in range(num_ranks):
        tight[order[i]] = i <= k
    return level


@kernel
def _even_out(expert: Ints, tight: Flags, work: SplitWork, tokens: Floats, rank_load: Floats) -> None:
    """Level the tight ranks, leaves first, along trees of experts that have tokens on both ranks."""
    via, to, queue, rank, is_new = work.via, work.to, work.queue, work.rank_of_slot, work.is_new
    copies, first, slot, first_slot, speed = work.copies, work.first, work.slot, work.first_slot, work.speed
    for e in range(copies.shape[0]):
        is_new[e] = copies[e] > 1
    for r in range(speed.shape[0]):
        via[r] = _NONE
    tail = 0
    for root in work.order:
        if not tight[root] or via[root] != _NONE:
            continue
        via[root] = _SINK
        begin, head = tail, tail
        queue[tail] = root
        tail += 1
        held, width = 0.0, 0.0
        while head < tail:
            r = queue[head]
            head += 1
            held += rank_load[r]
            width += speed[r]
            for s in range(first_slot[r], first_slot[r + 1]):
                e = expert[s]
                if e < 0 or not is_new[e] or tokens[s] == 0.0:
                    continue
                is_new[e] = False
                for t in slot[first[e] : first[e] + copies[e]]:
                    q = rank[t]
                    if tight[q] and via[q] == _NONE and tokens[t] > 0.0:
                        via[q] = t
                        to[q] = s
                        queue[tail] = q
                        tail += 1
        level = held / width
        for i in range(tail - 1, begin, -1):
            r = queue[i]
            amount = min(max(rank_load[r] - level * speed[r], -tokens[to[r]]), tokens[via[r]])
            tokens[via[r]] -= amount
            tokens[to[r]] += amount
            rank_load[r] -= amount
            rank_load[rank[to[r]]] += amount


@kernel
def _push_all(expert: Ints, level: float, work: SplitWork, tokens: Floats, rank_load: Floats) -> bool:
    """Push tokens off ranks above ``level`` until there are none, or no way leads on from those left."""
    speed, via, to, rank = work.speed, work.via, work.to, work.rank_of_slot
    limit = level * (1.0 + _ROUNDING)
    for _ in range(_MOST_ROUNDS):
        above = False
        for r in range(speed.shape[0]):
            above |= rank_load[r] > limit * speed[r]
        if not above:
            return True
        _find_ways(expert, level, work, tokens, rank_load)
        moved = False
        for r in range(speed.shape[0]):
            if rank_load[r] > limit * speed[r] and via[r] >= 0:
                moved |= _push(r, level, via, to, rank, speed, tokens, rank_load)
        if not moved:
            return False
    return True


@kernel
def _find_ways(expert: Ints, level: float, work: SplitWork, tokens: Floats, rank_load: Floats) -> None:
    """Find for each rank the slot whose tokens it can give away on a shortest way to a rank below ``level``."""
    via, to, queue, rank, is_new = work.via, work.to, work.queue, work.rank_of_slot, work.is_new
    copies, first, slot, first_slot, speed = work.copies, work.first, work.slot, work.first_slot, work.speed
    limit = level * (1.0 - _ROUNDING)
    for e in range(copies.shape[0]):
        is_new[e] = copies[e] > 1
    tail = 0
    for r in range(speed.shape[0]):
        via[r] = _NONE
        if rank_load[r] < limit * speed[r]:
            via[r] = _SINK
            queue[tail] = r
            tail += 1
    head = 0
    while head < tail:
        r = queue[head]
        head += 1
        for s in range(first_slot[r], first_slot[r + 1]):
            e = expert[s]
            if e < 0 or not is_new[e]:
                continue
            is_new[e] = False
            for t in slot[first[e] : first[e] + copies[e]]:
                q = rank[t]
                if via[q] == _NONE and tokens[t] > 0.0:
                    via[q] = t
                    to[q] = s
                    queue[tail] = q
                    tail += 1


@part
def _push(start: int, level: float, via: Ints, to: Ints, rank: Ints, speed: Floats, tokens: Floats, rank_load: Floats) -> bool:
    """Push what is above ``level`` along the way from a rank, as far as it goes; whether any went."""
    amount = rank_load[start] - level * speed[start]
    r = start
    while via[r] >= 0:
        amount = min(amount, tokens[via[r]])
        r = rank[to[r]]
    amount = min(amount, level * speed[r] - rank_load[r])
    if amount <= 0.0:
        return False
    rank_load[start] -= amount
    rank_load[r] += amount
    r = start
    while via[r] >= 0:
        tokens[via[r]] -= amount
        tokens[to[r]] += amount
        r = rank[to[r]]
    return True


@kernel
def _level_of_stuck(work: SplitWork, rank_load: Floats, tight: Flags) -> float:
    """Return the level that the ranks prove from which no way leads on, and mark them."""
    held, width = 0.0, 0.0
    for r in range(rank_load.shape[0]):
        tight[r] = work.via[r] == _NONE
        if tight[r]:
            held += rank_load[r]
            width += work.speed[r]
    return held / width


@kernel
def _prove(load: Floats, work: SplitWork, tight: Flags) -> float:
    """Return the time that the tight ranks need for the tokens of the experts held by them alone."""
    first, copies, slot, rank = work.first, work.copies, work.slot, work.rank_of_slot
    held, width = 0.0, 0.0
    for e in range(load.shape[0]):
        is_inside = copies[e] > 0
        for i in range(first[e], first[e] + copies[e]):
            is_inside &= tight[rank[slot[i]]]
        if is_inside:
            held += load[e]
    for r in range(tight.shape[0]):
        if tight[r]:
            width += work.speed[r]
    return held / width


@kernel
def share_rows(expert_of_slot: Ints, load: Floats, tokens: Floats, total: Ints, shares: Floats) -> None:
    """Write each slot's share of its expert's tokens, an even one where there are none; ``total`` [experts] is scratch."""
    for x in range(expert_of_slot.shape[0]):
        total[:] = 0
        for e in expert_of_slot[x]:
            if e >= 0:
                total[e] += 1
        for s in range(expert_of_slot.shape[1]):
            e = expert_of_slot[x, s]
            shares[x, s] = 0.0
            if e >= 0:
                shares[x, s] = tokens[x, s] / load[x, e] if load[x, e] > 0.0 else 1.0 / total[e]
