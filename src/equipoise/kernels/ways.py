"""All ways to count: where few experts share few slots, every way to give each 1 to ``most`` replicas is listed."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Ints


@kernel
def has_few_ways(num_experts: int, num_slots: int, most: int, limit: int) -> bool:
    """Tell whether there are at most ``limit`` ways."""
    count = np.empty(num_experts, np.int64)
    first_way(count, 0, num_slots, most)
    for _ in range(limit):
        if not next_way(count, most):
            return True
    return False


@kernel
def first_way(count: Ints, start: int, num_slots: int, most: int) -> None:
    """Give ``num_slots`` to the experts from ``start`` on, as many as may be to the last ones."""
    spare = num_slots - (count.shape[0] - start)
    for e in range(count.shape[0] - 1, start - 1, -1):
        count[e] = 1 + min(spare, most - 1)
        spare -= count[e] - 1


@kernel
def next_way(count: Ints, most: int) -> bool:
    """Step to the next way in lexicographic order; False after the last."""
    behind = 0
    for e in range(count.shape[0] - 1, -1, -1):
        if count[e] < most and behind > count.shape[0] - 1 - e:
            count[e] += 1
            first_way(count, e + 1, behind - 1, most)
            return True
        behind += count[e]
    return False
