"""Change of domain: when what was learnt no longer speaks of what is to come."""

from __future__ import annotations

from collections import deque

import numpy as np

from equipoise.kernels.shares import mean_distance, sampling_distance
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
    whichever is nearer; what is usual is the median of the last 64 steps from window to window, or that of this domain's own
    where that is more, or what chance alone does to so few tokens where that is more still. A domain has two windows at
    least, and no change is seen in the first 3 steps. Windows without load say nothing.
    """

    def __init__(self, jump: float = JUMP) -> None:
        self._jump = jump
        self._steps: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._own: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._recent: deque[Floats] = deque(maxlen=_RECENT)
        self._total: Floats = np.zeros(0)

    def observe(self, share: Floats, total: Floats) -> bool:
        """Take in a window's shares [layers, experts] and tokens [layers]; return whether it begins a new domain."""
        if not share.any():
            return False
        changed = False
        if self._recent:
            step = mean_distance(share, self._recent[-1])
            changed = self._is_change(share, total, step)
            self._steps.append(step)
            if changed:
                self._recent.clear()
                self._own.clear()
            else:
                self._own.append(step)
        self._recent.append(share)
        self._total = total
        return changed

    def _is_change(self, share: Floats, total: Floats, step: float) -> bool:
        if len(self._steps) < _FEWEST_STEPS or not self._own:
            return False
        mean = self._mean()
        chance = sampling_distance(mean, total, self._total)
        limit = self._jump * max(_median(self._steps), _median(self._own), chance)
        return step > limit and mean_distance(share, mean) > limit

    def _mean(self) -> Floats:
        """Return the mean of the recent shares, each layer's over the windows in which it had load."""
        total = np.zeros_like(self._recent[0])
        loaded = np.zeros((len(total), 1))
        for share in self._recent:
            total += share
            loaded += share.any(axis=1, keepdims=True)
        total /= np.maximum(loaded, 1.0)
        return total


def _median(values: deque[float]) -> float:
    return float(np.median(np.fromiter(values, np.float64)))
