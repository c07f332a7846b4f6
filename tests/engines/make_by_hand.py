"""Write small files in formats whose writers cannot be run here, from their description.

Run as ``python tests/engines/make_by_hand.py``. TensorRT-LLM has no wheel without CUDA, and the writers of
vLLM's load records and of Megatron's dumps are in no release (docs/engines/real-engines.md). Names, shapes and types are those
of the engines' sources and proposals.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).parents[1] / "fixtures" / "engines" / "by_hand"
RANKS, EXPERTS, SLOTS = 2, 8, 12
LAYER_IDS = (3, 4)
ITERATIONS = range(100, 104)
ROWS = [[0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 4, 5], [7, 6, 5, 4, 3, 2, 1, 0, 7, 7, 6, 6]]


def counted(iteration, layer, rank, width):
    """Tokens by a rule, int64 [width]."""
    return np.array([(7 * i * i + 3 * iteration + 11 * layer + 5 * rank) % 23 for i in range(width)], np.int64)


def folded(counts, row):
    """Slots' tokens by expert."""
    return [int(sum(count for count, expert in zip(counts, row, strict=True) if expert == wanted)) for wanted in range(EXPERTS)]


def tensorrt_llm():
    """``meta_info.json`` and ``rank*.safetensors``; a folder of expert ids, and one of slot ids with the YAML in use."""
    expected = {}
    for name, width in (("experts", EXPERTS), ("slots", SLOTS)):
        folder = OUT / "tensorrt_llm" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta_info.json").write_text(json.dumps({"num_experts": width, "num_experts_per_token": 2}))
        for rank in range(RANKS):
            keys = {f"{step}_{layer}": counted(step, layer, rank, width) for step in ITERATIONS for layer in LAYER_IDS}
            save_file(keys, folder / f"rank{rank}.safetensors")
        total = [
            [sum(counted(step, layer, rank, width) for rank in range(RANKS)) for layer in LAYER_IDS] for step in ITERATIONS
        ]
        expected[name] = [
            [counts.tolist() if width == EXPERTS else folded(counts, row) for counts, row in zip(step, ROWS, strict=True)]
            for step in total
        ]
    lines = [f"  {layer}: {json.dumps(row)}" for layer, row in zip(LAYER_IDS, ROWS, strict=True)]
    yaml = ["initial_global_assignments:", *lines, f"num_slots: {SLOTS}", "layer_updates_per_iter: 0", ""]
    (OUT / "tensorrt_llm" / "active.yaml").write_text("\n".join(yaml))
    return expected


def vllm():
    """Load records in the two revisions of vllm#41141, and its mapping."""
    folder = OUT / "vllm"
    folder.mkdir(parents=True, exist_ok=True)
    steps = [[counted(step, layer, 0, SLOTS) for layer in (0, 1)] for step in range(3)]
    bare = {"record_type": "eplb_load_stats", "version": 1}
    rows = [
        {**bare, "step": 100 * (i + 1), "expert_load": [counts.tolist() for counts in step], "p2l_map": ROWS}
        for i, step in enumerate(steps)
    ]
    meta = {"record_type": "eplb_load_meta", "version": 1, "model": "tiny", "num_ranks": RANKS, "num_groups": 1}
    meta |= {"num_nodes": 1, "num_layers": 2, "num_redundant_experts": SLOTS - EXPERTS}
    write_lines(folder / "load_revision_a.jsonl", [{**row, "num_ranks": RANKS} for row in rows])
    write_lines(folder / "load_revision_b.jsonl", [meta, *rows])
    mapping = {"record_type": "eplb_initial_mapping", "version": 1, "num_redundant_experts": SLOTS - EXPERTS}
    mapping |= {"num_slots": SLOTS, "initial_global_assignments": {str(i): row for i, row in enumerate(ROWS)}}
    write_lines(folder / "mapping.jsonl", [mapping])
    return [[folded(counts, row) for counts, row in zip(step, ROWS, strict=True)] for step in steps]


def write_lines(path, records):
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def megatron():
    """Dumps of two ranks of one EP group; global load is their sum."""
    folder = OUT / "megatron"
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(RANKS):
        loads = np.array([[counted(step, layer, rank, EXPERTS) for step in range(3)] for layer in LAYER_IDS], np.int32)
        fields = {
            "dump_version": np.array("mcore_ep_load_dump_v1"),
            "loads": loads,
            "layer_numbers": np.array(LAYER_IDS, np.int64),
            "forward_counts": np.full(len(LAYER_IDS), 3, np.int64),
            "ep_group_ranks": np.arange(RANKS),
            "ep_rank": np.int64(rank),
            "ep_size": np.int64(RANKS),
            "global_rank": np.int64(rank),
            "num_global_physical_experts": np.int64(EXPERTS),
            "num_local_physical_experts": np.int64(EXPERTS // RANKS),
            "capture_id": np.array("0"),
        }
        write_npz(folder / f"mcore_ep_loads_rank{rank}_0.npz", fields)
    return [
        [sum(counted(step, layer, rank, EXPERTS) for rank in range(RANKS)).tolist() for layer in LAYER_IDS] for step in range(3)
    ]


def write_npz(path, fields):
    """As numpy does, without the time of writing: the same bytes every time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in fields.items():
            held = io.BytesIO()
            np.save(held, value, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), held.getvalue())


def main():
    """Write all files anew."""
    expected = {"layer_ids": LAYER_IDS, "rows": ROWS, "tensorrt_llm": tensorrt_llm(), "vllm": vllm(), "megatron": megatron()}
    (OUT / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
