"""ControlSettings: what a controller weighs gains and costs by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from equipoise.budget import MoveBudget
from equipoise.checks import check_choice, check_integer, check_number
from equipoise.constraints import Constraints
from equipoise.errors import ArgumentError
from equipoise.migrating.links import LINKS, Links
from equipoise.migrating.schedules import MODES
from equipoise.models import MODELS
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.planner import DISPATCHES

LOCALITIES = ("none", "strict")


@dataclass(frozen=True)
class ControlSettings:
    """What a controller weighs gains and costs by, and how careful it is.

    Parameters
    ----------
    windows_per_interval : float
        How many windows' worth of tokens a placement serves before the next decision; > 0. Where the windows observed are all
        the load there is: 1. Where they are one step in a thousand: 1000.
    seconds_per_token : float
        Of one expert's work on one token, at speed 1; > 0 (docs/time-model.md).
    expert_bytes : float
        Weights of one expert with its scales; > 0.
    links : Links
        How fast ranks send.
    stall : float
        Part of a schedule's time during which serving stands still, in [0, 1]; 0 where moves are hidden entirely.
    budget : MoveBudget, optional
        The most that one decision may move. ``per_layer`` and ``gain_per_move`` hold for each layer; ``total`` and ``bytes`` go
        to the layers whose moves save most seconds each. Default: moves that each lower their layer's largest rank time by
        more than 0.001 of its ideal time. An ``expert_bytes`` of its own must be this one.
    least_gain : float
        A layer is moved only where this part of its ideal time is expected to be saved, >= 0,
    least_share : float
        and this part of the time that layers lose over the ideal, in [0, 1].
    caution : float
        Standard deviations by which an expected gain must lie above these, >= 0; none at a change of domain.
    memories : tuple of float
        What is kept of a memory of shares from window to window, each in [0, 1), longest first; the one is followed whose plans
        have lately met the windows after them best.
    overdue_after : int
        Decisions for which a plan handed out is waited for, >= 1.
    stale_after, low_balance : int, float
        A placement in use for more windows than this while balance is below ``low_balance`` is said to be stale.
    effort : str
        Of :func:`equipoise.plan`.
    num_groups : int
        Groups of consecutive experts, as for :func:`equipoise.plan`.
    locality : "none" or "strict"
        Over all ranks, or every group on one node, where it is at the start. Soft locality cannot go on from a placement.
    constraints : Constraints
        Least numbers of replicas, of all experts (``hottest=1``; others would be owed replicas with every window). Layers in
        which experts have fewer are mended like those that lost experts.
    dispatch : "equal" or "optimal"
        The split under which placements serve, by which they are planned and judged; ``optimal`` without locality.
    mode, staging, chunk
        Of :func:`equipoise.migrating.scheduling.schedule_moves`.

    Raises
    ------
    ArgumentError
        On a value out of its range, or values that do not go together.

    Examples
    --------
    >>> ControlSettings(windows_per_interval=100).least_gain
    0.005
    """

    windows_per_interval: float = 1000.0
    seconds_per_token: float = 89e-9
    expert_bytes: float = MODELS["deepseek-v3"].expert_bytes
    links: Links = LINKS["h100"]
    stall: float = 1.0
    budget: MoveBudget = field(default_factory=lambda: MoveBudget(gain_per_move=0.001))
    least_gain: float = 0.005
    least_share: float = 0.15
    caution: float = 1.0
    memories: tuple[float, ...] = (0.8, 0.4)
    overdue_after: int = 3
    stale_after: int = 20
    low_balance: float = 0.7
    effort: str = "default"
    num_groups: int = 1
    locality: str = "none"
    constraints: Constraints = field(default_factory=Constraints)
    dispatch: str = "equal"
    mode: str = "duplex"
    staging: int | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name in ("windows_per_interval", "seconds_per_token", "expert_bytes"):
            self._set(name, check_number(name, getattr(self, name), above=0.0))
        for name in ("least_gain", "caution"):
            self._set(name, check_number(name, getattr(self, name)))
        for name in ("stall", "least_share", "low_balance"):
            self._set(name, _check_share(name, getattr(self, name)))
        for name in ("overdue_after", "stale_after", "num_groups"):
            self._set(name, check_integer(name, getattr(self, name)))
        for name in ("staging", "chunk"):
            if getattr(self, name) is not None:
                self._set(name, check_integer(name, getattr(self, name)))
        check_choice("effort", self.effort, tuple(EFFORTS))
        check_choice("mode", self.mode, MODES)
        check_type("links", self.links, Links)
        check_type("budget", self.budget, MoveBudget)
        check_type("constraints", self.constraints, Constraints)
        check_choice("locality", self.locality, LOCALITIES)
        check_choice("dispatch", self.dispatch, DISPATCHES)
        self._refuse_what_does_not_go_together()
        self._set("memories", _checked_memories(self.memories))

    @property
    def layer_budget(self) -> MoveBudget:
        """The part of the budget that holds for each layer by itself."""
        return replace(self.budget, total=None, bytes=None)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked of a placement but that it is level under an even split."""
        return (self.num_groups, self.locality, self.constraints, self.dispatch) == (1, "none", Constraints(), "equal")

    def _refuse_what_does_not_go_together(self) -> None:
        asked, size = self.constraints, self.budget.expert_bytes
        if size is not None and size != self.expert_bytes:
            raise ArgumentError(
                f"expert_bytes is {self.expert_bytes:g}, that of the budget {size:g}",
                "an expert has one size",
                "give both the same",
            )
        if asked.home_share is not None:
            raise ArgumentError(
                f"constraints have home_share {asked.home_share}", "a home share goes with soft locality alone", "leave it out"
            )
        if asked.asks_for_replicas and asked.hottest < 1.0:
            raise ArgumentError(
                f"constraints have hottest {asked.hottest:g}",
                "a controller keeps least numbers of replicas of all experts alone, for others are hottest every window",
                "take hottest=1, or min_replicas=1",
            )
        if self.locality == "strict" and self.dispatch == "optimal":
            raise ArgumentError(
                "dispatch is optimal with locality strict", "optimal splits go without a locality rule", "leave one of them out"
            )
        if self.locality == "strict" and asked.asks_for_replicas and asked.spread == "nodes":
            raise ArgumentError(
                "constraints spread replicas over nodes with locality strict",
                "each group stays on one node there",
                "leave one of them out",
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _check_share(name: str, value: object) -> float:
    share = check_number(name, value)
    if share > 1.0:
        raise ArgumentError(f"{name} is {value!r}", "it must lie in [0, 1]", "give a share, such as 0.5")
    return share


def check_type(name: str, value: object, kind: type) -> None:
    """Refuse what is of another kind."""
    if not isinstance(value, kind):
        raise ArgumentError(
            f"{name} is a {type(value).__name__}", f"it must be a {kind.__name__}", f"make one with {kind.__name__}(...)"
        )


def _checked_memories(given: object) -> tuple[float, ...]:
    if not isinstance(given, (tuple, list)) or not given:
        raise ArgumentError(f"memories is {given!r}", "it must be a list of numbers in [0, 1)", "try (0.8, 0.4)")
    kept = tuple(check_number("a memory", one) for one in given)
    if max(kept) >= 1.0 or list(kept) != sorted(set(kept), reverse=True):
        raise ArgumentError(f"memories is {given!r}", "each must lie in [0, 1), longest first", "try (0.8, 0.4)")
    return kept
