"""Which files a program may read: Python, its packages and the system's libraries, without any load to be scored on."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
)
_DEVICES = ("/dev/urandom", "/dev/zero", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")


def reachable_paths(hidden: Iterable[str | os.PathLike[str]] = ()) -> tuple[list[str], list[str]]:
    """Return paths whose files may be read, and folders that may only be listed, since something in them is hidden.

    The loads that ship with this package are always hidden.
    """
    secrets = [Path(path).resolve() for path in (_PACKAGE / "data", *hidden)]
    named = [Path(path) for path in (*_python(), str(_PACKAGE), *_SYSTEM, *_DEVICES)]
    roots = {path.resolve() for path in named if path.exists()}
    outermost = [root for root in sorted(roots) if not any(root != other and root.is_relative_to(other) for other in roots)]
    readable: list[str] = []
    listable: list[str] = []
    for root in outermost:
        _take(root, secrets, readable, listable)
    return readable, listable


def _python() -> list[str]:
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    return [prefix for prefix in prefixes if prefix not in ("/", "/usr")] + [
        path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]


def _take(path: Path, secrets: Sequence[Path], readable: list[str], listable: list[str]) -> None:
    inside = [secret for secret in secrets if secret.is_relative_to(path)]
    if path in inside:
        return
    if not inside:
        readable.append(str(path))
        return
    listable.append(str(path))
    for child in sorted(path.iterdir()):
        if not child.is_symlink():
            _take(child, inside, readable, listable)
