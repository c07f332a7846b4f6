"""Read a load a few steps at a time, from ``.npy`` and ``.npz`` files that may exceed memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, unreadable
from equipoise.files.loads.arrays import StepNames, array_content, chosen_array, header_of, names_in, order_in
from equipoise.files.loads.damage import naming_damage
from equipoise.files.loads.opening import IN_WORDS, Input, look_at
from equipoise.files.loads.reading import recognised

_BLOCK_BYTES = 2**21


@dataclass(frozen=True)
class FoundSteps:
    """A file whose load can be read a few steps at a time: its array, unchecked, and the names that came with it.

    ``member`` is the array's place in a ``.npz``, None in a ``.npy``; ``shape`` is [steps, layers, experts].
    """

    given: Input
    member: str | None
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    names: StepNames
    is_in_order: bool = True

    @property
    def name(self) -> str:
        """What messages call the file."""
        return self.given.name


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
    given = look_at(Path(path))
    if given.kind not in ("npy", "npz"):
        raise FileError(
            f"{given.name} is {IN_WORDS[given.kind]}",
            "only .npy and .npz stream; LoadTrace.read takes the others into memory",
            "read it whole, or write it as .npz with LoadTrace.write",
        )
    if (found := recognised(given).name) != given.kind:
        raise FileError(
            f"{given.name} is in the format {found}",
            "only plain .npy and .npz stream; LoadTrace.read takes the others into memory",
            "read it whole, or write it as .npz with LoadTrace.write",
        )
    member, names, is_in_order = None, StepNames(), True
    if given.kind == "npz":
        member = chosen_array(given.arrays, given.name)
        names = names_in(given)
        is_in_order = order_in(given)
    with naming_damage(given.name), given.open() as file, array_content(file, member) as (content, size):
        return FoundSteps(given, member, *_layout(content, size, given.name), names, is_in_order)


def read_steps(found: FoundSteps) -> Iterator[npt.NDArray[Any]]:
    """Read the load from its start, in read-only blocks [some steps, layers, experts] of about 2 MB (at least a step)."""
    name = found.name
    with naming_damage(name), _reopened(found) as file, array_content(file, found.member) as (content, size):
        (num_steps, *rest), dtype = _layout(content, size, name)
        if (num_steps, *rest) != found.shape or dtype != found.dtype:
            raise FileError(f"{name} has changed since it was opened", "it must stay as it was", "open it again")
        bytes_of_step = rest[0] * rest[1] * dtype.itemsize
        for steps in _chunks(num_steps, max(1, _BLOCK_BYTES // bytes_of_step)):
            yield np.frombuffer(content.read(steps * bytes_of_step), dtype).reshape(steps, *rest)


def _reopened(found: FoundSteps) -> BinaryIO:
    try:
        return found.given.open()
    except OSError as error:
        raise unreadable(found.name, error) from error


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _layout(content: BinaryIO, size: int, name: str) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Read a .npy's header: shape [steps, layers, experts] and dtype of what follows."""
    shape, is_by_column, dtype = header_of(content, size, name)
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
    steps, layers, experts = (1, *shape)[-3:]
    return (steps, layers, experts), dtype
