"""Planners as compositions: how experts form rows, how replicas are packed, how the packing is refined.

DeepSeek's hierarchical policy is LPT of groups onto nodes, greedy replicas, LPT onto each node's ranks; its global policy the
same on one node. Ours pairs groups exactly and refines the packing. The published variants are other constructors and
refiners in the same two places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.kernels.placing import fill_slots, largest_pack
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.locality import Rows, slots_in_rank_order
from equipoise.planning.packing import Dealt, Items, lpt
from equipoise.planning.problem import Problem
from equipoise.planning.refining import Refiner, best_swap
from equipoise.planning.replicas import greedy_replicas, replicas_as_items


@dataclass(frozen=True)
class Packer:
    """A constructor, and a refiner or None."""

    constructor: Dealt
    refiner: Refiner | None = None

    def pack(self, items: Items) -> Ints:
        """Return the pack of each item, int64 [rows, n]."""
        pack = self.constructor.pack(items)
        return pack if self.refiner is None else self.refiner.refine(items, pack)


DEFAULT = Packer(lpt(), best_swap())


def place(problem: Problem, rows: Rows, packer: Packer = DEFAULT) -> tuple[Ints, Floats]:
    """Count replicas, pack them, lay them out: expert_of_slot [layers, slots] and the largest rank load [layers]."""
    count = greedy_replicas(rows.load, rows.num_slots, rows.num_ranks)
    items = replicas_as_items(rows.load, count, rows.num_ranks)
    pack = packer.pack(items)
    expert = np.take_along_axis(rows.expert, items.item_id, axis=1)
    slots = fill_slots(pack, expert, rows.num_ranks)
    largest = largest_pack(items.weight, pack, rows.num_ranks).reshape(problem.num_layers, -1).max(axis=1)
    return slots_in_rank_order(problem, slots), largest
