"""How tokens get to replicas, by name: as engines choose them, optimally, or over replicas chosen for the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from equipoise.checks import check_integer, refuse_name
from equipoise.cluster import Cluster
from equipoise.dispatching.batches import MoveTime, plan_batch
from equipoise.dispatching.splitting import split_batch
from equipoise.errors import ArgumentError
from equipoise.kernels.dispatch import pin_sources, split_by_hash, split_by_shares, split_evenly, split_in_turn
from equipoise.kernels.scoring import largest_times
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.simulating.timing import TimeModel
from equipoise.simulating.triggers import Times, even_times

Split = Callable[[Floats], Floats]
"""From a window's load [layers, experts] to the tokens of each slot [layers, slots]."""


def _equal(placement: Placement, seed: int) -> Split:
    expert = placement.expert_of_slot
    return lambda load: split_evenly(expert, load)


def _hash(placement: Placement, seed: int) -> Split:
    expert = placement.expert_of_slot
    return lambda load: split_by_hash(expert, load, seed)


def _round_robin(placement: Placement, seed: int) -> Split:
    expert, sources = placement.expert_of_slot, sum(placement.cluster.alive)
    return lambda load: split_in_turn(expert, load, sources)


def _nearest(placement: Placement, seed: int) -> Split:
    cluster, expert = placement.cluster, placement.expert_of_slot
    node_of_rank, alive = np.asarray(cluster.node_of_rank), np.asarray(cluster.alive)
    shares = pin_sources(expert, placement.num_experts, cluster.rank_of_slot, node_of_rank, alive, seed)
    return lambda load: split_by_shares(expert, shares, load)


def _optimal(placement: Placement, seed: int) -> Split:
    return lambda load: split_batch(load, placement)[0]


def optimal_times(placement: Placement, load: Floats) -> tuple[Floats, Floats]:
    """Return the largest rank time and the ideal time of each layer under an optimal split."""
    speed, alive = np.asarray(placement.cluster.rank_speeds, np.float64), np.asarray(placement.cluster.alive)
    rank_load = split_batch(load, placement)[1]
    return largest_times(rank_load, speed), rank_load.sum(axis=1) / float(speed[alive].sum())


SPLITS: dict[str, Callable[[Placement, int], Split]] = {
    "equal": _equal,
    "hash": _hash,
    "round_robin": _round_robin,
    "nearest": _nearest,
    "optimal": _optimal,
}
"""``equal``: tokens over replicas evenly (vLLM's and SGLang's ``dynamic`` on average). ``hash``: each token by a hash of its
number (vLLM, token by token). ``round_robin``: each rank deals its tokens over the replicas in turn (TensorRT-LLM).
``nearest``: each rank always uses one replica, its own, else one on its node, else any (in the manner of SGLang's ``static``
and vllm-ascend; engines differ in which of several equally near ones they take, here they are spread evenly); every rank is
taken to have as many tokens of an expert. ``optimal``: as :func:`equipoise.dispatch` splits the window."""

BATCH = "batch"
"""``batch``, ``batch:2``: home experts stay, and so many spare slots a rank are filled for each window by
:func:`equipoise.plan_batch`; moves are counted, and taken only where they save time under the time model.

The window is one batch, whatever ``batches_per_window`` says. Moves are held against the model's ``per_token`` alone: where
experts have bytes and tokens take no time, none is made. Their stall counts, in each layer, the rank that sends or receives
most; that of a new plan the rank that receives most."""

RULES = (*SPLITS, BATCH)
ENGINES = ("equal", "hash", "round_robin", "nearest")
"""What engines do by themselves."""


@dataclass(frozen=True, eq=False)
class Served:
    """One window served: ``tokens`` [layers, slots] over ``placement``, and replicas ``carried`` to or from [layers, ranks]."""

    placement: Placement
    tokens: Floats
    moves: int = 0
    carried: Ints | None = None


@dataclass(frozen=True)
class Rule:
    """A dispatch rule; ``spare_slots`` on each rank are its to fill."""

    name: str
    spare_slots: int = 0

    @property
    def times(self) -> Times | None:
        """What triggers judge by: engines' rules are taken as an even split; None under ``batch``, which depends on moves."""
        if self.spare_slots:
            return None
        return optimal_times if self.name == "optimal" else even_times

    def home(self, cluster: Cluster, num_experts: int | None = None) -> Cluster:
        """Return ``cluster`` without the spare slots.

        Raises
        ------
        ArgumentError
            Where a rank has no slot left, or has more slots than there are experts.
        """
        if not self.spare_slots:
            return cluster
        counts = cluster.slot_counts - np.where(cluster.alive, self.spare_slots, 0)
        if counts.min() < 1:
            raise ArgumentError(
                f"{self.spare_slots} spare slots of {cluster.slot_counts.min()} on a rank",
                "home experts need at least one slot on each rank",
                "take fewer spare slots, or more slots a rank",
            )
        most = int(cluster.slot_counts[np.asarray(cluster.alive)].max())
        if num_experts is not None and most > num_experts:
            raise ArgumentError(
                f"{most} slots on a rank, {self.spare_slots} of them spare, for {num_experts} experts",
                "no rank may hold an expert twice",
                f"take at most {num_experts} slots a rank",
            )
        return replace(cluster, slots_per_rank=counts.tolist())

    def begin(self, placement: Placement, time_model: TimeModel, seed: int = 0) -> Callable[[Floats], Served]:
        """Return what serves windows over a placement, one after the other.

        >>> from equipoise.simulating.timing import TIME_MODELS
        >>> placement = Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)
        >>> make_rule("equal").begin(placement, TIME_MODELS["tokens"])(np.array([[6.0, 1.0, 4.0]])).tokens.tolist()
        [[3.0, 1.0, 3.0, 4.0]]
        """
        if self.spare_slots:
            return _Batches(placement, self.spare_slots, time_model)
        split = SPLITS[self.name](placement, seed)
        return lambda load: Served(placement, split(load))


def make_rule(text: str) -> Rule:
    """Return a dispatch rule by name; refuse any other.

    >>> make_rule("batch:2").spare_slots
    2
    """
    name, colon, count = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name == BATCH:
        try:
            return Rule(text, check_integer("spare slots", int(count) if colon else 1))
        except ValueError as error:
            raise ArgumentError(f"dispatch is {text!r}", "batch goes with a number of spare slots", "try batch:1") from error
    if not isinstance(text, str) or text not in SPLITS:
        refuse_name("dispatch", text, RULES)
    return Rule(text)


class _Batches:
    """Serves windows as batches, each over replicas chosen for it; keeps what spare slots hold."""

    def __init__(self, home: Placement, spare_slots: int, time_model: TimeModel) -> None:
        self._home = home
        self._spare_slots = spare_slots
        self._move_time = _move_time(time_model)
        self._max_received = 0 if time_model.expert_bytes and self._move_time is None else None
        self._held: Placement | None = None

    def __call__(self, load: Floats) -> Served:
        found = plan_batch(
            load,
            self._home,
            self._spare_slots,
            max_received=self._max_received,
            move_time=self._move_time,
            held=self._held,
        )
        self._held = found.placement
        rank, size = found.placement.cluster.rank_of_slot, load.shape[0] * found.placement.cluster.num_ranks
        layer, slot = np.nonzero(found.source >= 0)
        first = layer * found.placement.cluster.num_ranks
        received = np.bincount(first + rank[slot], minlength=size)
        sent = np.bincount(first + found.source[layer, slot], minlength=size)
        carried = np.maximum(received, sent).reshape(load.shape[0], -1)
        return Served(found.placement, found.tokens, int(found.moves.sum()), carried)


def _move_time(model: TimeModel) -> MoveTime | None:
    """Return what moves take against tokens, None where the model gives either no time."""
    if not (model.expert_bytes and model.cost.per_token):
        return None
    return MoveTime(model.cost.per_token, model.expert_bytes, model.link_bandwidth, model.link_bandwidth)
