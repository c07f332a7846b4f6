"""``equipoise metrics``: engines' figures for people and programs, and tokens between nodes where sources are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement
from equipoise.engines.formulas import formulas, rank_loads, sglang

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"


@pytest.fixture
def in_order(tmp_path):
    """Write a placement of experts in order on 8 ranks of 2 nodes."""
    path = tmp_path / "placement.json"
    Placement(np.tile(np.arange(40) % 32, (24, 1)), Cluster(8, 5, 2), 32).write(path)
    return path


def test_json(run, in_order):
    """Every formula by name, the layers' quantiles, and no traffic where sources are not known."""
    code, out, err = run("metrics", EXAMPLE, in_order, "--json")
    found = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    loads = rank_loads(LoadTrace.example(), Placement.read(in_order))
    assert found["formulas"] == {name: formula.compute(loads) for name, formula in formulas().items()}
    assert found["formulas"]["equipoise"] == pytest.approx(Placement.read(in_order).balancedness(LoadTrace.example()))
    per_layer = found["per_layer"]["max_over_mean"]
    assert found["max_over_mean"]["max"] == max(per_layer)
    assert found["max_over_mean"]["p50"] == pytest.approx(np.median(per_layer))
    assert found["traffic"] is None
    assert (found["steps"], found["layers"], found["ranks"]) == (31, 24, 8)


def test_one_formula_on_part_of_a_load(run, in_order):
    """--formula and --last; a model's dense layers count in SGLang's."""
    found = json.loads(run("metrics", EXAMPLE, in_order, "--formula", "sglang", "--last", 4, "--json")[1])
    loads = rank_loads(LoadTrace.example().last(4), Placement.read(in_order))
    assert found["formulas"] == {"sglang": sglang(loads)}


def test_dense_layers_of_a_model(run, tmp_path):
    """DeepSeek-V3 has three, which SGLang counts as level."""
    load = np.random.default_rng(1).integers(1, 99, (2, 58, 256))
    LoadTrace(load, range(3, 61)).write(tmp_path / "load.npz")
    Placement(np.tile(np.arange(256), (58, 1)), Cluster(32, 8, 4), 256).write(tmp_path / "p.json")
    command = ("metrics", tmp_path / "load.npz", tmp_path / "p.json", "--formula", "sglang", "--json")
    plain, dense = (json.loads(run(*command, *more)[1])["formulas"]["sglang"] for more in ((), ("--model", "deepseek-v3")))
    assert dense == pytest.approx((58 * plain + 3) / 61)


def test_for_people(run, in_order):
    """A table that says what each figure is, the layers, and what is not told."""
    code, out, _ = run("metrics", EXAMPLE, in_order)
    assert code == 0
    for words in ("tensorrt-llm", "vllm-rocm", "worst layer", "p95", "the load does not say which rank tokens came from"):
        assert words in out
    assert run("metrics", EXAMPLE, in_order, "--quiet") == (0, "", "")


def test_tokens_between_nodes(run, tmp_path):
    """Where sources are known: by hand, rank 0's four tokens of expert 0, which is on both nodes."""
    source = np.array([[[[4, 0]], [[0, 2]]]])
    LoadTrace(source.sum(axis=1), source_load=source).write(tmp_path / "load.npz")
    Placement([[0, 1, 0, -1]], Cluster(2, 2, 2), 2).write(tmp_path / "p.json")
    found = json.loads(run("metrics", tmp_path / "load.npz", tmp_path / "p.json", "--json")[1])["traffic"]
    assert found == [
        {"dispatch": "equal", "tokens": 6.0, "leave_rank": 4.0, "leave_node": 4.0},
        {"dispatch": "nearest", "tokens": 6.0, "leave_rank": 2.0, "leave_node": 2.0},
    ]
    out = run("metrics", tmp_path / "load.npz", tmp_path / "p.json")[1]
    assert "share between nodes" in out
    assert "66.67 %" in out
    Placement([[0, 1, 0]], Cluster(3, 1), 2).write(tmp_path / "other.json")
    code, _, err = run("metrics", tmp_path / "load.npz", tmp_path / "other.json")
    assert code == 2
    assert "take a placement and a load of the same ranks" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--formula", "best"), "--formula is 'best': it must be one of equipoise, vllm"),
        (("--model", "deepseek-v3"), "256"),
        (("--window", 2, "--last", 3), "they exclude each other"),
    ],
)
def test_bad_input(run, in_order, more, words):
    """One line, and exit code 2."""
    code, out, err = run("metrics", EXAMPLE, in_order, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_no_load_at_all(run, tmp_path):
    """Figures are what engines would print, and no layer has a quantile."""
    LoadTrace(np.zeros((2, 1, 2), int)).write(tmp_path / "load.npz")
    Placement([[0, 1]], Cluster(2, 1), 2).write(tmp_path / "p.json")
    found = json.loads(run("metrics", tmp_path / "load.npz", tmp_path / "p.json", "--json")[1])
    assert found["max_over_mean"] == {"p50": None, "p95": None, "max": None}
    assert found["formulas"]["vllm"] == 0.0
    assert run("metrics", tmp_path / "load.npz", tmp_path / "p.json")[0] == 0
