"""Changes of domain: when shares jump, or when plans suddenly meet windows far worse than they did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from equipoise.controlling.summing import mean_of, variance_of
from equipoise.kernels.shares import mean_distance, sampling_distance
from equipoise.kernels.types import Floats

JUMP = 1.5
"""Shares this many times further away than windows usually are begin a new domain (as in forecasting/changes.py)."""

AGAIN = 0.75
"""The window after a change begins another one if it lies this much as far away as the change itself."""

FALL = 1.75
"""Plans that lose this many times what they usually do, on shares that moved, tell of a new domain too."""

_MOVED = 1.2
_SURE = 3.5
_FEWEST_STEPS = 3
_FEWEST_LOSSES = 4
_STEPS_KEPT = 64
_LOSSES_KEPT = 8


@dataclass
class ChangeWatch:
    """Tells windows that begin a new domain.

    Attributes
    ----------
    share, total : float64 [layers, experts], [layers]
        The last window that had load.
    steps, own : list of float
        Distances from window to window: the last 64, and those within this domain.
    losses : list of float
        What plans lost on the last windows of this domain, up to 8.
    jumped : float
        How far away the last window lay, if that began a domain; else 0.
    """

    share: Floats
    total: Floats
    steps: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    jumped: float = 0.0

    @classmethod
    def begin(cls, num_layers: int, num_experts: int) -> ChangeWatch:
        """Return a watch that has seen nothing."""
        return cls(np.zeros((num_layers, num_experts)), np.zeros(num_layers))

    def observe(self, share: Floats, total: Floats, mean: Floats, loss: float | None) -> bool:
        """Take in a window; return whether it begins a new domain.

        ``mean`` [layers, experts] is what was expected of shares; ``loss`` what a plan for that lost, over what its knowledge
        lets expect (:func:`equipoise.controlling.evidence.unknown`), None if none was made.
        """
        if not share.any():
            return False
        changed = False
        if self.total.any():
            step = mean_distance(share, self.share)
            changed = self._is_change(share, total, mean, step, loss)
            self.steps = [*self.steps, step][-_STEPS_KEPT:]
            self.own = [] if changed else [*self.own, step][-_STEPS_KEPT:]
            self.jumped = step if changed else 0.0
        if changed:
            self.losses = []
        elif loss is not None:
            self.losses = [*self.losses, loss][-_LOSSES_KEPT:]
        loaded = total > 0.0
        self.share[loaded], self.total[loaded] = share[loaded], total[loaded]
        return changed

    def _is_change(self, share: Floats, total: Floats, mean: Floats, step: float, loss: float | None) -> bool:
        chance = sampling_distance(mean, total, self.total)
        if self.jumped > 0.0:
            return step > AGAIN * self.jumped and step > JUMP * chance
        if len(self.steps) < _FEWEST_STEPS or not self.own:
            return False
        usual = max(float(np.median(self.steps)), float(np.median(self.own)), chance)
        is_far = step > JUMP * usual and mean_distance(share, mean) > JUMP * usual
        return is_far or (step > _MOVED * usual and loss is not None and self._is_fall(loss))

    def _is_fall(self, loss: float) -> bool:
        if len(self.losses) < _FEWEST_LOSSES:
            return False
        lost = np.array(self.losses)
        usual = max(FALL * float(np.median(lost)), mean_of(lost) + _SURE * float(np.sqrt(variance_of(lost))))
        return loss > usual
