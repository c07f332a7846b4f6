"""A stable sort with a total order, the same on every machine.

numpy's default sort orders ties by the CPU's vector width; two ranks of one engine would then plan differently.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Bits, Floats, Ints

_RUN = 8
_LONG = 48
_DIGITS = 256


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
    """Sort each row of ``value`` [rows, n], >= 0, from large to small; returns the sorted rows and the order that sorts them.

    Long rows are sorted by the bits of their numbers, which rise with the numbers: O(n) a byte in which a row's numbers
    differ, and token counts differ in two or three of eight.
    """
    num_rows, n = value.shape
    ordered = np.empty((num_rows, n), np.float64)
    order = np.empty((num_rows, n), np.int64)
    value_scratch = np.empty(n, np.float64)
    order_scratch = np.empty(n, np.int64)
    bits = np.empty(n, np.uint64)
    place = np.empty(_DIGITS + 1, np.int64)
    for x in range(num_rows):
        for i in range(n):
            ordered[x, i] = value[x, i] + 0.0  # turns -0.0, whose bits are those of a large number, into 0.0
            order[x, i] = i
        if n < _LONG:
            sort_descending(ordered[x], order[x], value_scratch, order_scratch)
        else:
            bits[:] = ordered[x].view(np.uint64)
            _sort_by_bits(bits, order[x], order_scratch, place)
            for i in range(n):
                ordered[x, i] = value[x, order[x, i]] + 0.0
    return ordered, order


@kernel
def _sort_by_bits(bits: Bits, order: Ints, order_scratch: Ints, place: Ints) -> None:
    """Sort ``order`` [n] by falling ``bits`` [n], byte by byte from the lowest in which they differ; stable."""
    n = bits.shape[0]
    some = bits[0]
    every = bits[0]
    for i in range(n):
        some |= bits[i]
        every &= bits[i]
    shift = np.uint64(0)
    while (some ^ every) >> shift != np.uint64(0):
        if ((some ^ every) >> shift) & np.uint64(1) == np.uint64(0):
            shift += np.uint64(1)
            continue
        place[:] = 0
        for i in range(n):
            place[_DIGITS - np.int64((bits[i] >> shift) & np.uint64(_DIGITS - 1))] += 1
        for digit in range(_DIGITS):
            place[digit + 1] += place[digit]
        for i in range(n):
            bucket = _DIGITS - 1 - np.int64((bits[order[i]] >> shift) & np.uint64(_DIGITS - 1))
            order_scratch[place[bucket]] = order[i]
            place[bucket] += 1
        order[:] = order_scratch
        if shift >= np.uint64(56):
            break
        shift += np.uint64(8)
