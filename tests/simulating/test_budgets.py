"""Policies that go on from the placement in use: budgets of moves, and the controller."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import Cluster, Constraints, LoadTrace, MoveBudget, plan, simulate
from equipoise.controlling.controller import Controller
from equipoise.controlling.settings import ControlSettings
from equipoise.costs import RankCost
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.simulating.naming import make_policy
from equipoise.simulating.policies import ControlledPolicy, PlannedPolicy
from equipoise.simulating.timing import TimeModel

CLUSTER = Cluster(num_ranks=4, slots_per_rank=5, num_nodes=2)


def _windows(seed=0, count=7, layers=2, experts=16):
    rng = np.random.default_rng(seed)
    return np.floor(rng.random((count, layers, experts)) ** 3 * 1000)


def test_each_plan_goes_on_from_the_one_in_use():
    """Window by window as plan() does from the placement before; the first is free."""
    windows, found = _windows(), []
    simulate(windows, CLUSTER, ["last,moves=3"], watch=lambda name, met: found.append(met.placement))
    placement = plan(windows[0], CLUSTER).placement
    for window, met in enumerate(found):
        if window:
            placement = plan(windows[window], CLUSTER, previous=placement, max_moves=3).placement
        assert np.array_equal(met.expert_of_slot, placement.expert_of_slot)


@pytest.mark.parametrize(("moves", "gain"), [(0, None), (2, None), (5, 0.01), (None, 0.02)])
def test_moves_stay_within_the_budget(moves, gain):
    """Of each window, over all layers; with none allowed nothing changes, and stalls are those of the moves made."""
    model = TimeModel(RankCost(per_token=1.0), expert_bytes=6.0, link_bandwidth=2.0)
    windows = _windows(1)
    few, free = simulate(windows, CLUSTER, [PlannedPolicy(moves=moves, gain_per_move=gain), "last"], time_model=model).policies
    if moves is not None:
        assert (few.moves <= moves * windows.shape[1]).all()
    assert few.moves.sum() < free.moves.sum()
    assert ((few.stall > 0) == (few.moves > 0)).all()
    assert few.stall.sum() < free.stall.sum() or moves is None
    if moves == 0:
        assert not few.moves.any()


def test_names_and_what_is_refused():
    """Settings by name; budgets go with our planner, one load, and no soft locality."""
    assert make_policy("auto,moves=16,gain=0.001").budget == MoveBudget(per_layer=16, gain_per_move=0.001)
    assert make_policy("last").budget is None
    assert make_policy("auto,moves=16").name == "auto,moves=16"
    for text in ("last,moves=-1", "last,moves=many", "last,gain=-0.1", "last,moves=3,planner=lpt"):
        with pytest.raises(ArgumentError):
            make_policy(text)
    for text in ("robust:2,moves=3", "scenarios:4,gain=0.1", "steps,moves=3"):
        with pytest.raises(ArgumentError, match="a forecast of several loads"):
            make_policy(text)


def test_the_controller_takes_over_settings_or_refuses_them():
    """None is dropped in silence."""
    settings = make_policy("controller", num_groups=4, locality="strict", every=1).settings
    assert (settings.num_groups, settings.locality) == (4, "strict")
    assert make_policy("controller", dispatch="equal").settings == make_policy("controller").settings
    for defaults in ({"planned_for": "optimal"}, {"planned_for": "optimal", "dispatch": "optimal"}):
        assert make_policy("controller", **defaults).dispatch == "optimal"
    refused = ({"every": 4}, {"dispatch": "hash"}, {"dispatch": "optimal"}, {"moves": 3}, {"slots": 64}, {"home_share": 0.9})
    for defaults in refused:
        with pytest.raises(ArgumentError, match=f"with {next(iter(defaults))}="):
            make_policy("controller", **defaults)


def test_the_controller_under_groups_and_optimal_dispatch():
    """Its first plan is one of these too."""
    windows, met = _windows(4), {}
    strict = make_policy("controller", num_groups=4, locality="strict")
    optimal = ControlledPolicy(ControlSettings(dispatch="optimal", constraints=Constraints(min_replicas=1)), "optimal")
    found = simulate(
        windows, CLUSTER, [strict, optimal], watch=lambda name, seen: met.setdefault(name, []).append(seen.placement)
    )
    assert [policy.failure for policy in found.policies] == ["", ""]
    for placement in met["controller"]:
        node = placement.cluster.rank_of_slot // 2
        for row in placement.expert_of_slot:
            assert all(np.unique(node[row // 4 == group]).size <= 1 for group in range(4))
    assert np.array_equal(
        met["optimal"][0].expert_of_slot, plan(windows[0], CLUSTER, dispatch="optimal").placement.expert_of_slot
    )


def test_budgets_under_strict_locality_and_optimal_dispatch():
    """Groups stay at home; plans for an optimal split go on too."""
    windows = _windows(2)
    policies = ["last,moves=4,groups=4,locality=strict", "auto,moves=4,planned_for=optimal,dispatch=optimal"]
    placements = {}
    found = simulate(windows, CLUSTER, policies, watch=lambda name, met: placements.setdefault(name, []).append(met.placement))
    assert [policy.failure for policy in found.policies] == ["", ""]
    for placement in placements[policies[0]]:
        node = placement.cluster.rank_of_slot // 2
        for row in placement.expert_of_slot:
            for group in range(4):
                assert np.unique(node[row // 4 == group]).size <= 1


def test_the_controller_as_a_policy():
    """It decides as the controller does by itself, told of every window and of each plan's use; the first plan is free."""
    windows, met = LoadTrace(_windows(3, count=9)).load.astype(float), []
    found = simulate(windows, CLUSTER, ["controller"], watch=lambda name, seen: met.append(seen.placement)).policies[0]
    assert (found.failure, found.name) == ("", "controller")
    first = plan(windows[0], CLUSTER).placement
    controller = Controller(CLUSTER, 2, 16, placement=first)
    for window, load in enumerate(windows[:-1]):
        controller.observe(load, window)
        decision = controller.decide() if window else None
        if decision is not None and decision.plan is not None:
            controller.applied(decision.plan)
        assert np.array_equal(met[window].expert_of_slot, controller.placement.expert_of_slot)
    with pytest.raises(EquipoiseError, match="policy controller"):
        simulate(windows, Cluster(4, 3), [ControlledPolicy()])
