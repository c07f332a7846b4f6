"""Planners as compositions: how experts form rows, how replicas are counted and packed, how the packing is refined.

DeepSeek's hierarchical policy is LPT of groups onto nodes, greedy replicas, LPT onto each node's ranks; its global policy the
same on one node. The published variants are other constructors and refiners in the same places. Ours is
:func:`solve`: the same steps, each row from end to end, and then counts and packing changed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipoise.errors import NotSupportedError
from equipoise.kernels.placing import fill_slots, largest_pack
from equipoise.kernels.solving import plan_rows
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import ABSENT
from equipoise.planning.efforts import Stage, budgets_of
from equipoise.planning.locality import Rows
from equipoise.planning.packing import Dealt
from equipoise.planning.problem import Problem
from equipoise.planning.refining import Refiner
from equipoise.planning.replicas import greedy_replicas, replicas_as_items


@dataclass(frozen=True)
class Composition:
    """A constructor; a refiner or none."""

    constructor: Dealt
    refiner: Refiner | None = None


def place(problem: Problem, rows: Sequence[Rows], composition: Composition) -> tuple[Ints, Floats]:
    """Count replicas, pack them, lay them out: expert_of_slot [layers, slots] and the largest rank load [layers].

    Raises
    ------
    NotSupportedError
        Where ranks differ, or time is more than tokens: the published packings know neither.
    """
    if not (problem.cluster.is_uniform and problem.cost.is_tokens_alone):
        raise NotSupportedError(
            "ranks differ, or a rank's time is more than its tokens",
            "the published packings are for equal ranks and tokens",
            "use fast, default or best",
        )
    slots = np.empty((problem.num_layers, problem.cluster.num_slots), np.int64)
    largest = np.zeros(problem.num_layers)
    for row in rows:
        num_ranks = row.domain.ranks.size
        count = greedy_replicas(row.load, row.domain.slots.size, num_ranks)
        items = replicas_as_items(row.load, count, num_ranks)
        pack = composition.constructor.pack(items)
        if composition.refiner is not None:
            pack = composition.refiner.refine(items, pack)
        expert = np.take_along_axis(row.expert, items.item_id, axis=1)
        slots[:, row.domain.slots] = fill_slots(pack, expert, num_ranks)
        np.maximum(largest, largest_pack(items.weight, pack, num_ranks), out=largest)
    return slots, largest / problem.cluster.rank_speeds[0]


def solve(problem: Problem, rows: Sequence[Rows], stages: tuple[Stage, ...], floor: Floats) -> tuple[Ints, Floats, Floats]:
    """Plan every row: expert_of_slot [layers, slots], the slowest rank's time and a bound on it, [layers] each.

    ``floor`` [layers] is a time below which a layer has nothing to gain. The bound is the largest row's mean or largest
    replica: a bound for the layer where there is one row a layer, and no more than that of these rows where there are several.
    """
    budgets = budgets_of(stages)
    cost = problem.cost
    parts = [
        plan_rows(row.load, row.expert, row.domain.room, row.domain.speed, floor, cost.per_token, cost.per_active, budgets)
        for row in rows
    ]
    if len(parts) == 1 and parts[0][0].shape[1] == problem.cluster.num_slots:
        return parts[0]
    slots = np.full((problem.num_layers, problem.cluster.num_slots), ABSENT, np.int64)
    for row, part in zip(rows, parts, strict=True):
        slots[:, row.domain.slots] = part[0]
    largest, bound = (np.maximum.reduce([part[i] for part in parts]) for i in (1, 2))
    return slots, largest, bound
