"""Several programs in order, with how sure their differences are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.scoring.judging import ProgramScore
from equipoise.scoring.replayed import difference


@dataclass(frozen=True)
class Standing:
    """A program's place under one protocol.

    ``behind`` is how much less balance it has than the first, the mean over pairs of windows, with a 95 % interval ``low`` to
    ``high`` of that mean (bootstrap over pairs, fixed seed, which takes windows as independent); nan below two pairs.
    """

    place: int
    program: str
    score: float
    behind: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def rank_programs(scores: Sequence[ProgramScore], protocol: str) -> list[Standing]:
    """Return accepted programs from the highest score to the lowest, ties in the order given; others have no place.

    Differences are those of the balance that the protocol counts, without time: time has no pairs.
    """
    placed = [(score.scores[protocol], score.program.name) for score in scores if score.is_accepted]
    accepted = sorted(((score, name) for score, name in placed if score is not None), key=lambda one: -one[0].score)
    standings = []
    for place, (score, name) in enumerate(accepted, start=1):
        found = difference(accepted[0][0].per_pair, score.per_pair)
        standings.append(Standing(place, name, score.score, found.mean, found.low, found.high))
    return standings
