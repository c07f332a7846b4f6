"""What equipoise's own plug-ins record: JSON Lines, one line a rebalance, in one file or a folder of rotated ones.

The first line of each file is ``equipoise_record_meta``, the others are ``equipoise_record``. Of a recording ``NAME.jsonl``
the newest lines are in that file, older ones in ``NAME.jsonl.1``, the oldest in the file of the highest number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import busy_layers, moe_rows, without_dense
from equipoise.files.loads.opening import Input, look_at
from equipoise.files.loads.records import Record, Steps, check_version, matrix, read_records, whole_number

META = "equipoise_record_meta"
RECORD = "equipoise_record"
_ALL_LAYERS = "sglang"
_NAME = re.compile(r"(?P<name>.+\.jsonl)(?:\.(?P<age>[1-9][0-9]{0,8}))?")


def recognises(given: Input) -> bool:
    """Say whether it is JSON Lines that begin with the recorder's own line, or a folder of such files."""
    if given.kind == "directory":
        return any(_is_recording(given.path / name) for name in given.files if _NAME.fullmatch(name))
    return given.first_record.get("record_type") in (META, RECORD)


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a recording, oldest first; its layer numbers are those that the plug-in knew."""
    found = _Recording()
    files, remarks = _files(given, hints) if given.kind == "directory" else ([(given.path, given.name)], ())
    for path, name in files:
        with path.open("rb") as file:
            for number, record in enumerate(read_records(file, name)):
                found.take(record, is_first=number == 0)
    if not len(found.steps):
        raise FileError(f"{given.name} has no line of type {RECORD}", "each rebalance is one", "wait for the first rebalance")
    load, layer_ids, of_layers = _moe_layers(found, hints, given.name)
    return FoundLoad(load, layer_ids, is_in_order=found.is_in_order, remarks=(*remarks, *of_layers, *found.remarks()))


def _moe_layers(found: _Recording, hints: Hints, name: str) -> tuple[npt.NDArray[Any], tuple[int, ...], tuple[str, ...]]:
    """Return the load of MoE layers, their numbers, and remarks: SGLang hands over a row for every hidden layer."""
    load = found.steps.stacked()
    if found.layer_ids:
        return load, found.layer_ids, ()
    if found.engine != _ALL_LAYERS:
        rows_of_model, remarks = without_dense(load, hints)
        return rows_of_model, hints.layer_ids, remarks
    rows = moe_rows(np.logical_or.reduce(busy_layers(load)), hints.layer_ids, name)
    return load[:, rows.layers], hints.layer_ids or tuple(rows.layers), rows.remarks


@dataclass
class _Recording:
    """What has been read so far."""

    steps: Steps = field(default_factory=Steps)
    layer_ids: tuple[int, ...] = ()
    is_in_order: bool = True
    engine: str = ""
    _restarts: int = 0
    _meta: Record | None = None
    _last_call: int = -1
    _last_time: float | None = None
    _begins: bool = False

    def remarks(self) -> tuple[str, ...]:
        if not self.is_in_order:
            return ("the call numbers do not rise throughout: several runs, and their times do not put them in order",)
        if self._restarts:
            times = "once" if self._restarts == 1 else f"{self._restarts} times"
            return (f"the engine was started anew {times}: the runs follow one another by their times",)
        return ()

    def take(self, record: Record, is_first: bool) -> None:
        kind = record.fields.get("record_type")
        if kind == META:
            self._describe(record)
        elif kind != RECORD or is_first or self._meta is None:
            raise FileError(
                f"{record.place} is no {META if is_first else RECORD}",
                f"a recording begins with one {META} line, and {RECORD} lines follow",
                "drop that line, or copy the file again",
            )
        else:
            self._add(record, self._meta)

    def _describe(self, record: Record) -> None:
        check_version(record)
        for key in ("num_experts", "num_layers"):
            number = whole_number(record, key, 1)
            if self._meta is not None and number != self._meta.fields.get(key):
                raise FileError(
                    f"{record.place} has {key} {number}",
                    f"{self._meta.place} has {self._meta.fields.get(key)}, and a recording is of one model",
                    "keep a folder for each model",
                )
        self._meta = record
        self._begins = True
        self.engine = str(record.fields.get("engine"))
        self.layer_ids = _layer_ids(record)

    def _add(self, record: Record, meta: Record) -> None:
        check_version(record)
        load = matrix(record, "load")
        expected = tuple(meta.fields.get(key) for key in ("num_layers", "num_experts"))
        if any(claimed not in (None, held) for claimed, held in zip(expected, load.shape, strict=True)):
            raise FileError(
                f"{record.place} has a load of {list(load.shape)} [layers, experts]",
                f"{meta.place} says {list(expected)}",
                "mend or drop that line",
            )
        self.steps.add(load, record.place)
        call, time = whole_number(record, "call"), record.fields.get("time")
        seconds = float(time) if isinstance(time, (int, float)) and not isinstance(time, bool) else None
        if call is not None and call <= self._last_call:
            is_later = seconds is not None and self._last_time is not None and seconds > self._last_time
            self._restarts += 1
            self.is_in_order &= self._begins and is_later
        self._last_call = self._last_call if call is None else call
        self._last_time = seconds
        self._begins = False


def _layer_ids(record: Record) -> tuple[int, ...]:
    given = record.fields.get("layer_ids") or []
    if not isinstance(given, list) or not all(type(layer) is int and 0 <= layer < 2**31 for layer in given):
        raise FileError(f"{record.place} has unusable layer_ids", "it must be a list of layer numbers", "mend that line")
    return tuple(given)


def _is_recording(path: Path) -> bool:
    try:
        found = look_at(path)
    except FileError:
        return False
    return found.kind == "json" and found.first_record.get("record_type") == META


def _files(given: Input, hints: Hints) -> tuple[list[tuple[Path, str]], tuple[str, ...]]:
    """Return the files of the one recording in a folder that is asked for, oldest first, with their names; and a remark."""
    matches = [match for match in map(_NAME.fullmatch, given.files) if match and _is_recording(given.path / match[0])]
    name = _chosen(given, {match["name"]: given.path / match[0] for match in matches}, hints)
    others = sorted({match["name"] for match in matches} - {name})
    ages = sorted((int(match["age"] or 0) for match in matches if match["name"] == name), reverse=True)
    if ages != list(range(ages[0], ages[-1] - 1, -1)):
        missing = next(age for age in range(ages[-1], ages[0]) if age not in ages)
        raise FileError(
            f"{given.name} has no {name}.{missing}", "the parts of a recording follow one another", "copy that part too"
        )
    parts = [name + (f".{age}" if age else "") for age in ages]
    remarks = (f"left out {', '.join(others)}, of another model",) if others else ()
    return [(given.path / part, f"{given.name}/{part}") for part in parts], remarks


def _chosen(given: Input, paths: dict[str, Path], hints: Hints) -> str:
    """Return the name of the only recording, or of the only one that can be of the caller's model."""
    shapes = {name: _shape(paths[name]) for name in sorted(paths)}
    fitting = [name for name, shape in shapes.items() if _fits(shape, hints)]
    if len(shapes) == 1 or len(fitting) == 1:
        return fitting[0] if len(fitting) == 1 else next(iter(shapes))
    told = [f"{name} of {layers} x {experts} layers and experts" for name, (layers, experts) in list(shapes.items())[:3]]
    raise FileError(
        f"{given.name} holds {len(shapes)} recordings ({', '.join(told) or 'none'})",
        "a folder is read as one recording, NAME.jsonl and older parts NAME.jsonl.1, NAME.jsonl.2, ...",
        "name the model (--model) where that tells them apart, or one file, or keep a folder for each",
    )


def _shape(path: Path) -> tuple[object, object]:
    fields = look_at(path).first_record
    return fields.get("num_layers"), fields.get("num_experts")


def _fits(shape: tuple[object, object], hints: Hints) -> bool:
    layers, experts = shape
    if hints.num_experts not in (None, experts):
        return False
    return not hints.layer_ids or layers == len(hints.layer_ids) or (isinstance(layers, int) and layers > max(hints.layer_ids))
