"""What is to be reported, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from equipoise.checks import check_choice, check_seed
from equipoise.files.placements import FORMATS
from equipoise.placement import Placement
from equipoise.planning.planner import DISPATCHES
from equipoise.simulating.policies import Policy

POLICIES = ("last", "auto", "auto,planned_for=optimal,dispatch=optimal")
"""What is replayed where nothing else is asked: the last window's plan, the best forecast, and that with optimal splits."""

_STRICT_POLICIES = (*POLICIES[:2], "auto,dispatch=optimal")
"""The same under strict locality, where nothing plans for optimal splits."""

Omissions = list[tuple[str, str]]
"""Parts that are left out, and why."""


def default_policies(locality: str) -> tuple[str, ...]:
    """Return what is replayed under a rule of locality where nothing else is asked."""
    return _STRICT_POLICIES if locality == "strict" else POLICIES


@dataclass(frozen=True, eq=False)
class NamedPlacement:
    """A placement to report on; ``is_planned`` where it was made for this very load, so that its figures are in-sample."""

    name: str
    placement: Placement
    is_planned: bool = False


@dataclass(frozen=True)
class Asked:
    """How a report is made: what its plans, bounds and replays go by, and what it says of its own origin.

    Parameters
    ----------
    num_groups, locality, effort, dispatch, seed
        As for :func:`equipoise.plan`; under ``dispatch="optimal"`` balance is that of loads split optimally.
    policies : tuple of str or Policy
        What is replayed, as for :func:`equipoise.simulate`; default: :func:`default_policies`.
    expert_bytes : float, optional
        Size of one expert of one layer.
    engine : str, optional
        What is to load the placement; default: all engines are told of.
    hidden_layers : int, optional
        All layers of the model, dense ones too; SGLang's file needs it.
    name, command, steps : str
        The load, the command line, and the part of the load in words.
    writing : callable
        Engine and file name in; the command that writes the placement for it out, and the name of the file it writes.
    """

    num_groups: int = 1
    locality: str = "none"
    effort: str = "default"
    dispatch: str = "equal"
    seed: int = 0
    policies: tuple[str | Policy, ...] = ()
    expert_bytes: float | None = None
    engine: str | None = None
    hidden_layers: int | None = None
    name: str = "a load in memory"
    command: str = ""
    steps: str = ""
    writing: Callable[[str, str], tuple[str, str]] = field(
        default=lambda engine, path: (f'placement.write("{path}", "{engine}")', path)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", self.policies or default_policies(self.locality))
        check_choice("dispatch", self.dispatch, DISPATCHES)
        check_seed(self.seed)
        if self.engine is not None:
            check_choice("engine", self.engine, tuple(FORMATS))
