"""What is to be planned, checked once, before any kernel sees it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_choice, check_integer
from equipoise.cluster import Cluster
from equipoise.costs import TOKENS, RankCost
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Floats, Ints
from equipoise.trace import LoadTrace

Locality = Literal["none", "soft", "strict"]

_LONGEST = 1e300


@dataclass(frozen=True, eq=False)
class Domain:
    """Ranks that are packed together: all that are up, or those of one node.

    ``ranks`` [n] are their numbers, ``room`` and ``speed`` [n] their slots and speeds, ``slots`` the numbers of all their
    slots, rank by rank.
    """

    ranks: Ints
    room: Ints
    speed: Floats
    slots: Ints


@dataclass(frozen=True, eq=False)
class Problem:
    """A load to balance on a cluster, under a locality rule.

    Parameters
    ----------
    load : float64 [layers, experts]
        Tokens of each expert.
    cluster : Cluster
        On the ranks that are up every expert can have a slot, and no rank has more slots than there are experts for it.
    num_groups : int
        Groups of consecutive experts that the router picks together; divides experts.
    locality : "none", "soft" or "strict"
        Pack over all ranks, keep a share of every layer's load on its groups' home nodes, or keep every group with all its
        replicas on one node.
    cost : RankCost
        What a rank's time is made of.

    Raises
    ------
    ArgumentError
        When one of these rules is broken; :func:`make_problem` takes raw input.
    """

    load: Floats
    cluster: Cluster
    num_groups: int = 1
    locality: Locality = "none"
    cost: RankCost = TOKENS

    def __post_init__(self) -> None:
        check_choice("locality", self.locality, get_args(Locality))
        if not isinstance(self.cost, RankCost):
            raise ArgumentError(f"cost is a {type(self.cost).__name__}", "it must be a RankCost", "make one with RankCost(...)")
        self._check_slots()
        self._check_range()
        self._check_groups()
        self._check_nodes()

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.load.shape[0])

    @property
    def num_experts(self) -> int:
        """Experts of each layer."""
        return int(self.load.shape[1])

    @property
    def has_homes(self) -> bool:
        """Whether groups have home nodes that a locality rule speaks of."""
        return self.locality != "none" and self.cluster.num_nodes > 1

    @cached_property
    def everything(self) -> Domain:
        """All ranks that are up."""
        return _domain(self.cluster, np.flatnonzero(self.cluster.alive))

    @cached_property
    def nodes(self) -> tuple[Domain, ...]:
        """The ranks that are up, node by node."""
        node = np.where(self.cluster.alive, self.cluster.node_of_rank, -1)
        return tuple(_domain(self.cluster, np.flatnonzero(node == n)) for n in range(self.cluster.num_nodes))

    @property
    def can_be_strict(self) -> bool:
        """Whether every node has room for its groups, and experts for its roomiest rank."""
        experts = self.num_experts // self.cluster.num_nodes
        return all(node.slots.size >= experts and 0 < node.room.max(initial=0) <= experts for node in self.nodes)

    @property
    def ideal(self) -> Floats:
        """Time of each layer if its load lay level over the ranks that are up, [layers] (docs/semantics.md, 5).

        Under a cost of active experts, each expert with load counts with the least it can be active: as one replica.
        """
        work = self.cost.per_token * self.load.sum(axis=1)
        if self.cost.per_active:
            work += self.cost.per_active * np.minimum(self.load, 1.0).sum(axis=1)
        times: Floats = work / self.everything.speed.sum()
        return times

    def _check_slots(self) -> None:
        experts, ranks = self.num_experts, self.everything.ranks.size
        slots, most = self.everything.slots.size, int(self.everything.room.max())
        up = "" if all(self.cluster.alive) else f" on the {ranks} ranks that are up"
        if slots < experts:
            raise ArgumentError(
                f"{slots} slots{up} for {experts} experts",
                f"every expert needs a slot, {experts - slots} are missing",
                f"take at least {-(-experts // ranks) * ranks} slots on {ranks} ranks",
            )
        if most > experts:
            raise ArgumentError(
                f"{most} slots per rank for {experts} experts",
                "no rank may hold an expert twice, so slots per rank must not exceed experts",
                f"take at most {experts * ranks} slots on {ranks} ranks",
            )

    def _check_range(self) -> None:
        """Refuse times that floats cannot hold."""
        cost = self.cost
        with np.errstate(over="ignore"):
            work = cost.per_token * self.load.sum(axis=1).max(initial=0.0) + cost.per_active * self.num_experts
            longest = cost.per_rank + work / self.everything.speed.min()
        if not longest <= _LONGEST:
            raise ArgumentError(
                f"a rank could take {longest:g}",
                f"times must stay below {_LONGEST:g}",
                "scale the load, the cost or the speeds",
            )

    def _check_groups(self) -> None:
        check_integer("num_groups", self.num_groups)
        if self.num_experts % self.num_groups:
            raise ArgumentError(
                f"{self.num_groups} groups of {self.num_experts} experts",
                "groups must divide experts evenly",
                "take the model's own number of groups, or 1",
            )

    def _check_nodes(self) -> None:
        if not self.has_homes:
            return
        nodes = self.cluster.num_nodes
        if self.num_groups % nodes:
            raise ArgumentError(
                f"{self.num_groups} groups on {nodes} nodes",
                f"{self.locality} locality needs groups divisible by nodes",
                f"take a number of nodes that divides {self.num_groups}, or locality none",
            )
        if self.locality == "strict":
            self._check_strict(self.num_experts // nodes)
        elif self.cost.per_active:
            raise NotSupportedError(
                "active experts cost under soft locality", "soft locality is planned for tokens alone", "take strict or none"
            )

    def _check_strict(self, experts: int) -> None:
        for number, node in enumerate(self.nodes):
            if node.slots.size < experts:
                raise ArgumentError(
                    f"node {number} has {node.slots.size} slots on ranks that are up",
                    f"strict locality puts {experts} experts on each node, {experts - node.slots.size} slots are missing",
                    "take more slots, or locality none",
                )
            if node.room.max() > experts:
                raise ArgumentError(
                    f"{node.room.max()} slots per rank for the {experts} experts of a node",
                    "no rank may hold an expert twice, so slots per rank must not exceed the node's experts",
                    f"take at most {experts} slots per rank, or locality none",
                )


def _domain(cluster: Cluster, ranks: Ints) -> Domain:
    room = np.ascontiguousarray(cluster.slot_counts[ranks])
    speed = np.asarray(cluster.rank_speeds, np.float64)[ranks]
    is_whole = ranks.size == cluster.num_ranks
    slots = np.arange(cluster.num_slots) if is_whole else np.flatnonzero(np.isin(cluster.rank_of_slot, ranks))
    return Domain(ranks, room, speed, slots)


def even_slots(num_slots: int, num_ranks: int, num_experts: int) -> int:
    """Return the slots a rank, or refuse a total that ranks do not divide and name the nearest legal ones.

    Raises
    ------
    ArgumentError
        When ``num_slots`` is not divisible by ``num_ranks``, or one of them is no integer >= 1.
    """
    check_integer("number of ranks", num_ranks)
    check_integer("number of slots", num_slots)
    if num_slots % num_ranks == 0:
        return num_slots // num_ranks
    fewest = -(-num_experts // num_ranks) * num_ranks
    below = num_slots // num_ranks * num_ranks
    legal = sorted({max(fewest, below), min(max(fewest, below + num_ranks), num_experts * num_ranks)})
    raise ArgumentError(
        f"{num_slots} slots on {num_ranks} ranks",
        "slots must be divisible by ranks",
        f"take {' or '.join(str(slots) for slots in legal)} for {num_experts} experts",
    )


def spread_slots(num_slots: int, num_ranks: int) -> int | tuple[int, ...]:
    """Return the slots of each rank, as even as may be: one number where ranks divide them, else the first get one more.

    >>> spread_slots(290, 32)[:3], spread_slots(288, 32)
    ((10, 10, 9), 9)
    """
    check_integer("number of ranks", num_ranks)
    check_integer("number of slots", num_slots, num_ranks)
    each, more = divmod(num_slots, num_ranks)
    return each if more == 0 else (each + 1,) * more + (each,) * (num_ranks - more)


def make_problem(
    load: npt.ArrayLike | LoadTrace, cluster: Cluster, num_groups: int = 1, locality: str = "none", cost: RankCost = TOKENS
) -> Problem:
    """Check raw input: ``load`` as an array [layers, experts] or [steps, layers, experts], or a trace (steps added up)."""
    trace = load if isinstance(load, LoadTrace) else LoadTrace(load)  # type: ignore[arg-type]
    if not isinstance(cluster, Cluster):
        raise ArgumentError(f"cluster is a {type(cluster).__name__}", "it must be a Cluster", "make one with Cluster(...)")
    total = np.ascontiguousarray(trace.sum(), np.float64)
    return Problem(total, cluster, num_groups, locality, cost)  # type: ignore[arg-type]
