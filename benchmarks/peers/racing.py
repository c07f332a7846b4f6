"""One cell of the race: a rival on a load at a shape, each call beside one of our ``default`` on the same load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import mean, median
from typing import Protocol

import numpy as np
from benchmarks.peers.figures import EVOLVED, windows_then
from benchmarks.peers.loads import Load, synthetic
from benchmarks.peers.rivals import Ints, Rival, initial_placement
from benchmarks.peers.scoring import Score, Wins, as_placement, balancedness, moved_share, score, wins
from benchmarks.peers.shapes import Shape
from benchmarks.peers.worker import Reply

from equipoise import Placement

MIN_CALLS = 20
FAST_S = 0.2
SLOW_LAYERS_AT_SCALE = 2
NO_GROUP_RULE = "refused: has no group rule"
CONSTANT = "evolved program (constant)"


class Planner(Protocol):
    """What a race needs of a rival's process."""

    def plan(self, load: Ints, shape: Shape, previous: Ints) -> Reply:
        """Plan one load."""


@dataclass(frozen=True)
class Row:
    """A line of the table; figures are None where there are none."""

    shape: str
    load: str
    rival: str
    is_ours: bool = False
    status: str = "ok"
    balancedness: float | None = None
    next_window: float | None = None
    worst_layer: float | None = None
    duplicates: float | None = None
    duplicate_layers: int = 0
    invalid_layers: int = 0
    moves: float | None = None
    median_ms: float | None = None
    p99_ms: float | None = None
    times_default: float | None = None
    calls: int = 0
    failed_calls: int = 0
    windows: int = 0
    layers: int = 0
    default_balancedness: float | None = None
    wins_fairly: int = 0
    wins_by_duplicates: int = 0
    by_window: tuple[float, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether it planned, and every layer it planned is valid."""
        return self.balancedness is not None and self.invalid_layers == 0


@dataclass
class Lap:
    """What a rival did on the windows of a load so far."""

    placements: dict[int, Placement] = field(default_factory=dict)
    started_from: dict[int, Ints] = field(default_factory=dict)
    scores: dict[int, Score] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    default_seconds: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def spent_s(self) -> float:
        """Seconds of calls so far, ours in turns included."""
        return sum(self.seconds) + sum(self.default_seconds)


@dataclass(frozen=True)
class Race:
    """A shape and a load, and how many seconds of calls a rival gets.

    Parameters
    ----------
    shape, load
        What to plan.
    budget_s : float
        No call starts after it, but the first window is always planned.
    """

    shape: Shape
    load: Load
    budget_s: float

    def run(self, rival: Rival, planner: Planner, default: Planner | None) -> tuple[Row, dict[int, Score]]:
        """Return a rival's line, not yet compared, and its score on each window; ``default`` is called in turns with it."""
        blank = Row(self.shape.name, self.load.name, rival.name, rival.is_ours)
        if self.shape.is_strict and not rival.keeps_groups:
            return replace(blank, status=NO_GROUP_RULE), {}
        layers = min(SLOW_LAYERS_AT_SCALE, self.load.num_layers) if self._shortens(rival) else self.load.num_layers
        self._warm_up(planner, layers)
        lap = Lap()
        self._first_round(lap, planner, default, layers)
        if lap.scores and rival.is_timed:
            self._more_calls(lap, planner, default, layers)
        if not lap.scores:
            return replace(blank, status=f"refused: {lap.refusals[0]}", failed_calls=len(lap.refusals)), {}
        return self._row(blank, rival, lap, layers), lap.scores

    def _shortens(self, rival: Rival) -> bool:
        return self.shape.is_scale and rival.is_slow

    def _warm_up(self, planner: Planner, layers: int) -> None:
        """Compile, import and touch everything on another load of the shape."""
        load = synthetic("lognormal", self.shape.experts, layers=min(2, layers), windows=2).windows[0]
        planner.plan(load, self.shape, initial_placement(self.shape, len(load)))

    def _first_round(self, lap: Lap, planner: Planner, default: Planner | None, layers: int) -> None:
        """Plan each window once, each from the placement of the one before."""
        previous = initial_placement(self.shape, layers)
        for window in self.load.planned:
            if lap.scores and lap.spent_s > self.budget_s:
                return
            load = self._window(window, layers)
            reply = self._turn(lap, planner, default, load, previous)
            lap.started_from[window] = previous
            if reply.expert_of_slot is None:
                lap.refusals.append(reply.refused)
                if reply.refused.startswith("over") or len(lap.refusals) > 2 > len(lap.scores):
                    return
                continue
            try:
                placement = as_placement(reply.expert_of_slot, self.shape)
            except ValueError as error:
                lap.refusals.append(str(error))
                continue
            lap.placements[window] = placement
            lap.scores[window] = score(placement, self.shape, load)
            previous = reply.expert_of_slot

    def _more_calls(self, lap: Lap, planner: Planner, default: Planner | None, layers: int) -> None:
        """Repeat the windows until a fast rival has enough calls."""
        for window in self._again(lap):
            if len(lap.seconds) >= MIN_CALLS or lap.spent_s > self.budget_s or median(lap.seconds) > FAST_S:
                return
            self._turn(lap, planner, default, self._window(window, layers), lap.started_from[window])

    def _again(self, lap: Lap) -> Iterator[int]:
        for _ in range(MIN_CALLS):
            yield from lap.scores

    def _turn(self, lap: Lap, planner: Planner, default: Planner | None, load: Ints, previous: Ints) -> Reply:
        ours = default.plan(load, self.shape, initial_placement(self.shape, len(load))) if default is not None else None
        reply = planner.plan(load, self.shape, previous)
        if reply.expert_of_slot is not None:
            lap.seconds.append(reply.seconds)
            if ours is not None and ours.expert_of_slot is not None:
                lap.default_seconds.append(ours.seconds)
        return reply

    def _window(self, window: int, layers: int) -> Ints:
        return np.ascontiguousarray(self.load.windows[window, :layers])

    def _row(self, blank: Row, rival: Rival, lap: Lap, layers: int) -> Row:
        scores = list(lap.scores.values())
        row = replace(
            blank,
            balancedness=mean(found.balancedness for found in scores),
            next_window=self._next_window(lap, layers),
            worst_layer=min(found.worst_layer for found in scores),
            duplicates=float(sum(found.duplicates.sum() for found in scores)) / (self.shape.slots * layers * len(scores)),
            duplicate_layers=sum(int((found.duplicates > 0).sum()) for found in scores),
            invalid_layers=sum(int(found.is_invalid.sum()) for found in scores),
            moves=self._moves(lap),
            calls=len(lap.seconds),
            failed_calls=len(lap.refusals),
            windows=len(scores),
            layers=layers,
            by_window=tuple(found.balancedness for found in scores),
        )
        return replace(row, **_times(lap)) if rival.is_timed else row

    def _next_window(self, lap: Lap, layers: int) -> float | None:
        found = [
            placement.balancedness(following[:layers])
            for window, placement in lap.placements.items()
            if (following := self.load.following(window)) is not None
        ]
        return mean(found) if found else None

    def _moves(self, lap: Lap) -> float | None:
        placements = list(lap.placements.values())
        shares = [moved_share(new, old) for old, new in pairwise(placements)]
        return mean(shares) if shares else None


def _times(lap: Lap) -> dict[str, float]:
    milliseconds = [1e3 * seconds for seconds in lap.seconds]
    times = {"median_ms": median(milliseconds), "p99_ms": float(np.percentile(milliseconds, 99))}
    if lap.default_seconds:
        times["times_default"] = median(lap.seconds) / median(lap.default_seconds)
    return times


def compared(row: Row, scores: dict[int, Score], ours: dict[int, Score]) -> Row:
    """Add how our ``default`` did on the windows and layers that a rival planned, and the layers on which it was beaten."""
    both = [(scores[window], ours[window]) for window in scores if window in ours]
    if not both:
        return row
    counted = sum((wins(theirs, default) for theirs, default in both), Wins())
    default_balancedness = mean(
        balancedness(default.largest[: len(theirs.largest)], default.ideal[: len(theirs.largest)]) for theirs, default in both
    )
    return replace(
        row,
        default_balancedness=default_balancedness,
        wins_fairly=counted.fairly,
        wins_by_duplicates=counted.by_duplicates,
    )


def constant_row(shape: Shape, load: Load, default: Row) -> Row | None:
    """Return the line of the best evolved program, where it was measured on the windows just planned; None elsewhere."""
    known = EVOLVED.get((shape.name, load.name))
    if known is None or default.windows != windows_then(shape.name, load.name):
        return None
    return Row(
        shape.name,
        load.name,
        CONSTANT,
        status="constant",
        balancedness=known.balancedness,
        next_window=known.next_window,
        duplicates=known.duplicates,
        moves=known.moves,
        median_ms=known.milliseconds,
        default_balancedness=default.balancedness,
    )
