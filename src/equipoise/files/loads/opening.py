"""Open what a caller names, file, folder or stream, and say what it is made of, before any format is tried."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

from equipoise.errors import FileError, unreadable
from equipoise.files.loads import torch_files
from equipoise.files.loads.damage import naming_damage

Kind = Literal["directory", "npy", "npz", "torch", "json", "safetensors", "pickle", "binary", "text"]

IN_WORDS: dict[Kind, str] = {
    "directory": "a folder",
    "npy": "an .npy file",
    "npz": "an .npz file",
    "torch": "a torch file",
    "json": "JSON text",
    "safetensors": "a safetensors file",
    "pickle": "a pickle",
    "binary": "binary of an unknown kind",
    "text": "text",
}

_HEAD = 4096
_LONGEST_LINE = 2**26
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class Input:
    """A file or folder that formats are tried on.

    ``path`` can always be opened (a stream was written to a temporary file); ``name`` is what messages call it; ``kind`` is
    what it is made of, by content; ``head`` its first 4,096 bytes (none of a folder). What formats look at is read once.
    """

    path: Path
    name: str
    kind: Kind
    head: bytes = b""

    def open(self) -> BinaryIO:
        """Open the file anew, at its start."""
        return self.path.open("rb")

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the files in a folder, sorted; none for a file."""
        return tuple(sorted(entry.name for entry in self.path.iterdir() if entry.is_file())) if self.kind == "directory" else ()

    @cached_property
    def parts(self) -> tuple[Input, ...]:
        """The files of a folder, looked at, but for empty ones; a file alone is its only part."""
        if self.kind != "directory":
            return (self,)
        paths = [self.path / file for file in self.files]
        return tuple(look_at(path) for path in paths if path.stat().st_size)

    @cached_property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays in an ``.npz``, in its order; none for other files."""
        if self.kind != "npz":
            return ()
        with naming_damage(self.name), zipfile.ZipFile(self.path) as archive:
            return tuple(member.removesuffix(".npy") for member in archive.namelist())

    @cached_property
    def first_record(self) -> dict[str, Any]:
        """The first line of JSON text where it is an object by itself, as in JSON Lines; else empty."""
        if self.kind != "json":
            return {}
        with self.open() as file:
            line = file.readline(_LONGEST_LINE)
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            return found if isinstance(found, dict) else {}
        return {}

    @cached_property
    def torch_object(self) -> Any:
        """What a torch file holds, loaded with ``weights_only=True`` and mapped, not read; None for other files."""
        return torch_files.load(self.path, self.name) if self.kind == "torch" else None


@contextmanager
def opened(path: str | os.PathLike[str] | BinaryIO) -> Iterator[Input]:
    """Open a path, ``-`` (standard input) or a binary stream; streams are spooled to disk, not to memory.

    Raises
    ------
    FileError
        When it cannot be read or is empty.
    """
    if not isinstance(path, (str, os.PathLike)):
        with _spooled(path, str(getattr(path, "name", "the stream"))) as found:
            yield found
    elif str(path) == "-":
        with _spooled(sys.stdin.buffer, "standard input") as found:
            yield found
    else:
        yield look_at(Path(path))


def look_at(path: Path, name: str | None = None) -> Input:
    """Say what a file or folder is made of."""
    name = name or str(path)
    try:
        if path.is_dir():
            return Input(path, name, "directory")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise unreadable(name, error) from error
    if not head.strip() and path.stat().st_size <= _HEAD:
        raise FileError(f"{name} is empty", "a load file holds at least one layer", "record it again")
    return Input(path, name, _kind_of(path, head, name), head)


def _kind_of(path: Path, head: bytes, name: str) -> Kind:
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK"):
        with naming_damage(name), zipfile.ZipFile(path) as archive:
            return "torch" if any(member.endswith("data.pkl") for member in archive.namelist()) else "npz"
    if head.startswith(b"\x80"):
        return "torch" if head.startswith(_LEGACY_TORCH) else "pickle"
    if head[8:9] == b"{" and b"\x00" in head[:8]:
        return "safetensors"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return "json"
    return "binary" if b"\x00" in head else "text"


@contextmanager
def _spooled(stream: BinaryIO, name: str) -> Iterator[Input]:
    handle, path = tempfile.mkstemp(prefix="equipoise-")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(stream, file)
        yield look_at(Path(path), name)
    finally:
        Path(path).unlink()
