"""JSON Lines: vLLM's statistics in both revisions, and what our own plug-ins record."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints
from equipoise.files.loads.reading import read_load
from samples import fold_slowly

MAP = [[0, 1, 2, 0], [2, 1, 0, 1]]


def _stats(step, load, slots=MAP, **more):
    return {
        "record_type": "eplb_load_stats", "version": 1, "step": step, "num_ranks": 2, "expert_load": load, "p2l_map": slots,
    } | more  # fmt: skip


META = {
    "record_type": "eplb_load_meta", "version": 1, "model": "m", "num_ranks": 2, "num_groups": 1, "num_nodes": 1,
    "num_layers": 2, "num_redundant_experts": 1,
}  # fmt: skip
OURS = {
    "record_type": "equipoise_record_meta", "version": 1, "engine": "vllm", "num_ranks": 2, "num_groups": 1, "num_nodes": 1,
    "num_slots": 4, "num_experts": 3, "num_layers": 2, "layer_ids": [3, 7],
}  # fmt: skip


def _call(number, load, **more):
    line = {"record_type": "equipoise_record", "version": 1, "call": number, "time": 1.5, "load": load, "expert_of_slot": None}
    return line | more


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


A_STEP = [[5, 1, 2, 3], [1, 1, 1, 1]]


def test_vllm_revision_a(tmp_path):
    """Each record is folded with its own map; markers between are counted, unknown keys passed over."""
    records = [
        {"record_type": "session_metadata", "argv": ["serve"]},
        _stats(3, A_STEP, tokens=[[6, 5]], num_layers=2),
        {"record_type": "bench_run_start", "label": "warm"},
        _stats(7, A_STEP, [[0, 0, 1, 2], [0, 1, 2, 2]]),
    ]
    found = read_load(_write(tmp_path / "stats.jsonl", records))
    assert found.format == "vllm-jsonl"
    assert found.load.tolist() == [[[8, 1, 2], [1, 2, 1]], [[6, 2, 3], [1, 1, 2]]]
    assert found.is_in_order
    assert found.remarks == ("left out 2 records that hold no load (1 bench_run_start, 1 session_metadata)",)


def test_vllm_revision_b(tmp_path):
    """The first line says how many slots are redundant, so that an expert without load in a slot is no riddle."""
    records = [META, _stats(1, A_STEP), _stats(2, A_STEP, [[0, 1, 2, -1], [2, 1, 0, 1]])]
    records[2]["expert_load"] = [[5, 1, 2, 0], [1, 1, 1, 1]]
    found = read_load(_write(tmp_path / "stats.jsonl", records), hints=Hints(num_experts=9))
    assert found.load.tolist() == [[[8, 1, 2], [1, 2, 1]], [[5, 1, 2], [1, 2, 1]]]
    assert found.remarks == ()


def test_vllm_records_of_another_width(tmp_path):
    """Elastic scaling changes the slots, not the experts."""
    records = [_stats(1, A_STEP), _stats(2, [[1, 2, 3, 0, 4], [1, 1, 1, 1, 1]], [[0, 1, 2, -1, 2], [0, 1, 2, 0, 1]])]
    assert read_load(_write(tmp_path / "stats.jsonl", records)).load[1].tolist() == [[1, 2, 7], [2, 2, 1]]


def test_vllm_experts_that_a_later_record_brings(tmp_path):
    """Without a first line the largest expert of any map is the last, not that of the first record."""
    records = [_stats(1, [[1, 2, 0]], [[0, 1, -1]]), _stats(2, [[1, 2, 3]], [[0, 1, 2]]), _stats(3, [[4, 0]], [[0, -1]])]
    with pytest.raises(FileError, match="line 3 has 2 slots for 3 experts"):
        read_load(_write(tmp_path / "stats.jsonl", records))
    found = read_load(_write(tmp_path / "stats.jsonl", records[:2]))
    assert found.load.tolist() == [[[1, 2, 0]], [[1, 2, 3]]]


def test_vllm_steps_that_fall_are_not_in_order(tmp_path):
    """Two runs in one file are read, and said to be."""
    found = read_load(_write(tmp_path / "stats.jsonl", [_stats(7, A_STEP), _stats(3, A_STEP)]))
    assert not found.is_in_order
    assert "do not rise" in found.remarks[0]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_vllm_records_against_loops(tmp_path_factory, data):
    """Random maps, each record with its own."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    steps, layers, experts, spare = (data.draw(st.integers(1, 4)) for _ in range(4))
    maps = [np.array([rng.permutation(np.r_[:experts, rng.integers(0, experts, spare)]) for _ in range(layers)]) for _ in range(steps)]  # fmt: skip  # noqa: E501
    loads = [rng.integers(0, 99, slots.shape) for slots in maps]
    records = [_stats(step, load.tolist(), slots.tolist()) for step, (load, slots) in enumerate(zip(loads, maps, strict=True))]
    path = _write(tmp_path_factory.mktemp("vllm") / "x.jsonl", records)
    expected = [fold_slowly(load, slots, experts) for load, slots in zip(loads, maps, strict=True)]
    assert np.array_equal(read_load(path).load, expected)


GOOD = json.dumps(_stats(1, A_STEP)) + "\n"
BAD_VLLM = {
    "cut short": (GOOD + GOOD[:60], "line 2 is cut short", "drop that line"),
    "no JSON": (GOOD + "nonsense\n" + GOOD, "line 2 is not valid JSON", "mend or drop that line"),
    "no object": (GOOD + "[1]\n", "line 2 holds a list", "each line holds one JSON object"),
    "deep": (GOOD + "[" * 100_000 + "\n", "line 2 is not valid JSON", "mend or drop"),
    "other version": (json.dumps(_stats(1, A_STEP, version=2)), "line 1 is of version 2", "equipoise knows version 1"),
    "shapes": (json.dumps(_stats(1, [[1, 2, 3], [1, 2, 3]])), "expert_load [2, 3] and p2l_map [2, 4]", "[layers, slots]"),
    "ragged": (json.dumps(_stats(1, [[1, 2], [3]])), "line 1 has no table of numbers under expert_load", "list of layers"),
    "words": (json.dumps(_stats(1, [["a", 2]])), "line 1 has no table of numbers under expert_load", "list of layers"),
    "truth": (json.dumps(_stats(1, [[True, 2]])), "line 1 has no table of numbers under expert_load", "list of layers"),
    "a float in the map": (json.dumps(_stats(1, [[1]], [[0.0]])), "no table of whole numbers under p2l_map", "list of layers"),
    "huge": (json.dumps(_stats(1, [[10**30]], [[0]])), "number under expert_load of more than 64 bits", "mend or drop"),
    "unknown expert": (json.dumps(_stats(1, [[1, 1]], [[0, 5]])), "line 1 has expert 5 in layer 0, slot 1", "one of the 2"),
    "another model": (GOOD + json.dumps(_stats(2, [[1]], [[0]])), "line 2 has 1 slots for 3 experts", "needs a slot"),
    "other layers": (GOOD + json.dumps(_stats(2, A_STEP[:1], MAP[:1])), "line 2 has a load of [1, 3]", "[2, 3] of those"),
    "layers of meta": (json.dumps(META | {"num_layers": 9}) + "\n" + GOOD, "loads of 2 layers", "line 1 says 9"),
    "two metas": (json.dumps(META) + "\n" + GOOD + json.dumps(META), "line 3 is a second eplb_load_meta", "one recording"),
    "too redundant": (json.dumps(META | {"num_redundant_experts": 4}) + "\n" + GOOD, "has 4 slots a layer", "4 of them are"),
    "only a meta": (json.dumps(META), "has no record of type eplb_load_stats", "record it"),
    "step is no number": (json.dumps(_stats("x", A_STEP)), "line 1 has step 'x'", "whole number >= 0"),
}


@pytest.mark.parametrize("name", BAD_VLLM)
def test_bad_vllm_records_are_named(tmp_path, name):
    """The line, what is wrong, and what to do."""
    text, found, rule = BAD_VLLM[name]
    path = tmp_path / "stats.jsonl"
    path.write_text(text)
    with pytest.raises(FileError) as error:
        read_load(path)
    assert str(path) in str(error.value)
    assert found in str(error.value)
    assert rule in str(error.value)


def test_our_recording(tmp_path):
    """One file: logical loads, and the layer numbers that the plug-in knew."""
    loads = np.arange(18).reshape(3, 2, 3)
    records = [OURS, *(_call(call, load.tolist()) for call, load in enumerate(loads))]
    found = read_load(_write(tmp_path / "record.jsonl", records))
    assert found.format == "equipoise-record"
    assert np.array_equal(found.load, loads)
    assert found.layer_ids == (3, 7)
    assert found.is_in_order
    assert found.remarks == ()


def test_our_recording_in_rotated_parts(tmp_path):
    """The oldest part has the highest number, ten comes before nine; other files of the folder are left alone."""
    loads = np.arange(66).reshape(11, 2, 3)
    for age in range(11):
        name = "record.jsonl" + (f".{age}" if age else "")
        _write(tmp_path / name, [OURS, _call(10 - age, loads[10 - age].tolist())])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.jsonl").write_text("{}\n")
    found = read_load(tmp_path)
    assert np.array_equal(found.load, loads)
    assert found.is_in_order


def test_our_recording_over_a_restart(tmp_path):
    """Each run writes its first line anew and counts calls from 0; its times say that it followed."""
    runs = [OURS, _call(0, ONE, time=1.0), _call(1, ONE, time=2.0), OURS, _call(0, ONE, time=3.0), _call(1, ONE, time=4.0)]
    found = read_load(_write(tmp_path / "r.jsonl", runs))
    assert found.is_in_order
    assert found.remarks == ("the engine was started anew once: the runs follow one another by their times",)
    assert not read_load(_write(tmp_path / "r.jsonl", [*runs[3:], *runs[:3]])).is_in_order
    assert not read_load(_write(tmp_path / "r.jsonl", [*runs[:3], *runs[4:]])).is_in_order


def _all_layers(engine, **more):
    """A recording of two dense layers and two MoE layers."""
    meta = {key: value for key, value in OURS.items() if key != "layer_ids"} | {"engine": engine, "num_layers": 4} | more
    return [meta, _call(0, [[0, 0, 0], [0, 0, 0], *ONE])]


def test_our_recording_of_all_hidden_layers(tmp_path):
    """SGLang hands over rows of dense layers too: those named are taken, else those with load."""
    path = _write(tmp_path / "r.jsonl", _all_layers("sglang"))
    found = read_load(path)
    assert (found.load.tolist(), found.layer_ids) == ([ONE], (2, 3))
    assert found.remarks == ("left out layers 0, 1 without load, dense ones most likely",)
    for layers, rows in (((3,), [ONE[1]]), ((1, 2), [[0, 0, 0], ONE[0]]), ((5, 6, 7, 8), [[0, 0, 0], [0, 0, 0], *ONE])):
        found = read_load(path, hints=Hints(layer_ids=layers))
        assert (found.load.tolist(), found.layer_ids) == ([rows], layers)
    with pytest.raises(FileError, match="has 4 hidden layers: it must have layer 5"):
        read_load(path, hints=Hints(layer_ids=(4, 5)))
    other = _write(tmp_path / "r.jsonl", _all_layers("vllm"))
    assert read_load(other).load.shape == (1, 4, 3)
    assert read_load(other, hints=Hints(layer_ids=(2, 3))).load.tolist() == [ONE]


def test_our_recordings_of_a_model_and_its_draft(tmp_path):
    """In one folder: the caller's model decides, by its experts or its layers; else each is named with its size."""
    draft = [OURS | {"num_layers": 1, "layer_ids": [9]}, _call(0, [[7, 7, 7]])]
    _write(tmp_path / "calls.jsonl", [OURS, _call(0, ONE)])
    _write(tmp_path / "calls.1x3.jsonl", draft)
    found = read_load(tmp_path, hints=Hints(num_experts=3, layer_ids=(3, 7)))
    assert found.load.tolist() == [ONE]
    assert found.remarks == ("left out calls.1x3.jsonl, of another model",)
    with pytest.raises(
        FileError, match=r"calls\.1x3\.jsonl of 1 x 3 layers and experts, calls\.jsonl of 2 x 3 layers"
    ) as error:
        read_load(tmp_path, hints=Hints(num_experts=3))
    assert "--model" in str(error.value)
    _write(tmp_path / "calls.1x3.jsonl", [draft[0] | {"num_experts": 4}, _call(0, [[7, 7, 7, 7]])])
    assert read_load(tmp_path, hints=Hints(num_experts=4)).load.tolist() == [[[7, 7, 7, 7]]]


def test_our_recording_of_two_runs(tmp_path):
    """Call numbers that start anew are read, and said to be."""
    found = read_load(_write(tmp_path / "r.jsonl", [OURS, _call(4, [[1, 2, 3]] * 2), OURS, _call(0, [[1, 2, 3]] * 2)]))
    assert found.load.shape == (2, 2, 3)
    assert not found.is_in_order
    assert "do not rise" in found.remarks[0]


ONE = [[1, 2, 3], [4, 5, 6]]
BAD_OURS = {
    "no meta": ({"r.jsonl": [_call(0, ONE)]}, "line 1 is no equipoise_record_meta"),
    "a foreign line": ({"r.jsonl": [OURS, {"record_type": "x"}]}, "line 2 is no equipoise_record"),
    "only a meta": ({"r.jsonl": [OURS]}, "has no line of type equipoise_record"),
    "another shape": ({"r.jsonl": [OURS, _call(0, ONE[:1])]}, "line 2 has a load of [1, 3] [layers, experts]: "),
    "another model": ({"r.jsonl": [OURS, _call(0, ONE), OURS | {"num_experts": 4}]}, "line 3 has num_experts 4: "),
    "experts 0": ({"r.jsonl": [OURS | {"num_experts": 0}]}, "line 1 has num_experts 0: it must be a whole number >= 1"),
    "no layer ids": ({"r.jsonl": [OURS | {"layer_ids": "3"}]}, "line 1 has unusable layer_ids"),
    "a later version": ({"r.jsonl": [OURS | {"version": 2}]}, "line 1 is of version 2"),
    "two recordings": (
        {"a.jsonl": [OURS], "b.jsonl": [OURS]},
        "holds 2 recordings (a.jsonl of 2 x 3 layers and experts, b.jsonl of 2 x 3 layers and experts)",
    ),
    "a part missing": ({"r.jsonl": [OURS], "r.jsonl.2": [OURS]}, "has no r.jsonl.1: the parts"),
}


@pytest.mark.parametrize("name", BAD_OURS)
def test_bad_recordings_are_named(tmp_path, name):
    """In a file alone and as a folder."""
    files, message = BAD_OURS[name]
    for file, records in files.items():
        _write(tmp_path / file, records)
    path = tmp_path if len(files) > 1 else tmp_path / "r.jsonl"
    with pytest.raises(FileError) as error:
        read_load(path)
    assert message in str(error.value)
