"""Megatron's dumps: groups add up, stages join, what was never written is not read."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints
from equipoise.files.loads.reading import read_load
from equipoise.files.placements.found import FoundPlacement

RNG = np.random.default_rng(3)


def write_dump(folder, rank, group, layers, loads, forwards=None, name="", **more):
    """Write one rank's dump with the arrays that Megatron writes; loads [layers, forwards, slots]."""
    arrays = {
        "dump_version": np.asarray("mcore_ep_load_dump_v1"),
        "capture_id": np.asarray("20260101_000000_pid7"),
        "loads": loads if loads.dtype.kind == "f" else loads.astype(np.int32),
        "layer_numbers": np.asarray(layers, np.int32),
        "forward_counts": np.asarray(forwards or [loads.shape[1]] * len(layers), np.int32),
        "ep_group_ranks": np.asarray(group, np.int32),
        "ep_rank": np.int32(group.index(rank)),
        "ep_size": np.int32(len(group)),
        "global_rank": np.int32(rank),
        "num_global_physical_experts": np.int32(loads.shape[2]),
        "num_local_physical_experts": np.int32(loads.shape[2] // len(group)),
    } | more
    path = folder / f"mcore_ep_loads_rank{rank}_20260101_00000{rank}_pid{rank}{name}.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def _loads(layers=2, forwards=3, slots=4):
    return RNG.integers(0, 9, (layers, forwards, slots))


def test_ranks_replicas_and_stages(tmp_path):
    """Two stages of two groups each: ranks of a group and replicas add up, stages bring layers."""
    loads = {rank: _loads() for rank in range(8)}
    for group, layers in (([0, 1], [4, 2]), ([2, 3], [4, 2]), ([4, 5], [5, 9]), ([6, 7], [5, 9])):
        for rank in group:
            write_dump(tmp_path, rank, group, layers, loads[rank])
    (tmp_path / "log.txt").write_text("x")
    found = read_load(tmp_path, hints=Hints(num_experts=4))
    assert found.format == "megatron"
    assert found.layer_ids == (1, 3, 4, 8)
    assert found.remarks == ("Megatron numbers layers from 1: layers are given here by its numbers less 1, as the model's own",)
    for step in range(3):
        for ep_rank in range(2):
            expected = [sum(loads[base + ep_rank][row, step] for base in bases) for bases, row in
                        (((0, 2), 1), ((0, 2), 0), ((4, 6), 0), ((4, 6), 1))]  # fmt: skip
            assert np.array_equal(found.source_load[step, ep_rank], expected)
    assert np.array_equal(found.load, found.source_load.sum(axis=1))


def test_a_dump_alone_has_one_ranks_tokens(tmp_path):
    """And says so; a rank that is its own group has all."""
    loads = _loads()
    found = read_load(write_dump(tmp_path, 1, [0, 1], [1, 2], loads))
    assert np.array_equal(found.load, loads.transpose(1, 0, 2))
    assert found.source_load is None
    assert any("tokens of rank 1 alone" in remark for remark in found.remarks)
    assert any("each is taken for an expert" in remark for remark in found.remarks)
    assert not any("alone" in remark for remark in read_load(write_dump(tmp_path, 3, [3], [1, 2], loads)).remarks)


def test_forwards_that_were_never_written_are_not_read(tmp_path):
    """A partial dump holds whatever was in memory after a layer's own count."""
    loads = _loads(forwards=5)
    loads[1, 3:] = -77
    write_dump(tmp_path, 0, [0, 1], [1, 2], loads, [5, 3], name="_partial")
    write_dump(tmp_path, 1, [0, 1], [1, 2], _loads(forwards=4))
    found = read_load(tmp_path)
    assert found.load.shape == (3, 2, 4)
    assert any("left out forwards after the first 3" in remark for remark in found.remarks)


def test_slots_are_folded_with_the_active_placement(tmp_path):
    """Where Megatron keeps replicas, more slots than experts."""
    loads = _loads()
    path = write_dump(tmp_path, 0, [0], [1, 2], loads)
    active = FoundPlacement(np.array([[0, 1, 2, 0], [2, 1, 0, 2]]))
    found = read_load(path, hints=Hints(num_experts=3, active=active))
    assert found.load[0, 0].tolist() == [loads[0, 0, 0] + loads[0, 0, 3], loads[0, 0, 1], loads[0, 0, 2]]
    with pytest.raises(FileError, match="counts 4 slots a layer, not experts"):
        read_load(path, hints=Hints(num_experts=3))


def test_layers_of_the_active_placement_are_the_models_own(tmp_path):
    """Megatron's layer 4 is the model's layer 3."""
    path = write_dump(tmp_path, 0, [0], [4, 5], np.array([[[1, 2, 3]], [[4, 5, 6]]]))
    active = FoundPlacement(np.array([[0, 0, 1], [0, 1, 1], [1, 0, 0]]), layer_ids=(2, 3, 4), num_experts=2)
    found = read_load(path, hints=Hints(num_experts=2, active=active))
    assert (found.layer_ids, found.load.tolist()) == ((3, 4), [[[1, 5], [11, 4]]])


def _one(folder, **fields):
    given = {"rank": 0, "group": [0], "layers": [1, 2], "loads": _loads()} | fields
    return write_dump(folder, given.pop("rank"), given.pop("group"), given.pop("layers"), given.pop("loads"), **given)


BAD_DUMPS = {
    "another version": ({"dump_version": np.asarray("v2")}, "is of version 'v2': equipoise knows mcore_ep_load_dump_v1"),
    "an array missing": ({"layer_numbers": None}, "has no array layer_numbers"),
    "words": ({"ep_rank": np.asarray("0")}, "has unusable ep_rank"),
    "layer 0": ({"layers": [0, 1]}, "has layer number 0: Megatron numbers layers from 1"),
    "layers twice": ({"layers": [1, 1]}, "has 2 loads, 2 layer_numbers, 2 forward_counts: each layer"),
    "layers too few": ({"layers": [1]}, "has 2 loads, 1 layer_numbers"),
    "loads of floats": ({"loads": np.ones((2, 3, 4))}, "has loads of float64 [2, 3, 4]: they must be counts"),
    "too many forwards": ({"forwards": [3, 10**9]}, "has 3 to 1000000000 forwards a layer"),
    "no forward": ({"forwards": [3, 0]}, "has 0 to 3 forwards a layer, 0 for layer 2: each layer needs 1 to 3"),
    "negative": ({"loads": _loads() - 20}, "in layer "),
    "not in its group": ({"ep_group_ranks": np.array([1])}, "is of rank 0: ep_group_ranks must name it"),
    "another place": ({"ep_rank": np.array(1)}, "has ep_rank 1: it must be its place"),
    "two ranks": ({"global_rank": np.array([0, 1])}, "has several ranks"),
}


@pytest.mark.parametrize("name", BAD_DUMPS)
def test_bad_dumps_are_named(tmp_path, name):
    """The file, the array, the rule."""
    fields, message = BAD_DUMPS[name]
    path = _one(tmp_path, **fields)
    with pytest.raises(FileError) as error:
        read_load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


BAD_FOLDERS = {
    "a rank missing": ([(0, [0, 1], [1])], "has no dump of rank 1: it is in the group of rank 0"),
    "a rank twice": ([(0, [0], [1]), (0, [0], [1])], "has 2 dumps of rank 0: a folder is read as one capture"),
    "groups that overlap": ([(0, [0, 1], [1]), (1, [1], [1])], "differ in ep_group_ranks or layer_numbers"),
    "layers that differ": ([(0, [0, 1], [1]), (1, [0, 1], [2])], "differ in ep_group_ranks or layer_numbers"),
    "groups of two sizes": (
        [(0, [0], [1]), (1, [1, 2], [1]), (2, [1, 2], [1])],
        "has dumps of groups of 1 and 4 slots, and of 2 and 4",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_captures_are_named(tmp_path, name):
    """A capture is whole, or it is refused."""
    dumps, message = BAD_FOLDERS[name]
    for number, (rank, group, layers) in enumerate(dumps):
        write_dump(tmp_path, rank, group, layers, _loads(len(layers)), name=f"_{number}")
    with pytest.raises(FileError) as error:
        read_load(tmp_path)
    assert message in str(error.value)
