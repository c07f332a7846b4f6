"""Files that engines' own writers wrote (tests/engines/*/make_fixtures.py), and some made by hand, hold what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from equipoise import LoadTrace, Placement

ENGINES = Path(__file__).parents[1] / "fixtures" / "engines"


def expected(engine):
    """Return what was known when the files were made."""
    return json.loads((ENGINES / engine / "expected.json").read_text())


class TestSGLang:
    """Written by its own recorder."""

    @pytest.mark.parametrize("name", ["stat.pt", "stat_wrapped.pt", "stat_after_reset.pt", "per_pass", "per_token"])
    def test_what_sglangs_recorder_wrote(self, name):
        """In the order of the file: a ring that wrapped begins with newer steps, one that was reset has empty rows around."""
        pytest.importorskip("torch")
        held = expected("sglang")
        trace = LoadTrace.read(ENGINES / "sglang" / name)
        assert trace.layer_ids == tuple(held["layer_ids"])
        assert trace.load.tolist() == held["load"][name.removesuffix(".pt")]

    @pytest.mark.parametrize("name", ["per_pass", "per_token"])
    def test_one_ranks_file_of_sglangs_holds_its_own_tokens_only(self, name):
        pytest.importorskip("torch")
        files = sorted((ENGINES / "sglang" / name).iterdir())
        parts = [LoadTrace.read(path) for path in files]
        assert sum(part.load for part in parts).tolist() == expected("sglang")["load"][name]

    def test_a_placement_that_sglangs_algorithm_made(self):
        held = expected("sglang")
        placement = Placement.read(ENGINES / "sglang" / "placement.json", num_ranks=2, num_experts=8)
        assert placement.expert_of_slot.tolist() == held["placed"]
        assert Placement.read(
            ENGINES / "sglang" / "placement.json", num_ranks=2, layer_ids=held["layer_ids"]
        ).expert_of_slot.tolist() == [held["placed"][layer] for layer in held["layer_ids"]]


class TestVllmAscend:
    """Written by its own recorder."""

    def test_an_expert_map_that_vllm_ascends_recorder_wrote(self):
        held = expected("vllm_ascend")
        placement = Placement.read(ENGINES / "vllm_ascend" / "expert_map.json")
        assert placement.cluster.num_ranks == held["num_ranks"]
        assert placement.expert_of_slot.tolist() == held["placed"]


class TestByHand:
    """Made from descriptions."""

    def test_tensorrt_llm_statistics_of_expert_ids(self):
        held = expected("by_hand")
        trace = LoadTrace.read(ENGINES / "by_hand" / "tensorrt_llm" / "experts")
        assert trace.layer_ids == tuple(held["layer_ids"])
        assert trace.load.tolist() == held["tensorrt_llm"]["experts"]

    def test_tensorrt_llm_statistics_of_slot_ids_folded_by_the_yaml_in_use(self):
        held = expected("by_hand")
        folder = ENGINES / "by_hand" / "tensorrt_llm"
        trace = LoadTrace.read(folder / "slots", active=folder / "active.yaml")
        assert trace.layer_ids == tuple(held["layer_ids"])
        assert trace.load.tolist() == held["tensorrt_llm"]["slots"]
        assert Placement.read(folder / "active.yaml", num_ranks=2).expert_of_slot.tolist() == held["rows"]

    @pytest.mark.parametrize("revision", ["a", "b"])
    def test_vllm_records_of_either_revision(self, revision):
        held = expected("by_hand")
        trace = LoadTrace.read(ENGINES / "by_hand" / "vllm" / f"load_revision_{revision}.jsonl")
        assert trace.load.tolist() == held["vllm"]

    def test_vllms_initial_mapping(self):
        placement = Placement.read(ENGINES / "by_hand" / "vllm" / "mapping.jsonl", num_ranks=2)
        assert placement.expert_of_slot.tolist() == expected("by_hand")["rows"]

    def test_megatrons_dumps_of_all_ranks(self):
        held = expected("by_hand")
        trace = LoadTrace.read(ENGINES / "by_hand" / "megatron")
        assert trace.layer_ids == tuple(number - 1 for number in held["layer_ids"])
        assert trace.load.tolist() == held["megatron"]
