"""One small valid file, or folder, of every format of loads and placements; and how slots are folded, slowly."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from equipoise.files.placements import FORMATS, FoundPlacement

Files = dict[str, bytes]
"""Names and contents of the files of a folder; a file alone has the name ``""``."""

STEPS, LAYERS, EXPERTS, RANKS, SLOTS = 4, 2, 6, 2, 8
LOAD = np.random.default_rng(1).integers(0, 50, (STEPS, LAYERS, EXPERTS))
SLOT_LOAD = np.random.default_rng(2).integers(0, 50, (STEPS, RANKS, LAYERS, SLOTS))
EXPERT_OF_SLOT = np.array([[0, 1, 2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0, 2, 3]])
PLACED = FoundPlacement(EXPERT_OF_SLOT, (0, 1), num_ranks=RANKS, num_experts=EXPERTS, hidden_layers=LAYERS)


def fold_slowly(load, expert_of_slot, num_experts):
    """Add up slot by slot."""
    folded = np.zeros((*load.shape[:-2], len(expert_of_slot), num_experts), np.int64 if load.dtype.kind in "iu" else float)
    for layer, row in enumerate(expert_of_slot):
        for slot, expert in enumerate(row):
            if expert >= 0:
                folded[..., layer, expert] += load[..., layer, slot]
    return folded


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    """Return an ``.npz``."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    """Return an ``.npy``."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def torch_file(value: Any, legacy: bool = False) -> bytes:
    """Return what ``torch.save`` writes; numpy arrays become tensors."""
    import torch

    file = io.BytesIO()
    torch.save(as_tensors(value), file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def as_tensors(value: Any) -> Any:
    """Return the same containers with tensors in place of arrays."""
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    if isinstance(value, dict):
        return {key: as_tensors(item) for key, item in value.items()}
    return [as_tensors(item) for item in value] if isinstance(value, list) else value


def lines(*records: Any) -> bytes:
    """Return JSON Lines."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _vllm(with_meta: bool) -> bytes:
    meta = {"record_type": "eplb_load_meta", "version": 1, "num_ranks": RANKS, "num_layers": LAYERS, "num_redundant_experts": 2}
    first = meta if with_meta else {"record_type": "session_metadata", "argv": ["serve"]}
    return lines(first, *({
        "record_type": "eplb_load_stats", "version": 1, "step": step, "num_ranks": RANKS,
        "expert_load": load.tolist(), "p2l_map": EXPERT_OF_SLOT.tolist(),
    } for step, load in enumerate(SLOT_LOAD[:, 0])))  # fmt: skip


def _recorded(calls: range) -> bytes:
    meta = {
        "record_type": "equipoise_record_meta", "version": 1, "engine": "vllm", "num_ranks": RANKS, "num_groups": 1,
        "num_nodes": 1, "num_slots": SLOTS, "num_experts": EXPERTS, "num_layers": LAYERS, "layer_ids": [3, 4],
    }  # fmt: skip
    return lines(meta, *({
        "record_type": "equipoise_record", "version": 1, "call": call, "time": 0.5, "load": LOAD[call].tolist(),
        "expert_of_slot": EXPERT_OF_SLOT.tolist(),
    } for call in calls))  # fmt: skip


def _statistics() -> Files:
    files = {
        f"rank{rank}.safetensors": safetensors_bytes({
            f"{10 + step}_{3 + layer}": np.ascontiguousarray(SLOT_LOAD[step, rank, layer])
            for step in range(STEPS) for layer in range(LAYERS)
        }) for rank in range(RANKS)
    }  # fmt: skip
    return files | {"meta_info.json": json.dumps({"num_experts": SLOTS, "num_experts_per_token": 2}).encode()}


def _dump(rank: int) -> bytes:
    return npz(
        dump_version=np.asarray("mcore_ep_load_dump_v1"), capture_id=np.asarray("x"),
        loads=SLOT_LOAD[:, rank].transpose(1, 0, 2).astype(np.int32), layer_numbers=np.array([1, 2], np.int32),
        forward_counts=np.array([STEPS] * LAYERS, np.int32), ep_group_ranks=np.arange(RANKS, dtype=np.int32),
        ep_rank=np.int32(rank), ep_size=np.int32(RANKS), global_rank=np.int32(rank),
        num_global_physical_experts=np.int32(SLOTS), num_local_physical_experts=np.int32(SLOTS // RANKS),
    )  # fmt: skip


def _passes(rank: int, per_token: bool) -> bytes:
    tokens = {
        "input_ids": [1, 2, 3], "positions": [0, 1, 2], "extend_seq_lens": [3], "forward_mode": 1, "misc_objects": [],
        "topk_ids_of_layer": np.array([[[0, 3, -1], [1, 2, 7], [4, 5, 6]]] * LAYERS, np.int32),
    }  # fmt: skip
    records = [
        {
            "forward_pass_id": step, "rank": rank, "gatherer_key": "primary", "global_physical_count": SLOT_LOAD[step, rank]
        } | (tokens if per_token else {})
        for step in range(STEPS)
    ]  # fmt: skip
    return torch_file({"records": records, "last_physical_to_logical_map": EXPERT_OF_SLOT})


def _per_rank(per_token: bool) -> Files:
    return {f"expert_distribution_recorder_1.5_{rank}.pt": _passes(rank, per_token) for rank in range(RANKS)}


def _stat() -> bytes:
    return torch_file({
        "rank": 0, "logical_count": LOAD.astype(np.int32), "average_utilization_rate_over_window": 0.7
    })  # fmt: skip


def _csv() -> bytes:
    rows = [f"{step},{layer},{expert},{load}" for (step, layer, expert), load in np.ndenumerate(LOAD)]
    return "\n".join(["step,layer,expert,load", *rows]).encode()


PICKS = np.array([[[0, 3], [1, -1]], [[2, 5], [4, 0]], [[1, 0], [3, 2]]], np.int16)
NAMED = {"load": LOAD, "layer_ids": np.array([3, 7]), "labels": np.array(list("abcd")), "phases": np.array(["prefill"] * 4)}

LOADS: dict[str, list[Callable[[], bytes | Files]]] = {
    "npz": [lambda: npz(**NAMED), lambda: npz(True, **NAMED)],
    "npy": [lambda: npy(LOAD), lambda: npy(np.asfortranarray(LOAD / 2))],
    "load_history": [lambda: json.dumps({"load_history": [{"logical_expert_load": x} for x in LOAD.tolist()]}).encode()],
    "json": [lambda: json.dumps({"logical_count": LOAD.tolist()}).encode(), lambda: json.dumps(LOAD[0].tolist()).encode()],
    "csv": [_csv, lambda: b"0,1.5,2\n3,4,5\n"],
    "pt": [lambda: torch_file(LOAD), lambda: torch_file({"load": LOAD / 2}, legacy=True)],
    "sglang-stat": [_stat],
    "sglang-per-pass": [lambda: _per_rank(False), lambda: _passes(0, False)],
    "sglang-per-token": [lambda: _per_rank(True)],
    "routed-experts": [
        lambda: npy(PICKS),
        lambda: npz(routed_experts=PICKS),
        lambda: dict.fromkeys(("a.npy", "b"), npy(PICKS)),
    ],
    "tensorrt-llm": [_statistics, lambda: _statistics()["rank0.safetensors"]],
    "vllm-jsonl": [lambda: _vllm(False), lambda: _vllm(True)],
    "equipoise-record": [
        lambda: _recorded(range(STEPS)),
        lambda: {"r.jsonl": _recorded(range(2, STEPS)), "r.jsonl.1": _recorded(range(2))},
    ],
    "megatron": [lambda: {f"mcore_ep_loads_rank{rank}_x.npz": _dump(rank) for rank in range(RANKS)}, lambda: _dump(0)],
    "vllm-ascend": [lambda: torch_file(SLOT_LOAD[..., : SLOTS // RANKS])],
}
"""Each format of loads by name, and one or several ways that files of it look."""

NEEDS_TORCH = ("pt", "sglang-stat", "sglang-per-pass", "sglang-per-token", "vllm-ascend")

PLACEMENTS: dict[str, list[Callable[[], bytes]]] = {
    name: [partial(one.encode, PLACED, ending) for ending in one.endings] for name, one in FORMATS.items()
}
"""Each format of placements by name, written by its own writer, once for each file ending."""
