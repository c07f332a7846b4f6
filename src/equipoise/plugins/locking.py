"""One process compiles, the others load: a lock between processes beside the cache of kernels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "equipoise.lock"
_LONGEST, _PAUSE = 600.0, 0.02


@contextmanager
def one_compiles(folder: Path | None) -> Iterator[None]:
    """Let the process that comes first go on alone, and those that had to wait for it then go on together.

    Without a folder, or on a file system without locks, nobody waits; for one that hangs, ten minutes at most.
    """
    handle = None if folder is None else _open(folder / LOCK)
    if handle is None:
        yield
        return
    try:
        _wait_for_turn(handle)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None


def _wait_for_turn(handle: int) -> None:
    """Take the lock alone where nobody has it; else share it once the one that has it alone lets go."""
    try:
        import fcntl
    except ImportError:
        return
    last, kind = time.monotonic() + _LONGEST, fcntl.LOCK_EX
    while time.monotonic() < last:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            kind = fcntl.LOCK_SH
            time.sleep(_PAUSE)
        except OSError:
            return
