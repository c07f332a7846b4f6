"""auto: what it follows and why, with a judge that says what it is told, and with the real one on the load that ships."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise import Cluster, plan
from equipoise.forecasting.auto import CANDIDATES, Auto
from equipoise.forecasting.naming import make_forecaster
from equipoise.planning.backtesting import Backtest
from equipoise.planning.problem import make_problem

NAMES = tuple(candidate.name for candidate in CANDIDATES)
START = NAMES.index("exponential:0.5,0.5")


class Told:
    """Judges by a list of losses, [windows][candidates, layers] or numbers a candidate for all layers, the last for ever."""

    def __init__(self, *losses):
        self.told = [np.array(lost, np.float64) for lost in losses]
        self.planned, self.judged = [], []

    def plan(self, forecasts):
        """Remember what was to be planned for."""
        self.planned.append(forecasts.copy())

    def losses(self, load):
        """Return the next losses."""
        lost = self.told[min(len(self.judged), len(self.told) - 1)]
        self.judged.append(load.copy())
        return np.broadcast_to(lost.reshape(len(CANDIDATES), -1), (len(CANDIDATES), load.shape[0])).copy()


def _losses(followed=0.1, **others):
    """What each candidate loses: 0.1, the one it starts with ``followed``, and others by their place, such as _0=0.2."""
    lost = [0.1] * len(CANDIDATES)
    lost[START] = followed
    for place, value in others.items():
        lost[int(place[1:])] = value
    return lost


def _windows(count, layers=2, experts=6, seed=0, tokens=400):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(experts), layers)
    return [np.stack([rng.multinomial(tokens, p) for p in chances]).astype(np.float64) for _ in range(count)]


def _run(windows, judge):
    """Show windows one by one, with a forecast after each; return memory and forecasts."""
    memory = Auto().begin(judge)
    forecasts = []
    for window in windows:
        memory.observe(window)
        forecasts.append(memory.forecast())
    return memory, forecasts


def _candidates(windows):
    memories = [candidate.begin() for candidate in CANDIDATES]
    for memory in memories:
        for window in windows:
            memory.observe(window)
    return np.stack([memory.forecast() for memory in memories])


def test_it_starts_with_a_short_memory_and_some_room():
    """Before anything is judged: exponential:0.5,0.5 in every layer."""
    (window,) = _windows(1, layers=3)
    memory, (found,) = _run([window], Told(_losses()))
    assert memory.explain().chosen.tolist() == [START] * 3
    assert np.allclose(found, window)
    memory, forecasts = _run(_windows(5), Told(_losses()))
    assert memory.explain().chosen.tolist() == [START] * 2
    assert forecasts[-1].tobytes() == _candidates(_windows(5))[START].tobytes()


@pytest.mark.parametrize("best", range(len(CANDIDATES)))
def test_it_follows_what_loses_least(best):
    """In all layers, once a window has shown it; its forecast is the candidate's, to the bit."""
    lost = [0.1] * len(CANDIDATES)
    lost[best] = 0.05
    judge = Told(lost)
    memory, forecasts = _run(_windows(6), judge)
    assert memory.explain().chosen.tolist() == [best] * 2
    for seen in range(2, 7):
        expected = _candidates(_windows(6)[:seen])
        assert judge.planned[seen - 1].tobytes() == expected.tobytes()
        assert forecasts[seen - 1].tobytes() == expected[best].tobytes()


@pytest.mark.parametrize(("lost", "chosen"), [(0.099, START), (0.0981, START), (0.0979, 0), (0.09, 0)])
def test_only_what_loses_clearly_less_is_followed(lost, chosen):
    """One percent less is noise, ten are not; the line is at two."""
    memory, _ = _run(_windows(10), Told(_losses(_0=lost)))
    assert memory.explain().chosen.tolist() == [chosen] * 2


def test_what_lost_long_ago_is_forgotten():
    """Ten windows for one, then others: what is lost fades by a tenth a window, so the sixth of the others decides."""
    early, late = _losses(_0=0.05), _losses(_0=0.15, _4=0.05)
    judged = [early] * 10 + [late] * 20
    chosen = []
    memory = Auto().begin(Told(*judged))
    for window in _windows(30):
        memory.observe(window)
        memory.forecast()
        chosen.append(int(memory.explain().chosen[0]))
    assert chosen[0] == START
    assert chosen[1:11] == [0] * 10

    def mean_loss(candidate, count):
        weights = [0.9**age for age in range(count)][::-1]
        return sum(w * judged[i][candidate] for i, w in enumerate(weights)) / sum(weights)

    first = next(n for n in range(11, 30) if min(range(5), key=lambda c: mean_loss(c, n)) != 0)
    turned = chosen.index(4)
    assert first <= turned <= first + 1
    assert chosen[turned:] == [4] * (30 - turned)


def test_layers_share_what_they_learn():
    """A layer decides by a quarter by what it lost itself, by three quarters by what all did."""
    lost = np.full((len(CANDIDATES), 4), 0.10)
    lost[0] = [0.06, 0.10, 0.10, 0.16]  # mean 0.105: 0.09375, 0.10375, ... with the layer's own quarter
    memory, _ = _run(_windows(2, layers=4), Told(lost))
    assert memory.explain().chosen.tolist() == [0, START, START, START]
    lost[0] = [0.06, 0.06, 0.06, 0.14]  # mean 0.08: even the layer that lost more has 0.095
    memory, _ = _run(_windows(2, layers=4), Told(lost))
    assert memory.explain().chosen.tolist() == [0, 0, 0, 0]


def _followed_by_definition(losses):
    """Follow [windows, candidates, layers] of losses, in plain Python."""
    windows, candidates, layers = losses.shape
    chosen = [START] * layers
    for seen in range(1, windows + 1):
        weights = [0.9 ** (seen - 1 - i) for i in range(seen)]
        own = [
            [sum(w * losses[i, c, x] for i, w in enumerate(weights)) / sum(weights) for x in range(layers)]
            for c in range(candidates)
        ]
        for x in range(layers):
            blend = [0.75 * sum(own[c]) / layers + 0.25 * own[c][x] for c in range(candidates)]
            best = min(range(candidates), key=lambda c: blend[c])
            if blend[best] < 0.98 * blend[chosen[x]] - 1e-12:
                chosen[x] = best
    return chosen


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.just(5), st.integers(1, 3)), elements=st.floats(0.0, 1.0)))
def test_what_is_followed_is_what_the_rule_says(losses):
    """Losses of any kind, against the rule in plain Python; noise added keeps candidates apart."""
    losses = losses + np.random.default_rng(0).random(losses.shape)
    steady = np.full((losses.shape[2], 4), 25.0)
    judge = Told(*losses)
    memory, _ = _run([steady] * (len(losses) + 1), judge)
    assert memory.explain().chosen.tolist() == _followed_by_definition(losses)
    weights = 0.9 ** np.arange(len(losses))[::-1]
    assert np.allclose(memory.explain().losses, np.tensordot(weights, losses, 1) / weights.sum())


def test_layers_that_follow_different_candidates_get_theirs():
    """The forecast is put together layer by layer."""
    lost = np.full((len(CANDIDATES), 3), 0.2)
    lost[0, 0] = lost[1, 1] = lost[4, 2] = 0.0
    windows = _windows(7, layers=3)
    memory, forecasts = _run(windows, Told(lost))
    chosen = memory.explain().chosen
    assert chosen.tolist() == [0, 1, 4]
    assert forecasts[-1].tobytes() == _candidates(windows)[chosen, np.arange(3)].tobytes()


def test_at_a_change_all_start_anew_and_none_is_to_blame():
    """The window that begins a domain is all that is known of it, and what was lost on it does not count."""
    windows = _windows(10) + _windows(5, seed=99)
    windows[10] *= 3.0
    judge = Told(_losses(_0=0.05))
    memory, forecasts = _run(windows, judge)
    assert memory.explain().changes == (10,)
    assert all(np.allclose(forecast, windows[10]) for forecast in judge.planned[10])
    assert np.allclose(forecasts[10], windows[10])
    assert forecasts[-1].tobytes() == _candidates(windows[10:])[0].tobytes()
    assert [w.tobytes() for w in judge.judged] == [w.tobytes() for w in windows[1:10] + windows[11:]]


def test_every_window_after_a_plan_is_judged_by_it():
    """Also where plans are made once in a while; nothing is judged before the first."""
    judge = Told(_losses())
    memory = Auto().begin(judge)
    windows = _windows(9)
    for number, window in enumerate(windows):
        memory.observe(window)
        if number % 3 == 2:
            memory.forecast()
    assert len(judge.planned) == 3
    assert [w.tobytes() for w in judge.judged] == [w.tobytes() for w in windows[3:]]


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_it_sees_nothing_but_what_it_is_shown(seed, shown):
    """Whatever comes later, forecasts until then are the same, to the bit."""
    windows = _windows(12, seed=seed)
    other = windows[:shown] + _windows(12 - shown, seed=seed + 1)
    losses = np.random.default_rng(seed).random((12, len(CANDIDATES), 2))
    first, second = (_run(seen, Told(*losses))[1] for seen in (windows, other))
    assert [f.tobytes() for f in first[:shown]] == [f.tobytes() for f in second[:shown]]


def test_it_explains_itself():
    """Names, what is followed in how many layers, what was lost, and changes, in one line."""
    memory, _ = _run(_windows(1), Told(_losses()))
    choice = memory.explain()
    assert choice.names == NAMES
    assert np.isnan(choice.losses).all()
    assert str(choice) == "follows exponential:0.5,0.5 in 2 of 2 layers (nothing judged yet)"
    lost = np.full((len(CANDIDATES), 3), 0.2)
    lost[0, :2] = lost[4, 2] = 0.0
    lost[4, :2] = 0.1
    memory, _ = _run(_windows(8, layers=3) + _windows(6, layers=3, seed=5), Told(lost))
    choice = memory.explain()
    assert (choice.windows, choice.changes) == (14, (8,))
    assert choice.losses == pytest.approx(lost)
    text = str(choice)
    assert text.startswith("follows last in 2 of 3 layers, exponential:0.1,0.5 in 1 of 3 layers (last lost 6.7 %; exp")
    assert "the domain changed once at window 8" in text
    assert "\n" not in text
    choice.chosen[:] = 3
    assert memory.explain().chosen.tolist() == [0, 0, 4]


def test_it_explains_that_it_has_seen_nothing():
    """Before the first forecast nothing is followed."""
    assert "nothing judged yet" in str(Auto().begin(Told(_losses())).explain())


CLUSTERS = [
    (Cluster(4, 3), {}),
    (Cluster(4, [3, 4, 3, 2], rank_speeds=[1.0, 2.0, 1.0, 0.5]), {}),
    (Cluster(4, 4, alive=[True, True, False, True]), {}),
    (Cluster(4, 3, 2), {"num_groups": 4, "locality": "strict"}),
]


@pytest.mark.parametrize(("cluster", "rule"), CLUSTERS, ids=["even", "uneven", "down", "strict"])
def test_the_judge_says_what_plans_for_forecasts_lose(cluster, rule):
    """Largest rank time over the ideal, less 1, of the plan for each forecast; nan without load; the last plans."""
    rng = np.random.default_rng(4)
    forecasts = rng.integers(0, 100, (3, 2, 8)).astype(np.float64)
    load = rng.integers(0, 100, (2, 8)).astype(np.float64)
    load[1] = 0.0
    judge = Backtest(make_problem(load, cluster, **rule))
    judge.plan(rng.random((2, 2, 8)))
    judge.plan(forecasts)
    for lost, forecast in zip(judge.losses(load), forecasts, strict=True):
        largest, ideal = plan(forecast, cluster, effort="fast", **rule).placement.layer_times(load)
        assert lost[0] == pytest.approx(largest[0] / ideal[0] - 1.0, abs=1e-12)
        assert np.isnan(lost[1])


OTHERS = ("last", "exponential:0.7", "exponential:0.5", "exponential:0.3", "mean:4", "mean:8", "quantile:8,0.75")


@pytest.mark.compiled
def test_on_the_load_that_ships_it_is_about_as_good_as_the_best(example):
    """Next-window balance on 8 ranks of 5 slots: within half a percent of the best of seven, which only hindsight knows."""
    cluster = Cluster(8, 5)

    def balance(name):
        memory = make_forecaster(name).begin(Backtest(make_problem(example.load[0], cluster)))
        placement, met = None, []
        for load in example.load.astype(np.float64):
            if placement is not None:
                met.append(placement.balancedness(load))
            memory.observe(load)
            placement = plan(memory.forecast(), cluster, effort="fast").placement
        return np.mean(met)

    assert balance("auto") >= max(balance(name) for name in OTHERS) - 0.005


def test_of_many_layers_a_share_is_judged_in_turn():
    """Of 40 layers every third is planned for and judged, another third each time; all of up to 16 are."""
    windows = _windows(7, layers=40)
    judge = Told(_losses())
    _run(windows, judge)
    for number, planned in enumerate(judge.planned):
        expected = _candidates(windows[: number + 1])[:, number % 3 :: 3]
        assert planned.tobytes() == expected.tobytes()
    for number, judged in enumerate(judge.judged):
        assert judged.tobytes() == windows[number + 1][number % 3 :: 3].tobytes()
    judge = Told(_losses())
    _run(_windows(2, layers=16), judge)
    assert judge.planned[0].shape[1] == 16


def test_layers_not_judged_yet_go_by_the_others():
    """After one judged window, layers out of the sample follow what all layers say; theirs is shown as that mean."""
    lost = _losses(_4=0.01)
    memory, _ = _run(_windows(2, layers=40), Told(lost))
    choice = memory.explain()
    assert choice.chosen.tolist() == [4] * 40
    assert np.allclose(choice.losses, np.array(lost)[:, np.newaxis])


def test_layers_without_load_are_judged_by_nothing():
    """Windows in which a layer is idle change nothing of what it has lost, nor of what all have."""
    lost = np.array([_losses(_4=0.01)] * 2).T
    idle = lost.copy()
    idle[:, 1] = np.nan
    memory, _ = _run(_windows(6), Told(lost, idle, np.full_like(lost, np.nan)))
    assert np.allclose(memory.explain().losses, lost)
