"""A process for each rival: its imports, its environment and its crashes stay its own; one thread each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.peers.rivals import Ints, Rival
from benchmarks.peers.shapes import Shape

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class Reply:
    """A placement and the seconds it took, or why there is none."""

    seconds: float = 0.0
    expert_of_slot: npt.NDArray[np.int64] | None = None
    refused: str = ""


@dataclass(frozen=True)
class Setting:
    """What a rival's process needs to know."""

    rival: Rival
    folder: Path | None = None
    extra_path: Path | None = None
    compile_cache: Path | None = None


class Worker:
    """Runs a rival in a process of its own, started when first asked.

    Parameters
    ----------
    setting : Setting
        What to run.
    limit_s : float
        Seconds a call may take; then the process is ended and the call counts as refused.
    """

    def __init__(self, setting: Setting, limit_s: float = 60.0) -> None:
        self.setting = setting
        self.limit_s = limit_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def plan(self, load: Ints, shape: Shape, previous: Ints) -> Reply:
        """Plan one load; a crash or an exception comes back as a refusal."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((load, shape, previous))
            if not self._pipe.poll(self.limit_s):
                self.close()
                return Reply(refused=f"over {self.limit_s:.0f} s a call")
            reply: Reply = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            return Reply(refused="its process died")
        return reply

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=serve, args=(self.setting, far_end), daemon=True)
        self._process.start()
        far_end.close()


def serve(setting: Setting, pipe: Connection) -> None:
    """Answer plan requests until the pipe closes; runs in the rival's process."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    if setting.rival.needs_bounds_checks:
        _check_bounds(setting)
    if setting.extra_path is not None:
        sys.path.append(str(setting.extra_path))
    if setting.rival.distribution is not None:
        import torch

        torch.set_num_threads(1)
    try:
        caller, failure = setting.rival.make(setting.folder), ""
    except Exception as error:
        caller, failure = None, _in_words(error)
    while True:
        try:
            load, shape, previous = pipe.recv()
        except EOFError:
            return
        if caller is None:
            pipe.send(Reply(refused=failure))
            continue
        try:
            call, to_table = caller(load, shape, previous)
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
            reply = Reply(seconds, np.array(to_table(result), np.int64))
        except Exception as error:
            reply = Reply(refused=_in_words(error))
        pipe.send(reply)


def _check_bounds(setting: Setting) -> None:
    """Let numba check every index; what it compiled without must not be loaded."""
    if "numba" in sys.modules:
        raise RuntimeError("numba was imported before bounds checks were asked for")
    os.environ["NUMBA_BOUNDSCHECK"] = "1"
    if setting.compile_cache is not None:
        os.environ["NUMBA_CACHE_DIR"] = str(setting.compile_cache)


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
