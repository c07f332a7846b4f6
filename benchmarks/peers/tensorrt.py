"""A plain-Python twin of the rule in TensorRT-LLM's online balancer, written from its description; for quality only.

A slot at a time goes to the expert with the most load per replica; then replicas, heaviest first, go to the lightest rank with
a free slot. No groups, no nodes, no memory of the old placement, and nothing against an expert twice on a rank.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def replica_counts(load: Sequence[float], slots: int) -> list[int]:
    """Return how many replicas each expert of a layer gets; ties go to the lower expert."""
    counts = [1] * len(load)
    heap = [(-tokens, expert) for expert, tokens in enumerate(load)]
    heapq.heapify(heap)
    for _ in range(slots - len(load)):
        _, expert = heap[0]
        counts[expert] += 1
        heapq.heapreplace(heap, (-load[expert] / counts[expert], expert))
    return counts


def place_layer(load: Sequence[float], slots: int, ranks: int) -> list[int]:
    """Return the expert of each slot of a layer, in rank order."""
    counts = replica_counts(load, slots)
    replicas = sorted((-load[expert] / count, expert) for expert, count in enumerate(counts) for _ in range(count))
    held: list[list[int]] = [[] for _ in range(ranks)]
    heap = [(0.0, rank) for rank in range(ranks)]
    for negative, expert in replicas:
        total, rank = heapq.heappop(heap)
        held[rank].append(expert)
        if len(held[rank]) < slots // ranks:
            heapq.heappush(heap, (total - negative, rank))
    return [expert for experts in held for expert in experts]


def place(load: npt.NDArray[np.int64], slots: int, ranks: int) -> npt.NDArray[np.int64]:
    """Return the expert of each slot, [layers, slots], of a load [layers, experts]."""
    return np.array([place_layer(layer.tolist(), slots, ranks) for layer in load], np.int64)
