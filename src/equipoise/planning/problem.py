"""What is to be planned, checked once, before any kernel sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_choice, check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Floats
from equipoise.trace import LoadTrace

Locality = Literal["none", "strict"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A load to balance on a cluster, under a locality rule.

    Parameters
    ----------
    load : float64 [layers, experts]
        Tokens of each expert.
    cluster : Cluster
        Equal ranks, all up; every expert can have a slot, and no rank more slots than there are experts for it.
    num_groups : int
        Groups of consecutive experts that the router picks together; divides experts.
    locality : "none" or "strict"
        Pack over all ranks, or keep every group with all its replicas on one node.

    Raises
    ------
    ArgumentError, NotSupportedError
        When one of these rules is broken; :func:`make_problem` takes raw input.
    """

    load: Floats
    cluster: Cluster
    num_groups: int = 1
    locality: Locality = "none"

    def __post_init__(self) -> None:
        check_choice("locality", self.locality, get_args(Locality))
        if not self.cluster.is_uniform:
            raise NotSupportedError(
                "the cluster's ranks differ in slots, speed or being up",
                "this version plans for equal ranks that are all up",
                "describe the ranks that are up as a cluster of their own",
            )
        self._check_slots()
        self._check_groups()
        self._check_domains()

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.load.shape[0])

    @property
    def num_experts(self) -> int:
        """Experts of each layer."""
        return int(self.load.shape[1])

    @property
    def num_domains(self) -> int:
        """Sets of ranks that are packed separately: the nodes under strict locality, else one."""
        return self.cluster.num_nodes if self.locality == "strict" else 1

    def _check_slots(self) -> None:
        slots, experts, ranks = self.cluster.num_slots, self.num_experts, self.cluster.num_ranks
        if slots < experts:
            raise ArgumentError(
                f"{slots} slots for {experts} experts",
                "every expert needs a slot",
                f"take at least {-(-experts // ranks) * ranks} slots on {ranks} ranks",
            )
        if slots > experts * ranks:
            raise ArgumentError(
                f"{slots // ranks} slots per rank for {experts} experts",
                "no rank may hold an expert twice, so slots per rank must not exceed experts",
                f"take at most {experts * ranks} slots on {ranks} ranks",
            )

    def _check_groups(self) -> None:
        check_integer("num_groups", self.num_groups)
        if self.num_experts % self.num_groups:
            raise ArgumentError(
                f"{self.num_groups} groups of {self.num_experts} experts",
                "groups must divide experts evenly",
                "take the model's own number of groups, or 1",
            )

    def _check_domains(self) -> None:
        if self.num_domains == 1:
            return
        nodes = self.num_domains
        if self.num_groups % nodes:
            raise ArgumentError(
                f"{self.num_groups} groups on {nodes} nodes",
                "strict locality needs groups divisible by nodes",
                f"take a number of nodes that divides {self.num_groups}, or locality none",
            )
        ranks = self.cluster.ranks_per_node
        experts, slots = self.num_experts // nodes, self.cluster.num_slots // nodes
        if slots > experts * ranks:
            raise ArgumentError(
                f"{slots // ranks} slots per rank for the {experts} experts of a node",
                "no rank may hold an expert twice, so slots per rank must not exceed the node's experts",
                f"take at most {experts * ranks * nodes} slots, or locality none",
            )


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


def make_problem(load: npt.ArrayLike | LoadTrace, cluster: Cluster, num_groups: int = 1, locality: str = "none") -> Problem:
    """Check raw input: ``load`` as an array [layers, experts] or [steps, layers, experts], or a trace (steps added up)."""
    trace = load if isinstance(load, LoadTrace) else LoadTrace(load)  # type: ignore[arg-type]
    if not isinstance(cluster, Cluster):
        raise ArgumentError(f"cluster is a {type(cluster).__name__}", "it must be a Cluster", "make one with Cluster(...)")
    total = np.ascontiguousarray(trace.sum(), np.float64)
    return Problem(total, cluster, num_groups, locality)  # type: ignore[arg-type]
