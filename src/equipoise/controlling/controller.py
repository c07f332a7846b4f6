"""Controller: observe windows, decide whether a new plan is worth its moves, and know what is in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.controlling.changes import ChangeWatch
from equipoise.controlling.decisions import CODES, Decision
from equipoise.controlling.evidence import Evidence, unknown
from equipoise.controlling.gating import Estimate, Outlook, estimate_gains, expected_loss, in_priority, open_layers
from equipoise.controlling.memories import Memories
from equipoise.controlling.settings import ControlSettings
from equipoise.controlling.summing import mean_of, total_of
from equipoise.controlling.telemetry import Telemetry
from equipoise.errors import ArgumentError
from equipoise.kernels.shares import to_shares
from equipoise.kernels.types import Flags, Floats, Ints
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
        Placement in use; the one handed out, as it was given (``is_pending``).
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
        Decisions since the plan handed out; plans given up since they never came into use.
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
        When the placement is of another model or other ranks.

    Notes
    -----
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
        self.settings = ControlSettings() if settings is None else settings
        self.telemetry = telemetry
        self.num_experts = num_experts
        self._cluster = cluster
        rows = _fitting(placement, cluster, num_layers, num_experts)
        num_memories = len(self.settings.memories)
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
        self._memories = Memories.begin(self.settings.memories, num_layers, num_experts)
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
        """Handed out and not in use yet, if any."""
        standing = self._standing
        return Placement(standing.pending, self._cluster, self.num_experts) if standing.is_pending else None

    @property
    def step(self) -> int:
        """Of the last window observed; -1 before any."""
        return self._standing.step

    @property
    def overdue(self) -> int:
        """Plans given up so far, since they never came into use."""
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
        standing.largest, standing.ideal = self.placement.layer_times(window)
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

        A plan is handed out once; until :meth:`applied` or :meth:`dropped` tells what became of it, nothing else is, but for
        ``overdue_after`` decisions at most.
        """
        standing = self._standing
        given_up = standing.overdue
        decision = self._made_decision(self._watchdog())
        decision = replace(decision, given_up=standing.overdue - given_up)
        standing.decisions += 1
        if decision.plan is not None:
            standing.pending = decision.plan.placement.expert_of_slot.copy()
            standing.pending_known = self._candidates.known[self._evidence.followed].copy()
            standing.is_pending, standing.waited = True, 0
        if self.telemetry is not None:
            self.telemetry.decided(decision, decision.moves * self.settings.expert_bytes)
        return decision

    def applied(self, plan: Plan | Placement) -> None:
        """Take note of a placement that came into use: that of a plan handed out, whole or in part, or any other.

        Raises
        ------
        ArgumentError
            When it is of another model or other ranks, or uses a rank that is down; nothing is changed.
        """
        placement = plan.placement if isinstance(plan, Plan) else plan
        rows = _fitting(placement, self._cluster, self.num_layers, self.num_experts)
        standing = self._standing
        changed = (rows != standing.slots).any(axis=1)
        as_planned = standing.is_pending & (rows == standing.pending).all(axis=1)
        standing.known[changed] = np.where(as_planned, standing.pending_known, 0.0)[changed]
        expected = np.where(as_planned, standing.pending_loss, np.nan)
        standing.slots = rows.copy()
        standing.is_open[changed] = False
        standing.is_pending, standing.waited, standing.age = False, 0, 0
        self._evidence.begin_placement(changed, expected)

    def dropped(self) -> None:
        """Take note that the plan handed out will not come into use.

        Raises
        ------
        ArgumentError
            When none was.
        """
        if not self._standing.is_pending:
            raise ArgumentError("no plan is waited for", "only one that was handed out can be dropped", "leave the call out")
        self._standing.is_pending, self._standing.waited = False, 0

    def failed(self, rank: int) -> None:
        """Take note that a rank went down; what it held is lost, and a plan handed out is given up.

        Raises
        ------
        ArgumentError
            When there is no such rank, it is down already, or it is the last one up; nothing is changed.
        """
        self._set_alive(rank, False)
        self._standing.slots[:, self._cluster.rank_of_slot == rank] = ABSENT

    def returned(self, rank: int) -> None:
        """Take note that a rank is up again, with empty slots; a plan handed out is given up.

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
        return np.stack([_excess(*placement.layer_times(window)) for placement in placements])

    def _known_factor(self, memory: int) -> Floats:
        return unknown(np.maximum(self._candidates.known[memory], 1.0))

    def _begin_domain(self) -> None:
        self._memories.forget()
        self._evidence.forget()
        self._standing.known[:] = 0.0

    def _watchdog(self) -> tuple[str, ...]:
        """Give up a plan that was waited for too long; say so, and what is stale."""
        standing, settings, said = self._standing, self.settings, []
        if standing.is_pending:
            standing.waited += 1
            if standing.waited > settings.overdue_after:
                standing.is_pending = False
                standing.overdue += 1
                said.append(f"the plan handed out {standing.waited} decisions ago never came into use, and is given up")
                standing.waited = 0
        balance = metrics.balancedness(standing.largest, standing.ideal)
        if standing.age > settings.stale_after and balance < settings.low_balance:
            said.append(f"the placement has been in use for {standing.age} windows and balance is {balance:.3f}")
        return tuple(said)

    def _made_decision(self, warnings: tuple[str, ...]) -> Decision:
        if self._memories.is_empty:
            return self._kept("no-load", warnings)
        slots_up = int(self._cluster.slot_counts[self._standing.alive].sum())
        if slots_up < self.num_experts:
            return self._kept("no-room", warnings, f" ({slots_up} for {self.num_experts})")
        found = self._found_plan()
        known = self._outlook(found)
        estimate = estimate_gains(known, self._evidence.variance(), self._standing.is_new)
        expected = np.where(known.weight > 0.0, known.lost, known.before)
        standing = self._standing
        if standing.is_pending:
            return self._kept("waiting", warnings, predicted=self._predicted(known, expected))
        is_lost = np.zeros(self.num_layers, np.bool_)
        is_lost[[layer for layer, _ in self.placement.lost_experts]] = True
        choice, code = self._chosen(found, known, estimate, is_lost)
        if code in ("steady", "cost", "budget"):
            gain, cost = (total_of(choice.gain), total_of(choice.cost)) if choice is not None else (0.0, 0.0)
            return self._kept(code, warnings, gain=gain, cost=cost, predicted=self._predicted(known, expected))
        assert choice is not None
        standing.pending_loss = expected_loss(known)
        return self._moved(found, known, estimate, choice, code, warnings)

    def _found_plan(self) -> Plan:
        """Make a plan from each memory; return that of the one followed."""
        found = [self._plan_for(self._memories.forecast(memory)) for memory in range(len(self._memories.kept))]
        made = self._candidates
        made.slots = np.stack([one.placement.expert_of_slot for one in found])
        made.planned = np.stack([_excess(one.largest, one.ideal) for one in found])
        made.known = self._memories.windows
        made.are_made = True
        return found[self._evidence.followed]

    def _plan_for(self, load: Floats) -> Plan:
        """Plan within the budget of a layer; where experts are lost that does not bind, for they must be placed."""
        settings, now = self.settings, self.placement
        budget = replace(settings.layer_budget, per_layer=None) if now.lost_experts else settings.layer_budget
        return plan(load, self._cluster, previous=now, budget=budget, effort=settings.effort)

    def _outlook(self, found: Plan) -> Outlook:
        evidence, memory = self._evidence, self._evidence.followed
        tokens = self._memories.total / float(self._standing.alive.sum())
        return Outlook(
            evidence.lost,
            evidence.weight,
            self._candidates.planned[memory],
            _excess(*self.placement.layer_times(found.load)),
            evidence.expected_unforeseen(tokens),
            self._standing.known,
            self._candidates.known[memory],
            found.ideal > 0.0,
        )

    def _chosen(self, found: Plan, known: Outlook, estimate: Estimate, is_lost: Flags) -> tuple[_Choice | None, str]:
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
        considered = np.flatnonzero((allowed | is_lost) & differs).tolist()
        if not considered:
            return None, "steady"
        gain = estimate.gain * found.ideal * (settings.seconds_per_token * settings.windows_per_interval)
        choice = self._choice(rows, considered, gain)
        paying = [layer for layer in considered if is_lost[layer] or choice.gain[layer] > choice.cost[layer]]
        if not paying:
            return choice, "cost"
        layers, rows = self._within_budget(found, paying, gain, is_lost)
        if not layers:
            return choice, "budget"
        code = "recover" if is_lost[layers].any() else "change" if standing.is_new and standing.windows > 1 else "gain"
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

    def _within_budget(self, found: Plan, layers: list[int], gain: Floats, is_lost: Flags) -> tuple[list[int], Ints]:
        """Return the layers whose moves the budget allows, those that lost experts first, then by gain a move.

        What is left over goes to the first layer that did not fit, planned anew with so few moves.
        """
        rows, most = found.placement.expert_of_slot, self.settings.budget.most_moves
        moves = found.moves.astype(np.float64)
        lost = [layer for layer in layers if is_lost[layer]]
        others = np.array([layer for layer in layers if not is_lost[layer]], np.int64)
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
        one = plan(found.load[layer : layer + 1], self._cluster, previous=previous, budget=budget, effort=self.settings.effort)
        row: Ints = one.placement.expert_of_slot[0]
        return row

    def _moved(
        self, found: Plan, known: Outlook, estimate: Estimate, choice: _Choice, code: str, warnings: tuple[str, ...]
    ) -> Decision:
        placement = Placement(choice.slots, self._cluster, self.num_experts)
        largest, ideal = placement.layer_times(found.load)
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
        standing.is_pending, standing.waited, standing.is_new = False, 0, True
        standing.known[:] = 0.0
        self._candidates.are_made = False
        self._evidence.forget()


def _excess(largest: Floats, ideal: Floats) -> Floats:
    """Return largest / ideal - 1, [layers]; 0 without load."""
    excess: Floats = np.divide(largest, ideal, out=np.ones_like(largest), where=ideal > 0.0) - 1.0
    return excess


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
