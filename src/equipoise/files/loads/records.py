"""JSON Lines as engines and our recorder write them: one record a line, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, first_line

_LONGEST_LINE = 2**25


class Record(NamedTuple):
    """One line: the object it holds, and file and line for messages."""

    fields: dict[str, Any]
    place: str


class Steps:
    """Loads [layers, experts] of one shape, gathered one by one into an array at most half as large again."""

    def __init__(self) -> None:
        self._buffer: npt.NDArray[Any] | None = None
        self._filled = 0

    def add(self, load: npt.NDArray[Any], place: str) -> None:
        """Take in one more.

        Raises
        ------
        FileError
            When its shape is not that of those before.
        """
        if self._buffer is None:
            self._buffer = np.empty((1, *load.shape), load.dtype)
        if load.shape != self._buffer.shape[1:]:
            raise FileError(
                f"{place} has a load of {list(load.shape)} [layers, experts]",
                f"all lines must have the {list(self._buffer.shape[1:])} of those before",
                "keep one model a file",
            )
        dtype = np.promote_types(self._buffer.dtype, load.dtype)
        if self._filled == len(self._buffer) or dtype != self._buffer.dtype:
            grown = np.empty((self._filled + self._filled // 2 + 1, *load.shape), dtype)
            grown[: self._filled] = self._buffer[: self._filled]
            self._buffer = grown
        self._buffer[self._filled] = load
        self._filled += 1

    @property
    def num_experts(self) -> int:
        """Experts of the loads taken in so far; 0 where there are none."""
        return 0 if self._buffer is None else int(self._buffer.shape[2])

    def widen(self, num_experts: int) -> None:
        """Give those taken in so far as many experts at least; the new ones have no load."""
        if self._buffer is not None and num_experts > self._buffer.shape[2]:
            wider = np.zeros((*self._buffer.shape[:2], num_experts), self._buffer.dtype)
            wider[: self._filled, :, : self._buffer.shape[2]] = self._buffer[: self._filled]
            self._buffer = wider

    def __len__(self) -> int:
        """Count the loads taken in so far."""
        return self._filled

    def stacked(self) -> npt.NDArray[Any]:
        """Return all of them: [steps, layers, experts]."""
        if self._buffer is None:
            return np.empty((0, 0, 0), np.int64)
        return self._buffer[: self._filled]


def read_records(file: BinaryIO, name: str) -> Iterator[Record]:
    """Yield each line's object; blank lines are passed over.

    Raises
    ------
    FileError
        On a line that is no JSON object, is cut short, or is longer than 32 MiB.
    """
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        place = f"{name}, line {number}"
        if len(line) > _LONGEST_LINE:
            raise FileError(f"{place} is longer than {_LONGEST_LINE} bytes", "a line holds one record", "record it again")
        if line.strip():
            yield Record(_parsed(line, place), place)


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        is_cut = not line.endswith(b"\n")
        raise FileError(
            f"{place} {'is cut short' if is_cut else 'is not valid JSON'} ({first_line(error)})",
            "each line holds one JSON object",
            "drop that line" if is_cut else "mend or drop that line",
        ) from error
    if not isinstance(record, dict):
        raise FileError(f"{place} holds a {type(record).__name__}", "each line holds one JSON object", "drop that line")
    return record


def check_version(record: Record) -> None:
    """Refuse a version other than 1."""
    version = record.fields.get("version", 1)
    if version != 1 or isinstance(version, bool):
        raise FileError(f"{record.place} is of version {_short(version)}", "equipoise knows version 1", "upgrade equipoise")


def whole_number(record: Record, key: str, least: int = 0) -> int | None:
    """Return a whole number of a record, None where it has none."""
    value = record.fields.get(key)
    if value is None:
        return None
    if type(value) is not int or not least <= value < 2**63:
        raise FileError(
            f"{record.place} has {key} {_short(value)}", f"it must be a whole number >= {least}", "mend or drop that line"
        )
    return value


def matrix(record: Record, key: str, *, whole: bool = False) -> npt.NDArray[Any]:
    """Return a table of a record, [rows, columns], none of them 0: int64, or float64 where it has floats.

    Types are looked at first, as numpy would take strings and nested lists, and memory out of all proportion for them.
    """
    rows = record.fields.get(key)
    lists = isinstance(rows, list) and bool(rows) and all(type(row) is list and row for row in rows)
    kinds: set[type] = set().union(*(map(type, row) for row in rows)) if lists and rows else set()
    if not kinds or kinds - ({int} if whole else {int, float}) or len({len(row) for row in rows or ()}) != 1:
        raise FileError(
            f"{record.place} has no table of {'whole ' if whole else ''}numbers under {key}",
            "it must be a list of layers, each a list of as many numbers",
            "mend or drop that line",
        )
    try:
        return np.array(rows, np.float64 if float in kinds else np.int64)
    except OverflowError as error:
        raise FileError(
            f"{record.place} has a number under {key} of more than 64 bits", "it must fit", "mend or drop that line"
        ) from error


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, float, bool)) else type(value).__name__
    if type(value) is int:
        text = str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 40 else f"{text[:40]}..."
