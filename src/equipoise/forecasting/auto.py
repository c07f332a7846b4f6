"""``auto``: follow whichever forecaster has lately lost least, and forget what a change of domain has made void."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from equipoise.forecasting.changes import ChangeDetector
from equipoise.forecasting.forecasters import Exponential, Last
from equipoise.forecasting.protocol import Judge
from equipoise.kernels.shares import to_shares
from equipoise.kernels.types import Floats, Ints

CANDIDATES: tuple[Last | Exponential, ...] = (
    Last(),
    Exponential(0.7, 0.5),
    Exponential(0.5, 0.5),
    Exponential(0.3, 0.5),
    Exponential(0.1, 0.5),
)
"""What ``auto`` chooses from: memories from one window to about twenty."""

_START = 2
_FORGET = 0.9
_SHARED = 0.75
_WORTH = 0.02


@dataclass(frozen=True, eq=False)
class Choice:
    """What ``auto`` follows, and why.

    ``names`` are the candidates; ``chosen`` [layers] the one each layer follows; ``losses`` [candidates, layers] what each
    has lately lost (largest rank time / ideal - 1, weighted mean; nan before any was judged); ``changes`` the windows,
    counted from 0, that began a new domain; ``windows`` how many were seen.
    """

    names: tuple[str, ...]
    chosen: Ints
    losses: Floats
    changes: tuple[int, ...]
    windows: int

    def __str__(self) -> str:
        counts = Counter(self.names[i] for i in self.chosen)
        followed = ", ".join(f"{name} in {count} of {self.chosen.size} layers" for name, count in counts.most_common())
        known = " (nothing judged yet)"
        if self.chosen.size and not np.isnan(self.losses).any():
            means = zip(self.names, self.losses.mean(axis=1), strict=True)
            known = f" ({'; '.join(f'{name} lost {100 * mean:.1f} %' for name, mean in means)} over the ideal, lately)"
        times = "once" if len(self.changes) == 1 else f"{len(self.changes)} times, last"
        since = f"; the domain changed {times} at window {self.changes[-1]}" if self.changes else ""
        return f"follows {followed or 'nothing yet'}{known}{since}"


@dataclass(frozen=True)
class Auto:
    """Per layer, the forecast of the candidate whose plans have lately met the next windows best. By name ``auto``.

    Whenever a plan is made, each candidate's forecast is planned for too (at effort ``fast``), and every window that follows
    shows what those plans lose: a backtest on the past, never the future. Losses fade by a tenth a window. What a layer
    follows is decided by a quarter by its own losses and by three quarters by those of all layers, since one layer's are
    mostly noise; it changes only for one that loses at least 2 % less. At a change of domain
    (:class:`~equipoise.forecasting.changes.ChangeDetector`) all candidates start anew from the window that began it, and what
    plans made before it are judged no more: none could know.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "auto"

    def begin(self, judge: Judge) -> AutoMemory:
        """Return an empty memory that has plans judged by ``judge``."""
        return AutoMemory(judge)


class AutoMemory:
    """What ``auto`` remembers; see :class:`Auto`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._detector = ChangeDetector()
        self._memories = [candidate.begin() for candidate in CANDIDATES]
        self._changes: list[int] = []
        self._windows = 0
        self._is_planned = False
        self._lost: Floats | None = None
        self._judged = 0.0
        self._chosen: Ints | None = None

    def observe(self, load: Floats) -> None:
        """Judge the last plans by a window, then learn from it."""
        share, total = to_shares(load)
        if self._detector.observe(share):
            self._changes.append(self._windows)
            self._memories = [candidate.begin() for candidate in CANDIDATES]
            self._is_planned = False
        elif self._is_planned:
            self._judge_by(load)
        for memory in self._memories:
            memory.observe_shares(share, total)
        self._windows += 1

    def forecast(self) -> Floats:
        """Return each layer's forecast by the candidate it follows, and have all planned for, to be judged."""
        forecasts = np.stack([memory.forecast() for memory in self._memories])
        self._judge.plan(forecasts)
        self._is_planned = True
        chosen = self._follow(forecasts.shape[1])
        return np.ascontiguousarray(forecasts[chosen, np.arange(chosen.size)])

    def explain(self) -> Choice:
        """Say what is followed, and why."""
        num_layers = 0 if self._chosen is None else self._chosen.size
        unknown = np.full((len(CANDIDATES), num_layers), np.nan)
        losses = unknown if self._lost is None else self._lost / self._judged
        chosen = np.zeros(0, np.int64) if self._chosen is None else self._chosen.copy()
        return Choice(tuple(c.name for c in CANDIDATES), chosen, losses, tuple(self._changes), self._windows)

    def _judge_by(self, load: Floats) -> None:
        lost = self._judge.losses(load)
        self._lost = lost if self._lost is None else _FORGET * self._lost + lost
        self._judged = _FORGET * self._judged + 1.0

    def _follow(self, num_layers: int) -> Ints:
        """Choose anew; a layer leaves what it follows only for what loses clearly less."""
        if self._chosen is None:
            self._chosen = np.full(num_layers, _START)
        if self._lost is not None:
            own = self._lost / self._judged
            lost = _SHARED * _mean_over_layers(own) + (1.0 - _SHARED) * own
            layers = np.arange(num_layers)
            best = lost.argmin(axis=0)
            worth = lost[best, layers] < (1.0 - _WORTH) * lost[self._chosen, layers]
            self._chosen = np.where(worth, best, self._chosen)
        return self._chosen


def _mean_over_layers(lost: Floats) -> Floats:
    """Return the mean of each candidate over layers, [candidates, 1], added up in order."""
    means: Floats = np.cumsum(lost, axis=1)[:, -1:] / lost.shape[1]
    return means
