"""The controller under any order of events, beside a twin that is killed and restarted between them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from equipoise import ABSENT, Cluster, MoveBudget, Placement, plan
from equipoise.controlling.controller import Controller
from equipoise.controlling.settings import ControlSettings
from equipoise.migrating.checking import check_schedule

pytestmark = pytest.mark.compiled

LAYERS, EXPERTS, RANKS = 2, 5, 4
BUDGETS = (MoveBudget(), MoveBudget(gain_per_move=0.002), MoveBudget(total=3), MoveBudget(per_layer=2))

loads = st.lists(
    st.lists(st.sampled_from([0, 1, 5, 40, 300, 3000]), min_size=EXPERTS, max_size=EXPERTS), min_size=LAYERS, max_size=LAYERS
)


class Control(RuleBasedStateMachine):
    """Holds what must be in use by itself: what was applied, less what failed."""

    @initialize(
        load=loads,
        seed=st.integers(0, 99),
        slots=st.sampled_from([2, 3, (3, 2, 2, 3)]),
        budget=st.sampled_from(BUDGETS),
        interval=st.sampled_from([1.0, 1e5]),
        mode=st.sampled_from(["duplex", "one-peer"]),
    )
    def begin(self, load, seed, slots, budget, interval, mode):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state"
        cluster = Cluster(RANKS, slots)
        placement = plan(load, cluster).placement
        chosen = ControlSettings(budget=budget, windows_per_interval=interval, mode=mode, overdue_after=2)
        self.controller, self.twin = (
            Controller(cluster, LAYERS, EXPERTS, placement=placement, settings=chosen) for _ in range(2)
        )
        self.in_use = placement.expert_of_slot.copy()
        self.alive = [True] * RANKS
        self.budget = budget
        self.step = 0
        self.rng = np.random.default_rng(seed)
        self.handed_out = None

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def both(self):
        return self.controller, self.twin

    @rule(load=loads, gap=st.integers(1, 3), times=st.integers(1, 4))
    def observe(self, load, gap, times):
        for _ in range(times):
            self.step += gap
            for one in self.both():
                one.observe(load, self.step)

    @rule()
    def decide(self):
        one, other = (controller.decide() for controller in self.both())
        assert json.dumps(one.as_dict()) == json.dumps(other.as_dict())
        assert one.is_move == other.is_move
        if not one.is_move:
            return
        self.handed_out = one.plan
        assert one.plan.placement.expert_of_slot.tobytes() == other.plan.placement.expert_of_slot.tobytes()
        assert one.schedule.as_dict() == other.schedule.as_dict()
        self.check_plan(one)

    def check_plan(self, decision):
        now, then = self.controller.placement, decision.plan.placement
        then.validate()  # every expert served, no rank that is down used
        assert then.cluster.alive == tuple(self.alive)
        check_schedule(decision.schedule, now, then)
        loaded = np.bincount(decision.schedule.layer[decision.schedule.is_from_disk], minlength=LAYERS)
        assert decision.plan.moves.tolist() == (decision.schedule.moves + loaded).tolist() == then.moves_from(now).tolist()
        kept = [layer for layer in range(LAYERS) if layer not in decision.layers]
        assert np.array_equal(then.expert_of_slot[kept], now.expert_of_slot[kept])
        lost = {layer for layer, _ in now.lost_experts}
        if self.budget.per_layer is not None:
            assert all(moves <= self.budget.per_layer or layer in lost for layer, moves in enumerate(decision.plan.moves))
        if self.budget.total is not None and not lost:
            assert decision.moves <= self.budget.total
        if decision.code != "recover":
            assert decision.gain_seconds > decision.cost_seconds

    @precondition(lambda self: getattr(self, "handed_out", None) is not None)
    @rule(only_first=st.booleans())
    def apply(self, only_first):
        rows = self.in_use.copy() if only_first else self.handed_out.placement.expert_of_slot.copy()
        rows[0] = self.handed_out.placement.expert_of_slot[0]
        given = Placement(rows, self.handed_out.placement.cluster, EXPERTS) if only_first else self.handed_out
        for one in self.both():
            one.applied(given)
        self.in_use, self.handed_out = rows, None

    @precondition(lambda self: getattr(self, "controller", None) is not None and self.controller.pending is not None)
    @rule()
    def drop(self):
        for one in self.both():
            one.dropped()
        self.handed_out = None

    @rule(load=loads, times=st.integers(2, 6))
    def serve(self, load, times):
        """Go on for some windows of a domain, as an engine does."""
        share = np.array(load) + 1.0
        for _ in range(times):
            self.step += 1
            window = self.rng.poisson(share * 20)
            for one in self.both():
                one.observe(window, self.step)
            self.decide()
            if self.handed_out is not None:
                self.apply(only_first=False)

    @precondition(lambda self: sum(getattr(self, "alive", [])) > 1)
    @rule(choice=st.integers(0, RANKS - 1))
    def fail(self, choice):
        up = np.flatnonzero(self.alive)
        rank = int(up[choice % len(up)])
        self.alive[rank] = False
        for one in self.both():
            one.failed(rank)
        self.in_use[:, self.controller.cluster.rank_of_slot == rank] = ABSENT
        self.handed_out = None

    @precondition(lambda self: not all(getattr(self, "alive", [True])))
    @rule()
    def come_back(self):
        for rank in np.flatnonzero(~np.array(self.alive)).tolist():
            self.alive[rank] = True
            for one in self.both():
                one.returned(rank)
        self.handed_out = None

    @rule()
    def save(self):
        self.twin.save(self.path)

    @rule()
    def crash(self):
        """Kill the twin; a new one goes on from what it had saved just before."""
        self.twin.save(self.path)
        self.twin = Controller.load(self.path)

    @invariant()
    def what_is_in_use_is_known(self):
        if hasattr(self, "controller"):
            for one in self.both():
                assert np.array_equal(one.placement.expert_of_slot, self.in_use)
                assert one.cluster.alive == tuple(self.alive)

    @invariant()
    def no_expert_with_a_replica_that_survives_is_lost(self):
        if hasattr(self, "controller"):
            held = {(layer, expert) for layer, row in enumerate(self.in_use.tolist()) for expert in row if expert != ABSENT}
            assert {(layer, e) for layer in range(LAYERS) for e in range(EXPERTS)} - held == set(
                self.controller.placement.lost_experts
            )


TestControl = Control.TestCase
TestControl.settings = settings(max_examples=10, stateful_step_count=20)
