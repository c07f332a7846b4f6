"""Placements whose ranks can pass load on to each other: replicas spread evenly over ranks, their experts linking far ones.

Under an optimal split a replicated expert is a channel: load flows along it from a slow rank to a fast one. Ranks that share
experts are neighbours; load that no plan knew of is spread out best where every rank has equally many channels and no two
ranks are far apart. Replicas are placed one after the other, each on the rank farthest from those that hold its expert already
(as progressive edge growth builds graphs without short cycles: Hu, Eleftheriou and Arnold, IEEE Trans. Information Theory 51,
2005).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.splitting import SplitWork, split_row
from equipoise.kernels.types import Flags, Floats, Ints

_NONE = -1


class ConnectWork(NamedTuple):
    """Scratch of one thread; made by :func:`make_connect_work`."""

    quota: Ints  # [ranks] slots for replicas
    used: Ints  # [ranks] slots filled
    carried: Floats  # [ranks] mean load of the replicas, in rank time
    holds: Flags  # [ranks, experts]
    is_near: Flags  # [ranks, ranks] whether two ranks share an expert
    near: Ints  # [ranks, ranks] those that do
    num_near: Ints  # [ranks]
    distance: Ints  # [ranks]
    queue: Ints  # [ranks]
    time: Floats  # [loads, ranks]
    worse: Floats  # [ranks]
    value: Floats  # [experts]
    order: Ints  # [experts]
    value_scratch: Floats  # [experts]
    order_scratch: Ints  # [experts]


@kernel
def make_connect_work(num_experts: int, num_ranks: int, num_loads: int) -> ConnectWork:
    """Make the scratch that :func:`connect_rows` writes on."""
    return ConnectWork(
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.float64),
        np.empty((num_ranks, num_experts), np.bool_),
        np.empty((num_ranks, num_ranks), np.bool_),
        np.empty((num_ranks, num_ranks), np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty((num_loads, num_ranks), np.float64),
        np.empty(num_ranks, np.float64),
        np.empty(num_experts, np.float64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.float64),
        np.empty(num_experts, np.int64),
    )


@kernel
def connect_rows(
    forecast: Floats,
    loads: Floats,
    weight: Floats,
    count: Ints,
    carry: float,
    room: Ints,
    speed: Floats,
    work: ConnectWork,
    slots: Ints,
    is_done: Flags,
) -> None:
    """Place every layer's experts with ``count`` replicas each.

    Parameters
    ----------
    forecast : [layers, experts]
        Loads in shares of the mean rank load: what decides the order.
    loads : [layers, loads, experts]
        Likely loads, in the same unit; ``weight`` [loads] says how likely.
    count : [layers, experts]
        Replicas, as many as there are slots.
    carry : float
        Part of a replica's even share that experts with one replica make way for.
    room, speed : [ranks]
    slots : [layers, slots]
        Written: the expert of each slot, rank by rank.
    is_done : [layers]
        Written: False where no place without a duplicate was found for some replica.
    """
    for x in range(count.shape[0]):
        is_done[x] = connect_row(forecast[x], loads[x], weight, count[x], carry, room, speed, work, slots[x])


@kernel
def connect_row(
    forecast: Floats,
    loads: Floats,
    weight: Floats,
    count: Ints,
    carry: float,
    room: Ints,
    speed: Floats,
    work: ConnectWork,
    slots: Ints,
) -> bool:
    """Place one layer's experts; see :func:`connect_rows`."""
    _clear(work)
    _share_out(count, room, work.quota)
    slots[:] = _NONE
    _sort(forecast, count, True, work)
    for e in work.order:
        if count[e] < 2:
            break
        if not _place_replicas(e, forecast[e] / count[e], count[e], room, speed, work, slots):
            return False
    _carry_replicas(loads, count, carry, room, speed, work, slots)
    _sort(forecast, count, False, work)
    for e in work.order:
        if count[e] > 1:
            break
        _place_single(e, loads, weight, room, speed, work, slots)
    return True


@kernel
def _clear(work: ConnectWork) -> None:
    work.used[:] = 0
    work.carried[:] = 0.0
    work.holds[:] = False
    work.is_near[:] = False
    work.num_near[:] = 0
    work.time[:] = 0.0


@kernel
def _share_out(count: Ints, room: Ints, quota: Ints) -> None:
    """Give each rank its part of the slots for replicas, by its room; the first ones one more."""
    wanted, total = 0, 0
    for c in count:
        if c > 1:
            wanted += c
    for k in room:
        total += k
    left = wanted
    for r in range(room.shape[0]):
        quota[r] = wanted * room[r] // total
        left -= quota[r]
    for r in range(room.shape[0]):
        if left > 0 and quota[r] < room[r]:
            quota[r] += 1
            left -= 1


@kernel
def _sort(forecast: Floats, count: Ints, with_replicas: bool, work: ConnectWork) -> None:
    """Order experts by load a replica, falling; those with several replicas first, or last."""
    for e in range(count.shape[0]):
        work.value[e] = forecast[e] / count[e] if (count[e] > 1) == with_replicas else -1.0
        work.order[e] = e
    sort_descending(work.value, work.order, work.value_scratch, work.order_scratch)


@kernel
def _place_replicas(e: int, share: float, count: int, room: Ints, speed: Floats, work: ConnectWork, slots: Ints) -> bool:
    """Place an expert's replicas, each as far as can be from those before; whether all found a place."""
    for _ in range(count):
        _measure(e, work)
        rank = _farthest(e, work.quota, work)
        if rank == _NONE:
            rank = _farthest(e, room, work)
        if rank == _NONE:
            rank = _make_way(e, room, work, slots)
        if rank == _NONE:
            return False
        _link(e, rank, work)
        _put(e, rank, room, work, slots)
        work.carried[rank] += share / speed[rank]
    return True


@kernel
def _measure(e: int, work: ConnectWork) -> None:
    """Count the steps from the ranks that hold an expert to all others; ranks that cannot be reached are farthest."""
    distance, queue, holds = work.distance, work.queue, work.holds
    num_ranks = distance.shape[0]
    tail, head = 0, 0
    for r in range(num_ranks):
        distance[r] = num_ranks
        if holds[r, e]:
            distance[r] = 0
            queue[tail] = r
            tail += 1
    while head < tail:
        r = queue[head]
        head += 1
        for q in work.near[r, : work.num_near[r]]:
            if distance[q] == num_ranks:
                distance[q] = distance[r] + 1
                queue[tail] = q
                tail += 1


@kernel
def _farthest(e: int, limit: Ints, work: ConnectWork) -> int:
    """Return the farthest rank that has not the expert and fewer slots filled than ``limit``; of several the least loaded."""
    best = _NONE
    for r in range(limit.shape[0]):
        if work.holds[r, e] or work.used[r] >= limit[r]:
            continue
        if best != _NONE:
            if work.distance[r] < work.distance[best]:
                continue
            if work.distance[r] == work.distance[best] and work.carried[r] >= work.carried[best]:
                continue
        best = r
    return best


@kernel
def _make_way(e: int, room: Ints, work: ConnectWork, slots: Ints) -> int:
    """Move some replica from a full rank without the expert to one that has a slot left; return the rank now free, or -1."""
    begin = 0
    for r in range(room.shape[0]):
        if not work.holds[r, e]:
            for s in range(begin, begin + work.used[r]):
                for q in range(room.shape[0]):
                    if work.used[q] < room[q] and not work.holds[q, slots[s]]:
                        moved = slots[s]
                        work.holds[r, moved] = False
                        work.used[r] -= 1
                        slots[s] = slots[begin + work.used[r]]
                        slots[begin + work.used[r]] = _NONE
                        _link(moved, q, work)
                        _put(moved, q, room, work, slots)
                        return r
        begin += room[r]
    return _NONE


@kernel
def _link(e: int, rank: int, work: ConnectWork) -> None:
    """Note that a rank is now a neighbour of all that hold an expert."""
    for r in range(work.used.shape[0]):
        if work.holds[r, e] and r != rank and not work.is_near[r, rank]:
            work.is_near[r, rank] = True
            work.is_near[rank, r] = True
            work.near[r, work.num_near[r]] = rank
            work.near[rank, work.num_near[rank]] = r
            work.num_near[r] += 1
            work.num_near[rank] += 1


@kernel
def _put(e: int, rank: int, room: Ints, work: ConnectWork, slots: Ints) -> None:
    begin = 0
    for r in range(rank):
        begin += room[r]
    slots[begin + work.used[rank]] = e
    work.used[rank] += 1
    work.holds[rank, e] = True


@kernel
def _carry_replicas(
    loads: Floats, count: Ints, carry: float, room: Ints, speed: Floats, work: ConnectWork, slots: Ints
) -> None:
    """Add up the times of ranks in each load that their replicas are taken to cost."""
    begin = 0
    for r in range(room.shape[0]):
        for e in slots[begin : begin + work.used[r]]:
            for n in range(loads.shape[0]):
                work.time[n, r] += carry * loads[n, e] / count[e] / speed[r]
        begin += room[r]


@kernel
def _place_single(e: int, loads: Floats, weight: Floats, room: Ints, speed: Floats, work: ConnectWork, slots: Ints) -> None:
    """Place an expert without replicas where the fourth powers of rank times, over all loads, grow least."""
    time, worse = work.time, work.worse
    worse[:] = 0.0
    for n in range(loads.shape[0]):
        for r in range(room.shape[0]):
            now = time[n, r] * time[n, r]
            then = (time[n, r] + loads[n, e] / speed[r]) * (time[n, r] + loads[n, e] / speed[r])
            worse[r] += weight[n] * speed[r] * (then * then - now * now)
    best = _NONE
    for r in range(room.shape[0]):
        if work.used[r] < room[r] and (best == _NONE or worse[r] < worse[best]):
            best = r
    _put(e, best, room, work, slots)
    for n in range(loads.shape[0]):
        time[n, best] += loads[n, e] / speed[best]


@kernel
def judge_rows(
    slots: Ints, loads: Floats, weight: Floats, work: SplitWork, tokens: Floats, rank_load: Floats, tight: Flags
) -> Floats:
    """Return the mean largest rank time of each layer over ``loads`` [layers, loads, experts], split optimally: [layers]."""
    means = np.zeros(slots.shape[0], np.float64)
    for x in range(slots.shape[0]):
        work.expert[:] = slots[x]
        for n in range(loads.shape[1]):
            means[x] += weight[n] * split_row(work.expert, loads[x, n], work, tokens, rank_load, tight)
    return means
