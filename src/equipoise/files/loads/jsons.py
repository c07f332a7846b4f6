"""Read loads from JSON text as a stream, so that gigabytes of text never lie in memory as objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, first_line
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import without_dense
from equipoise.files.loads.nesting import check_nesting
from equipoise.files.loads.opening import Input

HISTORY = "load_history"
_KEYS = (HISTORY, "logical_count", "load")


def is_history(given: Input) -> bool:
    """JSON text whose first 4,096 bytes name ``load_history``."""
    return f'"{HISTORY}"'.encode() in given.head


def read(given: Input, hints: Hints, *, key: str = "") -> FoundLoad:
    """Read a 2-D or 3-D list, alone or under one of the keys known (or ``key`` alone), step by step."""
    import ijson

    with given.open() as file:
        check_nesting(file, given.name)
        file.seek(0)
        try:
            steps = _json_steps(file, given.name, (key,) if key else _KEYS)
            first = next(steps, None)
            if first is None:
                raise FileError(f"{given.name} holds no load", "it needs at least one layer", "record it again")
            load, remarks = without_dense(_stacked(first, steps, given.name), hints)
            return FoundLoad(load, hints.layer_ids, remarks=remarks)
        except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
            raise FileError(
                f"{given.name} is not valid JSON at {_json_position(file)} ({first_line(error)})",
                "loads must be finite numbers (JSON knows no NaN or Infinity) and the text complete",
                "mend that entry, or write the file again with json.dump(..., allow_nan=False)",
            ) from error


def _json_steps(file: BinaryIO, name: str, keys: Sequence[str]) -> Iterator[npt.NDArray[Any]]:
    """Yield each item of the outermost list of numbers: a step [layers, experts], or a layer [experts] of a 2-D list."""
    import ijson

    prefix, key = _json_place(file, name, keys)
    file.seek(0)
    for number, item in enumerate(ijson.items(file, prefix, use_float=True)):
        place = f"{name}, entry {number}"
        if key is not None:
            if not isinstance(item, dict) or key not in item:
                raise FileError(f"{place} has no {key}", f"each entry of load_history needs {key}", "mend that entry")
            item = item[key]
        yield _json_numbers(item, place)


def _json_place(file: BinaryIO, name: str, keys: Sequence[str]) -> tuple[str, str | None]:
    """Where the numbers stand: the ijson prefix of the list's items, and the key within each item."""
    import ijson

    for prefix, event, value in ijson.parse(file, use_float=True):
        if prefix == "" and event == "start_array" and keys == _KEYS:
            return "item", None
        if prefix == "" and event == "map_key" and value in keys:
            return f"{value}.item", "logical_expert_load" if value == HISTORY else None
    raise FileError(
        f"{name} is a JSON object without {' or '.join(keys)}",
        "one of these keys must hold the numbers, or the file must be a 2-D or 3-D list",
        "rename the key",
    )


def _json_position(file: BinaryIO) -> str:
    """Say which entry a parser stumbles over, by counting those before it."""
    import ijson

    file.seek(0)
    position: list[int] = []
    with suppress(ijson.JSONError, UnicodeDecodeError):
        for prefix, event, _ in ijson.parse(file, use_float=True):
            depth = prefix.split(".").count("item")
            if prefix.endswith("item") and event in ("start_array", "start_map", "number", "string", "boolean", "null"):
                position[depth - 1 :] = [position[depth - 1] + 1]
            if event == "start_array":
                position.append(-1)
            elif event == "end_array":
                position = position[:depth]
    if position:
        position[-1] += 1
    names = ("step", "layer", "expert")[max(0, 3 - len(position)) :]
    return ", ".join(f"{name} {index}" for name, index in zip(names, position, strict=False)) or "its start"


def _json_numbers(item: object, place: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(item)
    except (ValueError, OverflowError):
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise FileError(
            f"{place} is not a list of numbers", "rows must hold numbers only and have equal length", "mend that entry"
        )
    return array


def _stacked(first: npt.NDArray[Any], rest: Iterable[npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """Stack equal shapes into one growing buffer: at most half as much again as the result in memory."""
    buffer = first[np.newaxis].copy()
    filled = 1
    for array in rest:
        if array.shape != first.shape:
            raise FileError(
                f"{name}, entry {filled} has shape {list(array.shape)}",
                f"all must have the shape of the first, {list(first.shape)}",
                "mend that entry",
            )
        if filled == len(buffer) or (array.dtype.kind == "f") > (buffer.dtype.kind == "f"):
            dtype = np.promote_types(buffer.dtype, array.dtype)
            grown = np.empty((max(len(buffer), filled + filled // 2 + 1), *first.shape), dtype)
            grown[:filled] = buffer[:filled]
            buffer = grown
        buffer[filled] = array
        filled += 1
    return buffer[:filled]
