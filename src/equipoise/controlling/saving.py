"""A controller's state in one file: a line that says what follows, then arrays; no pickle.

The line is JSON: format, version, how the controller was made, and at its end the SHA-256 of the file without that hash. The
rest is an ``.npz`` archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from equipoise.budget import MoveBudget
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.controlling.settings import ControlSettings
from equipoise.controlling.telemetry import Telemetry
from equipoise.errors import ArgumentError, EquipoiseError, FileError, unreadable
from equipoise.files.atomic import whole_file
from equipoise.migrating.links import Links
from equipoise.placement import Placement

if TYPE_CHECKING:
    from equipoise.controlling.controller import Controller

_FORMAT = "equipoise controller"
_VERSION = 1
_MAGIC = f'{{"format": "{_FORMAT}", '.encode()
_PARTS = ("_standing", "_memories", "_watch", "_evidence", "_candidates")
_Arrays = dict[str, npt.NDArray[Any]]


def save_controller(controller: Controller, path: str | os.PathLike[str]) -> None:
    """Write a controller's state; keep the last good one as ``.bak``. See :meth:`Controller.save`."""
    target = _checked_path(path)
    content = _to_bytes(controller)
    before = _readable(target)
    if before is not None and before and not before.startswith(_MAGIC[: len(before)]):
        raise FileError(
            f"{target} holds something else than a controller's state", "it would be overwritten", "choose another name"
        )
    if before is not None and _is_whole(before):
        with whole_file(backup_of(target)) as file:
            file.write(before)
    with whole_file(target) as file:
        file.write(content)


def load_controller(path: str | os.PathLike[str], telemetry: Telemetry | None = None) -> Controller:
    """Return the controller that was saved. See :meth:`Controller.load`."""
    target = _checked_path(path)
    try:
        content = target.read_bytes()
    except OSError as error:
        raise _with_backup(target, unreadable(target, error)) from error
    try:
        header, body = _checked(target, content)
        return _restored(target, header, body, telemetry)
    except FileError as error:
        raise _with_backup(target, error) from error


def backup_of(path: str | os.PathLike[str]) -> Path:
    """Return where the state before the last one is kept.

    >>> backup_of("controller.state").name
    'controller.state.bak'
    """
    target = Path(path)
    return target.with_name(target.name + ".bak")


def _to_bytes(controller: Controller) -> bytes:
    body = io.BytesIO()
    arrays = {f"{part}.{name}": np.asarray(value) for part in _PARTS for name, value in _values(controller, part).items()}
    np.savez(body, allow_pickle=False, **arrays)
    cluster, payload = controller.cluster, body.getvalue()
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "num_layers": controller.num_layers,
        "num_experts": controller.num_experts,
        "cluster": {
            "num_ranks": cluster.num_ranks,
            "slots_per_rank": cluster.slot_counts.tolist(),
            "num_nodes": cluster.num_nodes,
            "node_of_rank": list(cluster.node_of_rank),
            "rank_speeds": list(cluster.rank_speeds),
            "alive": [bool(up) for up in cluster.alive],
        },
        "settings": asdict(controller.settings),
    }
    return sealed(header, payload)


def sealed(header: dict[str, Any], payload: bytes) -> bytes:
    """Return a file's content: the header, with the hash of all, and the arrays."""
    line = json.dumps(header).encode()
    return line[:-1] + _seal(line, payload) + b"\n" + payload


def _seal(line: bytes, payload: bytes) -> bytes:
    """Return the end of the header's line."""
    return b', "sha256": "' + hashlib.sha256(line + b"\n" + payload).hexdigest().encode() + b'"}'


def _values(controller: Controller, part: str) -> dict[str, Any]:
    whole = getattr(controller, part)
    return {field.name: getattr(whole, field.name) for field in fields(whole)}


def _checked(target: Path, content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and arrays of a whole file; say what is wrong with any other."""
    if not content.startswith(_MAGIC):
        is_torn = bool(content) and _MAGIC.startswith(content)
        what = "is torn" if is_torn or not content else "is no controller's state"
        raise FileError(f"{target} {what}", "it must be written by Controller.save", "pass the right file")
    line, _, body = content.partition(b"\n")
    size = len(_seal(b"", b""))
    unsealed = line[:-size] + b"}"
    try:
        header = json.loads(line)
    except ValueError as error:
        raise _torn(target) from error
    if header.get("version") != _VERSION:
        raise FileError(
            f"{target} has version {header.get('version')}",
            f"this equipoise reads version {_VERSION}",
            "use the one that wrote it",
        )
    if line[-size:] != _seal(unsealed, body):
        raise _torn(target)
    return header, body


def _restored(target: Path, header: dict[str, Any], body: bytes, telemetry: Telemetry | None) -> Controller:
    from equipoise.controlling.controller import Controller

    made = Controller.__new__(Controller)
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        cluster = Cluster(**header["cluster"])
        settings = _settings(header["settings"])
        slots = Placement(arrays["_standing.slots"], cluster, header["num_experts"])
        made._begin(cluster, header["num_layers"], header["num_experts"], slots, settings, telemetry)
        for part in _PARTS:
            _fill(getattr(made, part), part, arrays)
        return made
    except (EquipoiseError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{target} holds no state that fits ({error})", "its parts must fit together", "save it anew"
        ) from error


def _settings(given: dict[str, Any]) -> ControlSettings:
    parts = {
        "links": Links(**given["links"]),
        "budget": MoveBudget(**given["budget"]),
        "memories": tuple(given["memories"]),
        "constraints": Constraints(**given["constraints"]),
    }
    return ControlSettings(**{**given, **parts})


def _fill(part: object, name: str, arrays: _Arrays) -> None:
    """Put what was saved into a part made anew, which says what kind each value is of."""
    for field in fields(part):  # type: ignore[arg-type]
        now, saved = getattr(part, field.name), arrays[f"{name}.{field.name}"]
        if isinstance(now, np.ndarray):
            if saved.shape != now.shape or saved.dtype != now.dtype:
                raise ValueError(f"{field.name} is {saved.dtype} {saved.shape}, not {now.dtype} {now.shape}")
            setattr(part, field.name, saved)
        elif isinstance(now, list):
            setattr(part, field.name, [float(value) for value in saved])
        else:
            setattr(part, field.name, type(now)(saved.item()))


def _checked_path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"path is a {type(path).__name__}", "it must be the name of a file", "pass a path")
    return Path(path)


def _readable(target: Path) -> bytes | None:
    try:
        return target.read_bytes()
    except OSError:
        return None


def _is_whole(content: bytes) -> bool:
    try:
        _checked(Path(), content)
    except FileError:
        return False
    return True


def _torn(target: Path) -> FileError:
    return FileError(f"{target} is torn", "what it holds must match its own checksum", "pass a whole file")


def _with_backup(target: Path, error: FileError) -> FileError:
    """Add where the last good state is, if there is one."""
    backup = backup_of(target)
    content = _readable(backup)
    if content is None or not _is_whole(content):
        return error
    return FileError(error.found, error.rule, f"{error.next_step}, or go on from the state before it, {backup}")
