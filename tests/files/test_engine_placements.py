"""Engines' placement files: every writer against every reader, what the engines' own parsers see, and bad files by name."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import ABSENT, Cluster, LoadTrace, Placement, plan, rebalance_experts
from equipoise.errors import ArgumentError, EquipoiseError, FileError
from equipoise.files.placements import FORMATS, FoundPlacement, how_to_load, read_any, write_as

ENGINES = [name for name in FORMATS if name != "json"]
NUMBERED = ("sglang", "tensorrt-llm")


@st.composite
def found_placements(draw, *, duplicates=True):
    """Draw a placement that engines can hold, of a model with dense layers."""
    ranks, layers = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    per_rank = draw(st.integers(1, 4))
    experts = draw(st.integers(per_rank, ranks * per_rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = [_row(rng, experts, ranks, per_rank, duplicates) for _ in range(layers)]
    hidden = layers + draw(st.integers(0, 3))
    layer_ids = tuple(sorted(rng.choice(hidden, layers, replace=False).tolist()))
    return FoundPlacement(np.array(rows), layer_ids, ranks, experts, hidden_layers=hidden)


def _row(rng, experts, ranks, per_rank, duplicates):
    """Every expert somewhere; without duplicates in one of the orders of experts dealt out in turn to the ranks."""
    order = rng.permutation(experts)
    if duplicates:
        spare = rng.integers(0, experts, ranks * per_rank - experts)
        return rng.permutation(np.concatenate([order, spare]))
    return order[np.arange(ranks * per_rank) % experts]


def _has_duplicates(found):
    rows = found.expert_of_slot.reshape(found.num_layers * found.num_ranks, -1)
    return any(len(set(row)) < len(row) for row in rows.tolist())


def _path(folder, name):
    return folder / f"{name}{FORMATS[name].endings[0]}"


def _written(folder, name, found):
    write_as(_path(folder, name), name, found)
    return _path(folder, name)


def _known(name, found):
    """Return what a reader of this format must be told for it to say all that was written."""
    return {"layer_ids": found.layer_ids, "num_experts": found.num_experts, "hidden_layers": found.hidden_layers}


def _seen_by_the_engine(path, name, found):
    """Return the MoE rows as a plain parser gives them: an oracle that shares nothing with our readers."""
    if name in ("deepseek", "json"):
        return np.load(path)["phy2log"].tolist() if name == "deepseek" else json.loads(path.read_text())["expert_of_slot"]
    if name == "tensorrt-llm":
        content = yaml.safe_load(path.read_text())
        assert set(content) == {"initial_global_assignments", "num_slots", "layer_updates_per_iter"}
        assert list(content["initial_global_assignments"]) == list(found.layer_ids)
        return list(content["initial_global_assignments"].values())
    content = json.loads(path.read_text())
    if name == "sglang":
        assert list(content) == ["physical_to_logical_map"]
        rows = content["physical_to_logical_map"]
        assert len(rows) == found.hidden_layers
        dense = [row for layer, row in enumerate(rows) if layer not in found.layer_ids]
        assert all(row == [slot % found.num_experts for slot in range(found.num_slots)] for row in dense)
        return [rows[layer] for layer in found.layer_ids]
    if name == "vllm":
        assert content["num_slots"] - content["num_redundant_experts"] == found.num_experts
        return [content["initial_global_assignments"][str(layer)] for layer in range(found.num_layers)]
    assert content["moe_layer_count"] == len(content["layer_list"])
    return [[e for device in layer["device_list"] for e in device["device_expert"]] for layer in content["layer_list"]]


@pytest.mark.parametrize("duplicates", [True, False])
def test_every_writer_to_every_reader(tmp_path_factory, monkeypatch, duplicates):
    """Written as any, read, written as any other, read again: the same slots, and the engine's parser sees them too."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    folder = tmp_path_factory.mktemp("round")

    @settings(max_examples=20)
    @given(found_placements(duplicates=duplicates))
    def check(found):
        names = [name for name in FORMATS if name != "vllm-ascend" or not _has_duplicates(found)]
        for name in names:
            path = _written(folder, name, found)
            assert np.array_equal(_seen_by_the_engine(path, name, found), found.expert_of_slot)
            read = read_any(path, **_known(name, found))
            assert read.format == name
            assert np.array_equal(read.expert_of_slot, found.expert_of_slot)
            again = replace(read, num_ranks=found.num_ranks)
            for other in names:
                twice = read_any(_written(folder, other, again), other, **_known(other, found))
                assert np.array_equal(twice.expert_of_slot, found.expert_of_slot)
                assert (twice.layer_ids, twice.num_experts) == (found.layer_ids, found.num_experts)

    check()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cluster", [Cluster(8, 5), Cluster(4, 8), Cluster(8, 6, 2)])
def test_plans_round_trip(tmp_path, name, cluster):
    """A plan of the example comes back with ranks, slots and experts, by Placement.write and Placement.read alone."""
    placement = plan(LoadTrace.example(), cluster).placement
    path = _path(tmp_path, name)
    placement.write(path, name, layer_ids=range(24), hidden_layers=24)
    again = Placement.read(path, num_ranks=cluster.num_ranks)
    assert np.array_equal(again.expert_of_slot, placement.expert_of_slot)
    assert (again.cluster.num_ranks, again.num_experts) == (cluster.num_ranks, 32)
    assert np.array_equal(Placement.read(path, name, cluster=cluster).expert_of_slot, placement.expert_of_slot)
    assert np.array_equal(again.moves_from(placement), np.zeros(24))


@pytest.mark.parametrize("name", FORMATS)
def test_same_placement_same_bytes(tmp_path, name):
    """Files carry no date and no path."""
    found = FoundPlacement(np.array([[0, 1, 1, 2], [2, 1, 0, 0]]), (1, 2), 4, 3, hidden_layers=3)
    first = _written(tmp_path, name, found).read_bytes()
    assert _written(tmp_path, name, found).read_bytes() == first


FOUND = FoundPlacement(np.array([[0, 1, 1, 2], [2, 1, 0, 0]]), (1, 3), 4, 3, hidden_layers=4)


def test_exact_files(tmp_path):
    """The text of each, as engines document it."""
    texts = {name: _written(tmp_path, name, FOUND).read_bytes().decode() for name in ENGINES if name != "deepseek"}
    assert json.loads(texts["sglang"]) == {"physical_to_logical_map": [[0, 1, 2, 0], [0, 1, 1, 2], [0, 1, 2, 0], [2, 1, 0, 0]]}
    assert texts["tensorrt-llm"] == (
        "initial_global_assignments:\n  1: [0, 1, 1, 2]\n  3: [2, 1, 0, 0]\nnum_slots: 4\nlayer_updates_per_iter: 0\n"
    )
    assert json.loads(texts["vllm"]) == {
        "record_type": "eplb_initial_mapping",
        "version": 1,
        "num_redundant_experts": 1,
        "num_slots": 4,
        "initial_global_assignments": {"0": [0, 1, 1, 2], "1": [2, 1, 0, 0]},
    }
    assert texts["vllm"].count("\n") == 1
    devices = [{"device_id": rank, "device_expert": [expert]} for rank, expert in enumerate([0, 1, 1, 2])]
    read = json.loads(texts["vllm-ascend"])
    assert read["moe_layer_count"] == 2
    assert read["layer_list"][0] == {"layer_id": 0, "device_count": 4, "device_list": devices}
    with np.load(_written(tmp_path, "deepseek", FOUND)) as arrays:
        assert {key: array.dtype for key, array in arrays.items()} == dict.fromkeys(("phy2log", "log2phy", "logcnt"), "int64")
        assert arrays["log2phy"].tolist() == [[[0, -1], [1, 2], [3, -1]], [[2, 3], [1, -1], [0, -1]]]
        assert arrays["logcnt"].tolist() == [[1, 2, 1], [2, 1, 1]]


def test_how_engines_load_it():
    """One line each, with the redundancy that the engine must be told."""
    lines = {name: how_to_load("x", name, FOUND) for name in FORMATS}
    assert lines["sglang"] == "--init-expert-location x --ep-num-redundant-experts 1"
    assert "expert_map_path" in lines["vllm-ascend"]
    assert "load_balancer: x" in lines["tensorrt-llm"]
    assert "no release to 0.33.0 loads it" in lines["vllm"]
    assert not any("\n" in line for line in lines.values())


def test_rows_of_a_model_are_picked(tmp_path):
    """Of SGLang's hidden layers and TensorRT-LLM's keys those named; all others are told of, and missing ones refused."""
    path = _written(tmp_path, "sglang", FOUND)
    whole = read_any(path)
    assert (whole.num_layers, whole.layer_ids, whole.hidden_layers) == (4, (0, 1, 2, 3), 4)
    assert whole.remarks == ("2 of 4 rows hold experts in order and may be of dense layers: name the model to leave them out",)
    picked = read_any(path, layer_ids=(3, 1))
    assert picked.expert_of_slot.tolist() == [[2, 1, 0, 0], [0, 1, 1, 2]]
    assert picked.remarks == ("2 rows of layers that were not named are left out",)
    assert Placement.read(path, num_ranks=4, layer_ids=(1, 3)).expert_of_slot.tolist() == FOUND.expert_of_slot.tolist()
    yaml_path = _written(tmp_path, "tensorrt-llm", FOUND)
    assert read_any(yaml_path).layer_ids == (1, 3)
    assert read_any(yaml_path, layer_ids=(3,)).expert_of_slot.tolist() == [[2, 1, 0, 0]]
    moving = tmp_path / "moving.yaml"
    moving.write_text(yaml_path.read_text().replace("layer_updates_per_iter: 0", "layer_updates_per_iter: 2"))
    told = "layer_updates_per_iter is 2: the engine moves experts away from this placement"
    assert read_any(moving, layer_ids=(3,)).remarks == (told, "1 rows of layers that were not named are left out")
    with pytest.raises(FileError, match="has no row for layer 2: the model asked for"):
        read_any(yaml_path, layer_ids=(1, 2))


@pytest.mark.parametrize("name", FORMATS)
def test_placements_of_other_models(tmp_path, name):
    """Other numbers of layers or experts are refused with the file's name and both numbers."""
    path = _written(tmp_path, name, FOUND)
    for told, found in [
        ({"layer_ids": (1, 3, 7)}, "7" if name in NUMBERED else "has 2 layers: the model asked for has 3"),
        ({"num_experts": 2}, "holds expert 2, not 0..1" if name in (*NUMBERED, "vllm-ascend") else "has 3 experts"),
    ]:
        with pytest.raises(FileError) as error:
            read_any(path, **told)
        assert str(path) in str(error.value)
        assert found in str(error.value)
    if name == "sglang":
        with pytest.raises(FileError, match="has 4 hidden layers: the model asked for has 61"):
            read_any(path, hidden_layers=61)
    if name == "json":
        with pytest.raises(FileError, match="has layer 3 at position 1: the model asked for has layer 2"):
            read_any(path, layer_ids=(1, 2))


def test_ranks_come_from_the_file_or_the_caller(tmp_path):
    """Formats that do not say need them; those that do refuse others."""
    for name in FORMATS:
        path = _written(tmp_path, name, FOUND)
        told = name in ("json", "vllm-ascend")
        if name == "json":
            assert read_any(path).layer_ids == FOUND.layer_ids
        if told:
            assert Placement.read(path).cluster == Cluster(4, 1)
            with pytest.raises(FileError, match="it is for 4 ranks: 3 were asked for"):
                Placement.read(path, num_ranks=3)
        else:
            with pytest.raises(FileError, match=f"the {name} format does not say how many ranks there are: its 4 slots"):
                Placement.read(path)
            with pytest.raises(FileError, match="4 slots on 3 ranks: slots must be divisible by ranks"):
                Placement.read(path, num_ranks=3)
            with pytest.raises(FileError, match="expert_of_slot has shape"):
                Placement.read(path, cluster=Cluster(2, 3))
            with pytest.raises(FileError, match="it is for 4 ranks: 2 were asked for"):
                Placement.read(path, num_ranks=2, cluster=Cluster(4, 1))
        nodes = Cluster(4, 1, 2, rank_speeds=[1, 1, 2, 2])
        assert Placement.read(path, cluster=nodes).cluster == nodes
    with pytest.raises(FileError, match="it is for 4 ranks with 1 slots: the cluster has 2 with 2"):
        Placement.read(_path(tmp_path, "json"), cluster=Cluster(2, 2))
    with pytest.raises(FileError, match="num_ranks is 0"):
        Placement.read(_path(tmp_path, "vllm"), num_ranks=0)


UNFIT = {
    "an empty slot": (replace(FOUND, expert_of_slot=np.array([[0, 1, 2, 2], [0, 1, ABSENT, 2]])), "(the model's 3), slot 2 is"),
    "an expert without a slot": (replace(FOUND, expert_of_slot=np.array([[0, 1, 2, 2], [0, 1, 1, 0]])), "expert 2 has no slot"),
    "more experts than slots": (replace(FOUND, num_experts=10**12), "1000000000000 experts in 4 slots"),
    "ranks that do not divide": (replace(FOUND, num_ranks=3), "4 slots on 3 ranks"),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("case", UNFIT)
def test_what_engines_cannot_hold(tmp_path, name, case):
    """Refused by the writer with layer and slot or expert; nothing is written."""
    found, message = UNFIT[case]
    with pytest.raises(ArgumentError) as error:
        write_as(_path(tmp_path, name), name, found)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_one_engine_cannot_hold(tmp_path):
    """Unequal ranks, duplicates for vllm-ascend, numbers that are not known or do not fit."""
    unequal = Placement([[0, 1, 2]], Cluster(2, [1, 2]), 3)
    for name in ENGINES:
        with pytest.raises(ArgumentError, match="ranks have unequally many slots"):
            unequal.write(_path(tmp_path, name), name, layer_ids=[0], hidden_layers=1)
    unnumbered = replace(FOUND, layer_ids=(), hidden_layers=None)
    for name, found, message in [
        ("vllm-ascend", replace(FOUND, num_ranks=2), r"layer 1 \(the model's 3\): device 1 holds expert 0 twice"),
        ("vllm-ascend", replace(FOUND, num_ranks=None), "the number of ranks is not known"),
        ("json", replace(FOUND, num_ranks=None), "the number of ranks is not known"),
        ("json", replace(FOUND, num_ranks=3), "4 slots on 3 ranks"),
        ("sglang", unnumbered, "how many hidden layers the model has is not known"),
        ("sglang", replace(unnumbered, hidden_layers=4), "the model's numbers of the 2 layers are not known"),
        ("sglang", replace(FOUND, hidden_layers=3), "layer 3 of a model with 3 hidden layers"),
        ("tensorrt-llm", unnumbered, "the model's numbers of the 2 layers are not known"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            write_as(_path(tmp_path, name), name, found)
    assert not list(tmp_path.iterdir())
    write_as(tmp_path / "all.json", "sglang", replace(unnumbered, hidden_layers=2))
    assert read_any(tmp_path / "all.json").expert_of_slot.tolist() == FOUND.expert_of_slot.tolist()


def test_names_of_files_and_formats(tmp_path):
    """Endings that the engine would not load, and formats nobody knows, are refused."""
    for name, ending in [("sglang", ".yaml"), ("tensorrt-llm", ".json"), ("vllm-ascend", ".npz"), ("deepseek", ".pt")]:
        with pytest.raises(FileError, match=f"a placement for {name} is written as"):
            write_as(tmp_path / f"p{ending}", name, FOUND)
    placement = Placement([[0, 1]], Cluster(2, 1), 2)
    with pytest.raises(ArgumentError, match="format is 'sgl': it must be one of json, sglang, vllm"):
        placement.write(tmp_path / "p.json", "sgl")
    with pytest.raises(ArgumentError, match="layer_ids has 2 entries"):
        placement.write(tmp_path / "p.json", layer_ids=[0, 1])
    with pytest.raises(ArgumentError, match="hidden_layers is 0"):
        placement.write(tmp_path / "p.json", "sglang", hidden_layers=0)
    placement.write(tmp_path / "p.json")
    with pytest.raises(ArgumentError, match="format is 'sgl'"):
        Placement.read(tmp_path / "p.json", "sgl")


def _sglang(rows, **others):
    return json.dumps({"physical_to_logical_map": rows, **others})


def _trt(rows="{3: [0, 1]}", rest="num_slots: 2"):
    return f"initial_global_assignments: {rows}\n{rest}\n"


def _vllm(rows=None, **others):
    record = {"record_type": "eplb_initial_mapping", "version": 1, "num_redundant_experts": 0, "num_slots": 2}
    return json.dumps({**record, "initial_global_assignments": {"0": [0, 1]} if rows is None else rows, **others})


def _ascend(devices=([0], [1]), **others):
    listed = [{"device_id": rank, "device_expert": experts} for rank, experts in enumerate(devices)]
    layer = {"layer_id": 0, "device_count": len(listed), "device_list": listed, **others.pop("layer", {})}
    return json.dumps({"moe_layer_count": 1, "layer_list": [layer], **others})


BOMB = "a: &a [0, 0]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
BAD = {
    "sglang, another key": (_sglang([[0]], extra=1), 'SGLang refuses the key "extra" beside'),
    "sglang, rows of unequal length": (_sglang([[0, 1], [0]]), "layer 1 has 1 slots, layer 0 has 2"),
    "sglang, an expert outside": (_sglang([[0, 2]]), "slot 1 holds expert 2, not 0..1"),
    "sglang, an empty slot": (_sglang([[0, -1]]), "slot 1 holds expert -1, not 0..1"),
    "sglang, a float": (_sglang([[0, 1.0]]), "slot 1 holds 1.0, not an expert's number"),
    "sglang, nan": ('{"physical_to_logical_map": [[NaN]]}', "slot 0 holds NaN"),
    "sglang, a boolean": (_sglang([[0, True]]), "slot 1 holds true, not an expert's number"),
    "sglang, a string": (_sglang([[0, "1"]]), 'slot 1 holds "1", not'),
    "sglang, a huge number": (_sglang([[0, 10**30]]), "slot 1 holds 1000000000000000000000000000000, not"),
    "sglang, a number too long to parse": ('{"physical_to_logical_map": [[' + "1" * 5000 + "]]}", "is not a placement file"),
    "sglang, 3-D": (_sglang([[[0]]]), "slot 0 holds [0], not"),
    "sglang, no rows": (_sglang([]), "must be a list of layers"),
    "sglang, an empty row": (_sglang([[]]), "layer 0 is [], not a list of experts"),
    "sglang, a key twice": ('{"physical_to_logical_map": [[0]], "physical_to_logical_map": [[0]]}', "stands twice"),
    "sglang, truncated": (_sglang([[0, 1]])[:-3], "is not a placement file"),
    "sglang, a load": (json.dumps({"logical_count": [[1, 2]]}), "it holds logical_count: a recorded load"),
    "trt, a float": (_trt("{3: [0, 1.0]}"), 'an expert of layer 3 is "1.0", not a whole number'),
    "trt, a boolean": (_trt("{3: [0, true]}"), 'an expert of layer 3 is "true", not'),
    "trt, quoted": (_trt("{3: [0, '1']}"), 'an expert of layer 3 is "1", not'),
    "trt, octal": (_trt("{3: [0, 01]}"), 'an expert of layer 3 is "01", not'),
    "trt, negative": (_trt("{3: [0, -1]}"), 'an expert of layer 3 is "-1", not'),
    "trt, a huge number": (_trt("{3: [0, 9999999999]}"), "slot 1 holds 9999999999, not"),
    "trt, longer still": (_trt("{3: [0, " + "9" * 5000 + "]}"), "an expert of layer 3 is"),
    "trt, an expert outside": (_trt("{3: [0, 5]}"), "slot 1 holds expert 5, not 0..1"),
    "trt, a layer twice": (_trt("{3: [0, 1], 3: [1, 0]}"), "line 1: the key 3 stands twice"),
    "trt, a key twice": (_trt(rest="num_slots: 2\nnum_slots: 2"), "line 3: the key num_slots stands twice"),
    "trt, another key": (_trt(rest="ep_size: 2"), 'line 2: the key "ep_size" is none of'),
    "trt, wrong length": (_trt("{3: [0, 1], 4: [0]}"), "layer 4 has 1 slots, layer 3 has 2"),
    "trt, wrong num_slots": (_trt(rest="num_slots: 3"), "num_slots is 3, but layer 3 has 2 slots"),
    "trt, no layers": (_trt("{}"), "must be a list of layers"),
    "trt, a list of layers": (_trt("[[0, 1]]"), "it needs initial_global_assignments: layers with their slots"),
    "trt, nested": (_trt("{3: [[0]]}"), "it needs an expert of layer 3"),
    "trt, truncated": (_trt()[:36], "line "),
    "trt, an alias": (_trt("{3: &a [0, 1], 4: *a}"), "line 1: it has an anchor or alias"),
    "trt, recursion": ("initial_global_assignments: &a {3: *a}\n", "line 1: it has an anchor or alias"),
    "trt, a bomb": (BOMB + _trt("{3: *u}"), 'line 1: the key "a" is none of'),
    "trt, a tag": (_trt("{3: !!python/tuple [0, 1]}"), "it needs layer 3: a list of experts"),
    "trt, a tag that runs code": (_trt("!!python/object/apply:os.system ['x']"), "it needs initial_global_assignments"),
    "trt, two documents": (_trt() + "---\n" + _trt(), "it needs one document"),
    "trt, deep": (_trt("[" * 3000), "is not a placement file"),
    "vllm, a version to come": (_vllm(version=2), "version is 2, not 1"),
    "vllm, version true": (_vllm(version=True), "version is true, not 1"),
    "vllm, a missing layer": (_vllm({"0": [0, 1], "2": [0, 1]}), "has 2 layers, but none called 1"),
    "vllm, other slots": (_vllm(num_slots=3), "num_slots is 3, but layer 0 has 2 slots"),
    "vllm, all redundant": (_vllm(num_redundant_experts=2), "num_redundant_experts is 2 of 2 slots"),
    "vllm, redundancy that does not fit": (_vllm(num_redundant_experts=1), "slot 1 holds expert 1, not 0..0"),
    "vllm, a list": (_vllm([[0, 1]]), "must be an object of layers"),
    "vllm, two mappings": (f"{_vllm()}\n{_vllm()}\n", "it has 2 records eplb_initial_mapping"),
    "vllm, a load": ('{"record_type": "eplb_load_stats"}\n', "it has 0 records eplb_initial_mapping"),
    "vllm, a broken line": (f"{_vllm()}\n{{", "is not a placement file"),
    "ascend, unequal devices": (_ascend([[0, 1], [2]]), "layer 0, device 1 has 1 slots, layer 0, device 0 has 2"),
    "ascend, layer count": (_ascend(moe_layer_count=2), "moe_layer_count is 2, but layer_list has 1 entries"),
    "ascend, device count": (_ascend(layer={"device_count": 3}), "layer_list[0].device_count is 3, but device_list has 2"),
    "ascend, layer number": (_ascend(layer={"layer_id": 3}), "layer_list[0] has the layer_id 3, not its position"),
    "ascend, no devices": (_ascend([]), "it needs a list device_list"),
    "ascend, a float": (_ascend([[0], [1.5]]), "layer 0, device 1, slot 0 holds 1.5"),
    "ascend, not objects": (json.dumps({"moe_layer_count": 1, "layer_list": [3]}), "layer_list[0] is 3, not an object"),
    "ascend, null": (_ascend(layer={"device_list": None}), "it needs a list device_list"),
    "foreign JSON": ('{"a": 1}', "it has the keys a"),
    "foreign text": ("layer,expert,load\n0,0,1\n", "it is other text"),
    "foreign bytes": ("a\x00b", "it is binary of an unknown kind"),
    "a pickle": ("\x80\x04.", "is not a placement file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    """One line each, with file, place and cause; the same whether the format is told or not."""
    content, message = BAD[case]
    path = tmp_path / "p.dat"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(FileError) as error:
        read_any(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    for name in FORMATS:
        with pytest.raises(FileError):
            read_any(path, name)


def _arrays(path, **arrays):
    good = {"phy2log": [[0, 1, 0]], "log2phy": [[[0, 2], [1, -1]]], "logcnt": [[2, 1]]}
    np.savez(path, **{key: np.asarray(value) for key, value in {**good, **arrays}.items() if value is not None})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logcnt": [[1, 2]]}, "logcnt does not agree with phy2log at layer 0, expert 0"),
        ({"log2phy": [[[0, 1], [2, -1]]]}, "log2phy does not agree with phy2log at layer 0, expert 0"),
        ({"log2phy": [[[0, 2], [1, -2]]]}, "log2phy does not agree with phy2log at layer 0, expert 1"),
        ({"log2phy": [[[0, 2], [1, 9]]]}, "log2phy does not agree with phy2log at layer 0, expert 1"),
        ({"log2phy": [[[0], [1]]]}, "log2phy has room for 1 replicas, logcnt counts 2"),
        ({"phy2log": [[0, 1, 2]]}, "phy2log, layer 0, slot 2 holds 2, not 0..1"),
        ({"phy2log": [[0, 1, -1]]}, "phy2log, layer 0, slot 2 holds -1, not 0..1"),
        ({"phy2log": [[0.0, 1.0, 0.0]]}, "phy2log is float64 of shape [1, 3], not whole numbers in 2-D"),
        ({"phy2log": [[True, False, True]]}, "phy2log is bool of shape [1, 3]"),
        ({"phy2log": [0, 1, 0]}, "phy2log is int64 of shape [3]"),
        ({"logcnt": [[2, 1], [2, 1]]}, "have the shapes [1, 3], [1, 2, 2], [2, 2]"),
        ({"logcnt": None}, "it has no array logcnt"),
        ({"phy2log": np.array([[None]])}, "it holds a pickle"),
        ({"phy2log": None}, "it holds the arrays log2phy, logcnt"),
    ],
)
def test_arrays_that_do_not_agree(tmp_path, arrays, message):
    """DeepSeek's three arrays say the same thing three times, or are refused."""
    path = tmp_path / "p.npz"
    _arrays(path)
    assert read_any(path).expert_of_slot.tolist() == [[0, 1, 0]]
    _arrays(path, log2phy=[[[2, 0, -1], [1, -1, -1]]])
    assert read_any(path).num_experts == 2  # any order, any padding
    _arrays(path, **arrays)
    with pytest.raises(FileError) as error:
        read_any(path)
    assert message in str(error.value)


def test_deepseek_arrays_are_those_of_the_call(tmp_path):
    """Written from phy2log alone, all three arrays are what rebalance_experts returns, and these are read."""
    path, names = tmp_path / "p.npz", ("phy2log", "log2phy", "logcnt")
    arrays = rebalance_experts(np.random.default_rng(2).integers(1, 1000, (3, 16)), 24, 4, 2, 8)
    Placement(arrays[0], Cluster(8, 3), 16).write(path, "deepseek")
    with np.load(path) as written:
        assert all(np.array_equal(written[name], array) for name, array in zip(names, arrays, strict=True))
    np.savez(path, **dict(zip(names, arrays, strict=True)))
    assert np.array_equal(Placement.read(path, num_ranks=8).expert_of_slot, arrays[0])


def test_headers_that_claim_much(tmp_path):
    """An array said to be of 10^12 elements, and an archive that unpacks to gigabytes, are refused before memory is taken."""
    path = tmp_path / "p.npz"
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("phy2log", "log2phy", "logcnt"):
            archive.writestr(f"{key}.npy", header)
    with pytest.raises(FileError, match=r"an array of shape \[1000000, 1000000\] has 0 bytes"):
        read_any(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("phy2log", "log2phy", "logcnt"):
            archive.writestr(f"{key}.npy", bytes(2**27))
    with pytest.raises(FileError, match="its arrays are larger than 256 MiB"):
        read_any(path)
    with (tmp_path / "large.json").open("wb") as file:
        file.write(b"{")
        file.truncate(2**27)
    with pytest.raises(FileError, match="it is larger than 64 MiB"):
        read_any(tmp_path / "large.json")
    (tmp_path / "large.json").write_bytes(b"[" + b"0," * 2**23)
    with pytest.raises(FileError, match="its text is larger than 16 MiB"):
        read_any(tmp_path / "large.json")


@pytest.mark.parametrize("name", ENGINES)
def test_damaged_files(tmp_path, name):
    """Whatever byte is flipped or cut off, a placement or a FileError on one line comes out, and nothing else."""
    path = _written(tmp_path, name, replace(FOUND, num_ranks=4))
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    messages = []
    for position in rng.permutation(len(content))[:250].tolist():
        flipped = bytes([content[position] ^ int(rng.integers(1, 256))])
        for damaged in (content[:position], content[:position] + flipped + content[position + 1 :]):
            path.write_bytes(damaged)
            try:
                read_any(path)
            except EquipoiseError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_remarks(tmp_path):
    """What a file says that matters beside the placement is told."""
    path = tmp_path / "p.yaml"
    path.write_text(_trt(rest="layer_updates_per_iter: 2"))
    assert read_any(path).remarks == ("layer_updates_per_iter is 2: the engine moves experts away from this placement",)
    path.write_text(_ascend([[0, 0], [1, 2]]))
    assert read_any(path).remarks == ("layer 0: device 0 holds expert 0 twice, which vllm-ascend cannot use",)
    path.write_text(json.dumps({"initial_global_assignments": {"7": [1, 0], "5": [0, 1]}, "num_slots": 2}))
    assert read_any(path).layer_ids == (5, 7)
    path.write_text(f'{{"record_type": "session_metadata"}}\n\n{_vllm()}\n')
    assert read_any(path).format == "vllm"


def test_torch_files(tmp_path):
    """SGLang's and DeepSeek's tensors are read without running code; what needs a pickle is refused."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "p.pt"
    rows = [[0, 1, 1], [1, 0, 0]]
    for value in (torch.tensor(rows), torch.tensor(rows, dtype=torch.int32), rows):
        torch.save({"physical_to_logical_map": value}, path)
        found = read_any(path)
        assert (found.format, found.expert_of_slot.tolist()) == ("sglang", rows)
    torch.save({"physical_to_logical_map": torch.tensor(rows)}, path, _use_new_zipfile_serialization=False)
    assert read_any(path).expert_of_slot.tolist() == rows
    arrays = {"phy2log": [[0, 1, 0]], "log2phy": [[[0, 2], [1, -1]]], "logcnt": [[2, 1]]}
    torch.save({key: torch.tensor(value) for key, value in arrays.items()}, path)
    assert read_any(path).format == "deepseek"
    wide = torch.zeros(1, dtype=torch.int64).expand(10**6, 10**6)
    for value, message in [
        ({"physical_to_logical_map": torch.tensor(rows).float()}, "is float32 of shape"),
        ({"physical_to_logical_map": torch.tensor(rows), "x": 1}, 'SGLang refuses the key "x"'),
        ({"physical_to_logical_map": wide}, "physical_to_logical_map is larger than 256 MiB"),
        ({"physical_to_logical_map": 3}, "is not a placement file"),
        ({"logical_count": torch.tensor(rows)}, "it holds logical_count: a recorded load"),
        ({"phy2log": torch.tensor(rows)}, "it has no log2phy"),
        (torch.tensor(rows), "it holds no dict of tensors"),
        ({"physical_to_logical_map": pytest.fail}, "cannot be loaded as plain tensors"),
    ]:
        torch.save(value, path)
        with pytest.raises(FileError) as error:
            read_any(path)
        assert message in str(error.value)
