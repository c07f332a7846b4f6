"""What is remembered of past windows: each expert's share of its layer, several times over, fading at different speeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.kernels.types import Floats


@dataclass
class Memories:
    """Exponentially weighted means of shares, one for each speed of fading.

    Attributes
    ----------
    kept : float64 [memories]
        Part of every weight that is left a window later.
    mean : float64 [memories, layers, experts]
        Mean shares, 0 where nothing was seen.
    weight, squares : float64 [memories, layers]
        Sum of weights and of their squares.
    total : float64 [layers]
        Tokens of each layer's last window that had any.
    """

    kept: Floats
    mean: Floats
    weight: Floats
    squares: Floats
    total: Floats

    @classmethod
    def begin(cls, kept: tuple[float, ...], num_layers: int, num_experts: int) -> Memories:
        """Return memories of nothing."""
        size = (len(kept), num_layers)
        return cls(np.array(kept), np.zeros((*size, num_experts)), np.zeros(size), np.zeros(size), np.zeros(num_layers))

    @property
    def is_empty(self) -> bool:
        """Whether no layer has had load."""
        return not self.total.any()

    @property
    def windows(self) -> Floats:
        """How many windows with equal weights would tell as much, float64 [memories, layers]; 0 for none."""
        known: Floats = np.divide(self.weight**2, self.squares, out=np.zeros_like(self.weight), where=self.squares > 0.0)
        return known

    def forget(self) -> None:
        """Begin anew; what is usual of totals stays, and so do shares until new ones come."""
        self.weight[:] = 0.0
        self.squares[:] = 0.0

    def observe(self, share: Floats, total: Floats) -> None:
        """Take in a window: shares [layers, experts] and tokens [layers]; layers without load learn nothing."""
        loaded = total > 0.0
        kept = self.kept[:, np.newaxis]
        self.weight[:, loaded] = (kept * self.weight + 1.0)[:, loaded]
        self.squares[:, loaded] = (kept * kept * self.squares + 1.0)[:, loaded]
        away = share - self.mean
        step = self.mean + away / np.maximum(self.weight, 1.0)[:, :, np.newaxis]
        first = (self.weight == 1.0)[:, :, np.newaxis]
        self.mean[:, loaded] = np.where(first, share, step)[:, loaded]
        self.total[loaded] = total[loaded]

    def forecast(self, memory: int) -> Floats:
        """Return the load to plan for, [layers, experts]."""
        expected: Floats = np.ascontiguousarray(self.mean[memory] * self.total[:, np.newaxis])
        return expected
