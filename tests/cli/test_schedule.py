"""`equipoise schedule`: rounds against their bound, bytes and stall, checked before it is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equipoise import Cluster, Placement, plan
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.links import LINKS, Links
from equipoise.migrating.schedules import MoveSchedule
from equipoise.migrating.scheduling import schedule_moves
from equipoise.models import MODELS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a placement, one planned for another load, and one with a rank down."""
    folder = tmp_path_factory.mktemp("files")
    cluster = Cluster(4, 4, 2)
    before, load = np.random.default_rng(5).integers(1, 1000, (2, 3, 12)) ** 2
    old = plan(before, cluster).placement
    old.write(folder / "old.json")
    plan(load, cluster).placement.write(folder / "new.npz")
    down = Cluster(4, 4, 2, alive=[True, True, False, True])
    plan(load, down, previous=old).placement.write(folder / "down.json")
    return folder


def _read(files, name="new.npz"):
    return Placement.read(files / "old.json"), Placement.read(files / name)


def test_json(run, files):
    """All figures are those of the schedule."""
    code, out, err = run("schedule", files / "old.json", files / "new.npz", "--expert-bytes", "44MB", "--json")
    assert (code, err) == (0, "")
    found, made = json.loads(out), schedule_moves(*_read(files))
    assert found["is_checked"] is True
    assert (found["mode"], found["staging"], found["chunk"]) == ("duplex", None, None)
    assert found["rounds"] == found["bound"] == made.rounds.sum()
    assert found["rounds_added"] == 0
    assert found["moves"] == made.moves.sum() > 0
    assert found["local_copies"] == made.is_local.sum()
    assert (found["from_disk"], found["lost_experts"]) == (0, [])
    assert found["most_staged"] == made.most_staged.max()
    assert found["expert_bytes"] == 44e6
    assert found["sent_bytes"] == made.sent_bytes(44e6).tolist()
    assert found["received_bytes"] == made.received_bytes(44e6).tolist()
    assert np.isclose(found["stall_seconds"], made.seconds(Links(), 44e6))
    assert np.allclose(found["per_layer"]["stall_seconds"], made.layer_seconds(Links(), 44e6))
    assert found["per_layer"]["rounds"] == made.rounds.tolist()
    assert found["per_layer"]["moves"] == made.moves.tolist()
    assert sum(found["per_layer"]["local_copies"]) == found["local_copies"]
    assert found["per_rank"]["sent"] == made.sends.sum(axis=0).tolist()
    assert found["per_rank"]["received"] == made.receives.sum(axis=0).tolist()


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ((), {}),
        (("--mode", "one-peer"), {"mode": "one-peer"}),
        (("--staging", 1, "--chunk", 2), {"staging": 1, "chunk": 2}),
    ],
)
def test_writes_a_schedule_that_was_checked(run, files, tmp_path, options, rules):
    """The file holds the schedule; read back it still leads from the old placement to the new one."""
    path = tmp_path / "schedule.json"
    code, out, _ = run("schedule", files / "old.json", files / "new.npz", *options, "--out", path)
    assert code == 0
    assert f"schedule written to {path}" in out
    assert "checked: replayed slot by slot" in out
    old, new = _read(files)
    read = MoveSchedule.from_dict(json.loads(path.read_text()))
    assert read.as_dict() == schedule_moves(old, new, **rules).as_dict()
    check_schedule(read, old, new)


def test_for_people(run, files):
    """Rounds and bound, moves, copies, bytes of the busiest ranks, stall of each layer and in all."""
    made = schedule_moves(*_read(files))
    command = ("schedule", files / "old.json", files / "new.npz")
    out = run(*command, "--model", "deepseek-v3", "--link", "h800", "--node-link", "25GB")[1]
    rows = {cells[0].strip(): cells[1:] for cells in (line.split("│")[1:-1] for line in out.splitlines() if "│" in line)}
    assert [int(rows[name][0]) for name in ("rounds", "bound on rounds", "moves", "loads from disk")] == [
        made.rounds.sum(),
        made.bound.sum(),
        made.moves.sum(),
        0,
    ]
    size = MODELS["deepseek-v3"].expert_bytes
    stall = made.layer_seconds(Links(LINKS["h800"].bandwidth, 25e9), size)
    assert float(rows["predicted stall, ms"][0]) == pytest.approx(1e3 * stall.sum(), abs=0.01)
    assert float(rows["predicted stall, ms"][2]) == pytest.approx(1e3 * stall.max(), abs=0.001)
    most = int(made.sends.sum(axis=0).max())
    assert f"over all layers a rank sends {most} ({most * size / 1e9:,.2f} GB) at most" in out
    assert "as few as the bound allows" in out
    out = run(*command)[1]
    assert "bytes and seconds are not told" in out
    assert "stall" not in out
    assert run(*command, "--quiet") == (0, "", "")


def test_rounds_above_the_bound_are_told(run, files):
    """What little staging costs."""
    options = ("--staging", 1, "--chunk", 1, "--mode", "one-peer")
    made = schedule_moves(*_read(files), mode="one-peer", staging=1, chunk=1)
    out = run("schedule", files / "old.json", files / "new.npz", *options)[1]
    added = int(made.added.sum())
    assert (f"rounds: {added} above the bound" if added else "as few as the bound allows") in out
    assert "one-peer, staging 1, chunk 1" in out


def test_a_rank_that_is_down(run, files):
    """What it alone held comes from disk, and is named; a rank that leaves in order still sends it."""
    old, new = _read(files, "down.json")
    command = ("schedule", files / "old.json", files / "down.json")
    found, lost = json.loads(run(*command, "--json")[1]), schedule_moves(old, new).lost_experts
    assert found["lost_experts"] == [list(pair) for pair in lost]
    assert found["from_disk"] >= len(lost) > 1
    out = run(*command)[1]
    assert f"must come from disk: {len(lost)} (layer {lost[0][0]} expert {lost[0][1]}, " in out
    found = json.loads(run(*command, "--leaving", 2, "--json")[1])
    assert (found["from_disk"], found["lost_experts"]) == (0, [])


def test_a_schedule_that_fails_its_check_is_not_written(run, files, tmp_path, monkeypatch):
    """The checker stands between the schedule and the file."""
    old, new = _read(files)
    monkeypatch.setattr("equipoise.cli.schedule.schedule_moves", lambda *args, **rules: schedule_moves(new, old))
    code, out, err = run("schedule", files / "old.json", files / "new.npz", "--out", tmp_path / "schedule.json")
    assert (code, out) == (2, "")
    assert "do not apply this schedule" in err
    assert not list(tmp_path.iterdir())


SIZE = ("--expert-bytes", "44MB")
BAD = [
    (("--mode", "all"), "mode is 'all': it must be one of duplex, one-peer"),
    (("--staging", 0), "Invalid value for '--staging'"),
    (("--chunk", 0), "Invalid value for '--chunk'"),
    (("--leaving", 4), "leaving names rank 4: ranks are 0..3"),
    (("--leaving", 2), "leaving names rank 2: it is up in the new placement"),
    (("--leaving", "two"), "--leaving is 'two': it must be whole numbers"),
    (("--expert-bytes", "0"), "--expert-bytes is '0': it must be a size > 0"),
    (("--model", "some"), "model is 'some': it must be one of deepseek-v3"),
    ((*SIZE, "--model", "deepseek-v3"), "--expert-bytes 44MB and --model deepseek-v3"),
    ((*SIZE, "--link", "fast"), "--link is 'fast': it must be h100, h800, b200, or bytes a second, > 0"),
    ((*SIZE, "--link", "0"), "--link is '0'"),
    ((*SIZE, "--node-link", "-1"), "--node-link is '-1': it must be bytes a second, > 0"),
    (("--link", "h100"), "--link without --expert-bytes or --model"),
    (("--node-link", "1GB"), "--node-link without --expert-bytes or --model"),
    (("--out", "s.npz"), "s.npz is no name for a schedule: a schedule is written as .json"),
    (("--out", "none/s.json"), "none/s.json cannot be written"),
]


@pytest.mark.parametrize(("options", "found"), BAD)
def test_bad_input(run, files, tmp_path, monkeypatch, options, found):
    """Exit code 2, one line on stderr, nothing on stdout, no file."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("schedule", files / "old.json", files / "new.npz", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bad_placements(run, files, tmp_path):
    """Of other models, or none."""
    Placement([[0, 1, 2, 3]] * 3, Cluster(4, 1), 4).write(tmp_path / "other.json")
    for new, found in (
        (tmp_path / "other.json", "old has 3 layers of 12 experts: new has 3 of 4"),
        (tmp_path / "missing.json", f"{tmp_path}/missing.json cannot be read"),
    ):
        code, out, err = run("schedule", files / "old.json", new)
        assert (code, out) == (2, "")
        assert err.startswith(f"equipoise: {found}")
