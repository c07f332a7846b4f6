"""What the pages on figures and on the check say is run: their Python and their commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, Placement
from equipoise.engines.checking import ENGINES
from equipoise.engines.formulas import formulas

DOCS = Path(__file__).parents[2] / "docs"


def _blocks(page):
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def _run_page(run, page):
    """Run the commands of a page; return how many there were."""
    commands = [line for kind, code in _blocks(page) if kind == "sh" for line in code.splitlines()]
    for command in commands:
        code, _, err = run(*shlex.split(command)[1:])
        assert (code, err) == (0, ""), command
    return len(commands)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a load of gpt-oss-20b's shape and a placement for it."""
    monkeypatch.chdir(tmp_path)
    LoadTrace(np.random.default_rng(3).integers(0, 1000, (6, 24, 32))).write("load.npz")
    Placement(np.tile(np.arange(40) % 32, (24, 1)), Cluster(8, 5, 2), 32).write("placement.json")


@pytest.mark.compiled
def test_the_page_on_the_check_runs(run, folder):
    """Every command is taken and finds no error."""
    assert _run_page(run, "engine-check.md") == 5


def test_the_page_on_figures_runs(run, folder, capsys):
    """Every command is taken; the figures worked by hand are those printed."""
    assert _run_page(run, "metrics.md") == 3
    ((program),) = [code for kind, code in _blocks("metrics.md") if kind == "python"]
    capsys.readouterr()
    exec(program, {})
    by_hand = [round(25 / 35, 3), round(35 / 25, 3), round((2 / 3 + 1) / 2, 3), 0.25, 1.25, 1.5]
    assert [float(number) for number in capsys.readouterr().out.split()] == by_hand


def test_the_python_of_the_page_on_the_check(capsys):
    """It prints one error and the next step."""
    ((program),) = [code for kind, code in _blocks("engine-check.md") if kind == "python"]
    exec(program, {})
    assert capsys.readouterr().out == "1 take 0 or 32 redundant, or 26 ranks\n"


def test_the_pages_name_every_formula_and_engine():
    """Versions too, so that the page is renewed with the rules."""
    page = (DOCS / "metrics.md").read_text()
    for name in formulas():
        assert f"`{name}`" in page or f"`-{name.partition('-')[2]}`" in page
    page = (DOCS / "engine-check.md").read_text()
    assert all(f"| {engine.version} |" in page for engine in ENGINES.values())
