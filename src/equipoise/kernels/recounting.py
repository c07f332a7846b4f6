"""Change replica counts after packing: where packs have few slots, counts and packing must be decided together.

A slot goes from one expert (the donor) to another (the receiver), and exchanges mend what that unsettles; what ends lower is
kept, the rest undone. So a trial costs a few exchanges, not a packing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.copying import copy_to
from equipoise.kernels.counts import Counts, exchange_experts, give_slot, locate, may_grow, share_with
from equipoise.kernels.packs import Packs, clearly_below, find_exchange, slowest
from equipoise.kernels.types import Floats, Ints


class Handovers(NamedTuple):
    """The most promising hand-overs found, best first: ``step`` [most, 3] holds a pack, a donor and a receiver.

    The slot of the donor on the pack goes to the receiver; ``ends`` [most] is the slowest time among the packs this touches,
    before anything is exchanged, or a little more where donor and receiver meet on another pack. ``log`` [exchanges, 4]
    records exchanges to be undone.
    """

    step: Ints
    ends: Floats
    log: Ints


@kernel
def make_handovers(most: int, num_exchanges: int) -> Handovers:
    """Return room for ``most`` hand-overs and for ``num_exchanges`` exchanges after each."""
    return Handovers(
        np.empty((most, 3), np.int64),
        np.empty(most, np.float64),
        np.empty((num_exchanges, 4), np.int64),
    )


@kernel
def recount_row(counts: Counts, packs: Packs, bar: float, work: int, trials: tuple[int, int], handovers: Handovers) -> int:
    """Hand slots over, each time one that ends lower after exchanges, until none does; returns the work left.

    Stops once the slowest pack takes at most ``bar``, or the ``work`` is used up (packs compared). ``trials`` are the
    hand-overs tried a step and the exchanges after each.
    """
    locate(counts, packs)
    listing, weighing = _work_of_listing(counts, packs), 1 + packs.load.shape[0] // 128
    while slowest(packs) > bar and work > 0:
        best = clearly_below(slowest(packs))
        found = find_handovers(counts, packs, best, handovers)
        work -= listing
        helped = False
        for x in range(min(found, trials[0])):
            pack, donor, receiver = handovers.step[x, 0], handovers.step[x, 1], handovers.step[x, 2]
            give_slot(counts, packs, pack, donor, receiver)
            done, compared = _exchange_and_log(counts, packs, handovers.log[: trials[1]])
            work -= compared + done + weighing * (counts.count[donor] + counts.count[receiver])
            if slowest(packs) < best:
                work -= _exchange_until_none_helps(counts, packs)
                helped = True
                break
            _undo(counts, packs, handovers.log, done)
            give_slot(counts, packs, pack, receiver, donor)
            if work <= 0:
                break
        if not helped:
            break
    return work


@kernel
def _work_of_listing(counts: Counts, packs: Packs) -> int:
    """Return what listing hand-overs costs, in packs compared: a replica is held against siblings and a pack's items."""
    num_slots = int(packs.room.sum())
    siblings = num_slots // counts.load.shape[0]
    return int(num_slots * (siblings + packs.item.shape[1]) // 64 + 1)


@kernel
def _exchange_until_none_helps(counts: Counts, packs: Packs) -> int:
    work = 0
    while True:
        i, other, j, compared = find_exchange(packs)
        work += compared + 1
        if other < 0:
            return work
        heavy = packs.ranking[0]
        exchange_experts(counts, packs, heavy, packs.item[heavy, i], other, packs.item[other, j])


@kernel
def _exchange_and_log(counts: Counts, packs: Packs, log: Ints) -> tuple[int, int]:
    """Exchange until none helps or the log is full; returns the exchanges made and the packs compared."""
    work = 0
    for done in range(log.shape[0]):
        i, other, j, compared = find_exchange(packs)
        work += compared
        if other < 0:
            return done, work
        heavy = packs.ranking[0]
        log[done, 0], log[done, 1] = heavy, packs.item[heavy, i]
        log[done, 2], log[done, 3] = other, packs.item[other, j]
        exchange_experts(counts, packs, heavy, log[done, 1], other, log[done, 3])
    return log.shape[0], work


@kernel
def _undo(counts: Counts, packs: Packs, log: Ints, done: int) -> None:
    for x in range(done - 1, -1, -1):
        exchange_experts(counts, packs, log[x, 0], log[x, 3], log[x, 2], log[x, 1])


@kernel
def find_handovers(counts: Counts, packs: Packs, bar: float, handovers: Handovers) -> int:
    """List hand-overs that relieve the slowest pack, those that end lowest first; returns how many.

    Either an expert on that pack gets another replica elsewhere, or a slot on that pack goes to a lighter replica. Donors
    are experts whose remaining replicas stay below ``bar``.
    """
    heavy = packs.ranking[0]
    fastest = packs.pace.min()
    found = 0
    for donor in range(counts.load.shape[0]):
        num = counts.count[donor]
        if num == 1:
            continue
        rise = share_with(counts, donor, num - 1) - counts.share[donor]
        if (counts.share[donor] + rise) * fastest >= bar:
            continue
        for x in range(num):
            p = counts.where[donor, x]
            rest = _slowest_of_others(counts, packs, donor, p, rise)
            if p == heavy:
                found = _offer_slot(counts, packs, p, donor, rest, handovers, found)
            else:
                found = _offer_to_heavy(counts, packs, p, donor, rise, rest, bar, handovers, found)
    return found


@kernel
def _slowest_of_others(counts: Counts, packs: Packs, donor: int, p: int, rise: float) -> float:
    """Time of the slowest other pack with the donor, once its share has risen."""
    latest = -np.inf
    for x in range(counts.count[donor]):
        q = counts.where[donor, x]
        if q != p:
            latest = max(latest, (packs.load[q] + rise) * packs.pace[q])
    return latest


@kernel
def _offer_slot(counts: Counts, packs: Packs, heavy: int, donor: int, rest: float, handovers: Handovers, found: int) -> int:
    """Consider giving the donor's slot on the slowest pack to any expert that is not there."""
    left = packs.load[heavy] - counts.share[donor]
    for receiver in range(counts.load.shape[0]):
        if packs.holds[heavy, receiver] or not may_grow(counts, receiver):
            continue
        share = share_with(counts, receiver, counts.count[receiver] + 1)
        ends = max(rest, (left + share) * packs.pace[heavy])
        found = _note(handovers, found, heavy, donor, receiver, ends)
    return found


@kernel
def _offer_to_heavy(
    counts: Counts, packs: Packs, p: int, donor: int, rise: float, rest: float, bar: float, handovers: Handovers, found: int
) -> int:
    """Consider giving the donor's slot on pack p to an expert of the slowest pack."""
    heavy = packs.ranking[0]
    left = packs.load[p] - counts.share[donor]
    heavy_load = packs.load[heavy] + (rise if packs.holds[heavy, donor] else 0.0)
    for i in range(packs.room[heavy]):
        receiver = packs.item[heavy, i]
        if packs.holds[p, receiver] or not may_grow(counts, receiver):
            continue
        share = share_with(counts, receiver, counts.count[receiver] + 1)
        relieved = (heavy_load + share - counts.share[receiver]) * packs.pace[heavy]
        if relieved < bar:
            ends = max(rest, relieved, (left + share) * packs.pace[p])
            found = _note(handovers, found, p, donor, receiver, ends)
    return found


@kernel
def _note(handovers: Handovers, found: int, pack: int, donor: int, receiver: int, ends: float) -> int:
    """Keep a hand-over if it is among the best, earlier ones first on ties; returns how many are kept."""
    most = handovers.ends.shape[0]
    if found == most:
        if ends >= handovers.ends[most - 1]:
            return found
        found -= 1
    place = found
    while place > 0 and handovers.ends[place - 1] > ends:
        copy_to(handovers.step[place - 1], handovers.step[place])
        handovers.ends[place] = handovers.ends[place - 1]
        place -= 1
    handovers.step[place, 0], handovers.step[place, 1], handovers.step[place, 2] = pack, donor, receiver
    handovers.ends[place] = ends
    return found + 1
