"""``equipoise plan`` without ``--slots``: what redundancy is worth, and which slots to plan with; nothing is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, plan
from equipoise.cli.suggesting import clusters_to_weigh
from equipoise.models import MODELS
from equipoise.reporting.asked import Asked
from equipoise.reporting.choices import weigh_slots


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a working folder with six steps of two layers of eight experts, in order."""
    monkeypatch.chdir(tmp_path)
    steps = np.random.default_rng(1).integers(1, 1000, (6, 2, 8))
    LoadTrace(steps, (3, 4), labels=[f"t{step}" for step in range(6)]).write("load.npz")
    return LoadTrace.read("load.npz", is_in_order=True)


def _weigh(run, *options):
    code, out, err = run("plan", "load.npz", "--ranks", 4, "--in-order", *options, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_figures_by_hand(run, load):
    """Each step planned and scored on itself and on the next, with 0, 1, 2, ... spare slots a rank."""
    found = _weigh(run)
    assert (found["windows"], found["scored"], found["layer_ids"]) == (6, "next-window", [3, 4])
    assert [result["slots"] for result in found["results"]] == [8, 12, 16, 20, 24, 32]
    assert [result["spare_per_rank"] for result in found["results"]] == [0, 1, 2, 3, 4, 6]
    for result in found["results"][:2]:
        cluster = Cluster(4, result["slots"] // 4)
        plans = [plan(step, cluster) for step in load.load]
        following = [made.placement.balancedness(step) for made, step in zip(plans, load.load[1:], strict=False)]
        assert np.isclose(result["balancedness"], np.mean([made.balancedness for made in plans]))
        assert np.isclose(result["next_window"], np.mean(following))
    (knee,) = [result["slots"] for result in found["results"] if result["is_knee"]]
    assert found["suggested_slots"] == knee


def test_memory_of_a_rank(run, load):
    """By the model or by the size of an expert, which goes first."""
    assert _weigh(run)["results"][0]["memory_bytes"] is None
    assert _weigh(run, "--expert-bytes", "44MB")["results"][1]["memory_bytes"] == 2 * 3 * 44e6
    example = json.loads(run("plan", _example(), "--ranks", 8, "--model", "gpt-oss-20b", "--effort", "fast", "--json")[1])
    assert example["results"][1]["memory_bytes"] == 24 * 5 * MODELS["gpt-oss-20b"].expert_bytes


def _example():
    from equipoise.trace import _EXAMPLE

    return _EXAMPLE


def test_windows(run, load):
    """As --window says; else at most sixteen."""
    assert _weigh(run, "--window", 2)["windows"] == 3
    assert _weigh(run, "--last", 4)["windows"] == 4
    LoadTrace(np.tile(load.load, (6, 1, 1)), (3, 4)).write("load.npz")
    assert _weigh(run)["windows"] == 12  # of three steps


def test_steps_in_no_order_are_one_load(run, load, monkeypatch):
    """Added up and judged in-sample, and it is said."""
    unordered = LoadTrace(load.load, is_in_order=False)
    monkeypatch.setattr("equipoise.cli.suggesting.read_part", lambda *_, **__: (unordered, "6 of 6 steps"))
    found = _weigh(run)
    assert (found["windows"], found["scored"]) == (1, "in-sample")
    assert "nothing is told of the next window" in run("plan", "load.npz", "--ranks", 4)[1]


def test_for_people(run, load, tmp_path):
    """The table, the knee, what to type next; and no file."""
    before = sorted(tmp_path.iterdir())
    code, out, err = run("plan", "load.npz", "--ranks", 4, "--in-order", "--expert-bytes", "44MB")
    assert (code, err) == (0, "")
    for words in ("in-sample", "next window", "GB", "nothing is planned yet: add --slots", "6 windows of 1 step"):
        assert words in out
    assert sum("knee" in line for line in out.splitlines() if line.startswith("│")) == 1
    assert sorted(tmp_path.iterdir()) == before
    assert run("plan", "load.npz", "--ranks", 4, "--in-order", "--quiet") == (0, "", "")


def test_ladder():
    """The fewest slots that hold every expert on the ranks that are up, then more, never more than experts a rank."""
    assert [one.num_slots for one in clusters_to_weigh(256, 32, 4, "", "")] == [256, 288, 320, 352, 384, 448, 512]
    assert [one.num_slots for one in clusters_to_weigh(8, 4, 1, "", "3")] == [12, 16, 20, 24, 28]
    assert [one.num_slots for one in clusters_to_weigh(4, 4, 1, "", "")] == [4, 8, 12, 16]
    assert [one.num_slots for one in clusters_to_weigh(8, 4, 2, "", "", "strict")] == [8, 12, 16]
    assert [one.num_slots for one in clusters_to_weigh(8, 4, 2, "", "3", "strict")] == [16]
    assert [one.num_slots for one in clusters_to_weigh(8, 4, 4, "", "3", "strict")] == [8]  # refused: a node without ranks
    assert clusters_to_weigh(8, 4, 2, "1,1,2,2", "0")[0] == Cluster(
        4, 3, 2, rank_speeds=(1, 1, 2, 2), alive=(False, True, True, True)
    )


def test_strict_locality(run, load):
    """Counts end at the experts of a node, and start at what its ranks that are up must hold."""
    strict = ("--nodes", 2, "--groups", 2, "--locality", "strict")
    assert [result["slots"] for result in _weigh(run, *strict)["results"]] == [8, 12, 16]
    assert [result["slots"] for result in _weigh(run, *strict, "--down", 3)["results"]] == [16]


def test_strict_locality_in_a_report(load):
    """A report weighs the counts that can be planned, too."""
    omissions = []
    asked = Asked(num_groups=2, locality="strict", effort="fast")
    found = weigh_slots(load, Cluster(4, 2, 2), asked, omissions, lambda: None)
    assert omissions == []
    assert [choice.slots for choice in found.choices] == [8, 12, 16]


def test_left_over_steps_are_told(run, load):
    """Windows that do not take all steps say so; one is no 'windows'."""
    said = run("plan", "load.npz", "--ranks", 4, "--in-order", "--window", 4)[1]
    assert "planned on 1 window of 4 steps, 2 steps at the end left out" in said
    LoadTrace(np.tile(load.load, (6, 1, 1))[:31], (3, 4)).write("load.npz")
    said = run("plan", "load.npz", "--ranks", 4, "--in-order")[1]
    assert "15 windows of 2 steps from 31 of 31 steps, 1 step at the end left out; others by --window" in said


def test_no_load(run, load):
    """What is perfect for want of tokens is called so, on stderr, beside JSON too."""
    steps = load.load.copy()
    for layers, which in (([0], "1 of 2 layers"), ([0, 1], "any layer")):
        steps[:, layers] = 0
        LoadTrace(steps, (3, 4)).write("load.npz")
        for options in ((), ("--slots", 8), ("--slots", 8, "--json")):
            code, _, err = run("plan", "load.npz", "--ranks", 4, "--in-order", *options)
            assert code == 0
            assert err == f"note: no load at all in {which}: 100 % says nothing there; see equipoise inspect\n"
        assert run("plan", "load.npz", "--ranks", 4, "--slots", 8, "--quiet")[2] == ""


BAD = [
    (
        ("--out", "p.json"),
        "--out without --slots: nothing is planned without: plan then says how many slots pay; add --slots N",
    ),
    (("--for", "vllm"), "--for without --slots"),
    (("--forecast", "auto"), "--forecast without --slots"),
    (("--home-share", 0.5), "--home-share without --slots"),
    (("--min-replicas", 2), "--min-replicas without --slots"),
    (("--dispatch", "optimal"), "--dispatch without --slots"),
    (("--prove",), "--prove without --slots"),
    (("--max-moves", 2), "--max-moves without --slots"),
    (("--seed", 0), "--seed without --slots"),
    (("--report", "r.html"), "--report without --slots"),
    (("--locality", "soft"), "locality is 'soft': it must be one of none, strict"),
    (("--expert-bytes", "much"), "--expert-bytes is 'much'"),
    (("--window", 9), "window is 9 steps"),
]


@pytest.mark.parametrize(("options", "found"), BAD)
def test_what_needs_a_plan_is_refused(run, load, tmp_path, options, found):
    """Exit code 2, one line on stderr, no file."""
    before = sorted(tmp_path.iterdir())
    code, out, err = run("plan", "load.npz", "--ranks", 4, "--in-order", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
