"""Greedy replica counts: one more replica, again and again, for the expert with the largest load per replica."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.counts import Counts, share_with
from equipoise.kernels.sorting import sort_descending
from equipoise.kernels.types import Floats, Ints


@kernel
def count_replicas(load: Floats, num_slots: int, max_replicas: int) -> Ints:
    """Share ``num_slots`` among the experts of each row of ``load`` [rows, experts]; returns counts [rows, experts].

    Each expert gets at least one and at most ``max_replicas``. Ties go to the lower index; experts without load, which all
    tie, to the one with the fewest replicas first. The largest load per replica is the least any counts can reach.
    Needs experts <= num_slots <= experts * max_replicas. O(experts + extra slots * log experts) a row, with a heap.
    """
    num_rows, num_experts = load.shape
    count = np.ones((num_rows, num_experts), np.int64)
    key = np.empty(num_experts, np.float64)
    heap = np.empty(num_experts, np.int64)
    for x in range(num_rows):
        for e in range(num_experts):
            key[e] = load[x, e] if max_replicas > 1 else -1.0
            heap[e] = e
        for root in range(num_experts // 2 - 1, -1, -1):
            _sift_down(heap, key, root)
        extra = num_slots - num_experts
        while extra > 0 and key[heap[0]] > 0.0:
            e = heap[0]
            count[x, e] += 1
            key[e] = load[x, e] / count[x, e] if count[x, e] < max_replicas else -1.0
            _sift_down(heap, key, 0)
            extra -= 1
        level = 1
        while extra > 0:
            for e in range(num_experts):
                if extra > 0 and count[x, e] == level and key[e] == 0.0:
                    count[x, e] += 1
                    extra -= 1
            level += 1
            if level == max_replicas:
                break
    return count


@kernel
def count_row(counts: Counts, num_slots: int, most: int, limit: Ints, heap: Ints) -> None:
    """Share ``num_slots`` among the experts of one row, as :func:`count_replicas` does, by their cost a replica.

    ``counts.load`` falls, so only experts that have replicas and the next one are looked at; fills ``counts.count`` and
    ``counts.share``. ``limit[k - 1]`` is how many replicas beyond k of their expert may be in all, for packs of unequal room
    (empty: no limit); it is used up. ``heap`` [experts] is scratch. O(extra slots * log experts).
    """
    load, count, share = counts.load, counts.count, counts.share
    num_experts = load.shape[0]
    for e in range(num_experts):
        count[e] = 1
        share[e] = share_with(counts, e, 1) if most > 1 else -1.0
    extra = num_slots - num_experts
    size, following = 0, 0
    while extra > 0:
        from_heap = size > 0 and (following == num_experts or share[heap[0]] >= share[following])
        e = heap[0] if from_heap else following
        if e == num_experts or share[e] <= 0.0:
            break
        if not take_replica(limit, count[e]):
            share[e] = -1.0
        else:
            count[e] += 1
            extra -= 1
            share[e] = share_with(counts, e, count[e]) if count[e] < most else -1.0
        if not from_heap:
            heap[size] = e
            size += 1
            following += 1
            _sift_up(heap, share, size - 1)
        else:
            _sift_down(heap[:size], share, 0)
    level = 1
    while extra > 0 and level < most:
        for e in range(num_experts):
            if extra > 0 and count[e] == level and take_replica(limit, level):
                count[e] += 1
                extra -= 1
        level += 1
    for e in range(num_experts):
        if count[e] > 1 or share[e] < 0.0:
            share[e] = share_with(counts, e, count[e])


@kernel
def take_replica(limit: Ints, count: int) -> bool:
    """Use up one replica beyond each of 1 to ``count``, if the limits allow."""
    if limit.shape[0] == 0:
        return True
    for k in range(count):
        if limit[k] == 0:
            return False
    for k in range(count):
        limit[k] -= 1
    return True


@kernel
def _sift_up(heap: Ints, key: Floats, place: int) -> None:
    while place > 0:
        parent = (place - 1) // 2
        e, f = heap[place], heap[parent]
        if key[e] < key[f] or (key[e] == key[f] and e > f):
            break
        heap[place], heap[parent] = f, e
        place = parent


@kernel
def _sift_down(heap: Ints, key: Floats, root: int) -> None:
    n = heap.shape[0]
    item = heap[root]
    item_key = key[item]
    while True:
        child = 2 * root + 1
        if child >= n:
            break
        right = child + 1
        if right < n and (
            key[heap[right]] > key[heap[child]] or (key[heap[right]] == key[heap[child]] and heap[right] < heap[child])
        ):
            child = right
        child_key = key[heap[child]]
        if child_key < item_key or (child_key == item_key and item < heap[child]):
            break
        heap[root] = heap[child]
        root = child
    heap[root] = item


@kernel
def list_replicas(load: Floats, count: Ints, num_slots: int) -> tuple[Floats, Ints]:
    """List the replicas of each row from large to small: their load [rows, slots], and the expert of each.

    ``load`` and ``count`` are [rows, experts], counts adding up to ``num_slots``; ties go to the lower index.
    """
    num_rows = load.shape[0]
    weight = np.empty((num_rows, num_slots), np.float64)
    expert = np.empty((num_rows, num_slots), np.int64)
    value_scratch = np.empty(num_slots, np.float64)
    order_scratch = np.empty(num_slots, np.int64)
    for x in range(num_rows):
        list_row(load[x] / count[x], count[x], weight[x], expert[x], value_scratch, order_scratch)
    return weight, expert


@kernel
def list_sorted_row(share: Floats, count: Ints, weight: Floats, expert: Ints, replicated: Ints) -> None:
    """Do as :func:`list_row` for loads that fall: only the experts with several replicas are out of order, and merged in.

    ``replicated`` [experts] is scratch.
    """
    num_experts = share.shape[0]
    num_replicated = 0
    for e in range(num_experts):
        if count[e] > 1:
            place = num_replicated
            while place > 0 and share[replicated[place - 1]] < share[e]:
                replicated[place] = replicated[place - 1]
                place -= 1
            replicated[place] = e
            num_replicated += 1
    slot, place = 0, 0
    for e in range(num_experts):
        if count[e] > 1:
            continue
        while place < num_replicated and _goes_before(share, replicated[place], e):
            slot = _repeat(share, count, replicated[place], weight, expert, slot)
            place += 1
        weight[slot] = share[e]
        expert[slot] = e
        slot += 1
    while place < num_replicated:
        slot = _repeat(share, count, replicated[place], weight, expert, slot)
        place += 1


@part
def _goes_before(share: Floats, e: int, f: int) -> bool:
    return share[e] > share[f] or (share[e] == share[f] and e < f)


@part
def _repeat(share: Floats, count: Ints, e: int, weight: Floats, expert: Ints, slot: int) -> int:
    for _ in range(count[e]):
        weight[slot] = share[e]
        expert[slot] = e
        slot += 1
    return slot


@kernel
def list_row(share: Floats, count: Ints, weight: Floats, expert: Ints, value_scratch: Floats, order_scratch: Ints) -> None:
    """List the replicas of one row, each of its expert's ``share``, as :func:`list_replicas` does."""
    slot = 0
    for e in range(share.shape[0]):
        for _ in range(count[e]):
            weight[slot] = share[e]
            expert[slot] = e
            slot += 1
    sort_descending(weight, expert, value_scratch, order_scratch)
