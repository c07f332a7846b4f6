"""vLLM's policy call and plug-in; its own modules are run in tests/engines, stand-ins here."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from equipoise import Cluster, Placement
from equipoise.errors import ArgumentError
from equipoise.plugins import vllm
from equipoise.plugins.settings import Settings


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    """Let every test begin as a process does."""
    for name, value in (("stock", None), ("answerer", None), ("history", None)):
        monkeypatch.setattr(vllm.Policy, name, value)


@pytest.fixture
def engine(monkeypatch):
    """Stand in for the modules of vLLM that the plug-in imports."""

    class AbstractEplbPolicy(ABC):
        @classmethod
        @abstractmethod
        def rebalance_experts(cls, weight): ...

    class DefaultEplbPolicy(AbstractEplbPolicy):
        @classmethod
        def rebalance_experts(cls, weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None):
            return "stock"

    policy = ModuleType("vllm.distributed.eplb.policy")
    policy.AbstractEplbPolicy, policy.EPLB_POLICIES = AbstractEplbPolicy, {"default": DefaultEplbPolicy}
    for name in ("vllm", "vllm.distributed", "vllm.distributed.eplb"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: False)
    sys.modules["vllm"].platforms = platforms
    for module in (policy, platforms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("equipoise.plugins.warming.warm_up", lambda settings: None)
    return policy


def balance(load, slots: int, groups: int, nodes: int, ranks: int, in_use=None) -> np.ndarray:
    """Make one call, and check that its answer can serve."""
    found = vllm.Policy.rebalance_experts(np.asarray(load), slots, groups, nodes, ranks, in_use)
    assert (found.dtype, found.shape) == (np.int64, (len(load), slots))
    Placement(found, Cluster(ranks, slots // ranks), np.asarray(load).shape[1]).validate()
    return found


class TestCalls:
    """What vLLM calls with."""

    def test_start_up(self, skewed):
        """All loads are zero while memory is profiled: nothing is to move."""
        in_use = np.tile(np.arange(80) % 64, (6, 1))
        assert (balance(skewed * 0, 80, 1, 1, 8, in_use) == in_use).all()

    def test_experts_that_stay_keep_their_slots(self, skewed):
        in_use = np.tile(np.arange(80) % 64, (6, 1))
        found = balance(skewed, 80, 1, 1, 8, in_use)
        for new, old in zip(found.reshape(48, 10), in_use.reshape(48, 10), strict=True):
            for slot, expert in enumerate(old):
                assert expert not in new or new[slot] == expert

    def test_scaling_up_and_down(self, skewed):
        up = np.pad(np.tile(np.arange(64), (6, 1)), ((0, 0), (0, 16)), constant_values=-1)
        found = balance(skewed, 80, 1, 1, 10, up)
        assert found.min() == 0
        assert (balance(skewed, 64, 1, 1, 8, found) >= 0).all()

    def test_one_rank(self, skewed):
        assert (np.sort(balance(skewed, 64, 1, 1, 1), axis=1) == np.arange(64)).all()

    def test_no_redundancy(self, skewed):
        found = balance(skewed, 64, 8, 4, 8, np.tile(np.arange(64), (6, 1)))
        assert (np.sort(found, axis=1) == np.arange(64)).all()
        assert (
            np.sort(found.reshape(6, 4, 16) // 8, axis=2)[:, :, [0, 7]]
            == np.sort(found.reshape(6, 4, 16) // 8, axis=2)[:, :, :1]
        ).all()

    def test_groups_that_nodes_do_not_divide(self, skewed):
        assert (balance(skewed, 80, 1, 4, 8) == balance(skewed, 80, 1, 1, 8)).all()

    @pytest.mark.compiled
    @pytest.mark.parametrize("kind", ["int64", "int32", "float32", "bfloat16"])
    def test_tensors(self, skewed, kind):
        torch = pytest.importorskip("torch")
        load = torch.from_numpy(skewed).to(getattr(torch, kind))
        found = vllm.Policy.rebalance_experts(load, 80, 1, 1, 8, torch.arange(80).remainder(64).expand(6, -1))
        assert (found.dtype, found.device.type, found.shape, found.is_contiguous()) == (torch.int64, "cpu", (6, 80), True)
        found[0, 0] = 5

    def test_bad_arguments_without_vllm(self, skewed):
        with pytest.raises(ArgumentError, match=r"79 slots on 8 ranks: slots must be divisible .*no stock policy"):
            vllm.Policy.rebalance_experts(skewed, 79, 1, 1, 8)

    def test_history(self, skewed, monkeypatch):
        """Forecasts see past calls of the same model, oldest first; calls without load are none."""
        answerer = vllm._make_answerer(Settings(mode="one_rank", forecast="last", forecast_windows=2))
        monkeypatch.setattr(vllm.Policy, "answerer", answerer)
        read = vllm.Policy._read
        assert read(skewed * 0, 64, 1, 1, 1, None).windows is None
        assert read(skewed, 64, 1, 1, 1, None).windows is None
        assert read(skewed[:1], 64, 1, 1, 1, None).windows is None
        assert (read(skewed + 1, 64, 1, 1, 1, None).windows == [skewed, skewed + 1]).all()
        assert (read(skewed + 2, 64, 1, 1, 1, None).windows == [skewed + 1, skewed + 2]).all()


class TestRegister:
    """The plug-in."""

    def test_off(self, engine, monkeypatch):
        monkeypatch.delenv("EQUIPOISE_PLUGIN", raising=False)
        stock = engine.EPLB_POLICIES["default"]
        vllm.register()
        assert engine.EPLB_POLICIES["default"] is stock

    def test_on(self, engine, monkeypatch, caplog, skewed):
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        monkeypatch.setenv("EQUIPOISE_EFFORT", "fast")
        policies, stock = engine.EPLB_POLICIES, engine.EPLB_POLICIES["default"]
        with caplog.at_level(logging.INFO, "vllm.equipoise"):
            vllm.register()
            vllm.register()
            ours = policies["default"]
            assert issubclass(ours, engine.AbstractEplbPolicy)
            assert ours.stock is stock
            ours.rebalance_experts(skewed, 80, 1, 1, 8)
            assert ours.rebalance_experts(skewed, 79, 1, 1, 8) == "stock"
            assert ours.rebalance_experts(skewed, 79, 1, 1, 8) == "stock"
        assert caplog.text.count('policy "default" is replaced') == 1
        assert caplog.text.count("the stock policy answers: 79 slots on 8 ranks") == 1
        assert "effort='fast'" in caplog.text
        assert "balancedness - -> 0." in caplog.text

    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [("EQUIPOISE_EFFORT", "huge", "effort is 'huge'"), ("EQUIPOISE_PLUGIN", "maybe", "EQUIPOISE_PLUGIN is 'maybe'")],
    )
    def test_wrong_settings(self, engine, monkeypatch, caplog, variable, value, words):
        stock = engine.EPLB_POLICIES["default"]
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        monkeypatch.setenv(variable, value)
        vllm.register()
        assert engine.EPLB_POLICIES["default"] is stock
        assert "not installed, vLLM keeps its own policy" in caplog.text
        assert words in caplog.text

    def test_a_fault_while_compiling(self, engine, monkeypatch, caplog):
        def fail(settings):
            raise RuntimeError("cannot cache function")

        monkeypatch.setattr("equipoise.plugins.warming.warm_up", fail)
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        stock = engine.EPLB_POLICIES["default"]
        vllm.register()
        assert engine.EPLB_POLICIES["default"] is stock
        assert "cannot cache function" in caplog.text

    def test_on_a_cpu(self, engine, monkeypatch, caplog):
        """Where vLLM balances nothing, it is left alone, and says so."""
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        monkeypatch.setattr(sys.modules["vllm.platforms"].current_platform, "is_cpu", lambda: True)
        stock = engine.EPLB_POLICIES["default"]
        with caplog.at_level(logging.INFO, "vllm.equipoise"):
            vllm.register()
        assert engine.EPLB_POLICIES["default"] is stock
        assert "balances no experts on CPUs" in caplog.text

    def test_another_signature(self, engine, monkeypatch, caplog):
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        engine.EPLB_POLICIES["default"] = stock = type("Other", (), {"rebalance_experts": staticmethod(lambda context: None)})
        vllm.register()
        assert engine.EPLB_POLICIES["default"] is stock
        assert "this vLLM's policy takes context" in caplog.text

    def test_without_vllm(self, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, "vllm", None)
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        vllm.register()
        assert "not installed" in caplog.text


class TestGroups:
    """Which ranks answer a call together."""

    def test_elastic_expert_parallelism_has_none(self, monkeypatch):
        class StatelessGroupCoordinator:
            ranks = (0, 1)

        module = SimpleNamespace(_EP=StatelessGroupCoordinator())
        monkeypatch.setitem(sys.modules, "vllm.distributed.parallel_state", module)
        monkeypatch.setattr("equipoise.plugins.agreeing.world", lambda *_: pytest.fail("asked"))
        assert vllm._find_group(1.0) is None

    def test_the_expert_parallel_group(self, monkeypatch):
        module = SimpleNamespace(_EP=SimpleNamespace(ranks=[4, 5]))
        monkeypatch.setitem(sys.modules, "vllm.distributed.parallel_state", module)
        monkeypatch.setattr("equipoise.plugins.agreeing.world", lambda seconds, ranks=None: (seconds, ranks))
        assert vllm._find_group(1.0) == (1.0, [4, 5])
        module._EP = None
        assert vllm._find_group(1.0) == (1.0, None)
