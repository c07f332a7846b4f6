"""Placement: which expert each slot holds, the maps derived from it, and what a load makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.arrays import frozen
from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, FileError, InvalidPlacementError
from equipoise.files.placements.found import FoundCluster, FoundPlacement
from equipoise.steps import as_layer_ids
from equipoise.tensors import as_array
from equipoise.trace import LoadTrace

ABSENT = -1
"""An empty slot, on purpose or on a dead rank; never "unknown" (docs/semantics.md, 2)."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Placement:
    """Which expert each slot holds (docs/semantics.md, 2).

    Only the structure is checked, so that whatever an engine produces can be held: experts twice on a rank, experts without
    a slot. :meth:`validate` is the strict rule.

    Parameters
    ----------
    expert_of_slot : array_like of int [layers, slots]
        Expert in each slot, ABSENT (-1) for none; slots are numbered over all ranks in rank order.
    cluster : Cluster
        The ranks; its slots must be as many as the array's.
    num_experts : int
        Experts of each layer.

    Raises
    ------
    ArgumentError
        When shapes do not fit or an expert lies outside [-1, num_experts).

    Examples
    --------
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=3)
    >>> placement.replica_count.tolist()
    [[2, 1, 1]]
    >>> placement.rank_load([[6, 1, 4]]).tolist()
    [[4.0, 7.0]]
    """

    expert_of_slot: Any  # IntArray once made; anything array-like to make it
    cluster: Cluster
    num_experts: int

    def __post_init__(self) -> None:
        check_integer("num_experts", self.num_experts)
        given = as_array("expert_of_slot", self.expert_of_slot)
        if given.dtype.kind not in "iu":
            raise ArgumentError(
                f"expert_of_slot has dtype {given.dtype}", "it must hold integers", "convert it with .astype('int64')"
            )
        if given.ndim != 2 or given.shape[1] != self.cluster.num_slots:
            raise ArgumentError(
                f"expert_of_slot has shape {list(given.shape)}",
                f"it must be [layers, slots] with the cluster's {self.cluster.num_slots} slots",
                "pass the cluster it was made for",
            )
        outside = (given < ABSENT) | (given >= self.num_experts)
        if outside.any():
            layer, slot = (int(i) for i in np.argwhere(outside)[0])
            raise ArgumentError(
                f"layer {layer}, slot {slot} holds expert {given[layer, slot]}",
                f"an expert lies in 0..{self.num_experts - 1}, or is -1 for an empty slot",
                "check num_experts and the map's numbering",
            )
        object.__setattr__(self, "expert_of_slot", frozen(given.astype(np.int64)))

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.expert_of_slot.shape[0])

    @cached_property
    def replica_count(self) -> IntArray:
        """Replicas of each expert, int64 [layers, experts]."""
        size = self.num_layers * self.num_experts
        count = np.bincount(self._filled_pairs()[0], minlength=size).reshape(self.num_layers, self.num_experts)
        return frozen(count.astype(np.int64, copy=False))

    @cached_property
    def slots_of_expert(self) -> IntArray:
        """Slots of each expert in rising order, int64 [layers, experts, max_replicas], ABSENT-padded."""
        pair, slot = self._filled_pairs()
        order = np.argsort(pair, kind="stable")
        pair, slot = pair[order], slot[order]
        count = self.replica_count.ravel()
        nth = np.arange(pair.size) - np.repeat(np.cumsum(count) - count, count)
        slots = np.full((count.size, max(1, int(count.max(initial=0)))), ABSENT, np.int64)
        slots[pair, nth] = slot
        return frozen(slots.reshape(self.num_layers, self.num_experts, -1))

    @cached_property
    def duplicates(self) -> IntArray:
        """Slots a layer that hold an expert their rank holds already, int64 [layers]."""
        held = self._rank_expert_counts()
        return frozen(np.maximum(held - 1, 0).sum(axis=(1, 2)))

    @cached_property
    def lost_experts(self) -> tuple[tuple[int, int], ...]:
        """Pairs (layer, expert) that have no slot."""
        return tuple((int(layer), int(expert)) for layer, expert in np.argwhere(self.replica_count == 0))

    def fitting_load(self, load: npt.ArrayLike | LoadTrace) -> FloatArray:
        """Return a load of this placement's model, added up over steps, as float64 [layers, experts]; refuse any other."""
        trace = load if isinstance(load, LoadTrace) else LoadTrace(load)  # type: ignore[arg-type]
        if (trace.num_layers, trace.num_experts) != (self.num_layers, self.num_experts):
            raise ArgumentError(
                f"load has {trace.num_layers} layers of {trace.num_experts} experts",
                f"this placement has {self.num_layers} of {self.num_experts}",
                "pass the load of the model it was planned for",
            )
        return trace.sum().astype(np.float64)

    def rank_load(self, load: npt.ArrayLike | LoadTrace) -> FloatArray:
        """Tokens of each rank when every replica takes an equal share (docs/semantics.md, 4): float64 [layers, ranks].

        ``load`` is [layers, experts], [steps, layers, experts] or a trace (steps are added up). Load of experts without a
        slot lands nowhere.
        """
        per_replica = self.fitting_load(load) / np.maximum(self.replica_count, 1)
        expert = self.expert_of_slot
        slot_load = np.where(expert == ABSENT, 0.0, np.take_along_axis(per_replica, np.maximum(expert, 0), axis=1))
        num_ranks = self.cluster.num_ranks
        rank = np.arange(self.num_layers)[:, np.newaxis] * num_ranks + self.cluster.rank_of_slot
        total = np.bincount(rank.ravel(), slot_load.ravel(), minlength=self.num_layers * num_ranks)
        return np.asarray(total, np.float64).reshape(self.num_layers, num_ranks)

    def rank_time(self, load: npt.ArrayLike | LoadTrace) -> FloatArray:
        """Rank load over rank speed, float64 [layers, ranks]."""
        times: FloatArray = self.rank_load(load) / np.asarray(self.cluster.rank_speeds, np.float64)
        return times

    def layer_times(self, load: npt.ArrayLike | LoadTrace) -> tuple[FloatArray, FloatArray]:
        """Largest rank time and ideal time of each layer, float64 [layers] each; what :mod:`equipoise.metrics` takes.

        The ideal counts the load that is served: an expert without a slot must not make a placement look better.
        """
        rank_load = self.rank_load(load)
        speeds = np.asarray(self.cluster.rank_speeds)
        ideal = rank_load.sum(axis=1) / float(speeds[np.asarray(self.cluster.alive)].sum())
        return (rank_load / speeds).max(axis=1), ideal

    def balancedness(self, load: npt.ArrayLike | LoadTrace) -> float:
        """Sum of ideal over sum of largest rank times, over layers (docs/semantics.md, 5); 1 is perfect."""
        return metrics.balancedness(*self.layer_times(load))

    def worst_layer(self, load: npt.ArrayLike | LoadTrace) -> float:
        """Balancedness of the worst layer that has load."""
        return metrics.worst_layer(*self.layer_times(load))

    def fifth_percentile(self, load: npt.ArrayLike | LoadTrace) -> float:
        """5th percentile of balancedness over the layers that have load."""
        return metrics.fifth_percentile(*self.layer_times(load))

    def validate(self) -> None:
        """Check the strict rule (docs/semantics.md, 3).

        Raises
        ------
        InvalidPlacementError
            When an expert has no slot, a rank holds an expert twice, or a dead rank holds one.
        """
        if self.lost_experts:
            layer, expert = self.lost_experts[0]
            raise InvalidPlacementError(
                f"layer {layer}: expert {expert} has no slot ({len(self.lost_experts)} such)",
                "every expert needs a slot in every layer",
                "plan anew for the ranks that are up",
            )
        twice = np.argwhere(self._rank_expert_counts() > 1)
        if twice.size:
            layer, rank, expert = (int(i) for i in twice[0])
            raise InvalidPlacementError(
                f"layer {layer}: rank {rank} holds expert {expert} twice ({len(twice)} such)",
                "no rank may hold an expert twice",
                "plan anew; equipoise never places one so",
            )
        dead = ~np.asarray(self.cluster.alive)[self.cluster.rank_of_slot]
        if (self.expert_of_slot[:, dead] != ABSENT).any():
            raise InvalidPlacementError(
                "a rank that is down holds experts", "its slots must hold -1", "plan anew for the ranks that are up"
            )

    def moves_from(self, previous: Placement) -> IntArray:
        """Replicas that ranks must receive to get here from ``previous``, int64 [layers] (docs/semantics.md, 9)."""
        if (previous.num_layers, previous.num_experts) != (self.num_layers, self.num_experts):
            raise ArgumentError(
                f"previous has {previous.num_layers} layers of {previous.num_experts} experts",
                f"it must have {self.num_layers} of {self.num_experts}",
                "pass the placement of the same model",
            )
        if previous.cluster.num_ranks != self.cluster.num_ranks:
            raise ArgumentError(
                f"previous has {previous.cluster.num_ranks} ranks",
                f"it must have {self.cluster.num_ranks}",
                "moves are counted between placements on the same ranks",
            )
        received = (self._rank_expert_counts() > 0) & (previous._rank_expert_counts() == 0)
        return np.asarray(received.sum(axis=(1, 2)), np.int64)

    def write(
        self,
        path: str | PathLike[str],
        format: str = "json",  # noqa: A002 - what readers of every kind call it
        *,
        layer_ids: Iterable[int] = (),
        hidden_layers: int | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the placement atomically, for equipoise or for an engine (docs/placement-files.md).

        Parameters
        ----------
        path : path
            The file, with an ending that the format's program takes: ``.json`` or ``.npz`` for our own.
        format : str
            ``json`` (our own), ``sglang``, ``tensorrt-llm``, ``vllm``, ``vllm-ascend`` or ``deepseek``.
        layer_ids : iterable of int
            The model's numbers of the layers; SGLang and TensorRT-LLM go by them.
        hidden_layers : int, optional
            All layers of the model, dense ones too; SGLang's file has a row for each.
        plan : mapping, optional
            What is known of the plan; only our own format keeps it.

        Raises
        ------
        ArgumentError
            When the format cannot hold this placement, or needs numbers that were not given; nothing is written then.
        FileError
            On another ending, or a folder that cannot be written.
        """
        from equipoise.files.placements import write_as

        write_as(path, format, self.as_found(layer_ids, hidden_layers, plan))

    def as_found(
        self, layer_ids: Iterable[int] = (), hidden_layers: int | None = None, plan: Mapping[str, Any] | None = None
    ) -> FoundPlacement:
        """Return the placement as :mod:`equipoise.files.placements` takes it; parameters as for :meth:`write`."""
        given = tuple(layer_ids)
        if hidden_layers is not None:
            check_integer("hidden_layers", hidden_layers, self.num_layers)
        cluster = self.cluster
        return FoundPlacement(
            self.expert_of_slot,
            as_layer_ids(given, self.num_layers) if given else (),
            cluster.num_ranks,
            self.num_experts,
            hidden_layers=hidden_layers,
            cluster=FoundCluster(
                cluster.num_ranks,
                cluster.slots_per_rank,
                cluster.num_nodes,
                cluster.node_of_rank,
                cluster.rank_speeds,
                cluster.alive,
            ),
            plan={} if plan is None else plan,
        )

    @classmethod
    def read(
        cls,
        path: str | PathLike[str],
        format: str = "auto",  # noqa: A002 - what readers of every kind call it
        *,
        cluster: Cluster | None = None,
        num_ranks: int | None = None,
        num_experts: int | None = None,
        layer_ids: Iterable[int] = (),
    ) -> Placement:
        """Read a placement that :meth:`write` wrote, or that an engine did (docs/placement-files.md).

        Parameters
        ----------
        path : path
            The file.
        format : str
            As for :meth:`write`; ``auto`` tells it by content.
        cluster : Cluster, optional
            The ranks it is for. Our own files hold theirs, vllm-ascend's tell how many there are; the others need this or
            ``num_ranks``.
        num_ranks : int, optional
            Ranks with equally many slots, in place of a cluster.
        num_experts : int, optional
            Experts of each layer. Default: what the file says, or its largest expert + 1.
        layer_ids : iterable of int
            The model's numbers of its MoE layers: which rows to read of SGLang's and TensorRT-LLM's files. Default: all.

        Raises
        ------
        FileError
            When the file cannot be read, is of no format known, or does not fit what was given.
        """
        from equipoise.files.placements import read_any

        found = read_any(path, format, layer_ids=layer_ids, num_experts=num_experts)
        return cls.from_found(found, cluster, num_ranks)

    @classmethod
    def from_found(cls, found: FoundPlacement, cluster: Cluster | None = None, num_ranks: int | None = None) -> Placement:
        """Return what a file held as a placement; ``cluster`` and ``num_ranks`` as for :meth:`read`."""
        try:
            own = _cluster_in(found)
            if cluster is not None and own is not None:
                _check_same_ranks(cluster, own)
            chosen = cluster or own or _equal_ranks(found, num_ranks)
            if num_ranks is not None and chosen.num_ranks != num_ranks:
                raise ArgumentError(
                    f"it is for {chosen.num_ranks} ranks", f"{num_ranks} were asked for", "name the ranks it was made for"
                )
            return cls(found.expert_of_slot, chosen, found.experts_known)
        except ArgumentError as error:
            raise FileError(f"{found.name}: {error.found}", error.rule, error.next_step) from error

    def _filled_pairs(self) -> tuple[IntArray, IntArray]:
        """List the filled slots as (layer * experts + expert, slot), layer by layer in slot order."""
        layer, slot = np.nonzero(self.expert_of_slot != ABSENT)
        return layer * self.num_experts + self.expert_of_slot[layer, slot], slot

    def _rank_expert_counts(self) -> IntArray:
        """How often each rank holds each expert, [layers, ranks, experts]."""
        pair, slot = self._filled_pairs()
        layer, expert = np.divmod(pair, self.num_experts)
        shape = (self.num_layers, self.cluster.num_ranks, self.num_experts)
        key = (layer * shape[1] + self.cluster.rank_of_slot[slot]) * shape[2] + expert
        return np.bincount(key, minlength=shape[0] * shape[1] * shape[2]).reshape(shape)


def _cluster_in(found: FoundPlacement) -> Cluster | None:
    """Return the ranks that a file itself tells of."""
    if found.cluster is None:
        return None if found.num_ranks is None else _equal_ranks(found, found.num_ranks)
    told = found.cluster
    return Cluster(
        told.num_ranks,
        told.slots_per_rank,
        told.num_nodes,
        node_of_rank=told.node_of_rank,
        rank_speeds=told.rank_speeds,
        alive=told.alive,
    )


def _equal_ranks(found: FoundPlacement, num_ranks: int | None) -> Cluster:
    if num_ranks is None:
        raise ArgumentError(
            f"the {found.format} format does not say how many ranks there are",
            f"its {found.num_slots} slots are numbered over them",
            "give num_ranks (--ranks), or first convert it with --ranks",
        )
    if found.num_slots % check_integer("num_ranks", num_ranks):
        raise ArgumentError(
            f"{found.num_slots} slots on {num_ranks} ranks", "slots must be divisible by ranks", "give the ranks it is for"
        )
    return Cluster(num_ranks, found.num_slots // num_ranks)


def _check_same_ranks(given: Cluster, told: Cluster) -> None:
    if (given.num_ranks, given.slots_per_rank) != (told.num_ranks, told.slots_per_rank):
        raise ArgumentError(
            f"it is for {told.num_ranks} ranks with {told.slots_per_rank} slots",
            f"the cluster has {given.num_ranks} with {given.slots_per_rank}",
            "pass the cluster it was made for",
        )
