"""simulate(): only the past is seen, what follows is scored, and one bad policy stops no other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import INTERPRETED
from equipoise import ABSENT, Cluster, LoadTrace, Placement, plan
from equipoise.errors import ArgumentError
from equipoise.simulating.naming import make_policy
from equipoise.simulating.policies import FixedPolicy, PlannedPolicy
from equipoise.simulating.replaying import simulate
from equipoise.simulating.results import PolicyResult, Simulation, paired_difference
from equipoise.streams import LoadStream

CLUSTER = Cluster(num_ranks=4, slots_per_rank=3)


def windows_of(seed, count=6, layers=2, experts=8):
    """Return random windows [count, layers, experts]."""
    return np.random.default_rng(seed).integers(0, 100, (count, layers, experts)).astype(np.float64)


class Spy:
    """A policy that notes what it is shown, and places experts in id order."""

    name = "spy"

    def __init__(self):
        self.events = []

    def begin(self, cluster, num_layers, num_experts):
        self.placement = Placement(np.tile(np.arange(cluster.num_slots) % num_experts, (num_layers, 1)), cluster, num_experts)
        return self

    def observe(self, load):
        self.events.append(("sees", load))

    def decide(self):
        self.events.append(("decides", None))
        return self.placement


def test_a_policy_decides_before_it_sees():
    """Before window t is scored, a policy has been shown windows 0 to t - 1, and the source has given no more than t."""
    windows, spy = windows_of(0), Spy()
    drawn = []

    def source():
        for load in windows:
            drawn.append(len([event for event in spy.events if event[0] == "sees"]))
            yield load

    simulate(LoadStream(lambda: iter(source()), 2, 8, 6), CLUSTER, [spy])
    kinds = [kind for kind, _ in spy.events]
    assert kinds == ["sees"] + ["decides", "sees"] * 5
    assert [load.tolist() for kind, load in spy.events if kind == "sees"] == windows.tolist()
    assert drawn == [0, 1, 2, 3, 4, 5]


def test_what_a_policy_sees_leads_to_nothing_else():
    """Each window is an array of its own: no base that holds the windows to come, from a trace or a stream."""

    class Curious(Spy):
        def observe(self, load):
            assert load.base is None
            super().observe(load)

    for trace in (LoadTrace(windows_of(0)), LoadStream(windows_of(0)), list(windows_of(0))):
        found = simulate(trace, CLUSTER, [Curious()])
        assert found.policies[0].failure == ""


def test_a_policy_cannot_write_what_it_sees():
    """Windows are read-only: a policy cannot change what it is scored on."""

    class Vandal(Spy):
        def observe(self, load):
            load[:] = 0.0

    found = simulate(windows_of(0), CLUSTER, [Vandal(), "last"])
    assert "read-only" in found.policies[0].failure
    assert found.policies[1].failure == ""


@settings(max_examples=6 if INTERPRETED else 20)
@given(
    seed=st.integers(0, 2**32 - 1),
    change=st.integers(2, 5),
    forecast=st.sampled_from(["last,every=2", "mean:3,trigger=gain:0.1", "auto", "robust:3"]),
)
def test_the_future_changes_nothing(seed, change, forecast):
    """Windows from ``change`` on have no part in placements used up to it: balance before is the same, byte for byte."""
    windows = windows_of(seed)
    other = windows.copy()
    other[change:] = windows_of(seed + 1)[change:]
    one, two = (simulate(w, CLUSTER, [forecast], dispatch="hash").policies[0] for w in (windows, other))
    assert one.balancedness[: change - 1].tobytes() == two.balancedness[: change - 1].tobytes()
    assert one.moves[:change].tobytes() == two.moves[:change].tobytes()
    assert one.is_renewed[:change].tobytes() == two.is_renewed[:change].tobytes()


@settings(max_examples=6 if INTERPRETED else 20)
@given(seed=st.integers(0, 2**32 - 1), effort=st.sampled_from(["fast", "default"]))
def test_a_perfect_forecast_gives_the_in_sample_figure(seed, effort):
    """A forecaster that knows the next window is scored as plan() on that window."""
    windows = windows_of(seed) + 1.0

    class Oracle:
        name = "oracle"

        def begin(self, judge):
            self.next = iter(windows[1:])
            return self

        def observe(self, load):
            pass

        def forecast(self):
            return next(self.next)

    found = simulate(windows, CLUSTER, [PlannedPolicy(forecast=Oracle(), effort=effort)]).policies[0]
    expected = [plan(load, CLUSTER, effort=effort).balancedness for load in windows[1:]]
    assert np.allclose(found.balancedness, expected, rtol=1e-12)


def test_figures_by_hand():
    """Two ranks, one layer: balance, time with the slowest rank, ideal time, moves and stall, worked by hand."""
    from equipoise.costs import RankCost
    from equipoise.simulating.timing import TimeModel

    windows = [[[8, 4, 2, 2]], [[8, 4, 2, 2]], [[2, 2, 8, 4]], [[2, 2, 8, 4]]]
    model = TimeModel(RankCost(per_rank=1.0, per_token=2.0, per_active=0.5), expert_bytes=10.0, link_bandwidth=5.0)
    found = simulate(windows, Cluster(2, 2), ["last"], time_model=model).policies[0]
    assert found.balancedness.tolist() == [0.8, 0.8, 0.8]
    assert found.time.tolist() == [1 + 2 * 10 + 0.5 * 2] * 3
    assert found.ideal_time.tolist() == [1 + (2 * 16 + 0.5 * 4) / 2] * 3
    assert found.moves.tolist() == [0, 0, 4]
    assert found.stall.tolist() == [0.0, 0.0, 2 * 10.0 / 5.0]
    assert found.bytes_moved.tolist() == [0.0, 0.0, 40.0]
    assert found.largest_by_layer.tolist() == [30.0]
    assert found.ideal_by_layer.tolist() == [24.0]


def test_intervals_and_triggers():
    """A plan comes after the first window, then at its interval, and only where its trigger lets it."""
    windows = windows_of(3, count=9)
    found = simulate(windows, CLUSTER, ["last,every=3", "last,every=once", "last,trigger=below:0", "last,trigger=gain:1"])
    renewed = [result.is_renewed.tolist() for result in found.policies]
    assert renewed[0] == [True, False, False] * 2 + [True, False]
    assert renewed[1] == renewed[2] == renewed[3] == [True] + [False] * 7
    assert found.policies[1].moves.sum() == 0


def test_a_fixed_placement_is_scored_as_it_is():
    """An engine's own placement, experts twice on a rank included, gets Placement.balancedness on each window."""
    windows = windows_of(4)
    placement = Placement([[0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]] * 2, CLUSTER, 8)
    found = simulate(windows, CLUSTER, [placement]).policies[0]
    assert np.allclose(found.balancedness, [placement.balancedness(load) for load in windows[1:]])
    assert found.duplicates == 2
    assert found.is_renewed.tolist() == [True, False, False, False, False]


def test_a_fixed_placement_is_scored_on_the_clusters_ranks():
    """Speeds, nodes and who is up are the simulation's, whatever the placement was made for."""
    windows = windows_of(4)
    slots = np.tile(np.arange(12) % 8, (2, 1))
    cluster = Cluster(4, 3, 2, rank_speeds=[3, 1, 1, 1])
    ours, theirs = (simulate(windows, cluster, [Placement(slots, c, 8)], dispatch="nearest") for c in (cluster, CLUSTER))
    assert ours.to_file() == theirs.to_file()
    assert np.isclose(ours.policies[0].ideal_time[0], windows[1].sum() / 6)
    down = Cluster(4, 3, alive=[True, True, True, False])
    found = simulate(windows, down, [Placement([[0, 1, 2, 3, 4, 5, 6, 7, 0, -1, -1, -1]] * 2, CLUSTER, 8)])
    assert np.isclose(found.policies[0].ideal_time[0], windows[1].sum() / 3)


def test_windows_without_load_count_in_no_mean():
    """A window of nothing has no balance; the others are averaged, and how many were left out is said."""
    windows = windows_of(5)
    windows[3] = 0.0
    found = simulate(windows, CLUSTER, ["last", "auto"]).policies[0]
    assert np.isnan(found.balancedness).tolist() == [False, False, True, False, False]
    assert found.idle_windows == 1
    assert np.isclose(found.mean_balancedness, np.nanmean(found.balancedness))
    assert found.time[2] == 0.0


class Broken(Spy):
    """Places in id order, and something else from the third decision on."""

    def __init__(self, label, make):
        super().__init__()
        self.name, self.make, self.decisions = label, make, 0

    def decide(self):
        self.decisions += 1
        return self.placement if self.decisions < 3 else self.make(self.placement)


def _without(placement, expert):
    slots = placement.expert_of_slot.copy()
    slots[1][slots[1] == expert] = ABSENT
    return Placement(slots, placement.cluster, placement.num_experts)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: _without(p, 5), "layer 1: expert 5 has no slot: every expert needs a slot"),
        (lambda p: p.expert_of_slot, "the placement is a ndarray: it must be a Placement"),
        (lambda p: Placement(p.expert_of_slot[:1], p.cluster, 8), "the placement has 1 layers of 8 experts: the trace has 2"),
        (lambda p: Placement(p.expert_of_slot, Cluster(3, 4), 8), "the placement has 3 ranks: the cluster has 4"),
        (lambda p: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_an_invalid_placement_stops_its_policy_alone(make, said):
    """The run names policy, window, layer and rule, keeps what was scored before, and goes on with the others."""
    found = simulate(windows_of(6), CLUSTER, [Broken("mine", make), "last"])
    assert found.policies[0].failure.startswith(f"policy mine, window 3: {said}")
    assert found.policies[0].balancedness.size == 2
    assert found.policies[1].balancedness.size == 5


def test_a_rank_that_is_down_must_stay_empty():
    """A policy that plans for all ranks is stopped where one is down; ours leaves it empty."""
    down = Cluster(4, 3, alive=[True, True, True, False])
    found = simulate(windows_of(7), down, [Broken("mine", lambda p: p), "last"])
    assert "a rank that is down holds experts" in found.policies[0].failure
    assert found.policies[1].failure == ""


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"trace": windows_of(0, count=1)}, "the trace has 1 window: "),
        ({"trace": []}, "the trace has 0 windows: "),
        ({"policies": []}, "no policies: "),
        ({"policies": ["last", "last"]}, "two policies are called last: "),
        ({"policies": "last"}, "policies is 'last': "),
        ({"policies": [5]}, "a policy is a int: "),
        ({"policies": ["last,locality=soft"], "cluster": Cluster(4, 3, 2)}, "policy last,locality=soft: "),
        ({"policies": ["last,home_share=nan"]}, "home_share is nan"),
        ({"policies": ["last,seed=-1"]}, "seed is -1"),
        ({"trace": 5}, "the trace is a int: "),
        ({"policies": ["last,every=5"]}, "policy last,every=5 plans every 5 windows, the trace has 5 to score: "),
        ({"policies": ["lst"]}, "forecast is 'lst': "),
        ({"policies": ["last,evry=3"]}, "policy 'last,evry=3' has the setting 'evry=3': "),
        ({"policies": ["last,every=x"]}, "policy 'last,every=x' has every=x: "),
        ({"policies": ["last,slots=7"]}, "policy last,slots=7: 7 slots for 8 experts: "),
        ({"policies": ["last,planner=lptt"]}, "planner is 'lptt': "),
        (
            {"policies": [Placement([[0, 1, 0, 1]], Cluster(4, 1), 2)]},
            "policy fixed: the placement has 1 layers of 2 experts: ",
        ),
        ({"dispatch": "magic"}, "dispatch is 'magic': "),
        ({"time_model": "h100"}, "time model is 'h100': "),
        ({"batches_per_window": 0}, "batches_per_window is 0: "),
        ({"trace": [np.ones((2, 8)), np.ones((2, 9))]}, "window 1 has shape [2, 9]: "),
        ({"trace": [np.ones((2, 8)), -np.ones((2, 8))]}, "window 1: load is -1.0 at step 0, layer 0, expert 0: "),
    ],
)
def test_bad_input_is_named(arguments, found):
    """One line: what was found, the rule, the next step."""
    with pytest.raises(ArgumentError) as error:
        simulate(**{"trace": windows_of(0), "cluster": CLUSTER, "policies": ["last"], **arguments})
    assert str(error.value).startswith(found)
    assert "\n" not in str(error.value)


def test_sources_are_alike():
    """A trace, a stream, a list and a generator of the same windows give the same simulation, byte for byte."""
    windows = windows_of(8)
    sources = [LoadTrace(windows), LoadStream(lambda: iter(windows)), list(windows), (load for load in windows)]
    found = [simulate(source, CLUSTER, ["auto", "last,every=2"]).to_file().model_dump_json() for source in sources]
    assert len(set(found)) == 1


def test_a_simulation_file_gives_back_what_was_found(tmp_path):
    """All but measured times; nan included; the same simulation writes the same bytes."""
    windows = windows_of(9)
    windows[2] = 0.0
    found = simulate(windows, CLUSTER, ["auto", "last,every=2"])
    found.write(tmp_path / "a.json")
    again = Simulation.read(tmp_path / "a.json")
    again.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert again.policies[0].balancedness.tobytes() == found.policies[0].balancedness.tobytes()
    assert again.policies[1].is_renewed.tolist() == found.policies[1].is_renewed.tolist()
    assert np.isnan(again.policies[0].milliseconds)
    with pytest.raises(ArgumentError, match="no policy is called x: there are auto, last,every=2"):
        again.policy("x")


def test_policies_by_text():
    """A policy's name makes the same policy again; placements keep theirs."""
    for text in ("last", "auto,effort=fast,every=4", "exponential:0.5,0.5,slots=320", "mean:8,trigger=below:0.9,every=once"):
        assert make_policy(make_policy(text).name) == make_policy(text)
    assert make_policy("every=2", locality="strict", num_groups=8).name == "last,every=2,groups=8,locality=strict"
    assert FixedPolicy(Placement([[0]], Cluster(1, 1), 1), "theirs").name == "theirs"


def _result(balancedness):
    """Return a result with these balances and nothing else."""
    none = np.zeros(0)
    return PolicyResult(
        "made", 0, np.asarray(balancedness), *[none] * 4, none.astype(np.int64), none, none, none > 0, none, none
    )


@pytest.mark.parametrize("windows", [40, 3_000])
def test_paired_difference(windows):
    """A constant gain is found exactly; the interval of noise holds 0, that of a gain does not; both ways of making it do."""
    random = np.random.default_rng(windows)
    level = random.random(windows)
    same = paired_difference(_result(level + 0.125), _result(level))
    assert np.allclose((same.mean, same.low, same.high), 0.125)
    noise = random.normal(0.0, 0.1, windows)
    nothing = paired_difference(_result(level + noise - noise.mean()), _result(level))
    assert nothing.low < 0.0 < nothing.high
    assert np.isclose(nothing.high - nothing.low, 2 * 1.96 * noise.std(ddof=1) / np.sqrt(windows), rtol=0.1)
    gain = paired_difference(_result(level + noise + 0.1), _result(level))
    assert gain.low > 0.0
    assert gain == paired_difference(_result(level + noise + 0.1), _result(level))
    nan = paired_difference(_result([0.5]), _result([0.25]))
    assert nan.mean == 0.25
    assert np.isnan(nan.low)
