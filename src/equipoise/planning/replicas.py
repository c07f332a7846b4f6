"""How many replicas each expert gets, and the items this makes for packing."""

from __future__ import annotations

from equipoise.kernels.replicating import count_replicas, list_replicas
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.packing import Items


def greedy_replicas(load: Floats, num_slots: int, max_replicas: int) -> Ints:
    """Return replica counts, int64 [rows, experts]: +1 for the largest load per replica until all slots are given.

    ``load`` is [rows, experts]; each expert gets 1 to ``max_replicas``. Ties go to the lower index. Greedy is exact for the
    smallest possible largest load per replica (it is the apportionment that divides loads by 1, 2, 3, ...).
    """
    return count_replicas(load, num_slots, max_replicas)


def replicas_as_items(load: Floats, count: Ints, num_packs: int) -> Items:
    """Return the replicas as items for ``num_packs`` packs; an item's id is its expert's index in the row."""
    num_slots = int(count[0].sum())
    weight, expert = list_replicas(load, count, num_slots)
    return Items(weight, expert, load.shape[1], num_packs)
