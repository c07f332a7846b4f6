"""The public evaluators' formulas, each a small pure function, under the names v1 to v4.

All plan on window i and score on window i + 1. Loads of an expert go to the slots that ``log2phy`` lists, ``logcnt`` of them,
an equal share each, exactly as these evaluators do it: entries beyond the list are not missed, a slot listed twice for an
expert counts once, and negative entries count from the end. The sums are float64 here, float32 there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.scoring.answers import Answer

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


def slot_load(answer: Answer, load: Array, num_slots: int) -> Floats:
    """Return the load of each slot, [layers, slots], as the evaluators' loop over layers and experts adds it up.

    Raises
    ------
    ValueError, IndexError
        Where that loop fails: other shapes, slots that are none, lists that are no integers.

    Examples
    --------
    >>> answer = Answer(np.array([[0, 1, 0]]), np.array([[[0, 2], [1, -1]]]), np.array([[2, 1]]))
    >>> slot_load(answer, np.array([[6, 4]]), 3).tolist()
    [[3.0, 4.0, 3.0]]
    """
    layers, experts = load.shape
    if answer.logcnt.shape[:2] != load.shape or answer.log2phy.ndim != 3 or answer.log2phy.shape[:2] != load.shape:
        raise ValueError(f"log2phy is {list(answer.log2phy.shape)}, logcnt {list(answer.logcnt.shape)}")
    if answer.log2phy.dtype.kind not in "iu":
        raise IndexError(f"log2phy holds {answer.log2phy.dtype}, no slots")
    if not np.isfinite(answer.logcnt).all():
        raise ValueError("logcnt is not finite")
    count = np.where(load > 0, np.maximum(answer.logcnt, 0), 0).astype(np.int64)
    layer, expert, place = np.nonzero(np.arange(answer.log2phy.shape[2]) < count[:, :, np.newaxis])
    slot = answer.log2phy[layer, expert, place].astype(np.int64)
    if ((slot < -num_slots) | (slot >= num_slots)).any():
        raise IndexError(f"log2phy lists a slot outside the {num_slots}")
    once = np.unique((layer * experts + expert) * num_slots + slot % num_slots)
    pair, slot = np.divmod(once, num_slots)
    share = load.ravel()[pair] / count.ravel()[pair]
    loads = np.bincount(pair // experts * num_slots + slot, share, minlength=layers * num_slots)
    return np.asarray(loads, np.float64).reshape(layers, num_slots)


def ratio_of_sums(load: Floats) -> float:
    """Return the sum over layers of the mean over the sum over layers of the largest, of [layers, slots or ranks].

    Layer 1 has mean 2 and largest 4, layer 2 mean 5 and largest 6: 7 / 10, not the mean of 0.5 and 0.83. Without load it is 0.

    >>> ratio_of_sums(np.array([[4.0, 0.0], [6.0, 4.0]]))
    0.7
    """
    largest = float(load.max(axis=1).sum())
    return float(load.mean(axis=1).sum()) / largest if largest > 0 else 0.0


def rank_load(slot_load: Floats, num_ranks: int) -> Floats:
    """Return the load of each rank, [layers, ranks]: consecutive slots added up.

    >>> rank_load(np.array([[1.0, 2.0, 3.0, 4.0]]), 2).tolist()
    [[3.0, 7.0]]
    """
    layers = slot_load.shape[0]
    loads: Floats = slot_load.reshape(layers, num_ranks, -1).sum(axis=2)
    return loads


def guard(answer: Answer, following: Array, num_slots: int) -> str:
    """Return why v3 and v4 refuse an answer, empty where they take it; v1 and v2 look at nothing."""
    phy2log, logcnt = answer.phy2log, answer.logcnt
    if phy2log.ndim < 2 or phy2log.shape[1] != num_slots:
        return f"phy2log is {list(phy2log.shape)}, not {num_slots} wide"
    if logcnt.ndim < 2 or not (logcnt.sum(axis=1) == num_slots).all():
        return f"logcnt does not add up to {num_slots}"
    if (logcnt < 0).any():
        return "logcnt is negative"
    if logcnt.shape != following.shape:
        return f"logcnt is {list(logcnt.shape)}"
    unserved = int(((following > 0) & (logcnt == 0)).sum())
    return f"{unserved} experts have load and no replica" if unserved else ""


def score_v1(balance: float, seconds: float) -> float:
    """Half slot balance, half 0.02 s over the time of planner and simulator, without a cap.

    >>> score_v1(0.3, 0.02)
    0.65
    """
    return (balance + _over(0.02, seconds)) / 2


def score_v2(balance: float, seconds: float) -> float:
    """Half slot balance, half the constant 1; no time counts.

    >>> score_v2(0.3, 0.5)
    0.65
    """
    return (balance + 1.0) / 2


def score_v3(balance: float, seconds: float) -> float:
    """Half slot balance, half 0.002 s over the time of planner and simulator.

    >>> score_v3(0.3, 0.5)
    0.152
    """
    return (balance + _over(0.002, seconds)) / 2


def score_v4(balance: float, seconds: float) -> float:
    """90 for rank balance; 10 for a planner of 1 ms or less, 5 for one of 2 ms, ...; above 10 ms minus 20 a second, at most 20.

    0.75 at 1 ms is 67.5 + 10; at 20 ms 67.5 + 0.5 - 0.4; at 2 s 67.5 + 0.005 - 20.

    >>> [round(score_v4(0.75, t), 3) for t in (0.0005, 0.001, 0.01, 0.02, 2.0)]
    [77.5, 77.5, 68.5, 67.6, 47.505]
    """
    speed = min(_over(0.002, seconds), 2.0)
    return 90 * balance + 5 * speed - (min(20 * seconds, 20.0) if seconds > 0.01 else 0.0)


def _over(target: float, seconds: float) -> float:
    return target / max(seconds, 1e-9)


@dataclass(frozen=True)
class Protocol:
    """One public evaluator: the level of its balance, whether the simulator's time counts, its pairs, guard and formula."""

    name: str
    level: str
    times_simulator: bool
    pairs: int | None
    has_guard: bool
    score: Callable[[float, float], float]
    speed: Callable[[float], float]

    @property
    def windows_needed(self) -> int:
        """Windows without which it cannot be worked out."""
        return 2 if self.pairs is None else self.pairs + 1


PUBLIC = {
    protocol.name: protocol
    for protocol in (
        Protocol("v1", "slot", True, None, False, score_v1, lambda t: _over(0.02, t)),
        Protocol("v2", "slot", False, 5, False, score_v2, lambda t: 1.0),
        Protocol("v3", "slot", True, None, True, score_v3, lambda t: _over(0.002, t)),
        Protocol("v4", "rank", False, None, True, score_v4, lambda t: min(_over(0.002, t), 2.0)),
    )
}
"""The public evaluators by name; docs/scoring.md says where each is from."""

OURS = "equipoise"
PROTOCOLS = (*PUBLIC, OURS)
"""All protocols, in the order of reports."""


@dataclass(frozen=True, eq=False)
class PublicScore:
    """What a public evaluator makes of a program.

    ``score`` is 0 where it refuses the program, and ``rejected`` says why. ``per_pair`` is the balance that counts, a pair of
    windows each; ``planner_seconds`` a mean over pairs, as is the simulator's. ``score_planner_only`` is the score if the
    simulator took no time, for those that time it.
    """

    protocol: str
    score: float
    balancedness_slot: float
    balancedness_rank: float
    per_pair: tuple[float, ...]
    planner_seconds: float
    simulator_seconds: float
    speed: float
    rejected: str = ""

    @property
    def score_planner_only(self) -> float:
        """The score if the simulator took no time."""
        balance = self.balancedness_rank if PUBLIC[self.protocol].level == "rank" else self.balancedness_slot
        return 0.0 if self.rejected else PUBLIC[self.protocol].score(balance, self.planner_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            **vars(self),
            "per_pair": list(self.per_pair),
            "pairs": len(self.per_pair),
            "score_planner_only": self.score_planner_only,
        }


def score_publicly(
    protocol: Protocol,
    answers: Sequence[Answer],
    windows: Sequence[Array],
    seconds: Sequence[float],
    num_slots: int,
    num_ranks: int,
    simulator_seconds: float,
) -> PublicScore:
    """Work out a public evaluator's score from a program's answers to windows 0, 1, ... and the time of each call.

    Fewer answers than pairs are a program that failed: its score is 0, as there.
    """
    pairs = len(windows) - 1 if protocol.pairs is None else protocol.pairs
    simulator = simulator_seconds if protocol.times_simulator else 0.0
    slots, ranks = [], []
    for pair in range(pairs):
        if pair >= len(answers):
            return _refused(protocol, simulator, f"window {pair}: no answer")
        why = guard(answers[pair], windows[pair + 1], num_slots) if protocol.has_guard else ""
        if why:
            return _refused(protocol, simulator, f"window {pair}: {why}")
        try:
            loads = slot_load(answers[pair], windows[pair + 1], num_slots)
        except (ValueError, IndexError) as error:
            return _refused(protocol, simulator, f"window {pair}: {error}")
        slots.append(ratio_of_sums(loads))
        ranks.append(ratio_of_sums(rank_load(loads, num_ranks)))
    planner = sum(seconds[:pairs]) / pairs
    balances = ranks if protocol.level == "rank" else slots
    mean, timed = sum(balances) / pairs, planner + simulator
    return PublicScore(
        protocol.name,
        protocol.score(mean, timed),
        sum(slots) / pairs,
        sum(ranks) / pairs,
        tuple(balances),
        planner,
        simulator,
        protocol.speed(timed),
    )


def _refused(protocol: Protocol, simulator: float, why: str) -> PublicScore:
    return PublicScore(protocol.name, 0.0, 0.0, 0.0, (), 0.0, simulator, 0.0, why)
