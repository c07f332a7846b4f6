"""The forecasters: what past windows say of the next one.

Every window counts by its *shares* of a layer's load, so that a large window says no more than a small one. Forecasts are in
tokens: expected shares times the layer's usual total (deviations and quantiles need not add up to it). A layer without load
learns nothing from a window; those that look at the last windows only expect nothing where all of these were idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equipoise.checks import check_integer
from equipoise.errors import ArgumentError
from equipoise.forecasting.protocol import Judge
from equipoise.kernels.shares import learn, to_shares
from equipoise.kernels.types import Floats


@dataclass(frozen=True)
class Last:
    """The last window again: what every engine plans for. By name ``last``."""

    @property
    def name(self) -> str:
        """Its name."""
        return "last"

    def begin(self, judge: Judge | None = None) -> _Newest:
        """Return an empty memory."""
        return _Newest()


@dataclass(frozen=True)
class Exponential:
    """Exponentially weighted mean of shares, plus some standard deviations. By name ``exponential:WEIGHT[,DEVIATIONS]``.

    The newest window has ``weight`` in (0, 1] of what the mean tends to, each earlier one 1 - weight of the one after; weights
    add up to 1 from the first window on (no start value). ``deviations`` standard deviations are added: experts whose share
    moves get more room.

    Examples
    --------
    >>> memory = Exponential(0.5).begin()
    >>> memory.observe(np.array([[3.0, 1.0]]))
    >>> memory.observe(np.array([[2.0, 6.0]]))
    >>> memory.forecast().round(3).tolist()  # two thirds of (1/4, 3/4), a third of (3/4, 1/4), of 20/3 tokens
    [[2.778, 3.889]]
    """

    weight: float = 0.5
    deviations: float = 0.0

    def __post_init__(self) -> None:
        _check_range("weight", self.weight, 0.0, 1.0, open_below=True)
        _check_range("deviations", self.deviations, -10.0, 10.0)

    @property
    def name(self) -> str:
        """Its name."""
        return f"exponential:{_text(self.weight)}" + (f",{_text(self.deviations)}" if self.deviations else "")

    def begin(self, judge: Judge | None = None) -> _Weighted:
        """Return an empty memory."""
        return _Weighted(keep=1.0 - self.weight, deviations=self.deviations)


@dataclass(frozen=True)
class Mean:
    """Mean of the last windows' shares, plus some standard deviations. By name ``mean:WINDOWS[,DEVIATIONS]``."""

    windows: int = 8
    deviations: float = 0.0

    def __post_init__(self) -> None:
        check_integer("windows", self.windows)
        _check_range("deviations", self.deviations, -10.0, 10.0)

    @property
    def name(self) -> str:
        """Its name."""
        return f"mean:{self.windows}" + (f",{_text(self.deviations)}" if self.deviations else "")

    def begin(self, judge: Judge | None = None) -> _Sliding:
        """Return an empty memory."""
        return _Sliding(self.windows, self._of)

    def _of(self, share: Floats, loaded: Floats) -> Floats:
        count = np.maximum(loaded.sum(axis=0), 1.0)
        mean: Floats = share.sum(axis=0) / count
        if self.deviations:
            mean = mean + self.deviations * np.sqrt((loaded * (share - mean) ** 2).sum(axis=0) / count)
        return mean


@dataclass(frozen=True)
class Quantile:
    """A quantile of each expert's last shares, interpolated linearly. By name ``quantile:WINDOWS,LEVEL``."""

    windows: int = 8
    level: float = 0.75

    def __post_init__(self) -> None:
        check_integer("windows", self.windows)
        _check_range("level", self.level, 0.0, 1.0)

    @property
    def name(self) -> str:
        """Its name."""
        return f"quantile:{self.windows},{_text(self.level)}"

    def begin(self, judge: Judge | None = None) -> _Sliding:
        """Return an empty memory."""
        return _Sliding(self.windows, self._of)

    def _of(self, share: Floats, loaded: Floats) -> Floats:
        known = np.where(loaded > 0.0, share, np.nan)
        if np.isnan(known).any():
            never = np.isnan(known).all(axis=0)
            known[:, never] = 0.0
            found: Floats = np.nanquantile(known, self.level, axis=0)
            return found
        return np.asarray(np.quantile(known, self.level, axis=0))


@dataclass(frozen=True)
class Steps:
    """Every window seen as an equally likely load, as it is; larger ones weigh more. By name ``steps``.

    For loads that are scenarios already: ``plan(scenarios, cluster, forecast="steps")`` keeps the mean over them of the largest
    rank time low. Remembers all windows.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "steps"

    def begin(self, judge: Judge | None = None) -> _All:
        """Return an empty memory."""
        return _All()


@dataclass(frozen=True)
class Scenarios:
    """The last windows as equally likely loads, each of the layer's usual total. By name ``scenarios:WINDOWS``.

    The plan keeps the mean of the largest rank time over these loads low (:mod:`equipoise.planning.scenarios`), so experts
    that swing together are kept apart.
    """

    windows: int = 8

    def __post_init__(self) -> None:
        check_integer("windows", self.windows)

    @property
    def name(self) -> str:
        """Its name."""
        return f"scenarios:{self.windows}"

    def begin(self, judge: Judge | None = None) -> _Recent:
        """Return an empty memory."""
        return _Recent(self.windows)


class _Newest:
    """Each layer's last window that had load, to the bit."""

    def __init__(self) -> None:
        self._load: Floats | None = None

    def observe(self, load: Floats) -> None:
        known = np.zeros_like(load) if self._load is None else self._load
        self._load = np.where(load.any(axis=1, keepdims=True), load, known)

    def observe_shares(self, load: Floats, share: Floats, total: Floats) -> None:
        """Take in a window whose shares are known already."""
        self.observe(load)

    def forecast(self) -> Floats:
        assert self._load is not None, "a window comes before the first forecast"
        return self._load.copy()


class _Weighted:
    """Exponentially weighted means of shares and totals; O(layers * experts) in memory and time."""

    def __init__(self, keep: float, deviations: float) -> None:
        self._keep = keep
        self._deviations = deviations
        self._mean: Floats | None = None

    def observe(self, load: Floats) -> None:
        self.observe_shares(load, *to_shares(load))

    def observe_shares(self, load: Floats, share: Floats, total: Floats) -> None:
        """Take in a window whose shares are known already."""
        if self._mean is None:
            self._mean, self._spread = np.zeros_like(share), np.zeros_like(share)
            self._total, self._unused = np.zeros((total.size, 1)), np.zeros((total.size, 1))
            self._weight, self._again = np.zeros_like(total), np.zeros_like(total)
        learn(self._mean, self._spread, self._weight, share, total, self._keep)
        learn(self._total, self._unused, self._again, total[:, np.newaxis], total, self._keep)

    def forecast(self) -> Floats:
        assert self._mean is not None, "a window comes before the first forecast"
        share = self._mean
        if self._deviations:
            weight = np.where(self._weight > 0.0, self._weight, 1.0)[:, np.newaxis]
            share = np.maximum(share + self._deviations * np.sqrt(self._spread / weight), 0.0)
        expected: Floats = share * self._total
        return expected


class _Sliding:
    """The last windows' shares, made into one."""

    def __init__(self, windows: int, made_of: Callable[[Floats, Floats], Floats]) -> None:
        self._made_of = made_of
        self._shares: deque[Floats] = deque(maxlen=int(windows))
        self._totals: deque[Floats] = deque(maxlen=int(windows))

    def observe(self, load: Floats) -> None:
        share, total = to_shares(load)
        self._shares.append(share)
        self._totals.append(total)

    def forecast(self) -> Floats:
        totals = np.stack(self._totals)
        loaded = (totals > 0.0).astype(np.float64)
        usual = totals.sum(axis=0) / np.maximum(loaded.sum(axis=0), 1.0)
        share: Floats = np.maximum(self._made_of(np.stack(self._shares), loaded[:, :, np.newaxis]), 0.0)
        expected: Floats = share * usual[:, np.newaxis]
        return expected


class _All:
    """All windows, as they are."""

    def __init__(self) -> None:
        self._loads: list[Floats] = []

    def observe(self, load: Floats) -> None:
        self._loads.append(load.copy())

    def forecast(self) -> Floats:
        return np.stack(self._loads)


class _Recent:
    """The last windows, each scaled to the usual total."""

    def __init__(self, windows: int) -> None:
        self._sliding: deque[tuple[Floats, Floats]] = deque(maxlen=int(windows))

    def observe(self, load: Floats) -> None:
        self._sliding.append(to_shares(load))

    def forecast(self) -> Floats:
        totals = np.stack([total for _, total in self._sliding])
        usual = totals.sum(axis=0) / np.maximum((totals > 0.0).sum(axis=0), 1)
        return np.stack([share * usual[:, np.newaxis] for share, _ in self._sliding])


def _text(value: float) -> str:
    """Write a number as short as it can be read back the same."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))


def _check_range(name: str, value: float, low: float, high: float, *, open_below: bool = False) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or (open_below and value == low):
        bounds = f"in {'(' if open_below else '['}{low:g}, {high:g}]"
        raise ArgumentError(f"{name} is {value!r}", f"it must be a number {bounds}", "give one in that range")
