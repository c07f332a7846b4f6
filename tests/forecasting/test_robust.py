"""robust: the last windows and what auto expects, scaled so that a plain mean weighs them as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, LoadTrace, plan, simulate
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.forecasting.auto import Auto
from equipoise.forecasting.forecasters import Steps
from equipoise.forecasting.robust import Robust
from equipoise.planning.backtesting import Backtest
from equipoise.planning.problem import make_problem

CLUSTER = Cluster(num_ranks=4, slots_per_rank=3)


def windows_of(seed, count=6, layers=2, experts=8):
    """Return random windows [count, layers, experts] of very different size."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, (count, layers, experts)) * rng.integers(1, 100, (count, 1, 1)).astype(np.float64)


def judge():
    """Return the real judge for these windows."""
    return Backtest(make_problem(np.ones((2, 8)), CLUSTER))


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 9))
def test_what_is_handed_over(seed, count, kept):
    """The last windows' shares of the expected totals, then auto's forecast, which weighs as much as all of them."""
    windows = windows_of(seed, count)
    memory, auto = Robust(kept).begin(judge()), Auto().begin(judge())
    for window in windows:
        memory.observe(window)
        auto.observe(window)
        found, expected = memory.forecast(), auto.forecast()
    recent = windows[-kept:]
    assert found.shape == (len(recent) + 1, 2, 8)
    total = expected.sum(axis=1, keepdims=True)
    tokens = recent.sum(axis=2, keepdims=True)
    shares = np.divide(recent, tokens, out=np.zeros_like(recent), where=tokens > 0)
    mean = (shares * total).sum(axis=0) / (2 * len(recent)) + expected / 2
    assert np.allclose(found.mean(axis=0), mean)
    assert np.allclose(found[:-1] * found[-1].sum(), shares * total * found[-1].sum() * (len(recent) + 1) / (2 * len(recent)))
    assert np.allclose(found[-1] * 2, expected * (len(recent) + 1))


def test_a_load_that_stands_still_is_planned_for_as_it_is():
    """Every load handed over is then the same up to its weight, and the plan is as balanced as that for the load."""
    load = np.round(windows_of(3, 1)[0]) + 1.0
    result = plan(np.stack([load] * 5), CLUSTER, forecast="robust:3")
    assert np.allclose(result.load, load)
    assert np.isclose(result.balancedness, result.placement.balancedness(load))
    assert result.balancedness >= plan(load, CLUSTER).balancedness - 1e-12


@pytest.mark.compiled
@given(st.integers(0, 2**32 - 1))
def test_several_loads_are_planned_for_together(seed):
    """forecast="steps": largest is the mean over loads of the largest rank time, no more than for the plan of their mean."""
    loads = windows_of(seed, 4) + 1.0
    result = plan(loads, CLUSTER, forecast="steps")
    result.placement.validate()
    largest = np.mean([result.placement.layer_times(load)[0] for load in loads], axis=0)
    assert np.allclose(result.largest, largest)
    assert np.allclose(result.load, loads.mean(axis=0))
    assert np.allclose(result.ideal, loads.sum(axis=2).mean(axis=0) / 4)
    assert (result.bound <= largest * (1 + 1e-12)).all()
    together = plan(loads, CLUSTER).placement
    ordinary = np.mean([together.layer_times(load)[0] for load in loads], axis=0)
    assert (result.largest <= ordinary * (1 + 1e-12)).all()


def test_plans_do_not_depend_on_threads():
    """One thread or three: the same bytes."""
    loads = windows_of(5, 5)
    one, three = (plan(loads, CLUSTER, forecast="robust:4", num_threads=n) for n in (1, 3))
    assert one.placement.expert_of_slot.tobytes() == three.placement.expert_of_slot.tobytes()


def test_simulate_plans_for_several_loads_too():
    """A policy's plan is plan()'s on the windows so far, at every window."""
    windows = windows_of(7, 5) + 1.0
    found = simulate(windows, CLUSTER, ["robust:3", "scenarios:2", "robust:3,planner=lpt"])
    assert not any(result.failure for result in found.policies)
    for name, result in zip(("robust:3", "scenarios:2"), found.policies, strict=False):
        for now in range(1, 5):
            expected = plan(LoadTrace(windows[:now]), CLUSTER, forecast=name).placement.balancedness(windows[now])
            assert np.isclose(result.balancedness[now - 1], expected)


def test_steps_are_kept_as_they_are():
    """Nothing is rescaled."""
    memory = Steps().begin()
    windows = windows_of(9, 3)
    for window in windows:
        memory.observe(window)
    assert memory.forecast().tolist() == windows.tolist()


def test_what_several_loads_cannot_be_planned_for_is_refused():
    """Soft locality, by name; a number of windows below one."""
    from equipoise import Constraints

    cluster = Cluster(4, 3, 2)
    with pytest.raises(NotSupportedError, match="several scenarios under soft locality"):
        plan(windows_of(1), cluster, forecast="steps", num_groups=4, locality="soft", constraints=Constraints(home_share=0.5))
    with pytest.raises(ArgumentError, match="windows is 0"):
        Robust(0)
