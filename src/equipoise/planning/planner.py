"""plan(): from a load to a placement, with a bound on how much better any placement could be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.checks import check_choice, check_integer, check_seed
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.costs import TOKENS, RankCost
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.bounds import gap, lower_bound, sharpened, without_rounding
from equipoise.planning.composition import solve
from equipoise.planning.efforts import EFFORTS, Stage
from equipoise.planning.locality import Pairing, pair_groups, pair_groups_as_published, rows_by_load
from equipoise.planning.problem import Locality, Problem, make_problem
from equipoise.planning.softening import plan_softly
from equipoise.trace import LoadTrace


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement and what is known of it.

    Attributes
    ----------
    placement : Placement
        Always strict (docs/semantics.md, 3).
    balancedness : float
        On the load planned for, so in-sample (docs/semantics.md, 5 and 6).
    largest, ideal : float64 [layers]
        Largest rank time, and the time of the load lying level over the ranks that are up (docs/semantics.md, 4 and 5);
        at speed 1 tokens, under a cost its unit.
    bound : float64 [layers]
        Proven lower bound on ``largest`` over every strict placement the cluster and locality allow (docs/semantics.md, 7).
    gap : float64 [layers]
        largest / bound - 1, >= 0.
    moves : int64 [layers]
        Replicas that ranks must receive; 0 without a previous placement.
    home_share : float64 [layers]
        Share of the load served on the home node of its expert's group; 1 without nodes or a locality rule.
    strict_balancedness : float
        What strict locality would have reached, to see what the dial is worth; nan where it was not tried or cannot be planned.
    home_of_group : int64 [layers, groups]
        Home node of each group under a locality rule, else 0.
    locality, num_groups, effort, seed, cost
        As given to :func:`plan`.
    is_reproducible : bool
        False where an exact solver, stopped by the clock, had a part in it.
    """

    placement: Placement
    balancedness: float
    largest: Floats
    ideal: Floats
    bound: Floats
    gap: Floats
    moves: Ints
    home_share: Floats
    strict_balancedness: float
    home_of_group: Ints
    locality: Locality
    num_groups: int
    effort: str
    seed: int
    cost: RankCost
    is_reproducible: bool = True

    @property
    def worst_layer(self) -> float:
        """Balancedness of the worst layer, in-sample."""
        return metrics.worst_layer(self.largest, self.ideal)

    @property
    def fifth_percentile(self) -> float:
        """5th percentile of balancedness over the layers, in-sample."""
        return metrics.fifth_percentile(self.largest, self.ideal)


def plan(
    load: npt.ArrayLike | LoadTrace,
    cluster: Cluster,
    *,
    num_groups: int = 1,
    locality: str = "none",
    effort: str = "default",
    previous: Placement | None = None,
    budget: Any = None,
    max_moves: int | None = None,
    forecast: Any = None,
    dispatch: str = "equal",
    constraints: Constraints | None = None,
    cost: RankCost | None = None,
    seed: int = 0,
    num_threads: int = 1,
) -> Plan:
    """Balance a load: replica counts, LPT, exchanges out of the slowest rank, then counts and packing changed together.

    Parameters
    ----------
    load : array_like or LoadTrace
        Tokens, [layers, experts]; [steps, layers, experts] and traces are added up over steps.
    cluster : Cluster
        Ranks may differ in slots and speed, and be down; every slot of a rank that is up is filled.
    num_groups : int
        Groups of consecutive experts that group-limited routing picks together.
    locality : "none", "soft" or "strict"
        Over all ranks; with at least ``constraints.home_share`` of each layer's load on its groups' home nodes; or every
        group with all its replicas on one node (DeepSeek's hierarchical policy).
    effort : "fast", "default" or "best"
        Inside an engine's step; when a placement is renewed; once, at the start. Each goes on from what the one before found,
        so no layer is worse for a higher effort.
    constraints : Constraints, optional
        What is asked of the placement beside balance.
    cost : RankCost, optional
        What a rank's time is made of, where it is more than tokens; it is planned for and reported, and bounded by the ideal
        alone.
    previous, budget, max_moves, forecast, dispatch
        Kept for what this version cannot do yet; anything but the default is refused.
    seed : int
        In [0, 2**63); no step draws random numbers, so it changes nothing.
    num_threads : int
        Threads over layers, >= 1. The plan is the same for any number.

    Returns
    -------
    Plan
        A pure function of load, cluster, parameters and seed, byte for byte (docs/semantics.md, 8).

    Raises
    ------
    ArgumentError
        On an input that breaks a rule; the message says which, and what would be legal.
    NotSupportedError
        On a legal request that this version cannot carry out.

    Notes
    -----
    About O(slots log slots) a layer, and O(slots) an exchange; 75 layers of 256 experts on 288 slots take a few milliseconds.

    Examples
    --------
    >>> result = plan([[90, 30, 20, 20, 10, 10]], Cluster(num_ranks=4, slots_per_rank=2))
    >>> result.placement.expert_of_slot.tolist(), result.placement.rank_load([[90, 30, 20, 20, 10, 10]]).tolist()
    ([[0, 2, 0, 3, 0, 4, 1, 5]], [[50.0, 50.0, 40.0, 40.0]])
    >>> result.balancedness, result.bound.tolist()
    (0.9, [45.0])
    """
    _refuse_unsupported(previous=previous, budget=budget, max_moves=max_moves, forecast=forecast)
    check_choice("effort", effort, tuple(EFFORTS))
    check_choice("dispatch", dispatch, ("equal",))
    check_seed(seed)
    problem = make_problem(load, cluster, num_groups, locality, TOKENS if cost is None else cost)
    home_share = _checked_home_share(problem, constraints)
    found = _over_threads(problem, EFFORTS[effort], home_share, num_threads)
    base = problem.cost.per_rank
    largest, ideal, bound = found.largest + base, problem.ideal + base, found.bound + base
    bound = without_rounding(bound, largest)
    return Plan(
        placement=Placement(found.slots, cluster, problem.num_experts),
        balancedness=metrics.balancedness(largest, ideal),
        largest=largest,
        ideal=ideal,
        bound=bound,
        gap=gap(largest, bound),
        moves=np.zeros(problem.num_layers, np.int64),
        home_share=found.home_share,
        strict_balancedness=metrics.balancedness(found.strict_largest + base, ideal),
        home_of_group=found.home_of_group,
        locality=problem.locality,
        num_groups=problem.num_groups,
        effort=effort,
        seed=seed,
        cost=problem.cost,
    )


@dataclass(frozen=True, eq=False)
class _Layers:
    """What planning a chunk of layers gives: ``slots`` [layers, slots], ``home_of_group`` [layers, groups], others [layers]."""

    slots: Ints
    largest: Floats
    bound: Floats
    home_share: Floats
    strict_largest: Floats
    home_of_group: Ints

    def better(self, other: _Layers) -> _Layers:
        """Keep of each layer the plan that ends earlier, this one on ties."""
        wins = other.largest < self.largest
        parts = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            parts[field.name] = np.where(wins[:, np.newaxis] if mine.ndim == 2 else wins, theirs, mine)
        return _Layers(**parts | {"strict_largest": np.fmin(self.strict_largest, other.strict_largest)})


def _over_threads(problem: Problem, stages: tuple[Stage, ...], home_share: float, num_threads: int) -> _Layers:
    """Plan chunks of layers on threads of their own; kernels let go of the interpreter lock."""
    check_integer("num_threads", num_threads)
    chunks = [chunk for chunk in np.array_split(problem.load, num_threads) if len(chunk)]
    if len(chunks) == 1:
        return _plan_layers(problem, stages, home_share)
    with ThreadPoolExecutor(len(chunks)) as pool:
        parts = list(pool.map(lambda chunk: _plan_layers(replace(problem, load=chunk), stages, home_share), chunks))
    return _Layers(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Layers)))


def _plan_layers(problem: Problem, stages: tuple[Stage, ...], home_share: float) -> _Layers:
    pairing = pair_groups(problem)
    if pairing is None:
        return _plan_freely(problem, stages)
    found = _plan_on_nodes(problem, pairing, stages[:1], home_share)
    for last in range(2, len(stages) + 1):
        found = found.better(_plan_on_nodes(problem, pairing, stages[:last], home_share))
    return found


def _plan_freely(problem: Problem, stages: tuple[Stage, ...]) -> _Layers:
    everything = np.ones(problem.num_layers)
    slots, largest, bound = solve(problem, rows_by_load(problem, None), stages, np.zeros(problem.num_layers))
    bound = problem.ideal if problem.cost.per_active else sharpened(problem, bound, largest, stages)
    nowhere = np.zeros((problem.num_layers, problem.num_groups), np.int64)
    return _Layers(slots, largest, bound, everything, np.full_like(everything, np.nan), nowhere)


def _plan_on_nodes(problem: Problem, pairing: Pairing, stages: tuple[Stage, ...], home_share: float) -> _Layers:
    """Plan with groups at home: strictly, or softly from there.

    Efforts differ in which pairing wins and in where soft plans start, so a higher one need not end earlier by itself: all
    below it are planned as well, and the best kept a layer.
    """
    if problem.locality == "strict":
        bound = lower_bound(problem, pairing)
        slots, largest, home = _plan_strictly(problem, pairing, stages, bound)
        return _Layers(slots, largest, bound, np.ones(problem.num_layers), largest, home)
    bound = lower_bound(problem, None)
    home, start, strict_largest = pairing.node_of_group, None, np.full(problem.num_layers, np.nan)
    if problem.can_be_strict:
        start, strict_largest, home = _plan_strictly(problem, pairing, stages, bound)
    slots, largest, share = plan_softly(problem, home, start, home_share, stages, bound)
    return _Layers(slots, largest, bound, share, strict_largest, home)


def _plan_strictly(problem: Problem, pairing: Pairing, stages: tuple[Stage, ...], bound: Floats) -> tuple[Ints, Floats, Ints]:
    """Plan with the exact pairing, and with LPT's where that could still end lower; keep the better a layer.

    The lightest heaviest node does not always give the lightest heaviest rank: two hot experts may meet on that node. Returns
    expert_of_slot, the slowest rank's time and the node of each group.
    """
    slots, largest, _ = solve(problem, rows_by_load(problem, pairing.node_of_expert(problem.num_experts)), stages, bound)
    home = pairing.node_of_group.copy()
    published = pair_groups_as_published(problem)
    assert published is not None
    worth = np.flatnonzero(problem.cost.per_token * published.level < largest * (1.0 - stages[-1].slack))
    worth = worth[(published.node_of_group[worth] != home[worth]).any(axis=1)]
    if worth.size:
        part = replace(problem, load=np.ascontiguousarray(problem.load[worth]))
        node_of_expert = published.node_of_expert(problem.num_experts)[worth]
        other_slots, other_largest, _ = solve(part, rows_by_load(part, node_of_expert), stages, bound[worth])
        better = other_largest < largest[worth]
        slots[worth[better]] = other_slots[better]
        largest[worth[better]] = other_largest[better]
        home[worth[better]] = published.node_of_group[worth[better]]
    return slots, largest, home


def _checked_home_share(problem: Problem, constraints: Constraints | None) -> float:
    if constraints is None:
        constraints = Constraints()
    if not isinstance(constraints, Constraints):
        raise ArgumentError(
            f"constraints is a {type(constraints).__name__}", "it must be Constraints", "make them with Constraints(...)"
        )
    if constraints.home_share is None:
        if problem.locality == "soft":
            raise ArgumentError(
                "locality is soft without a home share", "soft locality needs one", "give Constraints(home_share=0.9)"
            )
        return 0.0
    if problem.locality != "soft":
        raise ArgumentError(
            f"home_share is {constraints.home_share} with locality {problem.locality}",
            "a home share goes with soft locality",
            "take locality soft, or leave home_share out",
        )
    return constraints.home_share


def _refuse_unsupported(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise NotSupportedError(f"{name} was given", "this version plans without it", f"leave {name} out")
