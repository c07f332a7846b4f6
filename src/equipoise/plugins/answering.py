"""Policy calls answered: planned, agreed on, logged and recorded, or left to the engine's stock policy."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Ints
from equipoise.plugins.agreeing import DisagreementError, Group, global_rank
from equipoise.plugins.deciding import Call, Decision, decide
from equipoise.plugins.recording import Recorder
from equipoise.plugins.settings import Settings

FROM_ARGUMENTS = (ArgumentError, NotSupportedError)
"""Faults that every rank finds alike, because they follow from arguments and settings."""


@dataclass(frozen=True)
class Refusal:
    """Why a call is left to the stock policy, on every rank; faults of one kind are logged once."""

    reason: str
    kind: str = ""


@dataclass
class Answerer:
    """Answers the policy calls of one process.

    Parameters
    ----------
    settings : Settings
        What was set.
    engine : str
        ``vllm`` or ``sglang``, told in records.
    log : logging.Logger
        One that the engine shows.
    find_group : callable
        Returns the ranks that answer the same call, or None where no process group is at hand.
    """

    settings: Settings
    engine: str
    log: logging.Logger
    find_group: Callable[[], Group | None]
    _num_calls: int = 0
    _compared: set[str] = field(default_factory=set, repr=False)
    _said: set[str] = field(default_factory=set, repr=False)
    _recorder: Recorder | None = field(default=None, repr=False)

    def answer(self, read: Callable[[], Call]) -> Ints | Refusal:
        """Answer the call that ``read`` returns: expert_of_slot [layers, slots], or a refusal, the same on every rank.

        Raises
        ------
        DisagreementError
            On every rank that can know: settings differ, a rank does not answer, or ranks answer different calls.
        Exception
            In ``every_rank`` mode, whatever is no fault of the arguments.
        """
        started = time.perf_counter()
        group, number = self.find_group(), self._num_calls
        self._num_calls += 1
        if group is not None and group.size > 1 and group.name not in self._compared:
            group.compare("settings", self.settings.digest)
            self._compared.add(group.name)
        if self.settings.mode == "one_rank":
            found = self._answer_on_one_rank(read, group, number, started)
        else:
            found = self._answer_on_every_rank(read, group, number, started)
        if isinstance(found, Refusal):
            self._say_once(found.kind or found.reason, f"the stock policy answers: {found.reason}")
        return found

    def _answer_on_every_rank(
        self, read: Callable[[], Call], group: Group | None, number: int, started: float
    ) -> Ints | Refusal:
        if self.settings.compare == "settings" or group is None or group.size == 1:
            return self._decide(read, group, started)
        try:
            found = self._decide(read, group, started)
        except Exception as error:
            group.compare(_topic(number), f"a fault: {type(error).__name__}: {error}")
            raise
        group.compare(_topic(number), _digest(found))
        if number > 1:
            group.forget(_topic(number - 2))
        return found

    def _answer_on_one_rank(self, read: Callable[[], Call], group: Group | None, number: int, started: float) -> Ints | Refusal:
        if group is None:
            return self._answer_without_group(read, started)
        if group.rank > 0:
            taken = group.take_over(number, _digest_of_call(read))
            return Refusal(taken) if isinstance(taken, str) else taken
        digest = ""
        try:
            call = read()
            digest = call.digest if group.size > 1 else ""
            found = self._decide(lambda: call, group, started)
        except Exception as error:
            if not isinstance(error, FROM_ARGUMENTS):
                self.log.exception("equipoise: a fault on the one rank that plans")
            found = Refusal(f"{type(error).__name__}: {error}")
        if group.size > 1:
            group.hand_over(number, digest, found.reason if isinstance(found, Refusal) else found)
        return found

    def _answer_without_group(self, read: Callable[[], Call], started: float) -> Ints | Refusal:
        call = _read(read)
        if isinstance(call, Call) and call.num_ranks > 1:
            raise DisagreementError(
                f"equipoise: mode is one_rank, but no process group is at hand for {call.num_ranks} ranks (vLLM's elastic "
                "expert parallelism has none, nor has SGLang's when rank 0 is down), so a plan cannot be handed over; set "
                "EQUIPOISE_MODE=every_rank"
            )
        return call if isinstance(call, Refusal) else self._decide(lambda: call, None, started)

    def _decide(self, read: Callable[[], Call], group: Group | None, started: float) -> Ints | Refusal:
        try:
            call = read()
            self._record(call, group)
            decision = decide(call, self.settings)
        except FROM_ARGUMENTS as error:
            return Refusal(f"{error}", error.rule)
        self._log(decision, group, time.perf_counter() - started)
        return decision.expert_of_slot

    def _log(self, decision: Decision, group: Group | None, seconds: float) -> None:
        level = logging.INFO if group is None or group.rank == 0 else logging.DEBUG
        if not self.log.isEnabledFor(level):
            return
        first = "" if "settings" in self._said else f" settings={self.settings.digest[:16]}"
        self._said.add("settings")
        self.log.log(
            level,
            "equipoise: balancedness %s -> %s moves=%s ms=%.1f%s",
            _shown(decision.before),
            _shown(decision.after),
            "unknown" if decision.moves < 0 else decision.moves,
            1000.0 * seconds,
            first,
        )

    def _record(self, call: Call, group: Group | None) -> None:
        if self.settings.record is None or (group is not None and group.rank > 0):
            return
        try:
            if self._recorder is None:
                path = _path_of_this_rank(Path(self.settings.record), call.num_ranks)
                self._recorder = Recorder(path, self.engine, self.settings.record_bytes, self.settings.record_files)
            self._recorder.write(call)
        except Exception as error:
            self._say_once("recording", f"calls are not recorded: {type(error).__name__}: {error}")

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.log.warning("equipoise: %s", message)


def _shown(balancedness: float) -> str:
    return "-" if math.isnan(balancedness) else f"{balancedness:.4f}"


def _read(read: Callable[[], Call]) -> Call | Refusal:
    try:
        return read()
    except FROM_ARGUMENTS as error:
        return Refusal(f"{error}", error.rule)


def _digest_of_call(read: Callable[[], Call]) -> str:
    """Return the digest, or "" where the call cannot be read here: the first rank's answer serves all the same."""
    try:
        return read().digest
    except Exception:
        return ""


def _digest(found: Ints | Refusal) -> str:
    if isinstance(found, Refusal):
        return f"the stock policy: {found.reason}"
    return f"the plan {hashlib.sha256(repr(found.shape).encode() + found.tobytes()).hexdigest()}"


def _topic(number: int) -> str:
    return f"the answer to call {number}"


def _path_of_this_rank(path: Path, num_ranks: int) -> Path:
    """Return the path itself on global rank 0, else one with the rank before its ending, or the process where none is known."""
    rank = global_rank()
    if rank is None:
        return path if num_ranks == 1 else path.with_name(f"{path.stem}.process{os.getpid()}{path.suffix}")
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path
