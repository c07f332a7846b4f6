"""All layers planned: freely, or with groups at home; chunks of layers on threads of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np

from equipoise.checks import check_integer
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.bounds import lower_bound, sharpened
from equipoise.planning.composition import solve
from equipoise.planning.efforts import Stage
from equipoise.planning.locality import Pairing, pair_groups, pair_groups_as_published, rows_by_load
from equipoise.planning.problem import Problem
from equipoise.planning.softening import plan_softly


@dataclass(frozen=True, eq=False)
class Layers:
    """What planning a chunk of layers gives: ``slots`` [layers, slots], ``home_of_group`` [layers, groups], others [layers]."""

    slots: Ints
    largest: Floats
    bound: Floats
    home_share: Floats
    strict_largest: Floats
    home_of_group: Ints

    def better(self, other: Layers) -> Layers:
        """Keep of each layer the plan that ends earlier, this one on ties."""
        wins = other.largest < self.largest
        parts = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            parts[field.name] = np.where(wins[:, np.newaxis] if mine.ndim == 2 else wins, theirs, mine)
        return Layers(**parts | {"strict_largest": np.fmin(self.strict_largest, other.strict_largest)})


def plan_layers(problem: Problem, stages: tuple[Stage, ...], home_share: float = 0.0, num_threads: int = 1) -> Layers:
    """Plan every layer of a problem; each stage goes on from what the one before found.

    ``home_share`` goes with soft locality. Kernels let go of the interpreter lock, so ``num_threads`` chunks of layers are
    planned at once.
    """
    check_integer("num_threads", num_threads)
    chunks = [chunk for chunk in np.array_split(problem.load, num_threads) if len(chunk)]
    if len(chunks) == 1:
        return _plan_layers(problem, stages, home_share)
    with ThreadPoolExecutor(len(chunks)) as pool:
        parts = list(pool.map(lambda chunk: _plan_layers(replace(problem, load=chunk), stages, home_share), chunks))
    return Layers(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Layers)))


def _plan_layers(problem: Problem, stages: tuple[Stage, ...], home_share: float) -> Layers:
    pairing = pair_groups(problem)
    if pairing is None:
        return _plan_freely(problem, stages)
    found = _plan_on_nodes(problem, pairing, stages[:1], home_share)
    for last in range(2, len(stages) + 1):
        found = found.better(_plan_on_nodes(problem, pairing, stages[:last], home_share))
    return found


def _plan_freely(problem: Problem, stages: tuple[Stage, ...]) -> Layers:
    everything = np.ones(problem.num_layers)
    slots, largest, bound = solve(problem, rows_by_load(problem, None), stages, np.zeros(problem.num_layers))
    bound = problem.ideal if problem.cost.per_active else sharpened(problem, bound, largest, stages)
    nowhere = np.zeros((problem.num_layers, problem.num_groups), np.int64)
    return Layers(slots, largest, bound, everything, np.full_like(everything, np.nan), nowhere)


def _plan_on_nodes(problem: Problem, pairing: Pairing, stages: tuple[Stage, ...], home_share: float) -> Layers:
    """Plan with groups at home: strictly, or softly from there.

    Efforts differ in which pairing wins and in where soft plans start, so a higher one need not end earlier by itself: all
    below it are planned as well, and the best kept a layer.
    """
    if problem.locality == "strict":
        bound = lower_bound(problem, pairing)
        slots, largest, home = _plan_strictly(problem, pairing, stages, bound)
        return Layers(slots, largest, bound, np.ones(problem.num_layers), largest, home)
    bound = lower_bound(problem, None)
    home, start, strict_largest = pairing.node_of_group, None, np.full(problem.num_layers, np.nan)
    if problem.can_be_strict:
        start, strict_largest, home = _plan_strictly(problem, pairing, stages, bound)
    slots, largest, share = plan_softly(problem, home, start, home_share, stages, bound)
    return Layers(slots, largest, bound, share, strict_largest, home)


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
