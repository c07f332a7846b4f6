"""The judge: run programs, check what they answer, and score it under each protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.scoring.answers import check_answer
from equipoise.scoring.confining import is_protected
from equipoise.scoring.limits import Limits
from equipoise.scoring.programs import Program, find_programs
from equipoise.scoring.protocols import OURS, PROTOCOLS, PUBLIC, PublicScore, score_publicly
from equipoise.scoring.replayed import OurScore, score_replayed
from equipoise.scoring.running import Run, Runner, Transport, doubted, transport_of
from equipoise.scoring.setups import Setup
from equipoise.scoring.verdicts import Verdict
from equipoise.trace import LoadTrace

Array = npt.NDArray[Any]

_CALLS = 6
_WIDEST = 64
"""Lists of slots this wide are tried; what messages take grows with their bytes, so wider ones are worked out."""

_UNLOADABLE = ("syntax error", "no function")

_MAPS = """
try:
    import torch as arrays
except ImportError:
    import numpy as arrays

MAPS = None


def maps_of(weight, slots):
    global MAPS
    if MAPS is None:
        layers, experts = weight.shape
        width = max(-(-slots // experts), WIDTH)
        slot = arrays.arange(width * experts).reshape(width, experts).T
        filled = slot < slots
        phy2log = (arrays.arange(slots) % experts) + arrays.zeros((layers, 1), dtype=arrays.int64)
        log2phy = arrays.where(filled, slot, slot * 0 - 1) + arrays.zeros((layers, 1, 1), dtype=arrays.int64)
        logcnt = filled.sum(1) + arrays.zeros((layers, 1), dtype=arrays.int64)
        MAPS = phy2log, log2phy, logcnt
    return MAPS
"""

_NOTHING = (
    _MAPS
    + """

def rebalance_experts(weight, slots, groups, nodes, ranks):
    return maps_of(weight, slots)
"""
)

_LOOP = (
    _MAPS
    + '''

def rebalance_experts(weight, slots, groups, nodes, ranks):
    """Take one layer's loads apart as the public simulators do: one expert at a time, in plain Python."""
    _, log2phy, logcnt = maps_of(weight, slots)
    slot_load = arrays.zeros((1, slots), dtype=arrays.float32)
    for expert in range(weight.shape[1]):
        tokens = weight[0][expert].item()
        if tokens <= 0:
            continue
        count = int(logcnt[0][expert].item())
        slot_load[0, log2phy[0][expert][:count]] += tokens / count
    return MAPS
'''
)


@dataclass(frozen=True, eq=False)
class ProgramScore:
    """A program, the verdict on it, and what each protocol makes of it.

    ``scores`` has every protocol asked for: for the public ones what they themselves would say, also of programs that are not
    accepted here; ours is None for these. ``seconds`` are those of each call; the first is cold.
    """

    program: Program
    verdict: Verdict
    run: Run
    seconds: tuple[float, ...]
    scores: dict[str, PublicScore | OurScore | None]

    @property
    def is_accepted(self) -> bool:
        """Whether the program kept every rule."""
        return self.verdict.is_accepted

    @property
    def cold_seconds(self) -> float | None:
        """Time of the first call; None without any."""
        return self.seconds[0] if self.seconds else None

    @property
    def warm_seconds(self) -> float | None:
        """Mean time of the calls after the first; None without any."""
        return float(np.mean(self.seconds[1:])) if len(self.seconds) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON; docs/scoring.md names the keys."""
        return {
            "program": self.program.name,
            "sha256": self.program.sha256,
            "is_builtin": self.program.is_builtin,
            "is_accepted": self.is_accepted,
            "verdict": asdict(self.verdict),
            "notes": list(self.run.notes),
            "output": self.run.output,
            "unprotected": list(self.run.unprotected),
            "calls": len(self.seconds),
            "cold_seconds": self.cold_seconds,
            "warm_seconds": self.warm_seconds,
            "peak_bytes": self.run.peak_bytes,
            "scores": {name: None if score is None else score.as_dict() for name, score in self.scores.items()},
        }


def score_programs(
    programs: Sequence[str | PathLike[str] | Program],
    trace: LoadTrace,
    setup: Setup | None = None,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    limits: Limits | None = None,
    hidden: Sequence[str | PathLike[str]] = (),
    must_load: bool = False,
    unprotected: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> list[ProgramScore]:
    """Score programs that define ``rebalance_experts`` on a trace: planned on a window, scored on the one after it.

    Parameters
    ----------
    programs : sequence of str, path or Program
        Python files, or planners by name (:func:`equipoise.scoring.programs.find_program`).
    trace : LoadTrace
        The windows, one a step: cut it before with ``trace.windows(100)``.
    setup : Setup, optional
        Slots, groups, nodes, ranks. Default: those of the public evaluators.
    protocols : sequence of str
        Some of v1, v2, v3, v4 and equipoise.
    limits : Limits, optional
        What each program may use.
    hidden : sequence of path
        Files that programs must not read, such as the trace's own.
    must_load : bool
        Raise when a program cannot be loaded at all, before any is run: a syntax error, no ``rebalance_experts``.
    unprotected : bool
        Run programs also where the system lacks Landlock or the filter of system calls, so that they could reach files and
        processes; what is lacking is told with each.
    progress : callable
        Called after each call, ``len(programs) * (trace.num_steps - 1)`` times where none fails.

    Returns
    -------
    list of ProgramScore
        In the order given. Whatever a program does is told in its verdict; nothing of it is raised.

    Raises
    ------
    ArgumentError, FileError
        On a trace that is too short or does not fit, unknown names and files that cannot be read, before any work.
    NotSupportedError
        Where this is not Linux, or the kernel cannot confine programs and ``unprotected`` is not set.
    """
    setup = setup or Setup()
    found = find_programs(programs)
    if not found or not protocols:
        raise ArgumentError("nothing to score", "name at least one program and one protocol", "try equipoise:default")
    setup.check(trace, protocols)
    windows = [np.ascontiguousarray(step, np.int64 if step.dtype.kind in "iu" else np.float64) for step in trace.load]
    if not unprotected and not all(program.is_builtin for program in found):
        _check_protection()
    with Runner(hidden, limits) as runner:
        calibration = _Calibration(runner, windows, setup)
        if any(PUBLIC[name].times_simulator for name in protocols if name != OURS):
            assert calibration.simulator_seconds >= 0  # measured before any program could disturb it
        if must_load:
            _check_loads(runner, found, setup)
        return [_score(program, runner, trace, windows, setup, protocols, calibration, progress) for program in found]


def _check_protection() -> None:
    if not is_protected():
        raise NotSupportedError(
            "this system lacks Landlock or the filter of system calls",
            "without them a program could reach your files and processes",
            "score on Linux >= 5.13 on x86-64 or aarch64, or give --unprotected",
        )


def _check_loads(runner: Runner, programs: Sequence[Program], setup: Setup) -> None:
    for program in programs:
        verdict = runner.run(program, [], setup.arguments).verdict
        if verdict.kind in _UNLOADABLE:
            raise ArgumentError(f"{program.name}: {verdict.found}", verdict.rule, verdict.next_step)


class _Calibration:
    """What messages take around a call, and what a simulator in plain Python takes; measured before any program is run."""

    def __init__(self, runner: Runner, windows: Sequence[Array], setup: Setup) -> None:
        self._runner, self._windows, self._setup = runner, [windows[0]] * _CALLS, setup
        slots, experts = setup.num_slots, windows[0].shape[1]
        self._narrow = -(-slots // experts)
        self._wide = max(self._narrow + 1, min(slots, max(self._narrow + 8, min(slots - experts + 1, _WIDEST))))
        self._least, self._most = (transport_of(self._run(_NOTHING, width)) for width in (self._narrow, self._wide))

    def transport(self, run: Run) -> Transport:
        """Return what messages take with answers as large as a program's."""
        widths = [answer.log2phy.shape[2] for answer in run.answers if answer.log2phy.ndim == 3]
        width = min(max(widths, default=0), self._setup.num_slots)
        share = max(0.0, (width - self._narrow) / (self._wide - self._narrow))
        done, answer = (
            least + share * max(0.0, most - least)
            for least, most in ((self._least.done, self._most.done), (self._least.answer, self._most.answer))
        )
        return Transport(done, answer)

    @cached_property
    def simulator_seconds(self) -> float:
        """Seconds of a simulation of one window."""
        layers = self._windows[0].shape[0]
        return float(layers * median(timing.own for timing in self._run(_LOOP, 0).timings[1:]))

    def _run(self, text: str, width: int) -> Run:
        program = Program("calibration", f"WIDTH = {width}\n{text}", is_builtin=True)
        for _ in range(2):
            run = self._runner.run(program, self._windows, self._setup.arguments, limits=Limits())
            if run.verdict.is_accepted:
                return run
            self._runner.close()  # once more, from a new process
        found = f"a program that does nothing gets: {run.verdict}"
        raise NotSupportedError(
            found, "times are measured beside it", "try again when the machine has memory and time to spare"
        )


def _score(
    program: Program,
    runner: Runner,
    trace: LoadTrace,
    windows: Sequence[Array],
    setup: Setup,
    protocols: Sequence[str],
    calibration: _Calibration,
    progress: Callable[[], object],
) -> ProgramScore:
    run = runner.run(program, windows[:-1], setup.arguments, progress=progress)
    transport = calibration.transport(run)
    run = run if program.is_builtin else doubted(run, transport)
    seconds = tuple(timing.seconds(transport) for timing in run.timings)
    verdict = _first_wrong(run, trace, setup) or run.verdict
    scores: dict[str, PublicScore | OurScore | None] = {}
    for name in protocols:
        if name == OURS:
            maps = [answer.phy2log for answer in run.answers]
            scores[name] = score_replayed(program.name, maps, trace, setup.cluster) if verdict.is_accepted else None
        else:
            protocol, sizes = PUBLIC[name], (setup.num_slots, setup.num_ranks)
            simulator = calibration.simulator_seconds if protocol.times_simulator else 0.0
            scores[name] = score_publicly(protocol, run.answers, windows, seconds, *sizes, simulator)
    return ProgramScore(program, verdict, run, seconds, scores)


def _first_wrong(run: Run, trace: LoadTrace, setup: Setup) -> Verdict | None:
    for window, answer in enumerate(run.answers):
        wrong = check_answer(answer, window, trace.num_layers, trace.num_experts, setup.num_slots)
        if wrong is not None:
            return wrong
    return None
