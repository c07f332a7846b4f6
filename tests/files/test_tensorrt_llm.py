"""TensorRT-LLM's statistics: folders of ranks, slots folded with the active placement, bad ones named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints
from equipoise.files.loads.reading import read_load
from equipoise.files.placements.found import FoundPlacement
from samples import fold_slowly


def write_statistics(folder, source, layer_ids, start=100, num_experts=None):
    """Write counts [iterations, ranks, layers, experts] as the engine does."""
    for rank in range(source.shape[1]):
        counts = {
            f"{start + step}_{layer}": np.ascontiguousarray(source[step, rank, row]).astype(np.int64)
            for step in range(len(source))
            for row, layer in enumerate(layer_ids)
        }
        save_file(counts, folder / f"rank{rank}.safetensors")
    meta = {"num_experts": num_experts or source.shape[-1], "num_experts_per_token": 2}
    (folder / "meta_info.json").write_text(json.dumps(meta))


SOURCE = np.arange(3 * 2 * 2 * 4).reshape(3, 2, 2, 4)


def test_a_folder_is_the_sum_over_its_ranks(tmp_path):
    """Ten ranks sort as numbers, layers too; what no load is in is left out and said."""
    source = np.random.default_rng(0).integers(0, 9, (2, 11, 3, 4))
    write_statistics(tmp_path, source, [3, 10, 9])
    (tmp_path / "rank0_numtokens.json").write_text("{}")
    (tmp_path / "cooccurrence_rank0.safetensors").write_bytes(b"")
    found = read_load(tmp_path)
    assert found.format == "tensorrt-llm"
    assert found.layer_ids == (3, 9, 10)
    assert np.array_equal(found.source_load, source[:, :, [0, 2, 1]])
    assert np.array_equal(found.load, source[:, :, [0, 2, 1]].sum(axis=1))
    assert found.remarks == ("left out 2 files that hold no load (cooccurrence_rank0.safetensors, rank0_numtokens.json)",)
    assert not found.load.flags.writeable
    assert not found.source_load.flags.writeable


def test_one_rank_alone_is_read_and_said_to_be_one(tmp_path):
    """Its load is not the model's."""
    write_statistics(tmp_path, SOURCE, [3, 4])
    found = read_load(tmp_path / "rank1.safetensors")
    assert np.array_equal(found.load, SOURCE[:, 1])
    assert found.source_load is None
    assert "one rank" in found.remarks[0]


def test_counts_beyond_32_bits(tmp_path):
    """They are kept, whenever they come."""
    source = SOURCE.copy()
    source[1, 1, 0, 2] = 2**33
    write_statistics(tmp_path, source, [3, 4])
    assert np.array_equal(read_load(tmp_path).source_load, source)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_slots_are_folded_with_the_active_placement(tmp_path_factory, data):
    """Layers are matched by number; every rank is folded."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    steps, ranks, layers, experts, spare = (data.draw(st.integers(1, 3)) for _ in range(5))
    slots = np.array([rng.permutation(np.r_[:experts, rng.integers(0, experts, spare)]) for _ in range(layers + 1)])
    layer_ids = rng.permutation(50)[: layers + 1]
    source = rng.integers(0, 99, (steps, ranks, layers, experts + spare))
    folder = tmp_path_factory.mktemp("stats")
    write_statistics(folder, source, layer_ids[:layers])
    found = read_load(folder, hints=Hints(active=FoundPlacement(slots, tuple(layer_ids.tolist()))))
    order = np.argsort(layer_ids[:layers])
    assert np.array_equal(found.load, fold_slowly(source, slots[:layers], experts).sum(axis=1)[:, order])
    if ranks > 1:
        assert np.array_equal(found.source_load, fold_slowly(source, slots[:layers], experts)[:, :, order])


def _active(rows, layer_ids):
    return Hints(active=FoundPlacement(np.array(rows), tuple(layer_ids), name="active.yaml"))


UNFIT = {
    "a layer missing": (_active([[0, 1, 2, 0]], [3]), "active.yaml has no layer 4"),
    "other slots": (_active([[0, 1, 2]] * 2, [3, 4]), "active.yaml has shape [2, 3]"),
    "an expert outside": (_active([[0, 1, 2, 9], [0, 1, 2, 0]], [3, 4]), "has expert 9 in layer 3, slot 3"),
    "slots, and no placement": (Hints(num_experts=3), "counts 4 slots a layer, not experts"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_wrong_active_placement_is_one_clear_error(tmp_path, name):
    """So is none where the number of experts shows that slots were counted."""
    hints, message = UNFIT[name]
    write_statistics(tmp_path, SOURCE, [3, 4])
    with pytest.raises(FileError) as error:
        read_load(tmp_path, hints=hints)
    assert message in str(error.value)


def _without(folder, rank, *keys, **more):
    from safetensors.numpy import load_file

    path = folder / f"rank{rank}.safetensors"
    counts = {key: value for key, value in load_file(path).items() if key not in keys}
    save_file(counts | more, path)


ZERO = np.zeros(4, np.int64)
BAD = {
    "a gap": (lambda f: _without(f, 0, "101_3", "101_4"), "rank0.safetensors has no iteration 101"),
    "a key missing": (lambda f: _without(f, 0, "101_4"), "rank0.safetensors has no key 101_4: each rank must have"),
    "a key missing elsewhere": (lambda f: _without(f, 1, "102_4"), "rank1.safetensors has no key 102_4"),
    "a key too many": (lambda f: _without(f, 1, **{"103_3": ZERO}), "rank1.safetensors has the key 103_3"),
    "a foreign key": (lambda f: _without(f, 1, weight=ZERO), "rank1.safetensors has the key 'weight'"),
    "a key of no layer": (lambda f: _without(f, 0, **{"100_None": ZERO}), "has the key '100_None'"),
    "a key twice": (lambda f: _without(f, 0, **{"0100_3": ZERO}), "has 7 keys for 6 counts"),
    "floats": (lambda f: _without(f, 1, **{"100_3": np.zeros(4)}), "rank1.safetensors, key 100_3 is float64 of shape [4]"),
    "another width": (lambda f: _without(f, 1, **{"100_3": ZERO[:3]}), "key 100_3 is int64 of shape [3]"),
    "negative": (lambda f: _without(f, 1, **{"100_3": ZERO - 1}), "key 100_3 has a count of -1"),
    "a rank missing": (lambda f: (f / "rank0.safetensors").unlink(), "has no rank0.safetensors: there are files of 1 ranks"),
    "no meta": (lambda f: (f / "meta_info.json").unlink(), "meta_info.json cannot be read"),
    "meta of words": (lambda f: (f / "meta_info.json").write_text('{"num_experts": "4"}'), "no usable num_experts"),
    "meta cut short": (lambda f: (f / "meta_info.json").write_text('{"num_exp'), "meta_info.json is not valid JSON"),
    "meta of 10^12": (lambda f: (f / "meta_info.json").write_text('{"num_experts": 1000000000000}'), "no usable num_experts"),
    "meta of others": (lambda f: (f / "meta_info.json").write_text('{"num_experts": 8}'), "it must be int64 of shape [8]"),
    "cut short": (lambda f: (f / "rank1.safetensors").write_bytes((f / "rank1.safetensors").read_bytes()[:-8]), "is damaged"),
    "empty": (lambda f: (f / "rank1.safetensors").write_bytes(b""), "rank1.safetensors is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_statistics_are_named(tmp_path, name):
    """The file, the key, the rule."""
    spoil, message = BAD[name]
    write_statistics(tmp_path, SOURCE, [3, 4])
    spoil(tmp_path)
    with pytest.raises(FileError) as error:
        read_load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert message in str(error.value)
