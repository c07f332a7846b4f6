"""What two placements share: pairs of rank and expert that both hold, and slots that can go on holding what they held."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats, Ints

_ABSENT = -1
_NONE = -1


@kernel
def add_overlaps(
    slots: Ints, rank_of_slot: Ints, previous: Ints, previous_rank_of_slot: Ints, num_experts: int, weight: float, value: Floats
) -> None:
    """Add ``weight`` to ``value[i, j]`` for each expert that rank i of ``slots`` and rank j of ``previous`` both hold.

    ``slots`` [slots] and ``previous`` [slots of previous] hold experts or ABSENT; ``value`` is [ranks, ranks]. An expert twice
    on a rank counts once. Ranks of ``previous`` that ``value`` has no column for are passed over.
    """
    num_ranks = value.shape[0]
    holder = np.full(num_experts, _NONE, np.int64)  # the last slot of previous that holds it, one a rank
    before = np.empty(previous.shape[0], np.int64)  # the one before it
    counted_on = np.full(num_experts, _NONE, np.int64)
    for t in range(previous.shape[0]):
        e, rank = previous[t], previous_rank_of_slot[t]
        if e == _ABSENT or rank >= num_ranks or (holder[e] != _NONE and previous_rank_of_slot[holder[e]] == rank):
            continue
        before[t] = holder[e]
        holder[e] = t
    for s in range(slots.shape[0]):
        e, rank = slots[s], rank_of_slot[s]
        if e == _ABSENT or counted_on[e] == rank:
            continue
        counted_on[e] = rank
        t = holder[e]
        while t != _NONE:
            value[rank, previous_rank_of_slot[t]] += weight
            t = before[t]


@kernel
def settle_rows(slots: Ints, start: Ints, new_rank: Ints, previous: Ints, previous_start: Ints, settled: Ints) -> None:
    """Write what each rank holds to its new rank, so that slots go on holding what they held.

    ``start`` and ``previous_start`` [ranks + 1] hold the first slot of each rank, and the end; ``new_rank`` [layers, ranks]
    must have as many slots. The n-th slot of a rank follows the n-th of the same rank in ``previous``. Experts that find no
    such slot fill the remaining ones, both in rising order; ABSENT comes last.
    """
    num_previous = previous_start.shape[0] - 1
    waiting = np.empty(slots.shape[1], np.int64)
    for x in range(slots.shape[0]):
        for i in range(start.shape[0] - 1):
            rank = new_rank[x, i]
            num_waiting = 0
            for s in range(start[i], start[i + 1]):
                if slots[x, s] != _ABSENT:
                    waiting[num_waiting] = slots[x, s]
                    num_waiting += 1
            room = start[rank + 1] - start[rank]
            known = min(room, previous_start[rank + 1] - previous_start[rank]) if rank < num_previous else 0
            for n in range(room):
                settled[x, start[rank] + n] = _ABSENT
            for n in range(known):
                for k in range(num_waiting):
                    if waiting[k] == previous[x, previous_start[rank] + n]:
                        settled[x, start[rank] + n] = waiting[k]
                        num_waiting -= 1
                        waiting[k] = waiting[num_waiting]
                        break
            _sort_first(waiting, num_waiting)
            k = 0
            for t in range(start[rank], start[rank] + room):
                if k < num_waiting and settled[x, t] == _ABSENT:
                    settled[x, t] = waiting[k]
                    k += 1


@kernel
def _sort_first(item: Ints, count: int) -> None:
    """Sort the first ``count`` in rising order, by insertion: there are a rank's slots at most."""
    for i in range(1, count):
        this = item[i]
        j = i - 1
        while j >= 0 and item[j] > this:
            item[j + 1] = item[j]
            j -= 1
        item[j + 1] = this
