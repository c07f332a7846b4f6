"""Lower bounds that see what must stand beside a replica: they are sharp where ranks have few slots.

Each is a proof by contradiction. Take a limit T and suppose a strict placement fills every slot with no rank above T. If that
cannot be, every placement has a larger rank, so T is a lower bound. A bisection finds the largest limit refuted; only limits
that were refuted are ever returned. Every comparison leaves :data:`_SLACK` of T to the placement, far more than rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats, Ints

_SLACK = 1e-12
_PRECISION = 1e-7
_TINY = 1e-280
_HUGE = 1e300
_PROOF = 1e-9
_STEP = 0.3
_THRESHOLDS = 64
_IMPOSSIBLE = 1 << 40


@kernel
def heavy_replica_bound(
    load: Floats, num_slots: int, num_ranks: int, fewest_slots: int, known: Floats, upper: Floats
) -> Floats:
    """Bound the largest rank load of each row of ``load`` [rows, experts], sorted from large to small, from below.

    On a rank with k slots a replica stands beside k - 1 others, which weigh at least s together: as much as the k - 1 smallest
    replicas can weigh. Under a limit T expert e then needs at least load / (T - s) replicas. Fewer slots are left to make
    others small, so s may rise, and again. When the slots do not suffice, T is refuted.

    Parameters
    ----------
    load : float64 [rows, experts]
        Sorted from large to small.
    num_slots, num_ranks : int
        All slots are filled, and no rank holds an expert twice.
    fewest_slots : int
        Slots of the rank that has fewest; ``num_slots // num_ranks`` where all have equally many.
    known, upper : float64 [rows]
        A bound proven already, and a largest rank load that was reached.

    Returns
    -------
    float64 [rows], each from ``known`` to ``upper``, within 1e-7 of the largest limit that this argument refutes.
    """
    num_rows, num_experts = load.shape
    best = known.copy()
    count = np.empty(num_experts, np.int64)
    smallest = np.empty(max(fewest_slots, 1), np.float64)
    for x in range(num_rows):
        if not (_TINY < known[x] < upper[x] < _HUGE) or fewest_slots < 2:
            continue
        low = known[x]
        high = upper[x]
        while high - low > _PRECISION * high:
            limit = 0.5 * (low + high)
            if _spare_slots(load[x], limit, num_slots, num_ranks, count, smallest) < 0:
                low = limit
            else:
                high = limit
        best[x] = low
    return best


@kernel
def _spare_slots(load: Floats, limit: float, num_slots: int, max_replicas: int, count: Ints, smallest: Floats) -> int:
    """Give each expert the least replicas the limit allows; return the slots left over, or -1 when there are too few.

    Afterwards ``smallest`` holds the least that the k smallest replicas can weigh, rising, k being its length.
    """
    smallest[:] = 0.0
    beside = 0.0
    while True:
        spare = num_slots - _least_counts(load, limit - beside + _SLACK * limit, max_replicas, count)
        if spare < 0:
            return -1
        _smallest_replicas(load, count, spare, max_replicas, smallest)
        heavier = 0.0
        for i in range(smallest.shape[0] - 1):
            heavier += smallest[i]
        if heavier <= beside * (1.0 + _PRECISION):
            return spare
        beside = heavier
        if beside >= limit:
            return -1


@kernel
def _least_counts(load: Floats, room: float, max_replicas: int, count: Ints) -> int:
    """Count the replicas each expert needs so that none is above ``room``; return their sum, huge where impossible."""
    total: int = 0
    for e in range(load.shape[0]):
        if load[e] <= room:
            count[e:] = 1
            total += int(load.shape[0]) - e
            return total
        if load[e] > room * max_replicas:
            return _IMPOSSIBLE
        needed = int(np.ceil(load[e] / room * (1.0 - _SLACK)))
        count[e] = needed
        total += needed
    return total


@kernel
def _smallest_replicas(load: Floats, count: Ints, spare: int, max_replicas: int, smallest: Floats) -> None:
    """Bound the smallest replicas of distinct experts from below: each could get all spare slots.

    Among experts with one replica only those of least load matter, and these stand last.
    """
    kept = 0
    for e in range(load.shape[0]):
        if count[e] == 1 and e < load.shape[0] - smallest.shape[0]:
            continue
        value = load[e] / min(count[e] + spare, max_replicas)
        i = kept
        if kept < smallest.shape[0]:
            kept += 1
        elif value >= smallest[kept - 1]:
            continue
        else:
            i = kept - 1
        while i > 0 and smallest[i - 1] > value:
            smallest[i] = smallest[i - 1]
            i -= 1
        smallest[i] = value
    while kept < smallest.shape[0]:
        smallest[kept] = np.inf
        kept += 1


class Choices(NamedTuple):
    """What each expert may choose under a limit: ``replicas`` and ``level`` [choices], those of expert e from ``start[e]`` on.

    ``threshold`` rises to half the limit. ``level`` is the number of thresholds for which a replica is heavy, or minus the
    number for which it is light.
    """

    start: Ints
    replicas: Ints
    level: Ints
    threshold: Floats


@kernel
def paired_replica_bound(
    load: Floats, num_slots: int, num_ranks: int, known: Floats, upper: Floats, rounds: int, precision: float
) -> Floats:
    """Bound the largest rank load of each row of ``load`` [rows, experts] from below where every rank has two slots.

    Take thresholds t up to half the limit T. A replica above T - t is *heavy*: its partner must be *light*, below t. So for
    each t there are at least as many light replicas as heavy ones. Replica counts that keep all slots in use and all these
    rules at once may not exist. Whether they do is asked of a relaxation: weigh the rules, let every expert on its own choose
    the count that breaks the weighted sum least; if the sum is broken even so, T is refuted, whatever the weights. Rules that
    are broken get more weight, ``rounds`` times.

    Parameters
    ----------
    load : float64 [rows, experts]
        Sorted from large to small.
    num_slots, num_ranks : int
        All slots are filled, two a rank, and no rank holds an expert twice; other shapes get back ``known``.
    known, upper : float64 [rows]
        A bound proven already, and a largest rank load that was reached.
    rounds : int
        How often the weights change for each limit tried; 300 do well.
    precision : float
        The bisection ends when known and refuted limits are so close, relatively.

    Returns
    -------
    float64 [rows], each from ``known`` to ``upper``.
    """
    num_rows, num_experts = load.shape
    best = known.copy()
    if num_slots != 2 * num_ranks:
        return best
    count = np.empty(num_experts, np.int64)
    smallest = np.empty(2, np.float64)
    for x in range(num_rows):
        if not _TINY < known[x] < upper[x] < _HUGE:
            continue
        low = known[x]
        high = upper[x]
        while high - low > precision * high:
            limit = 0.5 * (low + high)
            spare = _spare_slots(load[x], limit, num_slots, num_ranks, count, smallest)
            if spare < 0 or _no_counts_pair(_list_choices(load[x], limit, count, spare, num_ranks), num_slots, rounds):
                low = limit
            else:
                high = limit
        best[x] = low
    return best


@kernel
def _list_choices(load: Floats, limit: float, least: Ints, spare: int, max_replicas: int) -> Choices:
    """List every count from which an expert may choose, from few to many: the fewest replicas that reach a level."""
    num_experts = load.shape[0]
    threshold = _thresholds(load, limit, least)
    k = threshold.shape[0]
    start = np.empty(num_experts + 1, np.int64)
    count = np.empty(num_experts * min(spare + 1, 2 * k + 1), np.int64)
    level = np.empty(count.shape[0], np.int64)
    margin = _SLACK * limit
    at = 0
    for e in range(num_experts):
        start[e] = at
        for c in range(least[e], min(least[e] + spare, max_replicas) + 1):
            weight = load[e] / c
            if weight > 0.5 * limit + margin:
                this_level = k - np.searchsorted(threshold, limit - weight + margin, side="right")
            else:
                this_level = np.searchsorted(threshold, weight - margin, side="right") - k
            if at == start[e] or this_level < level[at - 1]:
                count[at] = c
                level[at] = this_level
                at += 1
            if this_level == -k:
                break
    start[num_experts] = at
    return Choices(start, count[:at], level[:at], threshold)


@kernel
def _thresholds(load: Floats, limit: float, least: Ints) -> Floats:
    """Choose at most :data:`_THRESHOLDS`, rising: weights that replicas of the least counts, or of one more, may have.

    Each lies lower by more than the slack for rounding, so that a replica of that very weight is not taken for light.
    """
    weight = np.empty(2 * load.shape[0], np.float64)
    n = 0
    for e in range(load.shape[0]):
        for c in range(least[e], least[e] + 2):
            if load[e] / c < 0.5 * limit:
                weight[n] = load[e] / c
                n += 1
    distinct = np.unique(weight[:n])
    kept = min(distinct.shape[0], _THRESHOLDS - 1)
    threshold = np.empty(kept + 1, np.float64)
    for i in range(kept):
        threshold[i] = distinct[i * (distinct.shape[0] - 1) // max(kept - 1, 1)] - 2.0 * _SLACK * limit
    threshold[kept] = 0.5 * limit
    return threshold


@kernel
def _no_counts_pair(choices: Choices, num_slots: int, rounds: int) -> bool:
    """Say whether some weights prove that no counts fill the slots and have a light partner for each heavy replica.

    Rule i says that heavy replicas for the i + 1 largest thresholds are at most the light ones; the last rule, that replicas
    are at most ``num_slots``. Each rule counts replicas too, so that what an expert adds to a rule is never negative.
    """
    num_rules = choices.threshold.shape[0] + 1
    k = num_rules - 1
    weight = np.full(num_rules, 1.0 / num_rules)
    price = np.empty(2 * k + 1, np.float64)
    replicas = np.empty(2 * k + 1, np.int64)
    excess = np.empty(num_rules, np.int64)
    so_far = np.zeros(num_rules, np.int64)
    for _ in range(rounds):
        total = 0.0
        price[k] = 0.0
        for i in range(k):
            total += weight[i]
            price[k + i + 1] = total
            price[k - i - 1] = -total
        total += weight[k]
        if _choose_cheapest(choices, price, total, replicas) > num_slots * total * (1.0 + _PROOF):
            return True
        largest = _count_excess(replicas, num_slots, excess)
        so_far += excess
        if largest == 0 or so_far.max() <= 0:
            return False
        total = 0.0
        for i in range(num_rules):
            weight[i] *= 1.0 + _STEP * excess[i] / largest
            total += weight[i]
        for i in range(num_rules):
            weight[i] /= total
    return False


@kernel
def _choose_cheapest(choices: Choices, price: Floats, base: float, replicas: Ints) -> float:
    """Let each expert choose its cheapest count, at ``base`` plus its level's price a replica; return what all pay.

    ``replicas`` [levels] becomes the number of replicas at each level; the middle one is level 0.
    """
    replicas[:] = 0
    middle = price.shape[0] // 2
    paid = 0.0
    for e in range(choices.start.shape[0] - 1):
        best = np.inf
        chosen = choices.start[e]
        for i in range(choices.start[e], choices.start[e + 1]):
            cost = choices.replicas[i] * (base + price[middle + choices.level[i]])
            if cost < best:
                best = cost
                chosen = i
        paid += best
        replicas[middle + choices.level[chosen]] += choices.replicas[chosen]
    return paid


@kernel
def _count_excess(replicas: Ints, num_slots: int, excess: Ints) -> int:
    """Set by how much each rule is broken (negative: kept with room), and return the largest size of these numbers."""
    k = excess.shape[0] - 1
    used = replicas.sum() - num_slots
    excess[k] = used
    largest: int = abs(used)
    heavier = 0
    for i in range(k - 1, -1, -1):
        heavier += replicas[k + i + 1] - replicas[k - i - 1]
        excess[i] = used + heavier
        largest = max(largest, abs(excess[i]))
    return largest
