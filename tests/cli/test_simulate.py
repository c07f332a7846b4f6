"""``equipoise simulate``, ``compare --explain`` and ``plan --forecast``: figures as the library gives them, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise import Cluster, LoadTrace, explain, plan, simulate
from equipoise.simulating.results import Simulation

EXAMPLE = Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz"


@pytest.fixture
def small(tmp_path):
    """Return a small trace file: 6 windows of 2 layers and 8 experts."""
    path = tmp_path / "small.npz"
    LoadTrace(np.random.default_rng(0).integers(1, 100, (12, 2, 8)), labels=list("aaaaaabbbbbb")).write(path)
    return path


SHAPE = ("--ranks", 4, "--slots", 12)


def test_simulate_gives_the_librarys_figures(run, small):
    """One JSON object; next-window, named so; windows added up as asked."""
    code, out, err = run("simulate", small, *SHAPE, "--window", 2, "--policy", "last,every=2", "--policy", "auto", "--json")
    assert (code, err) == (0, "")
    (trace,) = json.loads(out)["traces"]
    expected = simulate(LoadTrace.read(small).windows(2), Cluster(4, 3), ["last,every=2", "auto"], batches_per_window=2)
    assert trace["windows"] == 5
    assert trace["scored"] == "next-window"
    assert [found["policy"] for found in trace["policies"]] == ["last,every=2", "auto"]
    for found, result in zip(trace["policies"], expected.policies, strict=True):
        assert found["balancedness"] == result.mean_balancedness
        assert found["per_window"]["balancedness"] == result.balancedness.tolist()
        assert found["moves"] == result.moves.sum()
    assert trace["policies"][1]["gain_on_first"]["low"] <= trace["policies"][1]["gain_on_first"]["mean"]


def test_simulate_prints_a_table_and_what_it_means(run, small):
    """Policies side by side, the gain on the first with its interval, what auto follows; nothing wider than 80 columns."""
    code, out, _ = run("simulate", small, *SHAPE, "--time-model", "decode-h100")
    assert code == 0
    assert "11 windows scored, each planned for on those before" in out
    assert "auto against last:" in out
    assert "auto follows" in out
    assert "Time by the model decode-h100; useful: ideal time over time with stalls" in out
    assert "stalls s" in out
    assert "…" not in out
    grid = [line for line in out.splitlines() if line and line[0] in "┏┃┡│└"]
    assert all(len(line) <= 80 for line in grid)


def test_an_engines_placement_can_be_judged(run, small, tmp_path):
    """A placement file is a policy; one of another model is refused by name, before any work."""
    plan(LoadTrace.read(small), Cluster(4, 3)).placement.write(tmp_path / "theirs.json")
    code, out, _ = run("simulate", small, *SHAPE, "--policy", tmp_path / "theirs.json", "--json")
    (found,) = json.loads(out)["traces"][0]["policies"]
    assert code == 0
    assert (found["moves"], found["plans"]) == (0, 1)
    code, out, err = run("simulate", EXAMPLE, "--ranks", 4, "--slots", 40, "--policy", tmp_path / "theirs.json")
    assert (code, out) == (2, "")
    assert err.startswith(
        f"equipoise: policy {tmp_path / 'theirs.json'}: the placement has 2 layers of 8 experts: the trace has 24"
    )


@pytest.mark.compiled
def test_several_slots_and_intervals_are_all_tried(run, small, tmp_path):
    """Every combination once; kept in a folder, the second run reads what the first found, and --out holds it all."""
    command = ("simulate", small, "--ranks", 4, "--slots", "12,16", "--every", "1,3,once", "--policy", "last")
    code, out, _ = run(*command, "--folder", tmp_path / "kept", "--out", tmp_path / "all.json", "--json")
    assert code == 0
    names = [found["policy"] for found in json.loads(out)["traces"][0]["policies"]]
    assert names == [f"last,slots={n}{e}" for n in (12, 16) for e in ("", ",every=3", ",every=once")]
    assert [result.name for result in Simulation.read(tmp_path / "all.json").policies] == names
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    before = (tmp_path / "all.json").read_bytes()
    assert run(*command, "--folder", tmp_path / "kept", "--out", tmp_path / "all.json", "--quiet") == (0, "", "")
    resumed = run(*command, "--folder", tmp_path / "kept")[1]
    assert [line.split("│")[-2].strip() for line in resumed.splitlines() if line.startswith("│")] == ["-"] * 6
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert (tmp_path / "all.json").read_bytes() == before


def test_several_traces_each_have_a_table(run, small, tmp_path):
    """Traces go one by one; with --out one file each."""
    LoadTrace(np.ones((4, 2, 8))).write(tmp_path / "even.npz")
    code, out, _ = run("simulate", small, tmp_path / "even.npz", *SHAPE, "--policy", "last", "--out", tmp_path / "s.json")
    assert code == 0
    assert out.index("small.npz: 11 windows") < out.index("even.npz: 3 windows")
    assert [Simulation.read(tmp_path / f"s-{n}.json").num_windows for n in (0, 1)] == [11, 3]
    assert f"written to {tmp_path / 's-0.json'}, {tmp_path / 's-1.json'}" in out


def test_a_stopped_policy_is_named_and_others_go_on(run, small, monkeypatch):
    """What went wrong stands under the table: policy, window, layer, rule."""
    from equipoise.placement import ABSENT, Placement
    from equipoise.simulating.policies import PlannedPolicy

    usual = PlannedPolicy.plan_for

    def lossy(self, load, cluster, windows=()):
        found = usual(self, load, cluster, windows)
        slots = found.expert_of_slot.copy()
        slots[1:][slots[1:] == 3] = ABSENT
        return Placement(slots, cluster, found.num_experts) if self.effort == "fast" else found

    monkeypatch.setattr(PlannedPolicy, "plan_for", lossy)
    code, out, _ = run("simulate", small, *SHAPE, "--policy", "last,effort=fast", "--policy", "last")
    assert code == 0
    assert "stopped: policy last,effort=fast, window 1: layer 1: expert 3 has no slot: every expert needs a slot" in out
    code, out, err = run("simulate", small, *SHAPE, "--policy", "last,effort=fast")
    assert code == 2
    assert err.startswith("equipoise: policy last,effort=fast, window 1: layer 1: expert 3 has no slot")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--window", 12), "the trace has 1 window: the first is history only"),
        (("--policy", "lst"), "forecast is 'lst': it must be one of last, mean"),
        (("--policy", "last,evry=4"), "policy 'last,evry=4' has the setting 'evry=4'"),
        (("--policy", "nowhere.json"), "nowhere.json cannot be read"),
        (("--every", "0"), "--every is '0': it must be whole numbers >= 1"),
        (("--every", ""), "--every is empty"),
        (("--every", "11"), "policy last,every=11 plans every 11 windows, the trace has 11 to score"),
        (("--slots", "12,x"), "--slots is '12,x'"),
        (("--dispatch", "best"), "dispatch is 'best': it must be one of equal"),
        (("--time-model", "h100"), "time model is 'h100'"),
        (("--time-model", "prefill-h100", "--expert-bytes", "big"), "--expert-bytes is 'big'"),
        (("--time-model", "prefill-h100", "--link", "-3"), "--link is '-3'"),
        (("--link", "50GB"), "--expert-bytes or --link with --time-model tokens: tokens are no seconds"),
        (("--jobs", "0"), "jobs is 0"),
        (("--slots", "12,16", "--policy", "last,slots=20"), "policy last,slots=20 in a sweep"),
        (("--out", "nowhere/x.json"), "nowhere/x.json cannot be written (no folder nowhere)"),
        (
            ("--locality", "soft", "--nodes", "2", "--groups", "4"),
            "policy last,groups=4,locality=soft: locality is soft",
        ),
        (("--policy", "last", "--policy", "last"), "two policies are called last"),
    ],
)
def test_bad_input_is_one_clear_line(run, small, arguments, found):
    """Exit 2, nothing on stdout, one line on stderr."""
    code, out, err = run("simulate", small, *SHAPE, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1


@pytest.mark.compiled
def test_compare_explains_where_balance_is_lost(run, small):
    """The chains of explain(), by policy and level; packings named with --packing are planners."""
    arguments = ("compare", small, *SHAPE, "--window", 2, "--explain", "--dispatch", "round_robin")
    code, out, err = run(*arguments, "--level", "rank,slot", "--json")
    assert (code, err) == (0, "")
    chains = json.loads(out)["chains"]
    windows = LoadTrace.read(small).windows(2)
    expected = explain(windows, Cluster(4, 3), ["last", "auto"], levels=["rank", "slot"], dispatch="round_robin")
    assert [(chain["policy"], chain["level"]) for chain in chains] == [(c.policy, c.level) for c in expected]
    assert [chain["terms"] for chain in chains] == [chain.terms for chain in expected]
    code, out, _ = run(*arguments, "--packing", "lpt,default")
    assert code == 0
    assert "last,planner=lpt, 12 slots" in out
    assert "last, 12 slots" in out
    assert all(len(line) <= 80 for line in out.splitlines() if line and line[0] in "┏┃┡│└")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--policy", "auto"), "--policy without --explain"),
        (("--dispatch", "hash"), "--dispatch without --explain"),
        (("--explain", "--slots", "12,16"), "--explain with 2 slots counts"),
        (("--explain", "--level", "gpu"), "level is 'gpu'"),
        (("--explain", "--level", "rank,rank"), "levels are ['rank', 'rank']"),
        (("--explain", "--rounds", "3"), "--rounds with --explain"),
        (("--explain", "--packing", "lpt", "--policy", "last"), "--packing and --policy with --explain"),
        (("--explain",), "the trace has 1 window"),
    ],
)
def test_explain_refuses_what_has_no_part_in_it(run, tmp_path, arguments, found):
    """Options of the chain need --explain; one slots count; several windows."""
    LoadTrace(np.ones((1, 2, 8))).write(tmp_path / "one.npz")
    code, out, err = run("compare", tmp_path / "one.npz", "--ranks", 4, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")


def test_plan_for_a_forecast(run, small):
    """The placement is plan()'s for that forecast, figures are on the forecast and say so."""
    code, out, _ = run("plan", small, *SHAPE, "--forecast", "exponential:0.5", "--json")
    found = json.loads(out)
    expected = plan(LoadTrace.read(small), Cluster(4, 3), forecast="exponential:0.5")
    assert code == 0
    assert found["balancedness"] == expected.balancedness
    assert found["scored"] == "forecast exponential:0.5"
    code, out, _ = run("plan", small, *SHAPE, "--forecast", "auto", "--window", 2)
    assert "planned on the forecast auto from 6 windows of 2 steps" in out
    code, out, _ = run("plan", small, *SHAPE, "--forecast", "robust:3")
    assert code == 0
    assert "before:" not in out
    assert "on the forecast robust:3, not on any load" in out
    assert "the plan is for 4 loads at once" in run("plan", small, *SHAPE, "--forecast", "robust:3", "--prove")[2]
    assert run("plan", small, *SHAPE, "--forecast", "tomorrow")[2].startswith("equipoise: forecast is 'tomorrow'")


def test_figures_are_whole_at_80_columns_however_long_names_are(run, small):
    """Names fold instead, and lose no letter; no line of a table is wider than 80 columns."""
    name = "auto,planned_for=optimal,dispatch=optimal"
    policies = ("--policy", name, "--policy", f"{name},every=2", "--time-model", "decode-h100")
    code, out, _ = run("simulate", small, *SHAPE, *policies)
    assert code == 0
    assert "…" not in out
    lines = [line for line in out.splitlines() if line and line[0] in "┏┃┡│└"]
    assert max(len(line) for line in lines) == 80
    folded = "".join(line.split("│")[1].strip() for line in lines if line[0] == "│")
    assert folded.startswith(name)
    assert folded.count(name) == 2
    assert folded.count("auto,every=2,planned_for=optimal,dispatch=optimal") == 2
    _, out, _ = run("simulate", small, *SHAPE, *policies, "--json")
    for found in json.loads(out)["traces"][0]["policies"]:
        row = [f"{100 * found[key]:.2f}" for key in ("balancedness", "p5_layer", "worst_layer")]
        assert any([cell.strip() for cell in line.split("│")[3:6]] == row for line in lines)


@pytest.mark.compiled
def test_explain_says_what_the_rule_takes_off(run, small):
    """Below the chain, in words, where anything is taken off; in JSON always."""
    arguments = ("compare", small, *SHAPE, "--explain", "--policy", "last,dispatch=batch:1", "--policy", "last")
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    batch, even = (chain["removed"] for chain in json.loads(out)["chains"])
    assert even == {"dispatch": 0.0, "batch": 0.0}
    assert batch["batch"] > 0.0
    _, out, _ = run(*arguments)
    shares = f"takes off {100 * batch['dispatch']:.2f} %, replicas for the batch {100 * batch['batch']:.2f} %"
    assert out.count("of the loss (what terms above 0 add to the ideal) the split over replicas ") == 1
    assert shares in out
