"""``equipoise dispatch``: figures and files as the library gives them, clear refusals."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement, metrics, plan
from equipoise.dispatching.batches import MoveTime, plan_batch
from equipoise.dispatching.splitting import dispatch
from equipoise.dispatching.tables import fixed_table, probability_table

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
PAID = ("--expert-bytes", "44MB", "--seconds-per-token", "1e-5")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write placements for the first 5 windows of the load that ships: one with spare slots, one without, and a lame one."""
    folder, past = tmp_path_factory.mktemp("placements"), LoadTrace.example().load[:5]
    found = SimpleNamespace(
        spared=plan(past, Cluster(8, 5), effort="fast").placement,
        home=plan(past, Cluster(8, 4, 2), effort="fast").placement,
        lame=Placement(np.tile(np.arange(40) % 31, (24, 1)), Cluster(8, 5), 32),
    )
    for name in ("spared", "home", "lame"):
        getattr(found, name).write(folder / f"{name}.json")
        setattr(found, f"{name}_file", folder / f"{name}.json")
    return found


def _figures(largest, ideal):
    names = ("balancedness", "worst_layer", "p5_layer")
    functions = (metrics.balancedness, metrics.worst_layer, metrics.fifth_percentile)
    return {name: function(largest, ideal) for name, function in zip(names, functions, strict=True)}


def test_split_as_json(run, files):
    """One object: even and optimal side by side, what is proven, and the layers; figures are dispatch()'s."""
    code, out, err = run("dispatch", files.spared_file, EXAMPLE, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found, expected = json.loads(out), dispatch(LoadTrace.example(), files.spared)
    even = files.spared.layer_times(LoadTrace.example())[0]
    assert found["ways"] == [
        {"way": "even", **_figures(even, expected.ideal)},
        {"way": "optimal", **_figures(expected.largest, expected.ideal)},
    ]
    assert found["ways"][0]["balancedness"] == files.spared.balancedness(LoadTrace.example()) < found["balancedness"]
    assert found["balancedness"] == expected.balancedness
    assert found["p5_layer"] == expected.fifth_percentile
    assert found["best_possible_balancedness"] == metrics.balancedness(expected.bound, expected.ideal)
    assert 0 <= found["largest_gap"] == expected.gap.max() < 1e-9
    assert found["tokens"] == LoadTrace.example().load.sum()
    assert (found["layers"], found["experts"], found["ranks"], found["slots"]) == (24, 32, 8, 40)
    for name in ("largest", "ideal", "bound", "gap"):
        assert found["per_layer"][name] == getattr(expected, name).tolist()
    assert found["per_layer"]["layer_id"] == list(LoadTrace.example().layer_ids)
    assert 0 < found["seconds"] < 60
    assert "moves" not in found


def test_batch_as_json(run, files):
    """With spare slots: home split both ways, replicas for the batch, their moves and what these take."""
    load = LoadTrace.example().last(1)
    command = ("dispatch", files.home_file, EXAMPLE, "--last", 1, "--spare-slots", 2, "--json")
    found, expected = json.loads(run(*command)[1]), plan_batch(load, files.home, 2)
    assert [way["way"] for way in found["ways"]] == ["home, even", "home, optimal", "replicas for the batch"]
    assert found["ways"][2] == {"way": "replicas for the batch", **_figures(expected.largest, expected.ideal)}
    assert found["balancedness"] == expected.balancedness > found["ways"][0]["balancedness"]
    assert found["slots"] == 48
    assert found["moves"] == expected.moves.tolist()
    assert found["mean_moves"] == expected.moves.mean() > 1
    received = [sum(expected.source[x, 6 * r + s] >= 0 for s in range(6)) for x in range(load.num_layers) for r in range(8)]
    assert found["most_received"] == max(received)
    assert found["most_sent"] == max((expected.source == r).sum(axis=1).max() for r in range(8))
    assert found["per_layer"]["bound"] == expected.bound.tolist()
    assert "move_seconds" not in found


@pytest.mark.parametrize(
    ("options", "wishes"),
    [
        (("--stop-at", 1.05), {"stop_at": 1.05}),
        (("--gain-per-move", 0.02), {"gain_per_move": 0.02}),
        (("--max-received", 0), {"max_received": 0}),
        (("--prefer-near",), {"prefer_near": True}),
        (PAID, {"move_time": MoveTime(1e-5, 44e6)}),
        (
            (*PAID, "--link", "900GB", "--node-link", "25e9"),
            {"move_time": MoveTime(1e-5, 44e6, 900e9, 25e9)},
        ),
    ],
)
def test_options_of_batches(run, files, options, wishes):
    """Each gets to plan_batch(), and changes what it finds."""
    load = LoadTrace.example().last(1)
    found = json.loads(run("dispatch", files.home_file, EXAMPLE, "--last", 1, "--spare-slots", 2, *options, "--json")[1])
    expected = plan_batch(load, files.home, 2, **wishes)
    assert found["per_layer"]["largest"] == expected.largest.tolist()
    assert found["moves"] == expected.moves.tolist()
    assert found["per_layer"]["largest"] != plan_batch(load, files.home, 2).largest.tolist()
    if "move_time" in wishes:
        assert expected.moves.any()
        assert found["move_seconds"] == (expected.move_time * 1e-5).tolist()
        assert found["rank_seconds"] == (expected.largest * 1e-5).tolist()


def test_part_of_a_trace(run, files):
    """Steps are added up: all, the last N, or the last full window, counted from the first."""
    load = LoadTrace.example().load
    for options, part in (((), load), (("--last", 3), load[28:]), (("--window", 4), load[24:28])):
        found = json.loads(run("dispatch", files.spared_file, EXAMPLE, *options, "--json")[1])
        assert found["per_layer"]["largest"] == dispatch(part, files.spared).largest.tolist()


def test_for_people(run, files):
    """A row a way to split, the limits, and what was read; with spare slots the moves and their time."""
    code, out, err = run("dispatch", files.spared_file, EXAMPLE)
    assert (code, err) == (0, "")
    for words in ("even", "optimal", "proven limit", "ideal", "worst layer", "p5", "100.00 %", "31 of 31 steps", "rounding"):
        assert words in out
    assert "moves" not in out
    out = run("dispatch", files.home_file, EXAMPLE, "--window", 1, "--spare-slots", 1, *PAID)[1]
    for words in ("home, even", "home, optimal", "replicas for the batch", "proven limit", "the last of 31 windows"):
        assert words in out
    for words in ("moves a layer: ", "a rank receives 1 at most", "us a layer (mean)", "which counts no moves"):
        assert words in out
    assert "moves take" not in run("dispatch", files.home_file, EXAMPLE, "--spare-slots", 1)[1]


def test_written_split(run, files, tmp_path):
    """The file holds the arrays of dispatch(), and says so; no tables unless asked for."""
    path = tmp_path / "split.npz"
    code, out, _ = run("dispatch", files.spared_file, EXAMPLE, "--out", path)
    assert code == 0
    assert f"split written to {path}" in out
    expected = dispatch(LoadTrace.example(), files.spared)
    with np.load(path) as found:
        arrays = {"shares", "tokens", "whole_tokens", "rank_load", "bound", "tight"}
        assert set(found) == arrays | {"expert_of_slot", "rank_of_slot", "layer_ids"}
        for name in arrays:
            assert found[name].dtype == getattr(expected, name).dtype
            assert np.array_equal(found[name], getattr(expected, name))
        assert np.array_equal(found["expert_of_slot"], files.spared.expert_of_slot)
        assert np.array_equal(found["rank_of_slot"], files.spared.cluster.rank_of_slot)
        assert found["layer_ids"].tolist() == list(LoadTrace.example().layer_ids)
    assert json.loads(run("dispatch", files.spared_file, EXAMPLE, "--out", path, "--json")[1])["out"] == str(path)
    assert list(tmp_path.iterdir()) == [path]


def test_written_batch_with_tables(run, files, tmp_path):
    """Sources beside it, and the tables that engines load, over home and spare slots; --quiet prints nothing."""
    path = tmp_path / "split.npz"
    command = ("dispatch", files.home_file, EXAMPLE, "--spare-slots", 1, "--out", path, "--tables", "--quiet")
    assert run(*command) == (0, "", "")
    expected = plan_batch(LoadTrace.example(), files.home)
    with np.load(path) as found:
        assert np.array_equal(found["source"], expected.source)
        assert np.array_equal(found["expert_of_slot"], expected.placement.expert_of_slot)
        assert np.array_equal(found["slots_of_expert"], expected.placement.slots_of_expert)
        assert np.array_equal(found["probability_of_replica"], probability_table(expected.placement, expected.shares))
        assert np.array_equal(found["slot_of_source"], fixed_table(expected.placement, expected.shares))
        assert found["slot_of_source"].shape == (8, 24, 32)


def test_standard_input(run, files, monkeypatch):
    """A load from a pipe."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(EXAMPLE.read_bytes())))
    found = json.loads(run("dispatch", files.spared_file, "-", "--json")[1])
    assert found["balancedness"] == dispatch(LoadTrace.example(), files.spared).balancedness


def test_a_layer_without_load(run, tmp_path):
    """Counts nothing, and nan never gets into JSON."""
    Placement([[0, 1], [0, 1]], Cluster(2, 1), 2).write(tmp_path / "p.json")
    (tmp_path / "load.csv").write_text("4,1\n0,0\n")
    for options in ((), ("--spare-slots", 1)):
        found = json.loads(run("dispatch", tmp_path / "p.json", tmp_path / "load.csv", *options, "--json")[1])
        assert found["per_layer"]["balancedness"][1] is None
        assert found["per_layer"]["largest"][1] == 0
        assert found["ways"][0]["balancedness"] == 0.625
        assert run("dispatch", tmp_path / "p.json", tmp_path / "load.csv", *options)[0] == 0


def test_an_expert_without_a_slot_needs_no_load(run, tmp_path):
    """Ranks that are down and experts that nobody asks for are no matter."""
    Placement([[0, -1]], Cluster(2, 1, alive=[True, False]), 2).write(tmp_path / "p.json")
    (tmp_path / "load.csv").write_text("4,0\n")
    found = json.loads(run("dispatch", tmp_path / "p.json", tmp_path / "load.csv", "--json")[1])
    assert found["balancedness"] == 1.0


BAD = [
    (("lame", "LOAD"), "layer 0: expert 31 has 36440 tokens and no slot (24 such): every expert with load needs a slot"),
    (("home", "csv"), "load has 1 layers of 3 experts: this placement has 24 of 32; pass the load of the model"),
    (("home", "LOAD", "--spare-slots", 29), "29 spare slots beside 4 on rank 0 for 32 experts: no rank may hold an expert"),
    (("home", "LOAD", "--spare-slots", 0), "Invalid value for '--spare-slots'"),
    (("home", "LOAD", "--spare-slots", 1, "--stop-at", 0.9), "stop_at is 0.9: it must be a finite number >= 1"),
    (("home", "LOAD", "--spare-slots", 1, "--stop-at", "nan"), "stop_at is nan: it must be a finite number >= 1"),
    (("home", "LOAD", "--spare-slots", 1, "--gain-per-move", -1), "gain_per_move is -1.0: it must be a finite number >= 0"),
    (("home", "LOAD", "--spare-slots", 1, "--max-received", -1), "Invalid value for '--max-received'"),
    (("home", "LOAD", "--stop-at", 1.1), "--stop-at without --spare-slots: it says how these are filled; add them, or leave"),
    (("home", "LOAD", "--prefer-near"), "--prefer-near without --spare-slots"),
    (("home", "LOAD", "--max-received", 0), "--max-received without --spare-slots"),
    (("home", "LOAD", *PAID), "--expert-bytes without --spare-slots"),
    (("home", "LOAD", "--spare-slots", 1, *PAID[:2]), "--expert-bytes without --seconds-per-token: the time of a move takes"),
    (("home", "LOAD", "--spare-slots", 1, *PAID[2:]), "--seconds-per-token without --expert-bytes: the time of a move takes"),
    (("home", "LOAD", "--spare-slots", 1, "--link", "1GB"), "--link without --seconds-per-token"),
    (("home", "LOAD", "--spare-slots", 1, *PAID, "--node-link", "fast"), "--node-link is 'fast': it must be bytes a second"),
    (("home", "LOAD", "--spare-slots", 1, *PAID[:3], 0), "seconds_per_token is 0.0: it must be a finite number > 0"),
    (("home", "LOAD", "--out", "split.json"), "split.json ends in .json: a split is written as .npz; name it so"),
    (("home", "LOAD", "--out", "split"), "split ends in nothing: a split is written as .npz"),
    (("home", "LOAD", "--out", "/nonexistent/split.npz"), "/nonexistent/split.npz cannot be written"),
    (("home", "LOAD", "--tables"), "--tables without --out: tables are written to a file"),
    (("home", "LOAD", "--window", 3, "--last", 3), "--window 3 and --last 3: they exclude each other"),
    (("home", "LOAD", "--last", 40), "last is 40 steps"),
    (("home", "/nonexistent"), "/nonexistent cannot be read (No such file or directory)"),
    (("/nonexistent", "LOAD"), "/nonexistent cannot be read (No such file or directory)"),
    (("LOAD", "LOAD"), f"{EXAMPLE} is not a placement file"),
    (("home",), "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "found"), BAD)
def test_bad_input(run, files, tmp_path, monkeypatch, arguments, found):
    """Exit code 2, one line on stderr with value, rule and next step, nothing on stdout, no file."""
    (tmp_path / "load.csv").write_text("1,2,3\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    names = {"lame": files.lame_file, "home": files.home_file, "LOAD": EXAMPLE, "csv": tmp_path / "load.csv"}
    code, out, err = run("dispatch", *(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_an_older_file_outlives_a_refusal(run, files, tmp_path):
    """Written whole or not at all."""
    (tmp_path / "split.npz").write_text("old")
    assert run("dispatch", files.lame_file, EXAMPLE, "--out", tmp_path / "split.npz")[0] == 2
    assert (tmp_path / "split.npz").read_text() == "old"


def test_help(run):
    """Says what it does, with an example."""
    code, out, _ = run("dispatch", "--help")
    assert code == 0
    assert "  equipoise dispatch" in out
