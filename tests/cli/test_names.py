"""Names that are none: each is answered with those there are and the nearest, on one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import equipoise
from equipoise.checks import suggestion

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
SHAPE = ("--ranks", 8, "--slots", 40)
NAMES = [
    (("plann", EXAMPLE), "No such command 'plann': there are inspect, plan, ", "did you mean plan?"),
    (("plan", EXAMPLE, *SHAPE, "--localty", "none"), "No such option: --localty", "--locality"),
    (("plan", EXAMPLE, *SHAPE, "--locality", "stric"), "locality is 'stric'", "did you mean strict?"),
    (("plan", EXAMPLE, *SHAPE, "--effort", "Bst"), "effort is 'Bst'", "did you mean best?"),
    (("plan", EXAMPLE, *SHAPE, "--forecast", "autto"), "forecast is 'autto'", "did you mean auto?"),
    (("plan", EXAMPLE, *SHAPE, "--dispatch", "optimall"), "dispatch is 'optimall'", "did you mean optimal?"),
    (("plan", EXAMPLE, *SHAPE, "--model", "deepsek-v3"), "model is 'deepsek-v3'", "did you mean deepseek-v3 or"),
    (("plan", EXAMPLE, *SHAPE, "--out", "x.json", "--for", "vlm"), "--for is 'vlm'", "did you mean vllm?"),
    (("plan", EXAMPLE, *SHAPE, "--min-replicas", 2, "--spread", "node"), "spread is 'node'", "did you mean nodes?"),
    (("plan", EXAMPLE, "--ranks", 8, "--effort", "fst"), "effort is 'fst'", "did you mean fast?"),
    (("inspect", EXAMPLE, "--format", "sglang-sta"), "--format is 'sglang-sta'", "did you mean sglang-stat?"),
    (("metrics", EXAMPLE, "p.json", "--formula", "vlm"), "--formula is 'vlm'", "did you mean vllm?"),
    (("convert", "a", "b", "--for", "json", "--from", "deepsek"), "--from is 'deepsek'", "did you mean deepseek?"),
    (("compare", EXAMPLE, "--packing", "ltp"), "constructor is 'ltp'", "did you mean lpt?"),
    (("compare", EXAMPLE, "--packing", "lpt+swp"), "refine is 'swp'", "did you mean swap?"),
    (("compare", EXAMPLE, "--explain", "--level", "rnk"), "level is 'rnk'", "did you mean rank?"),
    (("simulate", EXAMPLE, *SHAPE, "--dispatch", "optmal"), "dispatch is 'optmal'", "did you mean optimal?"),
    (("simulate", EXAMPLE, *SHAPE, "--time-model", "token"), "time model is 'token'", "did you mean tokens?"),
    (("simulate", EXAMPLE, *SHAPE, "--policy", "las"), "forecast is 'las'", "did you mean last?"),
    (("simulate", EXAMPLE, *SHAPE, "--policy", "auto,plannr=lpt"), "policy 'auto,plannr=lpt' has", "did you mean planner?"),
    (("simulate", EXAMPLE, *SHAPE, "--policy", "auto,planner=equipose"), "planner is 'equipose'", "did you mean equipoise?"),
    (("simulate", EXAMPLE, *SHAPE, "--policy", "auto,trigger=bellow:1"), "trigger is 'bellow:1'", "did you mean below?"),
    (("check", "--engine", "sglan"), "--engine is 'sglan'", "did you mean sglang?"),
    (("check", "--engine", "vllm", "--link", "h10"), "--link is 'h10': it must be h100, h800, b200, or", "did you mean h100?"),
    (
        ("score", "equipoise:defalt", "--load", EXAMPLE, "--window", 1),
        "the planner after equipoise: is",
        "did you mean default?",
    ),
]


@pytest.mark.parametrize(("command", "found", "nearest"), NAMES)
def test_the_nearest_is_named(run, tmp_path, monkeypatch, command, found, nearest):
    """Exit code 2, one line, nothing on stdout."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert nearest in err
    assert err.count("\n") == 1


def test_nothing_near_is_not_guessed(run):
    """Where no name is alike, those there are will do."""
    assert suggestion("xyz", ("none", "strict")) == ""
    assert run("frobnicate")[2].endswith("; choose one of these\n")
    assert run("plan", EXAMPLE, *SHAPE, "--locality", "x")[2].endswith("none, soft, strict; choose one of these\n")


def test_several_are_named_nearest_first():
    """Up to as many as asked for; capitals do not matter."""
    assert (
        suggestion("DeepSeek-V", ("deepseek-v3", "glm-5", "deepseek-v2"), most=2) == "did you mean deepseek-v3 or deepseek-v2?"
    )
