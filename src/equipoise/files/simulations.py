"""Simulation files: versioned JSON, the same bytes for the same simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """What a simulation file holds, version 1; the first files had neither slots nor a fingerprint."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["equipoise-simulation"] = "equipoise-simulation"
    version: Literal[1] = 1
    num_windows: int
    num_ranks: int
    dispatch: str
    time_model: str
    num_slots: int = 0
    fingerprint: str = ""
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
        When it cannot be read, is no simulation file, is of a version this equipoise does not know, or holds figures that no
        simulation finds; the policy and the window are named.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        found = SimulationFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FileError(
            f"{path} is not a simulation file ({place}: {first['msg']})",
            "it needs format equipoise-simulation, version 1, as written by equipoise simulate --out",
            "write it again",
        ) from error
    fault = next(_faults(found), None)
    if fault is not None:
        raise FileError(f"{path} is damaged: {fault[0]}", fault[1], "simulate again")
    return found


_SHARES = ("balancedness", "worst_layer", "fifth_percentile")
_AMOUNTS = ("time", "ideal_time", "moves", "bytes_moved", "stall")
_BY_LAYER = ("largest_by_layer", "ideal_by_layer")
_ROUNDING = 1e-9


def _faults(found: SimulationFile) -> Iterator[tuple[str, str]]:
    """Yield what no simulation finds, and the rule it breaks."""
    if found.num_windows < 1 or found.num_ranks < 1:
        yield f"{found.num_windows} windows on {found.num_ranks} ranks", "there is one of each at least"
    names = [policy.name for policy in found.policies]
    for name in names:
        if names.count(name) > 1:
            yield f"policy {name} stands there twice", "each has a name of its own"
    for policy in found.policies:
        yield from _faults_of_policy(policy, found.num_windows)


def _faults_of_policy(policy: PolicyRecord, num_windows: int) -> Iterator[tuple[str, str]]:
    scored = len(policy.balancedness)
    if scored > num_windows or (scored < num_windows and not policy.failure):
        yield f"policy {policy.name} has {scored} windows", f"it says that {num_windows} were scored"
    for name in (*_SHARES, *_AMOUNTS, "is_renewed"):
        if len(getattr(policy, name)) != scored:
            yield f"policy {policy.name} has {len(getattr(policy, name))} of {name}", f"it has {scored} windows"
    if len(policy.largest_by_layer) != len(policy.ideal_by_layer):
        yield f"policy {policy.name} has {len(policy.largest_by_layer)} of largest_by_layer", "there is one a layer"
    for name in _SHARES:
        yield from _out_of_range(policy.name, name, getattr(policy, name), 1 + _ROUNDING, "window", "a share is in [0, 1]")
    for name in _AMOUNTS:
        yield from _out_of_range(policy.name, name, getattr(policy, name), float("inf"), "window", "it is finite and >= 0")
    for name in _BY_LAYER:
        yield from _out_of_range(policy.name, name, getattr(policy, name), float("inf"), "layer", "it is finite and >= 0")
    for name in ("num_slots", "duplicates"):
        if getattr(policy, name) < 0:
            yield f"policy {policy.name} has {name} {getattr(policy, name)}", "it is >= 0"


def _out_of_range(
    policy: str, name: str, values: Sequence[float | None], most: float, place: str, rule: str
) -> Iterator[tuple[str, str]]:
    """Yield values outside of [0, most], and those that are not finite; windows are numbered as timelines do, from 1."""
    for number, value in enumerate(values, start=1 if place == "window" else 0):
        if value is not None and not (0 <= value <= most and value < float("inf")):
            yield f"policy {policy} has {name} {value:g} in {place} {number}", rule
