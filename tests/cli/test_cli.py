"""The command line: tables for people, one JSON object for programs, one clear line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement, plan
from equipoise.cli.catalogue import COMMANDS
from equipoise.cli.commands import load_command

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
SHAPE = ("--ranks", 8, "--slots", 40)


def test_plan_json(run):
    """One object with the promised keys, figures as plan() gives them, and nothing else on stdout."""
    code, out, err = run("plan", EXAMPLE, *SHAPE, "--json")
    found = json.loads(out)
    assert code == 0
    assert err == ""
    assert out.count("\n") == 1
    expected = plan(LoadTrace.example(), Cluster(8, 5))
    assert found["balancedness"] == expected.balancedness
    assert found["worst_layer"] == expected.worst_layer
    assert found["p5_layer"] == expected.fifth_percentile
    assert found["bound"] == expected.bound.sum()
    assert np.isclose(found["gap"], expected.largest.sum() / expected.bound.sum() - 1)
    assert found["balancedness"] > found["balancedness_before"] > 0.3
    assert 0 < found["seconds"] < 60
    assert (found["layers"], found["ranks"], found["slots"], found["experts"]) == (24, 8, 40, 32)
    assert found["locality"] == "none"
    assert found["per_layer"]["bound"] == expected.bound.tolist()
    assert found["per_layer"]["gap"] == expected.gap.tolist()


def test_plan_before_is_slots_in_id_order(run):
    """The starting point: slot s holds expert s modulo experts."""
    found = json.loads(run("plan", EXAMPLE, *SHAPE, "--json")[1])
    slots = np.tile(np.arange(40) % 32, (24, 1))
    assert found["balancedness_before"] == Placement(slots, Cluster(8, 5), 32).balancedness(LoadTrace.example())


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_plan_writes_a_placement(run, tmp_path, ending):
    """The file holds the plan's placement, and the output says where it is."""
    path = tmp_path / f"placement.{ending}"
    code, out, _ = run("plan", EXAMPLE, *SHAPE, "--nodes", 4, "--groups", 8, "--locality", "strict", "--out", path)
    assert code == 0
    assert f"placement written to {path}" in out
    expected = plan(LoadTrace.example(), Cluster(8, 5, 4), num_groups=8, locality="strict")
    written = Placement.read(path)
    written.validate()
    assert np.array_equal(written.expert_of_slot, expected.placement.expert_of_slot)
    assert written.cluster == Cluster(8, 5, 4)


def test_plan_on_part_of_a_trace(run, tmp_path):
    """--last N takes the last N steps, --window W the last full window counted from the start."""
    example = LoadTrace.example()
    for option, part in (("--last", example.load[26:]), ("--window", example.load[25:30])):
        run("plan", EXAMPLE, *SHAPE, option, 5, "--out", tmp_path / "p.json", "--quiet")
        expected = plan(part, Cluster(8, 5)).placement.expert_of_slot
        assert np.array_equal(Placement.read(tmp_path / "p.json").expert_of_slot, expected)


def test_plan_for_people(run):
    """Before, after and the proven limit, and which figure they are."""
    code, out, _ = run("plan", EXAMPLE, *SHAPE)
    assert code == 0
    for words in ("before: slots in id order", "after: this plan", "proven limit", "in-sample", "of the proven limit"):
        assert words in out


def test_quiet_prints_nothing(run, tmp_path):
    """--quiet still does the work."""
    for command in (("inspect", EXAMPLE), ("plan", EXAMPLE, *SHAPE, "--out", tmp_path / "p.npz"), ("warmup",)):
        assert run(*command, "--quiet") == (0, "", "")
    assert (tmp_path / "p.npz").exists()


def test_inspect(run, tmp_path):
    """Size, skew and findings, for people and as JSON; nan never gets into JSON."""
    path = tmp_path / "x.csv"
    path.write_text("4,1,1\n0,0,0\n")
    code, out, _ = run("inspect", path)
    assert code == 0
    assert "1 step, 2 layers, 3 experts, 6 tokens" in out
    assert "note: no load at all in layer 1" in out
    found = json.loads(run("inspect", path, "--json")[1])
    assert (found["steps"], found["layers"], found["experts"], found["tokens"]) == (1, 2, 3, 6)
    assert found["per_layer"]["max_over_mean"] == [2.0, None]
    assert found["per_layer"]["hottest"][0] == [0, 1, 2]
    assert found["layers_without_load"] == [1]
    assert len(found["findings"]) == 1


def test_inspect_the_example(run):
    """The load that ships: no findings, the hottest layers named by the model's numbers."""
    found = json.loads(run("inspect", EXAMPLE, "--json")[1])
    assert found["findings"] == []
    assert (found["steps"], found["layers"], found["experts"]) == (31, 24, 32)
    assert "hottest / mean expert" in run("inspect", EXAMPLE)[1]


@pytest.mark.compiled
def test_compare_puts_the_published_steps_side_by_side(run):
    """Each packing with noise comes once a noise, the others once; figures are balance and time."""
    names = "ensemble+swap,ensemble+reconstruct,lpt+best_swap,default"
    command = ("compare", EXAMPLE, "--packing", names, "--noise", "0.1,0.2")
    code, out, _ = run(*command, "--json")
    assert code == 0
    found = json.loads(out)["results"]
    assert [(f["packing"], f["noise"]) for f in found] == [
        ("ensemble+swap", 0.1),
        ("ensemble+swap", 0.2),
        ("ensemble+reconstruct", 0.1),
        ("ensemble+reconstruct", 0.2),
        ("lpt+best_swap", None),
        ("default", None),
    ]
    ours = plan(LoadTrace.example(), Cluster(8, 5)).balancedness
    assert np.isclose(found[-1]["balancedness"], ours, rtol=1e-12)
    assert all(0.5 < f["balancedness"] <= 1 and f["milliseconds"] > 0 and f["next_window"] is None for f in found)
    table = run(*command)[1]
    assert "ensemble+reconstruct" in table
    assert "in-sample" in table


@pytest.mark.compiled
def test_the_locality_dial(run, tmp_path):
    """`compare --locality` prints the curve; plan takes a point of it, and writes what it planned."""
    nodes = (*SHAPE, "--nodes", 4, "--groups", 8)
    curve = json.loads(run("compare", EXAMPLE, *nodes, "--locality", "--json")[1])["results"]
    assert (curve[0]["locality"], curve[-1]["locality"]) == ("strict", "none")
    asked = [score["asked"] for score in curve[1:-1]]
    assert asked == sorted(asked, reverse=True)
    assert all(score["home_share"] >= score["asked"] for score in curve[1:-1])
    soft = ("plan", EXAMPLE, *nodes, "--locality", "soft", "--home-share", 0.9)
    found = json.loads(run(*soft, "--out", tmp_path / "p.json", "--json")[1])
    assert found["home_share"] >= 0.9
    assert found["balancedness"] > found["strict_balancedness"] == curve[0]["balancedness"]
    assert "strict locality would reach" in run(*soft)[1]
    assert "soft, 90% asked" in run("compare", EXAMPLE, *nodes, "--locality", "curve")[1]


@pytest.mark.compiled
def test_plan_for_unequal_ranks(run, tmp_path):
    """Uneven slots, speeds and ranks that are down, from the command line to the file and back."""
    shape = ("--ranks", 8, "--slots", 52, "--down", "2", "--speeds", "1,1,1,1,2,2,2,2", "--effort", "fast")
    found = json.loads(run("plan", EXAMPLE, *shape, "--out", tmp_path / "p.npz", "--json")[1])
    placement = Placement.read(tmp_path / "p.npz")
    placement.validate()
    assert placement.cluster.slot_counts.tolist() == [7] * 4 + [6] * 4
    assert placement.cluster.alive[2] is False
    assert np.isclose(found["balancedness"], placement.balancedness(LoadTrace.example()), rtol=1e-12)


@pytest.mark.compiled
def test_compare_scores_the_next_window(run):
    """With windows, each is planned and scored on the one after; by hand for one packing."""
    command = ("compare", EXAMPLE, "--packing", "default", "--window", 5, *SHAPE, "--json")
    found = json.loads(run(*command)[1])
    windows = LoadTrace.example().windows(5)
    plans = [plan(load, Cluster(8, 5)) for load in windows.load]
    following = [p.placement.balancedness(load) for p, load in zip(plans, windows.load[1:], strict=False)]
    assert found["windows"] == 6
    assert np.isclose(found["results"][0]["balancedness"], np.mean([p.balancedness for p in plans]))
    assert np.isclose(found["results"][0]["next_window"], np.mean(following))


BAD = [
    (("plan", EXAMPLE, "--ranks", 64, "--slots", 40), "number of slots is 40: it must be an integer >= 64"),
    (("plan", EXAMPLE, "--ranks", 8, "--slots", 24), "24 slots for 32 experts: every expert needs a slot, 8 are missing; take"),
    (
        ("plan", EXAMPLE, *SHAPE, "--down", "6,7"),
        "30 slots on the 6 ranks that are up for 32 experts: every expert needs a slot, 2",
    ),
    (("plan", EXAMPLE, *SHAPE, "--down", "8"), "--down names rank 8: ranks are counted 0 to 7"),
    (("plan", EXAMPLE, *SHAPE, "--speeds", "1,2"), "rank_speeds has 2 entries: it needs one a rank (8)"),
    (("plan", EXAMPLE, *SHAPE, "--speeds", "1,1,1,1,1,1,1,0"), "rank_speeds[7] is 0.0: a speed must be finite and > 0"),
    (("plan", EXAMPLE, *SHAPE, "--effort", "more"), "effort is 'more': it must be one of fast, default, best"),
    (("plan", EXAMPLE, *SHAPE, "--home-share", "1.5"), "home_share is 1.5: it must lie in [0, 1]"),
    (("plan", EXAMPLE, *SHAPE, "--home-share", "0.5"), "home_share is 0.5 with locality none"),
    (
        ("compare", EXAMPLE, *SHAPE, "--nodes", 4, "--groups", 2, "--locality"),
        "2 groups on 4 nodes: soft locality needs groups",
    ),
    (("compare", EXAMPLE, *SHAPE, "--locality", "soft"), "locality is 'soft': it must be one of none, strict, curve"),
    (("compare", EXAMPLE, *SHAPE, "--locality"), "the locality curve on 1 node"),
    (("plan", EXAMPLE, *SHAPE, "--down", "nan"), "--down is 'nan': it must be whole numbers"),
    (("plan", EXAMPLE, *SHAPE, "--prove-layers", "1"), "--prove-layers without --prove"),
    (("compare", EXAMPLE, "--ranks", 8, "--slots", 41), "ranks differ, or a rank's time is more than its tokens"),
    (("plan", EXAMPLE, "--ranks", 2, "--slots", 66), "33 slots per rank for 32 experts"),
    (("plan", EXAMPLE, *SHAPE, "--nodes", 3), "8 ranks on 3 nodes: ranks must be divisible by nodes; take one of 1, 2, 4, 8"),
    (("plan", EXAMPLE, *SHAPE, "--groups", 5), "5 groups of 32 experts"),
    (("plan", EXAMPLE, *SHAPE, "--groups", 2, "--nodes", 4, "--locality", "strict"), "2 groups on 4 nodes"),
    (("plan", EXAMPLE, *SHAPE, "--locality", "some"), "locality is 'some': it must be one of none, soft, strict"),
    (("plan", EXAMPLE, *SHAPE, "--locality", "soft"), "locality is soft without a home share"),
    (("plan", EXAMPLE, *SHAPE, "--window", 32), "window is 32 steps: it must lie between 1 and the 31 steps"),
    (("plan", EXAMPLE, *SHAPE, "--window", 3, "--last", 3), "--window 3 and --last 3: they exclude each other"),
    (("plan", EXAMPLE, *SHAPE, "--out", "/nonexistent/p.json"), "/nonexistent/p.json cannot be written"),
    (("plan", EXAMPLE, *SHAPE, "--out", "p.yaml"), "p.yaml ends in .yaml: a placement is written as .json or .npz"),
    (("plan", EXAMPLE, "--slots", 40), "Missing option '--ranks'"),
    (("plan", EXAMPLE, "--ranks", "many", "--slots", 40), "Invalid value for '--ranks'"),
    (("plan", "/nonexistent", *SHAPE), "/nonexistent cannot be read (No such file or directory)"),
    (("compare", EXAMPLE, "--packing", "lpt+anneal"), "refine is 'anneal': it must be one of swap, reconstruct, best_swap"),
    (("compare", EXAMPLE, "--packing", "bpt"), "constructor is 'bpt': it must be one of lpt, zigzag, shuffle, noisy_lpt"),
    (("compare", EXAMPLE, "--packing", ","), "nothing to compare"),
    (("compare", EXAMPLE, "--noise", "much"), "--noise is 'much'"),
    (("compare", EXAMPLE, "--noise", "2"), "noise is 2.0: it must lie in [0, 1]"),
    (("plann", EXAMPLE), "No such command 'plann'"),
    (("plan", EXAMPLE, *SHAPE, "--jsn"), "No such option: --jsn"),
]


@pytest.mark.parametrize(("command", "found"), BAD)
def test_bad_input(run, tmp_path, monkeypatch, command, found):
    """Exit code 2, one line on stderr with value, rule and next step, nothing on stdout, no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command)
    assert code == 2
    assert out == ""
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "is empty"),
        ("1,2\n3,-4\n", "load is -4 at step 0, layer 1, expert 1: a load must be finite and >= 0"),
        ("1,2\n3,nan\n", "load is nan at step 0, layer 1, expert 1"),
        ("1,2\n3,inf\n", "load is inf at step 0, layer 1, expert 1"),
        ("[1, 2]", "load has shape [2]: it must be [steps, layers, experts] or [layers, experts]"),
    ],
)
def test_bad_loads(run, tmp_path, content, found):
    """Named with file and place, exit code 2; an older output file is not touched."""
    (tmp_path / "load").write_text(content)
    (tmp_path / "p.json").write_text("old")
    code, out, err = run("plan", tmp_path / "load", "--ranks", 2, "--slots", 2, "--out", tmp_path / "p.json")
    assert (code, out) == (2, "")
    assert found in err
    assert str(tmp_path / "load") in err
    assert err.count("\n") == 1
    assert (tmp_path / "p.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_faults_of_ours_exit_with_1(run, monkeypatch):
    """A bug shows its traceback and says that it is ours."""
    monkeypatch.setattr("equipoise.cli.inspect.inspect_trace", lambda *_: 1 / 0)
    code, out, err = run("inspect", EXAMPLE)
    assert (code, out) == (1, "")
    assert "ZeroDivisionError" in err
    assert "this is a fault of equipoise" in err


def test_help_and_version(run):
    """No argument shows the help; --version the version."""
    for arguments in ((), ("--help",)):
        code, out, _ = run(*arguments)
        assert code == 0
        assert all(name in out for name in ("inspect", "plan", "schedule", "dispatch", "compare", "simulate", "warmup"))
    assert run("--version") == (0, f"equipoise {equipoise.__version__}\n", "")


ALL = {"--json", "--quiet"}
READING = {"--active", "--format", "--in-order", "--model"}
CLUSTER = {"--nodes", "--ranks", "--slots"}
UNEQUAL = {"--down", "--speeds"}
GROUPS = {"--groups", "--locality"}
PART = {"--last", "--window"}
LINKS = {"--expert-bytes", "--link", "--node-link"}
NUMBERING = {"--for", "--hidden-layers", "--layer-ids", "--model"}
BUDGET = {"--expert-bytes", "--gain-per-move", "--max-moves", "--move-bytes", "--move-total", "--previous"}
PINNED = {
    "inspect": READING,
    "plan": READING
    | (CLUSTER | UNEQUAL | GROUPS | PART | NUMBERING | BUDGET)
    | {"--dispatch", "--effort", "--forecast", "--out", "--report", "--seed", "--threads"}
    | {"--curve", "--home-share", "--hottest", "--min-replicas", "--spread"}
    | {"--prove", "--prove-layers", "--prove-seconds"},
    "compare": READING
    | (CLUSTER | GROUPS | PART)
    | {"--candidates", "--effort", "--expert-bytes", "--noise", "--packing", "--rounds", "--seed"}
    | {"--dispatch", "--explain", "--level", "--policy"},
    "simulate": READING
    | (CLUSTER | UNEQUAL | GROUPS)
    | {"--batches", "--dispatch", "--every", "--expert-bytes", "--link", "--policy", "--seed", "--time-model", "--window"}
    | {"--folder", "--jobs", "--out"},
    "report": READING
    | (CLUSTER | GROUPS | PART)
    | {"--effort", "--expert-bytes", "--for", "--out", "--placement", "--policy", "--seed", "--simulation"}
    | {"--hidden-layers", "--layer-ids"},
    "convert": NUMBERING | {"--from", "--ranks"},
    "check": {"--engine", "--ep", "--experts", "--groups", "--model", "--nodes", "--option", "--ranks", "--redundant"}
    | {"--every", "--format", "--last", "--link", "--load", "--node-link", "--tokens"},
    "metrics": READING | PART | {"--formula", "--ranks"},
    "schedule": LINKS | {"--chunk", "--leaving", "--mode", "--model", "--out", "--staging"},
    "dispatch": READING
    | (PART | LINKS)
    | {"--gain-per-move", "--max-received", "--prefer-near", "--seconds-per-token", "--spare-slots", "--stop-at"}
    | {"--out", "--tables"},
    "warmup": set(),
    "score": READING
    | CLUSTER
    | {"--call-seconds", "--groups", "--load", "--memory", "--protocol", "--trace", "--window"}
    | {"--archive", "--best", "--history", "--no-archive", "--patch", "--show", "--unprotected"},
}
"""Each command's options, besides those of all: a new command or option is a decision."""


def test_commands_grow_by_decision_only():
    """In the order of the help."""
    assert list(PINNED) == list(COMMANDS)


@pytest.mark.parametrize("command", PINNED)
def test_options_grow_by_decision_only(command):
    """As pinned above."""
    found = {name for param in load_command(command).params for name in param.opts if name.startswith("--")}
    assert found == PINNED[command] | ALL


@pytest.mark.compiled
def test_the_installed_command_reads_standard_input():
    """The real thing, in a process of its own, through a pipe."""
    command = [str(Path(sys.executable).with_name("equipoise")), "plan", "-", "--ranks", "8", "--slots", "40", "--json"]
    done = subprocess.run(command, input=EXAMPLE.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout)["balancedness"] > 0.99
    assert done.stderr == b""
    bad = subprocess.run(command, input=b"", capture_output=True)
    assert bad.returncode == 2
    assert bad.stderr.decode().startswith("equipoise: standard input is empty")


@pytest.mark.compiled
def test_a_reader_that_leaves_is_no_fault():
    """`equipoise inspect ... | head -1` prints no traceback."""
    command = f"{Path(sys.executable).with_name('equipoise')} inspect {EXAMPLE} --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
