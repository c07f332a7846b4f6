"""What a forecaster is: settings with a name, which begin a memory of past windows."""

from __future__ import annotations

from typing import Protocol

from equipoise.kernels.types import Floats


class Memory(Protocol):
    """What a forecaster remembers of the windows it has seen. It sees each once, in order, and never the next one.

    A memory with a true ``is_judged`` learns from how plans met the windows that followed.
    """

    def observe(self, load: Floats) -> None:
        """Take in a window, tokens [layers, experts]."""
        ...

    def forecast(self) -> Floats:
        """Return the load to plan for, [layers, experts], or several equally likely ones, [scenarios, layers, experts].

        Called after at least one window, whenever a plan is made. A layer that never had load stays 0.
        """
        ...


class Judge(Protocol):
    """Tells how plans made for forecasts meet the windows that follow: what ``auto`` needs, and only planners have."""

    def plan(self, forecasts: Floats) -> None:
        """Plan for each of ``forecasts`` [candidates, layers, experts], instead of those before."""
        ...

    def losses(self, load: Floats) -> Floats:
        """Return largest rank time / ideal - 1 of the last plans on a window, [candidates, layers]; nan without load."""
        ...


class Forecaster(Protocol):
    """Settings of a way to forecast."""

    @property
    def name(self) -> str:
        """The name by which :func:`equipoise.forecasting.naming.make_forecaster` finds it."""
        ...

    def begin(self, judge: Judge) -> Memory:
        """Return an empty memory; only ``auto`` asks the judge."""
        ...
