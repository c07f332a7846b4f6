"""`equipoise convert` and `equipoise plan --for`: placement files of engines from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement, plan
from equipoise.files.placements import FORMATS, read_any

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
SHAPE = ("--ranks", 8, "--slots", 40)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a small load with layer numbers, one without, and a placement in two formats."""
    folder = tmp_path_factory.mktemp("files")
    load = np.random.default_rng(4).integers(1, 1000, (2, 3, 8))
    LoadTrace(load, layer_ids=[2, 4, 6]).write(folder / "numbered.npz")
    LoadTrace(load).write(folder / "plain.npz")
    placement = plan(load, Cluster(4, 3)).placement
    placement.write(folder / "own.json", layer_ids=[2, 4, 6])
    placement.write(folder / "map.json", "sglang", layer_ids=[2, 4, 6], hidden_layers=8)
    return folder


def _name(name, stem="out"):
    return f"{stem}{FORMATS[name].endings[0]}"


@pytest.mark.parametrize("name", FORMATS)
def test_plan_for_an_engine(run, tmp_path, monkeypatch, name):
    """The file holds the plan, and the engine's flag or key is told."""
    monkeypatch.chdir(tmp_path)
    path = _name(name)
    code, out, err = run("plan", EXAMPLE, *SHAPE, "--out", path, "--for", name, "--model", "gpt-oss-20b", "--json")
    assert (code, err) == (0, "")
    made = plan(LoadTrace.example(), Cluster(8, 5)).placement
    assert np.array_equal(Placement.read(path, num_ranks=8).expert_of_slot, made.expert_of_slot)
    found = json.loads(out)
    assert found["out"] == path
    assert path in found["load_with"]


def test_plan_says_how_to_load(run, tmp_path):
    """One line for people, only where an engine is named; --quiet prints none."""
    path = tmp_path / "map.json"
    command = ("plan", EXAMPLE, *SHAPE, "--out", path, "--for", "sglang", "--hidden-layers", 24)
    out = run(*command)[1]
    assert f"load it with: --init-expert-location {path} --ep-num-redundant-experts 8\n" in out
    assert run(*command, "--quiet") == (0, "", "")
    assert "load it with" not in run("plan", EXAMPLE, *SHAPE, "--out", path)[1]


def test_numbers_come_from_the_load_or_the_options(run, files, tmp_path):
    """A load's own numbers need no options; a load without them takes these."""
    shape = ("--ranks", 4, "--slots", 12, "--quiet", "--out", tmp_path / "out.yaml", "--for", "tensorrt-llm")
    for load, options, layer_ids in [
        ("numbered.npz", (), (2, 4, 6)),
        ("numbered.npz", ("--layer-ids", "2,4,6"), (2, 4, 6)),
        ("plain.npz", ("--layer-ids", "3-5"), (3, 4, 5)),
        ("plain.npz", ("--hidden-layers", 3), (0, 1, 2)),
    ]:
        assert run("plan", files / load, *shape, *options) == (0, "", "")
        assert read_any(tmp_path / "out.yaml").layer_ids == layer_ids


ASKS_FOR_NUMBERS = ("--for", "tensorrt-llm", "--out", "out.yaml")
BAD_PLANS = [
    (("--for", "sglang"), "--for sglang without --out: it says how"),
    (("--for", "vllm2", "--out", "o.json"), "--for is 'vllm2': it must be one of json, sglang, vllm, tensorrt-llm"),
    (("--for", "sglang", "--out", "o.yaml"), "o.yaml ends in .yaml: a placement for sglang is written as .json"),
    (("--for", "sglang", "--out", "o.json"), "how many hidden layers the model has is not known"),
    (ASKS_FOR_NUMBERS, "the model's numbers of the 3 layers are not known: tensorrt-llm counts all layers"),
    ((*ASKS_FOR_NUMBERS, "--model", "deepseek-v3"), "{load} has 8 experts a layer: the model has 256"),
    ((*ASKS_FOR_NUMBERS, "--model", "deepseek-v33"), "model is 'deepseek-v33'"),
    ((*ASKS_FOR_NUMBERS, "--model", "deepseek-v3", "--layer-ids", "3"), "--model deepseek-v3 and --layer-ids 3: both number"),
    ((*ASKS_FOR_NUMBERS, "--layer-ids", "3-4"), "the load has 3 layers: --layer-ids 3-4 has 2 MoE layers"),
    ((*ASKS_FOR_NUMBERS, "--layer-ids", "3-"), "--layer-ids is '3-': it must be rising numbers or spans"),
    ((*ASKS_FOR_NUMBERS, "--layer-ids", "4,3,5"), "--layer-ids is '4,3,5': it must be rising"),
    ((*ASKS_FOR_NUMBERS, "--layer-ids", "1-999999"), "--layer-ids is '1-999999': it must be rising"),
    (("--for", "vllm", "--out", "o.jsonl", "--down", "1"), "layer 0, slot 3 is empty: vllm cannot hold an empty slot"),
    (("--for", "sglang", "--out", "o.json", "--hidden-layers", 2), "hidden_layers is 2"),
]


@pytest.mark.parametrize(("options", "found"), BAD_PLANS)
def test_bad_plans(run, files, tmp_path, monkeypatch, options, found):
    """Exit code 2, one line on stderr, no file, before any planning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("equipoise.cli.plan.make_plan", None)
    code, out, err = run("plan", files / "plain.npz", "--ranks", 4, "--slots", 12, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found.format(load=files / 'plain.npz')}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_load_of_another_model(run, files, tmp_path):
    """Its numbers and the option's are both named."""
    path = tmp_path / "out.yaml"
    options = ("--ranks", 4, "--slots", 12, "--for", "tensorrt-llm", "--out", path, "--layer-ids", "3-5")
    code, _, err = run("plan", files / "numbered.npz", *options)
    assert code == 2
    assert "the load has the layers 2,4,6: --layer-ids 3-5 has 3-5; name the model that the load is of" in err
    assert not list(tmp_path.iterdir())


def test_previous_from_an_engine(run, files, tmp_path):
    """The placement in use may be an engine's file: --ranks and the model's layers say what it leaves out."""
    command = ("plan", files / "plain.npz", "--previous", files / "map.json", "--max-moves", 0, "--json")
    code, out, err = run(*command, "--ranks", 4, "--layer-ids", "2,4,6")
    assert (code, err) == (0, "")
    assert json.loads(out)["moves"] == 0
    assert "the sglang format does not say how many ranks there are" in run(*command, "--layer-ids", "2,4,6")[2]
    assert "this placement has 8 of 8" in run(*command, "--ranks", 4)[2]


@pytest.mark.parametrize("name", FORMATS)
def test_convert_there_and_back(run, files, tmp_path, name):
    """From our own to each engine's and back: the same slots."""
    there, back = tmp_path / _name(name), tmp_path / "back.json"
    code, out, err = run("convert", files / "own.json", there, "--for", name, "--hidden-layers", 8, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["from"], found["for"], found["layers"], found["experts"], found["slots"]) == ("json", name, 3, 8, 12)
    assert (found["ranks"], found["layer_ids"], found["out"]) == (4, [2, 4, 6], str(there))
    assert str(there) in found["load_with"]
    options = ("--for", "json", "--ranks", 4, "--layer-ids", "2,4,6", "--quiet")
    assert run("convert", there, back, *options) == (0, "", "")
    assert np.array_equal(Placement.read(back).expert_of_slot, Placement.read(files / "own.json").expert_of_slot)


def test_convert_for_people(run, files, tmp_path):
    """What was read, notes, and how the engine loads it."""
    out = run("convert", files / "map.json", tmp_path / "a.json", "--for", "vllm-ascend", "--ranks", 4)[1]
    assert out.startswith("8 layers (0-7) of 8 experts in 12 slots on 4 ranks, read as sglang\n")
    assert "note: 5 of 8 rows hold experts in order and may be of dense layers" in out
    assert f"placement written to {tmp_path}/a.json\n" in out
    assert f'load it with: --additional-config \'{{"eplb_config": {{"expert_map_path": "{tmp_path}/a.json"}}}}\'\n' in out
    out = run("convert", files / "map.json", tmp_path / "m.yaml", "--for", "tensorrt-llm", "--layer-ids", "2,4,6")[1]
    assert out.startswith("3 layers (2,4,6) of 8 experts in 12 slots, read as sglang\n")
    assert "note: 5 rows of layers that were not named are left out" in out
    assert "moe_config: {load_balancer: " in out


BAD = [
    (("--for", "sgl"), "--for is 'sgl'"),
    (("--for", "vllm", "--from", "sgl"), "--from is 'sgl'"),
    (("--for", "sglang"), "out.jsonl ends in .jsonl"),
    (("--for", "vllm", "--from", "vllm-ascend"), "{map} is not a placement file (it needs a list layer_list)"),
    (("--for", "vllm", "--ranks", 5), "--ranks 5 with 12 slots: slots must be divisible by ranks"),
    (("--for", "vllm", "--model", "deepseek-v3"), "{map} has 8 hidden layers: the model asked for has 61"),
    (("--for", "vllm", "--layer-ids", "2,9"), "{map} has no row for layer 9"),
]


@pytest.mark.parametrize(("options", "found"), BAD)
def test_bad_conversions(run, files, tmp_path, monkeypatch, options, found):
    """Exit code 2, one line on stderr, nothing on stdout, no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", files / "map.json", "out.jsonl", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found.format(map=files / 'map.json')}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ranks_that_the_file_denies(run, files, tmp_path):
    """A file that says its ranks is not for others; one that does not needs them."""
    err = run("convert", files / "own.json", tmp_path / "o.jsonl", "--for", "vllm", "--ranks", 2)[2]
    assert err.startswith(f"equipoise: --ranks 2: {files}/own.json is for 4; leave --ranks out")
    err = run("convert", files / "map.json", tmp_path / "o.json", "--for", "json")[2]
    assert err.startswith("equipoise: the number of ranks is not known: our own format holds the ranks; give --ranks")
    assert not list(tmp_path.iterdir())


@pytest.mark.compiled
def test_an_engine_file_as_a_policy(run, files, tmp_path):
    """What is compared or replayed may be an engine's file; the command's ranks are its."""
    path = tmp_path / "fixed.jsonl"
    assert run("convert", files / "own.json", path, "--for", "vllm", "--quiet") == (0, "", "")
    found = []
    for policy in (files / "own.json", path):
        shape = ("--ranks", 4, "--slots", 12, "--window", 1, "--policy", policy, "--json")
        code, out, err = run("simulate", files / "plain.npz", *shape)
        assert (code, err) == (0, "")
        found.append(json.loads(out)["traces"][0]["policies"][0]["balancedness"])
    assert found[0] == found[1] < 1
