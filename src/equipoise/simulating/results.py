"""What a simulation found, and its file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError
from equipoise.files.simulations import PolicyRecord, SimulationFile, encode_simulation, read_simulation, write_simulation
from equipoise.kernels.types import Floats, Ints

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PolicyResult:
    """What became of one policy. Arrays are [scored windows]; means leave out windows without load (nan).

    Attributes
    ----------
    name, num_slots
        The policy, and the slots of its last placement over all ranks.
    balancedness, worst_layer, fifth_percentile : float64
        Next-window balance: over all layers, of the worst layer, and the 5th percentile over layers.
    time, ideal_time : float64
        What the window takes by the time model, and what it would with its load level; without stalls.
    moves, bytes_moved, stall : int64, float64, float64
        Replicas that ranks received before the window, their bytes, and the time that took.
    is_renewed : bool
        Whether a new placement was put to use before the window.
    largest_by_layer, ideal_by_layer : float64 [layers]
        Sums over windows of the largest and the ideal rank time.
    duplicates : int
        Slots that held an expert their rank held already, over all placements and layers.
    failure : str
        Why the policy was stopped: policy, window, layer and rule; empty when it was not.
    explanation : str
        What the policy says of its choices, where it does.
    milliseconds : float
        Median time to forecast and plan, without dispatch() and plan_batch(); measured, so it is not written to files, and nan
        when read from one.
    """

    name: str
    num_slots: int
    balancedness: Floats
    worst_layer: Floats
    fifth_percentile: Floats
    time: Floats
    ideal_time: Floats
    moves: Ints
    bytes_moved: Floats
    stall: Floats
    is_renewed: Flags
    largest_by_layer: Floats
    ideal_by_layer: Floats
    duplicates: int = 0
    failure: str = ""
    explanation: str = ""
    milliseconds: float = float("nan")

    @property
    def mean_balancedness(self) -> float:
        """Mean over windows; nan where none was scored."""
        return _mean(self.balancedness)

    @property
    def mean_worst_layer(self) -> float:
        """Mean over windows of the worst layer's balance."""
        return _mean(self.worst_layer)

    @property
    def mean_fifth_percentile(self) -> float:
        """Mean over windows of the 5th percentile over layers."""
        return _mean(self.fifth_percentile)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean balancedness, windows taken as independent; nan below two windows."""
        known = self.balancedness[~np.isnan(self.balancedness)]
        return float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan")

    @property
    def idle_windows(self) -> int:
        """Scored windows without any load; they count in no mean."""
        return int(np.isnan(self.balancedness).sum())

    @property
    def total_time(self) -> float:
        """Time of all windows and stalls."""
        return float(self.time.sum() + self.stall.sum())

    @property
    def useful_share(self) -> float:
        """Ideal time over time with stalls; 1 without any."""
        total = self.total_time
        return float(self.ideal_time.sum()) / total if total > 0 else 1.0


_MOST_RESAMPLED = 2_000


@dataclass(frozen=True)
class Difference:
    """How much more balance one policy has than another: mean over windows, and a 95 % interval of that mean.

    Of fewer than two windows the interval is nan.
    """

    mean: float
    low: float
    high: float


def paired_difference(policy: PolicyResult, other: PolicyResult, *, seed: int = 0, resamples: int = 10_000) -> Difference:
    """Compare two policies window by window, by bootstrap over windows.

    Windows with load that both were scored on are drawn with replacement, ``resamples`` times; the interval holds the middle
    95 % of the means (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13); beyond 2,000 windows it is
    1.96 standard errors to either side, which is the same there. Neighbouring windows are taken as independent, so where
    traffic drifts slowly the interval is too narrow.
    """
    windows = min(policy.balancedness.size, other.balancedness.size)
    gain = policy.balancedness[:windows] - other.balancedness[:windows]
    gain = gain[~np.isnan(gain)]
    if gain.size < 2:
        return Difference(float(gain.mean()) if gain.size else float("nan"), float("nan"), float("nan"))
    if gain.size > _MOST_RESAMPLED:
        mean, error = float(gain.mean()), float(gain.std(ddof=1)) / float(np.sqrt(gain.size))
        return Difference(mean, mean - 1.96 * error, mean + 1.96 * error)
    random = np.random.Generator(np.random.Philox(seed))
    means = np.array([gain[random.integers(gain.size, size=gain.size)].mean() for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(gain.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Simulation:
    """Several policies on the same windows.

    ``num_windows`` are those scored; the one before them was history only. ``dispatch`` and ``time_model`` are names.
    ``num_slots`` are those of the cluster, over all ranks, and ``fingerprint`` is that of all windows; 0 and empty in files
    written before these were kept.
    """

    num_windows: int
    num_ranks: int
    dispatch: str
    time_model: str
    policies: tuple[PolicyResult, ...]
    num_slots: int = 0
    fingerprint: str = ""

    def policy(self, name: str) -> PolicyResult:
        """Return the result of a policy by name."""
        for result in self.policies:
            if result.name == name:
                return result
        names = ", ".join(result.name for result in self.policies)
        raise ArgumentError(f"no policy is called {name}", f"there are {names}", "ask for one of these")

    def write(self, path: str | PathLike[str]) -> None:
        """Write everything but measured times as versioned JSON, atomically: the same simulation gives the same bytes.

        Raises
        ------
        FileError
            When the folder cannot be written.
        """
        write_simulation(path, self.to_file())

    def as_bytes(self) -> bytes:
        """Return the bytes that :meth:`write` writes."""
        return encode_simulation(self.to_file())

    def to_file(self) -> SimulationFile:
        """Return what is written."""
        return SimulationFile(
            num_windows=self.num_windows,
            num_ranks=self.num_ranks,
            dispatch=self.dispatch,
            time_model=self.time_model,
            num_slots=self.num_slots,
            fingerprint=self.fingerprint,
            policies=[PolicyRecord(**{name: _plain(getattr(p, name)) for name in _WRITTEN}) for p in self.policies],
        )

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Simulation:
        """Read what :meth:`write` wrote.

        Raises
        ------
        FileError
            When the file cannot be read, is no simulation of a version this equipoise knows, or holds what no simulation finds.
        """
        found = read_simulation(path)
        results = tuple(
            PolicyResult(**{name: _array(name, getattr(record, name)) for name in _WRITTEN}) for record in found.policies
        )
        return cls(
            found.num_windows, found.num_ranks, found.dispatch, found.time_model, results, found.num_slots, found.fingerprint
        )


_WRITTEN = tuple(field.name for field in fields(PolicyResult) if field.name != "milliseconds")


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return [None if item != item else item for item in value.tolist()]


def _array(name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind = {"moves": np.int64, "is_renewed": np.bool_}.get(name, np.float64)
    return np.array([np.nan if item is None else item for item in value], kind)
