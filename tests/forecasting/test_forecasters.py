"""Forecasters against slow twins, each made from its definition on the whole history at once; and what all have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise.forecasting.forecasters import Exponential, Last, Mean, Quantile, Scenarios

DEVIATIONS = st.sampled_from([0.0, 0.5, 2.0, -1.0])
FORECASTERS = st.one_of(
    st.sampled_from([Last(), Exponential(1.0)]),
    st.builds(Exponential, st.floats(0.01, 1.0), DEVIATIONS),
    st.builds(Mean, st.integers(1, 6), DEVIATIONS),
    st.builds(Quantile, st.integers(1, 6), st.floats(0.0, 1.0)),
    st.builds(Scenarios, st.integers(1, 6)),
)
EVERY_KIND = [Last(), Exponential(0.3), Exponential(0.5, 0.5), Mean(4), Mean(3, 1.0), Quantile(4, 0.75), Scenarios(3)]


@st.composite
def histories(draw):
    """Draw [windows, layers, experts]: windows of very different size, layers idle in some of them or in all."""
    windows, layers, experts = draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    load = draw(arrays(np.float64, (windows, layers, experts), elements=st.integers(0, 20).map(float)))
    size = draw(arrays(np.float64, (windows, 1, 1), elements=st.sampled_from([0.0, 1e-6, 1.0, 10.0, 1e9])))
    busy = draw(arrays(np.bool_, (windows, layers, 1)))
    return load * size * busy


def _forecast(forecaster, history):
    memory = forecaster.begin()
    for load in history:
        memory.observe(np.ascontiguousarray(load))
    return memory.forecast()


def _spread(shares, weights):
    """Weighted mean and standard deviation of a list of numbers."""
    mean = sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)
    square = sum(w * (s - mean) ** 2 for w, s in zip(weights, shares, strict=True)) / sum(weights)
    return mean, math.sqrt(square)


def _between(values, level):
    values = sorted(values)
    place = level * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def _twin_of_layer(forecaster, windows):
    """What a layer's windows, [windows][experts], say of the next one: a list, or a list of lists for scenarios."""
    if isinstance(forecaster, (Mean, Quantile, Scenarios)):
        windows = windows[-forecaster.windows :]
    loaded = [window for window in windows if sum(window) > 0]
    if not loaded:
        nothing = [0.0] * len(windows[0])
        return [nothing for _ in windows] if isinstance(forecaster, Scenarios) else nothing
    weights = [1.0] * len(loaded)
    if isinstance(forecaster, Last):
        return loaded[-1]
    if isinstance(forecaster, Exponential):
        weights = [(1.0 - forecaster.weight) ** age for age in range(len(loaded))][::-1]
    totals = [sum(window) for window in loaded]
    usual = _spread(totals, weights)[0]
    if isinstance(forecaster, Scenarios):
        return [[usual * x / sum(window) if sum(window) else 0.0 for x in window] for window in windows]
    forecast = []
    for e in range(len(windows[0])):
        shares = [window[e] / total for window, total in zip(loaded, totals, strict=True)]
        if isinstance(forecaster, Quantile):
            forecast.append(usual * _between(shares, forecaster.level))
        else:
            mean, deviation = _spread(shares, weights)
            forecast.append(usual * max(0.0, mean + forecaster.deviations * deviation))
    return forecast


def _twin(forecaster, history):
    layers = [_twin_of_layer(forecaster, history[:, x].tolist()) for x in range(history.shape[1])]
    return np.moveaxis(np.array(layers), 0, -2)


def _assert_close(found, expected):
    """Equal up to rounding of each layer's total."""
    assert found.shape == expected.shape
    totals = expected.sum(axis=-1, keepdims=True)
    assert (np.abs(found - expected) <= 1e-8 * totals).all()


@given(FORECASTERS, histories())
def test_each_forecasts_what_its_definition_says(forecaster, history):
    """Means, deviations, quantiles and scenarios of shares over the windows that had load, times the usual total."""
    _assert_close(_forecast(forecaster, history), _twin(forecaster, history))


@given(FORECASTERS, histories())
def test_a_forecast_is_a_load(forecaster, history):
    """It is finite and >= 0; a layer that never had load stays 0; another call gives the same and changes nothing."""
    found = _forecast(forecaster, history)
    assert np.isfinite(found).all()
    assert (found >= 0.0).all()
    idle = history.sum(axis=(0, 2)) == 0.0
    assert not found[..., idle, :].any()
    memory = forecaster.begin()
    for load in history:
        given_load = load.copy()
        memory.observe(given_load)
        given_load[:] = -1.0
        memory.forecast()
    assert memory.forecast().tobytes() == found.tobytes()


@given(st.sampled_from([Last(), Exponential(0.3), Mean(3), Scenarios(3)]), histories())
def test_means_and_scenarios_have_the_usual_total(forecaster, history):
    """Every layer adds up to a total that lies within those of the windows with load."""
    windows = history[-forecaster.windows :] if isinstance(forecaster, (Mean, Scenarios)) else history
    found = _forecast(forecaster, history).sum(axis=-1)
    for layer, totals in enumerate(windows.sum(axis=2).T):
        seen = totals[totals > 0.0]
        for total in np.atleast_2d(found)[:, layer]:
            if total > 0.0:
                assert seen.min() * (1 - 1e-9) <= total <= seen.max() * (1 + 1e-9)
            else:
                assert isinstance(forecaster, Scenarios) or not seen.size


@given(FORECASTERS, st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(1, 9))
def test_a_constant_load_is_forecast_as_it_is(forecaster, load, windows):
    """Whatever the settings: nothing deviates, all quantiles are the same."""
    window = np.array([load], np.float64)
    found = _forecast(forecaster, np.stack([window] * windows))
    for scenario in found.reshape(-1, *window.shape):
        assert np.allclose(scenario, window, rtol=1e-9, atol=1e-9 * window.sum())


@given(FORECASTERS, histories(), st.data())
def test_a_large_window_says_no_more_than_a_small_one(forecaster, history, data):
    """Windows scaled, each by a number of its own, give the same shares."""
    scale = data.draw(arrays(np.float64, (len(history), 1, 1), elements=st.sampled_from([0.01, 1.0, 10.0, 1000.0])))

    def shares(load):
        total = load.sum(axis=-1, keepdims=True)
        return np.divide(load, total, out=np.zeros_like(load), where=total > 0.0)

    expected = shares(_forecast(forecaster, history))
    assert np.allclose(shares(_forecast(forecaster, history * scale)), expected, rtol=0, atol=1e-6)


@given(FORECASTERS, histories(), st.randoms(use_true_random=False))
def test_numbers_of_experts_and_other_layers_mean_nothing(forecaster, history, random):
    """Experts renumbered are forecast renumbered, and a layer by itself as among others."""
    experts = list(range(history.shape[2]))
    random.shuffle(experts)
    found = _forecast(forecaster, history)
    _assert_close(_forecast(forecaster, history[:, :, experts]), found[..., experts])
    assert _forecast(forecaster, history[:, -1:]).tobytes() == found[..., -1:, :].tobytes()


@pytest.mark.parametrize("forecaster", EVERY_KIND, ids=lambda f: f.name)
def test_an_idle_window_teaches_nothing(forecaster):
    """The mean goes on from the last window with load; nothing fades meanwhile."""
    loads = np.array([[[6.0, 2.0], [1.0, 1.0]], [[0.0, 0.0], [3.0, 1.0]], [[4.0, 4.0], [2.0, 2.0]]])
    without = loads[[0, 2]][:, :1]
    found, expected = _forecast(forecaster, loads)[..., :1, :], _forecast(forecaster, without)
    if isinstance(forecaster, Scenarios):
        found = found[[0, 2]]
    assert np.allclose(found, expected, rtol=1e-12)


def test_by_hand():
    """Shares 3/4, 1/4, 1/2 of totals 4, 8 and 12."""
    history = np.array([[[3.0, 1.0]], [[2.0, 6.0]], [[6.0, 6.0]]])
    assert _forecast(Last(), history).tolist() == [[6.0, 6.0]]
    assert _forecast(Mean(3), history).tolist() == [[4.0, 4.0]]
    assert _forecast(Mean(2), history).tolist() == [[3.75, 6.25]]
    assert _forecast(Mean(2, 1.0), history) == pytest.approx(np.array([[5.0, 7.5]]))
    assert _forecast(Quantile(3, 0.75), history).tolist() == [[5.0, 5.0]]
    assert _forecast(Scenarios(2), history).tolist() == [[[2.5, 7.5]], [[5.0, 5.0]]]
    assert _forecast(Exponential(0.5), history) == pytest.approx(np.array([[13 / 28 * 68 / 7, 15 / 28 * 68 / 7]]))


def test_less_than_nothing_is_nothing():
    """Deviations taken off leave 0 at least: shares 1, 0, 0 and 0, 1, 1 have 1/3 - 0.47 and 2/3 - 0.47."""
    history = np.array([[[3.0, 0.0]], [[0.0, 3.0]], [[0.0, 3.0]]])
    for forecaster in (Mean(3, -1.0), Exponential(0.01, -1.0)):
        found = _forecast(forecaster, history)
        assert found[0, 0] == 0.0
        assert found[0, 1] > 0.5


def test_windows_that_left_are_forgotten_for_good():
    """A sliding mean does not depend on what came before its windows, to the last bit."""
    rng = np.random.default_rng(1)
    recent = rng.integers(0, 9, (4, 2, 5)).astype(np.float64)
    for forecaster in (Mean(4), Mean(4, 1.0), Quantile(4, 0.5), Scenarios(4)):
        before = np.concatenate([rng.random((3, 2, 5)) * 1e12, recent])
        assert _forecast(forecaster, before).tobytes() == _forecast(forecaster, recent).tobytes()


def test_all_weight_on_the_newest_window_with_deviations():
    """Nothing deviates from one window: it is forecast as it is."""
    history = np.array([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 2.0]]])
    assert np.allclose(_forecast(Exponential(1.0, 0.5), history), history[1])
