"""Change of domain: when what was learnt no longer speaks of what is to come."""

from __future__ import annotations

from collections import deque

import numpy as np

from equipoise.kernels.shares import mean_distance
from equipoise.kernels.types import Floats

JUMP = 1.5
"""A window this many times further from what went before than windows usually are begins a new domain."""

_FEWEST_STEPS = 3
_STEPS_KEPT = 64
_RECENT = 8


class ChangeDetector:
    """Tells windows that begin a new domain: all layers' shares at once jump further than they usually move.

    The distance of two windows is the sum of absolute differences of shares, averaged over layers: one layer's jump is noise,
    a change of domain moves all. A window is compared with the last one and with the mean of the last 8 of its domain,
    whichever is nearer; what is usual is the median of the last 64 steps from window to window. No change is seen in the
    first 3 steps.
    """

    def __init__(self, jump: float = JUMP) -> None:
        self._jump = jump
        self._steps: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._recent: deque[Floats] = deque(maxlen=_RECENT)

    def observe(self, share: Floats) -> bool:
        """Take in a window's shares [layers, experts]; return whether it begins a new domain."""
        if not self._recent:
            self._recent.append(share)
            return False
        step = mean_distance(share, self._recent[-1])
        changed = False
        if len(self._steps) >= _FEWEST_STEPS:
            usual = float(np.median(np.fromiter(self._steps, np.float64)))
            limit = self._jump * usual
            changed = step > limit and mean_distance(share, self._mean()) > limit
        self._steps.append(step)
        if changed:
            self._recent.clear()
        self._recent.append(share)
        return changed

    def _mean(self) -> Floats:
        total = np.zeros_like(self._recent[0])
        for share in self._recent:
            total += share
        total /= len(self._recent)
        return total
