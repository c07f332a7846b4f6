"""Read tables of text: a row for every step, layer and expert, or a plain matrix."""

from __future__ import annotations

import warnings
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, first_line
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read rows ``layer,expert,load`` (``step`` too if there are several), or a plain matrix, a row a layer."""
    with given.path.open(encoding="utf-8-sig") as text:
        return _read(text, given.name, hints)


def _read(text: TextIO, name: str, hints: Hints) -> FoundLoad:
    try:
        header = _csv_header(text)
        if header is None:
            return FoundLoad(_whole_numbers(_table(text, np.dtype(np.float64), 2)), hints.layer_ids)
        return _from_long_rows(text, header, name)
    except UnicodeDecodeError as error:
        raise FileError(f"{name} is not text", "a .csv is text in UTF-8", "convert it") from error
    except UserWarning as error:
        raise FileError(f"{name} holds no rows of numbers", "a load has at least one layer", "record it again") from error
    except ValueError as error:
        raise FileError(
            f"{name} is not a table of numbers ({first_line(error)})",
            "a .csv holds a header layer,expert,load (step too, if there are several) or a plain matrix [layers, experts]",
            "mend that line",
        ) from error


def _table(text: TextIO, dtype: np.dtype[Any], ndmin: Literal[1, 2]) -> npt.NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns where there is no row at all
        return np.loadtxt(text, dtype=dtype, delimiter=",", ndmin=ndmin)


def _csv_header(text: TextIO) -> list[str] | None:
    """Return the column names if the first line has them, else None and the text back at its start."""
    names = [column.strip().strip('"').lower() for column in text.readline().split(",")]
    if any(column and column[0].isalpha() and column not in ("nan", "inf", "infinity") for column in names):
        return names
    text.seek(0)
    return None


def _from_long_rows(text: TextIO, header: list[str], name: str) -> FoundLoad:
    columns = ["step", "layer", "expert"] if "step" in header else ["layer", "expert"]
    if not {"step", "layer", "expert", "load"} & set(header):
        raise FileError(
            f"{name} is no load file: its text begins with neither a header of a load nor numbers",
            "a .csv holds a header layer,expert,load (step too, if there are several) or a plain matrix [layers, experts]",
            "name the file that was recorded",
        )
    if sorted(header) != sorted([*columns, "load"]):
        raise FileError(
            f"{name} has the columns {_shown(header)}",
            "they must be layer, expert, load, and step if there are several steps",
            "rename the columns or drop the others",
        )
    rows = _table(text, np.dtype([(column, np.float64 if column == "load" else np.int32) for column in header]), 1)
    for column in columns:
        if rows[column].min() < 0:
            raise FileError(f"{name} has {column} {rows[column].min()}", "they count from 0", "mend that row")
    return _scattered(rows, columns, name)


def _shown(header: list[str]) -> str:
    return ", ".join(column[:20] for column in header[:8]) + (", ..." if len(header) > 8 else "")


def _scattered(rows: npt.NDArray[Any], columns: list[str], name: str) -> FoundLoad:
    """Place each row's load at its (step, layer, expert); every cell must come exactly once."""
    names = [np.unique(rows[column]) for column in columns]
    shape = tuple(len(values) for values in names)
    cell = np.zeros(len(rows), np.int64)
    for column, values in zip(columns, names, strict=True):
        cell *= len(values)
        cell += np.searchsorted(values, rows[column])
    if len(rows) != np.prod(shape) or (np.bincount(cell, minlength=len(rows)) != 1).any():
        raise _not_once(cell, columns, names, name)
    if not np.array_equal(names[-1], np.arange(shape[-1])):
        raise FileError(
            f"{name} skips expert {int(np.setdiff1d(np.arange(shape[-1]), names[-1])[0])}",
            "experts must be numbered 0, 1, 2, ... without gaps",
            "add rows with load 0",
        )
    filled = np.empty(len(rows), np.float64)
    filled[cell] = rows["load"]
    return FoundLoad(_whole_numbers(filled.reshape(shape)), tuple(int(layer) for layer in names[-2]))


def _not_once(cell: npt.NDArray[np.int64], columns: list[str], names: list[npt.NDArray[Any]], name: str) -> FileError:
    """Name the first cell that has no row, or else the first that has several."""
    found, times = np.unique(cell, return_counts=True)
    gaps = np.flatnonzero(found != np.arange(len(found)))
    full = len(found) == np.prod([len(values) for values in names])
    wrong = int(found[np.argmax(times > 1)]) if full else int(gaps[0]) if len(gaps) else len(found)
    count = int(times[np.argmax(times > 1)]) if full else 0
    place = np.unravel_index(wrong, [len(values) for values in names])
    where = ", ".join(f"{column} {values[i]}" for column, values, i in zip(columns, names, place, strict=True))
    return FileError(
        f"{name} has {count} rows for {where}", "each needs exactly one", "add a row (load 0 counts) or drop copies"
    )


def _whole_numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Text does not tell 3 tokens from 3.0: counts become int64 where all of them are whole."""
    if np.isfinite(values).all() and (np.abs(values) < 2**53).all() and (values == np.floor(values)).all():
        return values.astype(np.int64)
    return values
