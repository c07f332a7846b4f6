"""What a program may use."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.checks import check_integer, check_number
from equipoise.errors import ArgumentError

LEAST_MEMORY = 64 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on one program.

    Parameters
    ----------
    call_seconds, load_seconds, total_seconds : float
        For one call, for loading the program, and for all of it, > 0.
    memory : int
        Bytes of address space beyond what Python, numpy and torch hold, >= 64 MiB: with less they cannot go on themselves.
    file_bytes, folder_bytes, files : int
        Bytes of any one file, bytes of all in the scratch folder, and how many these are.

    Examples
    --------
    >>> Limits(memory=1 << 20)
    Traceback (most recent call last):
    equipoise.errors.ArgumentError: memory is 1 MiB: a program needs 64 MiB or more beside what torch holds; raise it
    """

    call_seconds: float = 10.0
    load_seconds: float = 20.0
    total_seconds: float = 600.0
    memory: int = 2 << 30
    file_bytes: int = 16 << 20
    folder_bytes: int = 64 << 20
    files: int = 256

    def __post_init__(self) -> None:
        for name in ("call_seconds", "load_seconds", "total_seconds"):
            check_number(name, getattr(self, name), above=0.0)
        for name in ("memory", "file_bytes", "folder_bytes", "files"):
            check_integer(name, getattr(self, name))
        if self.memory < LEAST_MEMORY:
            found, least = f"memory is {self.memory / 2**20:,.0f} MiB", f"{LEAST_MEMORY / 2**20:.0f} MiB"
            raise ArgumentError(found, f"a program needs {least} or more beside what torch holds", "raise it")
