"""plan(): from a load to a placement, with a bound on how much better any placement could be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.checks import check_choice, check_integer, check_seed
from equipoise.cluster import Cluster
from equipoise.errors import NotSupportedError
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.bounds import gap, lower_bound, without_rounding
from equipoise.planning.composition import DEFAULT, place
from equipoise.planning.locality import Pairing, pair_groups, pair_groups_as_published, rows_by_load
from equipoise.planning.problem import Locality, Problem, make_problem
from equipoise.trace import LoadTrace

EFFORTS = ("default",)


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
        Largest rank load and mean rank load, tokens.
    bound : float64 [layers]
        Proven lower bound on ``largest`` over every strict placement the cluster and locality allow (docs/semantics.md, 7).
    gap : float64 [layers]
        largest / bound - 1, >= 0.
    moves : int64 [layers]
        Replicas that ranks must receive; 0 without a previous placement.
    locality, num_groups, effort, seed
        As given to :func:`plan`.
    """

    placement: Placement
    balancedness: float
    largest: Floats
    ideal: Floats
    bound: Floats
    gap: Floats
    moves: Ints
    locality: Locality
    num_groups: int
    effort: str
    seed: int

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
    constraints: Any = None,
    seed: int = 0,
    num_threads: int = 1,
) -> Plan:
    """Balance a load: replica counts, LPT, exchanges out of the heaviest rank until none helps, then better counts.

    Parameters
    ----------
    load : array_like or LoadTrace
        Tokens, [layers, experts]; [steps, layers, experts] and traces are added up over steps.
    cluster : Cluster
        Equal ranks, all up.
    num_groups : int
        Groups of consecutive experts that group-limited routing picks together.
    locality : "none" or "strict"
        Over all ranks, or every group with all its replicas on one node (DeepSeek's hierarchical policy).
    effort : "default"
        The only one so far.
    previous, budget, max_moves, forecast, dispatch, constraints
        Kept for what this version cannot do yet; anything but the default is refused.
    seed : int
        In [0, 2**63); today's steps draw no random numbers, so it changes nothing.
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
    _refuse_unsupported(previous=previous, budget=budget, max_moves=max_moves, forecast=forecast, constraints=constraints)
    check_choice("effort", effort, EFFORTS)
    check_choice("dispatch", dispatch, ("equal",))
    check_seed(seed)
    problem = make_problem(load, cluster, num_groups, locality)
    expert_of_slot, largest, bound = _over_threads(problem, num_threads)
    placement = Placement(expert_of_slot, cluster, problem.num_experts)
    ideal = problem.load.sum(axis=1) / cluster.num_ranks
    bound = without_rounding(bound, largest)
    return Plan(
        placement=placement,
        balancedness=metrics.balancedness(largest, ideal),
        largest=largest,
        ideal=ideal,
        bound=bound,
        gap=gap(largest, bound),
        moves=np.zeros(problem.num_layers, np.int64),
        locality=problem.locality,
        num_groups=problem.num_groups,
        effort=effort,
        seed=seed,
    )


def _over_threads(problem: Problem, num_threads: int) -> tuple[Ints, Floats, Floats]:
    """Plan chunks of layers on threads of their own; kernels let go of the interpreter lock."""
    check_integer("num_threads", num_threads)
    chunks = [chunk for chunk in np.array_split(problem.load, num_threads) if len(chunk)]
    if len(chunks) == 1:
        return _plan_layers(problem)
    with ThreadPoolExecutor(len(chunks)) as pool:
        parts = list(pool.map(lambda chunk: _plan_layers(replace(problem, load=chunk)), chunks))
    slots, largest, bound = (np.concatenate(part) for part in zip(*parts, strict=True))
    return slots, largest, bound


def _plan_layers(problem: Problem) -> tuple[Ints, Floats, Floats]:
    """Return expert_of_slot [layers, slots], largest rank load [layers] and lower bound [layers]."""
    pairing = pair_groups(problem)
    bound = lower_bound(problem, pairing)
    slots, largest = place(problem, rows_by_load(problem, pairing), DEFAULT, bound)
    if pairing is not None:
        _try_published_pairing(problem, pairing, bound, slots, largest)
    return slots, largest, bound


def _try_published_pairing(problem: Problem, pairing: Pairing, bound: Floats, slots: Ints, largest: Floats) -> None:
    """Where LPT's pairing could still end lower, plan with it too and keep the better, in place.

    The lightest heaviest node does not always give the lightest heaviest rank: two hot experts may meet on that node.
    """
    published = pair_groups_as_published(problem)
    assert published is not None
    ranks_per_node = problem.cluster.num_ranks // problem.num_domains
    worth = np.flatnonzero(published.heaviest / ranks_per_node < largest)
    worth = worth[(published.node_of_group[worth] != pairing.node_of_group[worth]).any(axis=1)]
    if worth.size == 0:
        return
    part = replace(problem, load=np.ascontiguousarray(problem.load[worth]))
    rows = rows_by_load(part, Pairing(published.node_of_group[worth], published.heaviest[worth], is_exact=False))
    other_slots, other_largest = place(part, rows, DEFAULT, bound[worth])
    better = other_largest < largest[worth]
    slots[worth[better]] = other_slots[better]
    largest[worth[better]] = other_largest[better]


def _refuse_unsupported(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise NotSupportedError(f"{name} was given", "this version plans without it", f"leave {name} out")
