"""simulate(): replay a trace under policies, each of which sees only what is past."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.arrays import frozen
from equipoise.checks import check_integer, check_seed
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.kernels.scoring import add_up_active, add_up_ranks, audit, count_received
from equipoise.kernels.types import Floats
from equipoise.placement import Placement
from equipoise.simulating.fingerprints import Fingerprint
from equipoise.simulating.naming import make_policies
from equipoise.simulating.policies import Actor, FixedPolicy, PlannedPolicy, Policy, check_fits
from equipoise.simulating.results import PolicyResult, Simulation
from equipoise.simulating.rules import Rule, Served, make_rule
from equipoise.simulating.timing import TimeModel, make_time_model
from equipoise.simulating.triggers import Below, Gain, even_times, make_trigger
from equipoise.streams import LoadStream
from equipoise.trace import LoadTrace

Windows = LoadTrace | LoadStream | Iterable[npt.ArrayLike]
"""What can be replayed: window by window, [layers, experts] each."""


@dataclass(frozen=True, eq=False)
class Met:
    """How a policy's placement met one window: ``served`` says over which slots, under which dispatch rule."""

    window: int
    load: Floats
    placement: Placement
    rule: Rule
    served: Served
    is_renewed: bool


def simulate(
    trace: Windows,
    cluster: Cluster,
    policies: Sequence[str | Policy | Placement] = ("last", "auto"),
    *,
    dispatch: str = "equal",
    time_model: str | TimeModel = "tokens",
    batches_per_window: int = 1,
    seed: int = 0,
    watch: Callable[[str, Met], object] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Simulation:
    """Replay a trace: every policy plans on the past, and the next window is scored (docs/semantics.md, 5, 6 and 13).

    Parameters
    ----------
    trace : LoadTrace, LoadStream or iterable of array_like [layers, experts]
        The windows, in order; each is held only while it is looked at. The first is history only.
    cluster : Cluster
        The ranks; a policy may have other slots on them.
    policies : sequence of str, Policy or Placement
        ``auto,every=4,effort=fast`` and so on (:func:`equipoise.simulating.naming.make_policy`); a placement is kept for
        the whole trace.
    dispatch : "equal", "hash", "round_robin", "nearest", "optimal" or "batch:1"
        How an expert's tokens are split over its replicas, where a policy does not say. Under ``batch:n`` policies plan for n
        slots a rank fewer, and these are filled anew for each window, which counts as one batch; fixed placements get them on
        top. Its moves are held against ``per_token`` of the time model alone. Stalls of its moves count the rank that sends or
        receives most, those of new plans the rank that receives most.
    time_model : str or TimeModel
        What windows and moves take; by name one of ``tokens``, ``prefill-h100``, ``decode-h100``.
    batches_per_window : int
        Batches (steps) that were added up in each window; active experts are counted in a mean batch. Under ``batch:n`` the
        window is still served as one batch.
    seed : int
        Of the hash, and of ranks with no replica near.
    watch : callable, optional
        Called with a policy's name and a :class:`Met` after each window.
    progress : callable
        Called after each window.

    Returns
    -------
    Simulation
        A policy that returned an invalid placement, or failed, has its ``failure`` in words and the windows until then; the
        others go on. ``milliseconds`` are those of forecasts and plans, without dispatch() and plan_batch() themselves.

    Raises
    ------
    ArgumentError
        On bad settings, two policies of one name, a fixed placement of another model, fewer than two windows, windows of
        different shapes or not known to be in order, or a trace too short for a policy's interval.

    Examples
    --------
    >>> windows = [[[8, 4, 2, 2]], [[8, 4, 2, 2]], [[2, 2, 4, 8]]]
    >>> found = simulate(windows, Cluster(num_ranks=2, slots_per_rank=2), ["last"])
    >>> found.policies[0].balancedness.tolist(), found.policies[0].mean_balancedness
    ([0.8, 0.8], 0.8)
    """
    check_seed(seed)
    check_integer("batches_per_window", batches_per_window)
    setting = _Setting(cluster, make_rule(dispatch), make_time_model(time_model), float(batches_per_window), seed)
    made = make_policies(policies)
    _check_length(getattr(trace, "num_steps", None), made)
    runs: list[_Run] = []
    met = Fingerprint()
    window = -1
    for window, load in enumerate(_checked(trace)):
        met.add(load)
        if window == 0:
            runs = _begin(made, setting, load.shape)
        for run in runs:
            if window > 0:
                run.meet(window, load, watch)
            run.see(load)
        progress()
    _check_length(window + 1, made)
    return Simulation(
        num_windows=window,
        num_ranks=cluster.num_ranks,
        dispatch=dispatch,
        time_model=setting.time_model.name,
        policies=tuple(run.result() for run in runs),
        num_slots=cluster.num_slots,
        fingerprint=str(met),
    )


@dataclass(frozen=True, eq=False)
class _Setting:
    """What all policies of a simulation share."""

    cluster: Cluster
    rule: Rule
    time_model: TimeModel
    batches: float
    seed: int


_COLUMNS = 8
"""Figures kept of a window, side by side in one array: a list of tuples would take four times the memory."""


@dataclass(eq=False)
class _Run:
    """One policy at work, and what became of it so far."""

    policy: Policy
    actor: Actor
    setting: _Setting
    rule: Rule
    placement: Placement | None = None
    serve: Callable[[Floats], Served] | None = None
    num_slots: int = 0
    failure: str = ""
    rows: array[float] = field(default_factory=lambda: array("d"))
    milliseconds: list[float] = field(default_factory=list)
    largest: Floats | None = None
    ideal: Floats | None = None
    duplicates: int = 0
    seconds_to_see: float = 0.0

    def see(self, load: Floats) -> None:
        """Show the policy a window that is over."""
        if not self.failure:
            start = perf_counter()
            try:
                self.actor.observe(load)
            except Exception as error:
                self._fail(len(self.rows) // _COLUMNS, error)
            self.seconds_to_see = perf_counter() - start

    def meet(self, window: int, load: Floats, watch: Callable[[str, Met], object] | None) -> None:
        """Let the policy decide, then score its placement on a window that it has not seen."""
        if self.failure:
            return
        start = perf_counter()
        try:
            found = self.actor.decide()
            seconds = perf_counter() - start + self.seconds_to_see
            if found is not None or self.placement is None:
                found = check_fits(found, self.setting.cluster, load.shape[0], load.shape[1])
            stall, moves = (0.0, 0) if found is None else self._apply(found)
            assert self.placement is not None
            assert self.serve is not None
            served = self.serve(load)
        except Exception as error:
            self._fail(window, error)
            return
        if found is not None:
            self.milliseconds.append(1e3 * seconds)
        if served.carried is not None:
            moves += served.moves
            stall += self.setting.time_model.stall(served.carried)
        self.num_slots = served.placement.cluster.num_slots
        self.rows.extend((*self._score(load, served), float(moves), stall, float(found is not None)))
        if watch is not None:
            watch(self.policy.name, Met(window, load, self.placement, self.rule, served, found is not None))

    def result(self) -> PolicyResult:
        """Return what became of the policy."""
        rows = np.array(self.rows, np.float64).reshape(-1, _COLUMNS)
        explain = getattr(self.actor, "explain", None)
        return PolicyResult(
            name=self.policy.name,
            num_slots=self.num_slots,
            balancedness=rows[:, 0],
            worst_layer=rows[:, 1],
            fifth_percentile=rows[:, 2],
            time=rows[:, 3],
            ideal_time=rows[:, 4],
            moves=rows[:, 5].astype(np.int64),
            bytes_moved=rows[:, 5] * self.setting.time_model.expert_bytes,
            stall=rows[:, 6],
            is_renewed=rows[:, 7] > 0,
            largest_by_layer=np.zeros(0) if self.largest is None else self.largest,
            ideal_by_layer=np.zeros(0) if self.ideal is None else self.ideal,
            duplicates=self.duplicates,
            failure=self.failure,
            explanation="" if explain is None else explain(),
            milliseconds=float(np.median(self.milliseconds)) if self.milliseconds else float("nan"),
        )

    def _apply(self, found: Placement) -> tuple[float, int]:
        """Put a placement to use; return the stall and the replicas that ranks received. The first one moves nothing.

        The same placement again is served as before: what spare slots hold is not forgotten.
        """
        old = self.placement
        if old is None or not _is_same(old, found):
            self.placement, self.serve = found, self.rule.begin(found, self.setting.time_model, self.setting.seed)
        ranks, alive = found.cluster.rank_of_slot, np.asarray(found.cluster.alive)
        self.duplicates += audit(found.expert_of_slot, ranks, alive, found.num_experts)[3]
        if old is None:
            return 0.0, 0
        received = count_received(
            found.expert_of_slot,
            found.cluster.rank_of_slot,
            old.expert_of_slot,
            old.cluster.rank_of_slot,
            found.cluster.num_ranks,
            found.num_experts,
        )
        return self.setting.time_model.stall(received), int(received.sum())

    def _score(self, load: Floats, served: Served) -> tuple[float, ...]:
        """Return balancedness (nan without load), worst layer, 5th percentile, time and ideal time of a window."""
        cluster, setting, tokens = served.placement.cluster, self.setting, served.tokens
        speed = np.asarray(cluster.rank_speeds, np.float64)
        total_speed = float(speed[np.asarray(cluster.alive)].sum())
        rank_load = add_up_ranks(tokens, cluster.rank_of_slot, cluster.num_ranks)
        active = np.zeros_like(rank_load)
        if setting.time_model.cost.per_active:
            active = add_up_active(tokens, cluster.rank_of_slot, cluster.num_ranks, setting.batches)
        largest = (rank_load / speed).max(axis=1)
        ideal = rank_load.sum(axis=1) / total_speed
        self.largest = largest if self.largest is None else self.largest + largest
        self.ideal = ideal if self.ideal is None else self.ideal + ideal
        has_load = bool(ideal.any())
        return (
            metrics.balancedness(largest, ideal) if has_load else np.nan,
            metrics.worst_layer(largest, ideal) if has_load else np.nan,
            metrics.fifth_percentile(largest, ideal) if has_load else np.nan,
            setting.time_model.window_time(rank_load, active, speed, setting.batches),
            setting.time_model.ideal_time(load, total_speed, setting.batches),
        )

    def _fail(self, window: int, error: Exception) -> None:
        said = str(error) if isinstance(error, EquipoiseError) else f"{type(error).__name__}: {error}"
        self.failure = f"policy {self.policy.name}, window {window}: {said}"


def _begin(policies: Sequence[Policy], setting: _Setting, shape: tuple[int, ...]) -> list[_Run]:
    runs = []
    for policy in policies:
        own = getattr(policy, "dispatch", None)
        rule = setting.rule if own is None else make_rule(own)
        try:
            runs.append(_Run(policy, _begin_one(policy, rule, setting.cluster, shape), setting, rule))
        except EquipoiseError as error:
            raise type(error)(f"policy {policy.name}: {error.found}", error.rule, error.next_step) from error
    return runs


def _begin_one(policy: Policy, rule: Rule, cluster: Cluster, shape: tuple[int, ...]) -> Actor:
    """Return a policy at work on the slots it has without the spare ones; fixed placements get those on top."""
    num_layers, num_experts = shape
    if isinstance(policy, FixedPolicy):
        return policy.begin(cluster, num_layers, num_experts)
    if not isinstance(policy, PlannedPolicy):
        return policy.begin(rule.home(cluster, num_experts), num_layers, num_experts)
    trigger = make_trigger(policy.trigger)
    if rule.times is None and isinstance(trigger, Below | Gain):
        raise ArgumentError(
            f"trigger {trigger.name} under dispatch {rule.name}",
            "below and gain judge a placement by its balance, which here depends on what spare slots hold",
            "use trigger always, or another dispatch rule",
        )
    if rule.spare_slots:
        cluster, policy = rule.home(policy.on(cluster), num_experts), replace(policy, slots=None, label=policy.name)
    return policy.begin(cluster, num_layers, num_experts, rule.times or even_times)


def _is_same(one: Placement, other: Placement) -> bool:
    return one.cluster == other.cluster and np.array_equal(one.expert_of_slot, other.expert_of_slot)


def _checked(trace: Windows) -> Iterator[Floats]:
    """Yield windows as read-only float64 arrays, one at a time; all must have the first one's shape."""
    if isinstance(trace, LoadTrace | LoadStream):
        trace.check_order("a simulation")
        for window in trace.load if isinstance(trace, LoadTrace) else trace:
            yield _own(window)
        return
    if not isinstance(trace, Iterable):
        raise ArgumentError(f"the trace is a {type(trace).__name__}", "it must be a trace or windows", "pass a LoadTrace")
    shape: tuple[int, ...] | None = None
    for number, given in enumerate(trace):
        checked = _as_window(given, number)
        if checked.num_steps != 1 or (shape is not None and checked.load.shape[1:] != shape):
            raise ArgumentError(
                f"window {number} has shape {list(np.shape(given))}",
                f"each must be [layers, experts]{'' if shape is None else f', as the first one: {list(shape)}'}",
                "cut the trace into windows of one shape",
            )
        shape = checked.load.shape[1:]
        yield _own(checked.load[0])


def _as_window(given: npt.ArrayLike, number: int) -> LoadTrace:
    try:
        return LoadTrace(given)  # type: ignore[arg-type]
    except ArgumentError as error:
        raise ArgumentError(f"window {number}: {error.found}", error.rule, error.next_step) from error


def _own(window: npt.ArrayLike) -> Floats:
    """Copy a window: what is handed to policies must lead back to no other."""
    return frozen(np.array(window, np.float64))


def _check_length(windows: int | None, policies: Sequence[Policy]) -> None:
    """Refuse traces too short to score, or for a policy's interval; None where the length is not known yet."""
    if windows is None:
        return
    if windows < 2:
        raise ArgumentError(
            f"the trace has {windows} window{'s' if windows != 1 else ''}",
            "the first is history only, so there must be at least 2",
            "cut it into shorter windows, or record more",
        )
    for policy in policies:
        every = getattr(policy, "every", 1)
        if every >= windows - 1 and every > 1:
            raise ArgumentError(
                f"policy {policy.name} plans every {every} windows, the trace has {windows - 1} to score",
                "at least one plan must be renewed within the trace",
                f"take every={max(1, (windows - 2))} or less, or every=once",
            )
