"""The controller: what it takes in, hands out, refuses, and says."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from equipoise import Cluster, Constraints, MoveBudget, Placement, dispatch, plan
from equipoise.controlling.controller import Controller
from equipoise.controlling.judging import owed_layers
from equipoise.controlling.settings import ControlSettings
from equipoise.controlling.telemetry import Telemetry
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.links import Links
from equipoise.migrating.recovering import recover
from equipoise.migrating.scheduling import schedule_moves

CLUSTER = Cluster(num_ranks=2, slots_per_rank=2)
SKEWED = [[900, 800, 100, 200]]
LEVEL = Placement([[0, 2, 1, 3]], CLUSTER, 4)
UNEVEN = Placement([[0, 1, 2, 3]], CLUSTER, 4)


def made(placement=UNEVEN, cluster=CLUSTER, telemetry=None, **settings):
    """Return a controller."""
    return Controller(
        cluster, placement.num_layers, 4, placement=placement, settings=ControlSettings(**settings), telemetry=telemetry
    )


def test_what_pays_is_handed_out_once_and_then_in_use():
    """What pays is handed out once and then in use."""
    controller = made()
    controller.observe(SKEWED, 7)
    decision = controller.decide()
    assert (decision.code, decision.step, decision.moves, decision.layers) == ("gain", 7, 2, (0,))
    assert decision.balance == pytest.approx(1000 / 1700)
    assert decision.plan.placement.rank_load(SKEWED).tolist() == [[1000.0, 1000.0]]
    assert decision.schedule.moves.tolist() == decision.plan.moves.tolist() == [2]
    assert controller.decide().code == "waiting"
    assert np.array_equal(controller.pending.expert_of_slot, decision.plan.placement.expert_of_slot)
    controller.applied(decision.plan)
    assert controller.pending is None
    assert np.array_equal(controller.placement.expert_of_slot, decision.plan.placement.expert_of_slot)
    assert controller.decide().code == "steady"


def test_gain_is_weighed_in_seconds_of_the_interval_against_seconds_of_moves():
    """0.7 of 1000 tokens over the ideal, less what chance will take: two deviations of 1 / sqrt(1000), times sqrt(2)."""
    links = Links(bandwidth=1e6, node_bandwidth=1e6, latency=1e-9, node_latency=1e-9)
    gained = (0.7 - 2 / np.sqrt(1000) * np.sqrt(2)) * 1000 * 1e-3  # seconds a window
    for windows, code in ((1.0 / gained * 0.99, "cost"), (1.0 / gained * 1.01, "gain")):
        controller = made(windows_per_interval=windows, seconds_per_token=1e-3, expert_bytes=1e6, links=links)
        controller.observe(SKEWED, 0)
        decision = controller.decide()
        assert decision.code == code
        assert decision.gain_seconds == pytest.approx(gained * windows)
        assert decision.cost_seconds == pytest.approx(1.0)  # one expert each way, at once
    hidden = made(windows_per_interval=1e-9, stall=0.0)
    hidden.observe(SKEWED, 0)
    assert hidden.decide().is_move


def test_a_level_placement_is_kept_slot_for_slot():
    """A level placement is kept slot for slot."""
    controller = made(LEVEL)
    controller.observe(SKEWED, 0)
    decision = controller.decide()
    assert (decision.code, decision.plan, decision.schedule, decision.moves) == ("steady", None, None, 0)


def test_nothing_is_decided_before_load():
    """Nothing is decided before load."""
    controller = made()
    assert controller.decide().code == "no-load"
    controller.observe([[0, 0, 0, 0]], 0)
    decision = controller.decide()
    assert decision.code == "no-load"
    assert decision.as_dict()["predicted"] is None


def test_only_layers_that_gain_are_moved():
    """Only layers that gain are moved."""
    both = Placement([[0, 2, 1, 3], [0, 1, 2, 3]], CLUSTER, 4)
    controller = made(both)
    controller.observe(SKEWED * 2, 0)
    decision = controller.decide()
    assert decision.layers == (1,)
    assert decision.plan.placement.expert_of_slot[0].tolist() == [0, 2, 1, 3]
    assert decision.plan.moves.tolist() == [0, 2]


@pytest.mark.parametrize(("total", "layers"), [(4, (0, 1)), (2, (1,)), (0, ())])
def test_a_total_budget_goes_to_the_layer_that_saves_most(total, layers):
    """A total budget goes to the layer that saves most."""
    controller = made(Placement([[0, 1, 2, 3]] * 2, CLUSTER, 4), budget=MoveBudget(total=total))
    controller.observe([*SKEWED, [9000, 8000, 1000, 2000]], 0)
    decision = controller.decide()
    assert decision.layers == layers
    assert decision.moves <= total
    assert decision.code == ("gain" if layers else "budget")


def test_bytes_bind_as_moves_do():
    """Bytes bind as moves do."""
    budget = MoveBudget(bytes=2.5e6, expert_bytes=1e6)
    controller = made(Placement([[0, 1, 2, 3]] * 2, CLUSTER, 4), budget=budget, expert_bytes=1e6)
    controller.observe(SKEWED * 2, 0)
    assert controller.decide().moves == 2


def test_a_plan_that_never_comes_into_use_is_said_and_counted():
    """A plan that never comes into use is said and counted."""
    log = io.StringIO()
    telemetry = Telemetry(log=log)
    controller = made(overdue_after=2, telemetry=telemetry)
    controller.observe(SKEWED, 0)
    codes = [controller.decide().code for _ in range(5)]
    assert codes == ["gain", "waiting", "waiting", "unsettled", "unsettled"]  # what was done of it is not known
    assert controller.overdue == 1
    assert controller.pending is not None
    said = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["code"] for line in said] == codes
    assert [line["overdue"] for line in said] == [0, 0, 0, 1, 0]
    assert said[3]["warnings"] == ["the plan handed out 3 decisions ago is overdue"]
    assert "call applied()" in said[3]["reason"]
    assert telemetry.registry.get_sample_value("equipoise_overdue_plans_total") == 1.0
    controller.dropped()
    assert controller.decide().code == "gain"


def test_a_stale_placement_is_said():
    """A stale placement is said."""
    controller = made(stale_after=2, windows_per_interval=1e-9)
    for step in range(3):
        controller.observe(SKEWED, step)
    decision = controller.decide()
    assert decision.code == "cost"
    assert "in use for 3 windows and balance is 0.588" in decision.reason


def test_a_dropped_plan_leaves_what_is_in_use():
    """A dropped plan leaves what is in use."""
    controller = made()
    controller.observe(SKEWED, 0)
    controller.decide()
    controller.dropped()
    assert controller.decide().code == "gain"
    assert np.array_equal(controller.placement.expert_of_slot, UNEVEN.expert_of_slot)


def test_a_rank_that_fails_takes_its_replicas_and_lost_experts_are_recovered():
    """A rank that fails takes its replicas and lost experts are recovered."""
    cluster = Cluster(num_ranks=3, slots_per_rank=2)
    controller = made(Placement([[0, 1, 2, 3, 0, 1]], cluster, 4), cluster)
    controller.observe(SKEWED, 0)
    controller.decide()
    controller.failed(1)
    assert controller.placement.expert_of_slot.tolist() == [[0, 1, -1, -1, 0, 1]]
    decision = controller.decide()
    assert decision.code == "recover"
    decision.plan.placement.validate()
    assert decision.schedule.lost_experts == ((0, 2), (0, 3))
    assert not decision.plan.placement.cluster.alive[1]
    controller.applied(decision.plan)
    controller.returned(1)
    assert controller.placement.cluster.alive[1]
    decision = controller.decide()
    assert decision.is_move
    decision.plan.placement.validate()


def test_too_few_slots_are_said():
    """Too few slots are said."""
    controller = made()
    controller.observe(SKEWED, 0)
    controller.failed(0)
    decision = controller.decide()
    assert decision.code == "no-room"
    assert "(2 for 4)" in decision.reason


def test_a_placement_of_its_own_may_come_into_use():
    """A placement of its own may come into use."""
    controller = made()
    controller.observe(SKEWED, 0)
    controller.applied(LEVEL)
    assert controller.decide().code == "steady"


def test_a_change_of_domain_opens_the_gate():
    """A change of domain opens the gate."""
    rng = np.random.default_rng(5)
    cluster = Cluster(num_ranks=4, slots_per_rank=5)
    popularity = rng.dirichlet(np.ones(16), (2, 8))
    windows = [np.array([rng.multinomial(20_000, row) for row in popularity[int(step >= 6)]]) for step in range(8)]
    controller = Controller(cluster, 8, 16, placement=plan(windows[0], cluster).placement)
    codes = []
    for step, window in enumerate(windows):
        controller.observe(window, step)
        decision = controller.decide()
        codes.append(decision.code)
        if decision.is_move:
            controller.applied(decision.plan)
    assert codes[6] == "change"
    assert "change" not in codes[:6]
    assert controller.placement.balancedness(windows[7]) > 0.85


@pytest.mark.parametrize(
    ("load", "step", "found"),
    [
        ([[1, 2, 3]], 5, r"shape \[1, 3\]"),
        ([1, 2, 3, 4], 5, r"shape \[4\]"),
        ([[1, 2, 3, -4]], 5, "layer 0, expert 3 has load -4"),
        ([[1, 2, np.nan, 4]], 5, "layer 0, expert 2 has load nan"),
        ([["a", "b", "c", "d"]], 5, "no array of numbers"),
        (SKEWED, 4, "step is 4, after 4"),
        (SKEWED, 3, "step is 3, after 4"),
        (SKEWED, -1, "step is -1"),
        (SKEWED, 5.5, "step is 5.5"),
    ],
)
def test_bad_windows_are_named_and_change_nothing(tmp_path, load, step, found):
    """Bad windows are named and change nothing."""
    controller = made()
    controller.observe(SKEWED, 4)
    controller.save(tmp_path / "before")
    with pytest.raises(ArgumentError, match=found):
        controller.observe(load, step)
    controller.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (lambda c: c.failed(2), "rank is 2"),
        (lambda c: c.failed(-1), "rank is -1"),
        (lambda c: c.returned(0), "rank 0 is up"),
        (lambda c: (c.failed(0), c.failed(0)), "rank 0 is down"),
        (lambda c: (c.failed(0), c.failed(1)), "no rank that is up"),
        (lambda c: c.dropped(), "no plan is waited for"),
        (lambda c: c.applied([[0, 1, 2, 3]]), "placement is a list"),
        (lambda c: c.applied(Placement([[0, 1, 2, 3]], CLUSTER, 5)), "1 layers of 5 experts"),
        (lambda c: c.applied(Placement([[0, 1, 2, 3]], Cluster(4, 1), 4)), "4 ranks with 4 slots"),
        (lambda c: (c.failed(0), c.applied(UNEVEN)), "layer 0, slot 0 holds an expert"),
    ],
)
def test_bad_news_is_named(act, found):
    """Bad news is named."""
    controller = made()
    controller.observe(SKEWED, 0)
    with pytest.raises(ArgumentError, match=found):
        act(controller)


def test_the_last_rank_up_cannot_fail_and_nothing_is_changed():
    """The last rank up cannot fail and nothing is changed."""
    controller = made()
    controller.failed(0)
    with pytest.raises(ArgumentError):
        controller.failed(1)
    assert controller.placement.expert_of_slot.tolist() == [[-1, -1, 2, 3]]


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("windows_per_interval", 0, "windows_per_interval is 0"),
        ("seconds_per_token", -1.0, "seconds_per_token is -1.0"),
        ("expert_bytes", np.inf, "expert_bytes is inf"),
        ("links", 50e9, "links is a float"),
        ("budget", 8, "budget is a int"),
        ("stall", 1.5, "stall is 1.5"),
        ("least_gain", -0.1, "least_gain is -0.1"),
        ("caution", "high", "caution is 'high'"),
        ("memories", (), r"memories is \(\)"),
        ("memories", (0.4, 0.8), "memories is"),
        ("memories", (1.0,), "memories is"),
        ("overdue_after", 0, "overdue_after is 0"),
        ("staging", 0, "staging is 0"),
        ("effort", "huge", "effort is 'huge'"),
        ("mode", "simplex", "mode is 'simplex'"),
        ("num_groups", 0, "num_groups is 0"),
        ("locality", "soft", "locality is 'soft'"),
        ("dispatch", "hash", "dispatch is 'hash'"),
        ("constraints", 2, "constraints is a int"),
        ("constraints", Constraints(home_share=0.9), "home_share 0.9"),
        ("constraints", Constraints(min_replicas=2, hottest=0.5), "hottest 0.5"),
        ("budget", MoveBudget(bytes=1e9, expert_bytes=2e6), "expert_bytes is .*, that of the budget 2e.06"),
    ],
)
def test_bad_settings_are_named(setting, value, found):
    """Bad settings are named."""
    with pytest.raises(ArgumentError, match=found):
        ControlSettings(**{setting: value})


def test_metrics_tell_what_was_seen_and_decided():
    """Metrics tell what was seen and decided."""
    telemetry = Telemetry()
    controller = made(telemetry=telemetry, expert_bytes=1e6)
    controller.observe(SKEWED, 0)
    decision = controller.decide()
    controller.applied(decision.plan)
    controller.observe(SKEWED, 1)
    controller.decide()

    def value(name, **labels):
        return telemetry.registry.get_sample_value(f"equipoise_{name}", labels)

    assert value("balance") == value("balance_achieved") == 1.0
    assert value("moves_total") == 2.0
    assert value("move_bytes_total") == 2e6
    assert value("placement_age_windows") == 1.0
    assert value("decisions_total", reason="gain") == value("decisions_total", reason="steady") == 1.0
    assert value("decisions_total", reason="change") == 0.0
    assert value("expected_gain_seconds") == decision.gain_seconds
    assert value("expected_cost_seconds") == decision.cost_seconds
    assert 0.9 < value("balance_predicted") <= 1.0


def test_a_failure_leaves_nothing_to_be_judged():
    """Candidates may not use a rank that is down."""
    controller = made()
    controller.observe(SKEWED, 0)
    controller.decide()
    controller.failed(1)
    assert controller.pending.expert_of_slot[0, 2:].tolist() == [-1, -1]
    controller.observe(SKEWED, 1)
    assert not controller._evidence.learnt.any()


def test_experts_that_are_lost_go_before_the_budget_of_a_layer_and_no_other_moves_do():
    """Layer 0 lost experts 2 and 3; layer 1 would gain by two moves, one more than allowed."""
    cluster = Cluster(num_ranks=3, slots_per_rank=3)
    rows = [[0, 1, -1, 2, 3, -1, 0, 1, -1], [0, 1, -1, 0, 1, -1, 2, 3, -1]]
    controller = made(Placement(rows, cluster, 4), cluster, budget=MoveBudget(per_layer=1))
    controller.observe([[10, 10, 10, 10], [900, 900, 10, 10]], 0)
    controller.failed(1)
    decision = controller.decide()
    assert decision.code == "recover"
    assert decision.plan.moves[0] >= 2
    assert decision.plan.moves[1] <= 1


def test_a_plan_put_to_use_is_remembered_with_what_it_was_made_from():
    """One of its own is not known to be made for this domain."""
    controller = made()
    controller.observe(SKEWED, 0)
    decision = controller.decide()
    controller.applied(decision.plan)
    assert controller._standing.known.tolist() == [1.0]
    controller.applied(UNEVEN)
    assert controller._standing.known.tolist() == [0.0]


def test_the_first_window_does_not_tell_of_the_placement_at_the_start():
    """It may have been made for that window."""
    controller = made(LEVEL)
    controller.observe(SKEWED, 0)
    controller.observe([[900, 900, 100, 100]], 1)
    assert controller._evidence.lost.tolist() == [0.0]
    controller = made(LEVEL)
    controller.observe(SKEWED, 0)
    controller.observe([[1000, 0, 500, 500]], 1)
    np.testing.assert_allclose(controller._evidence.lost, [0.5])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("go_on", [False, True])
def test_a_schedule_cut_short_is_gone_on_from_what_is_held(tmp_path, seed, go_on):
    """Layer 0 is done, layer 1 is not, rank 1 dies: whoever carries it out says what is left, and the next plan fits that."""
    rng = np.random.default_rng(seed)
    cluster = Cluster(num_ranks=4, slots_per_rank=5)
    start = plan(rng.integers(1, 100, (2, 12)), cluster).placement
    controller = Controller(cluster, 2, 12, placement=start)
    window = rng.integers(1, 1000, (2, 12))
    for step in range(3):
        controller.observe(window, step)
    decision = controller.decide()
    assert decision.is_move
    before = controller.placement
    controller.failed(1)
    for _ in range(5):
        asked = controller.decide()
        assert (asked.code, asked.plan) == ("unsettled", None)
    controller.save(tmp_path / "state")
    controller = Controller.load(tmp_path / "state")
    found = recover(decision.schedule, before, decision.plan.placement, (1, 0), [1])
    controller.applied(found.target if go_on else found)
    held = (found.target if go_on else found.state).expert_of_slot
    slots = np.arange(20) if go_on else _own_slots(cluster, found.state.cluster)
    assert np.array_equal(controller.placement.expert_of_slot, held[:, slots])
    following = controller.decide()
    assert following.is_move or not controller.placement.lost_experts
    if following.is_move:
        check_schedule(following.schedule, controller.placement, following.plan.placement)
        following.plan.placement.validate()


def _own_slots(cluster, wider):
    """List where a wider cluster has the slots of another."""
    begin = np.cumsum(wider.slot_counts) - wider.slot_counts
    return np.concatenate([np.arange(first, first + own) for first, own in zip(begin, cluster.slot_counts, strict=True)])


def test_buffers_of_a_recovery_are_no_slots():
    """Expert 4 is in a buffer alone, its old place overwritten: for the controller it is lost."""
    cluster = Cluster(num_ranks=3, slots_per_rank=2)
    old, new = (Placement([row], cluster, 6) for row in ([3, 2, 5, 4, 0, 1], [4, 5, 1, 2, 0, 3]))
    found = recover(schedule_moves(old, new), old, new, (0, 1), [])
    assert found.state.expert_of_slot.tolist() == [[3, -1, 4, 5, 2, 0, 1]]
    controller = Controller(cluster, 1, 6, placement=old)
    with pytest.raises(ArgumentError, match="3 ranks with 7 slots"):
        controller.applied(found.state)
    controller.applied(found)
    assert controller.placement.cluster == cluster
    assert controller.placement.expert_of_slot.tolist() == [[3, -1, 5, 2, 0, 1]]
    assert controller.placement.lost_experts == ((0, 4),)
    other = Controller(Cluster(6, 1), 1, 6, placement=Placement([range(6)], Cluster(6, 1), 6))
    with pytest.raises(ArgumentError, match="3 ranks with 7 slots"):
        other.applied(found)


def test_a_rank_that_returns_in_the_middle_leaves_the_plan_open_too():
    """Until it is dropped."""
    cluster = Cluster(num_ranks=3, slots_per_rank=2)
    controller = made(Placement([[0, 1, 2, 3, 0, 1]], cluster, 4), cluster)
    controller.failed(2)
    controller.observe(SKEWED, 0)
    assert controller.decide().is_move
    controller.returned(2)
    assert controller.decide().code == "unsettled"
    controller.dropped()
    assert controller.decide().is_move


def test_experts_lost_before_any_load_are_recovered_evenly():
    """On an even load; with a window of nothing too."""
    cluster = Cluster(num_ranks=3, slots_per_rank=2)
    for has_window in (False, True):
        controller = made(Placement([[0, 1, 2, 3, 0, 1]], cluster, 4), cluster)
        controller.failed(1)
        if has_window:
            controller.observe([[0, 0, 0, 0]], 0)
        decision = controller.decide()
        assert decision.code == "recover"
        assert decision.plan.load.tolist() == [[1, 1, 1, 1]]
        decision.plan.placement.validate()
        controller.applied(decision.plan)
        assert controller.decide().code == "no-load"
        controller.observe(SKEWED, 1)
        assert controller._watch.losses == []


def test_strict_locality_is_kept_and_asked_of_the_placement_at_the_start():
    """Groups of 4 experts on nodes of 2 ranks."""
    cluster = Cluster(num_ranks=4, slots_per_rank=3, num_nodes=2)
    rng = np.random.default_rng(1)
    windows = (rng.integers(1, 1000, (2, 3, 8)) ** 2)[[0, 0, 1, 1, 1, 1]]
    chosen = ControlSettings(num_groups=2, locality="strict", windows_per_interval=1e6)
    start = plan(windows[0], cluster, num_groups=2, locality="strict").placement
    controller = Controller(cluster, 3, 8, placement=start, settings=chosen)
    moved = 0
    for step, window in enumerate(windows):
        controller.observe(window, step)
        decision = controller.decide()
        if decision.is_move:
            controller.applied(decision.plan)
            moved += decision.moves
            for row in controller.placement.expert_of_slot:
                for group in range(2):
                    assert np.unique(np.flatnonzero((row // 4 == group) & (row >= 0)) // 6).size == 1
    assert moved
    spread = plan(windows[0], cluster).placement
    with pytest.raises(NotSupportedError, match="previous has group"):
        Controller(cluster, 3, 8, placement=spread, settings=chosen)
    with pytest.raises(ArgumentError, match="groups"):
        Controller(cluster, 3, 8, placement=spread, settings=ControlSettings(num_groups=3))
    controller.failed(0)
    decision = controller.decide()
    assert decision.code == "no-plan"
    assert "node 0 has 3 slots" in decision.reason


def test_optimal_dispatch_is_what_is_judged_by():
    """A placement that is level under optimal splits is steady, and balance is that of such splits."""
    cluster = Cluster(num_ranks=2, slots_per_rank=3)
    placement = Placement([[0, 1, 2, 0, 3, 1]], cluster, 4)
    load = [[600, 100, 500, 400]]
    controller = made(placement, cluster, dispatch="optimal")
    controller.observe(load, 0)
    decision = controller.decide()
    assert decision.code == "steady"
    assert decision.balance == pytest.approx(dispatch(load, placement).balancedness) == 1.0
    evenly = made(placement, cluster)
    evenly.observe(load, 0)
    assert evenly.decide().balance == placement.balancedness(load) < 1.0
    controller.observe([[5, 5, 1000, 5]], 1)
    assert controller.decide().balance == pytest.approx(dispatch([[5, 5, 1000, 5]], placement).balancedness)


@pytest.mark.parametrize("spread", ["ranks", "nodes"])
def test_least_replicas_are_mended_after_a_failure(spread):
    """No expert is lost with one rank; those left with one replica get another at once."""
    cluster = Cluster(num_ranks=6, slots_per_rank=3, num_nodes=2)
    asked = Constraints(min_replicas=2, spread=spread)
    load = np.array([[9, 8, 7, 6, 5, 4]])
    start = plan(load, cluster, constraints=asked).placement
    chosen = ControlSettings(constraints=asked, budget=MoveBudget(per_layer=0))
    controller = Controller(cluster, 1, 6, placement=start, settings=chosen)
    controller.observe(load, 0)
    assert controller.decide().code == "steady"
    up = [Placement(_without(start, rank), cluster, 6) for rank in range(6)]
    needed = next(rank for rank in range(6) if owed_layers(up[rank], asked).any())
    controller.failed(needed)
    assert not controller.placement.lost_experts
    decision = controller.decide()
    assert decision.code == "recover"
    controller.applied(decision.plan)
    assert not owed_layers(controller.placement, asked).any()
    assert controller.decide().code == "steady"
    for rank in [rank for rank in range(6) if rank != needed][:2]:
        controller.failed(rank)
    decision = controller.decide()
    assert decision.code == "no-plan"
    assert "which takes 12 slots of 9" in decision.reason


def _without(placement, rank):
    """Return its slots without what a rank holds."""
    return np.where(placement.cluster.rank_of_slot == rank, -1, placement.expert_of_slot)


def test_layers_that_lack_replicas_are_found():
    """Counted slot by slot."""
    rng = np.random.default_rng(4)
    cluster = Cluster(4, 3, 2, alive=[True, True, True, False])
    asked = [Constraints(), Constraints(min_replicas=2), Constraints(min_replicas=2, spread="nodes")]
    told = set()
    for _ in range(200):
        rows = np.concatenate([rng.integers(-1, 3, (2, 9)), np.full((2, 3), -1)], axis=1)
        placement = Placement(rows, cluster, 3)
        ranks = [[{slot // 3 for slot in range(12) if row[slot] == expert} for expert in range(3)] for row in rows.tolist()]
        wanted = (
            [any(len(held) < 1 for held in layer) for layer in ranks],
            [any(len(held) < 2 for held in layer) for layer in ranks],
            [any(len(held) < 2 or len({rank // 2 for rank in held}) < 2 for held in layer) for layer in ranks],
        )
        assert tuple(owed_layers(placement, one).tolist() for one in asked) == wanted
        told.update(zip(*wanted, strict=True))
    assert len(told) == 4


def test_what_is_of_another_kind_is_named():
    """What is of another kind is named."""
    with pytest.raises(ArgumentError, match="settings is a dict"):
        Controller(CLUSTER, 1, 4, placement=LEVEL, settings={})
    with pytest.raises(ArgumentError, match="cluster is a int"):
        Controller(2, 1, 4, placement=LEVEL)
