"""Replica counts for packs of two: the best packing of given counts is known, so only the counts are searched.

The largest replica goes with the smallest, the second largest with the second smallest, and so on: any other packing has a
pair at least as large as this one's largest (exchange the partners of two pairs). Replicas of one expert may meet in
the middle; that pair is counted like any other here, and parted when the counts are packed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.copying import copy_to
from equipoise.kernels.counts import Counts, may_grow, share_with
from equipoise.kernels.packs import clearly_below
from equipoise.kernels.types import Floats, Ints

CHAIN = 4
"""Steps of a chain, whose first makes the largest pair larger."""


class Steps(NamedTuple):
    """Steps found, best first: ``step`` [most, 2] holds the receiver of a replica and its donor.

    ``ends`` [most] is the largest pair after the step.
    """

    step: Ints
    ends: Floats


class Couples(NamedTuple):
    """Scratch: experts by falling share (``order``, ``trial``, ``before``, [experts]), steps, and starts of chains."""

    order: Ints
    trial: Ints
    before: Ints
    next: Steps
    starts: Steps


@kernel
def make_couples(num_experts: int, num_chains: int) -> Couples:
    """Return scratch for rows of ``num_experts``, and for ``num_chains`` chains tried where no step helps."""
    return Couples(
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.int64),
        Steps(np.empty((1, 2), np.int64), np.empty(1, np.float64)),
        Steps(np.empty((num_chains, 2), np.int64), np.empty(num_chains, np.float64)),
    )


@kernel
def couple_counts(counts: Counts, bar: float, work: int, num_chains: int, couples: Couples) -> int:
    """Lower the largest pair by handing replicas over, a step or a chain of steps at a time; returns the work left.

    Steps give a replica to an expert of the largest pair. Where none helps, at most ``num_chains`` chains are tried whose first
    step makes it worse, and then, if chains are allowed at all, steps to any other expert.

    ``counts.load`` falls; ``counts.count`` and ``counts.share`` are changed in place. Stops at ``bar``, when nothing helps, or
    when ``work`` (pairings looked at) is used up. A pairing is O(experts).
    """
    order = couples.order
    sort_by_share(counts.share, order)
    largest, a, b = largest_pair(counts.share, counts.count, order, np.inf)
    while largest > bar and work > 0:
        best = clearly_below(largest)
        found, spent = _find_steps(counts, couples, a, b, best, couples.next)
        work -= spent
        if not found and num_chains > 0:
            helped, spent = _try_chains(counts, couples, a, b, best, num_chains)
            work -= spent
            if not helped:
                found, spent = _find_any_step(counts, couples, best)
                work -= spent
        else:
            helped = False
        if found:
            _step(counts, order, couples.next.step[0, 0], couples.next.step[0, 1])
        elif not helped:
            break
        largest, a, b = largest_pair(counts.share, counts.count, order, np.inf)
    return work


@kernel
def sort_by_share(share: Floats, order: Ints) -> None:
    """Fill ``order`` [experts] with the experts by falling ``share``, lower ones first on ties."""
    for e in range(order.shape[0]):
        order[e] = e
        _sort_in(order, share, e)


@kernel
def largest_pair(share: Floats, count: Ints, order: Ints, bar: float) -> tuple[float, int, int]:
    """Pair the largest replica with the smallest, and so on; return the largest pair and its experts, or the first >= bar."""
    i, j = 0, order.shape[0] - 1
    left, right = count[order[i]], count[order[j]]
    largest, a, b = -1.0, 0, 0
    while i <= j:
        pairs = min(left, right) if i < j else left + right - count[order[i]]
        pair = share[order[i]] + share[order[j]]
        if pairs > 0 and pair > largest:
            largest, a, b = pair, order[i], order[j]
            if largest >= bar:
                break
        if i == j:
            break
        left -= pairs
        right -= pairs
        if left == 0:
            i += 1
            left = count[order[i]]
        if right == 0:
            j -= 1
            right = count[order[j]]
    return largest, a, b


@kernel
def _find_steps(counts: Counts, couples: Couples, a: int, b: int, bar: float, steps: Steps) -> tuple[int, int]:
    """List the steps that end lowest, below ``bar``; returns how many, and the pairings looked at.

    Receivers are a and b, the experts of the largest pair.
    """
    found, looked = _find_donors(counts, couples, a, bar, steps, 0)
    if a != b:
        if found == steps.ends.shape[0]:
            bar = steps.ends[found - 1]
        found, more = _find_donors(counts, couples, b, bar, steps, found)
        looked += more
    return found, looked


@kernel
def _find_any_step(counts: Counts, couples: Couples, bar: float) -> tuple[int, int]:
    """Find the step that ends lowest, below ``bar``, whoever receives: others shift who is paired with whom."""
    found, looked = 0, 0
    for receiver in range(counts.share.shape[0]):
        found, more = _find_donors(counts, couples, receiver, bar, couples.next, found)
        looked += more
        if found:
            bar = couples.next.ends[0]
    return found, looked


@kernel
def _find_donors(counts: Counts, couples: Couples, receiver: int, bar: float, steps: Steps, found: int) -> tuple[int, int]:
    """Add the steps to one receiver that end lowest, below ``bar``; returns how many are listed, and the pairings looked at."""
    looked = 0
    share, count = counts.share, counts.count
    if not may_grow(counts, receiver):
        return found, looked
    for donor in range(share.shape[0]):
        if donor == receiver or count[donor] == 1 or share_with(counts, donor, count[donor] - 1) >= bar:
            continue
        copy_to(couples.order, couples.trial)
        _step(counts, couples.trial, receiver, donor)
        ends, _, _ = largest_pair(share, count, couples.trial, bar)
        _take_back(counts, receiver, donor)
        looked += 1
        if ends < bar:
            found = _note(steps, found, receiver, donor, ends)
            if found == steps.ends.shape[0]:
                bar = steps.ends[found - 1]
    return found, looked


@kernel
def _try_chains(counts: Counts, couples: Couples, a: int, b: int, best: float, num_chains: int) -> tuple[bool, int]:
    """From each of the least bad steps go on with the best; keep the first chain that ends below ``best``."""
    starts = couples.starts
    num_starts, work = _find_steps(counts, couples, a, b, np.inf, starts)
    before = counts.count.copy()
    copy_to(couples.order, couples.before)
    for x in range(min(num_starts, num_chains)):
        _step(counts, couples.order, starts.step[x, 0], starts.step[x, 1])
        for _ in range(CHAIN - 1):
            largest, c, d = largest_pair(counts.share, counts.count, couples.order, np.inf)
            found, spent = _find_steps(counts, couples, c, d, clearly_below(largest), couples.next)
            work += spent
            if found == 0:
                break
            _step(counts, couples.order, couples.next.step[0, 0], couples.next.step[0, 1])
            if couples.next.ends[0] < best:
                return True, work
        copy_to(couples.before, couples.order)
        for e in range(before.shape[0]):
            if counts.count[e] != before[e]:
                counts.count[e] = before[e]
                counts.share[e] = share_with(counts, e, before[e])
    return False, work


@kernel
def _step(counts: Counts, order: Ints, receiver: int, donor: int) -> None:
    counts.count[receiver] += 1
    counts.share[receiver] = share_with(counts, receiver, counts.count[receiver])
    _resort(order, counts.share, receiver)
    counts.count[donor] -= 1
    counts.share[donor] = share_with(counts, donor, counts.count[donor])
    _resort(order, counts.share, donor)


@kernel
def _take_back(counts: Counts, receiver: int, donor: int) -> None:
    counts.count[receiver] -= 1
    counts.count[donor] += 1
    counts.share[receiver] = share_with(counts, receiver, counts.count[receiver])
    counts.share[donor] = share_with(counts, donor, counts.count[donor])


@kernel
def _resort(order: Ints, share: Floats, e: int) -> None:
    """Move expert e to where its new share belongs."""
    place = 0
    while order[place] != e:
        place += 1
    _sort_in(order, share, place)
    while place + 1 < order.shape[0] and _goes_before(share, order[place + 1], order[place]):
        order[place], order[place + 1] = order[place + 1], order[place]
        place += 1


@kernel
def _sort_in(order: Ints, share: Floats, place: int) -> None:
    """Move the expert at ``place`` up to where its share belongs."""
    while place > 0 and _goes_before(share, order[place], order[place - 1]):
        order[place], order[place - 1] = order[place - 1], order[place]
        place -= 1


@kernel
def _goes_before(share: Floats, e: int, f: int) -> bool:
    return share[e] > share[f] or (share[e] == share[f] and e < f)


@kernel
def _note(steps: Steps, found: int, receiver: int, donor: int, ends: float) -> int:
    """Keep a step if it is among the best, earlier ones first on ties; returns how many are kept."""
    most = steps.ends.shape[0]
    if found == most:
        if ends >= steps.ends[most - 1]:
            return found
        found -= 1
    place = found
    while place > 0 and steps.ends[place - 1] > ends:
        copy_to(steps.step[place - 1], steps.step[place])
        steps.ends[place] = steps.ends[place - 1]
        place -= 1
    steps.step[place, 0], steps.step[place, 1] = receiver, donor
    steps.ends[place] = ends
    return found + 1
