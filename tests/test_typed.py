"""A user's program: mypy --strict passes it (``make check``), it names all there is, and it runs."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest

import equipoise

PROGRAM = Path(__file__).parent / "typed" / "user.py"


def test_it_names_every_public_name():
    """And no other: a new one is a decision that shows here."""
    imports = [node for node in ast.walk(ast.parse(PROGRAM.read_text())) if isinstance(node, ast.ImportFrom)]
    (names,) = [[name.name for name in node.names] for node in imports if node.module == "equipoise"]
    assert sorted(names) == sorted(equipoise.__all__)


def test_types_are_shipped():
    """PEP 561."""
    assert (Path(equipoise.__file__).parent / "py.typed").exists()


@pytest.mark.compiled
def test_it_runs(tmp_path, monkeypatch, capsys):
    """To the end, where it is told that there is no dump."""
    monkeypatch.chdir(tmp_path)
    np.save("load.npy", np.ones((3, 2, 4), np.int64))
    runpy.run_path(str(PROGRAM), run_name="__main__")
    assert "dump.npz" in capsys.readouterr().out
