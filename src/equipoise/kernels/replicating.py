"""Greedy replica counts: one more replica, again and again, for the expert with the largest load per replica."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
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
        list_row(load[x], count[x], weight[x], expert[x], value_scratch, order_scratch)
    return weight, expert


@kernel
def list_row(load: Floats, count: Ints, weight: Floats, expert: Ints, value_scratch: Floats, order_scratch: Ints) -> None:
    """List the replicas of one row, as :func:`list_replicas` does, into ``weight`` and ``expert`` [slots]."""
    slot = 0
    for e in range(load.shape[0]):
        share = load[e] / count[e]
        for _ in range(count[e]):
            weight[slot] = share
            expert[slot] = e
            slot += 1
    sort_descending(weight, expert, value_scratch, order_scratch)
