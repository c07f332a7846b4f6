"""What a report says: plain numbers and words, before any of it is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

Numbers = tuple[float, ...]
Grid = tuple[Numbers, ...]

FORMAT, VERSION = "equipoise-report", 1


@dataclass(frozen=True)
class Figure:
    """One number of the answer.

    ``value`` is a share of GPU time, in [0, 1]; ``scored`` says on what: ``in-sample``, ``this load``, ``next-window`` or
    ``bound`` (docs/semantics.md, 6 and 7).
    """

    key: str
    value: float
    meaning: str
    scored: str


@dataclass(frozen=True)
class Answer:
    """The top of the page: one sentence, and each of its numbers with its meaning."""

    sentence: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Shape:
    """What was balanced over what."""

    layers: int
    experts: int
    windows: int
    ranks: int
    ranks_up: int
    slots: int
    nodes: int
    groups: int
    locality: str
    effort: str
    dispatch: str


@dataclass(frozen=True)
class PlacementBalance:
    """One placement on all windows added up.

    ``balancedness`` and ``worst_layer`` are shares; ``by_layer`` [layers] is nan for layers without load; ``moves`` are the
    replicas that ranks receive coming from the placement before it, None for the first and where ranks differ.
    """

    name: str
    scored: str
    slots: int
    balancedness: float
    worst_layer: float
    by_layer: Numbers
    moves: int | None
    duplicates: int


@dataclass(frozen=True)
class WorstLayer:
    """One of the layers with least balance after: model's number, and balance before, after, and at the proven bound."""

    layer_id: int
    before: float
    after: float
    bound: float


@dataclass(frozen=True)
class Balance:
    """Balance per layer: placements in the order given, and what no strict placement can exceed (docs/semantics.md, 7)."""

    layer_ids: tuple[int, ...]
    placements: tuple[PlacementBalance, ...]
    bound: float
    bound_by_layer: Numbers
    worst: tuple[WorstLayer, ...]


@dataclass(frozen=True)
class HeatMap:
    """A load by layer (rows) and expert or rank (columns); 1 is level.

    Experts' tokens are over the mean of their layer, ranks' times over its ideal time, nan where a rank is down.
    Where a load is larger than what is drawn, a cell is the largest of ``rows_each`` x ``columns_each``.
    """

    key: str
    what: str
    columns: str
    values: Grid
    first_rows: tuple[int, ...]
    first_columns: tuple[int, ...]
    rows_each: int
    columns_each: int


@dataclass(frozen=True)
class HotExpert:
    """One of the hottest experts: its load over its layer's mean and share of it, and where its replicas are, after."""

    layer_id: int
    expert: int
    times_mean: float
    share: float
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class PolicyLine:
    """One policy on windows that it had not seen (docs/semantics.md, 6).

    ``balancedness`` and ``moves``, the replicas received before a window, are [points] of the timeline; ``moves_in_all`` are
    those of all windows; ``gain`` is against the first policy, with its 95 % interval.
    """

    name: str
    slots: int
    is_fixed: bool
    mean: float
    standard_error: float
    fifth_percentile: float
    worst_layer: float
    moves_per_window: float
    moves_in_all: int
    gain: float
    gain_low: float
    gain_high: float
    balancedness: Numbers
    moves: Numbers
    failure: str


@dataclass(frozen=True)
class DomainChange:
    """The first window of another domain: the window's number, counted from 0, and the domain's name."""

    window: int
    domain: str


@dataclass(frozen=True)
class Timeline:
    """Balance window by window: ``windows`` [points] holds the first window of each point."""

    windows: tuple[int, ...]
    each: int
    dispatch: str
    policies: tuple[PolicyLine, ...]
    changes: tuple[DomainChange, ...]


@dataclass(frozen=True)
class LossTerm:
    """One step from all load level to what was met: tokens of the largest ranks, and balance up to it."""

    term: str
    meaning: str
    tokens: float
    share: float
    balance: float


@dataclass(frozen=True)
class Losses:
    """Where one policy loses balance (docs/semantics.md, 14), over the last ``windows`` windows."""

    policy: str
    slots: int
    dispatch: str
    windows: int
    total: float
    terms: tuple[LossTerm, ...]


@dataclass(frozen=True)
class SlotChoice:
    """One number of slots: what it costs and what it brings."""

    slots: int
    spare_per_rank: float
    memory_slots: int
    memory_bytes: float | None
    in_sample: float
    next_window: float | None
    next_window_error: float | None
    is_knee: bool


@dataclass(frozen=True)
class Redundancy:
    """Balance against memory, over ``windows`` windows planned one by one."""

    windows: int
    choices: tuple[SlotChoice, ...]


@dataclass(frozen=True)
class MovePoint:
    """A number of moves over all layers, its share of the replicas, and the balance it buys in-sample."""

    moves: int
    share: float
    balancedness: float
    worst_layer: float


@dataclass(frozen=True)
class Moves:
    """What moves buy, from the placement named; ``knee`` is a position in ``points``."""

    previous: str
    replicas: int
    knee: int
    points: tuple[MovePoint, ...]


@dataclass(frozen=True)
class Source:
    """The data a report was made from.

    ``fingerprint`` is the first 128 bits of BLAKE2b over the shape, the type and the tokens, in hexadecimal.
    """

    name: str
    format: str
    steps: str
    tokens: float
    is_in_order: bool
    fingerprint: str
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Loading:
    """How one program loads the placement: the steps, or why it cannot."""

    engine: str
    steps: tuple[str, ...]
    refusal: str


@dataclass(frozen=True)
class Making:
    """How a report was made."""

    command: str
    versions: tuple[tuple[str, str], ...]
    source: Source
    seed: int


@dataclass(frozen=True)
class Report:
    """All that the page shows, in its order; parts are None where the load cannot tell, and ``omissions`` say why.

    A pure function of load, placements and settings: it holds no time of day and nothing that was timed.
    """

    title: str
    answer: Answer
    shape: Shape
    balance: Balance
    maps: tuple[HeatMap, ...]
    hottest: tuple[HotExpert, ...]
    timeline: Timeline | None
    losses: tuple[Losses, ...]
    redundancy: Redundancy | None
    moves: Moves | None
    making: Making
    loading: tuple[Loading, ...]
    omissions: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON holds it; numbers that are not finite become None."""
        found: dict[str, Any] = _plain({"format": FORMAT, "version": VERSION, **asdict(self)})
        return found


def numbers(values: Iterable[float]) -> Numbers:
    """Return an array of one dimension as plain numbers."""
    return tuple(float(value) for value in values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
