"""A stable sort with a total order, the same on every machine.

numpy's default sort orders ties by the CPU's vector width; two ranks of one engine would then plan differently.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats, Ints

_RUN = 8


@kernel
def sort_descending(value: Floats, order: Ints, value_scratch: Floats, order_scratch: Ints) -> None:
    """Sort ``value`` [n] in place from large to small, and ``order`` [n] along with it; ties keep their order.

    Insertion sort on runs of eight, then merging bottom-up: O(n log n), scratch of the same shapes.
    """
    n = value.shape[0]
    for start in range(0, n, _RUN):
        _insertion_sort(value, order, start, min(start + _RUN, n))
    width = _RUN
    while width < n:
        for left in range(0, n, 2 * width):
            middle = min(left + width, n)
            end = min(left + 2 * width, n)
            if middle < end and value[middle - 1] < value[middle]:
                _merge(value, order, value_scratch, order_scratch, left, middle, end)
        width *= 2


@kernel
def _insertion_sort(value: Floats, order: Ints, start: int, end: int) -> None:
    for i in range(start + 1, end):
        item_value = value[i]
        item = order[i]
        j = i - 1
        while j >= start and value[j] < item_value:
            value[j + 1] = value[j]
            order[j + 1] = order[j]
            j -= 1
        value[j + 1] = item_value
        order[j + 1] = item


@kernel
def _merge(value: Floats, order: Ints, value_scratch: Floats, order_scratch: Ints, left: int, middle: int, end: int) -> None:
    for i in range(left, middle):
        value_scratch[i] = value[i]
        order_scratch[i] = order[i]
    i = left
    j = middle
    target = left
    while i < middle and j < end:
        if value[j] > value_scratch[i]:
            value[target] = value[j]
            order[target] = order[j]
            j += 1
        else:
            value[target] = value_scratch[i]
            order[target] = order_scratch[i]
            i += 1
        target += 1
    while i < middle:
        value[target] = value_scratch[i]
        order[target] = order_scratch[i]
        i += 1
        target += 1


@kernel
def sort_rows_descending(value: Floats) -> tuple[Floats, Ints]:
    """Sort each row of ``value`` [rows, n] from large to small; returns the sorted rows and the order that sorts them."""
    num_rows, n = value.shape
    ordered = value.copy()
    order = np.empty((num_rows, n), np.int64)
    value_scratch = np.empty(n, np.float64)
    order_scratch = np.empty(n, np.int64)
    for x in range(num_rows):
        for i in range(n):
            order[x, i] = i
        sort_descending(ordered[x], order[x], value_scratch, order_scratch)
    return ordered, order
