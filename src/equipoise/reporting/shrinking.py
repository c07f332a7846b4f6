"""Large figures made small: blocks of a map shown by their largest cell, runs of windows by their mean."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.types import Floats, Ints

MOST_ROWS, MOST_COLUMNS = 128, 512
"""Cells of a heat map down and across; a screen shows no more, and a map of so many takes some 400 KB of a page."""

MOST_POINTS = 1_000
"""Points of a line."""

MOST_STEPS = 200
"""Points of a curve of moves."""


def shrink_map(values: Floats) -> tuple[Floats, int, int]:
    """Return a map [rows, columns] of at most MOST_ROWS x MOST_COLUMNS cells, and how many rows and columns a cell stands for.

    A cell is the largest of its block, so that what stands out still does; nan where nothing of its block is known.

    >>> shrink_map(np.arange(1200.0)[np.newaxis])[0].shape
    (1, 400)
    """
    rows, columns = (-(-size // most) for size, most in zip(values.shape, (MOST_ROWS, MOST_COLUMNS), strict=True))
    small = np.fmax.reduceat(values, np.arange(0, values.shape[0], rows), axis=0)
    return np.fmax.reduceat(small, np.arange(0, values.shape[1], columns), axis=1), rows, columns


def shrink_line(values: Floats, most: int = MOST_POINTS) -> tuple[Floats, int]:
    """Return a line [windows] of at most ``most`` points, each the mean of as many windows, and how many.

    Windows without load (nan) count in no mean.

    >>> shrink_line(np.array([1.0, 3.0, np.nan, 5.0, 7.0]), most=3)
    (array([2., 5., 7.]), 2)
    """
    each = max(1, -(-values.size // most))
    if each == 1:
        return values, 1
    starts = np.arange(0, values.size, each)
    known = np.add.reduceat((~np.isnan(values)).astype(np.float64), starts)
    total = np.add.reduceat(np.nan_to_num(values), starts)
    return np.divide(total, known, out=np.full(starts.size, np.nan), where=known > 0), each


def pick_points(count: int, kept: int, most: int = MOST_STEPS) -> Ints:
    """Return at most ``most + 1`` evenly spread positions of ``count``, the first, the last and ``kept`` among them.

    >>> pick_points(10, 3, most=4).tolist()
    [0, 3, 6, 9]
    """
    if count <= most:
        return np.arange(count)
    spread = [i * (count - 1) // (most - 1) for i in range(most)]
    return np.array(sorted({*spread, kept}), np.int64)
