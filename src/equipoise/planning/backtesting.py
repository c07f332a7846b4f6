"""Plans made for forecasts, judged by the windows that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from equipoise.arrays import frozen
from equipoise.errors import ArgumentError
from equipoise.forecasting.naming import make_forecaster
from equipoise.forecasting.protocol import Forecaster
from equipoise.kernels.dispatch import split_evenly
from equipoise.kernels.scoring import add_up_ranks, largest_times
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.layers import plan_layers
from equipoise.planning.problem import Problem
from equipoise.trace import LoadTrace


class Backtest:
    """Judges forecasts for one problem: its cluster, groups and locality, every replica taking an equal share.

    Plans are made at effort ``fast``: which forecaster loses least does not depend on the last tenths of a percent. Soft
    locality is judged as none.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem if problem.locality == "strict" else replace(problem, locality="none")
        self._slots: list[Ints] = []

    def plan(self, forecasts: Floats) -> None:
        """Plan for each of ``forecasts`` [candidates, layers, experts]."""
        num_layers = forecasts.shape[1]
        every = replace(self._problem, load=np.ascontiguousarray(forecasts.reshape(-1, forecasts.shape[2])))
        slots = frozen(plan_layers(every, EFFORTS["fast"]).slots)
        self._slots = [slots[i : i + num_layers] for i in range(0, len(slots), num_layers)]

    def losses(self, load: Floats) -> Floats:
        """Return largest rank time / ideal - 1 of each plan on a window, [candidates, layers]; nan without load."""
        load = frozen(np.array(load, np.float64))
        cluster = self._problem.cluster
        speed = np.asarray(cluster.rank_speeds, np.float64)
        ideal = np.cumsum(load, axis=1)[:, -1] / self._problem.everything.speed.sum()
        largest = np.stack(
            [
                largest_times(add_up_ranks(split_evenly(slots, load), cluster.rank_of_slot, cluster.num_ranks), speed)
                for slots in self._slots
            ]
        )
        lost: Floats = np.divide(largest, ideal, out=np.full_like(largest, np.nan), where=ideal > 0.0) - 1.0
        return lost


def forecast_load(trace: LoadTrace, problem: Problem, forecast: str | Forecaster) -> Floats:
    """Return what a forecaster that has seen every step of ``trace`` says of the next: [layers, experts] or several.

    One that learns from plans is asked after each step, as if each were followed by a plan.
    """
    memory = make_forecaster(forecast).begin(Backtest(problem))
    is_judged = getattr(memory, "is_judged", False)
    for number, step in enumerate(trace.load, 1):
        memory.observe(frozen(np.array(step, np.float64)))
        if is_judged and number < trace.num_steps:
            memory.forecast()
    expected = np.array(memory.forecast(), np.float64)
    if expected.shape[-2:] != problem.load.shape or not (np.isfinite(expected).all() and (expected >= 0).all()):
        raise ArgumentError(
            f"forecaster {forecast!r} returned {expected.shape} with values from {expected.min()} to {expected.max()}",
            f"it must return finite loads >= 0 for {problem.load.shape} layers and experts",
            "mend its forecast()",
        )
    return expected
