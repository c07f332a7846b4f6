"""The controller under any order of events, beside a twin that is killed and restarted between them."""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from itertools import chain, pairwise
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
from equipoise.migrating.recovering import recover

pytestmark = pytest.mark.compiled

LAYERS, EXPERTS, RANKS = 2, 5, 4
BUDGETS = (MoveBudget(), MoveBudget(gain_per_move=0.002), MoveBudget(total=3), MoveBudget(per_layer=2))

loads = st.lists(
    st.lists(st.sampled_from([0, 1, 5, 40, 300, 3000]), min_size=EXPERTS, max_size=EXPERTS), min_size=LAYERS, max_size=LAYERS
)


class Control(RuleBasedStateMachine):
    """Holds by itself what each rank holds, [layers][ranks][places] of experts, and who died: what a machine would know."""

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
        self.first_slot = [sum(cluster.slot_counts[:rank]) for rank in range(RANKS + 1)]
        self.held = self.by_rank(placement)
        self.saved = None
        self.alive = [True] * RANKS
        self.budget = budget
        self.step = 0
        self.rng = np.random.default_rng(seed)
        self.handed_out = self.before = None
        self.cut = False

    def by_rank(self, placement):
        """Return what each rank holds, layer by layer."""
        rows = placement.expert_of_slot.tolist()
        return [[row[begin:end] for begin, end in pairwise(self.first_slot)] for row in rows]

    def placed(self, held):
        """Return that as a placement on the ranks that are up."""
        cluster = self.controller.cluster
        return Placement([list(chain.from_iterable(ranks)) for ranks in held], cluster, EXPERTS)

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
        assert (one.code == "unsettled") <= (self.handed_out is not None)
        if self.handed_out is not None:
            assert one.code == "unsettled" if self.cut else one.code in ("waiting", "unsettled")
        if not one.is_move:
            return
        self.handed_out, self.schedule, self.before = one.plan, one.schedule, self.placed(self.held)
        assert one.plan.placement.expert_of_slot.tobytes() == other.plan.placement.expert_of_slot.tobytes()
        assert one.schedule.as_dict() == other.schedule.as_dict()
        self.check_plan(one)

    def check_plan(self, decision):
        now, then = self.placed(self.held), decision.plan.placement
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

    @precondition(lambda self: getattr(self, "handed_out", None) is not None and not self.cut)
    @rule(layers=st.integers(0, LAYERS), as_plan=st.booleans())
    def apply(self, layers, as_plan):
        """Carry the schedule out as far as some layer, and tell."""
        self.held[:layers] = self.by_rank(self.handed_out.placement)[:layers]
        is_whole = layers == LAYERS and as_plan
        for one in self.both():
            one.applied(self.handed_out if is_whole else self.placed(self.held))
        self.handed_out = None

    @precondition(lambda self: getattr(self, "handed_out", None) is not None and not self.cut)
    @rule()
    def drop(self):
        for one in self.both():
            one.dropped()
        self.handed_out = None

    @precondition(lambda self: getattr(self, "handed_out", None) is not None and not self.cut and sum(self.alive) > 1)
    @rule(data=st.data(), choice=st.integers(0, RANKS - 1))
    def fail_in_the_middle(self, data, choice):
        """Some layers are done, some rounds of the next; then a rank dies, and another as well now and then."""
        layer = data.draw(st.integers(0, LAYERS - 1))
        self.done = layer, data.draw(st.integers(0, int(self.schedule.rounds[layer])))
        self.cut = True
        self.fail(choice)

    @precondition(lambda self: getattr(self, "cut", False))
    @rule(go_on=st.booleans())
    def settle(self, go_on):
        """Tell what was left, or what was reached from there."""
        dead = [rank for rank in range(RANKS) if not self.alive[rank] and self.before.cluster.alive[rank]]
        found = recover(self.schedule, self.before, self.handed_out.placement, self.done, dead)
        for one in self.both():
            one.applied(found.target if go_on else found)
        state = found.state.expert_of_slot.tolist()
        begin = np.cumsum([0, *found.state.cluster.slot_counts]).tolist()
        own = np.diff(self.first_slot).tolist()
        left = [[row[begin[rank] : begin[rank] + own[rank]] for rank in range(RANKS)] for row in state]
        self.held = self.by_rank(found.target) if go_on else left
        self.handed_out, self.cut = None, False

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
            if self.handed_out is not None and not self.cut:
                self.apply(layers=LAYERS, as_plan=True)

    @precondition(lambda self: sum(getattr(self, "alive", [])) > 1)
    @rule(choice=st.integers(0, RANKS - 1))
    def fail(self, choice):
        up = np.flatnonzero(self.alive)
        rank = int(up[choice % len(up)])
        self.alive[rank] = False
        for ranks in self.held:
            ranks[rank] = [ABSENT] * len(ranks[rank])
        for one in self.both():
            one.failed(rank)
        if self.handed_out is not None and not self.cut:
            self.cut, self.done = True, (0, 0)

    @precondition(lambda self: not all(getattr(self, "alive", [True])) and self.handed_out is None)
    @rule()
    def come_back(self):
        for rank in np.flatnonzero(~np.array(self.alive)).tolist():
            self.alive[rank] = True
            for one in self.both():
                one.returned(rank)

    @rule()
    def save(self):
        """Of both, with what is true then."""
        self.twin.save(self.path)
        names = ("held", "alive", "step", "handed_out", "before", "cut", "schedule", "done", "rng")
        self.saved = deepcopy({name: getattr(self, name) for name in names if hasattr(self, name)})

    @rule()
    def crash(self):
        """Kill the twin; a new one goes on from what it had saved just before."""
        self.save()
        self.twin = Controller.load(self.path)

    @precondition(lambda self: getattr(self, "saved", None) is not None)
    @rule()
    def fall_back(self):
        """Kill both; the machine is as it was when the state was saved, and one goes on from that, one from its twin."""
        self.controller, self.twin = Controller.load(self.path), Controller.load(self.path)
        for name, value in deepcopy(self.saved).items():
            setattr(self, name, value)

    @invariant()
    def what_is_in_use_is_known(self):
        if hasattr(self, "controller"):
            for one in self.both():
                assert one.cluster.alive == tuple(self.alive)
                if not self.cut:  # what was done of a schedule cut short is told later
                    assert self.by_rank(one.placement) == self.held

    @invariant()
    def only_what_no_rank_holds_is_lost(self):
        if hasattr(self, "controller") and not self.cut:
            lost = [
                (layer, expert)
                for layer, ranks in enumerate(self.held)
                for expert in range(EXPERTS)
                if not any(self.alive[rank] and expert in ranks[rank] for rank in range(RANKS))
            ]
            assert all(list(one.placement.lost_experts) == lost for one in self.both())


TestControl = Control.TestCase
TestControl.settings = settings(max_examples=10, stateful_step_count=20)
