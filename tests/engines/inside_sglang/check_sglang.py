"""SGLang's own callers take our function's answers, and its loader our files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sglang.srt.plugins
import torch
from stand_ins import as_ranks

sys.path.append(str(Path(__file__).parent))
import tiny
from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager
from sglang.srt.eplb import eplb_algorithms, expert_distribution, expert_location
from sglang.srt.eplb.eplb_manager import EPLBManager
from sglang.srt.eplb.eplb_simulator import reader
from sglang.srt.eplb.expert_location import ExpertLocationMetadata, compute_initial_expert_location_metadata
from sglang.srt.eplb.expert_location_updater import ExpertLocationUpdater
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.runtime_context import get_exec, get_resources

import equipoise
from equipoise.plugins import sglang as ours

STOCK = {"rebalance_experts": eplb_algorithms.rebalance_experts}  # not by a name of this module: SGLang would hook that too
PLACED = [[0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3], [7, 7, 6, 5, 4, 3, 2, 1, 0, 7, 7, 6]]
HIDDEN = [[i % 8 for i in range(12)], *PLACED]


@pytest.fixture(autouse=True)
def hooked():
    """Our hook on SGLang's function, and off again afterwards."""
    ours.register()
    HookRegistry.apply_hooks()
    yield
    eplb_algorithms.rebalance_experts = STOCK["rebalance_experts"]
    HookRegistry._hooks.clear()
    HookRegistry._patched.clear()


@pytest.fixture
def alone(monkeypatch):
    """SGLang asks torch for the rank of a process that has no group here."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)


@pytest.fixture
def placement():
    """Return a placement of the three MoE layers."""
    return equipoise.Placement(PLACED, equipoise.Cluster(2, 6), 8)


def moved(rank, num_ranks, nodes, slots):
    """Plan for three loads, one after another, and let SGLang move weights each time."""
    arguments = {"num_ranks": num_ranks, "nodes": nodes, "slots": slots, "num_groups": 4 if nodes > 1 else None}
    with tiny.serving(rank, **arguments):
        start = [[i % 8 for i in range(slots)]] * tiny.LAYERS
        expert_location.set_global_expert_location_metadata(tiny.location(start, rank), allow_overwrite=True)
        weights = tiny.weights(start, rank, num_ranks)
        maps = []
        for seed in (1, 2, 3):
            made = ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, tiny.counts(seed=seed))
            missing = ExpertLocationUpdater().update(weights, made, list(tiny.MOE), nodes, rank)
            assert not missing
            in_use = expert_location.get_global_expert_location_metadata().physical_to_logical_map
            assert torch.equal(in_use[tiny.DENSE :], made.physical_to_logical_map[tiny.DENSE :])
            assert tiny.misplaced(weights, in_use, rank, num_ranks) == []
            maps.append(in_use.tolist())
        return maps


def managed(rank, num_ranks, layers_per_chunk):
    """Serve as SGLang does: its recorder counts, its manager rebalances, one forward pass after another."""
    arguments = {
        "eplb_rebalance_num_iterations": 4,
        "expert_distribution_recorder_mode": "stat",
        "expert_distribution_recorder_buffer_size": 4,
        "eplb_rebalance_layers_per_chunk": layers_per_chunk,
        "enable_eplb": True,
    }
    with tiny.serving(rank, num_ranks, **arguments):
        start = [[i % 8 for i in range(12)]] * tiny.LAYERS
        metadata = tiny.location(start, rank)
        expert_location.set_global_expert_location_metadata(metadata, allow_overwrite=True)
        recorder = expert_distribution.ExpertDistributionRecorder.init_new(metadata, rank)
        expert_distribution.set_global_expert_distribution_recorder(recorder)
        weights = tiny.weights(start, rank, num_ranks)
        model = SimpleNamespace(routed_experts_weights_of_layer=weights)
        updater = ExpertLocationUpdater()
        manager = EPLBManager(
            model_config=tiny.CONFIG,
            get_model=lambda: model,
            get_expert_location_updater=lambda: updater,
            get_expert_backup_client=lambda: None,
            get_weight_updater=lambda: SimpleNamespace(update_weights_from_disk=None),
        )
        maps = []
        for step in range(24):
            with recorder.with_forward_pass(step, SimpleNamespace()):
                for layer in tiny.MOE:
                    with recorder.with_current_layer(layer):
                        hot = (step // 8 + layer) % 8
                        slot = int((metadata.physical_to_logical_map[layer] == hot).nonzero()[0])
                        recorder.on_select_experts(torch.tensor([[slot, (slot + 5) % 12]] * 20 + [[step % 12, -1]]))
            manager.on_forward_pass_end()
            in_use = metadata.physical_to_logical_map
            assert tiny.misplaced(weights, in_use, rank, num_ranks) == [], step
            maps.append(in_use.tolist())
        return maps


def recorded(rank, num_ranks, path):
    """Plan twice with our recorder on."""
    os.environ["EQUIPOISE_RECORD"] = path
    ours._answerer = None
    with tiny.serving(rank, num_ranks):
        for seed in (1, 2):
            ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, tiny.counts(seed=seed))


class TestRegistering:
    """How the hook gets in."""

    def test_sglangs_loader_finds_and_runs_the_entry_point(self):
        eplb_algorithms.rebalance_experts = STOCK["rebalance_experts"]
        HookRegistry._hooks.clear()
        HookRegistry._patched.clear()
        sglang.srt.plugins._plugins_loaded = False
        sglang.srt.plugins.load_plugins()
        assert "equipoise" in sglang.srt.plugins.load_plugins_by_group(sglang.srt.plugins.GENERAL_PLUGINS_GROUP)
        assert eplb_algorithms.rebalance_experts is not STOCK["rebalance_experts"]

    def test_twice_is_once(self, caplog):
        ours.register()
        HookRegistry.apply_hooks()
        assert [hook for _, hook, _ in HookRegistry._hooks[ours.TARGET]] == [ours.hook]
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_off_unless_turned_on(self, monkeypatch):
        HookRegistry._hooks.clear()
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "0")
        ours.register()
        assert not HookRegistry._hooks


class TestCalls:
    """What goes in and what SGLang makes of it."""

    def test_callers_look_the_function_up_when_they_call(self):
        """engines.md, 3.5, a reading: a hook on the module's function is what ``init_by_eplb`` calls."""
        seen = []
        eplb_algorithms.rebalance_experts = lambda **given: seen.append(given) or STOCK["rebalance_experts"](**given)
        with tiny.serving():
            ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, tiny.counts())
        assert set(seen[0]) == set(ours.PARAMETERS)
        assert tuple(seen[0]["tokens_per_expert"].shape) == (6, 4, 8)
        assert (seen[0]["num_groups"], seen[0]["algorithm"].name) == (None, "deepseek")

    @pytest.mark.usefixtures("alone")
    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"num_groups": 4, "nodes": 2, "num_ranks": 4},
            {"num_ranks": 1, "slots": 8},
            {"slots": 8},
            {"eplb_algorithm": "deepseek_vec"},
            {"ep_dispatch_algorithm": "static"},
        ],
        ids=["auto", "groups on nodes", "one rank", "no redundancy", "deepseek_vec", "static dispatch"],
    )
    @pytest.mark.parametrize("load", ["counts", "zero", "one window"])
    def test_sglang_makes_its_metadata_from_our_answer(self, asked, load):
        counts = {"counts": tiny.counts(), "zero": torch.zeros(6, 4, 8, dtype=torch.int32), "one window": tiny.counts()[0]}[
            load
        ]
        with tiny.serving(**asked):
            get_resources().expert_location_metadata = None
            made = ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, counts)
        rows = made.physical_to_logical_map
        assert tuple(rows.shape) == (4, asked.get("slots", 12))
        assert all(set(row) == set(range(8)) for row in rows.tolist())
        for layer in range(4):
            for expert in range(8):
                held = made.logical_to_all_physical(layer, expert)
                assert held == (rows[layer] == expert).nonzero().flatten().tolist()
                assert made.logical_to_all_physical_map_num_valid[layer, expert] == len(held)
        assert (made.logical_to_rank_dispatch_physical_map is not None) == ("ep_dispatch_algorithm" in asked)


class TestStarting:
    """From a placement in a file."""

    @pytest.mark.parametrize("inline", [False, True])
    def test_sglang_starts_from_the_file_we_write(self, placement, tmp_path, inline):
        path = tmp_path / "placement.json"
        placement.write(path, "sglang", layer_ids=tiny.MOE, hidden_layers=tiny.LAYERS)
        with tiny.serving(init_expert_location=path.read_text() if inline else str(path)):
            made = compute_initial_expert_location_metadata(tiny.CONFIG, moe_ep_rank=0)
        assert made.physical_to_logical_map[tiny.DENSE :].tolist() == PLACED
        assert made.logical_to_all_physical(1, 0) == [0, 4]
        held = placement.slots_of_expert
        padded = np.full((3, 8, 12), -1)
        padded[:, :, : held.shape[2]] = held
        assert np.array_equal(made.logical_to_all_physical_map[tiny.DENSE :].numpy(), padded)

    def test_sglangs_own_map_with_copies_on_one_rank_reads_back(self, placement, tmp_path):
        path = tmp_path / "made.json"
        with tiny.serving():
            made = STOCK["rebalance_experts"](tiny.counts(), 12, 6, None, 1, eplb_algorithms.EplbAlgorithm.deepseek)[0]
        path.write_text(json.dumps({"physical_to_logical_map": made.tolist()}))
        read = equipoise.Placement.read(path, num_ranks=2, layer_ids=tiny.MOE)
        assert read.expert_of_slot.tolist() == made[tiny.DENSE :].tolist()

    def test_other_keys_beside_the_map_stop_sglang(self, tmp_path):
        """engines.md, 3.4, a reading: they are passed on as keyword arguments."""
        path = tmp_path / "extra.json"
        path.write_text(json.dumps({"physical_to_logical_map": HIDDEN, "model": "tiny"}))
        with (
            tiny.serving(init_expert_location=str(path)),
            pytest.raises(TypeError, match="unexpected keyword argument 'model'"),
        ):
            compute_initial_expert_location_metadata(tiny.CONFIG, moe_ep_rank=0)

    @pytest.mark.usefixtures("alone")
    def test_an_imported_map_keeps_the_nearest_replica_only_and_a_made_one_keeps_all(self):
        """engines.md, 3.4, a reading: with an all-to-all backend."""
        with tiny.serving(moe_a2a_backend="deepep"):
            imported = [tiny.location(HIDDEN, rank).logical_to_all_physical(2, 0) for rank in (0, 1)]
            made = ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, tiny.counts())
        assert imported == [[0], [8]]
        assert (made.logical_to_all_physical_map_num_valid.sum(dim=1) == 12).all()
        with tiny.serving(moe_a2a_backend="none"):
            assert tiny.location(HIDDEN, 0).logical_to_all_physical(2, 0) == [0, 8]


class TestRebalancing:
    """Plans, and real weights moved between processes."""

    @pytest.mark.usefixtures("alone")
    @pytest.mark.parametrize("dead", [0, 1, 3])
    def test_with_a_dead_rank_the_others_hold_every_expert(self, dead):
        active = torch.ones(4, dtype=torch.int32)
        active[dead] = 0
        ElasticEPStateManager._instance = SimpleNamespace(active_ranks=active)
        try:
            with tiny.serving(num_ranks=4, slots=16, eplb_algorithm="elasticity_aware"):
                found = ExpertLocationMetadata.init_by_eplb(tiny.CONFIG, tiny.counts())
        finally:
            ElasticEPStateManager._instance = None
        rows = found.physical_to_logical_map.reshape(4, 4, 4)
        assert (rows[:, dead] == 0).all()
        alive = [rank for rank in range(4) if rank != dead]
        assert all(set(layer) == set(range(8)) for layer in rows[:, alive].flatten(1).tolist())
        slots = found.logical_to_all_physical_map
        assert not ((slots >= 4 * dead) & (slots < 4 * dead + 4)).any()

    @pytest.mark.parametrize(("num_ranks", "nodes", "slots"), [(4, 1, 16), (4, 2, 16), (2, 1, 12), (2, 1, 8)])
    def test_every_slot_holds_the_expert_that_the_plan_says_after_sglang_moved_real_weights(
        self, monkeypatch, num_ranks, nodes, slots
    ):
        monkeypatch.setenv("SGLANG_EXPERT_LOCATION_UPDATER_CANARY", "1")
        maps = as_ranks(num_ranks, moved, nodes, slots)
        assert all(one == maps[0] for one in maps)
        assert maps[0][0] != maps[0][1]

    @pytest.mark.parametrize("layers_per_chunk", [None, 1])
    def test_sglangs_manager_records_plans_and_moves_with_ours(self, layers_per_chunk):
        maps = as_ranks(2, managed, layers_per_chunk)
        assert maps[0] == maps[1]
        assert len({str(one) for one in maps[0]}) > 2


class TestRecording:
    """What SGLang counts."""

    def test_the_utilization_threshold_does_nothing_while_no_report_is_on(self):
        """engines.md, 3.2, a reading: the average is None then, and None means to rebalance."""
        with tiny.serving(
            expert_distribution_recorder_mode="stat",
            expert_distribution_recorder_buffer_size=2,
            eplb_min_rebalancing_utilization_threshold=0.5,
        ):
            recorder = expert_distribution.ExpertDistributionRecorder.init_new(tiny.location(HIDDEN), 0)
            assert get_exec().moe.eplb_min_rebalancing_utilization_threshold == 0.5
            average = recorder._accumulator._get_global_average_utilization_rate()
            assert average is None
            assert EPLBManager._check_rebalance_needed(None, average)

    def test_the_recorder_empties_its_ring_without_going_back_to_its_start(self):
        """So after a dump the first row is not the first pass: order in time is known only while a ring has not been reset."""
        with tiny.serving(expert_distribution_recorder_mode="stat", expert_distribution_recorder_buffer_size=4):
            ring = expert_distribution.ExpertDistributionRecorder.init_new(tiny.location(HIDDEN), 0)._accumulator
            for step in range(3):
                ring.append(step, "primary", {"global_physical_count": torch.full((4, 12), step + 1)}, {})
            ring.reset()
            ring.append(9, "primary", {"global_physical_count": torch.full((4, 12), 9)}, {})
            assert ring._global_physical_count_of_buffered_step.get_all()[:, 0, 0].tolist() == [0, 0, 0, 9]

    @pytest.mark.parametrize("mode", ["per_pass", "per_token"])
    def test_sglangs_reader_and_ours_find_the_same_counts(self, mode):
        folder = Path(__file__).parents[2] / "fixtures" / "engines" / "sglang" / mode
        read = reader.read_mode_per_pass(folder)
        slots = read["global_physical_count_of_forward_pass"]
        theirs = reader.convert_global_physical_count_to_logical_count(slots, 4, 8, read["last_physical_to_logical_map"])
        ours_found = equipoise.LoadTrace.read(folder)
        assert theirs[:, tiny.DENSE :].tolist() == ours_found.load.tolist()
        assert read["forward_pass_ids"] == list(range(6))
        assert not theirs[:, : tiny.DENSE].any()

    def test_our_recorder_writes_what_sglang_hands_us(self, tmp_path):
        path = tmp_path / "record.jsonl"
        as_ranks(2, recorded, str(path))
        found = equipoise.LoadTrace.read(path)
        expected = torch.stack([tiny.counts(seed=seed).sum(dim=0) for seed in (1, 2)])[:, tiny.DENSE :]
        assert found.load[:, -3:].tolist() == expected.tolist()

    def test_sglang_balancedness_is_what_metrics_say(self):
        """Its formula, on a load and a placement: the mean over layers of mean rank load over largest."""
        counts = torch.tensor([[[6, 2, 1, 3], [4, 4, 2, 2]]])
        rate = expert_distribution.compute_utilization_rate(expert_distribution.compute_gpu_physical_count(counts, num_gpu=2))
        assert rate.flatten().tolist() == pytest.approx([6 / 8, 6 / 8], rel=1e-5)
