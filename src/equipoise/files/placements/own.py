"""Our own placement files: versioned JSON for people and tools, ``.npz`` for size. They hold any placement."""

from __future__ import annotations

import io
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from equipoise.errors import ArgumentError
from equipoise.files.placements.content import Content, shown
from equipoise.files.placements.format import Format, rows_of_text
from equipoise.files.placements.found import FoundCluster, FoundPlacement

NAME = "json"
_HEADER, _PLACED = "header", "expert_of_slot"
_MOST_EXPERTS = 2**20


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


def _recognises(content: Content) -> bool:
    return f"{_PLACED}.npy" in content.members or bool(content.keys & {"format", _PLACED})


def _read(content: Content) -> FoundPlacement:
    file = _validated(content)
    placed = content.rows(file.expert_of_slot, _PLACED)
    _check_sizes(content, file, placed.shape[1])
    layer_ids = tuple(file.layer_ids)
    if layer_ids and (len(layer_ids) != len(placed) or len(set(layer_ids)) != len(layer_ids)):
        raise content.foreign(f"layer_ids names {len(set(layer_ids))} layers, {_PLACED} has {len(placed)}")
    return FoundPlacement(
        placed,
        () if layer_ids == tuple(range(len(placed))) else layer_ids,  # positions: what is written where numbers are not known
        file.num_ranks,
        file.num_experts,
        cluster=FoundCluster(
            file.num_ranks, file.slots_per_rank, file.num_nodes, file.node_of_rank, file.rank_speeds, file.alive
        ),
        plan=file.plan,
    )


def _validated(content: Content) -> PlacementFile:
    try:
        return PlacementFile.model_validate(_read_npz(content) if content.is_zip else content.single)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise content.foreign(f"{place}: {first['msg']}") from error


def _check_sizes(content: Content, file: PlacementFile, num_slots: int) -> None:
    """Refuse numbers that would take memory beyond what the file holds."""
    for name, value, most in (
        ("num_ranks", file.num_ranks, num_slots),
        ("num_nodes", file.num_nodes, file.num_ranks),
        ("num_experts", file.num_experts, _MOST_EXPERTS),
    ):
        if not 1 <= value <= most:
            raise content.foreign(f"{name} is {shown(value)}, not 1..{most}")


def _read_npz(content: Content) -> dict[str, Any]:
    header, placed = content.arrays(_HEADER, _PLACED)
    with content.damage_named():
        fields: dict[str, Any] = json.loads(str(header).encode())  # numpy makes texts of bytes that are none
        return {**fields, _PLACED: placed.tolist()}


def _encode(found: FoundPlacement, ending: str) -> bytes:
    """Write the cluster as found, or equal ranks where only their number is known."""
    content = _file_of(found)
    if ending == ".json":
        return (_json_text(content, found) + "\n").encode()
    file = io.BytesIO()
    header = content.model_dump_json(exclude={_PLACED})
    np.savez_compressed(file, **{_HEADER: np.asarray(header), _PLACED: found.expert_of_slot})  # type: ignore[arg-type]
    return file.getvalue()


def _file_of(found: FoundPlacement) -> PlacementFile:
    cluster = _cluster_of(found)
    slots = cluster.slots_per_rank
    return PlacementFile(
        num_experts=found.experts_known,
        num_ranks=cluster.num_ranks,
        slots_per_rank=slots if isinstance(slots, int) else list(slots),
        num_nodes=cluster.num_nodes,
        node_of_rank=list(cluster.node_of_rank),
        rank_speeds=list(cluster.rank_speeds),
        alive=list(cluster.alive),
        layer_ids=list(found.layer_ids),
        plan=dict(found.plan),
        expert_of_slot=[],
    )


def _cluster_of(found: FoundPlacement) -> FoundCluster:
    if found.cluster is not None:
        return found.cluster
    if found.num_ranks is None:
        raise ArgumentError("the number of ranks is not known", "our own format holds the ranks", "give --ranks")
    if found.num_slots % found.num_ranks:
        raise ArgumentError(
            f"{found.num_slots} slots on {found.num_ranks} ranks",
            "slots must be divisible by ranks",
            "give the ranks it is for",
        )
    return FoundCluster(found.num_ranks, found.num_slots // found.num_ranks)


def _json_text(content: PlacementFile, found: FoundPlacement) -> str:
    """One key and one layer a line: files that people can read and compare."""
    fields = content.model_dump(exclude={_PLACED})
    head = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    return f'{{\n{head},\n  "{_PLACED}": [\n{rows_of_text(found.expert_of_slot, "    ")}\n  ]\n}}'


def _loading(path: str, found: FoundPlacement) -> str:
    return f"equipoise.Placement.read({path!r}), or --previous {path}"


FORMAT = Format(NAME, (".json", ".npz"), _recognises, _read, _encode, _loading)
