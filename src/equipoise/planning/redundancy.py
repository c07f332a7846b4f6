"""How many slots are worth their memory: balance against memory, layer by layer, and unequal budgets under one limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from equipoise import metrics
from equipoise.checks import check_choice
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.planner import Plan, plan
from equipoise.planning.problem import make_problem
from equipoise.trace import LoadTrace


@dataclass(frozen=True, eq=False)
class Trials:
    """Every window planned with every slots count: what all judgements here are made from.

    Attributes
    ----------
    clusters : tuple of Cluster
        One a slots count, rising.
    num_experts : int
        Experts of each layer.
    ideal : float64 [windows, layers]
        Time of each window's load lying level (docs/semantics.md, 5).
    in_sample : float64 [counts, windows, layers]
        Largest rank time on the window planned for.
    following : float64 [counts, windows - 1, layers]
        Largest rank time on the window after the one planned for.
    newest : tuple of int64 [layers, slots]
        expert_of_slot planned on the last window, one a slots count.
    """

    clusters: tuple[Cluster, ...]
    num_experts: int
    ideal: Floats
    in_sample: Floats
    following: Floats
    newest: tuple[Ints, ...]

    @property
    def slots(self) -> Ints:
        """Slots over all ranks of each count, int64 [counts], rising."""
        return np.array([cluster.num_slots for cluster in self.clusters], np.int64)

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.ideal.shape[1])

    @property
    def judged(self) -> Floats:
        """``following`` where there are several windows, else ``in_sample``."""
        return self.following if self.following.shape[1] else self.in_sample


def try_slots(
    trace: LoadTrace,
    clusters: Sequence[Cluster],
    *,
    num_groups: int = 1,
    locality: str = "none",
    effort: str = "default",
    progress: Callable[[], object] = lambda: None,
) -> Trials:
    """Plan every step of ``trace`` once on each of ``clusters``, and score each plan on its step and on the next.

    Parameters
    ----------
    trace : LoadTrace
        One load a step; cut it into windows first.
    clusters : sequence of Cluster
        Alike but for their slots, equally many on each rank; in any order, repeated ones count once.
    num_groups, locality, effort
        As for plan(); locality "none" or "strict".
    progress : callable
        Called after each plan.

    Raises
    ------
    ArgumentError
        On clusters that differ in more than slots, or that the load or the locality rule does not fit; before any plan is made.
    """
    check_choice("locality", locality, ("none", "strict"))
    check_choice("effort", effort, tuple(EFFORTS))
    chosen = _checked(clusters)
    for cluster in chosen:
        make_problem(trace, cluster, num_groups, locality)
    in_sample, following, newest = [], [], []
    for cluster in chosen:
        plans = []
        for load in trace.load:
            plans.append(plan(load, cluster, num_groups=num_groups, locality=locality, effort=effort))
            progress()
        in_sample.append([made.largest for made in plans])
        following.append(_times_after(plans, trace))
        newest.append(plans[-1].placement.expert_of_slot)
    ideal = np.array([made.ideal for made in plans])
    return Trials(chosen, trace.num_experts, ideal, np.array(in_sample), np.array(following), tuple(newest))


@dataclass(frozen=True, eq=False)
class RedundancyScore:
    """One slots count on all windows, what it costs, and which layers it serves.

    Attributes
    ----------
    slots : int
        Over all ranks.
    spare_per_rank : float
        Slots beyond one an expert, of a rank that is up.
    memory_slots : int
        Expert slots that each rank holds, summed over layers.
    memory_bytes : float or None
        The same in bytes; None where the size of an expert is not known.
    balancedness, worst_layer : float
        In-sample: mean over windows, and the worst layer of any window.
    next_window, next_window_error : float or None
        Mean over windows of balancedness on the window after the one planned for, None with one window; and the standard error
        of that mean, None with fewer than three. Windows differ far more than slots counts do on the same window: judge a
        step by its differences window by window, as :func:`find_knee` does.
    largest : float64 [layers]
        Largest rank time summed over windows, on the next window where there is one, else in-sample.
    gain : float64 [layers]
        How much faster than with the count below each layer's slowest rank is: largest there / largest - 1. 0 for the least
        count and for layers without load; below 0 where more slots happen to do worse on the next window.
    is_knee : bool
        Whether :func:`find_knee` marks it; it does one of them.
    """

    slots: int
    spare_per_rank: float
    memory_slots: int
    memory_bytes: float | None
    balancedness: float
    worst_layer: float
    next_window: float | None
    next_window_error: float | None
    largest: Floats
    gain: Floats
    is_knee: bool


def compare_redundancy(
    trace: LoadTrace,
    clusters: Sequence[Cluster],
    *,
    num_groups: int = 1,
    locality: str = "none",
    effort: str = "default",
    expert_bytes: float | None = None,
    progress: Callable[[], object] = lambda: None,
) -> list[RedundancyScore]:
    """Weigh balance against memory: :func:`score_redundancy` of :func:`try_slots`; one score a slots count, rising.

    Examples
    --------
    >>> load = LoadTrace([[[60, 20, 10, 10]], [[50, 30, 10, 10]], [[60, 20, 10, 10]]])
    >>> scores = compare_redundancy(load, [Cluster(2, slots) for slots in (2, 3, 4)], expert_bytes=44e6)
    >>> [(score.slots, score.memory_bytes / 1e6, round(score.next_window, 3), score.is_knee) for score in scores]
    [(4, 88.0, 0.774, True), (6, 132.0, 1.0, False), (8, 176.0, 1.0, False)]
    """
    trials = try_slots(trace, clusters, num_groups=num_groups, locality=locality, effort=effort, progress=progress)
    return score_redundancy(trials, expert_bytes=expert_bytes)


def score_redundancy(trials: Trials, *, expert_bytes: float | None = None) -> list[RedundancyScore]:
    """Score each slots count of ``trials``; ``expert_bytes`` is the size of one expert of one layer."""
    if expert_bytes is not None and not 0 < expert_bytes < float("inf"):
        raise ArgumentError(f"expert_bytes is {expert_bytes}", "it must be finite and > 0", "give the bytes of one expert")
    in_sample = _balance(trials.in_sample, trials.ideal)
    following = _balance(trials.following, trials.ideal[1:])
    held = np.array([int(cluster.slot_counts[0]) for cluster in trials.clusters])
    knee = find_knee(following if following.shape[1] else in_sample, held)
    total = trials.judged.sum(axis=1)
    scores = []
    for option, cluster in enumerate(trials.clusters):
        windows = zip(trials.in_sample[option], trials.ideal, strict=True)
        memory = int(held[option]) * trials.num_layers
        scores.append(
            RedundancyScore(
                slots=cluster.num_slots,
                spare_per_rank=float(held[option] - trials.num_experts / sum(cluster.alive)),
                memory_slots=memory,
                memory_bytes=None if expert_bytes is None else memory * float(expert_bytes),
                balancedness=float(in_sample[option].mean()),
                worst_layer=min(metrics.worst_layer(largest, ideal) for largest, ideal in windows),
                next_window=float(following[option].mean()) if following.shape[1] else None,
                next_window_error=_standard_error(following[option]) if following.shape[1] > 1 else None,
                largest=total[option],
                gain=_rise(total[max(option - 1, 0)], total[option]),
                is_knee=option == knee,
            )
        )
    return scores


def find_knee(balance: Floats, memory: Sequence[float] | Ints) -> int:
    """Return which option has the most balance for its memory: the last step up that pays.

    A step pays where it adds a larger share to balance than to memory: 5 % more expert memory for 5 % more speed breaks even.
    Going up from the least option, one is taken when it pays so against the one taken last, by more than the standard error
    of that over windows. So the knee is the largest balance / memory or, balance being 1 / time, the least product of memory
    and time, as chips are judged by area x delay; but for what is noise, where it is the option of less memory.

    Kneedle (Satopaa et al. 2011, the point farthest from the chord between the ends) was not taken: it moves with the largest
    option offered, has no answer for two options, and finds a knee in any curve, however flat. Here a flat curve gives the
    least option, two options are weighed as any, and options that do not pay change nothing for those below them. The price of
    that is an exchange rate, per cent for per cent, which is strict where memory is idle: then read the table.

    Parameters
    ----------
    balance : float64 [options, windows]
        Balancedness, each > 0.
    memory : sequence of float [options]
        Memory of each option in any unit, > 0, rising.

    Returns
    -------
    int
        In [0, options). The same for ``balance`` or ``memory`` in other units (multiplied by a constant).

    Examples
    --------
    >>> find_knee(np.array([[0.60], [0.73], [0.74]]), [256, 288, 320])
    1
    >>> find_knee(np.array([[0.950, 0.940], [0.955, 0.950]]), [32, 40])
    0
    """
    knee = 0
    for option in range(1, len(memory)):
        excess = balance[option] * (memory[knee] / memory[option]) - balance[knee]
        if excess.mean() > _standard_error(excess):
            knee = option
    return knee


@dataclass(frozen=True, eq=False)
class SlotSpending:
    """Slots shared out between layers under one limit, and what that brought on windows it had not seen.

    Attributes
    ----------
    uniform_slots : int
        The uniform choice whose memory is shared out.
    slots_of_layer : int64 [layers]
        Slots over all ranks of each layer, equally many on each rank; together at most uniform_slots * layers. Chosen on all
        windows.
    placement : Placement
        Strict, planned on the last window. Layers with fewer slots than the widest have ABSENT at the end of each rank's.
    held_out_windows : int
        Windows scored: those of the second half, each planned on the one before; 0 with fewer than three windows.
    held_out, held_out_uniform : float or None
        Mean balancedness over these windows: with slots chosen on the first half alone, and with ``uniform_slots`` everywhere.
    held_out_error : float or None
        Standard error of the mean difference of the two; None with fewer than two such windows.
    """

    uniform_slots: int
    slots_of_layer: Ints
    placement: Placement
    held_out_windows: int
    held_out: float | None
    held_out_uniform: float | None
    held_out_error: float | None

    @property
    def total_slots(self) -> int:
        """Slots over all ranks and layers that are spent."""
        return int(self.slots_of_layer.sum())


def spend_slots(trials: Trials, uniform_slots: int) -> SlotSpending:
    """Give each layer one of the slots counts tried, so that all layers together need no more memory than one count everywhere.

    Chosen is what makes the sum over layers of largest rank times least, on windows after the one planned for, and exactly so:
    layers do not touch each other, so it is a knapsack with one choice a layer, solved by dynamic programming. What it brings
    is judged apart: chosen once more on the first half of the windows, and scored on the second.

    Parameters
    ----------
    trials : Trials
        Of two windows or more.
    uniform_slots : int
        One of the slots counts tried.

    Raises
    ------
    ArgumentError
        On one window, or another number of slots.

    Notes
    -----
    O(layers * counts * total), where total is the slots to share out beyond the least count, in steps of the counts.

    Examples
    --------
    >>> load = LoadTrace([[[97, 1, 1, 1], [25, 25, 25, 25]]] * 2)
    >>> spent = spend_slots(try_slots(load, [Cluster(2, slots) for slots in (2, 3, 4)]), 6)
    >>> spent.slots_of_layer.tolist(), spent.placement.expert_of_slot.shape
    ([6, 4], (2, 6))
    """
    slots = trials.slots
    pairs = trials.following.shape[1]
    if uniform_slots not in slots:
        raise ArgumentError(f"{uniform_slots} slots to share out", f"tried were {slots.tolist()}", "take one of these")
    if not pairs:
        raise ArgumentError("slots to share out on 1 window", "they are chosen on the next window", "cut the load into windows")
    limit = uniform_slots * trials.num_layers
    choice = choose_counts(trials.following.sum(axis=1), slots, limit)
    held_out = _held_out(trials, limit, int(np.flatnonzero(slots == uniform_slots)[0])) if pairs > 1 else None
    return SlotSpending(
        uniform_slots=int(uniform_slots),
        slots_of_layer=slots[choice],
        placement=_join(trials, choice),
        held_out_windows=0 if held_out is None else held_out.shape[1],
        held_out=None if held_out is None else float(held_out[0].mean()),
        held_out_uniform=None if held_out is None else float(held_out[1].mean()),
        held_out_error=None if held_out is None or held_out.shape[1] < 2 else _standard_error(held_out[0] - held_out[1]),
    )


def choose_counts(time: Floats, slots: Ints, limit: int) -> Ints:
    """Choose a slots count for each layer so that their times add up to the least, and their slots to ``limit`` at most.

    Parameters
    ----------
    time : float64 [counts, layers]
        Time of each layer with each count; need not fall with more slots.
    slots : int64 [counts]
        Rising.
    limit : int
        At least the least count times layers.

    Returns
    -------
    int64 [layers]
        Number of the count chosen, of equally good ones the fewer slots for later layers.

    Examples
    --------
    >>> choose_counts(np.array([[9.0, 9.0, 9.0], [5.0, 8.0, 9.0], [4.0, 2.0, 9.0]]), np.array([4, 6, 8]), 18).tolist()
    [1, 2, 0]
    """
    step = max(gcd(*np.diff(slots).tolist()), 1)
    price = ((slots - slots[0]) // step).tolist()
    layers = time.shape[1]
    room = min((limit - int(slots[0]) * layers) // step, price[-1] * layers)
    best = np.zeros(room + 1)  # least time of the layers so far, for every room
    taken = np.zeros((layers, room + 1), np.int64)
    for layer in range(layers):
        with_count = np.full((len(price), room + 1), np.inf)
        for count, units in enumerate(price):
            if units <= room:
                with_count[count, units:] = best[: room + 1 - units] + time[count, layer]
        taken[layer] = with_count.argmin(axis=0)
        best = with_count.min(axis=0)
    choice = np.zeros(layers, np.int64)
    for layer in reversed(range(layers)):
        choice[layer] = taken[layer, room]
        room -= price[choice[layer]]
    return choice


def _held_out(trials: Trials, limit: int, uniform: int) -> Floats:
    """Balancedness on each window of the second half, [2, windows]: slots chosen on the first half, and uniform ones."""
    half = max(trials.ideal.shape[0] // 2, 2)
    choice = choose_counts(trials.following[:, : half - 1].sum(axis=1), trials.slots, limit)
    unseen = trials.following[:, half - 1 :]
    spent = np.take_along_axis(unseen, choice[np.newaxis, np.newaxis], axis=0)[0]
    return _balance(np.stack([spent, unseen[uniform]]), trials.ideal[half:])


def _join(trials: Trials, choice: Ints) -> Placement:
    """Return the newest plans of the counts chosen as one placement, as wide as the widest layer."""
    widest = trials.clusters[int(choice.max())]
    ranks, width = widest.num_ranks, int(widest.slot_counts[0])
    joined = np.full((trials.num_layers, ranks, width), ABSENT, np.int64)
    for layer, count in enumerate(choice):
        rows = trials.newest[count][layer].reshape(ranks, -1)
        joined[layer, :, : rows.shape[1]] = rows
    return Placement(joined.reshape(trials.num_layers, -1), widest, trials.num_experts)


def _checked(clusters: Sequence[Cluster]) -> tuple[Cluster, ...]:
    """Return the clusters by rising slots, each once."""
    if not clusters:
        raise ArgumentError("no slots counts", "there must be one at least", "name some, such as 256, 288 and 320")
    for cluster in clusters:
        if not isinstance(cluster.slots_per_rank, int):
            raise ArgumentError(
                f"{cluster.num_slots} slots on {cluster.num_ranks} ranks",
                "memory is weighed with equally many slots on each rank",
                "take numbers of slots that ranks divide",
            )
        if replace(cluster, slots_per_rank=1) != replace(clusters[0], slots_per_rank=1):
            raise ArgumentError(
                "clusters differ in more than slots", "redundancy is weighed on the same ranks", "change slots_per_rank only"
            )
    by_slots = {cluster.num_slots: cluster for cluster in clusters}
    return tuple(by_slots[slots] for slots in sorted(by_slots))


def _times_after(plans: Sequence[Plan], trace: LoadTrace) -> Floats:
    """Largest rank times of each plan on the step after its own, [steps - 1, layers]."""
    times = [made.placement.layer_times(load)[0] for made, load in zip(plans, trace.load[1:], strict=False)]
    return np.array(times).reshape(-1, trace.num_layers)


def _balance(largest: Floats, ideal: Floats) -> Floats:
    """Balancedness of each window, [..., windows], from times [..., windows, layers]; 1 without load."""
    total = largest.sum(axis=-1)
    level = np.broadcast_to(ideal.sum(axis=-1), total.shape)
    balance: Floats = np.divide(level, total, out=np.ones_like(total), where=total > 0)
    return balance


def _rise(before: Floats, now: Floats) -> Floats:
    rise: Floats = np.divide(before, now, out=np.ones_like(now), where=now > 0) - 1.0
    return rise


def _standard_error(values: Floats) -> float:
    """Of the mean; 0 of a single value, which says nothing of its noise."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
