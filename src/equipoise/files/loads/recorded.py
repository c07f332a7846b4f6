"""What equipoise's own plug-ins record: JSON Lines, one line a rebalance, in one file or a folder of rotated ones.

The first line of each file is ``equipoise_record_meta``, the others are ``equipoise_record``. Of a recording ``NAME.jsonl``
the newest lines are in that file, older ones in ``NAME.jsonl.1``, the oldest in the file of the highest number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from equipoise.errors import FileError
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input, look_at
from equipoise.files.loads.records import Record, Steps, check_version, matrix, read_records, whole_number

META = "equipoise_record_meta"
RECORD = "equipoise_record"
_NAME = re.compile(r"(?P<name>.+\.jsonl)(?:\.(?P<age>[1-9][0-9]{0,8}))?")


def recognises(given: Input) -> bool:
    """Say whether it is JSON Lines that begin with the recorder's own line, or a folder of such files."""
    if given.kind == "directory":
        return any(_is_recording(given.path / name) for name in given.files if _NAME.fullmatch(name))
    return given.first_record.get("record_type") in (META, RECORD)


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a recording, oldest first; its layer numbers are those that the plug-in knew."""
    found = _Recording()
    for path, name in _files(given) if given.kind == "directory" else [(given.path, given.name)]:
        with path.open("rb") as file:
            for number, record in enumerate(read_records(file, name)):
                found.take(record, is_first=number == 0)
    if not len(found.steps):
        raise FileError(f"{given.name} has no line of type {RECORD}", "each rebalance is one", "wait for the first rebalance")
    remarks = () if found.is_in_order else ("the call numbers do not rise throughout: several runs after one another",)
    return FoundLoad(found.steps.stacked(), found.layer_ids or hints.layer_ids, is_in_order=found.is_in_order, remarks=remarks)


@dataclass
class _Recording:
    """What has been read so far."""

    steps: Steps = field(default_factory=Steps)
    layer_ids: tuple[int, ...] = ()
    is_in_order: bool = True
    _meta: Record | None = None
    _last_call: int = -1

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
        call = whole_number(record, "call")
        if call is not None:
            self.is_in_order &= call > self._last_call
            self._last_call = call


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


def _files(given: Input) -> list[tuple[Path, str]]:
    """Return the files of the one recording in a folder, oldest first, with their names for messages."""
    matches = [match for match in map(_NAME.fullmatch, given.files) if match and _is_recording(given.path / match[0])]
    names = sorted({match["name"] for match in matches})
    if len(names) != 1:
        raise FileError(
            f"{given.name} holds {len(names)} recordings ({', '.join(names[:3]) or 'none'})",
            "a folder is read as one recording, NAME.jsonl and older parts NAME.jsonl.1, NAME.jsonl.2, ...",
            "name one file, or keep a folder for each",
        )
    ages = sorted((int(match["age"] or 0) for match in matches), reverse=True)
    if ages != list(range(ages[0], ages[-1] - 1, -1)):
        missing = next(age for age in range(ages[-1], ages[0]) if age not in ages)
        raise FileError(
            f"{given.name} has no {names[0]}.{missing}", "the parts of a recording follow one another", "copy that part too"
        )
    parts = [names[0] + (f".{age}" if age else "") for age in ages]
    return [(given.path / part, f"{given.name}/{part}") for part in parts]
