"""Many simulations: policies x slots x intervals x traces, over local cores or a cluster, resumed where they stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from os import PathLike
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, FileError, unreadable
from equipoise.placement import Placement
from equipoise.simulating.naming import make_policies
from equipoise.simulating.policies import FixedPolicy, PlannedPolicy, Policy
from equipoise.simulating.replaying import simulate
from equipoise.simulating.results import Simulation
from equipoise.simulating.timing import TimeModel, make_time_model
from equipoise.streams import LoadStream
from equipoise.trace import LoadTrace

Trace = LoadTrace | LoadStream | str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Cell:
    """One simulation of a sweep: one policy on one trace, by name."""

    trace: str
    policy: str
    found: Simulation


def sweep(
    traces: Mapping[str, Trace],
    cluster: Cluster,
    policies: Sequence[str | Policy | Placement],
    *,
    slots: Sequence[int] = (),
    every: Sequence[int] = (),
    window: int = 1,
    folder: str | PathLike[str] | None = None,
    jobs: int | None = None,
    dispatch: str = "equal",
    time_model: str | TimeModel = "tokens",
    batches_per_window: int | None = None,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[Cell]:
    """Simulate every policy with every slots count and interval on every trace, each in a job of its own.

    Jobs run through joblib: ``jobs`` processes here, or wherever ``joblib.parallel_config`` says, such as a Ray or Dask cluster
    (docs/out-of-sample.md). What was found does not depend on where, or in which order.

    Parameters
    ----------
    traces : mapping of str to LoadTrace, LoadStream or path
        By name. Paths are read by the jobs, ``.npy`` and ``.npz`` step by step, so they must be readable there.
    policies : sequence of str, Policy or Placement
        As for :func:`equipoise.simulate`.
    slots, every : sequence of int
        Slots over all ranks and intervals (0: once) to give each policy by parts; default: its own.
    window : int
        Steps to add up for a window.
    folder : path, optional
        Where each job's simulation is kept, failed ones excepted, by a hash of everything it depends on. A sweep that was
        killed goes on where it stopped, and gives the same bytes as one that was not.
    jobs : int, optional
        Processes; -1 for all cores. Default: as joblib is configured, else 1.
    batches_per_window : int, optional
        Batches in a window; default: ``window``.
    progress : callable
        Called after each simulation.

    Returns
    -------
    list of Cell
        By trace, slots, interval and policy, in the order given.

    Raises
    ------
    ArgumentError
        On bad settings.
    FileError
        When a trace cannot be read, or ``folder`` holds a damaged simulation.

    Examples
    --------
    >>> trace = LoadTrace([[[8, 4, 2, 2]], [[8, 4, 2, 2]], [[2, 2, 4, 8]]])
    >>> cells = sweep({"toy": trace}, Cluster(2, 2), ["last"], slots=[4, 6])
    >>> [(cell.policy, cell.found.policies[0].mean_balancedness) for cell in cells]
    [('last,slots=4', 0.8), ('last,slots=6', 0.9)]
    """
    if not traces:
        raise ArgumentError("no traces", "there must be at least one", "name a load file")
    made = _spread(make_policies(policies), slots, every)
    model = make_time_model(time_model)
    batches = window if batches_per_window is None else batches_per_window
    kept = None if folder is None else Path(folder)
    if kept is not None:
        _make_folder(kept)
    if jobs is not None and (jobs == 0 or jobs < -1):
        raise ArgumentError(f"jobs is {jobs}", "it must be a number of processes >= 1, or -1 for all cores", "take 2")
    digests = {} if kept is None else {name: _digest(trace) for name, trace in traces.items()}
    jobs_given = []
    for (name, trace), policy in product(traces.items(), made):
        job = _Job(trace, policy, cluster, window, dispatch, model, batches, seed, None)
        if kept is not None:
            job = replace(job, path=kept / f"{_key(job, digests[name])}.json")
        jobs_given.append((name, job))
    found = []
    for simulation in _parallel(jobs)(delayed(_run)(job) for _, job in jobs_given):
        found.append(simulation)
        progress()
    return [Cell(name, job.policy.name, it) for (name, job), it in zip(jobs_given, found, strict=True)]


def _parallel(jobs: int | None) -> Parallel:
    """Return what runs jobs: one by one as they end, where the backend can give them so (Ray's gives all at once)."""
    try:
        return Parallel(n_jobs=jobs, return_as="generator")
    except ValueError:
        return Parallel(n_jobs=jobs)


@dataclass(frozen=True, eq=False)
class _Job:
    """All that one simulation depends on, and where it is kept."""

    trace: Trace
    policy: Policy
    cluster: Cluster
    window: int
    dispatch: str
    time_model: TimeModel
    batches: int
    seed: int
    path: Path | None


def _spread(policies: list[Policy], slots: Sequence[int], every: Sequence[int]) -> list[Policy]:
    """Give each policy by parts every slots count and interval; others stay as they are."""
    for policy in policies:
        if isinstance(policy, PlannedPolicy) and ((slots and policy.slots is not None) or (every and policy.every != 1)):
            raise ArgumentError(
                f"policy {policy.name} in a sweep", "slots and every are the sweep's where it has them", "leave them out of one"
            )
    spread: list[Policy] = []
    for count, interval in product(slots or [0], every or [-1]):
        for policy in policies:
            if isinstance(policy, PlannedPolicy) and slots:
                policy = replace(policy, slots=count)
            if isinstance(policy, PlannedPolicy) and every:
                policy = replace(policy, every=interval)
            if policy.name not in [known.name for known in spread]:
                spread.append(policy)
    return spread


def _run(job: _Job) -> Simulation:
    """Run a simulation, or read what an earlier run found."""
    if job.path is not None and job.path.exists():
        return Simulation.read(job.path)
    found = simulate(
        open_trace(job.trace, job.window),
        job.cluster,
        [job.policy],
        dispatch=job.dispatch,
        time_model=job.time_model,
        batches_per_window=job.batches,
        seed=job.seed,
    )
    if job.path is not None and not any(result.failure for result in found.policies):
        found.write(job.path)
    return found


def open_trace(trace: Trace, window: int = 1) -> LoadTrace | LoadStream:
    """Open a trace, adding up windows of ``window`` steps; ``.npy`` and ``.npz`` files are read step by step."""
    opened = trace if isinstance(trace, LoadTrace | LoadStream) else _open(trace)
    return opened if window == 1 else opened.windows(window)


def _open(path: str | PathLike[str]) -> LoadTrace | LoadStream:
    if str(path) != "-":
        with suppress(FileError):
            return LoadStream.open(path)
    return LoadTrace.read(path)


def _key(job: _Job, digest: str) -> str:
    """Return a hash of everything that a simulation depends on."""
    from equipoise import __version__

    policy = job.policy
    known: object
    if isinstance(policy, FixedPolicy):
        known = [policy.name, repr(policy.placement.cluster), policy.placement.expert_of_slot.tolist()]
    elif isinstance(policy, PlannedPolicy) and isinstance(policy.forecast, str) and isinstance(policy.trigger, str):
        known = repr(policy)
    else:
        raise ArgumentError(
            f"policy {policy.name} in a sweep with a folder",
            "only placements, and parts given by name, can be told apart by content",
            "name its parts, or leave the folder out",
        )
    parts = [__version__, digest, known, repr(job.cluster), job.window, job.dispatch, repr(job.time_model)]
    return hashlib.sha256(json.dumps([*parts, job.batches, job.seed]).encode()).hexdigest()[:32]


def _digest(trace: Trace) -> str:
    if isinstance(trace, LoadStream):
        raise ArgumentError(
            "a stream in a sweep with a folder", "only files and traces can be told apart by content", "pass its path"
        )
    return _digest_of_trace(trace) if isinstance(trace, LoadTrace) else _digest_of_file(trace)


def _digest_of_trace(trace: LoadTrace) -> str:
    load = np.ascontiguousarray(trace.load)
    return hashlib.sha256(f"{load.shape} {load.dtype.str}".encode() + load.tobytes()).hexdigest()


def _digest_of_file(path: str | PathLike[str]) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{folder} cannot be made ({error.strerror})", "a sweep keeps its parts there", "name another folder"
        ) from error
