"""``equipoise check``: findings, memory and break-even of a setup or a placement; 3 where something is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement
from equipoise.engines.starting import in_id_order
from equipoise.engines.worth import weigh
from equipoise.migrating.links import LINKS
from equipoise.models import find_model

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
VLLM = ("check", "--engine", "vllm", "--model", "deepseek-v3", "--ep", 32)
GPT_OSS = ("check", "--engine", "sglang", "--model", "gpt-oss-20b", "--ep", 8, "--redundant", 8)


def _found(run, *command):
    code, out, err = run(*command, "--json")
    assert err == ""
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_a_good_setup(run):
    """Nothing refused, exit 0, memory by hand, and what is missing to say whether it pays."""
    code, found = _found(run, *VLLM, "--redundant", 32, "--nodes", 4)
    assert code == 0
    assert (found["errors"], found["warnings"], found["notes"]) == (0, 0, 2)
    assert (found["engine"], found["version"], found["model"]) == ("vllm", "vLLM 0.33.0", "deepseek-v3")
    assert (found["ranks"], found["experts"], found["redundant"], found["groups"]) == (32, 256, 32, 8)
    size = 3 * 7168 * 2048
    assert found["memory"] == {"experts": 9 * 58 * size, "redundant": 58 * size, "staging": 9 * size, "host": 0.0}
    assert found["worth"] is None
    assert found["missing"] == "--load says how uneven the load is"


def test_a_bad_setup(run):
    """What is refused, the rule, legal numbers near it, where it is written; exit 3."""
    code, found = _found(run, *VLLM, "--redundant", 30, "--option", "communicator=pynccl")
    assert code == 3
    assert found["errors"] == 2
    first = found["findings"][0]
    assert first["level"] == "error"
    assert first["next_step"] == "take 0 or 32 redundant, or 26 ranks"
    assert "fused_moe/layer.py" in first["source"]
    assert found["memory"] is None
    code, out, err = run(*VLLM, "--redundant", 30)
    assert (code, err) == (3, "")
    assert "error: 256 experts and 30 redundant make 286 slots on 32 ranks" in out
    assert "1 error, 0 warnings, 1 note" in out
    assert run(*VLLM, "--redundant", 30, "--quiet") == (3, "", "")


def test_for_people(run):
    """Memory in GB, and an honest word on what is not told."""
    code, out, _ = run(*VLLM, "--redundant", 32, "--nodes", 4)
    assert code == 0
    assert "hierarchical: groups of experts stay on a node: 8 groups are divisible by 4 nodes" in out
    assert "2.55" in out
    assert "shared memory" not in out
    assert "whether balancing pays is not told: --load" in out
    online = ("check", "--engine", "tensorrt-llm", "--model", "deepseek-v3", "--ep", 36, "--redundant", 32)
    assert "653.91" in run(*online, "--option", "layer_updates_per_iter=2")[1]
    assert "--model says how large experts are" in run("check", "--engine", "vllm", "--experts", 8, "--ep", 2)[1]


@pytest.mark.compiled
def test_whether_it_pays(run):
    """Break-even as weigh() gives it, and the word for steps above and below."""
    model = find_model("gpt-oss-20b")
    load = ("--load", EXAMPLE, "--link", "h800", "--every", 500)
    expected = weigh(LoadTrace.example(), in_id_order(Cluster(8, 5), 24, 32), model, LINKS["h800"], 500)
    code, found = _found(run, *GPT_OSS, *load)
    assert code == 0
    assert found["worth"]["break_even"] == expected.break_even
    assert (found["worth"]["moves"], found["worth"]["every"], found["worth"]["pays"]) == (expected.moves, 500, None)
    assert found["missing"] is None
    for tokens, word in ((10**9, "worth it: steps of 1,000,000,000"), (1, "not worth it: steps of 1 tokens")):
        out = run(*GPT_OSS, *load, "--tokens", tokens)[1]
        assert f"\n{word}" in out
        assert _found(run, *GPT_OSS, *load, "--tokens", tokens)[1]["worth"]["pays"] is (tokens > 1)
    assert "a rank), by the time model" in out
    assert _found(run, *GPT_OSS, *load[:4])[1]["worth"]["every"] == 1000


@pytest.mark.compiled
def test_not_worth_it(run, tmp_path):
    """Load that turns: the plan loses on what comes after, and it is said."""
    load = np.ones((2, 24, 32), int)
    load[0, :, :4], load[1, :, ::4] = 100, 100
    LoadTrace(load).write(tmp_path / "load.npz")
    out = run(*GPT_OSS, "--load", tmp_path / "load.npz")[1]
    assert "not worth it: the plan saves no time" in out
    assert _found(run, *GPT_OSS, "--load", tmp_path / "load.npz", "--tokens", 5)[1]["worth"]["pays"] is False


@pytest.mark.compiled
def test_what_locality_costs(run, tmp_path):
    """Where the engine keeps groups on nodes and there is a load."""
    rng = np.random.default_rng(5)
    LoadTrace((rng.random((2, 58, 256)) ** 4 * 1000).astype(int), range(3, 61)).write(tmp_path / "load.npz")
    command = (*VLLM, "--redundant", 32, "--nodes", 4, "--load", tmp_path / "load.npz")
    found = _found(run, *command)[1]["locality"]
    assert 0 < found["strict"] < found["none"] <= 1
    assert "plans that keep groups on nodes reach" in run(*command)[1]


def test_a_placement(run, tmp_path):
    """Of the engine's own format it is read as the engine would; of another, a note says how to convert it."""
    slots = np.tile(np.concatenate([np.arange(256), np.arange(32)]), (58, 1))
    placed = Placement(slots, Cluster(32, 9, 4), 256)
    model = find_model("deepseek-v3")
    placed.write(tmp_path / "map.json", "sglang", layer_ids=model.moe_layer_ids, hidden_layers=61)
    command = ("check", tmp_path / "map.json", "--engine", "sglang", "--model", "deepseek-v3", "--ep", 32)
    code, found = _found(run, *command)
    assert (code, found["redundant"], found["errors"]) == (0, 32, 0)
    assert any("each of the 61 hidden layers" in each["rule"] for each in found["findings"])
    placed.write(tmp_path / "own.json")
    code, found = _found(run, "check", tmp_path / "own.json", "--engine", "sglang", "--model", "deepseek-v3")
    assert code == 0
    assert any("equipoise convert" in each["next_step"] for each in found["findings"])
    assert found["nodes"] == 4


def test_a_placement_that_is_refused(run, tmp_path):
    """A key too many, or another model: an error among the findings, and no traceback."""
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1]], "note": "mine"}))
    command = ("check", path, "--engine", "sglang", "--ep", 2, "--experts", 2)
    code, found = _found(run, *command)
    assert code == 3
    assert "note" in found["findings"][0]["found"] + found["findings"][0]["rule"]
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1]]}))
    code, found = _found(run, "check", path, "--engine", "sglang", "--ep", 2, "--model", "deepseek-v3")
    assert code == 3
    assert found["errors"] == 1


@pytest.mark.parametrize(
    ("engine", "format_", "level"),
    [
        ("tensorrt-llm", "sglang", "error"),
        ("vllm-ascend", "sglang", "error"),
        ("sglang", "vllm-ascend", "error"),
        ("sglang", "equipoise", "note"),
        ("vllm", "sglang", "note"),
    ],
)
def test_a_file_of_another_format(run, tmp_path, engine, format_, level):
    """The engine could not load another's; our own is there to be converted; vLLM loads none, which is said."""
    slots = np.tile(np.concatenate([np.arange(32), np.arange(8)]), (24, 1))
    path = tmp_path / "map.json"
    Placement(slots, Cluster(8, 5), 32).write(
        path, *([] if format_ == "equipoise" else [format_]), **({"hidden_layers": 24} if format_ == "sglang" else {})
    )
    code, found = _found(run, "check", path, "--engine", engine, "--model", "gpt-oss-20b", "--ep", 8)
    (about,) = [each for each in found["findings"] if "is a file of format" in each["found"]]
    assert (about["level"], code) == (level, 3 if level == "error" else 0)
    assert about["next_step"] == f"equipoise convert {path} OUT --for {engine} --model NAME"
    assert found["redundant"] == 8


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "vllm-ascend"])
def test_a_refused_placement_is_not_taken_for_none(run, tmp_path, engine):
    """Nothing is said of slots that it would tell, nor that there is no placement, nor of what it would make of memory."""
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"physical_to_logical_map": [[0, 1]], "note": "mine"}))
    command = ("check", path, "--engine", engine, "--ep", 5, "--model", "gpt-oss-20b")
    code, found = _found(run, *command)
    assert (code, found["errors"], found["redundant"], found["memory"]) == (3, 1, None, None)
    said = json.dumps(found["findings"])
    assert "nothing is balanced" not in said
    assert "divisible by ranks" not in said
    assert "enable_eplb taken as set" not in said or engine == "vllm"
    out = run(*command)[1]
    assert "32 experts on 5 ranks" in out
    assert "redundant on" not in out
    code, found = _found(run, *command, "--redundant", 4)
    assert (code, found["errors"], found["redundant"]) == (3, 2, 4)


def test_draft_layers_of_a_file(run, tmp_path):
    """TensorRT-LLM looks for draft layers too: they are read where the option says that they are used."""
    model = find_model("deepseek-v3")
    rows = np.tile(np.arange(256), (59, 1))
    placed = Placement(rows, Cluster(32, 8), 256)
    placed.write(tmp_path / "with.yaml", "tensorrt-llm", layer_ids=(*model.moe_layer_ids, 61))
    Placement(rows[1:], Cluster(32, 8), 256).write(tmp_path / "without.yaml", "tensorrt-llm", layer_ids=model.moe_layer_ids)
    command = ("--engine", "tensorrt-llm", "--model", "deepseek-v3", "--ep", 32, "--option", "num_nextn_predict_layers=1")
    assert _found(run, "check", tmp_path / "with.yaml", *command)[0] == 0
    code, found = _found(run, "check", tmp_path / "without.yaml", *command)
    assert code == 3
    (error,) = [each for each in found["findings"] if each["level"] == "error"]
    assert "without 61 to 61 in initial_global_assignments loading ends with a KeyError" in error["rule"]
    assert found["redundant"] == 0
    command = (*command[:-1], "num_nextn_predict_layers=2")
    assert "without 61 to 62" in json.dumps(_found(run, "check", tmp_path / "with.yaml", *command)[1])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("check", "--engine", "vlm", "--ep", 2), "--engine is 'vlm': it must be one of vllm, sglang"),
        (("check", "--engine", "vllm", "--model", "deepseek-v9", "--ep", 2), "did you mean deepseek-v"),
        (("check", "--engine", "vllm", "--ep", 2), "the number of experts is not said"),
        (("check", "--engine", "vllm", "--experts", 8), "the number of ranks is not said"),
        ((*VLLM, "--option", "use_async"), "must be name=value"),
        ((*VLLM, "--redundant", 1, "--option", "num_redundant_experts=2"), "they must agree"),
        ((*VLLM, "--link", "copper"), "--link is 'copper'"),
        (("check", "nowhere.json", "--engine", "vllm", "--ep", 2), "nowhere.json cannot be read"),
        ((*VLLM, "--load", EXAMPLE), "256"),
    ],
)
def test_bad_input(run, command, words):
    """One line on stderr and exit code 2: this is no finding."""
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_what_must_fit_before_it_can_be_weighed(run, tmp_path):
    """A load is no use where something is refused, or nodes do not fit."""
    refused = "what is refused must be put right first"
    assert _found(run, *VLLM, "--redundant", 30, "--load", EXAMPLE)[1]["missing"] == refused
    Placement([[0, 1, 2, 2]], Cluster(4, 1), 4).write(tmp_path / "lost.json")
    command = ("check", tmp_path / "lost.json", "--engine", "vllm", "--model", "gpt-oss-20b", "--load", EXAMPLE)
    code, found = _found(run, *command, "--ep", 4)
    assert (code, found["missing"]) == (3, refused)
    code, _, err = run(*command)
    assert code == 2
    assert "lost.json" in err
    uneven = (*VLLM, "--nodes", 3, "--load", EXAMPLE)
    assert _found(run, *uneven)[1]["missing"] == "ranks must be divisible by nodes first"
