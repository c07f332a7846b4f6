"""Sweeps: every combination once, resumed where they stopped, the same bytes however they ran."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from equipoise import Cluster, LoadStream, LoadTrace, Placement
from equipoise.errors import ArgumentError, FileError
from equipoise.simulating.naming import make_policy
from equipoise.simulating.replaying import simulate
from equipoise.simulating.sweeping import sweep

CLUSTER = Cluster(num_ranks=4, slots_per_rank=3)


def traces():
    """Return two small traces by name."""
    random = np.random.default_rng(0)
    return {name: LoadTrace(random.integers(0, 100, (8, 2, 8))) for name in ("first", "second")}


def contents(folder):
    """Return the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.compiled
def test_a_sweep_is_its_simulations():
    """By trace, slots, interval and policy; each the same as simulate() alone; placements come once."""
    placement = Placement(np.tile(np.arange(12) % 8, (2, 1)), CLUSTER, 8)
    cells = sweep(traces(), CLUSTER, ["last", "auto,effort=fast", placement], slots=[12, 16], every=[1, 2])
    names = [
        f"{forecast}{effort}{slots}{every}"
        for slots in (",slots=12", ",slots=16")
        for every in ("", ",every=2")
        for forecast, effort in (("last", ""), ("auto", ",effort=fast"), ("fixed", None))
        if effort is not None
    ]
    names.insert(2, "fixed")
    assert [cell.policy for cell in cells] == [*names, *names]
    for cell in cells:
        policy = placement if cell.policy == "fixed" else make_policy(cell.policy)
        alone = simulate(traces()[cell.trace], CLUSTER, [policy])
        assert cell.found.to_file() == alone.to_file()


@pytest.mark.compiled
def test_a_sweep_resumes_to_the_same_bytes(tmp_path):
    """What is kept is read, not run again; what is missing is run; the folder ends the same, byte for byte."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    arguments = {"slots": [12, 16], "every": [1, 2]}
    cells = sweep(traces(), CLUSTER, ["last", "auto"], folder=whole, **arguments)
    sweep(traces(), CLUSTER, ["last"], folder=torn, **arguments)
    kept = sorted(torn.iterdir())
    for path in kept[::2]:
        path.unlink()
    marks = {path: path.stat().st_mtime_ns for path in kept[1::2]}
    again = sweep(traces(), CLUSTER, ["last", "auto"], folder=torn, **arguments)
    assert contents(torn) == contents(whole)
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert [cell.found.to_file() for cell in again] == [cell.found.to_file() for cell in cells]


def test_the_key_tells_settings_apart(tmp_path):
    """Another trace, cluster, window, rule, time model, seed or number of batches is another simulation."""
    trace = traces()["first"]
    base = {"traces": {"a": trace}, "cluster": CLUSTER, "policies": ["last"]}
    changes = [
        {},
        {"traces": {"a": traces()["second"]}},
        {"cluster": Cluster(4, 3, rank_speeds=[1, 1, 1, 2])},
        {"window": 2},
        {"dispatch": "hash"},
        {"time_model": "decode-h100"},
        {"batches_per_window": 7},
        {"seed": 1},
        {"policies": ["last,effort=fast"]},
        {"policies": [Placement(np.tile(np.arange(12) % 8, (2, 1)), CLUSTER, 8)]},
        {"policies": [Placement(np.tile(np.arange(12)[::-1] % 8, (2, 1)), CLUSTER, 8)]},
    ]
    for change in changes:
        sweep(**{**base, **change}, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(changes)
    sweep(**{**base, "traces": {"renamed": trace}}, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(changes)


def test_paths_traces_and_streams_are_alike(tmp_path):
    """A file is read step by step by the job; windows are added up there too."""
    trace = traces()["first"]
    trace.write(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", trace.load)
    sources = {"trace": trace, "npz": tmp_path / "a.npz", "npy": str(tmp_path / "a.npy"), "stream": LoadStream(trace.load)}
    found = [cell.found.to_file() for cell in sweep(sources, CLUSTER, ["auto"], window=2)]
    assert found[0].num_windows == 3
    assert all(one == found[0] for one in found)


@pytest.mark.compiled
def test_processes_find_the_same(tmp_path):
    """Two processes give what one gives."""
    one = sweep(traces(), CLUSTER, ["last", "auto"], slots=[12, 16])
    two = sweep(traces(), CLUSTER, ["last", "auto"], slots=[12, 16], jobs=2)
    assert [(c.trace, c.policy, c.found.to_file()) for c in one] == [(c.trace, c.policy, c.found.to_file()) for c in two]


@pytest.mark.compiled
def test_a_killed_sweep_goes_on(tmp_path):
    """Killed for real in the middle: no half file is left, and going on gives an uninterrupted sweep's bytes."""
    random = np.random.default_rng(1)
    LoadTrace(random.integers(0, 100, (400, 4, 16))).write(tmp_path / "long.npz")
    program = (
        "import sys; from equipoise import Cluster; from equipoise.simulating.sweeping import sweep;"
        "sweep({'long': sys.argv[1]}, Cluster(4, 5), ['last', 'auto', 'mean:8'], every=[1, 2, 3, 4], folder=sys.argv[2])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "long.npz")]
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    process = subprocess.Popen([*command, str(torn)])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and (not torn.exists() or len(list(torn.glob("*.json"))) < 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = len(list(torn.glob("*.json")))
    assert 3 <= left < 12
    subprocess.run([*command, str(torn)], check=True)
    subprocess.run([*command, str(whole)], check=True)
    results = {name: content for name, content in contents(torn).items() if name.endswith(".json")}
    assert results == contents(whole)
    assert len(results) == 12


def test_failed_simulations_are_not_kept(tmp_path, monkeypatch):
    """What went wrong once may go right next time."""
    from equipoise.simulating.policies import PlannedPolicy

    usual = PlannedPolicy.plan_for

    def failing(self, load, cluster, windows=()):
        if len(load) == 2:
            raise MemoryError("for now")
        return usual(self, load, cluster, windows)

    with monkeypatch.context() as patched:
        patched.setattr(PlannedPolicy, "plan_for", failing)
        (cell,) = sweep({"a": traces()["first"]}, CLUSTER, ["last"], folder=tmp_path)
    assert "for now" in cell.found.policies[0].failure
    assert list(tmp_path.iterdir()) == []
    (cell,) = sweep({"a": traces()["first"]}, CLUSTER, ["last"], folder=tmp_path)
    assert cell.found.policies[0].failure == ""


def test_bad_sweeps_are_named(tmp_path):
    """No trace, a missing one, a damaged file in the folder, a folder that cannot be, a stream with a folder."""
    with pytest.raises(ArgumentError, match="no traces"):
        sweep({}, CLUSTER, ["last"])
    with pytest.raises(FileError, match=r"nowhere\.npz cannot be read"):
        sweep({"a": tmp_path / "nowhere.npz"}, CLUSTER, ["last"], folder=tmp_path / "kept")
    with pytest.raises(FileError, match=r"nowhere\.npz cannot be read"):
        sweep({"a": tmp_path / "nowhere.npz"}, CLUSTER, ["last"])
    sweep({"a": traces()["first"]}, CLUSTER, ["last"], folder=tmp_path / "kept")
    (damaged,) = (tmp_path / "kept").iterdir()
    damaged.write_text("{")
    with pytest.raises(FileError, match="is not a simulation file"):
        sweep({"a": traces()["first"]}, CLUSTER, ["last"], folder=tmp_path / "kept")
    assert damaged.read_text() == "{"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be made"):
        sweep({"a": traces()["first"]}, CLUSTER, ["last"], folder=tmp_path / "file" / "kept")
    from equipoise.forecasting.forecasters import Last
    from equipoise.simulating.policies import PlannedPolicy

    for arguments, found in (
        ({"jobs": 0}, "jobs is 0"),
        ({"policies": ["last,slots=16"], "slots": [12, 16]}, "policy last,slots=16 in a sweep"),
        ({"policies": ["last", "last"]}, "two policies are called last"),
        ({"policies": [PlannedPolicy(forecast=Last())], "folder": tmp_path / "new"}, "policy last in a sweep with a folder"),
    ):
        with pytest.raises(ArgumentError, match=found):
            sweep(**{"traces": {"a": traces()["first"]}, "cluster": CLUSTER, "policies": ["last"], **arguments})
    with pytest.raises(ArgumentError, match="a stream in a sweep with a folder"):
        sweep({"a": LoadStream(traces()["first"].load)}, CLUSTER, ["last"], folder=tmp_path / "kept")
