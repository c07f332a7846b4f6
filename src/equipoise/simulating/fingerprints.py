"""Telling whether two lots of windows are the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


class Fingerprint:
    """128 bits of BLAKE2b over windows as float64, taken one at a time: the same for the same numbers on any machine."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)

    def add(self, window: npt.ArrayLike) -> None:
        """Take one more window [layers, experts]."""
        numbers = np.ascontiguousarray(window, "<f8")
        self._digest.update(f"{list(numbers.shape)} ".encode())
        self._digest.update(numbers.data.cast("B"))

    def __str__(self) -> str:
        """Return it in hexadecimal."""
        return self._digest.hexdigest()


def fingerprint_windows(windows: Iterable[npt.ArrayLike]) -> str:
    """Return the fingerprint of windows in their order.

    >>> fingerprint_windows([[[1, 2]], [[3, 4]]]) == fingerprint_windows([[[3, 4]], [[1, 2]]])
    False
    """
    found = Fingerprint()
    for window in windows:
        found.add(window)
    return str(found)
