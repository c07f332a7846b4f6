"""The process that programs are forked from: it has imported what they need, and ends all that they leave behind.

Started with an empty environment and one socket; it never sees a trace, a path of one, or a program's code run. Each
program gets a fork of its own, one at a time. Of every descendant it is the last parent (a subreaper), so that none survives
its program, not even those that went to the background in a session of their own.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from equipoise.scoring import confining
from equipoise.scoring.calling import Caller
from equipoise.scoring.scratch import remove_tree

_MESSAGE = 1 << 12
_LOOK = 0.05
"""Seconds between looks at how many threads a program has, and processes where it could start any."""

_MOST_PROCESSES = 16

MOST_THREADS = 64
"""Threads that a program may have, those of the libraries with them."""

END = b"end"
"""What tells it to end the program."""

OUT_OF_MEMORY = 71
"""How a program's process exits when there is no memory left to say so."""


def main(control_fd: int) -> None:
    """Serve programs over the control socket until it is closed: each message is the path of an order, with three sockets."""
    confining.adopt_orphans()
    _try_out_torch()
    folder = None
    with socket.socket(fileno=control_fd) as control:
        while True:
            data, fds, _, _ = socket.recv_fds(control, _MESSAGE, 3)
            if not data:
                break
            if data != END:  # that came too late: the program had ended by itself
                folder = Path(os.fsdecode(data)).parent
                _serve(control, json.loads(Path(os.fsdecode(data)).read_text()), fds)
    if folder is not None:  # the scorer removes it itself, unless it was killed
        with suppress(OSError):
            remove_tree(folder)


def _try_out_torch() -> None:
    """Let torch look at the processor before programs may not: what it learns once is no part of their time."""
    with suppress(ImportError):
        import torch

        (torch.arange(64.0).reshape(2, 32) / 2).sort(dim=-1)


def warm_up() -> None:
    """Load our own planners and their kernels, so that programs that call them find these in memory."""
    from equipoise.planning import comparing, warming

    assert comparing
    warming.warm_up()


def _serve(control: socket.socket, order: dict[str, Any], fds: list[int]) -> None:
    if order.get("warm_up"):
        warm_up()
    gc.collect()
    gc.freeze()
    child = os.fork()
    if child == 0:
        _become(order, fds, control)
    for fd in fds:
        os.close(fd)
    _tell(control, {"pid": child})
    may_fork = not order["confined"] or "seccomp" in order["without"] or not confining.can_filter_calls()
    processes, threads = _watch(control, child, may_fork=may_fork)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    leftovers = end_descendants()
    ended = {
        "status": status,
        "peak": usage.ru_maxrss * 1024,
        "leftovers": leftovers,
        "processes": processes,
        "threads": threads,
    }
    _tell(control, ended)


def _tell(control: socket.socket, word: dict[str, Any]) -> None:
    with suppress(OSError):  # the scorer may be gone; then there is nobody to tell, and still all to end
        control.send(json.dumps(word).encode())


def _become(order: dict[str, Any], fds: list[int], control: socket.socket) -> None:
    """Turn a fork into the program's process; never returns."""
    code = 0
    try:
        os.setsid()
        confining.die_with_parent()
        channel, stdout, stderr = fds
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (stdout, 1), (stderr, 2)):
            os.dup2(fd, target)
        kept = os.dup2(channel, 3) if channel != 3 else 3
        os.closerange(4, 4096)
        control.detach()
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = [order["name"]]
        os.chdir(order["scratch"])
        sys.stdout = _lines_to(1)
        sys.stderr = _lines_to(2)
        connection = socket.socket(fileno=kept)
        confining.limit(memory=order["memory"], file_bytes=order["file_bytes"], cpu_seconds=order["cpu_seconds"])
        notes = _confine(order) if order["confined"] else []
        Caller(connection, order["file"]).serve(notes)
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        os._exit(code)


def _lines_to(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _confine(order: dict[str, Any]) -> list[str]:
    return confining.confine(order["readable"], order["listable"], order["scratch"], order["without"])


def _watch(control: socket.socket, child: int, *, may_fork: bool) -> tuple[int, int]:
    """Wait for the program to end or for the word to end it; return its processes and its threads where they were too many."""
    pidfd = os.pidfd_open(child)
    try:
        while True:
            readable, _, _ = select.select([control.fileno(), pidfd], [], [], _LOOK)
            if pidfd in readable:
                return 0, 0
            if control.fileno() in readable:
                control.recv(_MESSAGE)
                return 0, 0
            if may_fork and (count := len(_descendants())) > _MOST_PROCESSES:
                return count, 0
            if (count := _num_threads(child)) > MOST_THREADS:
                return 0, count
    finally:
        os.close(pidfd)


def _num_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - 20 times a second beside a program that is timed
    except OSError:
        return 0


def end_descendants() -> int:
    """Kill every descendant of this process until none is left; return how many there were."""
    ended = 0
    while True:
        for pid in _descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        ended += pid > 0
        if not pid:
            time.sleep(0.001)


def _descendants() -> list[int]:
    children = _children_of_all()
    found: list[int] = []
    waiting = children.get(os.getpid(), [])
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting = waiting + children.get(pid, [])
    return found


def _children_of_all() -> dict[int, list[int]]:
    """List the children of every process that can be seen."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    return children
