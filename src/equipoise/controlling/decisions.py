"""Decision: keep the placement in use, or a plan with its schedule, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from equipoise.migrating.schedules import MoveSchedule
from equipoise.planning.planner import Plan

CODES = {
    "unsettled": "a plan was handed out, and nobody said what came of it",
    "no-load": "no window with load has been observed",
    "no-room": "the ranks that are up have fewer slots than there are experts",
    "no-plan": "what is asked of placements cannot be had from the one in use",
    "waiting": "a plan was handed out and is not in use yet",
    "steady": "no layer is expected to gain enough",
    "cost": "what layers would gain is less than their moves cost",
    "budget": "no layer's moves fit the budget",
    "gain": "layers are expected to gain more than their moves cost",
    "change": "a new domain began",
    "recover": "experts have no replica left on a rank that is up, or fewer than asked",
}
"""Short codes of decisions' reasons; the last three come with a plan."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do until the next decision.

    Attributes
    ----------
    number : int
        Decisions are counted from 0.
    step : int
        Of the last window observed; -1 before any.
    code, reason : str
        Why, as one of ``CODES`` and in words.
    plan, schedule : Plan and MoveSchedule, or None
        To be carried out, and then reported by :meth:`~equipoise.controlling.controller.Controller.applied`; layers that are
        not worth it are as they were, slot for slot. None: keep the placement in use.
    layers : tuple of int
        That move.
    gain_seconds, cost_seconds : float
        Expected over the coming interval, in the layers that move; of the layers considered where nothing does.
    balance : float
        Of the placement in use on the last window (docs/semantics.md, 5); nan before any.
    predicted : float
        Expected on windows to come, once the plan is in use; nan before any.
    age : int
        Windows since the placement in use came into use.
    warnings : tuple of str
        What the watchdog says.
    overdue : int
        1 where the plan waited for became overdue with this decision, else 0.
    """

    number: int
    step: int
    code: str
    reason: str
    plan: Plan | None
    schedule: MoveSchedule | None
    layers: tuple[int, ...]
    gain_seconds: float
    cost_seconds: float
    balance: float
    predicted: float
    age: int
    warnings: tuple[str, ...]
    overdue: int = 0

    @property
    def is_move(self) -> bool:
        """Whether there is a plan to carry out."""
        return self.plan is not None

    @property
    def moves(self) -> int:
        """Replicas that ranks must receive, over all layers."""
        return 0 if self.plan is None else int(self.plan.moves.sum())

    def as_dict(self) -> dict[str, Any]:
        """Return what can be told as JSON; numbers that are not known are None."""
        told = ("number", "step", "code", "reason", "gain_seconds", "cost_seconds", "balance", "predicted", "age", "overdue")
        given: dict[str, Any] = {name: getattr(self, name) for name in told}
        for name in ("balance", "predicted"):
            given[name] = None if given[name] != given[name] else given[name]
        return {**given, "moves": self.moves, "layers": list(self.layers), "warnings": list(self.warnings)}
