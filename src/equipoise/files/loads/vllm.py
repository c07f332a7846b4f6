"""vLLM's load statistics as JSON Lines, in both revisions of its offline balancer (docs/engines/vllm.md).

Each record counts tokens by slot and carries the map of that moment. Revision A has records alone, among markers of other
kinds; revision B has one ``eplb_load_meta`` line first.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from equipoise.errors import FileError
from equipoise.files.loads.folding import fold
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input
from equipoise.files.loads.records import Record, Steps, check_version, matrix, read_records, whole_number

_STATS = "eplb_load_stats"
_META = "eplb_load_meta"
_STARTS = (_STATS, _META, "session_metadata", "bench_run_start")


def recognises(given: Input) -> bool:
    """Say whether it is JSON Lines whose first record is one of vLLM's."""
    return given.first_record.get("record_type") in _STARTS


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read records one by one, each folded to experts with its own map; steps in the order of the file."""
    steps, others = Steps(), Counter[str]()
    meta: Record | None = None
    numbers: list[int | None] = []
    num_experts = hints.num_experts
    with given.open() as file:
        for record in read_records(file, given.name):
            kind = record.fields.get("record_type")
            if kind == _META:
                _check_first(record, meta, len(steps))
                meta = record
            elif kind == _STATS:
                if not len(steps):
                    num_experts = _experts_of(record, meta) or num_experts
                _add_load(steps, record, num_experts, meta)
                numbers.append(whole_number(record, "step"))
            else:
                others[str(kind)[:40]] += 1
    if not len(steps):
        raise FileError(
            f"{given.name} has no record of type {_STATS}", "each step's load is one", "record it with statistics switched on"
        )
    rises = all(now is None or last is None or now > last for last, now in pairwise(numbers))
    return FoundLoad(steps.stacked(), hints.layer_ids, is_in_order=rises, remarks=tuple(_remarks(others, rises)))


def _check_first(record: Record, meta: Record | None, num_steps: int) -> None:
    check_version(record)
    if meta is not None or num_steps:
        raise FileError(
            f"{record.place} is a second {_META} or follows records",
            "a file holds one, before its records, as it describes all of them",
            "cut the file there: one recording a file",
        )


def _add_load(steps: Steps, record: Record, num_experts: int | None, meta: Record | None) -> None:
    """Fold one record's load with its own map; where nobody says how many experts there are, the largest of any map tells."""
    check_version(record)
    load = matrix(record, "expert_load")
    slots = matrix(record, "p2l_map", whole=True)
    if load.shape != slots.shape:
        raise FileError(
            f"{record.place} has expert_load {list(load.shape)} and p2l_map {list(slots.shape)}",
            "both must be [layers, slots]",
            "mend or drop that line",
        )
    for source in (record, *([meta] if meta else [])):
        layers = whole_number(source, "num_layers", 1)
        if layers not in (None, len(load)):
            raise FileError(
                f"{record.place} has loads of {len(load)} layers",
                f"num_layers in {source.place} says {layers}",
                "mend or drop that line",
            )
    held = num_experts or max(steps.num_experts, int(slots.max()) + 1, 1)
    folded = fold(load, slots, held, record.place)
    steps.widen(held)
    steps.add(folded, record.place)


def _experts_of(record: Record, meta: Record | None) -> int | None:
    """Return how many experts a record's slots are for, where the file says how many slots were redundant at first."""
    redundant = whole_number(meta, "num_redundant_experts") if meta else None
    rows = record.fields.get("p2l_map")
    if redundant is None or not isinstance(rows, list) or not rows or not isinstance(rows[0], list):
        return None
    if redundant >= len(rows[0]):
        raise FileError(
            f"{record.place} has {len(rows[0])} slots a layer",
            f"{_META} says that {redundant} of them are redundant",
            "cut the file there: one recording a file",
        )
    return len(rows[0]) - redundant


def _remarks(others: Counter[str], rises: bool) -> list[str]:
    remarks = []
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())[:5])
        remarks.append(f"left out {others.total()} records that hold no load ({kinds})")
    if not rises:
        remarks.append("the step numbers do not rise throughout: several runs, or not in the order of time")
    return remarks
