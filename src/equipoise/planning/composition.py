"""Planners as compositions: how experts form rows, how replicas are counted and packed, how both are refined.

DeepSeek's hierarchical policy is LPT of groups onto nodes, greedy replicas, LPT onto each node's ranks; its global policy the
same on one node. Ours pairs groups exactly, refines the packing, and then changes counts where that lowers the heaviest rank.
The published variants are other constructors and refiners in the same places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.kernels.placing import fill_slots, largest_pack
from equipoise.kernels.recounting import recount
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.locality import Rows, slots_in_rank_order
from equipoise.planning.packing import Dealt, lpt
from equipoise.planning.problem import Problem
from equipoise.planning.refining import Refiner, best_swap
from equipoise.planning.replicas import greedy_replicas, replicas_as_items


@dataclass(frozen=True)
class Recounting:
    """Hand slots from expert to expert where a row's heaviest rank stays above its bound; see the kernel.

    Parameters
    ----------
    slack : float
        Rows within this share of their bound are left as they are.
    donors : int
        Experts tried as givers a step.
    work : int
        Replicas packed in all trials of a row, at most: a budget of work, so that plans do not depend on the machine's speed.
    """

    slack: float = 1e-3
    donors: int = 4
    work: int = 10_000


@dataclass(frozen=True)
class Composition:
    """A constructor; a refiner or none; a recounting or none."""

    constructor: Dealt
    refiner: Refiner | None = None
    recounting: Recounting | None = None


DEFAULT = Composition(lpt(), best_swap(), Recounting())


def place(problem: Problem, rows: Rows, composition: Composition, bound: Floats) -> tuple[Ints, Floats]:
    """Count replicas, pack them, lay them out: expert_of_slot [layers, slots] and the largest rank load [layers].

    ``bound`` [layers] tells the recounting where nothing is left to gain.
    """
    count = greedy_replicas(rows.load, rows.num_slots, rows.num_ranks)
    items = replicas_as_items(rows.load, count, rows.num_ranks)
    pack = composition.constructor.pack(items)
    if composition.refiner is not None:
        pack = composition.refiner.refine(items, pack)
    step = composition.recounting
    if step is not None:
        bar = np.repeat(bound * (1.0 + step.slack), problem.num_domains)
        recount(
            rows.load, count, items.weight, items.item_id, pack, rows.num_ranks, bar, step.donors, step.work // rows.num_slots
        )
    expert = np.take_along_axis(rows.expert, items.item_id, axis=1)
    slots = fill_slots(pack, expert, rows.num_ranks)
    largest = largest_pack(items.weight, pack, rows.num_ranks).reshape(problem.num_layers, -1).max(axis=1)
    return slots_in_rank_order(problem, slots), largest
