"""The pages on engines run: every command and program, on files as the engines write them, of the sizes that the pages name."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

from equipoise import LoadTrace
from equipoise.files.placements import FoundPlacement, write_as
from samples import lines, npz, torch_file

PAGES = Path(__file__).parents[1] / "docs" / "engines"
RANKS, SLOTS, EXPERTS, HIDDEN, DENSE = 32, 288, 256, 61, 3
MOE = range(DENSE, HIDDEN)
IN_ORDER = np.tile(np.arange(SLOTS) % EXPERTS, (len(MOE), 1))


def _counts(seed, *shape):
    return np.random.default_rng(seed).integers(1, 60, shape)


def _all_layers(counts):
    """Return counts of MoE layers with empty rows for dense ones before."""
    return np.concatenate([np.zeros((*counts.shape[:-2], DENSE, counts.shape[-1]), np.int64), counts], axis=-2)


def _sglang(folder):
    load = _all_layers(_counts(0, 16, len(MOE), EXPERTS)).astype(np.int32)
    stat = {"rank": 0, "logical_count": load, "average_utilization_rate_over_window": None}
    (folder / "expert_distribution_recorder_1764000000.pt").write_bytes(torch_file(stat))
    (folder / "per_pass").mkdir()
    held = np.tile(np.arange(12) % 8, (3, 1))
    for rank in range(2):
        counts = np.concatenate([np.zeros((2, 1, 12), np.int64), _counts(rank, 2, 2, 12)], axis=1)
        records = [
            {"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "global_physical_count": count}
            for number, count in enumerate(counts)
        ]
        content = {"records": records, "last_physical_to_logical_map": held}
        (folder / "per_pass" / f"expert_distribution_recorder_1.0_{rank}.pt").write_bytes(torch_file(content))


def _vllm(folder):
    meta = {
        "record_type": "equipoise_record_meta", "version": 1, "engine": "vllm", "num_ranks": RANKS, "num_groups": 8,
        "num_nodes": 4, "num_slots": SLOTS, "num_experts": EXPERTS, "num_layers": 2,
    }  # fmt: skip
    calls = [
        {"record_type": "equipoise_record", "version": 1, "call": n, "time": float(n), "load": load, "expert_of_slot": None}
        for n, load in enumerate(_counts(1, 6, 2, EXPERTS).tolist())
    ]
    (folder / "calls.jsonl").write_bytes(lines(meta, *calls))
    stats = [
        {
            "record_type": "eplb_load_stats", "version": 1, "step": step, "num_ranks": RANKS, "expert_load": load,
            "p2l_map": IN_ORDER.tolist(),
        } for step, load in enumerate(_counts(2, 2, len(MOE), SLOTS).tolist())
    ]  # fmt: skip
    (folder / "stats.jsonl").write_bytes(lines(*stats))
    (folder / "routed").mkdir()
    picks = np.random.default_rng(3).permuted(np.tile(np.arange(EXPERTS), (5, len(MOE), 1)), axis=2)[..., :8]
    for name in ("first", "second"):
        (folder / "routed" / f"{name}.npz").write_bytes(npz(routed_experts=_all_layers(picks).astype(np.int16)))


def _tensorrt_llm(folder):
    for name, width in (("statistics", EXPERTS), ("with_balancer", SLOTS)):
        (folder / name).mkdir()
        (folder / name / "meta_info.json").write_text(json.dumps({"num_experts": width, "num_experts_per_token": 8}))
        for rank in range(RANKS):
            counts = _counts(rank, 2, len(MOE), width)
            tensors = {f"{100 + step}_{layer}": counts[step, layer - DENSE] for step in range(2) for layer in MOE}
            (folder / name / f"rank{rank}.safetensors").write_bytes(safetensors_bytes(tensors))
    write_as(folder / "active.yaml", "tensorrt-llm", FoundPlacement(IN_ORDER, tuple(MOE), num_experts=EXPERTS))


def _vllm_ascend(folder):
    (folder / "load.pt").write_bytes(torch_file(_counts(4, 3, 8, 9)))
    held = FoundPlacement(np.tile(np.arange(72) % 64, (3, 1)), num_ranks=8, num_experts=64)
    write_as(folder / "recorded_map.json", "vllm-ascend", held)


def _megatron(folder):
    (folder / "dumps").mkdir()
    for rank in range(4):
        content = npz(
            dump_version=np.asarray("mcore_ep_load_dump_v1"), capture_id=np.asarray("a"),
            loads=_counts(rank, 2, 3, 16).astype(np.int32), layer_numbers=np.array([1, 2], np.int32),
            forward_counts=np.array([3, 3], np.int32), ep_group_ranks=np.arange(4, dtype=np.int32), ep_rank=np.int32(rank),
            ep_size=np.int32(4), global_rank=np.int32(rank), num_global_physical_experts=np.int32(16),
            num_local_physical_experts=np.int32(4),
        )  # fmt: skip
        (folder / "dumps" / f"mcore_ep_loads_rank{rank}_a.npz").write_bytes(content)


def _deepseek(folder):
    LoadTrace(_counts(5, 3, 2, EXPERTS)).write(folder / "load.npz")


FILES = {
    "sglang": _sglang,
    "vllm": _vllm,
    "tensorrt-llm": _tensorrt_llm,
    "vllm-ascend": _vllm_ascend,
    "megatron": _megatron,
    "deepseek": _deepseek,
}
NEED_TORCH = ("sglang", "vllm-ascend")
REFUSED = "equipoise check --engine vllm-ascend --experts 64 --ranks 8 --redundant 8 --option DYNAMIC_EPLB=false"


def test_every_page_is_run():
    """Each page on an engine has its files here."""
    assert {page.stem for page in PAGES.glob("*.md")} == {*FILES, "real-engines"}


@pytest.mark.compiled
@pytest.mark.parametrize("name", FILES)
def test_the_page_runs(run, tmp_path, monkeypatch, capsys, name):
    """Its commands are taken, its programs run; what the page says is refused, is."""
    if name in NEED_TORCH:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    FILES[name](tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    commands = [line for kind, code in blocks if kind == "sh" for line in code.splitlines() if line.startswith("equipoise")]
    assert len(commands) >= 3
    for command in commands:
        code, _, err = run(*shlex.split(command, comments=True)[1:])
        assert (code, err) == (3 if command == REFUSED else 0, ""), command
    for kind, code in blocks:
        if kind == "python":
            exec(code, {})
    capsys.readouterr()
