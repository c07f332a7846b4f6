"""vLLM's own callers take our policy's answers."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stand_ins import as_ranks

sys.path.append(str(Path(__file__).parent))
import tiny
import vllm.plugins
from vllm.distributed import parallel_state
from vllm.distributed.eplb import async_worker, eplb_state, rebalance_execute
from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy, DefaultEplbPolicy
from vllm.distributed.stateless_coordinator import StatelessGroupCoordinator

import equipoise
from equipoise.plugins import vllm as ours


@pytest.fixture(autouse=True)
def registered():
    """Ours in place of vLLM's, and vLLM's back afterwards."""
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    ours.register()
    yield
    EPLB_POLICIES["default"] = DefaultEplbPolicy


def rearranged(rank, num_ranks, layers, experts, redundant, nodes, groups, load):
    """Start up, then rearrange for each seed's load (None: no load), checking weights each time."""
    tiny.groups(rank, num_ranks, nodes)
    model = tiny.Model(rank, num_ranks, layers, experts, redundant, groups)
    state = tiny.state(model)
    before = state.model_states["tiny"].physical_to_logical_map.clone()
    state.rearrange(is_profile=True)
    assert torch.equal(state.model_states["tiny"].physical_to_logical_map, before)
    maps = []
    for seed in load:
        tiny.record(state, tiny.skewed(layers, experts, seed) if seed is not None else torch.zeros(layers, experts).long())
        state.rearrange()
        assert tiny.misplaced(state, rank) == []
        maps.append(state.model_states["tiny"].physical_to_logical_map.tolist())
    assert state.policy is EPLB_POLICIES["default"]
    return maps


def stepped(rank, num_ranks, batching):
    """Serve as vLLM does in async mode: its worker's loop in a thread, its ``step`` in this one."""
    for module in (async_worker, rebalance_execute):
        module.device_stream = lambda stream: nullcontext()
    tiny.groups(rank, num_ranks)
    model = tiny.Model(rank, num_ranks, 3, 8, 4)
    state = tiny.state(model, use_async=True, batching=batching)
    state.rearrange(is_profile=True)
    for held in state.model_states.values():
        held.communicator.set_stream = lambda stream: None
    threading.Thread(
        target=async_worker.transfer_run_periodically,
        args=(state, SimpleNamespace(synchronize=lambda: None)),
        daemon=True,
    ).start()
    maps = []
    for step in range(400):
        state.model_states["tiny"].expert_load_pass[:] = torch.gather(
            tiny.skewed(3, 8, 1 + len(maps)) // 3, 1, state.model_states["tiny"].physical_to_logical_map
        ).int()
        was = state.model_states["tiny"].rebalanced
        state.step(is_dummy=step % 7 == 0)
        assert tiny.misplaced(state, rank) == [], step
        if was and not state.model_states["tiny"].rebalanced:
            maps.append(state.model_states["tiny"].physical_to_logical_map.tolist())
        if len(maps) == 2:
            return maps
        threading.Event().wait(0.01)
    raise AssertionError(f"only {len(maps)} rearrangements in 400 steps")


def started(rank, num_ranks):
    """Return the step that vLLM begins with, its interval, and the map of a layer."""
    tiny.groups(rank, num_ranks)
    state = tiny.state(tiny.Model(rank, num_ranks, 2, 8, 4))
    rows = state.model_states["tiny"].physical_to_logical_map
    return state.expert_rearrangement_step, state.expert_rearrangement_step_interval, rows[1].tolist()


def with_an_instance(rank, num_ranks):
    """Rearrange with a policy that is no class."""
    EPLB_POLICIES["default"] = SimpleNamespace(rebalance_experts=DefaultEplbPolicy.rebalance_experts)
    tiny.groups(rank, num_ranks)
    state = tiny.state(tiny.Model(rank, num_ranks, 2, 8, 4))
    tiny.record(state, tiny.skewed(2, 8, 1))
    state.rearrange()
    return tiny.misplaced(state, rank) == []


def scaled_down(rank, num_ranks, remaining):
    """Elastic EP: plan for the ranks that stay, move while all are there; the old map is wider than the new one."""
    tiny.groups(rank, num_ranks)
    model = tiny.Model(rank, num_ranks, 2, 8, 8)
    state = tiny.state(model)
    held = state.model_states["tiny"]
    tiny.record(state, tiny.skewed(2, 8, 1))
    elastic = object.__new__(StatelessGroupCoordinator)
    vars(elastic).update(vars(parallel_state._EP), tcp_store_group=parallel_state._EP.cpu_group)
    parallel_state._EP = elastic
    state.rearrange(rank_mapping={old: old if old < remaining else -1 for old in range(num_ranks)})
    slots = model.num_local_physical_experts * remaining
    assert held.physical_to_logical_map.shape == (2, slots)
    if rank < remaining:
        assert tiny.misplaced(state, rank) == []
    return held.physical_to_logical_map.tolist()


def scaled_up(rank, num_ranks, old_ranks):
    """Elastic EP: new ranks' slots hold -1 in the old map."""
    tiny.groups(rank, num_ranks)
    model = tiny.Model(rank, num_ranks, 2, 8, 4 * num_ranks - 8)
    state = tiny.state(model)
    held = state.model_states["tiny"]
    held.physical_to_logical_map[:, 4 * old_ranks :] = -1
    if rank >= old_ranks:
        for weights in model.expert_weights:
            for tensor in weights:
                tensor.fill_(-7.0)
    state.policy, seen = spying(state.policy)
    state.rearrange(use_last_expert_load=True)
    assert tiny.misplaced(state, rank) == []
    assert (seen[0][-1] == -1).any()
    return held.physical_to_logical_map.tolist()


def spying(policy):
    """Return the policy, and the list of arguments it was handed."""
    seen = []

    class Spy(policy):
        @classmethod
        def rebalance_experts(cls, *args):
            seen.append([a.clone() if torch.is_tensor(a) else a for a in args])
            return super().rebalance_experts(*args)

    return Spy, seen


def handed(rank, num_ranks):
    """Return what vLLM hands a policy at start-up and later."""
    tiny.groups(rank, num_ranks, 1)
    state = tiny.state(tiny.Model(rank, num_ranks, 2, 8, 4))
    state.policy, seen = spying(DefaultEplbPolicy)
    state.rearrange(is_profile=True)
    tiny.record(state, tiny.skewed(2, 8, 1))
    window = state.model_states["tiny"].expert_load_window.clone()
    state.rearrange()
    return (
        [[(a.dtype, tuple(a.shape)) if torch.is_tensor(a) else a for a in call] for call in seen],
        seen[0][0].sum().item(),
        (seen[1][0].sum().item() / window.sum().item()),
    )


def served(rank, num_ranks, environment):
    """Turn the plug-in on with these settings, in ranks of their own, and rearrange twice."""
    os.environ.update(environment)
    EPLB_POLICIES["default"] = DefaultEplbPolicy
    ours.Policy.answerer = None
    ours.register()
    maps = rearranged(rank, num_ranks, 2, 8, 4, 1, 1, (1, 2))
    return maps, EPLB_POLICIES["default"] is not DefaultEplbPolicy


def in_a_rearrangement(rank, num_ranks):
    """Return what a policy's fault does to a rearrangement."""
    tiny.groups(rank, num_ranks)
    state = tiny.state(tiny.Model(rank, num_ranks, 2, 8, 4))

    class Faulty(DefaultEplbPolicy):
        @classmethod
        def rebalance_experts(cls, *args):
            raise ZeroDivisionError

    state.policy = Faulty
    with pytest.raises(ZeroDivisionError):
        state.rearrange()
    return True


class TestRegistering:
    """How the policy gets in."""

    def test_register_replaces_the_value_that_vllm_looks_up(self):
        assert EPLB_POLICIES["default"] is not DefaultEplbPolicy
        assert eplb_state.EPLB_POLICIES is EPLB_POLICIES
        assert set(EPLB_POLICIES) == {"default"}
        assert issubclass(EPLB_POLICIES["default"], AbstractEplbPolicy)

    def test_twice_is_once(self):
        first = EPLB_POLICIES["default"]
        ours.register()
        assert EPLB_POLICIES["default"] is first

    def test_off_unless_turned_on(self, monkeypatch):
        EPLB_POLICIES["default"] = DefaultEplbPolicy
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "0")
        ours.register()
        assert EPLB_POLICIES["default"] is DefaultEplbPolicy

    def test_vllms_loader_finds_and_runs_the_entry_point(self):
        EPLB_POLICIES["default"] = DefaultEplbPolicy
        vllm.plugins.plugins_loaded = False
        vllm.plugins.load_general_plugins()
        assert EPLB_POLICIES["default"] is not DefaultEplbPolicy
        assert "equipoise" in vllm.plugins.load_plugins_by_group(vllm.plugins.DEFAULT_PLUGINS_GROUP)

    def test_async_mode_refuses_other_names_than_default(self):
        """So replacing "default" in place is what leaves async mode on."""
        with pytest.raises(ValueError, match="Input should be 'default'"):
            tiny.EPLBConfig(policy="equipoise")


class TestCalls:
    """What goes in and comes out."""

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_one_int64_tensor_on_the_cpu_comes_back(self, dtype):
        answer = EPLB_POLICIES["default"].rebalance_experts(tiny.skewed(3, 8).to(dtype), 12, 1, 1, 4, None)
        assert (answer.dtype, answer.device.type, tuple(answer.shape)) == (torch.int64, "cpu", (3, 12))
        phy, count = eplb_state.compute_logical_maps(answer, 8)
        assert (count > 0).all()
        assert phy.max() < 12


class TestRearranging:
    """Real weights, moved between processes."""

    @pytest.mark.parametrize(
        ("num_ranks", "layers", "experts", "redundant", "nodes", "groups"),
        [(4, 3, 8, 4, 1, 1), (4, 2, 16, 8, 2, 4), (2, 3, 8, 0, 1, 1), (1, 2, 4, 0, 1, 1), (2, 2, 6, 2, 3, 1)],
        ids=["redundant", "groups on nodes", "no redundancy", "one rank", "nodes that do not divide"],
    )
    def test_every_slot_holds_the_expert_that_the_plan_says_after_vllm_moved_real_weights(
        self, num_ranks, layers, experts, redundant, nodes, groups
    ):
        """Start-up call with zero load, three rearrangements, then one with zero load, all by vLLM's own code."""
        maps = as_ranks(num_ranks, rearranged, layers, experts, redundant, nodes, groups, (1, 2, 3, None))
        assert all(one == maps[0] for one in maps)
        assert len({str(one) for one in maps[0][:3]}) == (1 if num_ranks == 1 else 3)

    @pytest.mark.parametrize("batching", [False, True])
    def test_in_async_mode_each_layer_that_is_committed_holds_what_its_map_says(self, batching):
        """Checked after every step: layers change one at a time, under a worker of vLLM's own."""
        maps = as_ranks(2, stepped, batching)
        assert maps[0] == maps[1]
        assert maps[0][0] != maps[0][1]


class TestStarting:
    """What holds before a first load."""

    def test_the_first_rearrangement_comes_after_a_quarter_of_the_interval(self):
        assert as_ranks(1, started) == [(6, 8, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3])]

    def test_an_instance_is_as_good_as_a_class(self):
        """engines.md, 2.2, a reading: only its method is asked for."""
        assert as_ranks(1, with_an_instance) == [True]


class TestElastic:
    """Ranks that leave and come."""

    @pytest.mark.parametrize("remaining", [2, 3])
    def test_scaling_down_plans_for_the_ranks_that_stay(self, remaining):
        maps = as_ranks(4, scaled_down, remaining)
        assert all(one == maps[0] for one in maps)
        assert all(set(row) == set(range(8)) for row in maps[0])

    def test_scaling_up_fills_the_slots_that_hold_nothing(self):
        maps = as_ranks(4, scaled_up, 2)
        assert all(one == maps[0] for one in maps)
        assert all(min(row) == 0 for row in maps[0])

    def test_what_vllm_hands_a_policy(self):
        """engines.md, 2.2: zero load at start; positional; int64; counts summed over window and ranks; the physical old map."""
        (first, second), zero, ranks = as_ranks(2, handed)[0]
        assert first == second == [(torch.int64, (2, 8)), 12, 1, 1, 2, (torch.int64, (2, 12))]
        assert zero == 0
        assert ranks == 2


class TestSettings:
    """Modes of ours, inside vLLM."""

    @pytest.mark.parametrize(
        "environment",
        [
            {"EQUIPOISE_MODE": "one_rank"},
            {"EQUIPOISE_COMPARE": "plans"},
            {"EQUIPOISE_MODE": "one_rank", "EQUIPOISE_FORECAST": "mean:2"},
        ],
        ids=["one rank plans", "plans are compared", "forecast"],
    )
    def test_other_modes_inside_vllm(self, environment):
        answers = as_ranks(2, served, environment)
        assert answers[0] == answers[1]
        assert answers[0][1]

    def test_our_recorder_writes_what_vllm_hands_us(self, tmp_path):
        """A trace at last: two loads, zero at start-up apart."""
        path = tmp_path / "record.jsonl"
        as_ranks(2, served, {"EQUIPOISE_RECORD": str(path)})
        found = equipoise.LoadTrace.read(path).load
        busy = found[found.any(axis=(1, 2))]
        sent = [tiny.skewed(2, 8, seed) for seed in (1, 2)]
        assert [step.argmax(axis=1).tolist() for step in busy] == [load.argmax(dim=1).tolist() for load in sent]
        assert busy[0].tolist() == (sent[0] * 2 * tiny.STEPS).tolist()

    def test_vllm_catches_no_fault_of_a_policy_in_sync_mode(self):
        assert as_ranks(2, in_a_rearrangement) == [True, True]


class TestFaultsOfVllm:
    """Known ones, so that we see when they are gone."""

    def test_on_its_cpu_platform_vllm_stumbles_over_llvmlite(self):
        """There it looks through all modules for kernels, and llvmlite's library answers to every name (docs/engines)."""
        import llvmlite.binding  # noqa: F401 - what numba imports
        from vllm.triton_utils import dispatcher

        with pytest.raises(AttributeError, match="'_lib_fn_wrapper' object has no attribute 'get'"):
            dispatcher._rebind_kernels([])
