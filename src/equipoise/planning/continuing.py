"""Plans that start from a placement, or owe experts more than one replica: what is asked, improved, judged and bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from equipoise import metrics
from equipoise.budget import MoveBudget
from equipoise.checks import check_integer
from equipoise.constraints import Constraints
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.planning.adopting import adopt, region_of_rank
from equipoise.planning.bounds import lower_bound, sharpened
from equipoise.planning.connecting import judge_splits, plan_for_dispatch
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.improving import Improved, Search, count_moves, improve, judge_evenly
from equipoise.planning.layers import Layers, plan_layers
from equipoise.planning.locality import pair_groups
from equipoise.planning.problem import Problem
from equipoise.planning.relabelling import relabel_slots, settle_slots

_MOST = 0.5
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Wanted:
    """What is asked of a plan beside the load it is for."""

    budget: MoveBudget
    constraints: Constraints
    dispatch: str
    effort: str
    num_threads: int


def refuse_unsupported(problem: Problem, is_for_several: bool, is_optimal_from_nothing: bool) -> None:
    """Refuse by name what cannot be planned from a placement, or with least numbers of replicas."""
    refused = {
        "a forecast of several loads": is_for_several,
        "locality soft": problem.locality == "soft",
        "a cost of active experts": bool(problem.cost.per_active),
        "min_replicas under optimal dispatch without previous": is_optimal_from_nothing,
    }
    for what, is_asked in refused.items():
        if is_asked:
            raise NotSupportedError(
                what, "plans from a previous placement, or with min_replicas, go without it", "leave one of them out"
            )


def plan_from(problem: Problem, previous: Placement | None, wanted: Wanted, windows: Floats) -> tuple[Layers, Ints, float]:
    """Plan from ``previous``, or from the free plan where only replicas are asked for.

    Returns the layers, their moves, and the balancedness without least numbers of replicas (nan where none are asked).
    """
    free = None
    if previous is None or _has_room_for_another(wanted.budget, problem):
        free = _plan_freely(problem, wanted, windows)
    start = Placement(free.slots, problem.cluster, problem.num_experts) if previous is None and free is not None else previous
    assert start is not None
    search = make_search(problem, start, wanted)
    asked = wanted.constraints.asks_for_replicas
    rival = None if free is None or previous is None or asked else _relabelled(problem, free, previous)
    if wanted.dispatch == "optimal":
        found = _improve_for_splits(search, wanted.budget, rival, windows)
    else:
        found = improve(search, wanted.budget, rival)
    layers = _as_layers(problem, found, previous, wanted)
    if asked and previous is not None:
        free = plan_from(problem, previous, replace(wanted, constraints=Constraints()), windows)[0]
    unconstrained = _balancedness_of(problem, free) if asked and free is not None else np.nan
    return layers, np.zeros_like(found.moves) if previous is None else found.moves, unconstrained


def _as_layers(problem: Problem, found: Improved, previous: Placement | None, wanted: Wanted) -> Layers:
    """Return what was found on all slots, with its bound; experts that stay on their rank in the slots they had."""
    slots = np.full((problem.num_layers, problem.cluster.num_slots), ABSENT, np.int64)
    slots[:, problem.everything.slots] = found.slots
    if previous is not None:
        slots = _settled(problem, slots, previous)
    pairing = pair_groups(problem)
    bound = lower_bound(problem, pairing)
    if pairing is None and wanted.dispatch == "equal":
        bound = sharpened(problem, bound, found.largest, EFFORTS[wanted.effort])
    share = np.ones(problem.num_layers)
    strict_largest = found.largest if problem.has_homes else np.full_like(share, np.nan)
    return Layers(slots, problem.cost.per_token * found.largest, bound, share, strict_largest, _homes(problem, found.slots))


def make_search(problem: Problem, start: Placement, wanted: Wanted) -> Search:
    """Return the search that improves ``start`` for an even split; the budget is not part of it."""
    check_integer("num_threads", wanted.num_threads)
    spread, least = _spread(problem, wanted.constraints), _least_replicas(problem, wanted.constraints)
    adopted, judge = adopt(start, problem, least, spread), judge_evenly(problem)
    ideal = problem.load.sum(axis=1) / problem.everything.speed.sum()
    return Search(problem, ideal, adopted, least, spread, judge, wanted.effort, wanted.num_threads)


def make_split_search(search: Search, windows: Floats) -> Search:
    """Return the search for optimal splits: on a flatter load, which pays for replicas of more experts, judged by the split."""
    problem = search.problem
    return replace(search, judge=judge_splits(problem, windows), problem=replace(problem, load=_flattened(problem.load)[0]))


def _has_room_for_another(budget: MoveBudget, problem: Problem) -> bool:
    """Tell whether a plan that does not start from the previous one could fit the budget: most of its replicas move."""
    slots = problem.everything.slots.size
    per_layer = slots if budget.per_layer is None else min(budget.per_layer, slots)
    is_shared = budget.most_moves is not None and budget.most_moves < per_layer * problem.num_layers
    return not is_shared and budget.gain_per_move == 0.0 and per_layer >= _MOST * slots


def _plan_freely(problem: Problem, wanted: Wanted, windows: Floats) -> Layers:
    if wanted.dispatch == "optimal":
        return plan_for_dispatch(problem, windows, wanted.effort, wanted.num_threads)
    return plan_layers(problem, EFFORTS[wanted.effort], 0.0, wanted.num_threads)


def _balancedness_of(problem: Problem, found: Layers) -> float:
    base = problem.cost.per_rank
    return metrics.balancedness(found.largest + base, problem.ideal + base)


def _improve_for_splits(search: Search, budget: MoveBudget, free: Ints | None, windows: Floats) -> Improved:
    """Improve for optimal splits: for the load and for flatter ones, of which each layer takes what splits best.

    Flatter loads pay for replicas of more experts than an even split needs, so that more can be split (docs/decisions.md, 28).
    """
    problem, flat = search.problem, make_split_search(search, windows)
    best, price = improve(flat, budget, free), budget.gain_per_move * search.ideal
    if budget.most_moves is None:
        for load in (_flattened(problem.load)[1], problem.load):
            other = improve(replace(flat, problem=replace(problem, load=load)), budget, free)
            best = best.where(other.largest + price * other.moves < best.largest + price * best.moves, other)
    return _kept_where_worse(search, replace(best, largest=judge_splits(problem, windows[:0])(best.slots)), price)


def _kept_where_worse(search: Search, found: Improved, price: Floats) -> Improved:
    """Leave layers as they are that would end no earlier on the load planned for, moves counted."""
    start = search.adopted.start
    kept = Improved(
        start, judge_splits(search.problem, np.zeros((0, *search.problem.load.shape)))(start), count_moves(search, start)
    )
    return found.where(kept.largest + price * kept.moves <= found.largest + price * found.moves, kept)


def _flattened(load: Floats) -> tuple[Floats, Floats]:
    """Return load to the powers of 7/8 and 3/4, by square roots, which are the same to the last bit everywhere."""
    root = np.sqrt(load)
    fourth = np.sqrt(root)
    return root * fourth * np.sqrt(fourth), root * fourth


def _least_replicas(problem: Problem, constraints: Constraints) -> Ints:
    """Return the replicas each expert has at least, int64 [layers, experts]."""
    least = np.ones(problem.load.shape, np.int64)
    if constraints.asks_for_replicas:
        number = int(np.ceil(constraints.hottest * problem.num_experts * (1.0 - _ROUNDING)))
        _refuse_too_many(problem, constraints.min_replicas, number)
        hottest = np.argsort(-problem.load, axis=1, kind="stable")[:, :number]
        np.put_along_axis(least, hottest, constraints.min_replicas, axis=1)
    return least


def _refuse_too_many(problem: Problem, replicas: int, experts: int) -> None:
    ranks, slots, needed = problem.everything.ranks.size, problem.everything.slots.size, problem.num_experts
    needed += (replicas - 1) * experts
    if replicas > ranks:
        raise ArgumentError(
            f"min_replicas is {replicas} with {ranks} ranks that are up",
            "these replicas need ranks of their own",
            f"ask for {ranks} at most",
        )
    if needed > slots:
        raise ArgumentError(
            f"min_replicas is {replicas} for {experts} experts, which takes {needed} slots of {slots}",
            "every expert needs its replicas",
            "take more slots, fewer replicas, or a smaller part of the experts as hottest",
        )


def _spread(problem: Problem, constraints: Constraints) -> int:
    if constraints.spread != "nodes" or not constraints.asks_for_replicas:
        return 1
    if problem.locality == "strict":
        raise NotSupportedError(
            "replicas spread over nodes under strict locality", "each group stays on one node there", "take locality none"
        )
    nodes = np.unique(np.asarray(problem.cluster.node_of_rank)[problem.everything.ranks]).size
    return min(constraints.min_replicas, nodes)


def _settled(problem: Problem, slots: Ints, previous: Placement) -> Ints:
    """Put experts that stay on their rank into the slots they had: a search may take one away and bring it back to another."""
    ranks = np.tile(np.arange(problem.cluster.num_ranks), (problem.num_layers, 1))
    return settle_slots(slots, ranks, previous.expert_of_slot, problem.cluster, previous.cluster)


def _relabelled(problem: Problem, free: Layers, previous: Placement) -> Ints:
    is_strict = problem.locality == "strict"
    slots = relabel_slots(free.slots, previous.expert_of_slot, problem.cluster, previous.cluster, within_nodes=is_strict)
    found: Ints = np.ascontiguousarray(slots[:, problem.everything.slots])
    return found


def _homes(problem: Problem, slots: Ints) -> Ints:
    """Return the node of each group under strict locality, else 0: [layers, groups]."""
    home = np.zeros((problem.num_layers, problem.num_groups), np.int64)
    if problem.has_homes:
        region = region_of_rank(problem)[np.repeat(np.arange(problem.everything.ranks.size), problem.everything.room)]
        layer, slot = np.nonzero(slots != ABSENT)
        home[layer, slots[layer, slot] * problem.num_groups // problem.num_experts] = region[slot]
    return home
