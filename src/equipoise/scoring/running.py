"""Run a program on windows in a process of its own, and take its answers, its time and what it did wrong.

The time of a call is the program's own clock's, unless what is seen from outside says that it was longer by more than messages
take: then that, less what they take. Seen from outside are our clock and the kernel's account of the processor time that the
process used, whichever is less: so a busy machine does no harm, and what a program does to clocks gains it nothing. Both begin
when the window is sent; what the process uses after its answer, up to the next window, is added.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from equipoise.errors import NotSupportedError
from equipoise.scoring.answers import Answer
from equipoise.scoring.frames import GarbledError, Unpacker, pack
from equipoise.scoring.hosting import END, MOST_THREADS, OUT_OF_MEMORY
from equipoise.scoring.limits import Limits
from equipoise.scoring.programs import Program
from equipoise.scoring.reachable import reachable_paths
from equipoise.scoring.scratch import DEEPEST, look_into, remove_tree
from equipoise.scoring.verdicts import ALL_RIGHT, Verdict, one_line

Array = npt.NDArray[Any]
Message = tuple[dict[str, Any], bytes]

_START_SECONDS = 120.0
_END_SECONDS = 10.0
_LOOK = 0.2
_KEPT = 4096
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
_OUR_CACHE = ("HOME", "XDG_CACHE_HOME")
_DTYPES = {np.dtype(code).str for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "?")}
_MOST_AXES, _MOST_PLACES = 8, 1 << 58
_CLOCK_SLACK = 0.001
_CLOCK_SHARE = 0.2


@dataclass(frozen=True)
class Transport:
    """Seconds that messages take around a call that does nothing, at most: until it is done, and until its answer is here."""

    done: float = 0.0
    answer: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: by the program's own clock; from outside until it said it was done; and until the next window.

    >>> Timing(0.5, 0.51, 0.6).seconds(Transport(0.02, 0.2)), Timing(0.0, 0.51, 0.6).seconds(Transport(0.02, 0.2))
    (0.5, 0.49)
    """

    own: float
    done: float
    answer: float

    def seconds(self, transport: Transport) -> float:
        """Return what the call took, whatever the program says."""
        return max(self.own, self.outside(transport))

    def outside(self, transport: Transport) -> float:
        """Return the least that the call can have taken as seen from outside."""
        return max(self.done - transport.done, self.answer - transport.answer)

    def is_doubtful(self, transport: Transport) -> bool:
        """Whether the program's clock shows much less than ours."""
        outside = self.outside(transport)
        return outside - self.own > max(_CLOCK_SLACK, _CLOCK_SHARE * outside)


@dataclass(frozen=True, eq=False)
class Run:
    """What came of a program: its answers to the first windows, their times, and the verdict on the run as such.

    ``answers`` are fewer than the windows where it was stopped. ``notes`` say what it did besides, ``output`` holds the end of
    what it printed, ``unprotected`` what this system could not keep it from.
    """

    answers: tuple[Answer, ...] = ()
    timings: tuple[Timing, ...] = ()
    verdict: Verdict = ALL_RIGHT
    notes: tuple[str, ...] = ()
    output: str = ""
    unprotected: tuple[str, ...] = ()
    peak_bytes: int | None = None


class _StoppedError(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class Runner:
    """Runs programs one after the other; a context that ends all processes it started.

    Parameters
    ----------
    hidden : sequence of path
        Files that no program may read, wherever they lie.
    limits : Limits
        For each program.
    without : sequence of str
        Kernel protections to do without (``landlock``, ``seccomp``), as on a system that lacks them.

    Raises
    ------
    NotSupportedError
        Where this is not Linux.
    """

    def __init__(
        self, hidden: Sequence[str | os.PathLike[str]] = (), limits: Limits | None = None, without: Sequence[str] = ()
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise NotSupportedError(f"scoring on {sys.platform}", "programs are confined by Linux", "score on a Linux machine")
        self._limits = limits or Limits()
        self._without = list(without)
        self._readable, self._listable = reachable_paths(hidden)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_warm = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process that programs are forked from, and with it theirs."""
        if self._process is not None:
            self._control.close()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def run(
        self,
        program: Program,
        windows: Sequence[Array],
        arguments: Sequence[int],
        *,
        progress: Callable[[], object] = lambda: None,
        limits: Limits | None = None,
    ) -> Run:
        """Call a program on each window in turn, ``rebalance_experts(window, *arguments)``; never raises for what it does.

        Parameters
        ----------
        windows : sequence of array [layers, experts]
            One is handed over only when its turn has come.
        arguments : sequence of int
            Slots, groups, nodes and ranks.
        progress : callable
            Called after each window.
        limits : Limits, optional
            For this run in place of the runner's.
        """
        run, has_started = self._run(program, windows, arguments, progress, limits or self._limits)
        if not has_started:  # the process to fork from was gone: once more with a new one
            self.close()
            run, _ = self._run(program, windows, arguments, progress, limits or self._limits)
        return run

    def _run(
        self,
        program: Program,
        windows: Sequence[Array],
        arguments: Sequence[int],
        progress: Callable[[], object],
        limits: Limits,
    ) -> tuple[Run, bool]:
        self._start()
        folder = Path(tempfile.mkdtemp(prefix="equipoise-"))
        try:
            session = _Session(self, program, folder, limits)
            return session.run(windows, arguments, progress), session.pid > 0
        finally:
            with suppress(OSError):
                remove_tree(folder)

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.append({root!r}); from equipoise.scoring.hosting import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", code],
                env=_host_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._is_warm = False

    def _order(self, program: Program, file: Path, scratch: Path, limits: Limits) -> bytes:
        warm_up = program.calls_equipoise and not self._is_warm
        self._is_warm = self._is_warm or warm_up
        order = {
            "name": Path(program.name).name,
            "file": str(file),
            "scratch": str(scratch),
            "environment": {**_environment(), "HOME": str(scratch), "TMPDIR": str(scratch)},
            "confined": not program.is_builtin,
            "without": self._without,
            "readable": [*self._readable, str(file)],
            "listable": self._listable,
            "memory": limits.memory,
            "file_bytes": limits.file_bytes,
            "cpu_seconds": int(limits.total_seconds) + 2,
            "warm_up": warm_up,
        }
        return json.dumps(order).encode()


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **dict.fromkeys(_THREADS, "1")}


def _host_environment() -> dict[str, str]:
    """Return the environment of the process that programs are forked from: where our own kernels are cached, and no more."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_") or name in _OUR_CACHE}
    return {**kept, **_environment()}


class _Stopwatch:
    """Time since it was made: ours, or the processor time that a process used since, whichever is less."""

    def __init__(self, pid: int) -> None:
        self._processor = (~pid << 3) | 2  # the kernel's clock of another process
        self._used_before = self._seen = 0.0
        self._used_before, self._start = self._used(), time.perf_counter()

    def seconds(self) -> float:
        return min(time.perf_counter() - self._start, self._used())

    def answered(self, own: float, done: float) -> None:
        """Take down that the answer is here, and what was known then."""
        self._own, self._done = own, done
        self._passed_then, self._used_then = time.perf_counter() - self._start, self._used()

    def timing(self) -> Timing:
        """Return the call's times, with what the process used since it answered: a plan can be made then too."""
        used = self._used()
        return Timing(self._own, self._done, min(self._passed_then + used - self._used_then, used))

    def _used(self) -> float:
        with suppress(OSError):  # it may have ended
            self._seen = time.clock_gettime(self._processor)
        return self._seen - self._used_before


@dataclass
class _Session:
    """One program's run: its process, what comes from it, and by when."""

    runner: Runner
    program: Program
    folder: Path
    limits: Limits
    output: bytearray = field(default_factory=bytearray)
    printed: int = 0
    ended: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    unprotected: tuple[str, ...] = ()
    longest: int = 0
    pid: int = 0
    watch: _Stopwatch | None = None
    timings: list[Timing] = field(default_factory=list)

    def run(self, windows: Sequence[Array], arguments: Sequence[int], progress: Callable[[], object]) -> Run:
        self.longest = _longest_answer(windows, arguments)
        self._open()
        answers: list[Answer] = []
        verdict = ALL_RIGHT
        try:
            self._begin()
            self._load()
            for number, window in enumerate(windows):
                answer, changed = self._call(number, window, arguments)
                if changed:
                    raise _StoppedError(_changed(number - 1))
                answers.append(answer)
                self._check_scratch()
                progress()
            self._settle()
            self._send(pack("last"))
            head, _ = self._receive(self.limits.load_seconds, "ending")
            if head.get("changed"):
                raise _StoppedError(_changed(len(windows) - 1))
        except _StoppedError as stop:
            verdict = stop.verdict
        except (ValueError, TypeError, OverflowError) as error:
            verdict = _garbled(f"a message that cannot be read: {error}")
        finally:
            self._settle()
            self._close()
        return Run(
            tuple(answers),
            tuple(self.timings[: len(answers)]),
            (verdict.is_accepted and self._overfilled()) or verdict,
            tuple(self._notes()),
            "\n".join(one_line(line, _KEPT) for line in bytes(self.output).decode("utf-8", "replace").split("\n")),
            self.unprotected,
            None if self.ended is None else self.ended.get("peak"),
        )

    def _open(self) -> None:
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()
        file = self.folder / "program.py"
        file.write_text(self.program.text, encoding="utf-8", errors="surrogatepass")
        self.control = self.runner._control
        self.channel, theirs = socket.socketpair()
        streams = [os.pipe(), os.pipe()]
        order = self.folder / "order.json"
        order.write_bytes(self.runner._order(self.program, file, self.scratch, self.limits))
        with suppress(OSError):  # where nobody takes it, no word will come
            socket.send_fds(self.control, [os.fsencode(order)], [theirs.fileno(), streams[0][1], streams[1][1]])
        theirs.close()
        for _, writing in streams:
            os.close(writing)
        self.streams = [reading for reading, _ in streams]
        self.unpacker = Unpacker(self.longest)
        self.waiting: deque[Message] = deque()
        self.selector = selectors.DefaultSelector()
        for source in (self.channel.fileno(), *self.streams, self.control.fileno()):
            self.selector.register(source, selectors.EVENT_READ)
        self.channel.setblocking(False)

    def _begin(self) -> None:
        """Wait until the program has a process."""
        self.pid = int(self._word(_START_SECONDS).get("pid", 0))
        if not self.pid:
            raise _StoppedError(_fate({}, self.limits))
        self.deadline = time.monotonic() + self.limits.total_seconds

    def _word(self, seconds: float) -> dict[str, Any]:
        """Wait for a word from the process that programs are forked from; {} when there is none."""
        self.control.settimeout(seconds)
        try:
            data = self.control.recv(1 << 16)
        except OSError:
            return {}
        word = json.loads(data) if data else {}
        return word if isinstance(word, dict) else {}

    def _load(self) -> None:
        head, _ = self._receive(self.limits.load_seconds, "loading")
        if head["kind"] != "loaded":
            raise _StoppedError(_failure(head, "loading", self.limits))
        lines = head.get("unprotected")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise _StoppedError(_garbled("loading: a message of another form"))
        self.unprotected = tuple(one_line(line) for line in lines[:8])

    def _call(self, number: int, window: Array, arguments: Sequence[int]) -> tuple[Answer, bool]:
        what = f"window {number}"
        given = {"dtype": window.dtype.str, "shape": list(window.shape), "arguments": list(arguments), "longest": self.longest}
        message = pack("window", np.ascontiguousarray(window).tobytes(), **given)
        self._settle()
        watch = _Stopwatch(self.pid)
        self._send(message)
        self._expect("done", what)
        done = watch.seconds()
        head, body = self._receive(self.limits.call_seconds, what)
        own = head.get("nanoseconds")
        watch.answered(own / 1e9 if type(own) is int and 0 <= own < 10**15 else 0.0, done)
        if head["kind"] != "answer":
            raise _StoppedError(_failure(head, what, self.limits))
        answer = _unpacked(head, body, what)
        self.watch = watch
        if head.get("threads") not in (1, None):
            self._note("threads of its own go on after a call")
        return answer, bool(head.get("changed"))

    def _settle(self) -> None:
        """Bill the call before, with all that the process has used since."""
        if self.watch is not None:
            self.timings.append(self.watch.timing())
            self.watch = None

    def _expect(self, kind: str, what: str) -> None:
        head, _ = self._receive(self.limits.call_seconds, what)
        if head["kind"] != kind:
            raise _StoppedError(_failure(head, what, self.limits))

    def _send(self, data: bytes) -> None:
        """Send, reading meanwhile what the program prints, so that neither waits for the other."""
        view, until = memoryview(data), time.monotonic() + self.limits.call_seconds
        while view:
            try:
                view = view[self.channel.send(view) :]
            except BlockingIOError:
                self._look(0.001, wants=False)
                if time.monotonic() > until:
                    raise _StoppedError(_late("it does not take its window", self.limits.call_seconds)) from None
            except OSError:
                self._await_end()

    def _receive(self, seconds: float, what: str) -> Message:
        until = min(time.monotonic() + seconds, self.deadline)
        next_check = time.monotonic() + _LOOK
        while not self.waiting:
            now = time.monotonic()
            if now >= until:
                raise _StoppedError(_late(what, seconds))
            self._look(min(until - now, _LOOK))
            if now >= next_check:
                self._check_scratch()
                next_check = now + _LOOK
        return self.waiting.popleft()

    def _look(self, seconds: float, *, wants: bool = True) -> bool:
        """Read what there is, waiting ``seconds`` at most; returns whether there was anything."""
        found = self.selector.select(seconds)
        for key, _ in found:
            if key.fd == self.channel.fileno():
                if wants:
                    self._take_in()
                elif seconds:
                    time.sleep(min(seconds, 0.001))
            elif key.fd == self.control.fileno():
                self.selector.unregister(self.control)
                self.ended = self._word(_END_SECONDS)
            else:
                self._drain(key.fd)
        if self.ended is not None and not any(key.fd == self.channel.fileno() for key, _ in found):
            raise _StoppedError(_fate(self.ended, self.limits))
        return bool(found)

    def _take_in(self) -> None:
        try:
            data = self.channel.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(self.channel)
            self._await_end()
        try:
            self.waiting += self.unpacker.feed(data)
        except GarbledError as error:
            raise _StoppedError(_garbled(str(error))) from error

    def _drain(self, fd: int) -> None:
        data = os.read(fd, 1 << 16)
        if not data:
            self.selector.unregister(fd)
        self.printed += len(data)
        self.output += data
        del self.output[:-_KEPT]

    def _await_end(self) -> None:
        """Tell why the program let go of its channel: it ended, or it closed that."""
        if self.ended is None:
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                self._look(0.05, wants=False)
            raise _StoppedError(Verdict("garbled", "it closed the scorer's channel", "that is not its own", "leave it open"))
        raise _StoppedError(_fate(self.ended, self.limits))

    def _check_scratch(self) -> None:
        if overfilled := self._overfilled():
            raise _StoppedError(overfilled)

    def _overfilled(self) -> Verdict | None:
        """Return the verdict on its folder where there is too much in it."""
        most, found = self.limits.files, look_into(self.scratch, self.limits.files)
        kind, next_step = "too many files", "write less"
        if found.hidden:
            return Verdict(kind, f"{found.hidden}, in its folder", f"{DEEPEST} within each other are enough", next_step)
        if found.entries > most:
            return Verdict(kind, f"more than {most} files in its folder", f"it may have {most}", next_step)
        if found.bytes > self.limits.folder_bytes:
            size, largest = (f"{number / 2**20:,.1f} MiB" for number in (found.bytes, self.limits.folder_bytes))
            return Verdict(kind, f"{size} in its folder", f"it may write {largest}", next_step)
        return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _notes(self) -> list[str]:
        if self.printed:
            self._note(f"it printed {self.printed:,} bytes")
        files = look_into(self.scratch, self.limits.files).files
        if files:
            self._note(f"it wrote {files} file{'s' * (files > 1)} in its scratch folder")
        left = (self.ended or {}).get("leftovers", 0)
        if left:
            self._note(f"{left} process{'es' * (left > 1)} it left behind were ended")
        return self.notes

    def _close(self) -> None:
        """End the process and read what is left of its output."""
        self.channel.close()
        if self.ended is None:
            with suppress(OSError):
                self.control.send(END)
            self.ended = self._word(_END_SECONDS)
        if not self.ended:
            self.runner.close()
        self.selector.close()
        for fd in self.streams:
            os.set_blocking(fd, False)
            with suppress(OSError):
                while data := os.read(fd, 1 << 16):
                    self.printed += len(data)
                    self.output += data
                    del self.output[:-_KEPT]
            os.close(fd)


def _longest_answer(windows: Sequence[Array], arguments: Sequence[int]) -> int:
    layers, experts = windows[0].shape if len(windows) else (1, 1)
    slots = arguments[0]
    return int(8 * layers * (slots + experts * (slots + 1)) + (1 << 16))


def _unpacked(head: dict[str, Any], body: bytes, what: str) -> Answer:
    """Return the arrays that a message holds; each size is checked against the bytes that came."""
    if "problem" in head:
        kind = "wrong shape" if head.get("wrong") == "wrong shape" else "wrong type"
        found, rule = f"{what}: {one_line(head['problem'])}", "the call returns three tensors of integers"
        raise _StoppedError(Verdict(kind, found, rule, "return phy2log, log2phy, logcnt"))
    described = head.get("arrays")
    arrays, start = [], 0
    for one in described if isinstance(described, list) and len(described) == 3 else []:
        dtype, shape = (one.get("dtype"), one.get("shape")) if isinstance(one, dict) else (None, None)
        if not isinstance(dtype, str) or dtype not in _DTYPES or not _is_shape(shape):
            break
        size = np.dtype(dtype).itemsize * math.prod(one["shape"])
        if start + size > len(body):
            break
        arrays.append(np.frombuffer(body[start : start + size], dtype).reshape(shape))
        start += size
    if len(arrays) != 3 or start != len(body):
        raise _StoppedError(
            Verdict("garbled", f"{what}: an answer of no size", "three arrays are sent whole", "return tensors")
        )
    return Answer(*arrays)


def _is_shape(shape: Any) -> bool:
    """Whether these are lengths that an array can have, empty ones with them."""
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        return False
    return bool(math.prod(max(n, 1) for n in shape) < _MOST_PLACES)


def _garbled(found: str) -> Verdict:
    return Verdict("garbled", found, "only the scorer speaks on its own channel", "leave file descriptors alone")


def _changed(window: int) -> Verdict:
    return Verdict(
        "changed later",
        f"window {window}: what was returned changed after the call",
        "an answer is final",
        "return tensors that nothing else writes to",
    )


def _late(what: str, seconds: float) -> Verdict:
    return Verdict(
        "timed out", f"{what} took longer than {seconds:g} s", "that is its limit", "make it faster, or raise the limit"
    )


def _failure(head: dict[str, Any], what: str, limits: Limits) -> Verdict:
    """Return the verdict on a program that says it failed."""
    if head["kind"] != "failed":
        return Verdict("garbled", f"{what}: a message {head['kind']!r:.40}", "messages come in turn", "leave the channel alone")
    kind, message, text, line = (head.get(name, "") for name in ("type", "message", "text", "line"))
    if not all(isinstance(each, str) for each in (kind, message, text)) or type(line) is not int:
        return _garbled(f"{what}: a message of another form")
    place = f"line {line}" if line else what
    if kind == "no function":
        return Verdict(
            kind, "it has no function rebalance_experts", "that is what is called", "define it, as DeepSeek's EPLB does"
        )
    if kind == "SyntaxError":
        return Verdict("syntax error", f"{place}, {text!r}: {message}", "a program must be Python", "mend that line")
    if kind == "ImportError":
        return Verdict(
            "import error", f"{place}: {message}", "only installed packages can be imported", "leave it out, or install it"
        )
    if kind == "MemoryError" or "can't allocate memory" in message:
        return _too_large(f"{what}: {message}", limits)
    if kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        return Verdict("exited", f"{what}: it raised {message}", "it must return an answer", "do not exit")
    where = what if what == "loading" else f"{what}, {place}" if line else what
    return Verdict("raised", f"{where}: {message}", "it must return an answer", "mend it, or try it on that window")


def _too_large(found: str, limits: Limits) -> Verdict:
    return Verdict("out of memory", found, f"it may take {limits.memory / 2**20:,.0f} MiB", "use less, or raise the limit")


def _fate(ended: dict[str, Any], limits: Limits) -> Verdict:
    """Return the verdict on a process that is no more."""
    if ended.get("processes"):
        return Verdict("too many processes", f"it started {ended['processes']}", "it may start none", "plan in one process")
    if ended.get("threads"):
        found, rule = f"it has {ended['threads']} threads", f"it may have {MOST_THREADS}"
        return Verdict("too many processes", found, rule, "plan in one thread")
    status = ended.get("status")
    if status is None:
        return Verdict(
            "killed", "the process it came from is gone too", "processes of others are not its own", "leave them alone"
        )
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGXCPU:
            return _late("the processor", limits.total_seconds)
        return Verdict("killed", f"its process ended by {name}", "it must return an answer", "mend what crashes it")
    code = os.WEXITSTATUS(status)
    if code == OUT_OF_MEMORY:
        return _too_large("it left no memory to go on", limits)
    return Verdict("exited", f"its process exited with {code}", "it must return an answer", "do not exit")


def transport_of(run: Run) -> Transport:
    """Return what messages take from a run of a program that does nothing, half as much again for safety."""
    if not run.timings:
        return Transport()
    done = max(0.0, *(timing.done - timing.own for timing in run.timings))
    answer = max(done, *(timing.answer - timing.own for timing in run.timings))
    return Transport(1.5 * done, 1.5 * answer)


def doubted(run: Run, transport: Transport) -> Run:
    """Return a run with the verdict on its clock, where that showed much less than ours in most calls."""
    doubtful = sum(timing.is_doubtful(transport) for timing in run.timings)
    if not run.verdict.is_accepted or 2 * doubtful <= len(run.timings):
        return run
    found = f"in {doubtful} of {len(run.timings)} calls its clock showed less than was seen from outside"
    return replace(run, verdict=Verdict("clock", found, "a program must not touch clocks; ours counts", "leave time alone"))
