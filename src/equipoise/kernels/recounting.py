"""Change replica counts after packing: where ranks have few slots, counts and packing must be decided together."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.packing import deal, make_dealing
from equipoise.kernels.refining import UNTIL_NONE_HELPS, Packs, clearly_below, close_packs, make_packs, open_packs, swap_in_row
from equipoise.kernels.replicating import list_row
from equipoise.kernels.types import Floats, Ints


@kernel
def recount(
    load: Floats,
    count: Ints,
    weight: Floats,
    expert: Ints,
    pack: Ints,
    num_packs: int,
    bar: Floats,
    num_donors: int,
    trials: int,
) -> None:
    """Hand a slot from one expert to another, pack anew, and keep the change that lowers the heaviest pack most.

    Receivers are the experts of the heaviest pack, donors the ``num_donors`` experts whose remaining replicas would be
    smallest. A row goes on until no change helps, its heaviest pack is down to ``bar`` [rows], or it made ``trials`` packings.
    ``load`` and ``count`` are [rows, experts]; ``weight``, ``expert`` and ``pack`` [rows, slots], items from large to small;
    all but ``load`` are changed in place. A trial costs about O(slots log slots).
    """
    num_rows, num_experts = load.shape
    n = weight.shape[1]
    dealing = make_dealing(num_packs, num_experts)
    packs = make_packs(num_packs, n // num_packs, num_experts)
    donors = np.empty(num_donors, np.int64)
    receivers = np.empty(n // num_packs, np.int64)
    straight = np.arange(n)
    value_scratch = np.empty(n, np.float64)
    order_scratch = np.empty(n, np.int64)
    trial_weight, trial_expert, trial_pack = np.empty(n, np.float64), np.empty(n, np.int64), np.empty(n, np.int64)
    for x in range(num_rows):
        largest = _heaviest(weight[x], expert[x], pack[x], packs, receivers)
        left = trials
        while largest > bar[x] and left > 0:
            best = clearly_below(largest)
            best_receiver = -1
            best_donor = -1
            found = _find_donors(load[x], count[x], best, donors)
            for receiver in receivers:
                for d in range(found):
                    donor = donors[d]
                    if (
                        donor == receiver
                        or count[x, receiver] == num_packs
                        or load[x, donor] / (count[x, donor] - 1) >= best
                        or left == 0
                    ):
                        continue
                    left -= 1
                    count[x, receiver] += 1
                    count[x, donor] -= 1
                    list_row(load[x], count[x], trial_weight, trial_expert, value_scratch, order_scratch)
                    count[x, receiver] -= 1
                    count[x, donor] += 1
                    deal(trial_weight, trial_expert, straight, trial_pack, dealing)
                    open_packs(trial_weight, trial_expert, trial_pack, packs)
                    swap_in_row(packs, UNTIL_NONE_HELPS)
                    close_packs(trial_pack, packs)
                    if packs.load[packs.ranking[0]] < best:
                        best, best_receiver, best_donor = packs.load[packs.ranking[0]], receiver, donor
                        weight[x], expert[x], pack[x] = trial_weight, trial_expert, trial_pack
            if best_receiver < 0:
                break
            count[x, best_receiver] += 1
            count[x, best_donor] -= 1
            largest = _heaviest(weight[x], expert[x], pack[x], packs, receivers)


@kernel
def _heaviest(weight: Floats, expert: Ints, pack: Ints, packs: Packs, receivers: Ints) -> float:
    """Return the heaviest pack's load, and list its experts in ``receivers``, largest replica first."""
    open_packs(weight, expert, pack, packs)
    close_packs(pack, packs)
    heavy = packs.ranking[0]
    receivers[:] = packs.item_id[heavy]
    return float(packs.load[heavy])


@kernel
def _find_donors(load: Floats, count: Ints, below: float, donors: Ints) -> int:
    """List the experts with several replicas whose load over one replica less is smallest, and less than ``below``."""
    found = 0
    for e in range(load.shape[0]):
        if count[e] == 1:
            continue
        left = load[e] / (count[e] - 1)
        if left >= below:
            continue
        place = found if found < donors.shape[0] else donors.shape[0]
        while place > 0 and load[donors[place - 1]] / (count[donors[place - 1]] - 1) > left:
            if place < donors.shape[0]:
                donors[place] = donors[place - 1]
            place -= 1
        if place < donors.shape[0]:
            donors[place] = e
            found = min(found + 1, donors.shape[0])
    return found
