"""Dispatch rules in a replay: by name, optimal as dispatch() is, spare slots filled for each window, one rule a policy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import INTERPRETED
from equipoise import Cluster, LoadTrace, Placement, RankCost, plan
from equipoise.dispatching.batches import MoveTime, plan_batch
from equipoise.dispatching.splitting import dispatch
from equipoise.errors import ArgumentError
from equipoise.planning.connecting import WINDOWS
from equipoise.simulating.naming import make_policy
from equipoise.simulating.policies import PlannedPolicy
from equipoise.simulating.replaying import simulate
from equipoise.simulating.rules import ENGINES, RULES, SPLITS, Rule, make_rule, optimal_times
from equipoise.simulating.sweeping import sweep
from equipoise.simulating.timing import TIME_MODELS, TimeModel
from equipoise.simulating.triggers import Gain, judging_by

CLUSTER = Cluster(num_ranks=4, slots_per_rank=4)
LINKED = TimeModel(RankCost(per_token=1.0), expert_bytes=6.0, link_bandwidth=2.0)


def windows_of(seed, count=6, layers=2, experts=8):
    """Return random windows [count, layers, experts]."""
    return np.random.default_rng(seed).integers(0, 100, (count, layers, experts)).astype(np.float64)


def in_id_order(cluster, layers=2, experts=8):
    """Return a placement of experts 0, 1, 2, ... over and over."""
    return Placement(np.tile(np.arange(cluster.num_slots) % experts, (layers, 1)), cluster, experts)


def watched(trace, cluster, policies, **options):
    """Return what simulate() found, and what each policy met, by name."""
    met = {}
    found = simulate(trace, cluster, policies, watch=lambda name, m: met.setdefault(name, []).append(m), **options)
    return found, met


@pytest.mark.parametrize("name", RULES)
def test_rules_go_by_name(name):
    """Each name makes a rule that is called so; engines' own and optimal fill no spare slots."""
    assert make_rule(name).name == name
    assert make_rule(name).spare_slots == (1 if name == "batch" else 0)


def test_a_batch_says_how_many_slots_it_fills():
    """One without a number; the name stays as it was given."""
    assert make_rule("batch:3") == Rule("batch:3", 3)
    assert make_rule("batch:1").spare_slots == make_rule("batch").spare_slots
    assert set(ENGINES) < set(SPLITS) < set(RULES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("magic", r"dispatch is 'magic': it must be one of equal, .*optimal, batch; "),
        ("", r"dispatch is '': it must be one of "),
        ("equal:2", r"dispatch is 'equal:2': it must be one of "),
        ("optimal:1", r"dispatch is 'optimal:1': it must be one of "),
        ("Batch", r"dispatch is 'Batch': it must be one of "),
        ("batch:0", r"dispatch is 'batch:0': batch goes with a number of spare slots; try batch:1"),
        ("batch:-1", r"dispatch is 'batch:-1': batch goes with a number"),
        ("batch:x", r"dispatch is 'batch:x': batch goes with a number"),
        ("batch:", r"dispatch is 'batch:': batch goes with a number"),
        ("batch:1.5", r"dispatch is 'batch:1.5': batch goes with a number"),
        (None, r"dispatch is None: it must be one of "),
        (3, r"dispatch is 3: it must be one of "),
        (["equal"], r"dispatch is \['equal'\]: it must be one of "),
    ],
)
def test_bad_names_are_named(text, said):
    """From make_rule(), simulate() and a policy alike: what was found, what may be, what to do; in one line."""
    for make in (
        make_rule,
        lambda text: simulate(windows_of(0), CLUSTER, ["last"], dispatch=text),
        lambda text: PlannedPolicy(dispatch="nothing" if text is None else text),
    ):
        with pytest.raises(ArgumentError) as error:
            make(text)
        assert "\n" not in str(error.value)
    with pytest.raises(ArgumentError, match=said):
        make_rule(text)


def test_home_is_the_cluster_without_the_spare_slots():
    """On ranks that are up; speeds, nodes and who is down stay, and other rules take nothing off."""
    cluster = Cluster(4, [3, 4, 5, 6], 2, rank_speeds=[1, 2, 1, 1], alive=[True, True, True, False])
    home = make_rule("batch:2").home(cluster)
    assert home.slot_counts.tolist() == [1, 2, 3, 6]
    assert (home.num_nodes, home.node_of_rank, home.rank_speeds, home.alive) == (
        (cluster.num_nodes, cluster.node_of_rank, cluster.rank_speeds, cluster.alive)
    )
    assert make_rule("optimal").home(cluster) == cluster
    with pytest.raises(ArgumentError, match=r"3 spare slots of 3 on a rank: home experts need .*; take fewer spare slots"):
        make_rule("batch:3").home(cluster)


def test_no_room_for_home_is_said_before_anything_is_replayed():
    """Too many spare slots for the experts, or for a rank, are refused by policy."""
    with pytest.raises(ArgumentError, match=r"policy last: 4 slots for 8 experts"):
        simulate(windows_of(0), Cluster(4, 3), ["last"], dispatch="batch:2")
    with pytest.raises(ArgumentError, match=r"4 spare slots of 4 on a rank"):
        simulate(windows_of(0), CLUSTER, ["last"], dispatch="batch:4")


@settings(max_examples=10 if INTERPRETED else 40)
@given(seed=st.integers(0, 2**32 - 1), planned=st.sampled_from(["equal", "optimal"]), is_down=st.booleans())
def test_optimal_is_what_dispatch_gives(seed, planned, is_down):
    """Each window's tokens and balance are those of dispatch() over the placement in use."""
    windows = windows_of(seed, 4)
    cluster = Cluster(4, 4, rank_speeds=[1, 2, 1, 1], alive=[True, True, True, not is_down])
    policy = f"last,planned_for={planned}"
    found, met = watched(windows, cluster, [policy], dispatch="optimal")
    (result,) = found.policies
    assert found.dispatch == "optimal"
    assert [m.rule.name for m in met[result.name]] == ["optimal"] * 3
    for number, m in enumerate(met[result.name]):
        expected = dispatch(windows[number + 1], m.placement)
        m.placement.validate()
        assert m.served.placement is m.placement
        assert m.served.tokens.tobytes() == expected.tokens.tobytes()
        assert result.balancedness[number] == pytest.approx(expected.balancedness, rel=1e-12)
        assert result.time[number] == pytest.approx(expected.largest.sum(), rel=1e-12)


def test_optimal_over_a_placement_with_an_expert_twice_on_a_rank():
    """Engines' own placements are split optimally too."""
    placement = Placement([[0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]] * 2, Cluster(4, 3), 8)
    windows = windows_of(4)
    found = simulate(windows, Cluster(4, 3), [placement], dispatch="optimal").policies[0]
    assert np.allclose(found.balancedness, [dispatch(load, placement).balancedness for load in windows[1:]], rtol=1e-12)
    assert found.duplicates == 2


def test_optimal_never_loses_to_another_rule():
    """Over the same placements no engine's rule ends a window earlier."""
    windows, cluster = windows_of(2), Cluster(4, 4, 2)
    rules = {rule: simulate(windows, cluster, ["last"], dispatch=rule).policies[0] for rule in SPLITS}
    for rule in ENGINES:
        assert (rules["optimal"].time <= rules[rule].time * (1 + 1e-12)).all()
    assert (rules["optimal"].time < rules["equal"].time).any()


@pytest.mark.parametrize("model", ["tokens", LINKED])
def test_a_batch_is_what_plan_batch_gives(model):
    """Window by window, from what the one before left in the spare slots; moves, bytes and stall are those of its copies."""
    windows = windows_of(1)
    home = in_id_order(Cluster(4, 2))
    (result,), met = (lambda found, met: (found.policies, met))(
        *watched(windows, CLUSTER, [home], dispatch="batch:2", time_model=model)
    )
    held, move_time = None, None if model == "tokens" else MoveTime(1.0, 6.0, 2.0, 2.0)
    for number, m in enumerate(met["fixed"]):
        expected = plan_batch(windows[number + 1], home, 2, move_time=move_time, held=held)
        held = expected.placement
        assert m.placement is home
        assert m.served.placement.expert_of_slot.tobytes() == held.expert_of_slot.tobytes()
        assert m.served.tokens.tobytes() == expected.tokens.tobytes()
        assert m.served.moves == result.moves[number] == expected.moves.sum()
        assert result.balancedness[number] == pytest.approx(expected.balancedness, rel=1e-12)
        busiest = 0
        for row, source in zip(held.expert_of_slot, expected.source, strict=True):
            come = [(held.cluster.rank_of_slot[s], giver) for s, giver in enumerate(source) if giver >= 0]
            assert all(row[s] >= 0 for s, giver in enumerate(source) if giver >= 0)
            busiest += max(max(sum(r == to for to, _ in come), sum(r == giver for _, giver in come)) for r in range(4))
        assert result.stall[number] == (0.0 if model == "tokens" else 3.0 * busiest)
    assert result.moves.sum() > 0
    assert result.num_slots == 16


def test_spare_slots_go_on_top_of_fixed_placements():
    """They keep all their slots, and each live rank has so many more."""
    cluster = Cluster(4, [3, 4, 4, 3], alive=[True, True, True, False])
    slots = [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, -1, -1, -1]] * 2
    _, met = watched(windows_of(3), cluster, [Placement(slots, cluster, 8)], dispatch="batch:2")
    for m in met["fixed"]:
        assert m.served.placement.cluster.slot_counts.tolist() == [5, 6, 6, 3]
        assert m.served.placement.expert_of_slot[:, [0, 1, 2, 5, 6, 7, 8, 11, 12, 13, 14]].tolist() == [
            row[:11] for row in slots
        ]
        assert (m.served.placement.expert_of_slot[:, 17:] == -1).all()


def test_a_fixed_placement_needs_no_slots_of_the_cluster():
    """Its spare slots are on top, so a cluster of as many slots a rank as there are spare ones will do."""
    found = simulate(windows_of(3), Cluster(4, 2), [in_id_order(Cluster(4, 2))], dispatch="batch:2").policies[0]
    assert (found.failure, found.num_slots) == ("", 16)


def test_policies_plan_for_what_is_left_of_their_slots():
    """With the spare ones they have as many slots a rank as under any rule, of the cluster's or their own."""
    for policy, cluster, home in (
        ("last", CLUSTER, [3, 3, 3, 3]),
        ("last,slots=18", CLUSTER, [4, 4, 3, 3]),
        ("last,slots=12", Cluster(4, 8), [2, 2, 2, 2]),
        ("last", Cluster(4, [4, 5, 4, 5]), [3, 4, 3, 4]),
    ):
        found, met = watched(windows_of(3), cluster, [policy], dispatch="batch:1")
        assert found.policies[0].failure == ""
        assert found.policies[0].name == policy
        for m in met[policy]:
            assert m.placement.cluster.slot_counts.tolist() == home
            assert m.served.placement.cluster.slot_counts.tolist() == [n + 1 for n in home]
        assert found.policies[0].num_slots == sum(home) + 4


def test_a_policys_own_slots_with_a_rank_down():
    """Only live ranks have spare slots, so what is left of ``slots`` is what the policy has under any rule, less those."""
    cluster = Cluster(4, 4, alive=[True, True, True, False])
    usual, met = watched(windows_of(3), cluster, ["last,slots=16"])
    batch, met_in_batch = watched(windows_of(3), cluster, ["last,slots=16"], dispatch="batch:1")
    before, after = (m["last,slots=16"][0].served.placement.cluster.slot_counts.tolist() for m in (met, met_in_batch))
    assert after == before
    assert batch.policies[0].num_slots == usual.policies[0].num_slots


def test_what_is_held_is_kept():
    """The same window again moves nothing, save where that ends it earlier yet; what is kept keeps its spare slots."""
    again = [1, 2, 4]
    moved = 0
    for seed, policy in itertools.product(range(5), (in_id_order(Cluster(4, 3)), "last,every=once")):
        windows = windows_of(seed)[[0, 1, 1, 1, 2, 2]]
        found = simulate(windows, CLUSTER, [policy], dispatch="batch:1").policies[0]
        assert found.moves[0] > 0
        assert (found.time[again] <= found.time[[0, 1, 3]] * (1 + 1e-12)).all()
        gained = 1.0 - found.time[again] / found.time[[0, 1, 3]]
        assert (gained[found.moves[again] > 0] > 1e-4).all()
        moved += (found.moves[again] > 0).sum()
    assert moved <= 3


def test_a_plan_that_changes_nothing_keeps_what_is_held():
    """Renewed with the very same home, ranks still hold what was copied to them: nothing moves."""
    windows = windows_of(0)[[0] * 4]
    once, renewed = simulate(windows, CLUSTER, ["last,every=once", "last"], dispatch="batch:1").policies
    assert once.moves.tolist() == [once.moves[0], 0, 0]
    assert renewed.moves.tolist() == once.moves.tolist()


@pytest.mark.parametrize("name", ["fixed", "last"])
def test_no_room_for_spare_slots_stops_that_policy_alone(name):
    """Where ranks hold every expert already, a policy fails by name or is refused by name, and no other is lost."""
    full = in_id_order(Cluster(4, 8))
    if name == "fixed":
        found = simulate(windows_of(0), CLUSTER, [full, "last"], dispatch="batch:1")
        assert found.policies[0].failure.startswith("policy fixed, window 1: 1 spare slots beside 8 ")
        assert found.policies[0].num_slots == found.policies[0].time.size == 0
        assert found.policies[1].time.size == 5
        assert found.policies[1].failure == ""
    else:
        with pytest.raises(ArgumentError, match="policy last"):
            simulate(windows_of(0), Cluster(4, 9), ["last"], dispatch="batch:1")


def test_moves_are_taken_only_where_they_pay():
    """On a very slow link nothing moves, and each window is as under an optimal split of home alone; on a fast one some do."""
    windows, home = windows_of(6), in_id_order(Cluster(4, 2))
    slow, fast = (
        simulate(
            windows,
            CLUSTER,
            [home],
            dispatch="batch:2",
            time_model=TimeModel(RankCost(per_token=1.0), expert_bytes=1.0, link_bandwidth=bandwidth),
        ).policies[0]
        for bandwidth in (1e-9, 1e9)
    )
    at_home = simulate(windows, CLUSTER, [home], dispatch="optimal").policies[0]
    assert slow.moves.tolist() == [0] * 5
    assert slow.stall.tolist() == [0.0] * 5
    np.testing.assert_allclose(slow.time, at_home.time, rtol=1e-9)
    assert fast.moves.sum() > 0
    assert fast.time.sum() + fast.stall.sum() < 0.95 * at_home.time.sum()


def test_moves_that_save_no_time_are_not_taken():
    """Where tokens take no time, only active experts, no copy can pay for itself."""
    model = TimeModel(RankCost(per_active=1.0, per_token=0.0), expert_bytes=1e6, link_bandwidth=1.0)
    found = simulate(windows_of(0), CLUSTER, ["last,every=once"], dispatch="batch:1", time_model=model).policies[0]
    assert found.moves.tolist() == [0] * 5
    assert found.stall.tolist() == [0.0] * 5


@settings(max_examples=8 if INTERPRETED else 30)
@given(seed=st.integers(0, 2**32 - 1), bandwidth=st.sampled_from([0.05, 0.3, 1.0, 5.0, 1e6]))
def test_a_batch_with_its_moves_is_never_later_than_home_alone(seed, bandwidth):
    """Whatever the link: time and stall of each window add up to no more than an optimal split of home alone takes."""
    windows, home = windows_of(seed, 5), in_id_order(Cluster(4, 2))
    model = TimeModel(RankCost(per_token=1.0), expert_bytes=1.0, link_bandwidth=bandwidth)
    found = simulate(windows, CLUSTER, [home], dispatch="batch:2", time_model=model).policies[0]
    at_home = simulate(windows, CLUSTER, [home], dispatch="optimal", time_model=model).policies[0]
    assert (found.time + found.stall <= at_home.time * (1 + 1e-9)).all()
    assert found.bytes_moved.tolist() == found.moves.tolist()


def test_a_renewed_home_and_its_spare_slots_are_both_charged():
    """Moves and stall of a window are those of the new plan and those of its spare slots."""
    windows = windows_of(7)
    found, met = watched(windows, CLUSTER, ["last"], dispatch="batch:1", time_model=LINKED)
    usual = simulate(windows, Cluster(4, 3), ["last"], time_model=LINKED).policies[0]
    (result,) = found.policies
    assert result.moves.tolist() == [a + m.served.moves for a, m in zip(usual.moves, met["last"], strict=True)]
    more = [LINKED.stall(m.served.carried) for m in met["last"]]
    np.testing.assert_allclose(result.stall, usual.stall + more, rtol=1e-12)
    assert sum(more) > 0.0


def test_one_table_with_a_rule_a_policy():
    """Each policy is served by its own rule, others by the simulation's, and each as if it were alone."""
    windows = windows_of(8)
    names = ["last", "last,dispatch=optimal", "last,planned_for=optimal,dispatch=optimal", "last,dispatch=batch:1"]
    found, met = watched(windows, CLUSTER, [*names, in_id_order(CLUSTER)], dispatch="hash", time_model=LINKED)
    assert [result.name for result in found.policies] == [*names, "fixed"]
    assert [met[name][0].rule.name for name in (*names, "fixed")] == ["hash", "optimal", "optimal", "batch:1", "hash"]
    alone = [("last", "hash"), ("last", "optimal"), ("last,planned_for=optimal", "optimal"), ("last", "batch:1")]
    for result, (policy, rule) in zip(found.policies, alone, strict=False):
        expected = simulate(windows, CLUSTER, [policy], dispatch=rule, time_model=LINKED).policies[0]
        for name in ("balancedness", "time", "moves", "stall", "largest_by_layer"):
            assert getattr(result, name).tobytes() == getattr(expected, name).tobytes()
        assert result.num_slots == expected.num_slots == 16
    assert len({result.time.tobytes() for result in found.policies}) == 5


def test_names_say_what_is_planned_for_and_how_it_is_served():
    """Names hold both where they are not the defaults, and make the same policy again."""
    for text in ("last,planned_for=optimal", "auto,dispatch=batch:2", "mean:3,every=2,planned_for=optimal,dispatch=optimal"):
        assert make_policy(text).name == text
        assert make_policy(make_policy(text).name) == make_policy(text)
    assert make_policy("last", planned_for="optimal", dispatch="optimal").name == "last,planned_for=optimal,dispatch=optimal"
    assert make_policy("last,planned_for=equal").name == "last"
    with pytest.raises(ArgumentError, match="planned_for is 'best'"):
        make_policy("last,planned_for=best")
    with pytest.raises(ArgumentError, match=r"dispatch is 'batch:0'"):
        make_policy("last,dispatch=batch:0")


@pytest.mark.parametrize("settings", [{"home_share": 0.5}, {"planner": "lpt"}, {"locality": "strict", "num_groups": 2}])
def test_settings_that_planning_for_optimal_dispatch_would_ignore_are_refused(settings):
    """Nothing is dropped in silence: a home share, a published packing, which plans for no split, or a locality rule."""
    name, value = next(iter(settings.items()))
    with pytest.raises(ArgumentError, match=f"planned_for=optimal with {name}={value}"):
        PlannedPolicy(planned_for="optimal", **settings)
    assert PlannedPolicy(planned_for="equal", **settings)


@pytest.mark.parametrize("forecast", ["last", "mean:2", "scenarios:2"])
def test_policies_plan_as_plan_does(forecast):
    """A policy's placement is that of plan() for the windows so far, however many a plan looks at."""
    windows, cluster = windows_of(9, WINDOWS + 4, 2, 32), Cluster(8, 5)
    policy = f"{forecast},planned_for=optimal"
    _, met = watched(windows, cluster, [policy])
    for seen in (1, 2, 5, WINDOWS + 3):
        expected = plan(LoadTrace(windows[:seen]), cluster, forecast=forecast, dispatch="optimal").placement
        assert met[policy][seen - 1].placement.expert_of_slot.tobytes() == expected.expert_of_slot.tobytes()


@settings(max_examples=6 if INTERPRETED else 20)
@given(
    seed=st.integers(0, 2**32 - 1),
    change=st.integers(2, 5),
    policy=st.sampled_from(["last,planned_for=optimal", "auto,every=2,planned_for=optimal", "scenarios:2,planned_for=optimal"]),
    rule=st.sampled_from(["optimal", "batch:1"]),
)
def test_the_future_changes_nothing(seed, change, policy, rule):
    """Windows from ``change`` on have no part in what is served before them, and in the placement that meets the first."""
    windows = windows_of(seed)
    other = windows.copy()
    other[change:] = windows_of(seed + 1)[change:]
    one, two = (watched(w, CLUSTER, [policy], dispatch=rule)[1][policy] for w in (windows, other))
    for a, b in itertools.islice(zip(one, two, strict=True), change):
        assert a.placement.expert_of_slot.tobytes() == b.placement.expert_of_slot.tobytes()
    for a, b in itertools.islice(zip(one, two, strict=True), change - 1):
        assert a.served.tokens.tobytes() == b.served.tokens.tobytes()


@pytest.mark.parametrize("rule", ["equal", "optimal"])
def test_a_trigger_looks_at_the_balance_that_was_met(rule):
    """``below:B`` plans anew after windows whose balance was below B, whatever rule split them."""
    windows = windows_of(12, 14)
    level = float(np.median(simulate(windows, CLUSTER, ["last,every=once"], dispatch=rule).policies[0].balancedness))
    found = simulate(windows, CLUSTER, [f"last,trigger=below:{level:.6f}"], dispatch=rule).policies[0]
    below = found.balancedness[:-1] < float(f"{level:.6f}")
    assert found.is_renewed[1:].tolist() == below.tolist()
    assert 0 < below.sum() < below.size


def test_gain_judges_by_the_split_in_use():
    """An even split gains a quarter by the new plan, an optimal one nothing: 10 either way, 8 with experts well apart."""
    cluster = Cluster(2, 2)
    used, found = (Placement([slots], cluster, 3) for slots in ([0, 1, 0, 2], [0, 1, 2, 0]))
    level = Placement([[1, 2, 0, 0]], cluster, 3)
    load = np.array([[8.0, 8.0, 0.0]])
    even, optimal = (judging_by(Gain(0.1), make_rule(rule).times) for rule in ("hash", "optimal"))
    assert even.is_worth_it(used, level, load)  # 12 and 8
    assert not optimal.is_worth_it(used, level, load)  # 8 and 8
    assert not even.is_worth_it(used, found, load)
    assert judging_by(even, make_rule("optimal").times) == even == Gain(0.1)


def test_optimal_times_are_those_of_dispatch():
    """On ranks of unlike speeds with one down: largest and ideal rank times of each layer."""
    cluster = Cluster(4, 4, rank_speeds=[1, 2, 1, 1], alive=[True, True, True, False])
    for load in windows_of(3):
        placement = plan(load, cluster).placement
        expected, (largest, ideal) = dispatch(load, placement), optimal_times(placement, load)
        np.testing.assert_allclose(largest, expected.largest, rtol=1e-12)
        np.testing.assert_allclose(ideal, expected.ideal, rtol=1e-12)


@pytest.mark.parametrize("trigger", ["below:0.9", "gain:0.05", Gain(0.05)])
def test_triggers_that_judge_a_balance_are_refused_under_batch(trigger):
    """Policy, trigger and rule are named; the same policy is served under any other rule."""
    policy, name = PlannedPolicy(trigger=trigger), getattr(trigger, "name", trigger)
    with pytest.raises(ArgumentError, match=f"policy {policy.name}: trigger {name} under dispatch batch:1: "):
        simulate(windows_of(0), CLUSTER, [policy], dispatch="batch:1")
    assert simulate(windows_of(0), CLUSTER, [policy], dispatch="optimal").policies[0].failure == ""


@pytest.mark.parametrize("rule", ["equal", "optimal", "batch:1"])
def test_triggers_of_ones_own_work_under_every_rule(rule):
    """They are asked with the arguments they always had."""

    class Second:
        name = "second"
        asked = 0

        def is_due(self, placement, last):
            self.asked += 1
            return self.asked % 2 == 0

        def is_worth_it(self, placement, found, expected):
            return True

    found = simulate(windows_of(0), CLUSTER, [PlannedPolicy(trigger=Second())], dispatch=rule).policies[0]
    assert (found.failure, found.is_renewed.tolist()) == ("", [True, False, True, False, True])


def test_a_window_that_cannot_be_served_stops_that_policy_alone(monkeypatch):
    """Whatever goes wrong with a batch is that policy's failure, with the windows until then."""
    count = itertools.count()

    def fails_third(*given, **options):
        if next(count) == 2:
            raise ArithmeticError("no such split")
        return plan_batch(*given, **options)

    monkeypatch.setattr("equipoise.simulating.rules.plan_batch", fails_third)
    found = simulate(windows_of(0), CLUSTER, ["last,dispatch=batch:1", "last"])
    assert found.policies[0].failure == "policy last,dispatch=batch:1, window 3: ArithmeticError: no such split"
    assert [result.time.size for result in found.policies] == [2, 5]


def test_a_sweep_tells_rules_apart(tmp_path):
    """Each rule, of the sweep or a policy, and each split planned for, is kept as a simulation of its own."""
    trace = LoadTrace(windows_of(10).astype(np.int64))
    policies = ["last", "last,dispatch=optimal", "last,dispatch=batch:1", "last,planned_for=optimal"]
    for rule in ("equal", "optimal", "batch:1", "batch:2"):
        cells = sweep({"a": trace}, Cluster(4, 5), policies, folder=tmp_path, dispatch=rule)
        assert [cell.policy for cell in cells] == policies
        again = sweep({"a": trace}, Cluster(4, 5), policies, folder=tmp_path, dispatch=rule)
        assert [cell.found.to_file() for cell in again] == [cell.found.to_file() for cell in cells]
    assert len(list(tmp_path.iterdir())) == 16


@pytest.mark.compiled
def test_the_recorded_load_is_level_under_optimal_dispatch(example):
    """On the load that ships: planned for it, next windows lose under half of what ordinary plans do; with spare slots too."""
    policies = ["last", "last,dispatch=optimal", "last,planned_for=optimal,dispatch=optimal", "last,dispatch=batch:1"]
    found = simulate(example, Cluster(8, 6), policies)
    equal, optimal, planned, batch = (1.0 - result.mean_balancedness for result in found.policies)
    assert optimal < 0.5 * equal
    assert planned < 0.5 * optimal
    assert batch < 0.5 * optimal


def test_presets_have_moves_for_nothing_only_where_they_say_so():
    """Under ``tokens`` moves are free; under a preset with a link they are charged."""
    windows = windows_of(11) * 1e4
    free, charged = (
        simulate(windows, CLUSTER, ["last,every=once"], dispatch="batch:1", time_model=name).policies[0]
        for name in ("tokens", "prefill-h100")
    )
    assert free.stall.sum() == 0.0 < charged.stall.sum()
    assert charged.bytes_moved.tolist() == (charged.moves * TIME_MODELS["prefill-h100"].expert_bytes).tolist()
