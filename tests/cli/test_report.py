"""`equipoise report` and `plan --report`: a page, its figures as JSON, and mismatches named before work is done."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

import equipoise
from equipoise import Cluster, LoadTrace, Placement, plan, simulate
from equipoise.files.placements import FoundPlacement, write_as
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


PLANNED = ("--seed", 3, "--last", 5, "--in-order", "--format", "npz", "--layer-ids", "3-5", "--hidden-layers", 6)


@pytest.mark.parametrize("more", [(), PLANNED, ("--nodes", 2, "--groups", 4, "--locality", "strict", "--effort", "fast")])
def test_the_command_on_the_page_makes_the_same_placement(run, files, tmp_path, monkeypatch, more):
    """As printed, word by word: the placement that it writes has the balance of every layer that the page shows."""
    monkeypatch.chdir(tmp_path)
    found = _json(
        run, files / "load.npz", *SHAPE, "--policy", "last", "--for", "sglang" if more == PLANNED else "deepseek", *more
    )
    command = shlex.split(found["loading"][0]["steps"][0])
    assert run(*command[1:], "--report", tmp_path / "again.html")[0] == 0
    numbers = {path: float(value) for path, value, _ in Page((tmp_path / "again.html").read_text()).numbers if value}
    shown = found["balance"]["placements"][1]["by_layer"]
    assert shown == [numbers[f"balance.placements.1.by_layer.{layer}"] for layer in range(3)]
    for word in map(str, more):
        assert word in command


def test_slots_that_were_counted_are_planned_again_with_active(run, tmp_path):
    """The command keeps --active: without it slots were taken for experts."""
    loads = np.random.default_rng(0).integers(1, 900, (3, 2, 12))
    tensors = {f"{step}_{layer}": np.ascontiguousarray(loads[step, layer]) for step in range(3) for layer in range(2)}
    path, active = tmp_path / "rank0.safetensors", tmp_path / "active.yaml"
    path.write_bytes(safetensors_bytes(tensors))
    write_as(active, "tensorrt-llm", FoundPlacement(np.tile(np.arange(12) % 8, (2, 1)), (0, 1), num_experts=8))
    found = _json(run, path, *SHAPE, "--active", active, "--policy", "last", "--in-order", "--for", "deepseek")
    assert found["shape"]["experts"] == 8
    command = found["loading"][0]["steps"][0]
    assert f"--active {active}" in command
    assert run(*shlex.split(command)[1:-4], "--out", tmp_path / "p.json")[0] == 0
    balance = Placement.read(tmp_path / "p.json").balancedness(LoadTrace.read(path, active=active))
    assert balance == pytest.approx(found["balance"]["placements"][1]["balancedness"], abs=1e-12)


def test_strict_locality_reports_by_default(run, files):
    """Nothing plans for optimal splits under it, so the default is another policy there."""
    strict = ("--nodes", 2, "--groups", 4, "--locality", "strict")
    names = [line["name"] for line in _json(run, files / "load.npz", *SHAPE, *strict)["timeline"]["policies"][:3]]
    assert names == [
        "last,groups=4,locality=strict",
        "auto,groups=4,locality=strict",
        "auto,groups=4,locality=strict,dispatch=optimal",
    ]


def test_left_over_steps_are_told_by_the_command(run, files):
    """Plan cannot leave steps out at the end, so the command says that it takes them."""
    found = _json(run, files / "load.npz", *SHAPE, "--policy", "last", "--last", 5, "--window", 2, "--for", "deepseek")
    assert "  # plans for 1 step more, which this page left out" in found["loading"][0]["steps"][0]
    found = _json(run, files / "load.npz", *SHAPE, "--policy", "last", "--window", 2, "--for", "deepseek")
    assert "#" not in found["loading"][0]["steps"][0]


def test_numbers_of_layers_are_taken(run, files):
    """As plan takes them; SGLang's file can then be told of, and each layer is called by its number."""
    numbers = ("--layer-ids", "1-3", "--hidden-layers", 4)
    found = _json(run, files / "load.npz", "--placement", files / "placement.json", *numbers, "--for", "sglang")
    assert found["loading"][0]["refusal"] == ""
    assert "--layer-ids 1-3" in found["loading"][0]["steps"][0]
    assert found["balance"]["layer_ids"] == [1, 2, 3]
    code, _, err = run("report", files / "load.npz", *SHAPE, "--layer-ids", "1-4", "--json")
    assert (code, "the load has 3 layers" in err) == (2, True)


def _damaged(files, tmp_path, name, values):
    content = json.loads((files / "simulation.json").read_text())
    content["policies"][1][name] = values(content["policies"][1][name])
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    return tmp_path / "damaged.json"


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("balancedness", lambda found: [found[0], 1.7, *found[2:]], "policy mean:2 has balancedness 1.7 in window 2"),
        ("worst_layer", lambda found: [-0.5, *found[1:]], "policy mean:2 has worst_layer -0.5 in window 1"),
        ("moves", lambda found: [*found[:-1], -3], "policy mean:2 has moves -3 in window 5"),
        ("time", lambda found: [float("nan"), *found[1:]], "policy mean:2 has time nan in window 1"),
        ("stall", lambda found: found[:-1], "policy mean:2 has 4 of stall"),
        ("balancedness", lambda found: found[:-1], "policy mean:2 has 4 windows"),
        ("ideal_by_layer", lambda found: [*found[:-1], -1.0], "policy mean:2 has ideal_by_layer -1 in layer 2"),
        ("name", lambda found: "last", "policy last stands there twice"),
    ],
)
def test_damaged_simulations_are_refused(run, files, tmp_path, name, values, words):
    """Figures that no simulation finds: the policy and the window are named."""
    path = _damaged(files, tmp_path, name, values)
    given = ("--placement", files / "placement.json", "--simulation", path, "--json")
    code, out, err = run("report", files / "load.npz", *given)
    assert (code, out) == (2, "")
    assert words in err


def test_an_old_simulation_is_said_to_be_old(run, files, tmp_path):
    """The file without a fingerprint: on the terminal as on the page."""
    content = json.loads((files / "simulation.json").read_text())
    assert content["num_slots"] == 12
    del content["fingerprint"], content["num_slots"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    given = ("--placement", files / "placement.json", "--simulation", tmp_path / "old.json", "--out", tmp_path / "r.html")
    code, out, _ = run("report", files / "load.npz", *given)
    assert code == 0
    assert "too old to hold a fingerprint" in out
    assert "too old to hold a fingerprint" in Page((tmp_path / "r.html").read_text()).words


def test_windows_read_step_by_step_have_the_same_fingerprint(run, files, tmp_path):
    """Simulate reads files as streams, report reads them whole; added up to windows, of single precision too."""
    LoadTrace((LoadTrace.read(files / "load.npz").load / np.float32(7)).astype(np.float32)).write(tmp_path / "single.npz")
    for load, window in ((files / "load.npz", 2), (tmp_path / "single.npz", 3), (tmp_path / "single.npz", 1)):
        how = ("--policy", "last", "--window", window)
        assert run("simulate", load, *SHAPE, *how, "--out", tmp_path / "s.json", "--quiet")[0] == 0
        _json(run, load, *SHAPE, "--window", window, "--simulation", tmp_path / "s.json")


def test_names_do_not_steer_the_terminal(run, files, tmp_path):
    """Control codes in a name are shown, not sent; so are they in messages."""
    name = tmp_path / "a\x1b[31m\u202eb.html"
    code, out, _ = run("report", files / "load.npz", *SHAPE, "--policy", "last", "--out", name)
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "a\ufffd[31m\ufffdb.html" in out
    assert "\u00a0" not in out
    code, _, err = run("report", tmp_path / "no\x1b[2Jload", *SHAPE, "--json")
    assert (code, "\x1b" in err) == (2, False)


def test_a_terminal_without_unicode(files, tmp_path):
    """ASCII standard output: what it cannot show becomes a question mark, and nothing breaks."""
    command = [str(Path(sys.executable).with_name("equipoise")), "report", str(files / "load.npz"), *map(str, SHAPE)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    given = ["--policy", "last", "--out", str(tmp_path / "é.html")]
    done = subprocess.run([*command, *given], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?.html" in done.stdout


def test_standard_input_is_called_so(files, tmp_path):
    """On the page and in JSON, but for the command, which is typed as it was."""
    command = [str(Path(sys.executable).with_name("equipoise")), "report", "-", *map(str, SHAPE), "--policy", "last", "--json"]
    done = subprocess.run(command, input=(files / "load.npz").read_bytes(), capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert (found["title"], found["making"]["source"]["name"]) == ("standard input", "standard input")
    assert found["loading"][-1]["steps"][0].startswith("equipoise plan - --ranks 4")


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
