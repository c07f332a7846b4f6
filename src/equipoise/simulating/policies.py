"""What decides on placements while a trace is replayed: by its parts, a fixed placement, or anything with the same methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Protocol

import numpy as np

from equipoise.budget import MoveBudget
from equipoise.checks import check_choice, check_integer, check_seed
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.controlling.controller import Controller
from equipoise.controlling.settings import ControlSettings
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.forecasting.forecasters import Scenarios, Steps
from equipoise.forecasting.naming import make_forecaster
from equipoise.forecasting.protocol import Forecaster, Memory
from equipoise.forecasting.robust import Robust
from equipoise.kernels.scoring import audit
from equipoise.kernels.types import Floats
from equipoise.placement import Placement
from equipoise.planning.backtesting import Backtest
from equipoise.planning.comparing import pack_as_published
from equipoise.planning.connecting import WINDOWS, plan_for_dispatch
from equipoise.planning.continuing import Wanted, plan_from
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.planner import DISPATCHES, plan
from equipoise.planning.problem import make_problem, spread_slots
from equipoise.planning.published import CONSTRUCTORS, named_composition, split_name
from equipoise.planning.scenarios import mean_load
from equipoise.simulating.rules import make_rule
from equipoise.simulating.triggers import Times, Trigger, even_times, judging_by, make_trigger

OURS = "equipoise"
CONTROLLER = "controller"
ONCE = 0


class Actor(Protocol):
    """A policy at work on one trace. It is shown each window once, in order, after that window has been scored."""

    def observe(self, load: Floats) -> None:
        """See a window that is over, tokens [layers, experts], read-only."""
        ...

    def decide(self) -> Placement | None:
        """Return the placement for the next window, or None to keep the one in use. Asked before each window but the first."""
        ...


class Policy(Protocol):
    """Settings of a way to decide on placements."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def begin(self, cluster: Cluster, num_layers: int, num_experts: int) -> Actor:
        """Return a policy at work that has seen nothing yet."""
        ...


@dataclass(frozen=True)
class PlannedPolicy:
    """Plan by parts: a forecaster, a planner with its effort, redundancy, an interval and a trigger.

    Parameters
    ----------
    forecast : str or Forecaster
        What is planned for (:func:`equipoise.forecasting.naming.make_forecaster`).
    effort : "fast", "default" or "best"
        Of our planner.
    planner : str
        ``equipoise``, or a published packing such as ``lpt+swap`` (``equipoise compare`` lists them).
    slots : int, optional
        Slots over all ranks; default: the cluster's.
    every : int
        Windows between plans, >= 1; 0 plans once, after the first window.
    trigger : str or Trigger
        Whether a plan is worth it when its time has come (:mod:`equipoise.simulating.triggers`).
    moves : int, optional
        Moves a layer and plan, at most: every plan but the first starts from the placement in use
        (:class:`equipoise.MoveBudget`). Default: placements are planned anew.
    gain_per_move : float, optional
        Part of a layer's ideal time that a move must save; plans then start from the placement in use too.
    num_groups, locality, home_share
        As for :func:`equipoise.plan`.
    planned_for : "equal" or "optimal"
        The split that our planner plans for (``dispatch`` of :func:`equipoise.plan`); ``optimal`` goes with no other planner,
        no locality and no home share.
    dispatch : str, optional
        How its tokens are split (:mod:`equipoise.simulating.rules`); default: the simulation's rule.
    seed : int
        Of published packings that draw random numbers.
    label : str, optional
        What it is called in results; default: its settings that differ from the defaults.

    Examples
    --------
    >>> PlannedPolicy(forecast="auto", every=4).name
    'auto,every=4'
    """

    forecast: str | Forecaster = "last"
    effort: str = "default"
    planner: str = OURS
    slots: int | None = None
    every: int = 1
    trigger: str | Trigger = "always"
    moves: int | None = None
    gain_per_move: float | None = field(default=None, metadata={"text": "gain"})
    num_groups: int = field(default=1, metadata={"text": "groups"})
    locality: str = "none"
    home_share: float | None = None
    planned_for: str = "equal"
    dispatch: str | None = None
    seed: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        make_forecaster(self.forecast)
        make_trigger(self.trigger)
        check_choice("effort", self.effort, tuple(EFFORTS))
        check_choice("planned_for", self.planned_for, DISPATCHES)
        check_integer("every", self.every, ONCE)
        check_seed(self.seed)
        if self.dispatch is not None:
            make_rule(self.dispatch)
        if self.home_share is not None:
            Constraints(self.home_share)
        if self.planner != OURS:
            check_choice("planner", split_name(self.planner)[0], (OURS, *CONSTRUCTORS))
            named_composition(*split_name(self.planner))
        self._refuse_what_optimal_ignores()
        self._refuse_what_budgets_ignore()

    @property
    def budget(self) -> MoveBudget | None:
        """What plans may move; None where placements are planned anew."""
        if self.moves is None and self.gain_per_move is None:
            return None
        return MoveBudget(per_layer=self.moves, gain_per_move=self.gain_per_move or 0.0)

    def _refuse_what_budgets_ignore(self) -> None:
        if self.budget is not None and (self.planner != OURS or self.locality == "soft"):
            raise ArgumentError(
                f"moves or gain with planner={self.planner}, locality={self.locality}",
                "only our planner goes on from a placement, without soft locality",
                "leave the budget out, or the other",
            )
        forecaster = make_forecaster(self.forecast)
        if self.budget is not None and isinstance(forecaster, Scenarios | Steps | Robust):
            raise ArgumentError(
                f"moves or gain with {forecaster.name}, a forecast of several loads",
                "plans from a placement are for one load",
                "leave the budget out, or forecast one load, such as auto",
            )

    def _refuse_what_optimal_ignores(self) -> None:
        for setting, usual in (("home_share", None), ("planner", OURS), ("locality", "none")):
            value = getattr(self, setting)
            if self.planned_for == "optimal" and value != usual:
                raise ArgumentError(
                    f"planned_for=optimal with {setting}={value}",
                    "only our planner plans for an optimal split, without a locality rule",
                    f"leave {setting} or planned_for out",
                )

    @property
    def name(self) -> str:
        """What it is called in results."""
        if self.label:
            return self.label
        parts = [make_forecaster(self.forecast).name]
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name not in ("forecast", "label") and value != setting.default:
                shown = "once" if setting.name == "every" and value == ONCE else getattr(value, "name", value)
                parts.append(f"{setting.metadata.get('text', setting.name)}={shown}")
        return ",".join(parts)

    def begin(self, cluster: Cluster, num_layers: int, num_experts: int, times: Times = even_times) -> Actor:
        """Return the policy at work, its trigger judging by ``times``; refuse what cannot be planned on ``cluster``."""
        cluster = self.on(cluster)
        self.plan_for(np.zeros((1, num_experts)), cluster)
        problem = make_problem(np.zeros((num_layers, num_experts)), cluster, self.num_groups, self.locality)
        memory = make_forecaster(self.forecast).begin(Backtest(problem))
        return _PlannedActor(self, cluster, memory, judging_by(make_trigger(self.trigger), times))

    def on(self, cluster: Cluster) -> Cluster:
        """Return the cluster with the slots that this policy has on its ranks."""
        if self.slots is None:
            return cluster
        return replace(cluster, slots_per_rank=spread_slots(self.slots, cluster.num_ranks))

    def plan_for(self, load: Floats, cluster: Cluster, windows: Sequence[Floats] = ()) -> Placement:
        """Plan with this policy's planner for a load [layers, experts] or for several, on ``cluster`` as it is.

        Published packings plan for the mean of several. ``windows`` are the last ones, for plans for optimal dispatch.
        """
        groups, locality = self.num_groups, self.locality
        if self.planner == OURS and self.planned_for == "optimal":
            several = load if load.ndim == 3 else np.array(windows).reshape(-1, *load.shape)
            problem = make_problem(mean_load(load) if load.ndim == 3 else load, cluster, groups, locality)
            return Placement(plan_for_dispatch(problem, several, self.effort).slots, cluster, problem.num_experts)
        if self.planner != OURS:
            load = mean_load(load) if load.ndim == 3 else load
            return pack_as_published(load, cluster, self.planner, num_groups=groups, locality=locality, seed=self.seed)
        return plan(
            load,
            cluster,
            num_groups=groups,
            locality=locality,
            effort=self.effort,
            constraints=None if self.home_share is None else Constraints(self.home_share),
            forecast=Steps() if load.ndim == 3 else None,
        ).placement

    def plan_on(self, load: Floats, previous: Placement, windows: Sequence[Floats]) -> Placement:
        """Plan from the placement in use, within the budget."""
        assert self.budget is not None
        if load.ndim == 3:
            raise NotSupportedError(
                "a forecast of several loads with moves or gain", "plans from a placement are for one load", "forecast one load"
            )
        problem = make_problem(load, previous.cluster, self.num_groups, self.locality)
        wanted = Wanted(self.budget, Constraints(), self.planned_for, self.effort, 1)
        found, _, _ = plan_from(problem, previous, wanted, np.array(windows).reshape(-1, *load.shape))
        return Placement(found.slots, previous.cluster, problem.num_experts)


class _PlannedActor:
    """A policy by parts at work."""

    def __init__(self, policy: PlannedPolicy, cluster: Cluster, memory: Memory, trigger: Trigger) -> None:
        self._policy = policy
        self._cluster = cluster
        self._memory = memory
        self._trigger = trigger
        self._placement: Placement | None = None
        self._windows: deque[Floats] = deque(maxlen=WINDOWS if policy.planned_for == "optimal" else 0)
        self._seen = 0

    def observe(self, load: Floats) -> None:
        self._memory.observe(load)
        self._windows.append(load)
        self._last = load
        self._seen += 1

    def decide(self) -> Placement | None:
        every = self._policy.every
        if self._placement is not None and (every == ONCE or (self._seen - 1) % every):
            return None
        if self._placement is not None and not self._trigger.is_due(self._placement, self._last):
            return None
        expected = self._memory.forecast()
        if self._placement is not None and self._policy.budget is not None:
            found = self._policy.plan_on(expected, self._placement, self._windows)
        else:
            found = self._policy.plan_for(expected, self._cluster, self._windows)
        if self._placement is not None and not self._trigger.is_worth_it(self._placement, found, expected):
            return None
        self._placement = found
        return found

    def explain(self) -> str:
        """Say in words what the forecaster follows, where it can."""
        said = getattr(self._memory, "explain", None)
        return str(said()) if said is not None else ""


@dataclass(frozen=True, eq=False)
class FixedPolicy:
    """One placement for the whole trace, such as an engine's own.

    >>> from equipoise.cluster import Cluster
    >>> FixedPolicy(Placement([[0, 1]], Cluster(2, 1), 2), "id order").name
    'id order'
    """

    placement: Placement
    label: str = "fixed"

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.label

    def begin(self, cluster: Cluster, num_layers: int, num_experts: int) -> Actor:
        """Return the policy at work; a placement for another model or other ranks is refused."""
        return _FixedActor(check_fits(self.placement, cluster, num_layers, num_experts))


class _FixedActor:
    def __init__(self, placement: Placement) -> None:
        self._next: Placement | None = placement

    def observe(self, load: Floats) -> None:
        pass

    def decide(self) -> Placement | None:
        placement, self._next = self._next, None
        return placement


@dataclass(frozen=True)
class ControlledPolicy:
    """The controller (:class:`equipoise.controlling.controller.Controller`), each of its plans put to use at once.

    It starts from a free plan of the first window, with the groups, locality, replicas and dispatch of its settings. It weighs
    moves by its own settings, not by the simulation's time model. One that plans for optimal splits is served by them; else
    it judges by even ones, whatever the simulation's rule.

    >>> ControlledPolicy().name
    'controller'
    """

    settings: ControlSettings = field(default_factory=ControlSettings)
    label: str = CONTROLLER

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.label

    @property
    def dispatch(self) -> str | None:
        """How its tokens are split; None: by the simulation's rule."""
        return None if self.settings.dispatch == "equal" else self.settings.dispatch

    def begin(self, cluster: Cluster, num_layers: int, num_experts: int) -> Actor:
        """Return the policy at work; what cannot be planned on ``cluster`` is refused here."""
        self.first_plan(np.zeros((num_layers, num_experts)), cluster)
        return _ControlledActor(self, cluster)

    def first_plan(self, load: Floats, cluster: Cluster) -> Placement:
        """Return what to begin with: level on a load, and as the settings ask."""
        settings = self.settings
        start = partial(plan, load, cluster, num_groups=settings.num_groups, locality=settings.locality)
        if settings.constraints.asks_for_replicas and settings.dispatch == "optimal":
            free = start(dispatch="optimal").placement
            return start(dispatch="optimal", previous=free, constraints=settings.constraints).placement
        return start(dispatch=settings.dispatch, constraints=settings.constraints).placement


class _ControlledActor:
    def __init__(self, policy: ControlledPolicy, cluster: Cluster) -> None:
        self._policy, self._cluster = policy, cluster
        self._controller: Controller | None = None
        self._first: Placement | None = None
        self._seen = 0

    def observe(self, load: Floats) -> None:
        if self._controller is None:
            self._first, settings = self._policy.first_plan(load, self._cluster), self._policy.settings
            self._controller = Controller(self._cluster, *load.shape, placement=self._first, settings=settings)
        self._controller.observe(load, self._seen)
        self._seen += 1

    def decide(self) -> Placement | None:
        assert self._controller is not None
        if self._seen == 1:
            return self._first
        found = self._controller.decide().plan
        if found is None:
            return None
        self._controller.applied(found)
        return found.placement


def check_fits(placement: object, cluster: Cluster, num_layers: int, num_experts: int) -> Placement:
    """Return a placement that serves every expert of this model, on ranks as ``cluster`` says; refuse any other, by name.

    The placement's slots stay; speeds, nodes and who is up are the cluster's, whatever the placement was made for. Experts
    twice on a rank are accepted, since engines produce them (docs/semantics.md, 3).
    """
    if not isinstance(placement, Placement):
        raise ArgumentError(
            f"the placement is a {type(placement).__name__}", "it must be a Placement", "make one with Placement(...)"
        )
    if (placement.num_layers, placement.num_experts) != (num_layers, num_experts):
        raise ArgumentError(
            f"the placement has {placement.num_layers} layers of {placement.num_experts} experts",
            f"the trace has {num_layers} of {num_experts}",
            "pass a placement of the same model",
        )
    if placement.cluster.num_ranks != cluster.num_ranks:
        raise ArgumentError(
            f"the placement has {placement.cluster.num_ranks} ranks",
            f"the cluster has {cluster.num_ranks}",
            "pass a placement for the same ranks",
        )
    lost_layer, lost_expert, dead_layer, _ = audit(
        placement.expert_of_slot, placement.cluster.rank_of_slot, np.asarray(cluster.alive), num_experts
    )
    if lost_layer >= 0:
        raise ArgumentError(
            f"layer {lost_layer}: expert {lost_expert} has no slot",
            "every expert needs a slot in every layer",
            "mend the planner that made it",
        )
    if dead_layer >= 0:
        raise ArgumentError(
            f"layer {dead_layer}: a rank that is down holds experts", "its slots must hold -1", "plan for the ranks that are up"
        )
    own = placement.cluster
    if (own.num_nodes, own.node_of_rank, own.rank_speeds, own.alive) == (
        cluster.num_nodes,
        cluster.node_of_rank,
        cluster.rank_speeds,
        cluster.alive,
    ):
        return placement
    return Placement(placement.expert_of_slot, replace(cluster, slots_per_rank=own.slots_per_rank), num_experts)
