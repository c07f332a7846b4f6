"""Simulation files: versioned JSON, the same bytes for the same simulation."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from equipoise.errors import FileError, unreadable
from equipoise.files.atomic import whole_file


class PolicyRecord(BaseModel):
    """One policy's part of a simulation file; null stands for nan, a window without load."""

    model_config = ConfigDict(extra="forbid")

    name: str
    num_slots: int
    balancedness: list[float | None]
    worst_layer: list[float | None]
    fifth_percentile: list[float | None]
    time: list[float]
    ideal_time: list[float]
    moves: list[int]
    bytes_moved: list[float]
    stall: list[float]
    is_renewed: list[bool]
    largest_by_layer: list[float]
    ideal_by_layer: list[float]
    duplicates: int
    failure: str
    explanation: str


class SimulationFile(BaseModel):
    """What a simulation file holds, version 1."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["equipoise-simulation"] = "equipoise-simulation"
    version: Literal[1] = 1
    num_windows: int
    num_ranks: int
    dispatch: str
    time_model: str
    policies: list[PolicyRecord]


def write_simulation(path: str | PathLike[str], content: SimulationFile) -> None:
    """Write a simulation file atomically.

    Raises
    ------
    FileError
        When the folder cannot be written.
    """
    with whole_file(path) as file:
        file.write(encode_simulation(content))


def encode_simulation(content: SimulationFile) -> bytes:
    """Return the bytes of a simulation file."""
    return content.model_dump_json().encode() + b"\n"


def read_simulation(path: str | PathLike[str]) -> SimulationFile:
    """Read a simulation file.

    Raises
    ------
    FileError
        When it cannot be read, is no simulation file, or is of a version this equipoise does not know.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        return SimulationFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FileError(
            f"{path} is not a simulation file ({place}: {first['msg']})",
            "it needs format equipoise-simulation, version 1, as written by equipoise simulate --out",
            "write it again",
        ) from error
