"""plan(): from a load to a placement, with a bound on how much better any placement could be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.arrays import frozen
from equipoise.budget import MoveBudget
from equipoise.checks import check_choice, check_integer, check_seed
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.costs import TOKENS, RankCost
from equipoise.errors import ArgumentError
from equipoise.forecasting.protocol import Forecaster
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.backtesting import forecast_load
from equipoise.planning.bounds import gap, without_rounding
from equipoise.planning.connecting import plan_for_dispatch
from equipoise.planning.continuing import Wanted, plan_from, refuse_unsupported
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.layers import plan_layers
from equipoise.planning.problem import Locality, Problem, make_problem
from equipoise.planning.scenarios import mean_load, plan_for_scenarios
from equipoise.trace import LoadTrace

DISPATCHES = ("equal", "optimal")


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement and what is known of it.

    Attributes
    ----------
    placement : Placement
        Always strict (docs/semantics.md, 3).
    load : float64 [layers, experts]
        What was planned for: the load given, added up over steps, or the forecast (the mean of several).
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
    num_loads : int
        Loads planned for together; 1 but for forecasts of several.
    dispatch : "equal" or "optimal"
        The split that the figures are under, and that was planned for.
    unconstrained_balancedness : float
        What was reached without least numbers of replicas, to see their price; nan where none are asked.
    is_reproducible : bool
        False where an exact solver, stopped by the clock, had a part in it.
    """

    placement: Placement
    load: Floats
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
    num_loads: int = 1
    dispatch: str = "equal"
    unconstrained_balancedness: float = float("nan")
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
    budget: MoveBudget | None = None,
    max_moves: int | None = None,
    forecast: str | Forecaster | None = None,
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
        Tokens, [layers, experts]; [steps, layers, experts] and traces are added up over steps, unless a forecast is named.
    cluster : Cluster
        Ranks may differ in slots and speed, and be down; every slot of a rank that is up is filled, but with ``previous``
        those that would save nothing, or that the budget does not reach.
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
    forecast : str or Forecaster, optional
        What is to be planned for, from the steps of ``load`` as past windows: ``last``, ``mean:8``, ``exponential:0.5``,
        ``quantile:8,0.75``, ``auto``, or several loads at once: ``scenarios:8``, ``steps`` (all of ``load``'s), ``robust:8``
        (:mod:`equipoise.forecasting`). The figures of the plan are then on the forecast; of several loads, means over them
        (so ``balancedness`` is the sum of ideals over the sum of mean largest times).
    dispatch : "equal" or "optimal"
        How batches will be split over replicas. Under ``optimal`` (:func:`equipoise.dispatch` on every batch) replicas and
        their ranks are chosen so that what comes next can be split level; where a forecast is named, the steps of ``load``
        are looked at as past windows. Without a locality rule, at a cost of tokens alone.
    previous : Placement, optional
        The placement in use: it is improved with few moves instead of being thrown away. It may be of a cluster with other
        ranks or slots (rank i stays rank i), hold duplicates, empty slots, and ranks that are down by now; what no rank that is
        up holds any more is placed anew. Without a budget moves are free, but none is made for less than it gains.
    budget : MoveBudget, optional
        How many replicas may move, and what a move must save; with ``previous``.
    max_moves : int, optional
        Short for ``MoveBudget(per_layer=max_moves)``.
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
    allowed = _checked_budget(previous, budget, max_moves)
    check_choice("effort", effort, tuple(EFFORTS))
    check_choice("dispatch", dispatch, DISPATCHES)
    check_seed(seed)
    trace = load if isinstance(load, LoadTrace) else LoadTrace(load)  # type: ignore[arg-type]
    problem = make_problem(trace, cluster, num_groups, locality, TOKENS if cost is None else cost)
    home_share = _checked_home_share(problem, constraints)
    if forecast is not None:
        trace.check_order(f"the forecast {forecast}")
    expected = problem.load if forecast is None else forecast_load(trace, problem, forecast)
    num_loads = len(expected) if expected.ndim == 3 else 1
    moves, unconstrained = np.zeros(problem.num_layers, np.int64), np.nan
    asked = constraints is not None and constraints.asks_for_replicas
    if previous is not None or asked:
        refuse_unsupported(problem, expected.ndim == 3, asked and dispatch == "optimal" and previous is None)
        problem = replace(problem, load=expected)
        windows = trace.load if forecast is not None else trace.load[:0]
        wanted = Wanted(allowed, constraints or Constraints(), dispatch, effort, num_threads)
        found, moves, unconstrained = plan_from(problem, previous, wanted, windows)
    elif dispatch == "optimal":
        windows = expected if expected.ndim == 3 else trace.load if forecast is not None else trace.load[:0]
        problem = replace(problem, load=mean_load(expected) if expected.ndim == 3 else expected)
        found = plan_for_dispatch(problem, windows, effort, num_threads)
    elif expected.ndim == 3:
        problem = replace(problem, load=mean_load(expected))
        found = plan_for_scenarios(problem, expected, effort, num_threads)
    else:
        problem = replace(problem, load=expected)
        found = plan_layers(problem, EFFORTS[effort], home_share, num_threads)
    base = problem.cost.per_rank
    largest, ideal, bound = found.largest + base, problem.ideal + base, found.bound + base
    bound = without_rounding(bound, largest)
    return Plan(
        placement=Placement(found.slots, cluster, problem.num_experts),
        load=frozen(problem.load),
        balancedness=metrics.balancedness(largest, ideal),
        largest=largest,
        ideal=ideal,
        bound=bound,
        gap=gap(largest, bound),
        moves=moves,
        home_share=found.home_share,
        strict_balancedness=metrics.balancedness(found.strict_largest + base, ideal),
        home_of_group=found.home_of_group,
        locality=problem.locality,
        num_groups=problem.num_groups,
        effort=effort,
        seed=seed,
        cost=problem.cost,
        num_loads=num_loads,
        dispatch=dispatch,
        unconstrained_balancedness=unconstrained,
    )


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


def _checked_budget(previous: Placement | None, budget: MoveBudget | None, max_moves: int | None) -> MoveBudget:
    if budget is not None and not isinstance(budget, MoveBudget):
        raise ArgumentError(f"budget is a {type(budget).__name__}", "it must be a MoveBudget", "make one with MoveBudget(...)")
    if budget is not None and max_moves is not None:
        raise ArgumentError("budget and max_moves were given", "max_moves is short for a budget", "give one of them")
    if max_moves is not None:
        budget = MoveBudget(per_layer=check_integer("max_moves", max_moves, 0))
    if budget is not None and previous is None:
        raise ArgumentError("a budget without previous", "moves are counted from the placement before", "give previous")
    return MoveBudget() if budget is None else budget
