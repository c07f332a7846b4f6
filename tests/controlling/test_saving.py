"""A controller's file: read back as written, and what is no such file is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equipoise import Cluster, Constraints, MoveBudget, Placement, plan
from equipoise.controlling.controller import Controller
from equipoise.controlling.saving import _checked, backup_of, sealed
from equipoise.controlling.settings import ControlSettings
from equipoise.errors import ArgumentError, FileError

CLUSTER = Cluster(3, [2, 3, 2], 2, node_of_rank=[0, 1, 1], rank_speeds=[1, 2, 0.5])
SETTINGS = ControlSettings(
    budget=MoveBudget(per_layer=3, total=9),
    memories=(0.7, 0.1),
    caution=0.5,
    staging=2,
    constraints=Constraints(spread="nodes"),
)


def windows(count):
    """Return seeded windows."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 1000, (count, 3, 5))


def made(count=4):
    """Return a controller."""
    load = windows(count)
    controller = Controller(CLUSTER, 3, 5, placement=plan(load[0], CLUSTER).placement, settings=SETTINGS)
    for step in range(count):
        controller.observe(load[step], step)
        decision = controller.decide()
        if decision.is_move and step % 2:
            controller.applied(decision.plan)
    return controller


def same(one, other):
    """Whether two decisions are the same to the byte."""
    rows = [None if d.plan is None else d.plan.placement.expert_of_slot.tobytes() for d in (one, other)]
    steps = [None if d.schedule is None else d.schedule.as_dict() for d in (one, other)]
    return json.dumps(one.as_dict()) == json.dumps(other.as_dict()) and rows[0] == rows[1] and steps[0] == steps[1]


@pytest.mark.parametrize("killed_after", range(1, 8))
def test_a_restarted_controller_goes_on_with_identical_decisions(tmp_path, killed_after):
    """A restarted controller goes on with identical decisions."""
    path, load = tmp_path / "state", windows(12)
    controller = made(killed_after)
    controller.save(path)
    again = Controller.load(path)
    assert again.cluster == controller.cluster
    assert again.settings == controller.settings
    for step in range(killed_after, 12):
        decisions = []
        for one in (controller, again):
            one.observe(load[step] if step != 9 else load[0] * [9, 0, 0, 1, 0], step)
            decisions.append(one.decide())
        assert same(*decisions)
        if decisions[0].is_move:
            for one, decision in zip((controller, again), decisions, strict=True):
                one.applied(decision.plan)
    controller.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_state_before_is_kept(tmp_path):
    """The state before is kept."""
    path, controller = tmp_path / "state", made()
    controller.save(path)
    first = path.read_bytes()
    assert not backup_of(path).exists()
    controller.observe(windows(1)[0], 50)
    controller.save(path)
    assert backup_of(path).read_bytes() == first
    assert path.read_bytes() != first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state", "state.bak"]


@pytest.mark.parametrize("cut", [0, 3, 40, 400, -1])
def test_a_torn_file_is_named_with_the_last_good_one_which_is_kept(tmp_path, cut):
    """A torn file is named with the last good one which is kept."""
    path, controller = tmp_path / "state", made()
    controller.save(path)
    good = path.read_bytes()
    controller.save(path)
    path.write_bytes(good[:cut])
    with pytest.raises(FileError, match=r"state is torn.*state before it, .*state\.bak"):
        Controller.load(path)
    controller.save(path)
    assert backup_of(path).read_bytes() == good  # not the torn one
    assert Controller.load(path).step == Controller.load(backup_of(path)).step == controller.step


@pytest.mark.parametrize("flip", [1, 128])
def test_no_byte_can_change_unseen(tmp_path, flip):
    """Neither of the line that says what follows nor of the arrays."""
    path, cluster = tmp_path / "state", Cluster(2, 1)
    Controller(cluster, 1, 2, placement=Placement([[0, 1]], cluster, 2)).save(path)
    content = path.read_bytes()
    _checked(path, content)
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= flip
        with pytest.raises(FileError):
            _checked(path, bytes(changed))
    path.write_bytes(content[:-1] + bytes([content[-1] ^ flip]))
    with pytest.raises(FileError, match="is torn"):
        Controller.load(path)


def test_a_changed_setting_is_seen(tmp_path):
    """A file cannot be edited by hand."""
    path = tmp_path / "state"
    made().save(path)
    path.write_bytes(path.read_bytes().replace(b'"stall": 1.0', b'"stall": 0.5', 1))
    with pytest.raises(FileError, match="is torn"):
        Controller.load(path)


def test_what_is_no_path_is_named():
    """What is no path is named."""
    with pytest.raises(ArgumentError, match="path is a NoneType"):
        made().save(None)
    with pytest.raises(ArgumentError, match="path is a int"):
        Controller.load(3)


def test_a_foreign_file_is_named_and_never_overwritten(tmp_path):
    """A foreign file is named and never overwritten."""
    path = tmp_path / "notes.txt"
    path.write_text("what I wanted to say")
    with pytest.raises(FileError, match="is no controller's state"):
        Controller.load(path)
    with pytest.raises(FileError, match="holds something else"):
        made().save(path)
    assert path.read_text() == "what I wanted to say"


def test_another_version_is_named(tmp_path):
    """Another version is named."""
    path = tmp_path / "state"
    made().save(path)
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2', 1))
    with pytest.raises(FileError, match="has version 2: this equipoise reads version 1"):
        Controller.load(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'"num_layers": 3', b'"num_layers": 4'), (b'"stall": 1.0', b'"stall": 7.0'), (b'"num_nodes": 2', b'"num_modes": 2')],
)
def test_parts_that_do_not_fit_are_named(tmp_path, before, after):
    """Though the hash is right."""
    path = tmp_path / "state"
    made().save(path)
    header, payload = _checked(path, path.read_bytes())
    del header["sha256"]
    path.write_bytes(sealed(json.loads(json.dumps(header).encode().replace(before, after, 1)), payload))
    with pytest.raises(FileError, match="no state that fits"):
        Controller.load(path)


def test_a_missing_file_and_folder_are_named(tmp_path):
    """A missing file and folder are named."""
    with pytest.raises(FileError, match="cannot be read"):
        Controller.load(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be written"):
        made().save(tmp_path / "none" / "state")


def test_what_is_in_use_with_a_rank_down_is_read_back(tmp_path):
    """What is in use with a rank down is read back."""
    path, controller = tmp_path / "state", made()
    controller.failed(2)
    controller.save(path)
    again = Controller.load(path)
    assert np.array_equal(again.placement.expert_of_slot, controller.placement.expert_of_slot)
    assert again.cluster.alive == (True, True, False)
    assert same(again.decide(), controller.decide())


def test_ranks_with_equally_many_slots_make_an_equal_cluster(tmp_path):
    """Ranks with equally many slots make an equal cluster."""
    cluster = Cluster(2, 2)
    controller = Controller(cluster, 1, 4, placement=Placement([[0, 1, 2, 3]], cluster, 4))
    controller.save(tmp_path / "state")
    assert Controller.load(tmp_path / "state").cluster == cluster
