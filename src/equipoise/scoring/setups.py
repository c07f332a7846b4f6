"""The shape that programs are asked to balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.checks import check_choice, check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.scoring.protocols import OURS, PROTOCOLS, PUBLIC
from equipoise.trace import LoadTrace

WINDOW = 100
"""Steps of a window, as published."""


@dataclass(frozen=True)
class Setup:
    """Slots, groups, nodes and ranks; by default those of the public evaluators.

    Raises
    ------
    ArgumentError
        When slots do not divide over ranks, or ranks over nodes.

    Examples
    --------
    >>> Setup().arguments
    (288, 8, 4, 32)
    """

    num_slots: int = 288
    num_groups: int = 8
    num_nodes: int = 4
    num_ranks: int = 32

    def __post_init__(self) -> None:
        for name in ("num_slots", "num_groups", "num_nodes", "num_ranks"):
            check_integer(name, getattr(self, name))
        for what, number, by, divisor in (
            ("slots", self.num_slots, "ranks", self.num_ranks),
            ("ranks", self.num_ranks, "nodes", self.num_nodes),
        ):
            if number % divisor:
                raise ArgumentError(
                    f"{number} {what} on {divisor} {by}", f"{what} must be divisible by {by}", "change one of the two"
                )

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """What follows the load in the call."""
        return self.num_slots, self.num_groups, self.num_nodes, self.num_ranks

    @property
    def cluster(self) -> Cluster:
        """The ranks."""
        return Cluster(self.num_ranks, self.num_slots // self.num_ranks, self.num_nodes)

    def check(self, trace: LoadTrace, protocols: Sequence[str]) -> None:
        """Refuse a trace that is too short for a protocol, out of order, or of experts that do not fit."""
        trace.check_order("scoring")
        for protocol in protocols:
            check_choice("protocol", protocol, PROTOCOLS)
            needed = 2 if protocol == OURS else PUBLIC[protocol].windows_needed
            if trace.num_steps < needed:
                raise ArgumentError(
                    f"the trace has {trace.num_steps} window{'s' * (trace.num_steps != 1)}",
                    f"{protocol} needs {needed}",
                    "take shorter windows (--window), another protocol, or record more",
                )
        if trace.num_experts > self.num_slots or self.num_slots > trace.num_experts * self.num_ranks:
            raise ArgumentError(
                f"{self.num_slots} slots for {trace.num_experts} experts on {self.num_ranks} ranks",
                f"slots must be {trace.num_experts} to {trace.num_experts * self.num_ranks}",
                "change --slots",
            )
        if trace.num_experts % self.num_groups:
            raise ArgumentError(
                f"{trace.num_experts} experts in {self.num_groups} groups", "groups must divide experts", "change --groups"
            )
