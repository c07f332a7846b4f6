"""vllm-ascend's own loader reads our expert map, and its recorder's map is read by us."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm_ascend.eplb.adaptor.vllm_adaptor import VllmEplbAdaptor
from vllm_ascend.eplb.core import eplb_utils
from vllm_ascend.eplb.core.eplb_worker import EplbWorker

import equipoise

LOAD = np.array([[90, 30, 20, 20, 10, 10, 5, 5], [1, 2, 3, 90, 5, 6, 7, 8]])


@pytest.fixture
def planned():
    """Return a placement of two layers on four ranks."""
    return equipoise.plan(LOAD, equipoise.Cluster(4, 3)).placement


@pytest.fixture
def expert_map(planned, tmp_path):
    """Return our expert map of that placement."""
    path = tmp_path / "expert_map.json"
    planned.write(path, "vllm-ascend")
    return path


def worker():
    """Return its worker, without the processes and groups it makes."""
    return object.__new__(EplbWorker)


class TestExpertMap:
    """Between its files and ours."""

    def test_its_loader_gives_the_placement_we_wrote(self, planned, expert_map):
        for layer in range(2):
            placed, slots = eplb_utils.expert_file_to_tensor(str(expert_map), layer)
            assert slots == 12
            assert placed.flatten().tolist() == planned.expert_of_slot[layer].tolist()
        with pytest.raises(ValueError, match="Invalid EPLB Table"):
            eplb_utils.expert_file_to_tensor(str(expert_map), 3)

    def test_a_layer_past_the_last_one_falls_back_to_a_default_map(self, expert_map):
        assert eplb_utils.expert_file_to_tensor(str(expert_map), 2) == (None, 12)

    @pytest.mark.parametrize("rank", range(4))
    def test_each_rank_finds_its_experts_and_a_replica_of_each_other(self, planned, expert_map, rank):
        config = SimpleNamespace(expert_map_path=str(expert_map), dynamic_eplb=False, num_redundant_experts=0)
        moe = SimpleNamespace(num_experts=8, ep_size=4, ep_rank=rank)
        for layer in range(2):
            maps, mine, slots, redundant = eplb_utils.init_eplb_config(config, layer, moe)
            held = planned.expert_of_slot[layer].reshape(4, 3)
            assert redundant == 4
            assert [mine[expert].item() for expert in held[rank]] == [0, 1, 2]
            assert (maps >= 0).sum() == 12
            assert all(planned.expert_of_slot[layer][slots[expert]] == expert for expert in range(8))

    def test_its_rule_takes_a_plan_from_the_placement_before(self, planned):
        """Every expert placed, none twice on a rank, and who stays keeps its slot: a layer that breaks it would be put back."""
        later = equipoise.plan(LOAD[:, ::-1].copy(), planned.cluster, previous=planned).placement
        old, new = (torch.tensor(one.expert_of_slot.reshape(2, 4, 3)) for one in (planned, later))
        kept = new.clone()
        worker().check_expert_placement(old, kept)
        assert torch.equal(kept, new)
        assert not torch.equal(old, new)

    def test_what_its_recorder_writes_reads_back(self, planned, tmp_path):
        path = tmp_path / "recorded.json"
        maps = worker().local2global(torch.tensor(planned.expert_of_slot.reshape(2, 4, 3)))
        VllmEplbAdaptor._export_tensor_to_file(SimpleNamespace(rank_id=0), maps, str(path))
        read = equipoise.Placement.read(path)
        assert read.expert_of_slot.tolist() == planned.expert_of_slot.tolist()
        assert read.cluster.num_ranks == 4
        ours = tmp_path / "ours.json"
        planned.write(ours, "vllm-ascend")
        assert json.loads(ours.read_text()) == json.loads(path.read_text())


class TestRules:
    """What it does by itself."""

    @pytest.mark.parametrize(
        ("redundant", "expected"),
        [(0, [[0, 1], [2, 3], [4, 5], [6, 7]]), (4, [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 0]])],
    )
    def test_its_default_map_gives_each_rank_the_next_ranks_first_experts(self, redundant, expected):
        """Not all experts in order and then copies of the first ones, as vLLM's."""
        assert eplb_utils.generate_global_placement(8, 4, redundant, 0).tolist() == expected

    def test_its_imbalance(self):
        """Mean and largest over layers of the largest rank load over the mean one."""
        deployment = np.array([[[0, 1], [2, 0]]])
        assert EplbWorker._compute_imbalance(deployment, np.array([[6.0, 1.0, 4.0]])) == (7 / 5.5, 7 / 5.5)
