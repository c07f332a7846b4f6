"""Write small files with SGLang's own recorder, and the counts that went into them.

Run as ``python tests/engines/inside_sglang/make_fixtures.py``. Two gloo processes route tokens by a fixed rule; what each
file should hold is added up here, apart from the recorder.
"""

# ruff: noqa: E402, I001 - SGLang must be found before it is imported
from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import conftest  # noqa: F401 - puts SGLang where it is imported from
import tiny
import torch
from sglang.srt.eplb import eplb_algorithms, expert_distribution
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from stand_ins import as_ranks

OUT = Path(__file__).parents[2] / "fixtures" / "engines" / "sglang"
STEPS, RANKS = 6, 2
ROWS = [[i % 8 for i in range(12)], [0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 4, 5], [7, 6, 5, 4, 3, 2, 1, 0, 7, 7, 6, 6]]
ROWS = [*ROWS, [0, 2, 4, 6, 1, 3, 5, 7, 0, 2, 4, 6]]
FILES = {"stat": -1, "stat_wrapped": 4, "stat_after_reset": 8}


def slots_picked(step, layer, rank):
    """Slots [tokens, 2] that a rank's tokens go to; the last token is padding."""
    rows = [
        [(3 * token + 5 * pick + step + 2 * layer + 7 * rank + token * token // 3) % 12 for pick in range(tiny.TOP_K)]
        for token in range(5 + step + 2 * rank)
    ]
    return [*rows, [-1, -1]]


def experts_picked(step, layer):
    """Tokens of each expert, of all ranks."""
    picked = [
        ROWS[layer][slot] for rank in range(RANKS) for row in slots_picked(step, layer, rank) for slot in row if slot >= 0
    ]
    return [picked.count(expert) for expert in range(tiny.EXPERTS)]


def expected(steps):
    """Tokens [steps, MoE layers, experts]."""
    return [[experts_picked(step, layer) for layer in tiny.MOE] for step in steps]


def serve(recorder, rank, steps):
    """Pass by pass, tell the recorder what was picked."""
    for step in steps:
        tokens = len(slots_picked(step, 1, rank))
        batch = SimpleNamespace(
            input_ids=torch.arange(tokens) + 100,
            positions=torch.arange(tokens),
            extend_seq_lens_cpu=[tokens],
            forward_mode=ForwardMode.EXTEND,
        )
        with recorder.with_forward_pass(step, batch):
            for layer in tiny.MOE:
                with recorder.with_current_layer(layer):
                    recorder.on_select_experts(torch.tensor(slots_picked(step, layer, rank)))


def record(rank, num_ranks, mode, folder, buffer):
    """Record and dump on one rank."""
    os.environ["SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"] = folder
    expert_distribution.time = SimpleNamespace(time=lambda: 1700000000.0)
    asked = {"expert_distribution_recorder_mode": mode, "expert_distribution_recorder_buffer_size": buffer}
    with tiny.serving(rank, num_ranks, chunked_prefill_size=4, **asked):
        recorder = expert_distribution.ExpertDistributionRecorder.init_new(tiny.location(ROWS, rank), rank)
        recorder.start_record()
        if folder.endswith("stat_after_reset"):
            serve(recorder, rank, range(3))
            recorder.dump_record("object")
            serve(recorder, rank, range(3, 5))
        else:
            serve(recorder, rank, range(STEPS))
        recorder.stop_record()
        recorder.dump_record("file")


def main():
    """Write all files anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    for mode in ("per_pass", "per_token"):
        as_ranks(RANKS, record, mode, str(OUT / mode), -1)
    for name, buffer in FILES.items():
        as_ranks(RANKS, record, "stat", str(OUT / name), buffer)
        next((OUT / name).iterdir()).rename(OUT / f"{name}.pt")
        (OUT / name).rmdir()
    with tiny.serving():
        placed = eplb_algorithms.rebalance_experts(tiny.counts(), 12, 6, None, 1, eplb_algorithms.EplbAlgorithm.deepseek)[0]
    (OUT / "placement.json").write_text(json.dumps({"physical_to_logical_map": placed.tolist()}))
    counts = {"layer_ids": list(tiny.MOE), "physical_to_logical_map": ROWS, "placed": placed.tolist()}
    steps = {name: list(range(STEPS)) for name in ("stat", "per_pass", "per_token")}
    steps |= {"stat_wrapped": [4, 5, 2, 3], "stat_after_reset": [3, 4]}
    counts["load"] = {name: expected(order) for name, order in steps.items()}
    (OUT / "expected.json").write_text(json.dumps(counts))
    print(*(f"{path.relative_to(OUT)} {path.stat().st_size}" for path in sorted(OUT.rglob("*.*"))), sep="\n")


if __name__ == "__main__":
    main()
