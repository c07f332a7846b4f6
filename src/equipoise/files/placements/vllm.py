"""vLLM's proposed ``eplb_initial_mapping`` record, a line of JSON; layers count MoE layers from 0.

No release up to 0.33.0 loads it: it is the format of vLLM's pull request 41141.
"""

from __future__ import annotations

import json
from typing import Any

from equipoise.files.placements.content import Content, shown
from equipoise.files.placements.format import Format, check_for_engine
from equipoise.files.placements.found import FoundPlacement

NAME = "vllm"
_RECORD = "eplb_initial_mapping"
_ASSIGNMENTS = "initial_global_assignments"


def _recognises(content: Content) -> bool:
    if content.is_zip or content.is_torch or content.text.lstrip()[:1] != "{":
        return False
    return '"record_type"' in content.text and any(isinstance(v, dict) and "record_type" in v for v in content.values)


def _read(content: Content) -> FoundPlacement:
    records = [value for value in content.values if isinstance(value, dict) and value.get("record_type") == _RECORD]
    if len(records) != 1:
        raise content.foreign(f"it has {len(records)} records {_RECORD}, not one")
    record = records[0]
    if record.get("version") != 1 or type(record["version"]) is not int:
        raise content.foreign(f"version is {shown(record.get('version'))}, not 1")
    placed = content.rows(_rows(content, record.get(_ASSIGNMENTS)), _ASSIGNMENTS)
    num_slots = placed.shape[1]
    if content.number(record.get("num_slots"), "num_slots") != num_slots:
        raise content.foreign(f"num_slots is {record['num_slots']}, but layer 0 has {num_slots} slots")
    redundant = content.number(record.get("num_redundant_experts"), "num_redundant_experts")
    if redundant >= num_slots:
        raise content.foreign(f"num_redundant_experts is {redundant} of {num_slots} slots")
    return FoundPlacement(placed, num_experts=num_slots - redundant)


def _rows(content: Content, given: object) -> list[Any]:
    if not isinstance(given, dict) or not given:
        raise content.foreign(f"{_ASSIGNMENTS} must be an object of layers")
    missing = next((layer for layer in range(len(given)) if str(layer) not in given), None)
    if missing is not None:
        raise content.foreign(f"{_ASSIGNMENTS} has {len(given)} layers, but none called {missing}: they count from 0")
    return [given[str(layer)] for layer in range(len(given))]


def _encode(found: FoundPlacement, ending: str) -> bytes:
    check_for_engine(found, NAME)
    record = {
        "record_type": _RECORD,
        "version": 1,
        "num_redundant_experts": found.num_slots - found.experts_known,
        "num_slots": found.num_slots,
        _ASSIGNMENTS: {str(layer): row for layer, row in enumerate(found.expert_of_slot.tolist())},
    }
    return (json.dumps(record) + "\n").encode()


def _loading(path: str, found: FoundPlacement) -> str:
    return (
        f'--eplb-config \'{{"initial_mapping_path": "{path}", "num_redundant_experts": '
        f"{found.num_slots - found.experts_known}}}' where vLLM's pull request 41141 is in; no release to 0.33.0 loads it"
    )


FORMAT = Format(NAME, (".jsonl", ".json"), _recognises, _read, _encode, _loading)
