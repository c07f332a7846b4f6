"""`equipoise compare --slots` with several counts: what redundancy is worth, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace
from equipoise.planning.redundancy import score_redundancy, spend_slots, try_slots

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"


@pytest.fixture
def load(tmp_path):
    """Write six windows of 3 layers x 8 experts: one level layer, two hot experts elsewhere."""
    load = np.random.default_rng(5).integers(90, 110, (6, 3, 8))
    load[:, 1, 0] += 500
    load[:, 2, 3] += 300
    path = tmp_path / "load.npz"
    LoadTrace(load, (4, 7, 9)).write(path)
    return path


def _small(load, *more):
    return ("compare", load, "--ranks", 4, "--slots", "16,8,12", "--effort", "fast", *more)


@pytest.mark.compiled
def test_json_gives_all_of_it(run, load):
    """Settings, a result a slots count with its layers, and unequal budgets for each but the least."""
    code, out, err = run(*_small(load, "--window", 1, "--expert-bytes", "2MB", "--json"))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["ranks"], found["windows"], found["effort"], found["scored"]) == (4, 6, "fast", "next-window")
    assert found["layer_ids"] == [4, 7, 9]
    trials = try_slots(LoadTrace.read(load), [Cluster(4, slots) for slots in (2, 3, 4)], effort="fast")
    for result, score in zip(found["results"], score_redundancy(trials, expert_bytes=2e6), strict=True):
        assert result["slots"] == score.slots
        assert result["memory_bytes"] == score.memory_bytes == score.memory_slots * 2e6
        assert result["next_window"] == score.next_window
        assert result["next_window_error"] == score.next_window_error
        assert result["gain"] == score.gain.tolist()
        assert result["largest"] == score.largest.tolist()
        assert result["is_knee"] == score.is_knee
        assert result["layers_that_gain"] == (score.gain > 0.01).sum()
    assert [unequal["uniform_slots"] for unequal in found["unequal"]] == [12, 16]
    spent = spend_slots(trials, 12)
    assert found["unequal"][0]["slots_of_layer"] == spent.slots_of_layer.tolist()
    assert found["unequal"][0]["held_out"] == spent.held_out
    assert found["unequal"][0]["held_out_uniform"] == spent.held_out_uniform


@pytest.mark.compiled
def test_the_table_fits_80_columns(run, load, monkeypatch):
    """Figures whole on one line each, the knee marked once, then the layers and the unequal budgets."""
    monkeypatch.setattr("equipoise.cli.output.out.width", 80, raising=False)
    code, out, _ = run(*_small(load, "--window", 1, "--expert-bytes", "44GB"))
    assert code == 0
    lines = out.splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert max(map(len, rows)) <= 80
    assert len(rows) == 3
    assert all(row.count("%") == 3 for row in rows)
    assert sum("knee" in row for row in rows) == 1
    assert "  8 to 12: 2 of 3 (all but layers 4)" in lines
    for words in (
        "in-sample",
        "528.0",
        "error: standard, of next window",
        "on the next window",
        "Unequal layers",
        "Chosen on the first half",
    ):
        assert words in out


@pytest.mark.compiled
def test_one_load_is_judged_in_sample(run, load):
    """Without windows there is no next one: figures in-sample, nothing of unequal budgets."""
    found = json.loads(run(*_small(load, "--json"))[1])
    assert (found["windows"], found["scored"], found["unequal"]) == (1, "in-sample", [])
    assert all(result["next_window"] is None and result["memory_bytes"] is None for result in found["results"])
    out = run(*_small(load))[1]
    assert "on the load planned for" in out
    assert "Unequal" not in out
    assert "takes three windows or more" in run(*_small(load, "--window", 3))[1]


@pytest.mark.compiled
def test_the_example_at_its_knee(run):
    """The load that ships: one step up lifts the next window, by less than it costs in memory."""
    found = json.loads(run("compare", EXAMPLE, "--slots", "32,40,48", "--window", 1, "--json")[1])["results"]
    assert [result["is_knee"] for result in found] == [True, False, False]
    assert found[0]["next_window"] < found[1]["next_window"] < found[2]["next_window"]


@pytest.mark.compiled
def test_one_number_compares_packings(run):
    """Once or repeated, one count means packings as ever, all their options with it; quiet prints nothing."""
    command = ("compare", EXAMPLE, "--packing", "default", "--rounds", 3, "--json", "--slots")
    once, twice = (json.loads(run(*command, slots)[1]) for slots in ("40", "40,40"))
    assert once["slots"] == twice["slots"] == 40
    assert once["results"][0]["balancedness"] == twice["results"][0]["balancedness"]
    assert run("compare", EXAMPLE, "--slots", "32,40", "--effort", "fast", "--quiet") == (0, "", "")


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("text", "size"), [("44MB", 44e6), ("44e6", 44e6), ("44 mb", 44e6), ("42MiB", 42 * 2**20), ("0.5G", 5e8)]
)
def test_sizes_as_people_write_them(run, load, text, size):
    """Decimal and binary units, or plain bytes."""
    found = json.loads(run(*_small(load, "--expert-bytes", text, "--json"))[1])
    assert found["results"][0]["memory_bytes"] == 6 * size


SEVERAL = ("--slots", "32,40")
BAD = [
    (("--slots", "32,41"), "41 slots on 8 ranks: slots must be divisible by ranks; take 40 or 48"),
    (("--slots", "24,32"), "24 slots for 32 experts: every expert needs a slot"),
    (("--slots", "32,264"), "33 slots per rank for 32 experts"),
    (("--slots", "32,many"), "--slots is '32,many': it must be whole numbers >= 1 with commas between; try 288 or 256,288"),
    (("--slots", "0,32"), "--slots is '0,32'"),
    (("--slots", "-8"), "--slots is '-8'"),
    (("--slots", ","), "--slots is ','"),
    ((*SEVERAL, "--packing", "lpt"), "--packing with 2 slots counts: several weigh redundancy with plan() itself"),
    ((*SEVERAL, "--noise", "0.1"), "--noise with 2 slots counts"),
    ((*SEVERAL, "--candidates", 8), "--candidates with 2 slots counts"),
    ((*SEVERAL, "--rounds", 8), "--rounds with 2 slots counts"),
    ((*SEVERAL, "--seed", 0), "--seed with 2 slots counts"),
    ((*SEVERAL, "--locality"), "locality is 'curve': it must be one of none, strict"),
    ((*SEVERAL, "--effort", "more"), "effort is 'more': it must be one of fast, default, best"),
    ((*SEVERAL, "--expert-bytes", "heavy"), "--expert-bytes is 'heavy': it must be a size > 0; try 44MB, 42MiB or 44e6"),
    ((*SEVERAL, "--expert-bytes", "1.2.3MB"), "--expert-bytes is '1.2.3MB'"),
    ((*SEVERAL, "--expert-bytes", "0"), "--expert-bytes is '0'"),
    ((*SEVERAL, "--expert-bytes", "1e999"), "--expert-bytes is '1e999'"),
    (("--slots", "40", "--effort", "best"), "--effort without several slots counts"),
    (("--expert-bytes", "44MB"), "--expert-bytes without several slots counts"),
]


@pytest.mark.parametrize(("options", "found"), BAD)
def test_bad_lists(run, options, found):
    """Exit code 2, one line on stderr, nothing on stdout."""
    code, out, err = run("compare", EXAMPLE, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
