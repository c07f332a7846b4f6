"""Cluster: the ranks that hold experts, the nodes they form, and how many slots each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.arrays import frozen
from equipoise.checks import check_integer
from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Cluster:
    """The GPUs of one expert-parallel group.

    Parameters
    ----------
    num_ranks : int
        GPUs, >= 1.
    slots_per_rank : int or sequence of int
        Replicas a rank has room for: one number for all, or one a rank; each >= 1.
    num_nodes : int
        Locality domains, sets of ranks with fast links between them; not always hosts.
    node_of_rank : sequence of int, optional
        Node of each rank. Default: equal consecutive blocks, for which ``num_ranks`` must be divisible by ``num_nodes``.
    rank_speeds : sequence of float, optional
        Relative speed of each rank, > 0. Default: all 1.
    alive : sequence of bool, optional
        Ranks that are up. Dead ranks keep their slot numbers; their slots hold ABSENT. Default: all.

    Raises
    ------
    ArgumentError
        When a value breaks one of the rules above.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=32, slots_per_rank=9, num_nodes=4)
    >>> cluster.num_slots, cluster.ranks_per_node
    (288, 8)
    """

    num_ranks: int
    slots_per_rank: int | Sequence[int]
    num_nodes: int = 1
    node_of_rank: Sequence[int] = field(default=(), kw_only=True)
    rank_speeds: Sequence[float] = field(default=(), kw_only=True)
    alive: Sequence[bool] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self._set("num_ranks", check_integer("num_ranks", self.num_ranks))
        self._set("num_nodes", check_integer("num_nodes", self.num_nodes))
        self._set("slots_per_rank", self._checked_slots())
        self._set("node_of_rank", self._checked_nodes())
        self._set("rank_speeds", self._checked_speeds())
        self._set("alive", self._checked_alive())

    @cached_property
    def num_slots(self) -> int:
        """Slots over all ranks."""
        return int(self.slot_counts.sum())

    @cached_property
    def slot_counts(self) -> npt.NDArray[np.int64]:
        """Slots of each rank, [ranks]."""
        return np.broadcast_to(np.asarray(self.slots_per_rank, np.int64), (self.num_ranks,))

    @cached_property
    def rank_of_slot(self) -> npt.NDArray[np.int64]:
        """Rank of each slot, [slots]; slots are numbered in rank order."""
        return frozen(np.repeat(np.arange(self.num_ranks, dtype=np.int64), self.slot_counts))

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node, where all nodes have equally many."""
        sizes = set(np.bincount(self.node_of_rank, minlength=self.num_nodes).tolist())
        if len(sizes) > 1:
            raise ArgumentError(f"nodes have {sorted(sizes)} ranks", "this needs equally many on each", "even out node_of_rank")
        return self.num_ranks // self.num_nodes

    @property
    def is_uniform(self) -> bool:
        """Whether all ranks are up, equally fast and have equally many slots."""
        return isinstance(self.slots_per_rank, int) and all(self.alive) and len(set(self.rank_speeds)) == 1

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _checked_slots(self) -> int | tuple[int, ...]:
        given = self.slots_per_rank
        if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
            return check_integer("slots_per_rank", given)
        self._check_length("slots_per_rank", given)
        slots = tuple(check_integer(f"slots_per_rank[{rank}]", count) for rank, count in enumerate(given))
        return slots[0] if len(set(slots)) == 1 else slots

    def _checked_nodes(self) -> tuple[int, ...]:
        if np.size(self.node_of_rank) == 0:
            if self.num_ranks % self.num_nodes:
                raise ArgumentError(
                    f"{self.num_ranks} ranks on {self.num_nodes} nodes",
                    "ranks must be divisible by nodes",
                    f"take one of {_divisors(self.num_ranks)} nodes, or give node_of_rank",
                )
            return tuple(rank * self.num_nodes // self.num_ranks for rank in range(self.num_ranks))
        nodes = self._one_a_rank("node_of_rank", self.node_of_rank, np.integer)
        if set(nodes) != set(range(self.num_nodes)):
            raise ArgumentError(
                f"node_of_rank names nodes {sorted(set(nodes))}",
                f"it must name each of 0..{self.num_nodes - 1}",
                "renumber the nodes or change num_nodes",
            )
        return nodes

    def _checked_speeds(self) -> tuple[float, ...]:
        given = self.rank_speeds if np.size(self.rank_speeds) else (1.0,) * self.num_ranks
        speeds = self._one_a_rank("rank_speeds", given, (np.integer, np.floating))
        for rank, speed in enumerate(speeds):
            if not (np.isfinite(speed) and speed > 0 and 1e-100 <= speed <= 1e100):
                raise ArgumentError(
                    f"rank_speeds[{rank}] is {speed}",
                    "a speed must be finite and > 0, and lie in [1e-100, 1e100]",
                    "mark a rank that is down in alive instead",
                )
        return tuple(float(speed) for speed in speeds)

    def _checked_alive(self) -> tuple[bool, ...]:
        given = self.alive if np.size(self.alive) else (True,) * self.num_ranks
        alive = tuple(bool(up) for up in self._one_a_rank("alive", given, (np.bool_, np.integer)))
        if not any(alive):
            raise ArgumentError("alive has no rank that is up", "at least one rank must be up", "check the mask")
        return alive

    def _one_a_rank(self, name: str, given: object, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
        """Return one plain value a rank, or refuse what is no list of such numbers."""
        try:
            values = np.asarray(given)
        except ValueError:
            values = np.empty((0, 0))
        if values.ndim != 1 or not any(np.issubdtype(values.dtype, k) for k in (kind if isinstance(kind, tuple) else (kind,))):
            raise ArgumentError(f"{name} is {given!r}", "it must be a list of numbers, one a rank", "give one value a rank")
        self._check_length(name, tuple(values))
        return tuple(values.tolist())

    def _check_length(self, name: str, values: Sequence[object]) -> None:
        if len(values) != self.num_ranks:
            raise ArgumentError(
                f"{name} has {len(values)} entries", f"it needs one a rank ({self.num_ranks})", "give one value a rank"
            )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
