"""Files that the commands' examples take for granted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, plan

MINE = "from equipoise import rebalance_experts\n"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Return a working folder with the load that ships, two placements for it and a program."""
    monkeypatch.chdir(tmp_path)
    trace = LoadTrace.example()
    trace.write("load.npz")
    before = plan(trace, Cluster(8, 5)).placement
    before.write("placement.json")
    plan(trace.load[26:], Cluster(8, 5), previous=before, max_moves=4).placement.write("next.json")
    Path("mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """Return a working folder with a load as wide as large models', in six windows, and a placement for it."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(5)
    level = draw.random((75, 256)) ** 3
    trace = LoadTrace((level * draw.random((6, 75, 256)) * 2e6).astype(np.int64), range(3, 78))
    trace.write("load.npz")
    plan(trace, Cluster(32, 9)).placement.write("placement.json")
    plan(trace.load[-1:], Cluster(32, 9)).placement.write("next.json")
    return tmp_path
