"""Changes of domain, and what is remembered across them."""

from __future__ import annotations

import numpy as np

from equipoise.controlling.changes import ChangeWatch
from equipoise.controlling.memories import Memories

TOTAL = np.array([1e9])  # so many that chance moves nothing


def wandering(sizes):
    """Return shares of 4 experts whose windows lie 2 * size apart, to and fro."""
    level = np.full((1, 4), 0.25)
    away = np.array([[1.0, -1.0, 0.0, 0.0]])
    return [level + (size if i % 2 else 0.0) * away for i, size in enumerate(sizes)]


def tell(watch, shares, losses=None):
    """Show windows to a watch; return what it said of each."""
    mean = np.full((1, 4), 0.25)
    return [watch.observe(share, TOTAL, mean, None if losses is None else losses[i]) for i, share in enumerate(shares)]


def test_a_jump_of_shares_begins_a_domain_once_three_steps_are_known():
    """A jump of shares begins a domain once three steps are known."""
    shares = wandering([0.0, 0.02, 0.0, 0.02, 0.0])
    watch = ChangeWatch.begin(1, 4)
    assert not any(tell(watch, shares))
    assert tell(watch, [np.array([[0.25, 0.25, 0.2, 0.3]])]) == [True]  # 0.1 away, usual 0.04
    assert watch.own == []
    early = ChangeWatch.begin(1, 4)
    assert not any(tell(early, [*shares[:3], np.array([[0.25, 0.25, 0.2, 0.3]])]))


def test_the_window_after_a_change_begins_another_one_where_it_lies_as_far_away_again():
    """The window after a change begins another one where it lies as far away again."""
    for back, again in ((0.08, True), (0.02, False)):  # 0.75 of the jump of 0.1 is 0.075
        watch = ChangeWatch.begin(1, 4)
        tell(watch, wandering([0.0, 0.02, 0.0, 0.02, 0.0]))
        first = np.array([[0.25, 0.25, 0.2, 0.3]])
        assert tell(watch, [first, first + back / 2 * np.array([[1.0, -1.0, 0.0, 0.0]])]) == [True, again]


def test_plans_that_suddenly_lose_far_more_begin_a_domain_where_shares_moved_somewhat():
    """Plans that suddenly lose far more begin a domain where shares moved somewhat."""
    for size, loss, changed in ((0.026, 0.4, True), (0.026, 0.3, False), (0.02, 0.4, False)):
        watch = ChangeWatch.begin(1, 4)
        tell(watch, wandering([0.0, 0.02] * 4), [0.2, 0.21, 0.19, 0.2] * 2)
        assert tell(watch, wandering([0.0, size])[1:], [loss]) == [False]  # back at 0.02: no step at all
        watch = ChangeWatch.begin(1, 4)
        tell(watch, wandering([0.0, 0.02] * 4 + [0.0]), [0.2, 0.21, 0.19, 0.2] * 2 + [0.2])
        assert tell(watch, wandering([0.0, size])[1:], [loss]) == [changed]


def test_windows_without_load_tell_nothing():
    """Windows without load tell nothing."""
    watch = ChangeWatch.begin(1, 4)
    tell(watch, wandering([0.0, 0.02, 0.0, 0.02]))
    before = list(watch.steps)
    assert not watch.observe(np.zeros((1, 4)), np.zeros(1), np.full((1, 4), 0.25), None)
    assert watch.steps == before


def test_memories_fade_at_their_own_speed():
    """Memories fade at their own speed."""
    memories = Memories.begin((0.5, 0.0), 1, 2)
    for share in ([0.2, 0.8], [0.8, 0.2]):
        memories.observe(np.array([share]), np.array([10.0]))
    np.testing.assert_allclose(memories.forecast(0), [[6.0, 4.0]])  # a third and two thirds
    np.testing.assert_allclose(memories.forecast(1), [[8.0, 2.0]])
    np.testing.assert_allclose(memories.windows, [[1.5**2 / 1.25], [1.0]])


def test_a_forgotten_memory_starts_anew_and_idle_layers_learn_nothing():
    """A forgotten memory starts anew and idle layers learn nothing."""
    memories = Memories.begin((0.5,), 2, 2)
    memories.observe(np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([10.0, 4.0]))
    memories.forget()
    memories.observe(np.array([[0.9, 0.1], [0.0, 0.0]]), np.array([10.0, 0.0]))
    np.testing.assert_allclose(memories.forecast(0), [[9.0, 1.0], [2.0, 2.0]])
    assert memories.windows.tolist() == [[1.0, 0.0]]
