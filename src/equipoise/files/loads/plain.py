"""Read recorded loads from the plain formats, told apart by content; write our own.

What each format may hold is described in docs/load-files.md. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, MissingExtraError, unreadable
from equipoise.files.atomic import whole_file
from equipoise.files.loads.found import FoundLoad

_BLOCK_BYTES = 2**21
_KNOWN = "equipoise reads .npz, .npy, .csv, .json and .pt"


class StepNames(NamedTuple):
    """The small arrays beside a load."""

    layer_ids: tuple[int, ...] = ()
    labels: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FoundSteps:
    """A file whose load can be read a few steps at a time: its array, unchecked, and the names that came with it.

    ``member`` is the array's place in a ``.npz``, None in a ``.npy``; ``shape`` is [steps, layers, experts].
    """

    path: Path
    name: str
    member: str | None
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    names: StepNames


def read_load(path: str | os.PathLike[str] | BinaryIO) -> FoundLoad:
    """Read a load from a path, ``-`` (standard input) or a binary stream.

    Raises
    ------
    FileError, MissingExtraError
        As described for :meth:`equipoise.LoadTrace.read`.
    """
    with _opened(path) as (file, name):
        head = file.read(4096)
        file.seek(0)
        if not head.strip():
            raise FileError(f"{name} is empty", "a load file holds at least one layer", "record it again")
        try:
            found = _reader_of(head, name)(file, name)
        except (MemoryError, OverflowError) as error:
            raise FileError(f"{name} claims more than memory holds", "it must fit", "record fewer steps") from error
        found.load.setflags(write=False)
        return replace(found, name=name)


def open_steps(path: str | os.PathLike[str]) -> FoundSteps:
    """Open a ``.npy``, or a ``.npz`` (compressed or not), told apart by content, to be read a few steps at a time.

    Raises
    ------
    FileError
        When the file cannot be read, is of a kind that does not stream, or is cut short.
    """
    if not isinstance(path, (str, os.PathLike)) or str(path) == "-":
        name = "standard input" if str(path) == "-" else str(getattr(path, "name", "the stream"))
        raise FileError(f"{name} can be read only once", "a stream starts again at will", "write it to a file first")
    with _opened(path) as (file, name), _naming_damage(name):
        head = file.read(4096)
        file.seek(0)
        if head.startswith(b"\x93NUMPY"):
            member, names = None, StepNames()
        elif head.startswith(b"PK"):
            member, names = _member_of_npz(file, name)
        else:
            raise FileError(
                f"{name} is neither .npy nor .npz",
                "only these stream; LoadTrace.read takes the others into memory",
                "read it whole, or write it as .npz with LoadTrace.write",
            )
        with _array_content(file, member) as (content, size):
            return FoundSteps(Path(path), name, member, *_layout(content, size, name), names)


def read_steps(found: FoundSteps) -> Iterator[npt.NDArray[Any]]:
    """Read the load from its start, in read-only blocks [some steps, layers, experts] of about 2 MB (at least a step)."""
    with (
        _opened(found.path) as (file, name),
        _naming_damage(name),
        _array_content(file, found.member) as (content, size),
    ):
        (num_steps, *rest), dtype = _layout(content, size, name)
        if (num_steps, *rest) != found.shape or dtype != found.dtype:
            raise FileError(f"{name} has changed since it was opened", "it must stay as it was", "open it again")
        bytes_of_step = rest[0] * rest[1] * dtype.itemsize
        for steps in _chunks(num_steps, max(1, _BLOCK_BYTES // bytes_of_step)):
            yield np.frombuffer(content.read(steps * bytes_of_step), dtype).reshape(steps, *rest)


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def write_load(
    path: str | os.PathLike[str],
    load: npt.NDArray[Any],
    layer_ids: Sequence[int],
    labels: Sequence[str] | None,
    phases: Sequence[str] | None = None,
) -> None:
    """Write a load as a compressed ``.npz``: arrays ``load``, ``layer_ids`` and, where given, ``labels`` and ``phases``."""
    arrays: dict[str, Any] = {"load": load, "layer_ids": np.asarray(layer_ids, np.int64)}
    arrays.update({key: np.asarray(names, np.str_) for key, names in (("labels", labels), ("phases", phases)) if names})
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)


@contextmanager
def _opened(path: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """Open as a seekable file, with its name for messages; what cannot seek is first spooled to disk, not to memory."""
    if not isinstance(path, (str, os.PathLike)):
        with _spooled(path) as file:
            yield file, str(getattr(path, "name", "the stream"))
    elif str(path) == "-":
        with _spooled(sys.stdin.buffer) as file:
            yield file, "standard input"
    else:
        try:
            opened = Path(path).open("rb")  # noqa: SIM115 - only opening is guarded here
        except OSError as error:
            raise unreadable(path, error) from error
        with opened as file:
            yield file, str(path)


@contextmanager
def _spooled(stream: BinaryIO) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        file.seek(0)
        yield cast(BinaryIO, file)


def _reader_of(head: bytes, name: str) -> Callable[[BinaryIO, str], FoundLoad]:
    if head.startswith(b"\x93NUMPY"):
        return _read_npy
    if head.startswith(b"PK"):
        return _read_zip
    if head.startswith(b"\x80"):
        return _read_pt if name.endswith((".pt", ".pth")) else _refuse_pickle
    if head.lstrip()[:1] in (b"{", b"["):
        return _read_json
    if b"\x00" in head:
        raise FileError(f"{name} is binary of an unknown kind", _KNOWN, "convert it to one of these")
    return _read_csv


def _refuse_pickle(file: BinaryIO, name: str) -> FoundLoad:
    raise _a_pickle(name)


def _a_pickle(name: str) -> FileError:
    return FileError(
        f"{name} is or holds a pickle", "pickles can run any code and are never loaded", "save numbers with numpy.savez"
    )


def _read_npy(file: BinaryIO, name: str) -> FoundLoad:
    with _naming_damage(name):
        return FoundLoad(np.load(file, allow_pickle=False))


def _read_zip(file: BinaryIO, name: str) -> FoundLoad:
    with _naming_damage(name):
        members = zipfile.ZipFile(file).namelist()
    file.seek(0)
    if any(member.endswith("data.pkl") for member in members):
        return _read_pt(file, name)
    with _naming_damage(name):
        return _read_npz(file, name)


def _read_npz(file: BinaryIO, name: str) -> FoundLoad:
    with np.load(file, allow_pickle=False) as archive:
        chosen = _chosen_array(archive.files, name)
        return FoundLoad(archive[chosen], *_names_in(archive))


def _chosen_array(names: Sequence[str], name: str) -> str:
    chosen = "load" if "load" in names else names[0] if len(names) == 1 else None
    if chosen is None:
        raise FileError(
            f"{name} holds the arrays {', '.join(names) or 'none'}",
            "one must be called load, or there must be only one",
            "rename the array that holds the counts",
        )
    return chosen


def _names_in(archive: Mapping[str, Any]) -> StepNames:
    layer_ids = tuple(int(i) for i in np.ravel(archive["layer_ids"])) if "layer_ids" in archive else ()
    return StepNames(layer_ids, _step_names(archive, ("labels", "label")), _step_names(archive, ("phases", "phase")))


def _step_names(archive: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, ...] | None:
    key = next((k for k in keys if k in archive), None)
    return None if key is None else tuple(str(name) for name in np.ravel(archive[key]))


def _member_of_npz(file: BinaryIO, name: str) -> tuple[str, StepNames]:
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
    if any(member.endswith("data.pkl") for member in members):
        raise FileError(
            f"{name} is a torch file", "only .npy and .npz stream", "read it with LoadTrace.read and write it as .npz"
        )
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        chosen, names = _chosen_array(arrays.files, name), _names_in(arrays)
    return f"{chosen}.npy" if f"{chosen}.npy" in members else chosen, names


@contextmanager
def _array_content(file: BinaryIO, member: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """Give the bytes of a .npy, which may be a member of a .npz, from their start, and how many there are."""
    if member is None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield file, size
    else:
        with zipfile.ZipFile(file) as archive, archive.open(member) as content:
            yield cast(BinaryIO, content), archive.getinfo(member).file_size


def _layout(content: BinaryIO, size: int, name: str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Read a .npy's header: shape [steps, layers, experts] and dtype of what follows."""
    version = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_by_column, dtype = header(content)
    if dtype.hasobject:
        raise _a_pickle(name)
    if len(shape) not in (2, 3) or 0 in shape or dtype.kind not in "iuf":
        raise FileError(
            f"{name} holds {dtype} of shape {list(shape)}",
            "it must be numbers [steps, layers, experts] or [layers, experts], none of them 0",
            "pick the array that holds the counts, or reshape it",
        )
    if is_by_column:
        raise FileError(
            f"{name} is stored column by column",
            "a stream needs each step in one piece",
            "save numpy.ascontiguousarray(load), or read it whole with LoadTrace.read",
        )
    if size - content.tell() < math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes hold less than the shape {list(shape)}")
    steps, layers, experts = (1, *shape)[-3:]
    return (steps, layers, experts), dtype


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    """Say of any failure within that the file is damaged, or a pickle; numpy and zipfile raise a dozen kinds on bad bytes."""
    try:
        yield
    except (FileError, MemoryError, OverflowError):
        raise
    except Exception as error:
        if "allow_pickle" in str(error):
            raise _a_pickle(name) from error
        raise FileError(
            f"{name} is damaged ({_first_line(error)})", "it must be a whole numpy or torch file", "write or copy it again"
        ) from error


def _read_pt(file: BinaryIO, name: str) -> FoundLoad:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is a torch file", "reading it needs torch", "pip install 'equipoise[torch]', or save it with numpy"
        ) from error
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises on a file it refuses, down to KeyError and RuntimeError
        raise FileError(
            f"{name} cannot be loaded as plain tensors ({_first_line(error)})",
            "a .pt file may hold tensors, numbers and containers only; other pickles are never loaded",
            "save the count tensor alone with torch.save",
        ) from error
    if isinstance(found, dict):
        found = next((found[key] for key in ("load", "logical_count") if key in found), found)
    if not isinstance(found, torch.Tensor):
        raise FileError(
            f"{name} holds a {type(found).__name__}",
            "it must be a tensor, or a dict with one under load or logical_count",
            "save the count tensor alone",
        )
    with _naming_damage(name):
        tensor = found.detach().to_dense() if found.layout != torch.strided else found.detach()
        return FoundLoad((tensor.double() if tensor.is_floating_point() else tensor).numpy())


def _read_json(file: BinaryIO, name: str) -> FoundLoad:
    """Stream steps (or layers) one by one, so that a trace of gigabytes as text never lies in memory as objects."""
    import ijson

    try:
        steps = _json_steps(file, name)
        first = next(steps, None)
        if first is None:
            raise FileError(f"{name} holds no load", "it needs at least one layer", "record it again")
        return FoundLoad(_stacked(first, steps, name))
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise FileError(
            f"{name} is not valid JSON at {_json_position(file)} ({_first_line(error)})",
            "loads must be finite numbers (JSON knows no NaN or Infinity) and the text complete",
            "mend that entry, or write the file again with json.dump(..., allow_nan=False)",
        ) from error


def _json_steps(file: BinaryIO, name: str) -> Iterator[npt.NDArray[Any]]:
    """Yield each item of the outermost list of numbers: a step [layers, experts], or a layer [experts] of a 2-D list."""
    import ijson

    prefix, key = _json_place(file, name)
    file.seek(0)
    for number, item in enumerate(ijson.items(file, prefix, use_float=True)):
        place = f"{name}, entry {number}"
        if key is not None:
            if not isinstance(item, dict) or key not in item:
                raise FileError(f"{place} has no {key}", f"each entry of load_history needs {key}", "mend that entry")
            item = item[key]
        yield _json_numbers(item, place)


def _json_place(file: BinaryIO, name: str) -> tuple[str, str | None]:
    """Where the numbers stand: the ijson prefix of the list's items, and the key within each item."""
    import ijson

    for prefix, event, value in ijson.parse(file, use_float=True):
        if prefix == "" and event == "start_array":
            return "item", None
        if prefix == "" and event == "map_key":
            if value == "load_history":
                return "load_history.item", "logical_expert_load"
            if value in ("logical_count", "load"):
                return f"{value}.item", None
    raise FileError(
        f"{name} is a JSON object without load_history, logical_count or load",
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


def _read_csv(file: BinaryIO, name: str) -> FoundLoad:
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    try:
        header = _csv_header(text)
        if header is None:
            return FoundLoad(_whole_numbers(_table(text, np.dtype(np.float64), 2)))
        return _from_long_rows(text, header, name)
    except UnicodeDecodeError as error:
        raise FileError(f"{name} is not text", _KNOWN, "convert it to one of these") from error
    except UserWarning as error:
        raise FileError(f"{name} holds no rows of numbers", "a load has at least one layer", "record it again") from error
    except ValueError as error:
        raise FileError(
            f"{name} is not a table of numbers ({_first_line(error)})",
            "a .csv holds a header layer,expert,load (step too, if there are several) or a plain matrix [layers, experts]",
            "mend that line",
        ) from error
    finally:
        text.detach()


def _table(text: io.TextIOWrapper, dtype: np.dtype[Any], ndmin: Literal[1, 2]) -> npt.NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns where there is no row at all
        return np.loadtxt(text, dtype=dtype, delimiter=",", ndmin=ndmin)


def _csv_header(text: io.TextIOWrapper) -> list[str] | None:
    """Return the column names if the first line has them, else None and the text back at its start."""
    names = [column.strip().strip('"').lower() for column in text.readline().split(",")]
    if any(column and column[0].isalpha() and column not in ("nan", "inf", "infinity") for column in names):
        return names
    text.seek(0)
    return None


def _from_long_rows(text: io.TextIOWrapper, header: list[str], name: str) -> FoundLoad:
    columns = ["step", "layer", "expert"] if "step" in header else ["layer", "expert"]
    if sorted(header) != sorted([*columns, "load"]):
        raise FileError(
            f"{name} has the columns {', '.join(header)}",
            "they must be layer, expert, load, and step if there are several steps",
            "rename the columns or drop the others",
        )
    rows = _table(text, np.dtype([(column, np.float64 if column == "load" else np.int32) for column in header]), 1)
    for column in columns:
        if rows[column].min() < 0:
            raise FileError(f"{name} has {column} {rows[column].min()}", "they count from 0", "mend that row")
    return _scattered(rows, columns, name)


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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
