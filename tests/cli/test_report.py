"""`equipoise report` and `plan --report`: a page, its figures as JSON, and mismatches named before work is done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, Placement, plan, simulate
from equipoise.reporting import rendering
from pages import Page, at

pytest.importorskip("plotly")
pytestmark = pytest.mark.compiled

SHAPE = ("--ranks", 4, "--slots", 12)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a load of 6 labelled windows, a placement, a simulation and what does not fit them."""
    folder = tmp_path_factory.mktemp("files")
    load = np.random.default_rng(5).integers(1, 400, (6, 3, 8)) ** 2
    trace = LoadTrace(load, labels=["a", "a", "b", "b", "b", "c"])
    trace.write(folder / "load.npz")
    LoadTrace(load[:, :, ::-1].copy()).write(folder / "other.npz")
    LoadTrace(load[:1]).write(folder / "step.npz")
    cluster = Cluster(4, 3)
    plan(trace, cluster).placement.write(folder / "placement.json")
    plan(load[:, :2], cluster).placement.write(folder / "foreign.json")
    simulate(trace, cluster, ["last", "mean:2"]).write(folder / "simulation.json")
    (folder / "damaged.json").write_bytes((folder / "simulation.json").read_bytes()[:-9])
    return folder


def _json(run, *arguments):
    code, out, err = run("report", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_page_and_json_hold_the_same_numbers(run, files, tmp_path):
    """One run writes both; each number of the page stands in the JSON."""
    found = _json(run, files / "load.npz", *SHAPE, "--out", tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert len(page.numbers) > 100
    for path, value, _ in page.numbers:
        assert (json.loads(value) if value else None) == at(found, path), path
    assert found["out"] == str(tmp_path / "r.html")
    assert found["making"]["command"].startswith("equipoise report ")
    assert found["making"]["command"] in page.words


def test_for_people(run, files, tmp_path):
    """The sentence, and where the page is; nothing with --quiet."""
    code, out, err = run("report", files / "load.npz", *SHAPE, "--policy", "last", "--out", tmp_path / "r.html")
    assert (code, err) == (0, "")
    assert out.startswith("The slowest of 4 ranks sets the pace")
    assert f"report written to {tmp_path / 'r.html'}" in out
    quiet = run("report", files / "load.npz", *SHAPE, "--policy", "last", "--out", tmp_path / "q.html", "--quiet")
    assert quiet == (0, "", "")


def test_placements_and_simulation_are_taken(run, files):
    """The cluster is the placement's; policies are the simulation's; the plan made here needs none of them."""
    found = _json(run, files / "load.npz", "--placement", files / "placement.json", "--simulation", files / "simulation.json")
    assert found["shape"]["slots"] == 12
    assert [line["name"] for line in found["timeline"]["policies"]] == ["last", "mean:2"]
    assert found["balance"]["placements"][1]["scored"] == "this load"
    kept = Placement.read(files / "placement.json").balancedness(LoadTrace.read(files / "load.npz"))
    assert found["balance"]["placements"][1]["balancedness"] == pytest.approx(kept, abs=1e-15)
    made = _json(run, files / "load.npz", *SHAPE, "--policy", "last")
    assert made["balance"]["placements"][1]["scored"] == "in-sample"
    assert made["timeline"]["policies"][0]["name"] == "last"


def test_windows_are_added_up(run, files):
    """--window W adds up steps, --last N takes the last; the page says what was left out."""
    found = _json(run, files / "load.npz", *SHAPE, "--policy", "last", "--window", 2)
    assert found["shape"]["windows"] == 3
    assert found["making"]["source"]["steps"] == "3 windows of 2 steps"
    found = _json(run, files / "load.npz", *SHAPE, "--policy", "last", "--last", 5, "--window", 2)
    assert found["making"]["source"]["steps"] == "2 windows of 2 steps, 1 step at the end left out"


def test_one_step_says_what_is_left_out(run, files):
    """A load of one step: no windows, and why."""
    found = _json(run, files / "step.npz", *SHAPE)
    assert found["timeline"] is None
    assert [what for what, _ in found["omissions"]] == ["over time", "where balance is lost"]


def test_engines_and_models(run, files):
    """--for names the engine, and the commands can be typed; the model's memory is told."""
    found = _json(run, files / "load.npz", "--placement", files / "placement.json", "--for", "vllm-ascend", "--policy", "last")
    (way,) = found["loading"]
    assert way["steps"][0] == f"equipoise convert {files / 'placement.json'} placement.json --for vllm-ascend --ranks 4"
    assert "placement.json" in way["steps"][1]
    found = _json(run, files / "load.npz", *SHAPE, "--policy", "last", "--expert-bytes", "2MB", "--for", "deepseek")
    assert found["redundancy"]["choices"][0]["memory_bytes"] == 2e6 * 2 * 3
    assert found["loading"][0]["steps"][0].startswith(f"equipoise plan {files / 'load.npz'} --ranks 4 --slots 12 --out ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--placement", "foreign.json"), "foreign.json has 2 layers of 8 experts: the load has 3 of 8"),
        (("--placement", "placement.json", "--ranks", "8"), "is for 4 ranks with 12 slots"),
        (("--placement", "placement.json", "--simulation", "damaged.json"), "damaged.json is not a simulation file"),
        (("--placement", "placement.json", "--simulation", "placement.json"), "placement.json is not a simulation file"),
        (("--placement", "simulation.json"), "is not a placement file"),
        (("--placement", "placement.json", "--simulation", "simulation.json", "--window", "2"), "5 scored windows"),
        (("--placement", "placement.json", "--simulation", "simulation.json", "--policy", "last"), "leave one of them out"),
        (("--placement", "placement.json", "--placement", "placement.json"), "named twice"),
        (("--placement", "placement.json", "--placement", "foreign.json", "--slots", "12"), "each brings its own"),
        ((), "Missing option '--ranks'"),
        (("--ranks", "4"), "Missing option '--slots'"),
        (("--ranks", "4", "--slots", "12", "--for", "x"), "--for is 'x'"),
        (("--ranks", "4", "--slots", "12", "--locality", "soft"), "locality"),
    ],
)
def test_mismatches_are_named(run, files, monkeypatch, tmp_path, arguments, words):
    """One line on stderr, exit 2, and no page."""
    given = [str(files / word) if word.endswith(".json") else word for word in arguments]
    code, out, err = run("report", files / "load.npz", *given, "--out", tmp_path / "r.html")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_simulation_of_another_trace_is_refused(run, files, tmp_path):
    """The layer where loads differ first is named."""
    trace = LoadTrace.read(files / "load.npz")
    LoadTrace(trace.load + 1).write(tmp_path / "near.npz")
    given = ("--placement", files / "placement.json", "--simulation", files / "simulation.json", "--json")
    code, _, err = run("report", tmp_path / "near.npz", *given)
    assert code == 2
    assert "in layer 0: this load has" in err


def test_out_is_a_page(run, files, tmp_path):
    """Another ending, or neither page nor JSON, is refused."""
    assert "a report is a page, .html" in run("report", files / "load.npz", *SHAPE, "--out", tmp_path / "r.pdf")[2]
    assert "add --out report.html" in run("report", files / "load.npz", *SHAPE)[2]
    code, _, err = run("report", files / "load.npz", *SHAPE, "--policy", "last", "--out", tmp_path / "none" / "r.html")
    assert code == 2
    assert "cannot be written" in err


def test_missing_extra_is_named_before_any_work(run, files, monkeypatch, tmp_path):
    """The pip line, on one line."""

    def fail(name):
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(rendering, "import_module", fail)
    for command in (("report", files / "load.npz", *SHAPE, "--out"), ("plan", files / "load.npz", *SHAPE, "--report")):
        code, _, err = run(*command, tmp_path / "r.html")
        assert code == 2
        assert 'pip install "equipoise[report]"' in err


def test_plan_reports(run, files, tmp_path):
    """A plan's page is on the placement that was made, coming from the one before."""
    page = tmp_path / "p.html"
    code, out, _ = run("plan", files / "load.npz", *SHAPE, "--out", tmp_path / "p.json", "--report", page)
    assert code == 0
    assert f"report written to {page}" in out
    made = Placement.read(tmp_path / "p.json")
    trace = LoadTrace.read(files / "load.npz")
    numbers = {path: value for path, value, _ in Page(page.read_text()).numbers}
    assert float(numbers["balance.placements.1.balancedness"]) == pytest.approx(made.balancedness(trace), abs=1e-15)
    previous = ("--previous", tmp_path / "p.json", "--max-moves", 1, "--window", 2)
    found = json.loads(run("plan", files / "load.npz", *previous, "--report", page, "--json")[1])
    assert found["report"] == str(page)
    words = Page(page.read_text()).words
    assert f"before: {tmp_path / 'p.json'}" in words
    assert "after: this plan" in words
    assert "--report without --slots" in run("plan", files / "load.npz", "--ranks", 4, "--report", page)[2]


def test_the_example_of_its_help_runs(run, tmp_path):
    """The load that ships, with a model's numbers."""
    example = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"
    found = _json(run, example, "--ranks", 8, "--slots", 40, "--model", "gpt-oss-20b", "--out", tmp_path / "r.html")
    assert len(found["loading"][0]["steps"]) == 2
    assert found["redundancy"]["choices"][0]["memory_bytes"] > 1e9
    assert (tmp_path / "r.html").stat().st_size < 8e6
