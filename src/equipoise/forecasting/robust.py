"""``robust``: what ``auto`` expects, and what has lately been, planned for together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from equipoise.checks import check_integer
from equipoise.forecasting.auto import AutoMemory, Choice
from equipoise.forecasting.protocol import Judge
from equipoise.kernels.shares import to_shares
from equipoise.kernels.types import Floats


@dataclass(frozen=True)
class Robust:
    """The forecast of ``auto``, and the last windows beside it as loads that may come again. By name ``robust:WINDOWS``.

    What comes is rarely the forecast; it is mostly near one of the last windows, and where domains return, near one from before
    the change. So the windows are equally likely loads, each of the layer's expected total, whatever their domain, and the
    forecast counts as much as all of them together. The plan keeps the mean of the largest rank time over these loads low.
    """

    windows: int = 8

    def __post_init__(self) -> None:
        check_integer("windows", self.windows)

    @property
    def name(self) -> str:
        """Its name."""
        return f"robust:{self.windows}"

    def begin(self, judge: Judge) -> RobustMemory:
        """Return an empty memory that has plans judged by ``judge``."""
        return RobustMemory(AutoMemory(judge), int(self.windows))


class RobustMemory:
    """What ``robust`` remembers; see :class:`Robust`."""

    is_judged = True

    def __init__(self, auto: AutoMemory, windows: int) -> None:
        self._auto = auto
        self._shares: deque[Floats] = deque(maxlen=windows)

    def observe(self, load: Floats) -> None:
        """Take in a window."""
        self._auto.observe(load)
        self._shares.append(to_shares(load)[0])

    def forecast(self) -> Floats:
        """Return the windows, and the forecast last, scaled so that their plain mean weighs them as said."""
        expected = self._auto.forecast()
        total = to_shares(expected)[1][:, np.newaxis]
        windows = len(self._shares)
        scale = (windows + 1.0) / (2.0 * windows)
        return np.stack([*(share * (scale * total) for share in self._shares), expected * (scale * windows)])

    def explain(self) -> Choice:
        """Say what the forecast follows, and why."""
        return self._auto.explain()
