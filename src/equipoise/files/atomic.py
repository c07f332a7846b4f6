"""Whole files or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from equipoise.errors import FileError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; on success it takes the name, on any failure it goes away.

    Raises
    ------
    FileError
        When the folder does not exist or cannot be written, or the name is a folder's.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _cannot_write(target, error, "its folder must exist and be writable", "create it first") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        _take_name(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _take_name(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error, "it must be a file or a free name", "choose another name") from error


def _cannot_write(target: Path, error: OSError, rule: str, next_step: str) -> FileError:
    return FileError(f"{target} cannot be written ({error.strerror})", rule, next_step)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
