"""What a file holds, taken apart once for every format: text, JSON, JSON lines, arrays, tensors; nothing is ever unpickled."""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from equipoise.errors import EquipoiseError, FileError, MissingExtraError, first_line, unreadable
from equipoise.files.pickles import asks_for_long_name

LARGEST_FILE = 2**26
"""Bytes of any file."""

LARGEST_TEXT = 2**24
"""Bytes of text; 100 layers of 10,000 slots take half of it, and whatever it holds fits in memory as objects."""

LARGEST_ARRAYS = 2**28
"""Bytes that arrays may take once unpacked."""


class Content:
    """The bytes of one file, with its name for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Content:
        """Read a whole file, or standard input for ``-``; refuse one that is empty, or too large to be a placement."""
        try:
            with _opened(path) as file:
                data = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise unreadable(path, error) from error
        content = cls(data, "standard input" if str(path) == "-" else str(path))
        if not data.strip():
            raise content.foreign("it is empty")
        if len(data) > LARGEST_FILE:
            raise content.foreign(f"it is larger than {LARGEST_FILE >> 20} MiB")
        return content

    @property
    def is_zip(self) -> bool:
        """Whether it is an archive: of numpy's or of torch's."""
        return self.data.startswith(b"PK")

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Names in the archive; none where it is not one."""
        if not self.is_zip:
            return ()
        with self.damage_named():
            return tuple(zipfile.ZipFile(io.BytesIO(self.data)).namelist())

    @property
    def is_torch(self) -> bool:
        """Whether torch wrote it, now or before its version 1.6, which is told by the file's ending."""
        is_old = self.data.startswith(b"\x80") and self.name.endswith((".pt", ".pth"))
        return is_old or any(member.endswith("data.pkl") for member in self.members)

    @cached_property
    def text(self) -> str:
        """The whole file as text."""
        if self.is_zip or self.data.startswith(b"\x80") or b"\x00" in self.data[:4096]:
            raise self.foreign("it is binary of an unknown kind")
        if len(self.data) > LARGEST_TEXT:
            raise self.foreign(f"its text is larger than {LARGEST_TEXT >> 20} MiB")
        with self.damage_named():
            return self.data.decode("utf-8-sig")

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """The JSON values of the file: one, or one a line."""
        with self.damage_named():
            try:
                return (_loads(self.text),)
            except json.JSONDecodeError as error:
                if not error.msg.startswith("Extra data"):
                    raise
            return tuple(_loads(line) for line in self.text.splitlines() if line.strip())

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of the one object that the file holds, JSON or torch's; none where it holds something else."""
        if self.is_torch:
            return frozenset(key for key in self.tensors if isinstance(key, str))
        if self.is_zip or self.text.lstrip()[:1] not in ("{", "["):
            return frozenset()
        return frozenset(self.values[0]) if len(self.values) == 1 and isinstance(self.values[0], dict) else frozenset()

    @property
    def single(self) -> dict[str, Any]:
        """The one JSON object that the file holds."""
        if len(self.values) != 1 or not isinstance(self.values[0], dict):
            raise self.foreign("it must be one JSON object")
        return self.values[0]

    @cached_property
    def tensors(self) -> dict[Any, Any]:
        """The dict that a torch file holds, loaded without running any code."""
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError(
                f"{self.name} is a torch file", "reading it needs torch", "pip install 'equipoise[torch]', or save it as JSON"
            ) from error
        self._check_unpacked()
        try:
            if asks_for_long_name(io.BytesIO(self.data)):
                raise ValueError("it asks for code")
            found = torch.load(io.BytesIO(self.data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch raises on a file it refuses, down to KeyError and RuntimeError
            raise FileError(
                f"{self.name} cannot be loaded as plain tensors ({first_line(error)})",
                "a .pt file may hold tensors, numbers and containers only; other pickles are never loaded",
                "save the tensors alone with torch.save",
            ) from error
        return found if isinstance(found, dict) else {}

    def tensor(self, key: str) -> npt.NDArray[Any]:
        """Return one tensor (or list) of a torch file as an array."""
        value = self.tensors[key]
        if isinstance(value, list):
            return self.rows(value, key)
        with self.damage_named():
            if value.numel() * 8 > LARGEST_ARRAYS:
                raise self.foreign(f"{key} is larger than {LARGEST_ARRAYS >> 20} MiB")
            return np.asarray(value.detach().to_dense().numpy())

    def arrays(self, *keys: str) -> tuple[npt.NDArray[Any], ...]:
        """Return arrays of a ``.npz`` by name; a header that claims more than the archive holds is refused unread."""
        self._check_unpacked()
        missing = [key for key in keys if f"{key}.npy" not in self.members]
        if missing:
            raise self.foreign(f"it has no array {missing[0]}")
        with self.damage_named(), zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            return tuple(_array(archive.read(f"{key}.npy")) for key in keys)

    def rows(self, rows: object, what: str, names: Callable[[int], str] = "layer {}".format) -> npt.NDArray[np.int64]:
        """Return lists of whole numbers, all of one length, as int64 [layers, slots]."""
        if not isinstance(rows, list) or not rows:
            raise self.foreign(f"{what} must be a list of layers")
        for layer, row in enumerate(rows):
            self._check_row(row, len(rows[0]) if isinstance(rows[0], list) else 0, f"{what}, {names(layer)}", names(0))
        return np.asarray(rows, np.int64)

    def number(self, value: object, what: str) -> int:
        """Return a whole number >= 0; a bool or a float is none."""
        if type(value) is not int or not 0 <= value < 2**31:
            raise self.foreign(f"{what} is {shown(value)}, not a whole number >= 0")
        return value

    def foreign(self, cause: str) -> FileError:
        """Return what to raise where the file is not what it was taken for; the cause, which may quote it, on one line."""
        return FileError(
            f"{self.name} is not a placement file ({' '.join(cause.split())[:300]})",
            "it must be whole, in a format of docs/placement-files.md",
            "write it again, or name another file",
        )

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Say of any failure within that this is no placement; numpy, zipfile and json raise a dozen kinds on bad bytes."""
        try:
            yield
        except EquipoiseError:
            raise
        except Exception as error:
            raise self.foreign(first_line(error)) from error

    def _check_row(self, row: object, length: int, place: str, first: str) -> None:
        if not isinstance(row, list) or not row:
            raise self.foreign(f"{place} is {shown(row)}, not a list of experts")
        if len(row) != length:
            raise self.foreign(f"{place} has {len(row)} slots, {first} has {length}")
        for slot, expert in enumerate(row):
            if type(expert) is not int or not -1 <= expert < 2**31:
                raise self.foreign(f"{place}, slot {slot} holds {shown(expert)}, not an expert's number")

    def _check_unpacked(self) -> None:
        if not self.is_zip:
            return
        with self.damage_named():
            size = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(self.data)).infolist())
        if size > LARGEST_ARRAYS:
            raise self.foreign(f"its arrays are larger than {LARGEST_ARRAYS >> 20} MiB")


def _opened(path: str | PathLike[str]) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb")


def shown(value: object) -> str:
    """Show a value of a file, cut short: it may be anything."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {shown(name)} stands twice")
        found[name] = value
    return found


def _array(data: bytes) -> npt.NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds a pickle, which can run any code and is never loaded")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of shape {list(shape)} has {len(data) - file.tell()} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
