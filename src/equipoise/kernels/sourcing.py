"""From which rank each replica comes: the rank that sends most sends as few as can be, and few cross between nodes.

A b-matching of requests with the ranks that hold their experts. Augmenting paths prove the least limit on sends: where a
request finds none, the ranks it reaches are full, and hold all that was asked of them. Negative cycles of the residual graph
over ranks, with an edge from rank to rank that costs what handing over one request does, then bring as much as possible within
nodes.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Flags, Ints

_NONE = -1
_NO_EDGE = 9


@kernel
def choose_sources(expert: Ints, receiver: Ints, holds: Flags, node: Ints, least: int, source: Ints) -> int:
    """Choose the rank that sends each request of one layer; return the most that a rank sends, or ``least`` if that is more.

    Each expert [requests] must be held (``holds`` [ranks, experts]) by a rank, and not by its receiver. No choice has a smaller
    result, and none with this result has more requests within a node. O(requests * ranks) where little must be handed over.
    """
    num_ranks = holds.shape[0]
    sends, via, queue = np.zeros(num_ranks, np.int64), np.empty(num_ranks, np.int64), np.empty(num_ranks, np.int64)
    source[:] = _NONE
    most = least
    for i in range(expert.shape[0]):
        best = _readiest(i, expert, receiver, holds, node, most, sends)
        if best == _NONE:
            best = _make_room(i, expert, holds, most, sends, source, via, queue)
        if best == _NONE:
            most += 1
            best = _readiest(i, expert, receiver, holds, node, most, sends)
        source[i] = best
        sends[best] += 1
    if node.max() > 0:
        _prefer_near(expert, receiver, holds, node, most, sends, source)
    return most


@kernel
def _readiest(i: int, expert: Ints, receiver: Ints, holds: Flags, node: Ints, most: int, sends: Ints) -> int:
    """Return a holder that may send more: on the receiver's node if there is one, then the one that sends least."""
    best, is_best_near = _NONE, False
    for r in range(holds.shape[0]):
        if not holds[r, expert[i]] or sends[r] >= most:
            continue
        is_near = node[r] == node[receiver[i]]
        if best == _NONE or (is_near and not is_best_near) or (is_near == is_best_near and sends[r] < sends[best]):
            best, is_best_near = r, is_near
    return best


@kernel
def _make_room(i: int, expert: Ints, holds: Flags, most: int, sends: Ints, source: Ints, via: Ints, queue: Ints) -> int:
    """Hand requests over along a shortest path so that a holder of request ``i`` sends one less; return it, or -1."""
    via[:] = _NONE
    tail = 0
    for r in range(holds.shape[0]):
        if holds[r, expert[i]]:
            via[r] = i
            queue[tail] = r
            tail += 1
    head = 0
    while head < tail:
        giver = queue[head]
        head += 1
        for j in range(i):
            if source[j] != giver:
                continue
            for r in range(holds.shape[0]):
                if not holds[r, expert[j]] or via[r] != _NONE:
                    continue
                via[r] = j
                if sends[r] < most:
                    return _hand_over(i, r, sends, source, via)
                queue[tail] = r
                tail += 1
    return _NONE


@kernel
def _hand_over(i: int, last: int, sends: Ints, source: Ints, via: Ints) -> int:
    sends[last] += 1
    r = last
    while via[r] != i:
        j = via[r]
        giver = source[j]
        source[j] = r
        r = giver
    sends[r] -= 1
    return r


@kernel
def _prefer_near(expert: Ints, receiver: Ints, holds: Flags, node: Ints, most: int, sends: Ints, source: Ints) -> None:
    """Cancel negative cycles until none is left; beyond the ranks one node stands for the room that ranks have left."""
    num_ranks = holds.shape[0]
    cost = np.empty((num_ranks + 1, num_ranks + 1), np.int64)
    request = np.empty((num_ranks + 1, num_ranks + 1), np.int64)
    distance, parent = np.empty(num_ranks + 1, np.int64), np.empty(num_ranks + 1, np.int64)
    seen = np.empty(num_ranks + 1, np.int64)
    while True:
        _price_handovers(expert, receiver, holds, node, most, sends, source, cost, request)
        place = _on_negative_cycle(cost, distance, parent, seen)
        if place == _NONE:
            return
        to = place
        while True:
            giver = parent[to]
            if giver == num_ranks:
                sends[to] -= 1
            elif to == num_ranks:
                sends[giver] += 1
            else:
                source[request[giver, to]] = to
            to = giver
            if to == place:
                break


@kernel
def _price_handovers(
    expert: Ints,
    receiver: Ints,
    holds: Flags,
    node: Ints,
    most: int,
    sends: Ints,
    source: Ints,
    cost: Ints,
    request: Ints,
) -> None:
    num_ranks = holds.shape[0]
    cost[:] = _NO_EDGE
    for i in range(expert.shape[0]):
        giver = source[i]
        was_far = int(node[giver] != node[receiver[i]])
        for r in range(num_ranks):
            if r != giver and holds[r, expert[i]]:
                change = int(node[r] != node[receiver[i]]) - was_far
                if change < cost[giver, r]:
                    cost[giver, r] = change
                    request[giver, r] = i
    for r in range(num_ranks):
        cost[num_ranks, r] = 0
        if sends[r] < most:
            cost[r, num_ranks] = 0


@kernel
def _on_negative_cycle(cost: Ints, distance: Ints, parent: Ints, seen: Ints) -> int:
    """Return a place on a negative cycle of ``parent``, or -1 where there is none (Bellman and Ford)."""
    size = cost.shape[0]
    distance[:] = 0
    parent[:] = _NONE
    while True:
        is_settled = True
        for a in range(size):
            for b in range(size):
                if cost[a, b] < _NO_EDGE and distance[a] + cost[a, b] < distance[b]:
                    distance[b] = distance[a] + cost[a, b]
                    parent[b] = a
                    is_settled = False
        if is_settled:
            return _NONE
        place = _on_cycle(parent, seen)
        if place != _NONE:
            return place


@kernel
def _on_cycle(parent: Ints, seen: Ints) -> int:
    seen[:] = _NONE
    for start in range(parent.shape[0]):
        place = start
        while place != _NONE and seen[place] == _NONE:
            seen[place] = start
            place = parent[place]
        if place != _NONE and seen[place] == start:
            return place
    return _NONE
