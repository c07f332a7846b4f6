"""What the placement in use, and plans that were not used, have lost on windows that came after them.

What a placement loses over the ideal on a window is in part its own: it lies so on the load expected. The rest nobody could
foresee. Ranks deviate by either independently of the other, so that the squares add up. A plan made from n windows alike knows
their mean up to 1/n of one window's variance, so what it cannot foresee grows with sqrt(1 + 1/n) (:func:`unknown`); it is kept
over that factor, so that what a plan of few windows lost tells what one of many will.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.controlling.summing import mean_of, variance_of
from equipoise.kernels.types import Flags, Floats

FORGET = 0.8
"""Part of its weight that a loss keeps from window to window."""

_SLOWER = 0.9
_WORTH = 0.02
_SPREAD_AT_FIRST = 0.5
_CHANCE = 2.0


def unknown(windows: Floats) -> Floats:
    """Return sqrt(1 + 1/n): how a plan's losses grow with how little it was made from; n > 0.

    >>> unknown(np.array([1.0, 4.0])).round(3).tolist()
    [1.414, 1.118]
    """
    root: Floats = np.sqrt(1.0 + 1.0 / windows)
    return root


@dataclass
class Evidence:
    """Losses: largest rank time / ideal - 1, on windows that had come after.

    Attributes
    ----------
    square, weight : float64 [layers]
        Of the placement in use, since it is used and the domain lasts: weighted mean of squares, and sum of weights.
    unforeseen : float64 [memories, layers]
        Of candidates, beyond what they lost on the load planned for, over :func:`unknown`: weighted mean of squares.
    learnt : float64 [layers]
        Sum of weights of these.
    score : float64 [memories]
        What candidates have lately lost over all layers, weighted mean; ``scored`` is the sum of weights.
    followed : int
        The memory that is followed.
    spread, spread_weight : float
        Variance of one layer's and one window's difference between placement in use and candidate.
    difference : float64 [layers]
        That difference on the last window; ``is_known`` where it is of the same placement in use, and another candidate.
    """

    square: Floats
    weight: Floats
    unforeseen: Floats
    learnt: Floats
    score: Floats
    difference: Floats
    is_known: Flags
    scored: float = 0.0
    followed: int = 0
    spread: float = 0.0
    spread_weight: float = 0.0

    @classmethod
    def begin(cls, num_memories: int, num_layers: int) -> Evidence:
        """Return no evidence."""
        return cls(
            square=np.zeros(num_layers),
            weight=np.zeros(num_layers),
            unforeseen=np.zeros((num_memories, num_layers)),
            learnt=np.zeros(num_layers),
            score=np.zeros(num_memories),
            difference=np.zeros(num_layers),
            is_known=np.zeros(num_layers, np.bool_),
        )

    @property
    def lost(self) -> Floats:
        """What the placement in use lost, float64 [layers]."""
        root: Floats = np.sqrt(self.square)
        return root

    def forget(self) -> None:
        """Begin anew in another domain; what was unforeseen counts as one window."""
        self.weight[:] = 0.0
        self.is_known[:] = False
        np.minimum(self.learnt, 1.0, out=self.learnt)

    def begin_placement(self, layers: Flags, expected: Floats) -> None:
        """Begin anew with another placement in use in some layers, expected to lose so much [layers]; nan: no telling.

        What is expected counts as one window, if it was learnt from one.
        """
        told = layers & ~np.isnan(expected)
        np.minimum(self.learnt, 1.0, out=self.learnt, where=layers)
        self.weight[layers] = 0.0
        self.weight[told] = self.learnt[told]
        self.square[told] = (expected * expected)[told]
        self.is_known[layers] = False

    def observe(self, lost: Floats, loaded: Flags) -> None:
        """Take in what the placement in use lost in layers that had load."""
        weight = FORGET * self.weight + 1.0
        mean = self.square + (lost * lost - self.square) / weight
        self.square[loaded], self.weight[loaded] = mean[loaded], weight[loaded]

    def judge(self, in_use: Floats, lost: Floats, planned: Floats, windows: Floats, loaded: Flags, differs: Flags) -> None:
        """Take in what candidates lost, ``lost`` [memories, layers], having lost ``planned`` on what they were made for.

        ``in_use`` [layers] is what the placement in use lost on the same window, ``windows`` [memories, layers] what the
        candidates were made from; ``differs`` [layers] where the one followed is not the placement in use.
        """
        if not loaded.any():
            return
        weight = FORGET * self.learnt + 1.0
        new = (lost * lost - planned * planned) / (1.0 + 1.0 / np.maximum(windows, 1.0))
        self.unforeseen[:, loaded] += ((new - self.unforeseen) / weight)[:, loaded]
        self.learnt[loaded] = weight[loaded]
        self._measure_spread(in_use - lost[self.followed], loaded & differs)
        self._follow(lost[:, loaded])

    def _measure_spread(self, difference: Floats, layers: Flags) -> None:
        """Learn how much differences jump from window to window, by two windows of the same placement in use."""
        both = layers & self.is_known
        if both.sum() > 1:
            jumps = (difference - self.difference)[both]
            self.spread_weight = _SLOWER * self.spread_weight + 1.0
            self.spread += (variance_of(jumps) / 2.0 - self.spread) / self.spread_weight
        self.difference[layers] = difference[layers]
        self.is_known[:] = layers

    def _follow(self, lost: Floats) -> None:
        """Follow the memory whose candidates have lately lost least, if it is clearly another one."""
        self.scored = _SLOWER * self.scored + 1.0
        now = np.array([mean_of(row) for row in lost])
        self.score += (now - self.score) / self.scored
        best = int(self.score.argmin())
        if self.score[best] < (1.0 - _WORTH) * self.score[self.followed]:
            self.followed = best

    def variance(self) -> float:
        """Return the variance of one layer's and one window's difference; a guess before any was measured."""
        if self.spread_weight > 0.0:
            return self.spread
        seen = self.weight > 0.0
        return (_SPREAD_AT_FIRST * mean_of(self.lost[seen])) ** 2

    def expected_unforeseen(self, tokens_of_rank: Floats) -> Floats:
        """Return what candidates of the memory followed will lose by what cannot be foreseen, over :func:`unknown`, [layers].

        Before any window told: twice the standard deviation that chance alone gives to so many tokens of a rank.
        """
        chance = np.divide(_CHANCE, np.sqrt(tokens_of_rank), out=np.zeros_like(tokens_of_rank), where=tokens_of_rank > 0.0)
        learnt = np.sqrt(np.maximum(self.unforeseen[self.followed], 0.0))
        expected: Floats = np.where(self.learnt > 0.0, learnt, chance)
        return expected
