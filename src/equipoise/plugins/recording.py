"""A recorder: what policies are handed, as JSON lines in files of bounded size and number (docs/plugins.md)."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from equipoise.plugins.deciding import Call

META, RECORD, VERSION = "equipoise_record_meta", "equipoise_record", 1


@dataclass
class Recorder:
    """Writes calls of one process, whole lines at a time.

    Parameters
    ----------
    path : Path
        The newest file; older ones have ``.1``, ``.2``, ... behind, rising with age. Calls of another number of layers or
        experts (a draft model's) go to files with both numbers before the ending.
    engine : str
        Told in the first line of each file.
    most_bytes, most_files : int
        When a new file is begun, and how many are kept of each model, the newest counted. One call is never split, so a file
        can be larger by one record, and one with a single record larger than that.
    """

    path: Path
    engine: str
    most_bytes: int
    most_files: int
    _files: dict[tuple[int, ...], _File] = field(default_factory=dict, repr=False)

    def write(self, call: Call) -> None:
        """Append a call.

        Raises
        ------
        OSError
            When the system does not let the file be written.
        """
        model = call.load.shape
        if model not in self._files:
            path = self.path
            if self._files:
                path = path.with_name(f"{path.stem}.{'x'.join(map(str, model))}{path.suffix}")
            self._files[model] = _File(path, self.most_bytes, self.most_files)
        self._files[model].write(self._meta(call), _record(call))

    def _meta(self, call: Call) -> dict[str, object]:
        layers, experts = call.load.shape
        return {
            "record_type": META,
            "version": VERSION,
            "engine": self.engine,
            "num_ranks": call.num_ranks,
            "num_groups": call.num_groups,
            "num_nodes": call.num_nodes,
            "num_slots": call.num_slots,
            "num_experts": experts,
            "num_layers": layers,
        }


@dataclass
class _File:
    path: Path
    most_bytes: int
    most_files: int
    num_calls: int = 0
    meta: dict[str, object] = field(default_factory=dict)

    def write(self, meta: dict[str, object], record: dict[str, object]) -> None:
        line = _line({"record_type": RECORD, "version": VERSION, "call": self.num_calls, **record})
        size = self._size()
        if meta != self.meta or size == 0 or size + len(line) > self.most_bytes:
            self._begin(meta)
        _append(self.path, line)
        self.num_calls += 1

    def _begin(self, meta: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size():
            for number in range(self.most_files - 1, 0, -1):
                older = self._numbered(number - 1)
                if older.exists():
                    older.replace(self._numbered(number))
        self.path.write_bytes(_line(meta))
        self.meta = meta

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _append(path: Path, line: bytes) -> None:
    """Append a line, or leave the file as it was."""
    size = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(line)
    except OSError:
        os.truncate(path, size)
        raise


def _record(call: Call) -> dict[str, object]:
    load = call.load
    if load.dtype.kind == "f" and np.array_equal(load, np.trunc(load)) and load.max(initial=0.0) < 2**53:
        load = load.astype(np.int64)
    return {
        "time": time.time(),
        "load": load.tolist(),
        "expert_of_slot": None if call.in_use is None else call.in_use.tolist(),
    }


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"
