"""Changes of domain: seen where there is one, not in noise."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from equipoise.forecasting.changes import JUMP, ChangeDetector


class Domain:
    """Windows drawn from one distribution a layer, as shares [layers, experts]."""

    def __init__(self, seed, layers=4, experts=12, tokens=600):
        self.rng = np.random.default_rng(seed)
        self.chances = self.rng.dirichlet(np.ones(experts), layers)
        self.tokens = tokens

    def draw(self, windows):
        """Return ``windows`` of them."""
        return [np.stack([self.rng.multinomial(self.tokens, p) / self.tokens for p in self.chances]) for _ in range(windows)]


def _changes(windows, detector=None, tokens=1e15):
    """Return the windows that begin a new domain; by default of so many tokens that chance plays no part."""
    detector = detector or ChangeDetector()
    return [number for number, share in enumerate(windows) if detector.observe(share, np.full(len(share), tokens))]


def _changes_by_definition(windows):
    """From the whole history at every window, in plain Python."""

    def distance(a, b):
        apart = [sum(abs(x - y) for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True) if sum(p) and sum(q)]
        return sum(apart) / len(apart) if apart else 0.0

    windows = [w.tolist() for w in windows]
    found, began = [], 0
    for now in range(1, len(windows)):
        steps = [distance(windows[i], windows[i - 1]) for i in range(1, now)][-64:]
        domain = windows[began:now][-8:]
        mean = [[sum(w[x][e] for w in domain) / len(domain) for e in range(len(domain[0][x]))] for x in range(len(domain[0]))]
        nearest = min(distance(windows[now], windows[now - 1]), distance(windows[now], mean))
        own = steps[len(steps) - (now - 1 - began) :] if now - 1 > began else []
        if len(steps) >= 3 and own and nearest > 1.5 * max(statistics.median(steps), statistics.median(own)):
            found.append(now)
            began = now
    return found


@pytest.mark.parametrize("seed", range(12))
def test_changes_are_those_of_the_definition(seed):
    """Domains of random length, some of them near to one another, more windows than are kept."""
    rng = np.random.default_rng(seed)
    windows, base = [], Domain(seed, layers=2, experts=6, tokens=150)
    for _ in range(8):
        windows += base.draw(int(rng.integers(1, 20)))
        other = rng.dirichlet(np.ones(6), 2)
        base.chances += rng.choice([0.2, 0.5, 1.0]) * (other - base.chances)
    found = _changes(windows)
    assert found == _changes_by_definition(windows)
    assert seed > 3 or found


@pytest.mark.parametrize("seed", range(10))
def test_a_clear_change_is_seen_once_and_at_once(seed):
    """The first window of the new domain, and no other; back again, too."""
    first, second = Domain(seed), Domain(seed + 1000)
    windows = first.draw(10) + second.draw(10) + first.draw(10)
    assert _changes(windows) == [10, 20]


def test_noise_is_no_change():
    """Of 40 x 40 windows drawn from distributions that stay the same, not one in two hundred is taken for a change."""
    alarms = sum(len(_changes(Domain(seed, layers=1 + seed % 3, tokens=100).draw(40))) for seed in range(40))
    assert alarms <= 8


def test_nothing_is_seen_in_the_first_three_steps():
    """Too little is known of what is usual: the fourth step is the first that can be a jump."""
    for start in range(1, 8):
        windows = Domain(1).draw(start) + Domain(2).draw(6)
        assert _changes(windows) == ([start] if start >= 4 else [])


@pytest.mark.parametrize("jump", [JUMP, 3.0])
def test_a_jump_is_so_many_times_the_usual_step(jump):
    """Just above it is one, just below is none."""
    for factor, expected in ((0.99, []), (1.01, [6])):
        place = [0.0, 0.01, 0.0, 0.01, 0.0, 0.01, 0.01 + 0.01 * jump * factor]
        # The mean of the domain lies at 0.005: nearer to the last window than to the jump.
        assert _changes([np.array([[0.5 + x, 0.5 - x]]) for x in place], ChangeDetector(jump)) == expected


def test_the_nearer_of_last_window_and_mean_decides():
    """Far from the last window alone is an outlier's end, far from the mean alone is drift; only both are a change."""
    usual = [0.0, 0.01] * 3  # steps of 0.02 in all, so a jump is one of more than 0.03

    def windows(*more):
        return [np.array([[0.5 + x, 0.5 - x]]) for x in (*usual, *more)]

    assert _changes(windows(-0.008)) == []  # 0.036 from the last, 0.026 from the mean
    assert _changes(windows(-0.012)) == [6]  # 0.044 and 0.034
    assert _changes(windows(*(0.01 * n for n in range(2, 20)))) == []


def test_one_layer_that_jumps_is_noise():
    """A change moves all layers: one of ten is no change, all ten are."""
    before, after = Domain(5, layers=10).draw(12), Domain(6, layers=10).draw(1)[0]
    one = before[-1].copy()
    one[3] = after[3]
    assert _changes([*before[:-1], one]) == []
    assert _changes([*before[:-1], after]) == [11]


def test_a_quiet_domain_makes_for_alarms_that_end():
    """Windows that hardly differ make all that follows look like jumps, until as many others are known."""
    quiet = Domain(3, tokens=10**7).draw(12)
    found = _changes(quiet + Domain(3).draw(60))
    assert found[0] == 12
    assert all(window <= 2 * 12 for window in found)
    assert 12 + 40 in _changes(quiet + Domain(3).draw(40) + Domain(4).draw(5))


def test_what_is_usual_is_forgotten_after_64_steps():
    """However long the quiet lasted, alarms end after about as many windows as half of what is kept."""
    found = _changes(Domain(3, tokens=10**7).draw(150) + Domain(3).draw(100))
    assert found[0] == 150
    assert found[-1] <= 150 + 36


def test_layers_without_load_do_not_count():
    """Neither those that are always idle, nor those idle in one of two windows."""
    windows = Domain(7).draw(10) + Domain(8).draw(5)
    idle = [np.concatenate([w, np.zeros((20, w.shape[1]))]) for w in windows]
    assert _changes(idle) == _changes(windows) == [10]
    first, second = Domain(9, layers=8).draw(14), Domain(10, layers=8).draw(6)
    for number, window in enumerate(first):
        window[number % 8] = 0.0
    assert _changes(first + second) == [14]


def test_windows_without_load_are_no_steps():
    """After a pause of 20 windows the same load is no change."""
    domain = Domain(11)
    pause = [np.zeros((4, 12))] * 20
    assert _changes(domain.draw(10) + pause + domain.draw(30)) == []


def test_a_constant_load_never_changes():
    """Steps of exactly 0 are no jumps over 0; the first step that differs is one."""
    share = Domain(2).draw(1)[0]
    assert _changes([share] * 100) == []
    assert _changes([share] * 10 + [share[:, ::-1].copy()] + [share[:, ::-1].copy()] * 10) == [10]


def test_a_window_of_few_tokens_is_no_change():
    """Steady popularity, 20,000 tokens a layer, every tenth window 60: chance explains how far that lies."""
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(32), 12)
    detector, changes = ChangeDetector(), []
    for number in range(60):
        tokens = 60 if number % 10 == 9 else 20_000
        share = np.stack([rng.multinomial(tokens, p) / tokens for p in chances])
        if detector.observe(share, np.full(12, float(tokens))):
            changes.append(number)
    assert changes == []
    other = np.stack([rng.multinomial(20_000, p) / 20_000 for p in rng.dirichlet(np.ones(32), 12)])
    assert detector.observe(other, np.full(12, 20_000.0))
