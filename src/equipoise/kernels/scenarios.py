"""One placement for several loads: what lowers the sum, over scenarios, of the slowest rank's time.

A rank is worth emptying only where it is the slowest of some scenario. What an exchange gains is read off the scenarios led by
one of its two ranks, less what it costs in the others. Each scenario keeps its two slowest ranks only: of two ranks that
exchange, one ends no earlier than the faster of them stood, so where they are the two slowest no other rank counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.types import Flags, Floats, Ints

_LEAST = 1e-6
"""A change must lower the sum by this share of it: less is not worth a step, and rounding gains less."""


class Ranks(NamedTuple):
    """The ranks of one layer, and how long each takes in each scenario.

    ``expert`` [ranks, largest room] is what each rank holds, in its first ``room`` [ranks] places; ``pace`` (1 / speed) and
    ``node`` are [ranks]; ``replicas`` is [experts]; ``share`` [experts, scenarios] the load of one replica; ``holds`` [ranks,
    experts] is all false while the ranks are closed; ``time`` is [ranks, scenarios]; ``slowest`` [2, scenarios] lists the two
    slowest ranks, lower numbers first on ties, -1 where there is no second.
    """

    expert: Ints
    room: Ints
    pace: Floats
    node: Ints
    replicas: Ints
    share: Floats
    holds: Flags
    time: Floats
    slowest: Ints


class Scratch(NamedTuple):
    """Room for notes: ``is_settled``, ``promise`` [ranks]; ``order``, ``bar`` [scenarios]."""

    is_settled: Flags
    promise: Floats
    order: Ints
    bar: Floats


@kernel
def refine_rows(slots: Ints, load: Floats, room: Ints, speed: Floats, node: Ints, comparisons: int) -> Floats:
    """Improve placements for the sum over scenarios of the slowest rank's time.

    ``slots`` [layers, slots] holds experts rank by rank, every expert at least once and none twice on a rank, and is improved
    in place; ``load`` is [layers, scenarios, experts]; ``room``, ``speed`` and ``node`` are [ranks], and replicas stay on their
    node. At most ``comparisons`` pairs of ranks are compared a layer; 0 only tells the times. Returns the slowest rank's time
    in each scenario, [layers, scenarios].

    A comparison looks at room^2 exchanges, most of them in one or two scenarios only; for each rank that is emptied,
    O(ranks * scenarios) comes on top.
    """
    num_layers, num_scenarios, num_experts = load.shape
    ranks = make_ranks(room, speed, node, num_experts, num_scenarios)
    scratch = make_scratch(room.shape[0], num_scenarios)
    largest = np.empty((num_layers, num_scenarios), np.float64)
    for x in range(num_layers):
        open_ranks(slots[x], load[x], ranks)
        _exchange_all(ranks, scratch, comparisons)
        _write_largest(ranks, largest[x])
        close_ranks(slots[x], ranks)
    return largest


@kernel
def make_ranks(room: Ints, speed: Floats, node: Ints, num_experts: int, num_scenarios: int) -> Ranks:
    """Return closed ranks."""
    num_ranks = room.shape[0]
    return Ranks(
        np.empty((num_ranks, room.max()), np.int64),
        room.copy(),
        1.0 / speed,
        node.copy(),
        np.empty(num_experts, np.int64),
        np.empty((num_experts, num_scenarios), np.float64),
        np.zeros((num_ranks, num_experts), np.bool_),
        np.empty((num_ranks, num_scenarios), np.float64),
        np.empty((2, num_scenarios), np.int64),
    )


@kernel
def make_scratch(num_ranks: int, num_scenarios: int) -> Scratch:
    """Return room for notes."""
    return Scratch(
        np.empty(num_ranks, np.bool_),
        np.empty(num_ranks, np.float64),
        np.empty(num_scenarios, np.int64),
        np.empty(num_scenarios, np.float64),
    )


@kernel
def open_ranks(slots: Ints, load: Floats, ranks: Ranks) -> None:
    """Fill the ranks with ``slots`` [slots], rank by rank, for ``load`` [scenarios, experts]."""
    ranks.replicas[:] = 0
    slot = 0
    for r in range(ranks.room.shape[0]):
        for i in range(ranks.room[r]):
            e = slots[slot]
            ranks.expert[r, i] = e
            ranks.holds[r, e] = True
            ranks.replicas[e] += 1
            slot += 1
    for e in range(ranks.replicas.shape[0]):
        for n in range(ranks.share.shape[1]):
            ranks.share[e, n] = load[n, e] / ranks.replicas[e]
    for r in range(ranks.room.shape[0]):
        _add_up(ranks, r)
    _lead(ranks)


@kernel
def close_ranks(slots: Ints, ranks: Ranks) -> None:
    """Write to ``slots`` what the ranks hold, rising within a rank, and empty them."""
    first = 0
    for r in range(ranks.room.shape[0]):
        for i in range(ranks.room[r]):
            e = ranks.expert[r, i]
            ranks.holds[r, e] = False
            slot = first + i
            while slot > first and slots[slot - 1] > e:
                slots[slot] = slots[slot - 1]
                slot -= 1
            slots[slot] = e
        first += ranks.room[r]


@kernel
def _write_largest(ranks: Ranks, largest: Floats) -> None:
    for n in range(largest.shape[0]):
        largest[n] = ranks.time[ranks.slowest[0, n], n]


@part
def _add_up(ranks: Ranks, r: int) -> None:
    """Add up a rank's times afresh: no error builds up."""
    time = ranks.time[r]
    for n in range(time.shape[0]):
        time[n] = 0.0
    for i in range(ranks.room[r]):
        e = ranks.expert[r, i]
        for n in range(time.shape[0]):
            time[n] += ranks.share[e, n]
    for n in range(time.shape[0]):
        time[n] *= ranks.pace[r]


@part
def _lead(ranks: Ranks) -> float:
    """Find the two slowest ranks of each scenario; return the sum of the slowest times."""
    total = 0.0
    time = ranks.time
    for n in range(time.shape[1]):
        first, second = 0, -1
        for r in range(1, time.shape[0]):
            if time[r, n] > time[first, n]:
                first, second = r, first
            elif second < 0 or time[r, n] > time[second, n]:
                second = r
        ranks.slowest[0, n], ranks.slowest[1, n] = first, second
        total += time[first, n]
    return total


@kernel
def _exchange_all(ranks: Ranks, scratch: Scratch, left: int) -> int:
    """Exchange until none helps or no comparisons are left; return what is left of them."""
    total = _lead(ranks)
    scratch.is_settled[:] = False
    while left > 0:
        p = _most_promising(ranks, scratch)
        if p < 0:
            break
        i, q, j, compared = _find_exchange(ranks, scratch, p, total * _LEAST, left)
        left -= compared
        if q < 0:
            scratch.is_settled[p] = True
            continue
        _exchange(ranks, p, i, q, j)
        total = _lead(ranks)
        scratch.is_settled[:] = False
    return left


@part
def _most_promising(ranks: Ranks, scratch: Scratch) -> int:
    """Return the rank that leads by most, over all scenarios it leads, of those not settled; -1 where none leads."""
    promise = scratch.promise
    promise[:] = 0.0
    for n in range(ranks.time.shape[1]):
        lead, second = ranks.slowest[0, n], ranks.slowest[1, n]
        if second >= 0 and not scratch.is_settled[lead]:
            promise[lead] += ranks.time[lead, n] - ranks.time[second, n]
    best = 0
    for r in range(1, promise.shape[0]):
        if promise[r] > promise[best]:
            best = r
    return best if promise[best] > 0.0 else -1


@part
def _find_exchange(ranks: Ranks, scratch: Scratch, p: int, least: float, left: int) -> tuple[int, int, int, int]:
    """Find an exchange with rank ``p`` that gains more than ``least``: (i, other rank, j, pairs compared); other is -1 if none.

    Partners go by what they could gain at most, and the best exchange with the first that helps is taken.
    """
    promise = scratch.promise
    for q in range(promise.shape[0]):
        promise[q] = most_gained(ranks, p, q) if q != p and ranks.node[q] == ranks.node[p] else -1.0
    compared = 0
    while compared < left:
        q = 0
        for r in range(1, promise.shape[0]):
            if promise[r] > promise[q]:
                q = r
        if promise[q] <= least:
            break
        promise[q] = -1.0
        compared += 1
        i, j = _best_between(ranks, scratch, p, q, least)
        if i >= 0:
            return i, q, j, compared
    return -1, -1, -1, compared


@part
def most_gained(ranks: Ranks, p: int, q: int) -> float:
    """Bound what exchanges between two ranks can gain: neither another rank nor the two when level become faster."""
    weight = ranks.pace[q] / (ranks.pace[p] + ranks.pace[q])
    gain = 0.0
    for n in range(ranks.time.shape[1]):
        lead = ranks.slowest[0, n]
        if lead == p or lead == q:
            level = weight * ranks.time[p, n] + (1.0 - weight) * ranks.time[q, n]
            gain += ranks.time[lead, n] - max(ranks.time[ranks.slowest[1, n], n], level)
    return gain


@part
def _sort_scenarios(ranks: Ranks, scratch: Scratch, p: int, q: int) -> tuple[int, float]:
    """Order scenarios: those led by one of two ranks first; return how many, and the sum of their slowest times.

    ``bar`` is the time that the two cannot lower: the second slowest there, the slowest in the rest.
    """
    led, rest, total = 0, ranks.time.shape[1], 0.0
    for n in range(ranks.time.shape[1]):
        lead = ranks.slowest[0, n]
        if lead == p or lead == q:
            scratch.order[led] = n
            scratch.bar[n] = ranks.time[ranks.slowest[1, n], n]
            total += ranks.time[lead, n]
            led += 1
        else:
            rest -= 1
            scratch.order[rest] = n
            scratch.bar[n] = ranks.time[lead, n]
    return led, total


@part
def _best_between(ranks: Ranks, scratch: Scratch, p: int, q: int, least: float) -> tuple[int, int]:
    """Find the exchange of two ranks that gains most, more than ``least``: places (i, j), or -1 each.

    Gains come from the scenarios led by one of the two, and these are counted first: few exchanges get further.
    """
    led, total = _sort_scenarios(ranks, scratch, p, q)
    order, bar, num_scenarios = scratch.order, scratch.bar, ranks.time.shape[1]
    share, time_p, time_q, pace_p, pace_q = ranks.share, ranks.time[p], ranks.time[q], ranks.pace[p], ranks.pace[q]
    best, best_i, best_j = total - least, -1, -1
    for i in range(ranks.room[p]):
        a = ranks.expert[p, i]
        if ranks.holds[q, a]:
            continue
        for j in range(ranks.room[q]):
            b = ranks.expert[q, j]
            ends = 0.0
            for k in range(led):
                n = order[k]
                shift = share[a, n] - share[b, n]
                ends += max(bar[n], max(time_p[n] - shift * pace_p, time_q[n] + shift * pace_q))
            if ends >= best or ranks.holds[p, b]:
                continue
            for k in range(led, num_scenarios):
                n = order[k]
                shift = share[a, n] - share[b, n]
                ends += max(0.0, max(time_p[n] - shift * pace_p, time_q[n] + shift * pace_q) - bar[n])
                if ends >= best:
                    break
            if ends < best:
                best, best_i, best_j = ends, i, j
    return best_i, best_j


@part
def _exchange(ranks: Ranks, p: int, i: int, q: int, j: int) -> None:
    a, b = ranks.expert[p, i], ranks.expert[q, j]
    ranks.expert[p, i], ranks.expert[q, j] = b, a
    ranks.holds[p, a], ranks.holds[p, b] = False, True
    ranks.holds[q, b], ranks.holds[q, a] = False, True
    _add_up(ranks, p)
    _add_up(ranks, q)
