"""TensorRT-LLM's expert statistics: a folder with counts by iteration and layer from each rank (docs/engines/tensorrt-llm.md).

``rank{r}.safetensors`` counts the tokens that came from rank r, under keys ``"{iteration}_{layer}"``. With its load balancer
on, the engine counts slots: then the active placement says which expert each held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, first_line, unreadable
from equipoise.files.loads.folding import active_slots, fold
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input

_META = "meta_info.json"
_LARGEST_META = 2**20
_RANK_FILE = re.compile(r"rank(0|[1-9][0-9]{0,8})\.safetensors")
_KEY = re.compile(r"([0-9]{1,18})_([0-9]{1,9})")


def recognises(given: Input) -> bool:
    """Say whether it is a folder with files ``rank{r}.safetensors``, or one of these."""
    return given.kind == "safetensors" or any(_RANK_FILE.fullmatch(name) for name in given.files)


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a folder, or one rank's file, which holds the tokens of that rank alone.

    Iterations must follow one another, and each rank must have every iteration of every layer. Files that hold no load of
    experts are left out.
    """
    if given.kind == "directory":
        counts = _of_folder(given)
        remarks = _left_out(given)
    else:
        counts = _of_files([_RankFile.open(given.path, given.name)], None)
        remarks = ("tokens that came from one rank alone: give the folder to add up all ranks",)
    return replace(_by_expert(counts, hints, given.name), remarks=remarks)


@dataclass(frozen=True)
class _Counts:
    """Tokens [iterations, ranks, layers, slots or experts], and the model's numbers of the layers."""

    source: npt.NDArray[Any]
    layer_ids: tuple[int, ...]


@dataclass(frozen=True)
class _RankFile:
    """One rank's file, opened: its keys by (iteration, layer)."""

    file: Any
    name: str
    keys: dict[tuple[int, int], str]

    @classmethod
    def open(cls, path: Path, name: str) -> _RankFile:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(str(path), framework="np")
            names = list(file.keys())
        except OSError as error:
            raise unreadable(name, error) from error
        except SafetensorError as error:
            raise _damaged(name, error) from error
        keys = {}
        for key in names:
            match = _KEY.fullmatch(key)
            if match is None:
                raise FileError(
                    f"{name} has the key {key[:40]!r}",
                    "TensorRT-LLM's statistics have keys ITERATION_LAYER, such as 100_3",
                    "give the folder that EXPERT_STATISTIC_PATH named",
                )
            keys[int(match[1]), int(match[2])] = key
        if len(keys) != len(names) or not keys:
            raise FileError(
                f"{name} has {len(names)} keys for {len(keys)} counts", "each iteration and layer has one", "record it again"
            )
        return cls(file, name, keys)

    def counts(self, place: tuple[int, int]) -> npt.NDArray[Any]:
        key = self.keys[place]
        try:
            found: npt.NDArray[Any] = self.file.get_tensor(key)
        except Exception as error:  # types that numpy lacks fail in several ways
            raise _damaged(f"{self.name}, key {key}", error) from error
        return found


def _damaged(name: str, error: BaseException) -> FileError:
    return FileError(
        f"{name} is damaged ({first_line(error)})", "it must be a whole safetensors file", "write or copy it again"
    )


def _of_folder(given: Input) -> _Counts:
    ranks = sorted(int(match[1]) for match in map(_RANK_FILE.fullmatch, given.files) if match)
    if not ranks:
        raise FileError(
            f"{given.name} holds no file rank*.safetensors",
            "TensorRT-LLM writes one for each rank",
            "give the folder that EXPERT_STATISTIC_PATH named",
        )
    missing = next((rank for rank in range(len(ranks)) if rank not in ranks), None)
    if missing is not None:
        raise FileError(
            f"{given.name} has no rank{missing}.safetensors",
            f"there are files of {len(ranks)} ranks, up to {ranks[-1]}, and the load is the sum over all ranks",
            "copy the files of all ranks",
        )
    num_experts = _num_experts(given.path / _META, f"{given.name}/{_META}")
    names = [f"rank{rank}.safetensors" for rank in ranks]
    return _of_files([_RankFile.open(given.path / name, f"{given.name}/{name}") for name in names], num_experts)


def _num_experts(path: Path, name: str) -> int:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_META)
        found = json.loads(text)
        number = found.get("num_experts") if isinstance(found, dict) else None
    except OSError as error:
        raise unreadable(name, error) from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is not valid JSON ({first_line(error)})", "it names num_experts", "copy it again") from error
    if type(number) is not int or not 0 < number < 2**31:
        raise FileError(f"{name} has no usable num_experts", "it must be a whole number > 0", "mend it")
    return number


def _of_files(files: list[_RankFile], num_experts: int | None) -> _Counts:
    iterations, layers = _places(files)
    first = files[0].counts((iterations[0], layers[0]))
    experts = num_experts or first.size
    _check_counts(first, experts, files[0], (iterations[0], layers[0]))
    source = np.zeros((len(iterations), len(files), len(layers), experts), np.int32)
    largest = np.iinfo(np.int32).max
    for rank, file in enumerate(files):
        for place, step, layer in _each(iterations, layers):
            counts = file.counts(place)
            high = _check_counts(counts, experts, file, place)
            if high > largest:
                source, largest = source.astype(np.int64), 2**63
            source[step, rank, layer] = counts
    return _Counts(source, tuple(layers))


def _each(iterations: range, layers: list[int]) -> Iterator[tuple[tuple[int, int], int, int]]:
    for step, iteration in enumerate(iterations):
        for row, layer in enumerate(layers):
            yield (iteration, layer), step, row


def _places(files: list[_RankFile]) -> tuple[range, list[int]]:
    """Return the iterations and layers that each file must have, and has."""
    held = {iteration for iteration, _ in files[0].keys}
    layers = sorted({layer for _, layer in files[0].keys})
    iterations = range(min(held), max(held) + 1)
    if len(iterations) != len(held):
        gap = min(held)
        while gap in held:
            gap += 1
        raise FileError(
            f"{files[0].name} has no iteration {gap}",
            f"iterations {iterations[0]} to {iterations[-1]} must follow one another",
            "record it again, or copy the whole file",
        )
    for file in files:
        if len(file.keys) != len(iterations) * len(layers) or not all(
            place in file.keys for place, *_ in _each(iterations, layers)
        ):
            raise _uneven(file, files[0], iterations, layers)
    return iterations, layers


def _uneven(file: _RankFile, first: _RankFile, iterations: range, layers: list[int]) -> FileError:
    missing = next((place for place, *_ in _each(iterations, layers) if place not in file.keys), None)
    extra = next((key for place, key in file.keys.items() if place not in first.keys), "")
    return FileError(
        f"{file.name} has no key {missing[0]}_{missing[1]}" if missing else f"{file.name} has the key {extra}",
        f"each rank must have the iterations {iterations[0]} to {iterations[-1]} of the {len(layers)} layers in {first.name}",
        "record again with one EXPERT_STATISTIC_ITER_RANGE on all ranks",
    )


def _check_counts(counts: npt.NDArray[Any], experts: int, file: _RankFile, place: tuple[int, int]) -> int:
    """Return the largest count."""
    key = file.keys[place]
    if counts.shape != (experts,) or counts.dtype != np.int64:
        raise FileError(
            f"{file.name}, key {key} is {counts.dtype} of shape {list(counts.shape)}",
            f"it must be int64 of shape [{experts}], as {_META} says",
            "copy the folder again, all files of one recording",
        )
    low, high = int(counts.min()), int(counts.max())
    if low < 0 or high > 2**40:
        raise FileError(
            f"{file.name}, key {key} has a count of {low if low < 0 else high}", "counts of tokens are >= 0", "record it again"
        )
    return high


def _by_expert(counts: _Counts, hints: Hints, name: str) -> FoundLoad:
    """Fold slots to experts where the placement in use is given; the load is the sum over the ranks."""
    source = counts.source
    _, ranks, layers, held = source.shape
    if hints.active is not None or hints.num_experts not in (None, held):
        expert_of_slot, experts = active_slots(hints, layers, held, name, counts.layer_ids)
        source = fold(source, expert_of_slot, experts, name, counts.layer_ids)
    load = source.sum(axis=1, dtype=np.int64)
    may_be_slots = hints.active is None and hints.num_experts is None
    source_load = source if ranks > 1 else None
    return FoundLoad(load, counts.layer_ids, source_load=source_load, may_be_slots=may_be_slots)


def _left_out(given: Input) -> tuple[str, ...]:
    others = [name for name in given.files if name != _META and not _RANK_FILE.fullmatch(name)]
    if not others:
        return ()
    return (f"left out {len(others)} files that hold no load ({', '.join(others[:3])})",)
