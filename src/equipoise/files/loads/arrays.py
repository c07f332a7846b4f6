"""Read numpy files: an array alone (``.npy``) or several with names (``.npz``)."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads.damage import a_pickle, naming_damage
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import without_dense
from equipoise.files.loads.opening import Input

_BEST_DEFLATE = 1100
"""A byte of a compressed member never stands for more than this: 1,032, and headers."""


class StepNames(NamedTuple):
    """The small arrays beside a load."""

    layer_ids: tuple[int, ...] = ()
    labels: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None


def read_npy(given: Input, hints: Hints) -> FoundLoad:
    """Read an array [steps, layers, experts] or [layers, experts]."""
    load, remarks = without_dense(read_array(given), hints)
    return FoundLoad(load, hints.layer_ids, remarks=remarks)


def read_npz(given: Input, hints: Hints) -> FoundLoad:
    """Read the array ``load``, or the only one, and the names beside it."""
    load = read_array(given, chosen_array(given.arrays, given.name))
    source_load = read_array(given, "source_load") if "source_load" in given.arrays else None
    layer_ids, labels, phases = names_in(given)
    remarks: tuple[str, ...] = ()
    if not layer_ids:
        load, remarks = without_dense(load, hints)
        source_load = None if source_load is None else without_dense(source_load, hints)[0]
    return FoundLoad(
        load,
        layer_ids or hints.layer_ids,
        labels,
        phases,
        source_load=source_load,
        is_in_order=order_in(given),
        remarks=remarks,
    )


def read_array(given: Input, member: str | None = None) -> npt.NDArray[Any]:
    """Read a ``.npy``, or a member of an ``.npz``.

    Raises
    ------
    FileError
        When it is damaged, holds a pickle, or its header claims more than the file holds (before anything is allocated).
    """
    with naming_damage(given.name), given.open() as file, array_content(file, member) as (content, size):
        shape, is_by_column, dtype = header_of(content, size, given.name)
        numbers = np.empty(shape, dtype, order="F" if is_by_column else "C")
        _fill(numbers.T if is_by_column else numbers, content)
        return numbers


def read_shape(given: Input) -> tuple[int, ...]:
    """Return the shape that a ``.npy``'s header claims, without reading what follows."""
    with naming_damage(given.name), given.open() as file, array_content(file, None) as (content, size):
        return header_of(content, size, given.name)[0]


def chosen_array(names: Sequence[str], name: str) -> str:
    """Return which array of an ``.npz`` is the load."""
    chosen = "load" if "load" in names else names[0] if len(names) == 1 else None
    if chosen is None:
        raise FileError(
            f"{name} holds the arrays {', '.join(names) or 'none'}",
            "one must be called load, or there must be only one",
            "rename the array that holds the counts",
        )
    return chosen


def names_in(given: Input) -> StepNames:
    """Return the layer numbers, labels and phases that lie beside a load."""
    layer_ids = np.ravel(read_array(given, "layer_ids")) if "layer_ids" in given.arrays else np.empty(0, np.int64)
    if layer_ids.dtype.kind not in "iu":
        raise FileError(f"{given.name} has layer_ids of {layer_ids.dtype}", "they must be integers", "mend them")
    labels, phases = (_step_names(given, keys) for keys in (("labels", "label"), ("phases", "phase")))
    return StepNames(tuple(layer_ids.tolist()), labels, phases)


def _step_names(given: Input, keys: tuple[str, ...]) -> tuple[str, ...] | None:
    key = next((key for key in keys if key in given.arrays), None)
    if key is None:
        return None
    with naming_damage(given.name):  # numpy makes texts of any bytes, and fails on them in many ways
        return tuple(str(name) for name in np.ravel(read_array(given, key)))


def order_in(given: Input) -> bool:
    """Say whether the steps of an ``.npz`` are in order of time; so they are where it does not say."""
    return "is_in_order" not in given.arrays or bool(read_array(given, "is_in_order").all())


@contextmanager
def array_content(file: BinaryIO, member: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """Give the bytes of a .npy, which may be a member of a .npz, from their start, and how many there are at most."""
    if member is None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield file, size
        return
    with zipfile.ZipFile(file) as archive:
        found = archive.getinfo(f"{member}.npy" if f"{member}.npy" in archive.namelist() else member)
        size = min(found.file_size, _BEST_DEFLATE * file.seek(0, os.SEEK_END))
        with archive.open(found) as content:
            yield cast(BinaryIO, content), size


def header_of(content: BinaryIO, size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read a .npy's header: shape, whether it is stored column by column, dtype; ``size`` bytes are there with it."""
    version = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_by_column, dtype = header(content)
    if dtype.hasobject:
        raise a_pickle(name)
    claimed, there = math.prod(shape) * dtype.itemsize, size - content.tell()
    if claimed > there:
        raise ValueError(f"its header claims {claimed:,} bytes, {there:,} are there")
    return shape, is_by_column, dtype


def _fill(numbers: npt.NDArray[Any], content: BinaryIO) -> None:
    """Read an array's bytes in place, without a second copy."""
    place = numbers.reshape(-1).view(np.uint8)
    done = 0
    while done < place.size:
        block = content.readinto(place[done : done + 2**24])  # type: ignore[attr-defined]
        if not block:
            raise ValueError(f"{place.size - done:,} bytes are missing at its end")
        done += block
