"""Who wins: our ``default`` beside the best valid peer for each shape and load, and how earlier figures were met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.peers.figures import MEASURED_BEFORE, windows_then
from benchmarks.peers.racing import CONSTANT, Row
from benchmarks.peers.rivals import DEFAULT

ROUNDED = 5e-5
"""Constants are known to four digits."""
MET = 6e-4
"""An earlier figure counts as met within this: it was printed with four digits, on other versions of the libraries."""


@dataclass(frozen=True)
class Verdict:
    """Our ``default`` beside the peer that comes closest or beats it most, both over the windows that peer planned."""

    shape: str
    load: str
    ours: float
    peer: str
    theirs: float
    wins_fairly: int
    wins_by_duplicates: int
    layers: int

    @property
    def is_won(self) -> bool:
        """Whether ours is at least theirs."""
        return self.ours >= self.theirs - (ROUNDED if self.peer == CONSTANT else 1e-9)


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Return one verdict for each shape and load that our ``default`` and a valid peer both planned."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.shape, row.load), []).append(row)
    return [found for cell in cells.values() if (found := _verdict(cell)) is not None]


def _verdict(cell: list[Row]) -> Verdict | None:
    peers = [row for row in cell if not row.is_ours and row.is_valid and row.default_balancedness is not None]
    if not any(row.rival == DEFAULT for row in cell) or not peers:
        return None
    best = max(peers, key=lambda row: (row.balancedness or 0.0) - (row.default_balancedness or 0.0))
    assert best.balancedness is not None
    assert best.default_balancedness is not None
    return Verdict(
        best.shape,
        best.load,
        best.default_balancedness,
        best.rival,
        best.balancedness,
        best.wins_fairly,
        best.wins_by_duplicates,
        best.windows * best.layers,
    )


@dataclass(frozen=True)
class Check:
    """A figure measured before beside today's."""

    shape: str
    load: str
    rival: str
    what: str
    before: float
    now: float

    @property
    def is_met(self) -> bool:
        """Whether both agree."""
        return abs(self.before - self.now) <= MET


def checks(rows: Iterable[Row]) -> list[Check]:
    """Return today's figures beside the earlier ones, where both are known."""
    found = []
    for row in rows:
        if row.windows != windows_then(row.shape, row.load):
            continue
        before = MEASURED_BEFORE.get((row.shape, row.load, row.rival), (None, None))
        now = row.balancedness, row.next_window
        for what, old, new in zip(("in-sample", "next window"), before, now, strict=True):
            if old is not None and new is not None:
                found.append(Check(row.shape, row.load, row.rival, what, old, new))
    return found
