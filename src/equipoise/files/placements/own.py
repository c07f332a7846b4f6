"""Our own placement files: versioned JSON for people and tools, ``.npz`` for size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from equipoise.errors import FileError, unreadable
from equipoise.files.atomic import whole_file


class PlacementFile(BaseModel):
    """What a placement file holds, version 1.

    ``expert_of_slot`` is [layers, slots] with -1 for an empty slot; slots are numbered over all ranks in rank order.
    ``plan`` holds what was known of the plan when it was written and is not read back.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["equipoise-placement"] = "equipoise-placement"
    version: Literal[1] = 1
    num_experts: int
    num_ranks: int
    slots_per_rank: int | list[int]
    num_nodes: int = 1
    node_of_rank: list[int] = []
    rank_speeds: list[float] = []
    alive: list[bool] = []
    layer_ids: list[int] = []
    plan: dict[str, Any] = {}
    expert_of_slot: list[list[int]]


def write_placement(
    path: str | PathLike[str],
    expert_of_slot: npt.NDArray[np.int64],
    *,
    slots_per_rank: int | Sequence[int],
    **fields: Any,
) -> None:
    """Write a placement file atomically, ``.json`` or ``.npz`` by its name.

    Raises
    ------
    FileError
        On another ending, or when the folder cannot be written.
    """
    ending = check_ending(path)
    slots = slots_per_rank if isinstance(slots_per_rank, int) else list(slots_per_rank)
    lists: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    content = PlacementFile(expert_of_slot=expert_of_slot.tolist(), slots_per_rank=slots, **lists)
    with whole_file(path) as file:
        if ending == ".json":
            file.write((_json_text(content) + "\n").encode())
        else:
            _write_npz(file, content)


def check_ending(path: str | PathLike[str]) -> str:
    """Return ``.json`` or ``.npz``; refuse any other ending before work is done in vain."""
    ending = Path(path).suffix.lower()
    if ending not in (".json", ".npz"):
        raise FileError(f"{path} ends in {ending or 'nothing'}", "a placement is written as .json or .npz", "name it so")
    return ending


def read_placement(path: str | PathLike[str]) -> PlacementFile:
    """Read a placement file of either kind.

    Raises
    ------
    FileError
        When it cannot be read, is no placement file, or is of a version this equipoise does not know.
    """
    try:
        with Path(path).open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            content = _read_npz(file) if is_zip else json.load(file)
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen kinds on damaged files
        raise _not_a_placement(path, str(error)) from error
    try:
        return PlacementFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _not_a_placement(path, f"{place}: {first['msg']}") from error


def _not_a_placement(path: str | PathLike[str], cause: str) -> FileError:
    return FileError(
        f"{path} is not a placement file ({cause})",
        "it needs format equipoise-placement, version 1, as written by equipoise plan --out",
        "write it again",
    )


def _json_text(content: PlacementFile) -> str:
    """One key and one layer a line: files that people can read and compare."""
    fields = content.model_dump(exclude={"expert_of_slot"})
    head = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    rows = ",\n".join(f"    {json.dumps(row)}" for row in content.expert_of_slot)
    return f'{{\n{head},\n  "expert_of_slot": [\n{rows}\n  ]\n}}'


def _write_npz(file: BinaryIO, content: PlacementFile) -> None:
    header = content.model_dump_json(exclude={"expert_of_slot"})
    np.savez_compressed(file, header=np.asarray(header), expert_of_slot=np.asarray(content.expert_of_slot, np.int64))


def _read_npz(file: BinaryIO) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        content: dict[str, Any] = json.loads(str(archive["header"]))
        content["expert_of_slot"] = archive["expert_of_slot"].tolist()
    return content
