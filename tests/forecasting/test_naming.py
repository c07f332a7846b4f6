"""Forecasters by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.forecasting.auto import CANDIDATES, Auto
from equipoise.forecasting.forecasters import Exponential, Last, Mean, Quantile, Scenarios
from equipoise.forecasting.naming import FORECASTERS, make_forecaster


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("last", Last()),
        ("mean", Mean(8, 0.0)),
        ("mean:", Mean(8, 0.0)),
        ("mean:4", Mean(4, 0.0)),
        ("mean:4,0.5", Mean(4, 0.5)),
        (" mean: 4 , 0.5 ", Mean(4, 0.5)),
        ("exponential", Exponential(0.5, 0.0)),
        ("exponential:0.3", Exponential(0.3, 0.0)),
        ("exponential:1,-2", Exponential(1.0, -2.0)),
        ("quantile", Quantile(8, 0.75)),
        ("quantile:3,1", Quantile(3, 1.0)),
        ("scenarios", Scenarios(8)),
        ("scenarios:2", Scenarios(2)),
        ("auto", Auto()),
    ],
)
def test_names_and_settings(given_name, expected):
    """A name may have settings after a colon; what is left out has its default."""
    assert make_forecaster(given_name) == expected


@pytest.mark.parametrize("name", FORECASTERS)
def test_every_name_makes_one_that_has_it(name):
    """Each is found by its name, and its own full name finds it again."""
    made = make_forecaster(name)
    assert made.name.partition(":")[0] == name
    assert make_forecaster(made.name) == made


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: c.name)
def test_what_auto_chooses_from_has_names(candidate):
    """Names that auto reports can be given."""
    assert make_forecaster(candidate.name) == candidate


SHORT = st.integers(1, 999).map(lambda n: n / 1000)


@given(
    st.one_of(
        st.builds(Exponential, SHORT, SHORT),
        st.builds(Mean, st.integers(1, 10**6), SHORT),
        st.builds(Quantile, st.integers(1, 10**6), SHORT),
        st.builds(Scenarios, st.integers(1, 10**6)),
    )
)
def test_a_name_tells_all_settings(forecaster):
    """From a forecaster to its name and back."""
    assert make_forecaster(forecaster.name) == forecaster


def test_an_object_is_taken_as_it_is():
    """Anything that begins a memory is a forecaster."""

    class Mine:
        name = "mine"

        def begin(self, judge):
            return self

    mine = Mine()
    assert make_forecaster(mine) is mine


@pytest.mark.parametrize(
    ("given_name", "message"),
    [
        ("", "forecast is '': it must be one of last, mean, exponential, quantile, scenarios, steps, auto, robust; try 'auto'"),
        ("median", "forecast is 'median': it must be one of last, mean, .*; did you mean mean\\?"),
        ("Last", "forecast is 'Last': it must be one of last"),
        (None, "forecast is a NoneType: it must be a name or a forecaster with begin"),
        (3, "forecast is a int: it must be a name"),
        ("last:1", "forecast is 'last:1': last takes at most 0 settings; leave out the others"),
        ("mean:4,1,1", "forecast is 'mean:4,1,1': mean takes at most 2 settings"),
        ("mean:4.5", "forecast is 'mean:4.5': mean takes a whole number, a number; try mean:8"),
        ("mean:,", "forecast is 'mean:,': mean takes a whole number, a number"),
        ("mean:0", "windows is 0: it must be an integer >= 1"),
        ("mean:99999999999999999999", "windows is 99999999999999999999"),
        ("mean:4,nan", r"deviations is nan: it must be a number in \[-10, 10\]; give one in that range"),
        ("mean:4,11", "deviations is 11.0"),
        ("exponential:half", "forecast is 'exponential:half': exponential takes a number, a number; try exponential:0.5"),
        ("exponential:0", r"weight is 0.0: it must be a number in \(0, 1\]"),
        ("exponential:1.01", "weight is 1.01"),
        ("exponential:-0.5", "weight is -0.5"),
        ("exponential:nan", "weight is nan"),
        ("exponential:0.5,inf", "deviations is inf"),
        ("quantile:8,1.5", r"level is 1.5: it must be a number in \[0, 1\]"),
        ("quantile:0,0.5", "windows is 0"),
        ("quantile:8,-0.1", "level is -0.1"),
        ("scenarios:x", "forecast is 'scenarios:x': scenarios takes a whole number; try scenarios:8"),
        ("scenarios:-1", "windows is -1"),
        ("auto:1", "forecast is 'auto:1': auto takes at most 0 settings"),
    ],
)
def test_what_does_not_fit_is_named(given_name, message):
    """One line: what was found, the rule, the next step."""
    with pytest.raises(ArgumentError, match=f"^{message}") as caught:
        make_forecaster(given_name)
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize("bad", ["4", 2.0, True, None])
def test_settings_of_another_kind_are_refused(bad):
    """As for names, so for objects."""
    for make in (Mean, Quantile, Scenarios):
        with pytest.raises(ArgumentError, match="windows is"):
            make(bad)
    if bad != 2.0:
        with pytest.raises(ArgumentError, match="weight is"):
            Exponential(bad)


def test_windows_may_be_a_numpy_integer():
    """What passes the check works."""
    for make in (Mean, Quantile, Scenarios):
        memory = make(np.int64(2)).begin()
        memory.observe(np.ones((1, 2)))
        assert memory.forecast().tolist() in ([[1.0, 1.0]], [[[1.0, 1.0]]])
