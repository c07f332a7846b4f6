"""What the README says is run: its Python, its commands, its figures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, Placement, plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
DISPATCH = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "dispatch.md").read_text(), re.DOTALL)
MOVES = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "rebalancing.md").read_text(), re.DOTALL)
PLACEMENTS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "placement-files.md").read_text(), re.DOTALL)
UNSEEN = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "out-of-sample.md").read_text(), re.DOTALL)


def _run_commands(run, blocks):
    """Run every equipoise command of a page; return how many there were."""
    commands = [line for kind, code in blocks if kind == "sh" for line in code.splitlines() if line.startswith("equipoise")]
    for command in commands:
        code, _, err = run(*shlex.split(command, comments=True)[1:])
        assert (code, err) == (0, "")
    return len(commands)


def _run_python(blocks):
    """Run the Python of a page, block after block; return its names."""
    names: dict[str, object] = {}
    for kind, code in blocks:
        if kind == "python":
            exec(code, names)
    return names


def test_readme_python_runs(capsys):
    """Every Python block runs, one after the other, and prints what its comment says."""
    names = _run_python(BLOCKS)
    printed = capsys.readouterr().out.split()
    assert f"# {float(printed[0]):.4f} on the load planned for" in README
    assert np.shape(names["result"].placement.expert_of_slot) == (24, 40)


@pytest.mark.compiled
def test_readme_commands_run(run, tmp_path, monkeypatch):
    """Every equipoise command of the README is one the command line takes."""
    monkeypatch.chdir(tmp_path)
    load = np.random.default_rng(0).integers(0, 1000, (3, 2, 256))
    LoadTrace(load).write("load.npz")
    assert _run_commands(run, BLOCKS) >= 5
    assert (tmp_path / "placement.json").exists()


@pytest.mark.compiled
def test_the_page_on_unseen_windows_runs(run, tmp_path, monkeypatch, capsys):
    """Its commands are taken; its Python prints a packing term of 0 and one score for both packings."""
    monkeypatch.chdir(tmp_path)
    LoadTrace(np.random.default_rng(0).integers(0, 1000, (8, 2, 256))).write("load.npz")
    assert run("plan", "load.npz", "--ranks", 32, "--slots", 288, "--out", "placement.json", "--quiet") == (0, "", "")
    assert _run_commands(run, UNSEEN) >= 4
    (program,) = [code for kind, code in UNSEEN if kind == "python"]
    exec(program, {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in printed] == ["0.0", "0.0"]
    assert printed[0][2] == printed[1][2]


def test_readme_targets_exist():
    """The make targets it names are there."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for kind, code in BLOCKS:
        if kind == "sh":
            for target in re.findall(r"^make (\w+)", code, re.MULTILINE):
                assert target in targets


def test_readme_figures_are_those_of_the_demo():
    """Before and after, all layers and worst layer, to the digits printed."""
    trace, result = LoadTrace.example(), plan(LoadTrace.example(), Cluster(8, 5))
    before = Placement(np.tile(np.arange(40) % 32, (24, 1)), Cluster(8, 5), 32)
    for name, balance, worst in [
        ("before: slots in id order", before.balancedness(trace), before.worst_layer(trace)),
        ("after: this plan", result.balancedness, result.worst_layer),
    ]:
        assert f"| {name} | {100 * balance:.1f} % | {100 * worst:.1f} % |" in README


@pytest.mark.parametrize("page", sorted(ROOT.glob("**/*.md"), key=str), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Every relative link of a page names a file."""
    if ".venv" in page.parts:
        return
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.compiled
def test_the_page_on_dispatch_runs(run, tmp_path, monkeypatch, capsys):
    """Its commands are taken; its Python shows the optimal split ahead of the even one, and nothing left to gain."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("load", "next")):
        LoadTrace(np.random.default_rng(seed).integers(0, 1000, (8, 2, 256))).write(f"{name}.npz")
    assert _run_commands(run, DISPATCH) == 5
    assert (tmp_path / "shares.npz").exists()
    _run_python(DISPATCH)
    even, optimal, _, _, proven, batch, few_moves, near_bound, *_ = capsys.readouterr().out.split()
    assert float(even) < float(optimal) <= 1.0
    assert (proven, few_moves, near_bound) == ("True", "True", "True")
    assert float(batch) > 0.99


@pytest.mark.compiled
def test_the_page_on_rebalancing_runs(run, tmp_path, monkeypatch, capsys):
    """Its commands are taken, its Python shows balance gained within the budget and a schedule at its bound."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("old", "load")):
        LoadTrace(np.random.default_rng(seed).integers(0, 1000, (3, 2, 256))).write(f"{name}.npz")
    assert _run_commands(run, MOVES) == 5
    assert (tmp_path / "schedule.json").exists()
    capsys.readouterr()
    _run_python(MOVES)
    before, after, *facts, safe, price, is_known = capsys.readouterr().out.split()
    assert float(before) < float(after)
    assert facts == ["True"] * 5
    assert float(safe) <= float(price)
    assert is_known == "True"


@pytest.mark.compiled
def test_the_page_on_placement_files_runs(run, tmp_path, monkeypatch, capsys):
    """Its commands are taken, one file is made of another, and its Python gets the same placement back."""
    monkeypatch.chdir(tmp_path)
    LoadTrace(np.random.default_rng(0).integers(0, 1000, (2, 58, 256))).write("load.npz")
    assert _run_commands(run, PLACEMENTS) == 6
    assert {"map.json", "balancer.yaml", "experts.json", "arrays.npz", "next.jsonl"} < {p.name for p in tmp_path.iterdir()}
    capsys.readouterr()
    _run_python(PLACEMENTS)
    assert capsys.readouterr().out == "0\n"
