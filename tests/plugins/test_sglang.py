"""SGLang's balancing call and plug-in; its own modules are run in tests/engines, stand-ins here."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, Placement, plan
from equipoise.errors import ArgumentError
from equipoise.plugins import sglang
from equipoise.plugins.settings import Settings


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    """Let every test begin as a process does."""
    monkeypatch.setattr(sglang, "_answerer", None)


class Registry:
    """Keeps hooks, as SGLang's does."""

    def __init__(self) -> None:
        self._hooks: dict[str, list] = {}

    def register(self, target, hook, kind):
        self._hooks.setdefault(target, []).append((kind, hook, None))


@pytest.fixture
def engine(monkeypatch):
    """Stand in for the modules of SGLang that the plug-in imports."""

    def rebalance_experts(
        tokens_per_expert, num_physical_experts, num_local_physical_experts, num_groups, num_nodes, algorithm
    ):
        return "stock"

    modules = {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.plugins": {},
        "sglang.srt.plugins.hook_registry": {"HookRegistry": Registry(), "HookType": Enum("HookType", ["AROUND"])},
        "sglang.srt.eplb": {},
        "sglang.srt.eplb.eplb_algorithms": {"rebalance_experts": rebalance_experts},
        "sglang.srt.eplb.expert_location": {"get_global_expert_location_metadata": lambda: None},
    }
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)
    monkeypatch.setattr("equipoise.plugins.warming.warm_up", lambda settings: None)
    return SimpleNamespace(**{name.rpartition(".")[2]: sys.modules[name] for name in modules})


def balance(tokens, slots: int, each: int, groups, nodes: int, algorithm: str) -> np.ndarray:
    """Make one call, and check that its maps belong together."""
    phy2log, log2phy, count = sglang.rebalance_experts(np.asarray(tokens), slots, each, groups, nodes, algorithm)
    layers, experts = tokens.shape[1:]
    assert phy2log.shape == (layers, slots)
    assert log2phy.shape == (layers, experts, count.max())
    assert count.shape == (layers, experts)
    assert {array.dtype for array in (phy2log, log2phy, count)} == {np.dtype(np.int64)}
    check_maps(phy2log, log2phy, count)
    return phy2log


def check_maps(phy2log, log2phy, count, is_open=None) -> None:
    """Hold the maps against one another, entry by entry."""
    for x, row in enumerate(phy2log.tolist()):
        for expert in range(log2phy.shape[1]):
            slots = [s for s, held in enumerate(row) if held == expert and (is_open is None or is_open[s])]
            assert log2phy[x, expert].tolist() == slots + [-1] * (log2phy.shape[2] - len(slots))
            assert count[x, expert] == len(slots) > 0


class TestCalls:
    """What SGLang calls with."""

    def test_steps_are_added_up(self, skewed):
        tokens = np.stack([skewed, skewed[:, ::-1], skewed])
        found = balance(tokens, 80, 10, None, 1, "deepseek")
        assert (found == plan(tokens.sum(axis=0), Cluster(8, 10)).placement.expert_of_slot).all()

    @pytest.mark.parametrize("algorithm", sglang.ALGORITHMS)
    def test_every_algorithm(self, skewed, algorithm):
        found = balance(skewed[np.newaxis], 80, 10, 8, 4, algorithm)
        strict = algorithm.endswith("hierarchical")
        wanted = {"num_groups": 8, "locality": "strict"} if strict else {}
        assert (found == plan(skewed, Cluster(8, 10, 4), **wanted).placement.expert_of_slot).all()

    def test_dense_layers_get_fixed_rows(self, skewed):
        tokens = (skewed * np.array([[0], [0], [1], [1], [1], [1]]))[np.newaxis]
        found = balance(tokens, 80, 10, None, 1, "deepseek")
        assert (found[:2] == np.arange(80) % 64).all()

    def test_nothing_recorded_yet(self):
        found = balance(np.zeros((4, 3, 8), np.int32), 8, 1, None, 1, "deepseek")
        assert (found == np.arange(8)).all()

    def test_one_rank(self, skewed):
        assert (np.sort(balance(skewed[np.newaxis], 64, 64, None, 1, "deepseek"), axis=1) == np.arange(64)).all()

    def test_no_step(self):
        found = balance(np.zeros((0, 2, 8), np.int32), 8, 4, None, 1, "deepseek")
        assert (found == np.arange(8)).all()

    def test_placement_in_use(self, engine, skewed):
        in_use = np.tile(np.arange(80) % 64, (6, 1))
        metadata = SimpleNamespace(physical_to_logical_map_cpu=in_use)
        engine.expert_location.get_global_expert_location_metadata = lambda: metadata
        assert (balance(skewed[np.newaxis] * 0, 80, 10, None, 1, "deepseek") == in_use).all()
        found = balance(skewed[np.newaxis], 80, 10, None, 1, "deepseek")
        fresh = plan(skewed, Cluster(8, 10)).placement
        assert (found == in_use).mean() > (fresh.expert_of_slot == in_use).mean()

    def test_ranks_that_are_down(self, monkeypatch, skewed):
        active = np.array([1, 1, 0, 1, 1, 1, 1, 1])
        manager = SimpleNamespace(instance=lambda: SimpleNamespace(active_ranks=active, has_scaled=False))
        monkeypatch.setitem(sys.modules, "sglang.srt.elastic_ep.elastic_ep", SimpleNamespace(ElasticEPStateManager=manager))
        tokens = skewed[np.newaxis]
        phy2log, log2phy, count = sglang.rebalance_experts(tokens, 80, 10, 8, 4, "elasticity_aware_hierarchical")
        is_open = np.repeat(active, 10).astype(bool)
        assert (phy2log[:, ~is_open] == 0).all()
        assert (count.sum(axis=1) == 70).all()
        check_maps(phy2log, log2phy, count, is_open)
        expected = plan(skewed, Cluster(8, 10, alive=active.tolist())).placement
        assert (phy2log[:, is_open] == expected.expert_of_slot[:, is_open]).all()
        balance(tokens, 80, 10, 8, 4, "deepseek")
        with pytest.raises(ArgumentError, match="8 ranks are known to be up or down: there are 10"):
            sglang.rebalance_experts(tokens, 80, 8, 8, 2, "elasticity_aware")

    @pytest.mark.parametrize("down", [(), (2,)])
    def test_places_for_ranks_that_may_join(self, monkeypatch, skewed, down):
        """With a maximum above the world, SGLang knows more places than ranks; those behind are down."""
        active = np.array([rank not in down for rank in range(8)] + [False] * 4)
        manager = SimpleNamespace(instance=lambda: SimpleNamespace(active_ranks=active, has_scaled=False))
        monkeypatch.setitem(sys.modules, "sglang.srt.elastic_ep.elastic_ep", SimpleNamespace(ElasticEPStateManager=manager))
        found = sglang.rebalance_experts(skewed[np.newaxis], 80, 10, None, 1, "elasticity_aware")[0]
        expected = plan(skewed, Cluster(8, 10, alive=active[:8].tolist())).placement.expert_of_slot
        assert (found == np.maximum(expected, 0)).all()
        active[9] = True
        with pytest.raises(ArgumentError, match="12 ranks are known to be up or down: there are 8"):
            sglang.rebalance_experts(skewed[np.newaxis], 80, 10, None, 1, "elasticity_aware")

    def test_lists(self, skewed):
        """As vLLM's entry takes them."""
        tokens = np.stack([skewed, skewed])
        found = sglang.rebalance_experts(tokens.tolist(), 80, 10, None, 1, "deepseek")
        assert (found[0] == balance(tokens, 80, 10, None, 1, "deepseek")).all()

    @pytest.mark.compiled
    def test_tensors(self, skewed):
        torch = pytest.importorskip("torch")
        tokens = torch.from_numpy(np.stack([skewed, skewed])).int()
        maps = sglang.rebalance_experts(tokens, 80, 10, None, 1, "deepseek")
        assert {(array.dtype, array.device.type) for array in maps} == {(torch.int64, "cpu")}
        halves = sglang.rebalance_experts(tokens.float() / 2, 80, 10, None, 1, "deepseek")
        assert (halves[0] == maps[0]).all()

    @given(st.integers(1, 3), st.integers(1, 9), st.data())
    @settings(max_examples=40)
    def test_maps(self, layers, experts, data):
        row = st.lists(st.integers(-1, experts - 1), min_size=12, max_size=12)
        slots = np.array(data.draw(st.lists(row, min_size=layers, max_size=layers)))
        phy2log, log2phy, count = sglang._maps(slots, experts)
        assert (phy2log == np.maximum(slots, 0)).all()
        for x, held in enumerate(slots.tolist()):
            for expert in range(experts):
                places = [s for s, one in enumerate(held) if one == expert]
                assert count[x, expert] == len(places)
                assert log2phy[x, expert].tolist() == places + [-1] * (log2phy.shape[2] - len(places))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"num_local_physical_experts": 9}, "80 physical experts, 9 a rank"),
            ({"num_local_physical_experts": 0}, "num_local_physical_experts is 0"),
            ({"algorithm": "magic"}, "algorithm is 'magic'"),
            ({"tokens_per_expert": np.ones((6, 64))}, r"it must be \[steps, layers, experts\]"),
            ({"tokens_per_expert": 3}, r"shape \[\]: it must be \[steps, layers, experts\]"),
            ({"tokens_per_expert": [[[1, 2], [3]]]}, "tokens_per_expert is ragged"),
            ({"num_groups": None, "algorithm": "deepseek_hierarchical", "num_nodes": 4}, "num_groups is None"),
            ({"num_physical_experts": 60, "num_local_physical_experts": 6}, "every expert needs a slot"),
        ],
    )
    def test_bad_arguments(self, skewed, changes, words):
        """Refused without an engine, left to the stock function with one."""
        values = (skewed[np.newaxis], 80, 10, None, 1, "deepseek")
        asked = dict(zip(sglang.PARAMETERS, values, strict=True)) | changes
        with pytest.raises(ArgumentError, match=words):
            sglang.rebalance_experts(**asked)
        assert sglang.hook(lambda **given: sorted(given), **asked) == sorted(sglang.PARAMETERS)


class TestForecasts:
    """Steps in the order of time."""

    ASKED = Settings(mode="one_rank", forecast="last", forecast_windows=2)

    @pytest.fixture
    def ring(self, monkeypatch):
        ring = SimpleNamespace(_curr_index=0, _buffer=np.zeros(6))
        recorder = SimpleNamespace(_accumulator=SimpleNamespace(_global_physical_count_of_buffered_step=ring))
        module = SimpleNamespace(get_global_expert_distribution_recorder=lambda: recorder)
        monkeypatch.setitem(sys.modules, "sglang.srt.eplb.expert_distribution", module)
        return ring

    def test_a_full_ring(self, ring):
        ring._curr_index = 2
        steps = np.array([5, 6, 1, 2, 3, 4]).reshape(6, 1, 1)
        assert sglang._windows(steps, self.ASKED).ravel().tolist() == [1 + 2 + 3, 4 + 5 + 6]

    def test_a_ring_that_is_not_full(self, ring):
        """After it was emptied at index 4, four steps were written."""
        ring._curr_index = 2
        steps = np.array([3, 4, 0, 0, 1, 2]).reshape(6, 1, 1)
        assert sglang._windows(steps, self.ASKED).ravel().tolist() == [3, 7]

    def test_no_steps_enough(self, ring):
        assert sglang._windows(np.zeros((6, 1, 1)), self.ASKED) is None
        ring._curr_index = 1
        assert sglang._windows(np.array([1, 0, 0, 0, 0, 0]).reshape(6, 1, 1), self.ASKED) is None

    def test_order_not_known(self, ring):
        steps = np.ones((6, 1, 1))
        assert sglang._windows(steps[:5], self.ASKED) is None
        ring._curr_index = None
        assert sglang._windows(steps, self.ASKED) is None
        assert sglang._windows(steps, Settings()) is None

    def test_without_a_recorder(self):
        assert sglang._windows(np.ones((6, 1, 1)), self.ASKED) is None

    def test_answers_follow_them(self, ring, monkeypatch, skewed):
        monkeypatch.setattr(sglang, "_answerer", sglang._make_answerer(self.ASKED))
        ring._curr_index = 3
        tokens = np.stack([skewed[:, ::-1]] * 3 + [skewed] * 3)
        found = sglang.rebalance_experts(tokens, 64, 64, None, 1, "deepseek")[0]
        assert found.shape == (6, 64)


class TestRegister:
    """The plug-in."""

    def test_off(self, engine, monkeypatch):
        monkeypatch.delenv("EQUIPOISE_PLUGIN", raising=False)
        sglang.register()
        assert engine.hook_registry.HookRegistry._hooks == {}

    def test_on(self, engine, monkeypatch, caplog, skewed):
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        with caplog.at_level(logging.INFO, "sglang.equipoise"):
            sglang.register()
            sglang.register()
        ((kind, hook, _),) = engine.hook_registry.HookRegistry._hooks[sglang.TARGET]
        assert (kind.name, hook) == ("AROUND", sglang.hook)
        assert caplog.text.count("equipoise: answers") == 1
        stock = engine.eplb_algorithms.rebalance_experts
        assert hook(stock, skewed[np.newaxis], 80, 10, None, 1, algorithm="deepseek")[0].shape == (6, 80)
        assert hook(stock, skewed[np.newaxis], 80, 9, None, 1, algorithm="deepseek") == "stock"

    def test_wrong_settings(self, engine, monkeypatch, caplog):
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        monkeypatch.setenv("EQUIPOISE_MODE", "two_ranks")
        sglang.register()
        assert engine.hook_registry.HookRegistry._hooks == {}
        assert "not installed" in caplog.text

    def test_another_signature(self, engine, monkeypatch, caplog):
        monkeypatch.setenv("EQUIPOISE_PLUGIN", "1")
        engine.eplb_algorithms.rebalance_experts = lambda context: None
        sglang.register()
        assert engine.hook_registry.HookRegistry._hooks == {}
        assert "algorithms take context" in caplog.text


def test_after_scaling_the_engine_broadcasts(monkeypatch):
    """Only the first rank is asked then, so it must not wait for others."""
    from equipoise.plugins.agreeing import Group

    state = SimpleNamespace(has_scaled=False, active_ranks=np.ones(6))
    manager = SimpleNamespace(instance=lambda: state)
    monkeypatch.setitem(sys.modules, "sglang.srt.elastic_ep.elastic_ep", SimpleNamespace(ElasticEPStateManager=manager))
    group = Group(None, 0, 4, "all", 1.0)
    monkeypatch.setattr("equipoise.plugins.agreeing.world", lambda seconds: group)
    assert sglang._find_group(1.0) is group
    state.has_scaled = True
    assert sglang._find_group(1.0).size == 1


def test_groups_of_ranks_that_are_up(monkeypatch):
    """Ranks that are down are no part of it; without rank 0, whose store ranks share, there is none."""
    from equipoise.plugins.agreeing import Group

    state = SimpleNamespace(has_scaled=False, active_ranks=np.array([1, 0, 1, 1, 0, 0]))
    manager = SimpleNamespace(instance=lambda: state)
    monkeypatch.setitem(sys.modules, "sglang.srt.elastic_ep.elastic_ep", SimpleNamespace(ElasticEPStateManager=manager))
    group = Group(None, 2, 4, "all", 1.0)
    monkeypatch.setattr("equipoise.plugins.agreeing.world", lambda seconds, ranks=None: group if ranks is None else ranks)
    assert sglang._find_group(1.0) == [0, 2, 3]
    state.active_ranks[1] = 1
    assert sglang._find_group(1.0) is group
    state.active_ranks[0] = 0
    assert sglang._find_group(1.0) is None


def test_answers_are_strict(skewed):
    """No expert lies twice on a rank."""
    found = balance(skewed[np.newaxis], 128, 16, None, 1, "deepseek")
    Placement(found, Cluster(8, 16), 64).validate()
