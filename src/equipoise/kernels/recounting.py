"""Change replica counts after packing: where ranks have few slots, counts and packing must be decided together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.packing import Dealing, deal, make_dealing
from equipoise.kernels.refining import UNTIL_NONE_HELPS, Packs, clearly_below, close_packs, make_packs, open_packs, swap_in_row
from equipoise.kernels.replicating import list_row
from equipoise.kernels.types import Floats, Ints


class Trial(NamedTuple):
    """One row packed with other counts: ``weight``, ``expert`` and ``pack`` are [slots]; the rest is scratch."""

    weight: Floats
    expert: Ints
    pack: Ints
    straight: Ints
    value_scratch: Floats
    order_scratch: Ints
    dealing: Dealing
    packs: Packs


@kernel
def make_trial(num_slots: int, num_packs: int, num_experts: int) -> Trial:
    """Return scratch for rows of ``num_slots`` replicas on ``num_packs`` packs."""
    return Trial(
        np.empty(num_slots, np.float64),
        np.empty(num_slots, np.int64),
        np.empty(num_slots, np.int64),
        np.arange(num_slots),
        np.empty(num_slots, np.float64),
        np.empty(num_slots, np.int64),
        make_dealing(num_packs, num_experts),
        make_packs(num_packs, num_slots // num_packs, num_experts),
    )


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
    """Search for counts with which the heaviest pack ends lower, packing anew for each; at most ``trials`` packings a row.

    Rows whose heaviest pack is at most ``bar`` [rows] are left. Where there are at most ``trials`` ways to count, all are
    tried; else a slot is handed from one expert to another, step by step, until no hand-over helps. ``load`` and ``count`` are
    [rows, experts]; ``weight``, ``expert`` and ``pack`` [rows, slots], items from large to small; all but ``load`` are changed
    in place, and only for the better. A trial costs about O(slots log slots).
    """
    num_rows, num_experts = load.shape
    num_slots = weight.shape[1]
    trial = make_trial(num_slots, num_packs, num_experts)
    donors = np.empty(num_donors, np.int64)
    receivers = np.empty(num_slots // num_packs, np.int64)
    few_ways = _has_few_ways(num_experts, num_slots, num_packs, trials)
    for x in range(num_rows):
        if few_ways:
            _try_all(load[x], count[x], weight[x], expert[x], pack[x], num_packs, bar[x], trial)
        else:
            _hand_over(load[x], count[x], weight[x], expert[x], pack[x], num_packs, bar[x], trials, donors, receivers, trial)


@kernel
def _pack_anew(load: Floats, count: Ints, trial: Trial) -> float:
    """Pack a row with ``count`` [experts]: LPT, then exchanges; returns the heaviest pack."""
    list_row(load, count, trial.weight, trial.expert, trial.value_scratch, trial.order_scratch)
    deal(trial.weight, trial.expert, trial.straight, trial.pack, trial.dealing)
    open_packs(trial.weight, trial.expert, trial.pack, trial.packs)
    swap_in_row(trial.packs, UNTIL_NONE_HELPS)
    close_packs(trial.pack, trial.packs)
    return float(trial.packs.load[trial.packs.ranking[0]])


@kernel
def _keep(weight: Floats, expert: Ints, pack: Ints, trial: Trial) -> None:
    weight[:] = trial.weight
    expert[:] = trial.expert
    pack[:] = trial.pack


@kernel
def _has_few_ways(num_experts: int, num_slots: int, num_packs: int, trials: int) -> bool:
    """Tell whether there are at most ``trials`` ways to give every expert 1 to ``num_packs`` replicas."""
    count = np.empty(num_experts, np.int64)
    _first_way(count, 0, num_slots, num_packs)
    for _ in range(trials):
        if not _next_way(count, num_packs):
            return True
    return False


@kernel
def _first_way(count: Ints, start: int, num_slots: int, num_packs: int) -> None:
    """Give ``num_slots`` to the experts from ``start`` on, as many as may be to the last ones."""
    spare = num_slots - (count.shape[0] - start)
    for e in range(count.shape[0] - 1, start - 1, -1):
        count[e] = 1 + min(spare, num_packs - 1)
        spare -= count[e] - 1


@kernel
def _next_way(count: Ints, num_packs: int) -> bool:
    """Step to the next way in lexicographic order; False after the last."""
    behind = 0
    for e in range(count.shape[0] - 1, -1, -1):
        if count[e] < num_packs and behind > count.shape[0] - 1 - e:
            count[e] += 1
            _first_way(count, e + 1, behind - 1, num_packs)
            return True
        behind += count[e]
    return False


@kernel
def _try_all(
    load: Floats, count: Ints, weight: Floats, expert: Ints, pack: Ints, num_packs: int, bar: float, trial: Trial
) -> None:
    largest = _heaviest(weight, expert, pack, trial.packs, np.empty(0, np.int64))
    way = np.empty_like(count)
    _first_way(way, 0, weight.shape[0], num_packs)
    more = True
    while more and largest > bar:
        best = clearly_below(largest)
        if (load / way).max() < best:
            found = _pack_anew(load, way, trial)
            if found < best:
                largest = found
                count[:] = way
                _keep(weight, expert, pack, trial)
        more = _next_way(way, num_packs)


@kernel
def _hand_over(
    load: Floats,
    count: Ints,
    weight: Floats,
    expert: Ints,
    pack: Ints,
    num_packs: int,
    bar: float,
    trials: int,
    donors: Ints,
    receivers: Ints,
    trial: Trial,
) -> None:
    """Hand a slot from one expert to another, always the hand-over that lowers the heaviest pack most.

    Receivers are the experts of the heaviest pack, donors those whose remaining replicas would be smallest.
    """
    largest = _heaviest(weight, expert, pack, trial.packs, receivers)
    while largest > bar and trials > 0:
        best = clearly_below(largest)
        best_receiver = -1
        best_donor = -1
        num_found = _find_donors(load, count, best, donors)
        for receiver in receivers:
            for donor in donors[:num_found]:
                if donor == receiver or count[receiver] == num_packs or load[donor] / (count[donor] - 1) >= best or trials == 0:
                    continue
                trials -= 1
                count[receiver] += 1
                count[donor] -= 1
                found = _pack_anew(load, count, trial)
                count[receiver] -= 1
                count[donor] += 1
                if found < best:
                    best, best_receiver, best_donor = found, receiver, donor
                    _keep(weight, expert, pack, trial)
        if best_receiver < 0:
            break
        count[best_receiver] += 1
        count[best_donor] -= 1
        largest = _heaviest(weight, expert, pack, trial.packs, receivers)


@kernel
def _heaviest(weight: Floats, expert: Ints, pack: Ints, packs: Packs, receivers: Ints) -> float:
    """Return the heaviest pack's load, and list its experts in ``receivers`` if that has room, largest replica first."""
    open_packs(weight, expert, pack, packs)
    close_packs(pack, packs)
    heavy = packs.ranking[0]
    for i in range(receivers.shape[0]):
        receivers[i] = packs.item_id[heavy, i]
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
