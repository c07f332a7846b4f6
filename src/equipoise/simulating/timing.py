"""What windows and moves take: a + b * tokens + c * active experts on the slowest rank, and bytes over link speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.checks import refuse_name
from equipoise.costs import RankCost
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats, Ints


@dataclass(frozen=True)
class TimeModel:
    """How long a layer and a move take (docs/time-model.md has the source of each preset's numbers).

    Parameters
    ----------
    cost : RankCost
        Of one batch in one layer, in seconds (or any unit): ``per_rank`` + (``per_token`` * tokens + ``per_active`` * active
        replicas) / speed; the slowest rank's counts.
    expert_bytes : float
        Weights of one expert with its scales, bytes; 0 when unknown: then moves take no time.
    link_bandwidth : float
        Bytes a second that a rank receives.
    name : str
        What it is called in results.

    Examples
    --------
    >>> model = TimeModel(RankCost(per_token=2.0), expert_bytes=44e6, link_bandwidth=50e9)
    >>> model.stall(np.array([[2, 0], [1, 1]]))  # 2 experts in the first layer, 1 in the second
    0.00264
    """

    cost: RankCost
    expert_bytes: float = 0.0
    link_bandwidth: float = 50e9
    name: str = "own"

    def __post_init__(self) -> None:
        if not isinstance(self.cost, RankCost):
            raise ArgumentError(f"cost is a {type(self.cost).__name__}", "it must be a RankCost", "make one with RankCost(...)")
        for field, value, least in (
            ("expert_bytes", self.expert_bytes, 0.0),
            ("link_bandwidth", self.link_bandwidth, np.finfo(np.float64).tiny),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not least <= value < np.inf:
                raise ArgumentError(f"{field} is {value!r}", "it must be a finite number of bytes", "give bytes, such as 44e6")

    def window_time(self, tokens: Floats, active: Floats, speed: Floats, batches: float) -> float:
        """Return what a window takes: over layers, the slowest rank's time.

        ``tokens`` [layers, ranks] are those of the whole window of ``batches`` batches; ``active`` [layers, ranks] the
        replicas active in a mean batch; ``speed`` [ranks].
        """
        cost = self.cost
        work = cost.per_token * tokens + (cost.per_active * batches) * active
        slowest = (work / speed).max(axis=1)
        return float(slowest.sum() + cost.per_rank * batches * len(tokens))

    def ideal_time(self, load: Floats, total_speed: float, batches: float) -> float:
        """Return what the window would take with its load level over all ranks, each expert active as one replica."""
        cost = self.cost
        work = cost.per_token * float(load.sum())
        if cost.per_active:
            work += cost.per_active * batches * float(np.minimum(load / batches, 1.0).sum())
        return work / total_speed + cost.per_rank * batches * len(load)

    def stall(self, received: Ints) -> float:
        """Return how long moves hold everything up: layer by layer, the rank that receives most; [layers, ranks] replicas."""
        return float(received.max(axis=1).sum()) * self.expert_bytes / self.link_bandwidth


_DEEPSEEK_V3_EXPERT = 3 * 7168 * 2048
_H100_FP8 = 1979e12
_H100_MEMORY = 3.35e12
_INFINIBAND = 50e9
_REACHED = 0.5

TIME_MODELS = {
    "tokens": TimeModel(RankCost(), name="tokens"),
    "prefill-h100": TimeModel(
        RankCost(per_token=2 * _DEEPSEEK_V3_EXPERT / (_REACHED * _H100_FP8)),
        expert_bytes=_DEEPSEEK_V3_EXPERT,
        link_bandwidth=_INFINIBAND,
        name="prefill-h100",
    ),
    "decode-h100": TimeModel(
        RankCost(
            per_rank=428e-6,
            per_token=2 * _DEEPSEEK_V3_EXPERT / (_REACHED * _H100_FP8),
            per_active=_DEEPSEEK_V3_EXPERT / _H100_MEMORY,
        ),
        expert_bytes=_DEEPSEEK_V3_EXPERT,
        link_bandwidth=_INFINIBAND,
        name="decode-h100",
    ),
}
"""``tokens``: time is tokens, moves cost nothing. The others are DeepSeek-V3's experts (FP8) on H100 GPUs: compute-bound
prefill, and memory-bound decode, where reading an active expert's weights takes as long as computing 148 tokens."""


def make_time_model(given: str | TimeModel) -> TimeModel:
    """Return a time model by name, or as it is given."""
    if isinstance(given, TimeModel):
        return given
    if not isinstance(given, str) or given not in TIME_MODELS:
        refuse_name("time model", given, TIME_MODELS)
    return TIME_MODELS[given]
