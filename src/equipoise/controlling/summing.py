"""Sums that are the same on any machine: exactly rounded, whatever the order."""

from __future__ import annotations

import math

from equipoise.kernels.types import Floats


def total_of(values: Floats) -> float:
    """Return the sum of values, exactly rounded."""
    return math.fsum(values.tolist())


def mean_of(values: Floats) -> float:
    """Return the mean of values; 0 of none.

    >>> import numpy as np
    >>> mean_of(np.array([1e16, 1.0, -1e16]))
    0.3333333333333333
    """
    return total_of(values) / values.size if values.size else 0.0


def variance_of(values: Floats) -> float:
    """Return the mean squared distance from the mean; 0 of none."""
    away = values - mean_of(values)
    return mean_of(away * away)
