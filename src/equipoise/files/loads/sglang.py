"""Read what SGLang's recorder of expert distributions dumps: counts by expert (stat), or each rank's by slot (passes)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads import torch_files
from equipoise.files.loads.folding import fold
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import Rows, busy_layers, busy_rows, named_rows
from equipoise.files.loads.opening import Input
from equipoise.files.loads.ring import time_order

_COUNTS = "logical_count"
_SLOT_COUNTS = "global_physical_count"
_IDS = "topk_ids_of_layer"
_MAP = "last_physical_to_logical_map"
_UTILIZATION = "average_utilization_rate_over_window"
_PHASES = {1: "prefill", 2: "decode", 3: "mixed", 8: "prefill"}
_IDLE = 4
_MOST_BY_SOURCE = 2**26
_AGAIN = "record it again"


class _Pass(NamedTuple):
    """What one rank counted in one forward pass: ``counts`` [hidden layers, slots]."""

    number: int
    rank: int
    counts: npt.NDArray[Any]
    mode: int | None


def is_stat(given: Input) -> bool:
    """Say whether it is a dict with ``logical_count`` and the recorder's ``rank`` or average utilization."""
    found = given.torch_object
    return isinstance(found, dict) and _COUNTS in found and ("rank" in found or _UTILIZATION in found)


def is_per_token(given: Input) -> bool:
    """Say whether it is files of records by forward pass that name the slots picked for each token."""
    return any(_IDS in record for part in _dumps(given) for record in _records(part)[:1])


def is_per_pass(given: Input) -> bool:
    """Say whether it is files of records by forward pass."""
    return bool(_dumps(given))


def read_stat(given: Input, hints: Hints) -> FoundLoad:
    """Read a ``stat`` or ``stat_approx`` dump: [rows of a ring, hidden layers, experts], added up over ranks by the engine.

    Rows never written and dense layers are left out; the others are put in order of time where the zeros tell it.
    """
    found = given.torch_object
    if not isinstance(found, dict) or not torch_files.is_tensor(found.get(_COUNTS)):
        raise FileError(f"{given.name} has no tensor {_COUNTS}", "SGLang's stat dumps hold one", "name another format")
    counts = torch_files.as_numbers(found[_COUNTS], given.name)
    if counts.ndim == 2:
        counts = counts[np.newaxis]
    if counts.ndim != 3 or 0 in counts.shape:
        raise FileError(
            f"{given.name} has {_COUNTS} of shape {list(counts.shape)}", "it must be [steps, hidden layers, experts]", _AGAIN
        )
    is_busy = busy_layers(counts)
    layers, remarks = _chosen_layers(is_busy, hints, given.name)
    order = time_order(np.logical_or.reduce(is_busy, axis=1), hints.is_in_order)
    return FoundLoad(
        _picked(counts, order.rows, layers),
        tuple(layers),
        is_in_order=order.is_known,
        remarks=(*remarks, *order.remarks),
    )


def read_passes(given: Input, hints: Hints) -> FoundLoad:
    """Read ``per_pass`` or ``per_token`` dumps, one file a rank or a folder of all: slots are folded to experts.

    Counts of ranks with one ``forward_pass_id`` are added up; passes that some ranks lack are left out. The source ranks are
    kept where counts are by source (not by slot of the rank that counted), and a tensor of them stays in memory.
    """
    dumps = _dumps(given)
    if not dumps:
        raise FileError(
            f"{given.name} has no records", "SGLang's per_pass and per_token dumps hold them", "name another format"
        )
    expert_of_slot = _map_of(dumps)
    passes, remarks = _whole_passes(dumps, expert_of_slot.shape, given)
    load, source_load, of_sources = _folded(passes, expert_of_slot, hints.num_experts, given.name)
    is_busy = busy_layers(load)
    layers, of_layers = _chosen_layers(is_busy, hints, given.name)
    steps = np.flatnonzero(is_busy.any(axis=1))
    idle = (f"left out {len(load) - len(steps):,} passes without load",) if len(steps) < len(load) else ()
    return FoundLoad(
        _picked(load, steps, layers),
        tuple(layers),
        phases=_phases([passes[step] for step in steps]),
        source_load=None if source_load is None else source_load[steps][:, :, layers],
        remarks=(*remarks, *of_sources, *of_layers, *idle),
    )


def _dumps(given: Input) -> list[Input]:
    """Return the files with records by forward pass: of a folder those that are such, of a file itself."""
    parts = [part for part in given.parts if part.kind == "torch"]
    return [part for part in parts if isinstance(part.torch_object, dict) and {"records", _MAP} <= set(part.torch_object)]


def _records(dump: Input) -> list[dict[str, Any]]:
    records = dump.torch_object["records"]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise FileError(f"{dump.name} has no list of records", "each forward pass has one, a dict", _AGAIN)
    return records


def _map_of(dumps: Sequence[Input]) -> npt.NDArray[np.int64]:
    """Return which expert each slot held at last, [hidden layers, slots], the same in all files."""
    first: npt.NDArray[np.int64] | None = None
    for dump in dumps:
        found = _tensor(dump.torch_object.get(_MAP), _MAP, dump.name).astype(np.int64)
        if first is not None and not np.array_equal(first, found):
            raise FileError(
                f"{dump.name} has another {_MAP} than {dumps[0].name}",
                "files of one folder must be of one recording",
                "give each recording a folder of its own",
            )
        first = found
    assert first is not None
    return first


def _whole_passes(
    dumps: Sequence[Input], shape: tuple[int, ...], given: Input
) -> tuple[list[tuple[_Pass, ...]], tuple[str, ...]]:
    """Return the passes that all ranks recorded, in order, each with its ranks in order; and what is to be said of them."""
    found: dict[int, dict[int, _Pass]] = {}
    for dump in dumps:
        for one in _passes(dump, shape):
            if one.rank in found.setdefault(one.number, {}):
                raise FileError(
                    f"{dump.name} has pass {one.number} of rank {one.rank}, as another record has",
                    "each rank counts a pass once",
                    "give each recording a folder of its own",
                )
            found[one.number][one.rank] = one
    ranks = sorted({rank for by_rank in found.values() for rank in by_rank})
    remarks = _about_ranks(ranks, given)
    whole = [tuple(by_rank[rank] for rank in ranks) for _, by_rank in sorted(found.items()) if len(by_rank) == len(ranks)]
    if not whole:
        raise FileError(
            f"{given.name} has {len(found)} passes, none of them recorded by all {len(ranks)} ranks",
            "the counts of all ranks add up to a pass's load",
            "start and stop recording on all ranks at once",
        )
    if len(whole) < len(found):
        remarks += (f"left out {len(found) - len(whole):,} of {len(found):,} passes that some ranks did not record",)
    return whole, remarks


def _about_ranks(ranks: Sequence[int], given: Input) -> tuple[str, ...]:
    if given.kind != "directory":
        return (f"counts of rank {', '.join(map(str, ranks))} alone: give the folder to add up all ranks",)
    missing = sorted(set(range(len(ranks))) - set(ranks))
    if missing:
        raise FileError(
            f"{given.name} has no file of rank {missing[0]}",
            f"the {len(ranks)} ranks with files must be 0 to {len(ranks) - 1}",
            "copy the files of all ranks into the folder",
        )
    return ()


def _passes(dump: Input, shape: tuple[int, ...]) -> Iterable[_Pass]:
    for number, record in enumerate(_records(dump)):
        place = f"{dump.name}, record {number}"
        counts = _counts(record, shape, place)
        if counts.shape != shape:
            raise FileError(f"{place} counts {list(counts.shape)}", f"it must be {list(shape)}, as the map of slots", _AGAIN)
        mode = record.get("forward_mode")
        numbers = [_integer(record, key, place) for key in ("forward_pass_id", "rank")]
        yield _Pass(numbers[0], numbers[1], counts, mode if isinstance(mode, int) else None)


def _counts(record: dict[str, Any], shape: tuple[int, ...], place: str) -> npt.NDArray[Any]:
    """Return a record's tokens by slot, [hidden layers, slots]; from the slots picked where they were not counted."""
    if _SLOT_COUNTS in record or _IDS not in record:
        return _tensor(record.get(_SLOT_COUNTS), _SLOT_COUNTS, place)
    ids = _tensor(record[_IDS], _IDS, place, 3)
    if ids.shape[0] != shape[0] or ids.min(initial=0) < -1 or ids.max(initial=0) >= shape[1]:
        raise FileError(
            f"{place} picks slots from {ids.min(initial=0)} to {ids.max(initial=0)} in {ids.shape[0]} layers",
            f"it must pick from {shape[1]} slots (-1 for none) in {shape[0]} layers",
            _AGAIN,
        )
    return np.stack([np.bincount(layer[layer >= 0], minlength=shape[1]) for layer in ids])


def _tensor(found: object, key: str, place: str, ndim: int = 2) -> npt.NDArray[Any]:
    numbers = torch_files.as_numbers(found, place) if torch_files.is_tensor(found) else np.empty(0)
    if numbers.ndim != ndim or 0 in numbers.shape or numbers.dtype.kind not in "iu":
        raise FileError(f"{place} has no {key} of {ndim} dimensions", "it must be a tensor of integers", _AGAIN)
    return numbers


def _integer(record: dict[str, Any], key: str, place: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise FileError(f"{place} has no {key}", "it must be a whole number >= 0", _AGAIN)
    return value


def _folded(
    passes: Sequence[tuple[_Pass, ...]], expert_of_slot: npt.NDArray[np.int64], num_experts: int | None, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, tuple[str, ...]]:
    """Return loads [passes, layers, experts], the same by source rank where known and not too large, and remarks."""
    num_ranks = len(passes[0])
    first = _fold_pass(passes[0], expert_of_slot, num_experts, name)
    load = np.empty((len(passes), *first.shape[1:]), np.int64)
    source_load, remarks = None, _about_sources(passes)
    if num_ranks > 1 and not remarks:
        if len(passes) * first.size <= _MOST_BY_SOURCE:
            source_load = np.empty((len(passes), *first.shape), np.int64)
        else:
            remarks = (f"left out from which of {num_ranks} ranks tokens came: {len(passes) * first.size:,} numbers",)
    for step, counted in enumerate(passes):
        by_rank = first if step == 0 else _fold_pass(counted, expert_of_slot, num_experts, name)
        load[step] = by_rank.sum(axis=0)
        if source_load is not None:
            source_load[step] = by_rank
    return load, source_load, remarks


def _fold_pass(
    counted: Sequence[_Pass], expert_of_slot: npt.NDArray[np.int64], num_experts: int | None, name: str
) -> npt.NDArray[Any]:
    return fold(np.stack([one.counts for one in counted]), expert_of_slot, num_experts, f"{name}, pass {counted[0].number}")


def _about_sources(passes: Sequence[tuple[_Pass, ...]]) -> tuple[str, ...]:
    """Say why ranks are not the sources of what they counted, where they are not."""
    num_ranks, num_slots = len(passes[0]), passes[0][0].counts.shape[1]
    if num_ranks < 2:
        return ()
    if all(np.array_equal(one.counts, counted[0].counts) for counted in passes for one in counted[1:]):
        return (f"all {num_ranks} ranks counted the same tokens: loads are {num_ranks} times as large as they were",)
    slots = num_slots // num_ranks
    starts = [rank * slots for rank in range(num_ranks)]
    if all(
        not one.counts[:, :start].any() and not one.counts[:, start + slots :].any()
        for counted in passes
        for one, start in zip(counted, starts, strict=True)
    ):
        return ("each rank counted what its own slots received: from which ranks tokens came is not known",)
    return ()


def _phases(passes: Sequence[tuple[_Pass, ...]]) -> tuple[str, ...] | None:
    """Return what each pass did, over the ranks that were not idle; None where a record does not say."""
    modes = [{one.mode for one in counted if one.mode is not None and one.mode != _IDLE} for counted in passes]
    if not all(modes):
        return None
    names = [{_PHASES.get(mode, f"mode {mode}") for mode in found} for found in modes]
    return tuple(found.pop() if len(found) == 1 else "mixed" for found in names)


def _chosen_layers(is_busy: npt.NDArray[np.bool_], hints: Hints, name: str) -> Rows:
    """Return the rows of MoE layers among all hidden layers: those named, or those with load."""
    if not is_busy.any():
        raise FileError(f"{name} has no load at all", "it must hold at least one pass", "record while requests run")
    if hints.layer_ids:
        return named_rows(is_busy.shape[1], hints.layer_ids, name)
    return busy_rows(np.logical_or.reduce(is_busy))


def _picked(load: npt.NDArray[Any], steps: npt.NDArray[np.int64], layers: Sequence[int]) -> npt.NDArray[Any]:
    """Copy steps and layers, in the order asked for, one step at a time: files lie mapped, so a view would hang on them."""
    picked = np.empty((len(steps), len(layers), load.shape[2]), load.dtype)
    for to, step in zip(picked, steps, strict=True):
        to[:] = load[step, layers]
    return picked
