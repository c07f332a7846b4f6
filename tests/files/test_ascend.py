"""vllm-ascend's load tensors: counts by slot, folded with the expert map in use."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints
from equipoise.files.loads.reading import read_load
from equipoise.files.placements.found import FoundPlacement
from samples import fold_slowly

RNG = np.random.default_rng(5)
SLOTS = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])
ACTIVE = Hints(active=FoundPlacement(SLOTS, (0, 1), num_ranks=2, name="map.json"))
LOAD = RNG.integers(0, 9, (3, 2, 2, 2))
FOLDED = fold_slowly(LOAD.reshape(3, 2, 4), SLOTS, 3)


def test_a_tensor_by_layer_rank_and_slot(tmp_path):
    """Without stages it looks like any load, so the format is named."""
    np.save(tmp_path / "a.npy", LOAD[0])
    np.savez(tmp_path / "a.npz", moe_load=LOAD[0])
    for name in ("a.npy", "a.npz"):
        found = read_load(tmp_path / name, "vllm-ascend", ACTIVE)
        assert np.array_equal(found.load, FOLDED[:1])
        assert found.layer_ids == (0, 1)
        assert found.is_in_order


def test_torch_tensors_and_stages(tmp_path):
    """Four axes are no other format's: recognised by themselves; stages are a ring."""
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(LOAD), tmp_path / "stages.pt")
    found = read_load(tmp_path / "stages.pt", hints=ACTIVE)
    assert found.format == "vllm-ascend"
    assert np.array_equal(found.load, FOLDED)
    assert not found.is_in_order
    assert "ring" in found.remarks[0]


def test_a_matrix_is_of_experts(tmp_path):
    """What the engine's own offline helper reads."""
    np.save(tmp_path / "a.npy", FOLDED[0])
    assert np.array_equal(read_load(tmp_path / "a.npy", "vllm-ascend").load.reshape(FOLDED[0].shape), FOLDED[0])


BAD = {
    "no map": (LOAD[0], Hints(), "counts 4 slots a layer, not experts"),
    "another number of ranks": (LOAD[0].reshape(2, 4, 1), ACTIVE, "counts 4 ranks: map.json is for 2"),
    "another number of layers": (LOAD[0][:1], ACTIVE, "map.json has 2 layers"),
    "one axis": (LOAD[0, 0, 0], ACTIVE, "has shape [2]: vllm-ascend's load is [layers, ranks, slots]"),
    "nothing": (LOAD[:, :0], ACTIVE, "has shape [3, 0, 2, 2]"),
    "words": (np.array([["a"]]), ACTIVE, "holds no tensor of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tensors_are_named(tmp_path, name):
    """One line, with the file and the rule."""
    array, hints, message = BAD[name]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileError) as error:
        read_load(tmp_path / "a.npy", "vllm-ascend", hints)
    assert str(tmp_path / "a.npy") in str(error.value)
    assert message in str(error.value)


def test_several_arrays_are_refused(tmp_path):
    """Which is the load cannot be guessed."""
    np.savez(tmp_path / "a.npz", a=LOAD, b=LOAD)
    with pytest.raises(FileError, match="holds 2 arrays"):
        read_load(tmp_path / "a.npz", "vllm-ascend", ACTIVE)
