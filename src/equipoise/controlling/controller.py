"""Controller: observe windows, decide whether a new plan is worth its moves, and know what is in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.budget import MoveBudget
from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.controlling.changes import ChangeWatch
from equipoise.controlling.decisions import CODES, Decision
from equipoise.controlling.evidence import Evidence, unknown
from equipoise.controlling.gating import Estimate, Outlook, estimate_gains, expected_loss, in_priority, open_layers
from equipoise.controlling.judging import layer_times, owed_layers
from equipoise.controlling.memories import Memories
from equipoise.controlling.settings import ControlSettings, check_type
from equipoise.controlling.summing import mean_of, total_of
from equipoise.controlling.telemetry import Telemetry
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.kernels.shares import to_shares
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.migrating.recovering import Recovery
from equipoise.migrating.schedules import MoveSchedule
from equipoise.migrating.scheduling import schedule_moves
from equipoise.placement import ABSENT, Placement
from equipoise.planning.bounds import gap
from equipoise.planning.planner import Plan, plan


@dataclass
class Standing:
    """What is in use and what was handed out.

    Attributes
    ----------
    slots, pending : int64 [layers, slots]
        Placement in use; the one handed out (``is_pending``), less what ranks that failed since would hold.
    known, pending_known : float64 [layers]
        Windows of this domain that each was made from; 0 where it was not made for this domain.
    pending_loss : float64 [layers]
        What the placement handed out is expected to lose.
    alive : bool [ranks]
        Ranks that are up.
    is_open : bool [layers]
        Layers in which the gate is open.
    largest, ideal : float64 [layers]
        Times of the placement in use on the last window.
    step, windows, decisions, age : int
        Last step observed (-1 before any), windows and decisions so far, windows since the placement in use came into use.
    waited, overdue : int
        Decisions since the plan handed out; plans so far of which nothing was heard in time.
    is_cut : bool
        Whether a rank went or came while a plan was carried out.
    is_new : bool
        Whether the last window began a domain, or a rank went or came since: the gate opens.
    """

    slots: Ints
    pending: Ints
    known: Floats
    pending_known: Floats
    pending_loss: Floats
    alive: Flags
    is_open: Flags
    largest: Floats
    ideal: Floats
    step: int = -1
    windows: int = 0
    decisions: int = 0
    age: int = 0
    waited: int = 0
    overdue: int = 0
    is_pending: bool = False
    is_cut: bool = False
    is_new: bool = False


@dataclass
class Candidates:
    """A plan from each memory, made to be judged by the window that follows.

    Attributes
    ----------
    slots : int64 [memories, layers, slots]
    planned : float64 [memories, layers]
        What each loses on the load it was made for.
    known : float64 [memories, layers]
        Windows it was made from.
    are_made : bool
        Whether there are any.
    """

    slots: Ints
    planned: Floats
    known: Floats
    are_made: bool = False


class _Choice(NamedTuple):
    """What would be moved."""

    slots: Ints
    schedule: MoveSchedule
    layers: list[int]
    gain: Floats
    cost: Floats


class Controller:
    """Decides, window by window, whether a new plan is worth its moves.

    A plain object without threads: every decision follows from what it was told, in order. :meth:`save` and :meth:`load` keep
    its state over a restart; what a restarted controller decides is the same to the byte.

    Parameters
    ----------
    cluster : Cluster
        The ranks, and which are up.
    num_layers, num_experts : int
        Of the model.
    placement : Placement
        In use at the start; experts twice on a rank and empty slots are accepted.
    settings : ControlSettings, optional
        What gains and costs are weighed by.
    telemetry : Telemetry, optional
        Is told of every window and decision.

    Raises
    ------
    ArgumentError
        When something is of another kind, the placement is of another model or other ranks, or what the settings ask of
        placements cannot be had from it.
    NotSupportedError
        Under strict locality, when a group is on several nodes.

    Notes
    -----
    Nobody but who carries plans out knows what is in use. Where a rank fails or returns meanwhile, or nothing is heard for
    ``overdue_after`` decisions, :meth:`decide` keeps as "unsettled" until it is told::

        controller.failed(rank)
        found = recover(decision.schedule, before, decision.plan.placement, done, [rank])
        controller.applied(found)          # what was left in slots; or, found.schedule carried out, applied(found.target)
        decision = controller.decide()     # from there on

    :meth:`dropped` says that nothing of the plan was done. Ranks keep their number: where some are added or removed, make a new
    controller with the placement in use then.

    A decision makes one plan a memory; the rest takes about as long as scoring a placement.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2)
    >>> controller = Controller(cluster, 1, 4, placement=Placement([[0, 1, 2, 3]], cluster, 4))
    >>> controller.observe([[900, 800, 100, 200]], step=0)
    >>> decision = controller.decide()
    >>> decision.code, decision.moves
    ('gain', 2)
    >>> controller.applied(decision.plan)
    >>> controller.placement.rank_load([[900, 800, 100, 200]]).tolist()
    [[1000.0, 1000.0]]
    """

    def __init__(
        self,
        cluster: Cluster,
        num_layers: int,
        num_experts: int,
        *,
        placement: Placement,
        settings: ControlSettings | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        num_layers, num_experts = check_integer("num_layers", num_layers), check_integer("num_experts", num_experts)
        settings = ControlSettings() if settings is None else settings
        check_type("cluster", cluster, Cluster)
        check_type("settings", settings, ControlSettings)
        self._begin(cluster, num_layers, num_experts, placement, settings, telemetry)
        if not settings.is_plain:
            self._planned(np.ones((num_layers, num_experts)), self.placement, MoveBudget(gain_per_move=1.0), "fast")

    def _begin(
        self,
        cluster: Cluster,
        num_layers: int,
        num_experts: int,
        placement: Placement,
        settings: ControlSettings,
        telemetry: Telemetry | None,
    ) -> None:
        """Know nothing yet but what is in use."""
        self.settings, self.telemetry = settings, telemetry
        self.num_experts = num_experts
        self._cluster = cluster
        rows = _fitting(placement, cluster, num_layers, num_experts)
        num_memories = len(settings.memories)
        zeros, flags = np.zeros(num_layers), np.zeros(num_layers, np.bool_)
        self._standing = Standing(
            rows.copy(),
            rows.copy(),
            zeros.copy(),
            zeros.copy(),
            zeros.copy(),
            np.array(cluster.alive),
            flags,
            zeros.copy(),
            zeros.copy(),
        )
        self._memories = Memories.begin(settings.memories, num_layers, num_experts)
        self._watch = ChangeWatch.begin(num_layers, num_experts)
        self._evidence = Evidence.begin(num_memories, num_layers)
        self._candidates = Candidates(
            np.tile(rows, (num_memories, 1, 1)), np.zeros((num_memories, num_layers)), np.zeros((num_memories, num_layers))
        )

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return len(self._standing.slots)

    @property
    def cluster(self) -> Cluster:
        """The ranks, and which are up now."""
        return self._cluster

    @property
    def placement(self) -> Placement:
        """In use; slots of ranks that are down hold ABSENT."""
        return Placement(self._standing.slots, self._cluster, self.num_experts)

    @property
    def pending(self) -> Placement | None:
        """Handed out, and nothing heard of it since, if any; slots of ranks that failed since hold ABSENT."""
        standing = self._standing
        return Placement(standing.pending, self._cluster, self.num_experts) if standing.is_pending else None

    @property
    def step(self) -> int:
        """Of the last window observed; -1 before any."""
        return self._standing.step

    @property
    def overdue(self) -> int:
        """Plans so far of which nothing was heard in time."""
        return self._standing.overdue

    def observe(self, load: npt.ArrayLike, step: int) -> None:
        """Take in a window.

        Parameters
        ----------
        load : array_like [layers, experts]
            Tokens; finite and >= 0.
        step : int
            When it ended; above that of the window before.

        Raises
        ------
        ArgumentError
            On another shape, a value out of range, or a step that does not rise; nothing is changed.
        """
        step = self._checked_step(step)
        window = self._checked_load(load)
        share, total = to_shares(window)
        standing, evidence, loaded = self._standing, self._evidence, total > 0.0
        standing.largest, standing.ideal = self._times(self.placement, window)
        lost = _excess(standing.largest, standing.ideal)
        judged = self._judged(window)
        followed = evidence.followed
        loss = None if judged is None else mean_of((judged[followed] / self._known_factor(followed))[loaded])
        standing.is_new = self._watch.observe(share, total, self._memories.mean[0], loss) or standing.windows == 0
        if standing.windows == 1:
            evidence.weight[:] = 0.0  # the placement at the start may have been made for the first window
        if standing.is_new:
            self._begin_domain()
        elif judged is not None:
            differs = (self._candidates.slots[followed] != standing.slots).any(axis=1)
            evidence.judge(lost, judged, self._candidates.planned, self._candidates.known, loaded, differs)
        evidence.observe(lost, loaded)
        self._memories.observe(share, total)
        self._candidates.are_made = False
        standing.step = step
        standing.windows += 1
        standing.age += 1
        if self.telemetry is not None:
            self.telemetry.observed(metrics.balancedness(standing.largest, standing.ideal), standing.age)

    def decide(self) -> Decision:
        """Return what to do until the next decision.

        A plan is handed out once; until :meth:`applied` or :meth:`dropped` tells what became of it, nothing else is: what is
        not known to be in use cannot be sent from.
        """
        standing = self._standing
        overdue = standing.overdue
        decision = self._made_decision(self._watchdog())
        decision = replace(decision, overdue=standing.overdue - overdue)
        standing.decisions += 1
        if decision.plan is not None:
            standing.pending = decision.plan.placement.expert_of_slot.copy()
            standing.pending_known = self._candidates.known[self._evidence.followed].copy()
            standing.is_pending, standing.is_cut, standing.waited = True, False, 0
        if self.telemetry is not None:
            self.telemetry.decided(decision, decision.moves * self.settings.expert_bytes)
        return decision

    def applied(self, plan: Plan | Placement | Recovery) -> None:
        """Take note of a placement that came into use: that of a plan handed out, whole or in part, or any other.

        Slots may be ABSENT, those of ranks that are down must be, and experts may have none: they are recovered. Of what
        :func:`equipoise.migrating.recovering.recover` found its ``state`` counts, without buffers that hold last replicas: what
        only they hold is lost, unless its schedule is carried out first and its ``target`` told.

        Raises
        ------
        ArgumentError
            When it is of another model or other ranks, or uses a rank that is down; nothing is changed.
        """
        placement = plan.placement if isinstance(plan, Plan) else plan
        if isinstance(placement, Recovery):
            placement = _without_buffers(placement.state, self._cluster)
        rows = _fitting(placement, self._cluster, self.num_layers, self.num_experts)
        standing = self._standing
        changed = (rows != standing.slots).any(axis=1)
        as_planned = standing.is_pending & (rows == standing.pending).all(axis=1)
        standing.known[changed] = np.where(as_planned, standing.pending_known, 0.0)[changed]
        expected = np.where(as_planned, standing.pending_loss, np.nan)
        standing.slots = rows.copy()
        standing.is_open[changed] = False
        standing.is_pending, standing.is_cut, standing.waited, standing.age = False, False, 0, 0
        self._evidence.begin_placement(changed, expected)

    def dropped(self) -> None:
        """Take note that the plan handed out will not come into use, and that nothing of it was done.

        Raises
        ------
        ArgumentError
            When none was.
        """
        if not self._standing.is_pending:
            raise ArgumentError("no plan is waited for", "only one that was handed out can be dropped", "leave the call out")
        standing = self._standing
        standing.is_pending, standing.is_cut, standing.waited = False, False, 0

    def failed(self, rank: int) -> None:
        """Take note that a rank went down; what it held is lost. Of a plan handed out it must be told what was done.

        Raises
        ------
        ArgumentError
            When there is no such rank, it is down already, or it is the last one up; nothing is changed.
        """
        self._set_alive(rank, False)
        its_own = self._cluster.rank_of_slot == rank
        self._standing.slots[:, its_own] = ABSENT
        self._standing.pending[:, its_own] = ABSENT

    def returned(self, rank: int) -> None:
        """Take note that a rank is up again, with empty slots. Of a plan handed out it must be told what was done.

        Raises
        ------
        ArgumentError
            When there is no such rank, or it is up already; nothing is changed.
        """
        self._set_alive(rank, True)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state to one file, whole or not at all; what the file held before is kept beside it as ``.bak``.

        Raises
        ------
        FileError
            When it cannot be written, or the name is that of a file that holds something else.
        ArgumentError
            When the path is none.
        """
        from equipoise.controlling.saving import save_controller

        save_controller(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str], *, telemetry: Telemetry | None = None) -> Controller:
        """Return the controller that was saved; it goes on as if it had never stopped.

        Raises
        ------
        FileError
            When the file cannot be read, is torn, or holds something else; the message says where the last good one is.
        """
        from equipoise.controlling.saving import load_controller

        return load_controller(path, telemetry)

    def _checked_step(self, step: int) -> int:
        step = check_integer("step", step, 0)
        if step <= self._standing.step:
            raise ArgumentError(
                f"step is {step}, after {self._standing.step}", "steps must rise", "pass each window once, oldest first"
            )
        return step

    def _checked_load(self, load: npt.ArrayLike) -> Floats:
        try:
            window = np.array(load, np.float64, order="C")
        except (TypeError, ValueError) as error:
            raise ArgumentError("load is no array of numbers", "it must be [layers, experts] tokens", "pass counts") from error
        shape = (self.num_layers, self.num_experts)
        if window.shape != shape:
            raise ArgumentError(
                f"load has shape {list(window.shape)}", f"it must be {list(shape)}, layers and experts", "pass one window"
            )
        wrong = np.argwhere(~(np.isfinite(window) & (window >= 0.0)))
        if wrong.size:
            layer, expert = (int(i) for i in wrong[0])
            raise ArgumentError(
                f"layer {layer}, expert {expert} has load {window[layer, expert]}",
                "load must be finite and >= 0",
                "check where it is counted",
            )
        return window

    def _judged(self, window: Floats) -> Floats | None:
        """Return what candidates lose on a window, [memories, layers], if any were made."""
        if not self._candidates.are_made:
            return None
        placements = (Placement(slots, self._cluster, self.num_experts) for slots in self._candidates.slots)
        return np.stack([_excess(*self._times(placement, window)) for placement in placements])

    def _known_factor(self, memory: int) -> Floats:
        return unknown(np.maximum(self._candidates.known[memory], 1.0))

    def _begin_domain(self) -> None:
        self._memories.forget()
        self._evidence.forget()
        self._standing.known[:] = 0.0
        self._standing.pending_known[:] = 0.0

    def _times(self, placement: Placement, load: Floats) -> tuple[Floats, Floats]:
        return layer_times(placement, load, self.settings.dispatch)

    def _watchdog(self) -> tuple[str, ...]:
        """Count the decisions that a plan is waited for; say whether it is overdue, and what is stale."""
        standing, settings, said = self._standing, self.settings, []
        if standing.is_pending:
            standing.waited += 1
            standing.overdue += standing.waited == settings.overdue_after + 1
            if self._is_overdue:
                said.append(f"the plan handed out {standing.waited} decisions ago is overdue")
        balance = metrics.balancedness(standing.largest, standing.ideal)
        if standing.age > settings.stale_after and balance < settings.low_balance:
            said.append(f"the placement has been in use for {standing.age} windows and balance is {balance:.3f}")
        return tuple(said)

    @property
    def _is_overdue(self) -> bool:
        return self._standing.is_pending and self._standing.waited > self.settings.overdue_after

    def _made_decision(self, warnings: tuple[str, ...]) -> Decision:
        if self._standing.is_pending and (self._standing.is_cut or self._is_overdue):
            return self._kept("unsettled", warnings, _TELL)
        is_owed = owed_layers(self.placement, self.settings.constraints)
        if self._memories.is_empty and not is_owed.any():
            return self._kept("no-load", warnings)
        slots_up = int(self._cluster.slot_counts[self._standing.alive].sum())
        if slots_up < self.num_experts:
            return self._kept("no-room", warnings, f" ({slots_up} for {self.num_experts})")
        try:
            found = self._found_plan(bool(is_owed.any()))
        except EquipoiseError as error:
            return self._kept("no-plan", warnings, f": {error}")
        known = self._outlook(found)
        estimate = estimate_gains(known, self._evidence.variance(), self._standing.is_new)
        expected = np.where(known.weight > 0.0, known.lost, known.before)
        standing = self._standing
        if standing.is_pending:
            return self._kept("waiting", warnings, predicted=self._predicted(known, expected))
        choice, code = self._chosen(found, known, estimate, is_owed)
        if code in ("steady", "cost", "budget"):
            gain, cost = (total_of(choice.gain), total_of(choice.cost)) if choice is not None else (0.0, 0.0)
            return self._kept(code, warnings, gain=gain, cost=cost, predicted=self._predicted(known, expected))
        assert choice is not None
        standing.pending_loss = expected_loss(known)
        return self._moved(found, known, estimate, choice, code, warnings)

    def _found_plan(self, is_owed: bool) -> Plan:
        """Make a plan from each memory; return that of the one followed."""
        found = [self._plan_for(self._memories.forecast(memory), is_owed) for memory in range(len(self._memories.kept))]
        made = self._candidates
        made.slots = np.stack([one.placement.expert_of_slot for one in found])
        made.planned = np.stack([_excess(one.largest, one.ideal) for one in found])
        made.known = self._memories.windows
        made.are_made = not self._memories.is_empty
        return found[self._evidence.followed]

    def _plan_for(self, load: Floats, is_owed: bool) -> Plan:
        """Plan within the budget of a layer; where experts are owed replicas that does not bind, for they must be placed.

        They may be so before a layer had any load: an even one is planned for.
        """
        budget = self.settings.layer_budget
        if is_owed:
            budget = replace(budget, per_layer=None)
            load = np.where(load.any(axis=1, keepdims=True), load, 1.0)
        return self._planned(load, self.placement, budget, self.settings.effort)

    def _planned(self, load: Floats, previous: Placement, budget: MoveBudget, effort: str) -> Plan:
        """Plan from a placement, as the settings ask."""
        settings = self.settings
        return plan(
            load,
            self._cluster,
            num_groups=settings.num_groups,
            locality=settings.locality,
            constraints=settings.constraints,
            dispatch=settings.dispatch,
            previous=previous,
            budget=budget,
            effort=effort,
        )

    def _outlook(self, found: Plan) -> Outlook:
        evidence, memory = self._evidence, self._evidence.followed
        tokens = self._memories.total / float(self._standing.alive.sum())
        return Outlook(
            evidence.lost,
            evidence.weight,
            self._candidates.planned[memory],
            _excess(*self._times(self.placement, found.load)),
            evidence.expected_unforeseen(tokens),
            self._standing.known,
            self._candidates.known[memory],
            self._memories.total > 0.0,
        )

    def _chosen(self, found: Plan, known: Outlook, estimate: Estimate, is_owed: Flags) -> tuple[_Choice | None, str]:
        """Return what to move and the reason's code; what was considered where nothing is to be moved."""
        standing, settings = self._standing, self.settings
        standing.is_open = open_layers(
            estimate,
            standing.is_open,
            known.loaded,
            mean_of(known.lost[known.loaded]),
            least_gain=settings.least_gain,
            least_share=settings.least_share,
            caution=0.0 if standing.is_new else settings.caution,
        )
        rows = found.placement.expert_of_slot
        differs = (rows != standing.slots).any(axis=1)
        most = settings.budget.per_layer
        allowed = standing.is_open & (found.moves <= (np.inf if most is None else most))
        considered = np.flatnonzero((allowed | is_owed) & differs).tolist()
        if not considered:
            return None, "steady"
        gain = estimate.gain * found.ideal * (settings.seconds_per_token * settings.windows_per_interval)
        choice = self._choice(rows, considered, gain)
        paying = [layer for layer in considered if is_owed[layer] or choice.gain[layer] > choice.cost[layer]]
        if not paying:
            return choice, "cost"
        layers, rows = self._within_budget(found, paying, gain, is_owed)
        if not layers:
            return choice, "budget"
        code = "recover" if is_owed[layers].any() else "change" if standing.is_new and standing.windows > 1 else "gain"
        return self._choice(rows, layers, gain), code

    def _choice(self, rows: Ints, layers: list[int], gain: Floats) -> _Choice:
        """Return what it takes and brings to use some layers' rows."""
        settings = self.settings
        slots = self._standing.slots.copy()
        slots[layers] = rows[layers]
        schedule = schedule_moves(
            self.placement,
            Placement(slots, self._cluster, self.num_experts),
            mode=settings.mode,
            staging=settings.staging,
            chunk=settings.chunk,
        )
        cost = settings.stall * schedule.layer_seconds(settings.links, settings.expert_bytes)
        moved = np.zeros(self.num_layers, np.bool_)
        moved[layers] = True
        return _Choice(slots, schedule, layers, np.where(moved, gain, 0.0), cost)

    def _within_budget(self, found: Plan, layers: list[int], gain: Floats, is_owed: Flags) -> tuple[list[int], Ints]:
        """Return the layers whose moves the budget allows, those that owe replicas first, then by gain a move.

        What is left over goes to the first layer that did not fit, planned anew with so few moves.
        """
        rows, most = found.placement.expert_of_slot, self.settings.budget.most_moves
        moves = found.moves.astype(np.float64)
        lost = [layer for layer in layers if is_owed[layer]]
        others = np.array([layer for layer in layers if not is_owed[layer]], np.int64)
        if most is None:
            return layers, rows
        left = max(0, most - int(moves[lost].sum()))
        fitting, waiting = in_priority(gain[others], moves[others], left)
        chosen = [int(layer) for layer in others[fitting]]
        left -= int(moves[chosen].sum())
        if waiting and left > 0:
            layer = int(others[waiting[0]])
            rows = rows.copy()
            rows[layer] = self._row_within(found, layer, left)
            if (rows[layer] != self._standing.slots[layer]).any():
                chosen.append(layer)
        return sorted(lost + chosen), rows

    def _row_within(self, found: Plan, layer: int, most: int) -> Ints:
        """Plan one layer within few moves."""
        previous = Placement(self._standing.slots[layer : layer + 1], self._cluster, self.num_experts)
        per_layer = self.settings.layer_budget.per_layer
        budget = replace(self.settings.layer_budget, per_layer=most if per_layer is None else min(most, per_layer))
        one = self._planned(found.load[layer : layer + 1], previous, budget, self.settings.effort)
        row: Ints = one.placement.expert_of_slot[0]
        return row

    def _moved(
        self, found: Plan, known: Outlook, estimate: Estimate, choice: _Choice, code: str, warnings: tuple[str, ...]
    ) -> Decision:
        placement = Placement(choice.slots, self._cluster, self.num_experts)
        largest, ideal = self._times(placement, found.load)
        mixed = replace(
            found,
            placement=placement,
            balancedness=metrics.balancedness(largest, ideal),
            largest=largest,
            gap=gap(largest, found.bound),
            moves=placement.moves_from(self.placement),
        )
        expected = np.where(known.weight > 0.0, known.lost, known.before)
        expected[choice.layers] -= estimate.gain[choice.layers]
        gain, cost = total_of(choice.gain), total_of(choice.cost)
        words = (
            f"{CODES[code]}: {len(choice.layers)} of {self.num_layers} layers, {int(mixed.moves.sum())} moves; "
            f"expected gain {gain:.3g} s, cost {cost:.3g} s"
        )
        return self._decision(code, words, warnings, gain, cost, self._predicted(known, expected), mixed, choice)

    def _kept(
        self,
        code: str,
        warnings: tuple[str, ...],
        more: str = "",
        gain: float = 0.0,
        cost: float = 0.0,
        predicted: float = float("nan"),
    ) -> Decision:
        if code == "cost":
            more = f": {gain:.3g} s against {cost:.3g} s"
        return self._decision(code, CODES[code] + more, warnings, gain, cost, predicted)

    def _decision(
        self,
        code: str,
        reason: str,
        warnings: tuple[str, ...],
        gain: float,
        cost: float,
        predicted: float,
        found: Plan | None = None,
        choice: _Choice | None = None,
    ) -> Decision:
        standing = self._standing
        return Decision(
            number=standing.decisions,
            step=standing.step,
            code=code,
            reason="; ".join((reason, *warnings)),
            plan=found,
            schedule=None if choice is None else choice.schedule,
            layers=() if choice is None else tuple(choice.layers),
            gain_seconds=gain,
            cost_seconds=cost,
            balance=metrics.balancedness(standing.largest, standing.ideal) if standing.windows else float("nan"),
            predicted=predicted,
            age=standing.age,
            warnings=warnings,
        )

    def _predicted(self, known: Outlook, expected: Floats) -> float:
        """Return the balance to be expected, from what each layer is expected to lose."""
        ideal = np.where(known.loaded, self._memories.total, 0.0)
        return metrics.balancedness(ideal * (1.0 + np.maximum(expected, 0.0)), ideal)

    def _set_alive(self, rank: int, is_up: bool) -> None:
        if check_integer("rank", rank, 0) >= self._cluster.num_ranks:
            raise ArgumentError(f"rank is {rank}", f"ranks are 0..{self._cluster.num_ranks - 1}", "check the rank's number")
        if self._cluster.alive[rank] == is_up:
            state = "up" if is_up else "down"
            raise ArgumentError(
                f"rank {rank} is {state}",
                f"it is so already, and cannot {'return' if is_up else 'fail'}",
                "check the rank's number",
            )
        alive = self._standing.alive.copy()
        alive[rank] = is_up
        self._cluster = replace(self._cluster, alive=alive.tolist())
        standing = self._standing
        standing.alive = alive
        standing.is_cut, standing.is_new = standing.is_pending, True
        standing.known[:], standing.pending_known[:], standing.pending_loss[:] = 0.0, 0.0, np.nan
        self._candidates.are_made = False
        self._evidence.forget()


_TELL = "; call applied() with what is in use (a recover() says it of a schedule cut short), or dropped() if nothing was done"


def _excess(largest: Floats, ideal: Floats) -> Floats:
    """Return largest / ideal - 1, [layers]; 0 without load."""
    excess: Floats = np.divide(largest, ideal, out=np.ones_like(largest), where=ideal > 0.0) - 1.0
    return excess


def _without_buffers(state: Placement, cluster: Cluster) -> Placement:
    """Return a recovery's state on the slots of a cluster, without the places behind them; another cluster's as it is."""
    theirs, ours = state.cluster.slot_counts, cluster.slot_counts
    if theirs.shape != ours.shape or (theirs < ours).any():
        return state
    place = np.arange(theirs.sum()) - np.repeat(np.cumsum(theirs) - theirs, theirs)
    is_slot = place < np.repeat(ours, theirs)
    slots = np.ascontiguousarray(state.expert_of_slot[:, is_slot])
    return Placement(slots, replace(state.cluster, slots_per_rank=ours.tolist()), state.num_experts)


def _fitting(placement: object, cluster: Cluster, num_layers: int, num_experts: int) -> Ints:
    """Return the slots of a placement of this model on these ranks; refuse any other."""
    if not isinstance(placement, Placement):
        raise ArgumentError(
            f"placement is a {type(placement).__name__}", "it must be a Placement", "pass a placement or a plan"
        )
    if (placement.num_layers, placement.num_experts) != (num_layers, num_experts):
        raise ArgumentError(
            f"the placement has {placement.num_layers} layers of {placement.num_experts} experts",
            f"the controller has {num_layers} of {num_experts}",
            "pass a placement of the same model",
        )
    if placement.cluster.slot_counts.tolist() != cluster.slot_counts.tolist():
        raise ArgumentError(
            f"the placement has {placement.cluster.num_ranks} ranks with {placement.cluster.num_slots} slots",
            f"the controller has {cluster.num_ranks} with {cluster.num_slots}, rank by rank",
            "pass a placement on the same ranks",
        )
    down = ~np.asarray(cluster.alive)[cluster.rank_of_slot]
    used = np.argwhere((placement.expert_of_slot != ABSENT) & down)
    if used.size:
        layer, slot = (int(i) for i in used[0])
        raise ArgumentError(
            f"layer {layer}, slot {slot} holds an expert",
            f"rank {cluster.rank_of_slot[slot]} is down",
            "plan for the ranks that are up",
        )
    rows: Ints = placement.expert_of_slot
    return rows
