"""What exact models of one layer share: the layer, what is proven of it, the counts there are, the clock, CP-SAT itself.

Why a bound found in integers holds for the real numbers
    Every time that enters a model is divided by a unit and rounded *down*. A placement whose largest rank time is M then has
    no rank above M / unit in the model, so the model's least value, times the unit, is at most the least M; and a bound on
    the former bounds the latter. Rules that cut off placements are relaxed by :data:`SLACK`, far more than float rounding.
    Placements that the solver finds are never believed: their largest rank time is summed anew in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.errors import MissingExtraError
from equipoise.kernels.types import Floats, Ints

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

SLACK = 1e-9
OPTIMAL = 1e-8
EXACT_COUNTS = 6
_LEAST_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Proof:
    """What is proven of one layer.

    Parameters
    ----------
    bound : float
        No placement has a smaller largest rank time.
    largest : float
        The smallest largest rank time that was reached, by the solver or before.
    expert_of_slot : int64 [slots] or None
        A placement that reaches ``largest``, in rank order, experts rising within a rank; None when the solver found none as
        good as what was known.
    is_optimal : bool
        ``bound`` meets ``largest``, but for one part in 10^8 that rounding to the model's integers leaves open.
    """

    bound: float
    largest: float
    expert_of_slot: Ints | None
    is_optimal: bool


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer as the models see it; ``node`` of a rank and ``group`` of an expert are all 0 without a locality rule."""

    load: Floats
    slot_counts: Ints
    inverse_speed: Floats
    node: Ints
    group: Ints

    @property
    def num_slots(self) -> int:
        """Slots over all ranks."""
        return int(self.slot_counts.sum())

    @property
    def num_ranks(self) -> int:
        """Ranks with slots for this layer."""
        return len(self.slot_counts)

    @property
    def most_replicas(self) -> int:
        """Ranks of the largest node: an expert's replicas stay on one, one a rank."""
        return int(np.bincount(self.node).max())

    @property
    def is_paired(self) -> bool:
        """Two slots on every rank, equal speeds, no locality: partners decide everything."""
        equal_speeds = bool((self.inverse_speed == self.inverse_speed[0]).all())
        return equal_speeds and bool((self.slot_counts == 2).all()) and not self.group.any()

    def largest_time(self, experts_of_rank: list[list[int]]) -> float:
        """Largest rank time of a placement, in float64."""
        count = np.bincount([e for rank in experts_of_rank for e in rank], minlength=len(self.load))
        share = self.load / count
        return max(
            float(share[rank].sum() * inverse) for rank, inverse in zip(experts_of_rank, self.inverse_speed, strict=True)
        )


@dataclass(frozen=True)
class Choice:
    """Counts from which an expert may choose, and its load per replica with ``most``, the least of them all."""

    fewest: int
    most: int
    share: float

    @property
    def is_exact(self) -> bool:
        """Whether there is only one count to choose."""
        return self.fewest == self.most


@dataclass(frozen=True)
class Clock:
    """When to stop, and with how many threads to search until then."""

    end: float
    num_workers: int

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - monotonic()

    @property
    def is_over(self) -> bool:
        """Whether so little is left that nothing is found in it."""
        return self.left < _LEAST_SECONDS

    def part(self, parts: int) -> float:
        """Return the seconds of one of so many equal parts of the time left."""
        return self.left / parts

    def at_most(self, seconds: float) -> Clock:
        """Return a clock that stops after so many seconds, if this one does not stop before."""
        return replace(self, end=min(self.end, monotonic() + seconds))


def concluded(proof: Proof) -> Proof:
    """Say whether bound and largest meet. A bound above what was reached, by more than rounding, is a fault: not hidden."""
    if proof.bound > proof.largest * (1.0 + OPTIMAL):
        raise AssertionError(
            f"a lower bound of {proof.bound} exceeds {proof.largest}, which was reached: please report this load"
        )
    bound = min(proof.bound, proof.largest)
    return replace(proof, bound=bound, is_optimal=bound >= proof.largest * (1.0 - OPTIMAL))


def with_placement(layer: Layer, proof: Proof, experts_of_rank: list[list[int]]) -> Proof:
    """Take a placement that is strict, and at least as good as the best so far."""
    if any(len(set(rank)) < len(rank) for rank in experts_of_rank):
        return proof
    reached = layer.largest_time(experts_of_rank)
    if reached > proof.largest:
        return proof
    slots = np.array([e for rank in experts_of_rank for e in sorted(rank)], np.int64)
    return replace(proof, largest=reached, expert_of_slot=slots)


def list_choices(layer: Layer, limit: float, num_exact: int) -> list[list[Choice]] | None:
    """List the counts each expert may have when no rank's time is above ``limit``; None when the slots do not suffice.

    An expert has at least as many replicas as keep one of them within the limit on the fastest rank, and at most as many as
    the others leave. Counts after the first ``num_exact`` are one choice, as light as the largest of them.
    """
    room = limit / float(layer.inverse_speed.min()) * (1.0 + SLACK)
    fewest = [max(1, ceil(x / room)) for x in layer.load.tolist()]
    spare = layer.num_slots - sum(fewest)
    if spare < 0 or max(fewest) > layer.most_replicas:
        return None
    found = []
    for x, n in zip(layer.load.tolist(), fewest, strict=True):
        most = min(n + spare, layer.most_replicas)
        exact = [Choice(c, c, x / c) for c in range(n, min(n + num_exact, most + 1))]
        rest = [Choice(n + num_exact, most, x / most)] if most >= n + num_exact else []
        found.append(exact + rest)
    return found


def make_solver(clock: Clock) -> cp_model.CpSolver:
    """Return a solver that stops when the clock does."""
    solver: cp_model.CpSolver = load_cp_model().CpSolver()
    solver.parameters.max_time_in_seconds = max(clock.left, _LEAST_SECONDS)
    solver.parameters.num_workers = clock.num_workers
    solver.parameters.random_seed = 0
    return solver


def check_solver() -> None:
    """Refuse to go on without ortools.

    Raises
    ------
    MissingExtraError
        With the line that installs it.
    """
    load_cp_model()


def load_cp_model() -> Any:
    """Return ortools' module, imported when it is first needed."""
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise MissingExtraError(
            "ortools is not installed", "proofs are made by its CP-SAT solver", 'pip install "equipoise[exact]"'
        ) from error
    return cp_model
