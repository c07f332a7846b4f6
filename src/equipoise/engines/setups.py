"""Setup: an engine with its options, a model and the ranks it is to run on; what rules are asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from equipoise.checks import check_integer
from equipoise.engines.findings import Finding
from equipoise.engines.options import Value
from equipoise.models import Model
from equipoise.placement import Placement


@dataclass(frozen=True, eq=False)
class Setup:
    """What is to run where.

    Parameters
    ----------
    engine : str
        Name of the engine.
    num_ranks : int
        GPUs of the expert-parallel group.
    num_experts : int
        Of a layer.
    redundant : int
        Slots over all ranks less experts; below 0 where there are fewer slots.
    num_nodes, num_groups : int
        Nodes as the engine counts them, and groups that its policy is told.
    model : Model, optional
        None when unknown: rules that need it say nothing.
    options : mapping
        Every option of the engine by name: as given, else as assumed, else the engine's default.
    given : set of str
        Names of the options that were given.
    refused : tuple of Finding
        What was wrong with options already.
    placement : Placement, optional
        What the engine is to load at its start.
    is_refused : bool
        Whether a placement was given that cannot be read, so that there is none here.
    is_redundancy_known : bool
        Whether ``redundant`` is known; rules about slots say nothing else.
    """

    engine: str
    num_ranks: int
    num_experts: int
    redundant: int = 0
    num_nodes: int = 1
    num_groups: int = 1
    model: Model | None = None
    options: Mapping[str, Value] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    refused: tuple[Finding, ...] = ()
    placement: Placement | None = None
    is_refused: bool = False
    is_redundancy_known: bool = True

    def __post_init__(self) -> None:
        for name in ("num_ranks", "num_experts", "num_nodes", "num_groups"):
            check_integer(name, getattr(self, name))

    @property
    def num_slots(self) -> int:
        """Slots over all ranks."""
        return self.num_experts + self.redundant

    @property
    def is_even(self) -> bool:
        """Whether all ranks get equally many slots, enough for every expert, as far as is known."""
        return self.is_redundancy_known and self.redundant >= 0 and self.num_slots % self.num_ranks == 0

    @property
    def has_placement(self) -> bool:
        """Whether a placement was given, read or refused."""
        return self.placement is not None or self.is_refused

    def number(self, option: str) -> float:
        """Return an option that is a number; 0 where it is None."""
        value = self.options[option]
        return 0 if value is None else float(value)


Rule = Callable[[Setup], Iterator[Finding]]
"""Says what it finds in a setup; nothing where all is well."""
