"""What losses of the past tell, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.controlling.evidence import FORGET, Evidence
from equipoise.controlling.summing import mean_of, total_of, variance_of

ALL = np.ones(2, np.bool_)


def array(*values):
    """Return an array of floats."""
    return np.array(values, np.float64)


def test_losses_of_the_placement_in_use_are_a_fading_mean_of_squares():
    """Losses of the placement in use are a fading mean of squares."""
    evidence = Evidence.begin(1, 2)
    evidence.observe(array(0.3, 0.1), ALL)
    evidence.observe(array(0.4, 9.0), np.array([True, False]))
    np.testing.assert_allclose(evidence.square, [(FORGET * 0.09 + 0.16) / (FORGET + 1), 0.01])
    np.testing.assert_allclose(evidence.weight, [1.8, 1.0])


def test_what_could_not_be_foreseen_is_what_squares_leave_over_what_was_known():
    """5-4-3 from one window: 9/2; from four: 9/1.25."""
    evidence = Evidence.begin(2, 2)
    lost = np.array([[5.0, 5.0], [5.0, 5.0]])
    evidence.judge(array(5, 5), lost, 4.0 + 0.0 * lost, np.array([[1.0, 1.0], [4.0, 4.0]]), ALL, ALL)
    np.testing.assert_allclose(evidence.unforeseen, [[4.5, 4.5], [7.2, 7.2]])
    np.testing.assert_allclose(evidence.expected_unforeseen(array(100, 100)), np.sqrt([4.5, 4.5]))


def test_before_any_window_chance_alone_is_expected():
    """Before any window chance alone is expected."""
    assert Evidence.begin(1, 2).expected_unforeseen(array(100, 0)).tolist() == [0.2, 0.0]


def test_a_plan_put_to_use_is_known_by_what_it_was_expected_to_lose():
    """A plan put to use is known by what it was expected to lose."""
    evidence = Evidence.begin(1, 2)
    evidence.judge(array(5, 5), array(5, 5)[np.newaxis], array(4, 4)[np.newaxis], np.ones((1, 2)), ALL, ALL)
    evidence.observe(array(0.5, 0.5), ALL)
    evidence.begin_placement(np.array([True, False]), array(0.3, 0.3))
    np.testing.assert_allclose(evidence.lost, [0.3, 0.5])
    evidence.begin_placement(ALL, array(np.nan, np.nan))
    assert evidence.weight.tolist() == [0.0, 0.0]


def test_spread_is_measured_between_windows_of_the_same_placement_in_use():
    """Spread is measured between windows of the same placement in use."""
    evidence = Evidence.begin(1, 2)
    for difference in (array(0.0, 0.0), array(0.1, -0.1)):
        evidence.judge(difference, np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2)), ALL, ALL)
    assert evidence.variance() == pytest.approx(0.01 / 2)
    evidence.begin_placement(ALL, array(0.0, 0.0))
    evidence.judge(array(9.0, -9.0), np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2)), ALL, ALL)
    assert evidence.variance() == pytest.approx(0.01 / 2)


def test_another_memory_is_followed_only_where_it_loses_clearly_less():
    """Another memory is followed only where it loses clearly less."""
    for better, followed in ((0.99, 0), (0.9, 1)):
        evidence = Evidence.begin(2, 2)
        lost = np.array([[1.0, 1.0], [better, better]])
        evidence.judge(array(1, 1), lost, 0.0 * lost, np.ones((2, 2)), ALL, ALL)
        assert evidence.followed == followed


def test_sums_do_not_depend_on_order():
    """Sums do not depend on order."""
    values = np.array([1e16, 1.0, -1e16, 3.0])
    assert total_of(values) == total_of(values[::-1]) == 4.0
    assert mean_of(values[:0]) == 0.0
    assert variance_of(array(1, 3)) == 1.0
