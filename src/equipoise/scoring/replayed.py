"""Our own protocol: a program's placements replayed on the windows after them (docs/semantics.md, 5, 6, 9 and 13)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from equipoise.cluster import Cluster
from equipoise.kernels.types import Floats
from equipoise.placement import Placement
from equipoise.scoring.protocols import OURS
from equipoise.simulating.replaying import simulate
from equipoise.simulating.results import Difference, PolicyResult, paired_difference
from equipoise.trace import LoadTrace


@dataclass(frozen=True, eq=False)
class Replayed:
    """A policy for :func:`equipoise.simulate` and ``explain``: placements made before, one a window."""

    name: str
    placements: tuple[Placement, ...]

    def begin(self, cluster: Cluster, num_layers: int, num_experts: int) -> _Actor:
        """Return the policy at work."""
        return _Actor(deque(self.placements))


class _Actor:
    def __init__(self, placements: deque[Placement]) -> None:
        self._placements = placements

    def observe(self, load: Floats) -> None:
        pass

    def decide(self) -> Placement | None:
        return self._placements.popleft() if self._placements else None


@dataclass(frozen=True, eq=False)
class OurScore:
    """Balancedness over ranks of placements on the window after the one they were made for, and what stands beside it.

    ``score`` is the mean over windows, ``std`` the standard deviation over them, ``low`` and ``high`` a 95 % interval of
    the mean; ``worst_layer`` and ``p5_layer`` are means over windows; ``in_sample`` is the same placements on the windows they
    were made for; ``moves`` a mean over windows from the second on, summed over layers; ``duplicates`` a mean of slots a
    placement.
    """

    score: float
    std: float
    low: float
    high: float
    worst_layer: float
    p5_layer: float
    in_sample: float
    moves: float
    duplicates: float
    per_pair: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {"protocol": OURS, **vars(self), "per_pair": list(self.per_pair), "pairs": len(self.per_pair)}


def score_replayed(name: str, maps: Sequence[npt.NDArray[Any]], trace: LoadTrace, cluster: Cluster) -> OurScore:
    """Replay placements, made for windows 0, 1, ..., on the windows after them."""
    placements = tuple(Placement(phy2log, cluster, trace.num_experts) for phy2log in maps)
    result = simulate(trace, cluster, [Replayed(name, placements)]).policies[0]
    interval = difference(result.balancedness, np.zeros(result.balancedness.size))
    balance = result.balancedness[~np.isnan(result.balancedness)]
    in_sample = [placement.balancedness(load) for placement, load in zip(placements, trace.load, strict=False)]
    moves = result.moves[1:]
    return OurScore(
        result.mean_balancedness,
        float(balance.std(ddof=1)) if balance.size > 1 else float("nan"),
        interval.low,
        interval.high,
        result.mean_worst_layer,
        result.mean_fifth_percentile,
        float(np.mean(in_sample)),
        float(moves.mean()) if moves.size else 0.0,
        float(np.mean([placement.duplicates.sum() for placement in placements])),
        tuple(result.balancedness.tolist()),
    )


@dataclass(frozen=True, eq=False)
class _Windows:
    balancedness: Floats


def difference(one: npt.ArrayLike, other: npt.ArrayLike, seed: int = 0) -> Difference:
    """Return the mean paired difference of two figures over windows, and its 95 % interval (paired_difference)."""
    first, second = (cast(PolicyResult, _Windows(np.asarray(values, np.float64))) for values in (one, other))
    return paired_difference(first, second, seed=seed)
