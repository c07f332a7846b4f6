"""Placement files: whole or none, read back as written, versioned."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equipoise import Cluster, Placement, plan
from equipoise.errors import FileError
from equipoise.files.atomic import whole_file


@pytest.mark.parametrize("ending", [".json", ".npz", ".JSON"])
def test_round_trip(tmp_path, ending):
    """What is written is read back, cluster included; details stand beside it."""
    cluster = Cluster(3, [2, 1, 2], 2, node_of_rank=[0, 1, 1], rank_speeds=[1, 2, 0.5], alive=[True, False, True])
    placement = Placement([[0, 1, -1, 2, 0]], cluster, 3)
    path = tmp_path / f"placement{ending}"
    placement.write(path, layer_ids=[4], plan={"balancedness": 0.5})
    again = Placement.read(path)
    assert np.array_equal(again.expert_of_slot, placement.expert_of_slot)
    assert again.cluster == cluster
    assert again.num_experts == 3
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_json_is_for_people_and_tools(tmp_path):
    """One layer a line, format and version first."""
    path = tmp_path / "p.json"
    plan([[3, 2, 1], [1, 1, 1]], Cluster(3, 1)).placement.write(path)
    content = json.loads(path.read_text())
    assert list(content)[:2] == ["format", "version"]
    assert content["version"] == 1
    assert content["expert_of_slot"] == [[0, 1, 2], [0, 1, 2]]
    assert "    [0, 1, 2],\n    [0, 1, 2]\n" in path.read_text()


def test_same_plan_same_bytes(tmp_path):
    """Files carry no date."""
    for ending in ("json", "npz"):
        for name in "ab":
            plan([[3, 2, 1]], Cluster(3, 1)).placement.write(tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_failing_writer_leaves_nothing(tmp_path):
    """The old file stays, the half one goes."""
    path = tmp_path / "p.json"
    path.write_text("old")

    def write_half():
        with whole_file(path) as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


def test_places_that_cannot_be_written(tmp_path):
    """A missing folder, a folder as the name and an unknown ending are refused, and nothing stays."""
    placement = plan([[1, 1]], Cluster(2, 1)).placement
    (tmp_path / "x.json").mkdir()
    for path, found in [
        ("none/p.json", "No such file"),
        ("x.json", "Is a directory"),
        ("p.txt", "ends in .txt"),
        ("p", "ends in"),
    ]:
        with pytest.raises(FileError, match=found):
            placement.write(tmp_path / path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert not list((tmp_path / "x.json").iterdir())


GOOD = {"format": "equipoise-placement", "version": 1, "num_experts": 2, "num_ranks": 2, "slots_per_rank": 1}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"{", "Expecting property name"),
        (b"[]", "it is JSON of another kind"),
        (b"PK\x03\x04", "not a placement file"),
        (b"\xff\xfe", "not a placement file"),
        (b"[" * 100_000, "not a placement file"),
        (json.dumps({**GOOD, "slots_per_rank": 10**30, "expert_of_slot": [[0, 1]]}).encode(), "slots_per_rank is 1000"),
        (
            json.dumps({**GOOD, "num_ranks": 10**12, "expert_of_slot": [[0, 1]]}).encode(),
            "num_ranks is 1000000000000, not 1..2",
        ),
        (
            json.dumps({**GOOD, "num_nodes": 10**12, "expert_of_slot": [[0, 1]]}).encode(),
            "num_nodes is 1000000000000, not 1..2",
        ),
        (json.dumps({**GOOD, "num_experts": 10**12, "expert_of_slot": [[0, 1]]}).encode(), "num_experts is 1000000000000"),
        (json.dumps({**GOOD, "layer_ids": [1, 1], "expert_of_slot": [[0, 1]] * 2}).encode(), "layer_ids names 1 layers"),
        (json.dumps({**GOOD, "slots_per_rank": 2**62, "expert_of_slot": [[0, 1]]}).encode(), "has shape"),
        (json.dumps({**GOOD, "version": 2, "expert_of_slot": [[0, 1]]}).encode(), "version: Input should be 1"),
        (json.dumps({**GOOD, "format": "other", "expert_of_slot": [[0, 1]]}).encode(), "format: Input should be"),
        (json.dumps(GOOD).encode(), "expert_of_slot: Field required"),
        (json.dumps({**GOOD, "expert_of_slot": [[0, "1"]]}).encode(), "expert_of_slot.0.1: Input should be a valid integer"),
        (json.dumps({**GOOD, "expert_of_slot": [[0, 1]], "extra": 1}).encode(), "extra: Extra inputs"),
        (json.dumps({**GOOD, "expert_of_slot": [[0, 1], [0]]}).encode(), "expert_of_slot, layer 1 has 1 slots, layer 0 has 2"),
        (json.dumps({**GOOD, "expert_of_slot": [[0, 7]]}).encode(), "slot 1 holds expert 7"),
        (json.dumps({**GOOD, "expert_of_slot": [[0, 1, 1]]}).encode(), "has shape"),
    ],
)
def test_foreign_and_broken_files(tmp_path, content, found):
    """Each is named with file and cause, on one line."""
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        Placement.read(path)
    assert found in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_damaged_archives(tmp_path):
    """Whatever byte of an .npz is flipped, a placement or a FileError on one line comes out."""
    path = tmp_path / "p.npz"
    plan([[3, 2, 1]], Cluster(3, 1)).placement.write(path)
    content = path.read_bytes()
    messages = []
    for position in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
            try:
                Placement.read(path)
            except FileError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_missing_file(tmp_path):
    """The system's reason is passed on."""
    with pytest.raises(FileError, match="No such file"):
        Placement.read(tmp_path / "none.json")
