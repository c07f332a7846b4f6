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
_MOST_JUDGED = 16


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
    mostly noise; it changes only for one that loses at least 2 % less. Of models with more than 16 layers a plan judges every
    second, third, ... layer, other ones each time. At a change of domain
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

    is_judged = True

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._detector = ChangeDetector()
        self._memories = [candidate.begin() for candidate in CANDIDATES]
        self._changes: list[int] = []
        self._windows = 0
        self._plans = 0
        self._judged: slice | None = None
        self._losses: Losses | None = None
        self._chosen: Ints | None = None

    def observe(self, load: Floats) -> None:
        """Judge the last plans by a window, then learn from it."""
        share, total = to_shares(load)
        if self._detector.observe(share, total):
            self._changes.append(self._windows)
            self._memories = [candidate.begin() for candidate in CANDIDATES]
            self._judged = None
        elif self._judged is not None and self._losses is not None:
            self._losses.learn(self._judged, self._judge.losses(load[self._judged]))
        for memory in self._memories:
            memory.observe_shares(load, share, total)
        self._windows += 1

    def forecast(self) -> Floats:
        """Return each layer's forecast by the candidate it follows, and have all planned for, to be judged."""
        forecasts = np.stack([memory.forecast() for memory in self._memories])
        num_layers = forecasts.shape[1]
        if self._losses is None or self._chosen is None:
            self._losses, self._chosen = Losses(len(CANDIDATES), num_layers), np.full(num_layers, _START)
        stride = -(-num_layers // _MOST_JUDGED)
        self._judged = slice(self._plans % stride, None, stride)
        self._plans += 1
        self._judge.plan(np.ascontiguousarray(forecasts[:, self._judged]))
        self._chosen = self._losses.followed(self._chosen)
        return np.ascontiguousarray(forecasts[self._chosen, np.arange(num_layers)])

    def explain(self) -> Choice:
        """Say what is followed, and why."""
        names = tuple(candidate.name for candidate in CANDIDATES)
        if self._losses is None or self._chosen is None:
            return Choice(names, np.zeros(0, np.int64), np.zeros((len(names), 0)), (), self._windows)
        return Choice(names, self._chosen.copy(), self._losses.own(), tuple(self._changes), self._windows)


class Losses:
    """What candidates have lately lost, in each layer and over all; older losses fade."""

    def __init__(self, num_candidates: int, num_layers: int) -> None:
        self._own = np.zeros((num_candidates, num_layers))
        self._own_weight = np.zeros(num_layers)
        self._shared = np.zeros((num_candidates, 1))
        self._shared_weight = 0.0

    def learn(self, layers: slice, lost: Floats) -> None:
        """Take in what each candidate lost in some layers, [candidates, those layers]; nan in those without load."""
        met = np.arange(self._own.shape[1])[layers][~np.isnan(lost[0])]
        if not met.size:
            return
        lost = lost[:, ~np.isnan(lost[0])]
        self._own[:, met] = _FORGET * self._own[:, met] + lost
        self._own_weight[met] = _FORGET * self._own_weight[met] + 1.0
        self._shared = _FORGET * self._shared + np.cumsum(lost, axis=1)[:, -1:] / met.size
        self._shared_weight = _FORGET * self._shared_weight + 1.0

    def own(self) -> Floats:
        """Return the mean loss of each candidate in each layer, [candidates, layers]; over all layers where not judged yet."""
        if self._shared_weight == 0.0:
            return np.full_like(self._own, np.nan)
        shared = self._shared / self._shared_weight
        means: Floats = np.where(self._own_weight > 0.0, self._own / np.maximum(self._own_weight, 1.0), shared)
        return means

    def followed(self, chosen: Ints) -> Ints:
        """Return what each layer follows, [layers]: something else than ``chosen`` only where that loses clearly less."""
        if self._shared_weight == 0.0:
            return chosen
        lost = _SHARED * self._shared / self._shared_weight + (1.0 - _SHARED) * self.own()
        layers = np.arange(chosen.size)
        best = lost.argmin(axis=0)
        worth = lost[best, layers] < (1.0 - _WORTH) * lost[chosen, layers]
        return np.where(worth, best, chosen)
