"""The gate's rules by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.controlling.evidence import unknown
from equipoise.controlling.gating import Estimate, Outlook, estimate_gains, expected_loss, in_priority, open_layers


def outlook(layers=4, **given_values):
    """Return what is known of some layers, all alike but for what is given."""
    values = {
        "lost": 0.5,
        "weight": 1.0,
        "planned": 0.0,
        "before": 0.4,
        "unforeseen": 0.1,
        "in_use": 0.0,
        "made_from": 1.0,
    } | given_values
    return Outlook(
        **{name: np.broadcast_to(np.asarray(value, np.float64), layers).copy() for name, value in values.items()},
        loaded=np.ones(layers, np.bool_),
    )


def test_a_candidate_loses_what_it_does_on_the_load_planned_for_and_what_none_could_foresee():
    """3-4-5: 0.3 on the load planned for, 0.4 beside; one window more makes sqrt(2) of it."""
    known = outlook(planned=0.3, unforeseen=0.4 / np.sqrt(2.0))
    np.testing.assert_allclose(expected_loss(known), 0.5)


def test_layers_alike_gain_the_same_without_deviation():
    """Layers alike gain the same without deviation."""
    found = estimate_gains(outlook(made_from=4.0, in_use=4.0), 0.0, False)
    np.testing.assert_allclose(found.gain, 0.5 - 0.1 * np.sqrt(1.25))
    assert not found.deviation.any()


def test_no_gain_exceeds_that_on_the_load_planned_for():
    """No gain exceeds that on the load planned for."""
    np.testing.assert_allclose(estimate_gains(outlook(before=0.2, planned=0.15), 0.0, False).gain, 0.05)


def test_without_a_window_since_the_placement_changed_only_the_load_planned_for_tells():
    """Without a window since the placement changed only the load planned for tells."""
    np.testing.assert_allclose(estimate_gains(outlook(weight=0.0, before=0.2), 0.0, True).gain, 0.2)


def test_layers_that_differ_no_more_than_by_chance_get_what_all_tell():
    """Layers that differ no more than by chance get what all tell."""
    known = outlook(lost=[0.4, 0.5, 0.6, 0.5], before=9.0)
    found = estimate_gains(known, 0.1**2, False)
    np.testing.assert_allclose(found.gain, 0.5 - 0.1 * np.sqrt(2.0))
    np.testing.assert_allclose(found.deviation, 0.1 / 2.0)  # of a mean of four


def test_layers_that_differ_far_more_are_believed():
    """Layers that differ far more are believed."""
    known = outlook(lost=[0.2, 0.2, 2.0, 2.0], before=9.0)
    found = estimate_gains(known, 1e-6, False)
    np.testing.assert_allclose(found.gain, known.lost - 0.1 * np.sqrt(2.0), atol=1e-4)
    np.testing.assert_allclose(found.deviation, 1e-3, rtol=1e-3)


def test_at_a_change_all_layers_get_the_mean():
    """At a change all layers get the mean."""
    found = estimate_gains(outlook(lost=[0.2, 0.2, 2.0, 2.0], before=9.0), 1e-6, True)
    np.testing.assert_allclose(found.gain, 1.1 - 0.1 * np.sqrt(2.0))


def test_layers_are_told_apart_by_what_their_placements_know():
    """Two made from 1 window and two from 4 lost exactly what that lets expect: knowing 4 gains the first, not the second."""
    lost = 0.1 * unknown(np.array([1.0, 1.0, 4.0, 4.0]))
    found = estimate_gains(outlook(lost=lost, in_use=[1, 1, 4, 4], made_from=4.0), 0.01, False)
    gain = 0.1 * (np.sqrt(2.0) - np.sqrt(1.25))
    np.testing.assert_allclose(found.gain, [gain, gain, 0.0, 0.0], atol=1e-12)


def test_layers_without_load_gain_nothing_and_tell_nothing():
    """Layers without load gain nothing and tell nothing."""
    known = outlook(lost=[0.5, 0.5, 0.5, 77.0])._replace(loaded=np.array([True, True, True, False]))
    found = estimate_gains(known, 0.0, False)
    np.testing.assert_allclose(found.gain, [0.5 - 0.1 * np.sqrt(2.0)] * 3 + [0.0])


LIMITS = {"least_gain": 0.01, "least_share": 0.1, "caution": 2.0}


@pytest.mark.parametrize(
    ("gain", "deviation", "was_open", "lost", "opens"),
    [
        (0.011, 0.0, False, 0.0, True),
        (0.011, 0.001, False, 0.0, False),  # one of two deviations above
        (0.011, 0.0, False, 0.2, False),  # a tenth of what is lost is more
        (0.011, 0.0, True, 0.2, True),  # open already: until half of it
        (0.009, 0.0, True, 0.2, False),
    ],
)
def test_the_gate_opens_above_and_closes_below_half(gain, deviation, was_open, lost, opens):
    """The gate opens above and closes below half."""
    estimate = Estimate(np.array([gain]), np.array([deviation]))
    found = open_layers(estimate, np.array([was_open]), np.array([True]), lost, **LIMITS)
    assert found.tolist() == [opens]


def test_a_layer_without_load_stays_shut():
    """A layer without load stays shut."""
    estimate = Estimate(np.array([1.0]), np.array([0.0]))
    assert not open_layers(estimate, np.array([True]), np.array([False]), 0.0, **LIMITS).any()


def test_priority_goes_by_gain_a_move_and_ties_by_layer():
    """Priority goes by gain a move and ties by layer."""
    gain, moves = np.array([2.0, 9.0, 3.0, 1.0]), np.array([2.0, 3.0, 3.0, 1.0])
    assert in_priority(gain, moves, 6) == ([1, 0, 3], [2])
    assert in_priority(gain, moves, None) == ([1, 0, 2, 3], [])
    assert in_priority(gain, moves, 0) == ([], [1, 0, 2, 3])


numbers = st.floats(0, 10, allow_nan=False)


@given(st.data(), st.integers(1, 6), st.booleans())
def test_estimates_are_finite_and_within_the_load_planned_for(data, layers, is_change):
    """Estimates are finite and within the load planned for."""
    drawn = [np.array(data.draw(st.lists(numbers, min_size=layers, max_size=layers))) for _ in Outlook._fields[:-1]]
    known = Outlook(*drawn, loaded=np.array(data.draw(st.lists(st.booleans(), min_size=layers, max_size=layers))))
    found = estimate_gains(known, data.draw(numbers), is_change)
    assert np.isfinite(found.gain).all()
    assert np.isfinite(found.deviation).all()
    assert (found.gain <= known.before - known.planned)[known.loaded].all()
    assert not found.gain[~known.loaded].any()
