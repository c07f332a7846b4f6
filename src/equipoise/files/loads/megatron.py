"""Megatron's dumps of expert load, one ``.npz`` a rank (docs/engines/megatron.md).

Each rank counts the tokens that it routes, by layer, forward and slot. Over the ranks of an expert-parallel group they add up;
groups of other pipeline stages bring other layers, groups of the same layers are replicas of the model and add up too.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads.arrays import read_array
from equipoise.files.loads.folding import active_slots, fold
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input, look_at

_VERSION = "mcore_ep_load_dump_v1"
_FILE = re.compile(r"mcore_ep_loads_rank[0-9]+_.*\.npz")
_NEEDED = ("dump_version", "loads", "layer_numbers", "forward_counts", "ep_group_ranks", "ep_rank", "global_rank")


def recognises(given: Input) -> bool:
    """Say whether it is a dump, or a folder with files of the dumps' name."""
    if given.kind == "directory":
        return any(_FILE.fullmatch(name) for name in given.files)
    return {"dump_version", "loads", "forward_counts"} <= set(given.arrays)


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a folder of all ranks' dumps, or one rank's, which holds the tokens of that rank alone.

    Where the dumps hold different numbers of forwards, the last of the longer ones are left out.
    """
    remarks = ["Megatron numbers layers from 1: layers are given here by its numbers less 1, as the model's own"]
    if given.kind == "directory":
        names = [name for name in given.files if _FILE.fullmatch(name)]
        if not names:
            raise FileError(
                f"{given.name} holds no file mcore_ep_loads_rank*.npz", "Megatron writes one for each rank", "name their folder"
            )
        dumps = [_read_dump(given.path / name, f"{given.name}/{name}") for name in names]
        _check_groups(dumps, given.name)
    else:
        dumps = [_read_dump(given.path, given.name)]
        if len(dumps[0].group) > 1:
            remarks.append(f"tokens of rank {dumps[0].rank} alone: give the folder to add up all ranks")
    source, layers, longest = _joined(dumps, is_alone=given.kind != "directory")
    if longest > len(source):
        remarks.append(f"left out forwards after the first {len(source)}, as not every layer of every rank has them")
    _, ranks, num_layers, slots = source.shape
    may_be_slots = hints.active is None and hints.num_experts is None
    if hints.active is not None or hints.num_experts not in (None, slots):
        source = fold(source, *active_slots(hints, num_layers, slots, given.name, layers), given.name, layers)
    elif hints.num_experts is None:
        remarks.append("counts are by slot, and each is taken for an expert, as no active placement is given")
    load = source.sum(axis=1, dtype=np.int64)
    source_load = source if ranks > 1 else None
    return FoundLoad(load, layers, source_load=source_load, remarks=tuple(remarks), may_be_slots=may_be_slots)


@dataclass(frozen=True)
class _Dump:
    """One rank's dump: loads [layers, forwards, slots], of which each layer's first ``forwards`` are filled."""

    name: str
    loads: npt.NDArray[Any]
    layers: tuple[int, ...]
    forwards: tuple[int, ...]
    group: tuple[int, ...]
    rank: int
    rank_in_group: int


def _read_dump(path: Path, name: str) -> _Dump:
    given = look_at(path, name)
    missing = [key for key in _NEEDED if key not in given.arrays]
    if missing:
        raise FileError(f"{name} has no array {missing[0]}", f"a dump of Megatron has {', '.join(_NEEDED)}", "copy it again")
    version = read_array(given, "dump_version")
    if version.ndim or str(version) != _VERSION:
        raise FileError(f"{name} is of version {str(version)[:40]!r}", f"equipoise knows {_VERSION}", "upgrade equipoise")
    names = {key: _whole_numbers(given, key) for key in _NEEDED[2:]}
    if len(names["ep_rank"]) != 1 or len(names["global_rank"]) != 1:
        raise FileError(f"{name} has several ranks", "ep_rank and global_rank are one number", "copy it again")
    dump = _Dump(
        name,
        read_array(given, "loads"),
        names["layer_numbers"],
        names["forward_counts"],
        names["ep_group_ranks"],
        names["global_rank"][0],
        names["ep_rank"][0],
    )
    _check_dump(dump)
    return dump


def _whole_numbers(given: Input, key: str) -> tuple[int, ...]:
    found = read_array(given, key)
    if found.dtype.kind not in "iu" or found.ndim > 1 or not found.size or found.min() < 0 or found.max() >= 2**31:
        raise FileError(f"{given.name} has unusable {key}", "it must hold whole numbers >= 0, each of 32 bits", "copy it again")
    return tuple(int(number) for number in np.ravel(found))


def _check_dump(dump: _Dump) -> None:
    shape = dump.loads.shape
    if dump.loads.dtype.kind not in "iu" or len(shape) != 3 or 0 in shape:
        raise FileError(
            f"{dump.name} has loads of {dump.loads.dtype} {list(shape)}",
            "they must be counts [layers, forwards, slots], none of them 0",
            "copy it again",
        )
    if not shape[0] == len(set(dump.layers)) == len(dump.layers) == len(dump.forwards):
        raise FileError(
            f"{dump.name} has {shape[0]} loads, {len(dump.layers)} layer_numbers, {len(dump.forwards)} forward_counts",
            "each layer has one of each, and its own number",
            "copy it again",
        )
    if min(dump.layers) < 1:
        raise FileError(f"{dump.name} has layer number 0", "Megatron numbers layers from 1", "copy it again")
    fewest = min(dump.forwards)
    if fewest < 1 or max(dump.forwards) > shape[1]:
        layer = dump.layers[dump.forwards.index(fewest)]
        raise FileError(
            f"{dump.name} has {fewest} to {max(dump.forwards)} forwards a layer, {fewest} for layer {layer}",
            f"each layer needs 1 to {shape[1]}",
            "record more forwards",
        )
    if dump.loads.min() < 0:
        used = [dump.loads[row, :count].min() for row, count in enumerate(dump.forwards)]
        if min(used) < 0:
            layer = dump.layers[int(np.argmin(used))]
            raise FileError(f"{dump.name} has a load of {min(used)} in layer {layer}", "loads are >= 0", "record it again")
    if len(set(dump.group)) != len(dump.group) or dump.group.count(dump.rank) != 1:
        raise FileError(
            f"{dump.name} is of rank {dump.rank}", "ep_group_ranks must name it and each other rank once", "copy it again"
        )
    if dump.group[dump.rank_in_group : dump.rank_in_group + 1] != (dump.rank,):
        raise FileError(
            f"{dump.name} has ep_rank {dump.rank_in_group}", "it must be its place in ep_group_ranks", "copy it again"
        )


def _check_groups(dumps: list[_Dump], name: str) -> None:
    """Refuse a rank twice, groups that overlap or lack a rank, and groups of different sizes or layers."""
    (rank, times), *_ = Counter(dump.rank for dump in dumps).most_common(1)
    if times > 1:
        raise FileError(
            f"{name} has {times} dumps of rank {rank}", "a folder is read as one capture", "keep a folder for each capture"
        )
    by_rank = {dump.rank: dump for dump in dumps}
    for dump in dumps:
        for other in dump.group:
            found = by_rank.get(other)
            if found is None:
                raise FileError(
                    f"{name} has no dump of rank {other}",
                    f"it is in the group of rank {dump.rank}, and the load is the sum over the group",
                    "copy the files of all ranks, or name one file",
                )
            if (found.group, found.layers) != (dump.group, dump.layers):
                raise FileError(
                    f"{found.name} and {dump.name} differ in ep_group_ranks or layer_numbers",
                    "ranks of one group have the same",
                    "keep a folder for each capture",
                )
    sizes = sorted({(len(dump.group), dump.loads.shape[2]) for dump in dumps})
    if len(sizes) > 1:
        raise FileError(
            f"{name} has dumps of groups of {sizes[0][0]} and {sizes[0][1]} slots, and of {sizes[-1][0]} and {sizes[-1][1]}",
            "all groups of a capture have the same",
            "keep a folder for each capture",
        )


def _joined(dumps: list[_Dump], *, is_alone: bool) -> tuple[npt.NDArray[Any], tuple[int, ...], int]:
    """Return loads [forwards, ranks of a group, layers, slots], the model's layers, and the most forwards of a layer."""
    layers = sorted({layer for dump in dumps for layer in dump.layers})
    forwards = min(min(dump.forwards) for dump in dumps)
    longest = max(max(dump.forwards) for dump in dumps)
    ranks = 1 if is_alone else len(dumps[0].group)
    slots = dumps[0].loads.shape[2]
    high = max(int(dump.loads[:, :forwards].max()) for dump in dumps)
    if high > 2**40:
        raise FileError(f"{dumps[0].name} or another has a load of {high}", "loads are counts of tokens", "record it again")
    dtype = np.int32 if high * len(dumps) < 2**31 else np.int64
    source = np.zeros((forwards, ranks, len(layers), slots), dtype)
    for dump in dumps:
        rows = np.searchsorted(layers, dump.layers)
        to = source[:, 0 if is_alone else dump.rank_in_group]
        to[:, rows] += dump.loads[:, :forwards].transpose(1, 0, 2).astype(dtype, copy=False)
    return source, tuple(layer - 1 for layer in layers), longest
