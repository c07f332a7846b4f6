"""Efforts: how much is tried, in named stages. Each effort goes through the stages of the one below it first.

Budgets are counts of work, never seconds, so that a plan does not depend on the machine (docs/semantics.md, 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from equipoise.kernels.refining import UNTIL_NONE_HELPS
from equipoise.kernels.solving import Budget
from equipoise.kernels.types import Floats


@dataclass(frozen=True)
class Stage:
    """What is tried on each row that is not within ``slack`` of its bound; see :class:`equipoise.kernels.solving.Budget`.

    Parameters
    ----------
    exchanges : int
        Exchanges out of the slowest rank, at most; -1 until none helps.
    slack : float
        A row within this share of its bound is done with the stage.
    ways : int
        Replicas packed while all ways to count are tried; used where that suffices for all ways. Where every rank has two
        slots, ``paired`` says so instead.
    paired : int
        Experts looked at in pairings, where every rank has two slots and the best packing of given counts is known.
    chains : int
        There, chains of steps started where no step helps.
    handovers : int
        Slots tried to be handed from one expert to another, a step.
    mending : int
        Exchanges after each, at most.
    comparisons : int
        Pairs of ranks compared while slots are handed over, in all.
    tolerance : float
        A row within this share of its bound is left without exchanging two replicas for two.
    doubles : int
        Exchanges of two replicas for two, at most.
    sharpening : int
        Where ranks have few slots, whether the bound is sharpened (0), and in how many rounds where all have two.
    """

    exchanges: int = UNTIL_NONE_HELPS
    slack: float = 1e-3
    ways: int = 0
    paired: int = 0
    chains: int = 0
    handovers: int = 0
    mending: int = 0
    comparisons: int = 0
    tolerance: float = 3e-4
    doubles: int = 0
    sharpening: int = -1


_QUICK = Stage(exchanges=12)
_JOINT = Stage(ways=10_000, paired=100_000, chains=8, handovers=32, mending=16, comparisons=5_000, doubles=16, sharpening=0)
_LONG = Stage(
    slack=1e-4,
    ways=100_000,
    paired=700_000,
    chains=32,
    handovers=256,
    mending=16,
    comparisons=15_000,
    tolerance=1e-6,
    doubles=1_000,
    sharpening=20,
)

EFFORTS: dict[str, tuple[Stage, ...]] = {
    "fast": (_QUICK,),
    "default": (_QUICK, _JOINT),
    "best": (_QUICK, _JOINT, _LONG),
}
"""``fast``: inside an engine's step. ``default``: when a placement is renewed. ``best``: once, at the start."""


@lru_cache(maxsize=16)
def budgets_of(stages: tuple[Stage, ...]) -> Floats:
    """Return the stages as kernels take them, float64 [stages, fields of a Budget]; all whole numbers are exact."""
    return np.array([[getattr(stage, name) for name in Budget._fields] for stage in stages], np.float64)
