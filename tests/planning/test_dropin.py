"""rebalance_experts: DeepSeek's call, held against a slow twin of the published algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise import Cluster, Placement, rebalance_experts
from equipoise.errors import ArgumentError
from equipoise.planning import dropin
from strategies import loads

SLACK = 1 + 1e-12


@st.composite
def calls(draw):
    """Draw (weight, num_replicas, num_groups, num_nodes, num_gpus) that the call takes."""
    nodes = draw(st.sampled_from([1, 2, 4]))
    gpus = nodes * draw(st.sampled_from([1, 2, 3]))
    groups = draw(st.sampled_from([1, 2, 4, 8]))
    experts = groups * draw(st.integers(1, 3)) * (nodes if groups % nodes else 1)
    most = experts // nodes if groups % nodes == 0 else experts
    per_gpu = draw(st.integers(min(most, -(-experts // gpus)), most))
    weight = draw(st.lists(st.lists(loads, min_size=experts, max_size=experts), min_size=1, max_size=3))
    return weight, per_gpu * gpus, groups, nodes, gpus


def _rank_loads(phy2log, weight, gpus):
    placement = Placement(phy2log, Cluster(gpus, phy2log.shape[1] // gpus), len(weight[0]))
    placement.validate()
    return placement.rank_load(weight)


@given(calls())
def test_no_layer_is_worse_than_the_published_policy_without_duplicates(call):
    """On every layer the heaviest rank is at most as heavy as the twin's, and the placement is strict."""
    weight, replicas, groups, nodes, gpus = call
    phy2log, _, _ = rebalance_experts(np.array(weight), replicas, groups, nodes, gpus)
    largest = _rank_loads(phy2log, weight, gpus).max(axis=1)
    for layer, load in enumerate(weight):
        assert largest[layer] <= max(twins.published_policy(load, replicas, groups, nodes, gpus, keep_apart=True)) * SLACK


@given(calls())
def test_maps_agree(call):
    """The three maps describe one placement, in DeepSeek's shapes, dtype and padding."""
    weight, replicas, groups, nodes, gpus = call
    phy2log, log2phy, logcnt = rebalance_experts(np.array(weight), replicas, groups, nodes, gpus)
    layers, experts = np.shape(weight)
    assert phy2log.shape == (layers, replicas)
    assert logcnt.shape == (layers, experts)
    assert log2phy.shape == (layers, experts, logcnt.max())
    assert phy2log.dtype == log2phy.dtype == logcnt.dtype == np.int64
    for layer in range(layers):
        for expert in range(experts):
            slots = [s for s in log2phy[layer, expert].tolist() if s != -1]
            assert log2phy[layer, expert, len(slots) :].tolist() == [-1] * (log2phy.shape[2] - len(slots))
            assert sorted(slots) == np.flatnonzero(phy2log[layer] == expert).tolist()
            assert len(slots) == logcnt[layer, expert]


@pytest.mark.parametrize(
    ("shape", "replicas", "groups", "nodes", "gpus"),
    [((24, 32), 40, 1, 1, 8), ((24, 32), 40, 8, 4, 8), ((24, 32), 36, 1, 1, 4), ((12, 64), 72, 8, 2, 8)],
)
def test_over_all_layers_better_than_the_published_policy(shape, replicas, groups, nodes, gpus):
    """Over the layers of a skewed load, better than the published policy, duplicates allowed; where those win is counted."""
    weight = (np.random.default_rng(11).random(shape) ** 3 * 10_000).astype(np.int64)
    phy2log, _, _ = rebalance_experts(weight, replicas, groups, nodes, gpus)
    ours = _rank_loads(phy2log, weight.tolist(), gpus).max(axis=1)
    published = np.array(
        [max(twins.published_policy(load, replicas, groups, nodes, gpus, keep_apart=False)) for load in weight.tolist()]
    )
    lost_to_duplicates = int((ours > published * SLACK).sum())
    assert ours.sum() <= published.sum()
    assert lost_to_duplicates <= shape[0] // 4


@pytest.mark.compiled
def test_ties_by_id_are_tried_too(monkeypatch):
    """On small integers ties abound: starting from the published tie rule too, some layers end lower, none higher."""
    weight = np.random.default_rng(6).integers(0, 9, (600, 32))
    largest = [_rank_loads(rebalance_experts(weight, 64, 1, 1, 32)[0], weight.tolist(), 32).max(axis=1)]
    monkeypatch.setattr(dropin, "_no_worse_than_published", lambda load, result: result.placement.expert_of_slot)
    largest.append(_rank_loads(rebalance_experts(weight, 64, 1, 1, 32)[0], weight.tolist(), 32).max(axis=1))
    assert (largest[0] <= largest[1] * SLACK).all()
    assert (largest[0] < largest[1] / SLACK).any()


def test_duplicates_can_win_a_layer():
    """The twin with duplicates beats every strict placement here, so the comparison above can fail."""
    load = [19, 9, 5, 3]
    duplicated = max(twins.published_policy(load, 6, 1, 1, 2, keep_apart=False))
    assert duplicated < float(twins.optimum(load, 2, 3))


def test_hierarchical_and_global_follow_the_published_rule(skewed):
    """Groups stay on nodes where nodes divide groups; else nodes and groups are ignored, even where they do not fit."""
    phy2log, _, _ = rebalance_experts(skewed, 72, 8, 4, 8)
    node_of_slot = np.arange(72) // 18
    for slots in phy2log:
        homes = {(int(g), int(n)) for g, n in zip(slots // 8, node_of_slot, strict=True)}
        assert len(homes) == 8
    spread = rebalance_experts(skewed, 72, 3, 5, 8)[0]
    assert np.array_equal(spread, rebalance_experts(skewed, 72, 1, 1, 8)[0])


def test_results_can_be_written_to(skewed):
    """Callers own what they get, as with DeepSeek's call."""
    for array in rebalance_experts(skewed, 72, 1, 1, 8):
        array[...] = 0


def test_zero_load_gives_a_valid_plan():
    """Engines call with zeros at start-up."""
    phy2log, _, logcnt = rebalance_experts(np.zeros((3, 16), np.int64), 24, 4, 2, 4)
    _rank_loads(phy2log, np.zeros((3, 16)).tolist(), 4)
    assert logcnt.max() == 2


BAD = [
    ((np.ones(8), 8, 1, 1, 4), "weight has shape [8]"),
    ((np.ones((1, 2, 8)), 8, 1, 1, 4), "weight has shape [1, 2, 8]"),
    ((np.ones((1, 8)), 10, 1, 1, 4), "10 slots on 4 ranks"),
    ((np.ones((1, 8)), 4, 1, 1, 4), "4 slots for 8 experts"),
    ((np.ones((1, 8)), 8, 3, 3, 6), "8 slots on 6 ranks"),
    ((np.ones((1, 8)), 12, 3, 3, 6), "3 groups of 8 experts"),
    ((np.ones((1, 8)), 8, 4, 4, 2), "2 ranks on 4 nodes"),
    ((np.ones((1, 8)), 40, 1, 1, 4), "10 slots per rank for 8 experts"),
    ((np.ones((1, 8)), 8, 1, 1, 0), "number of ranks is 0"),
    ((np.ones((1, 8)), 8, 1, 0, 4), "num_nodes is 0"),
    ((np.ones((1, 8)), 8, 0, 1, 4), "num_groups is 0"),
    ((np.ones((1, 8)), 8.0, 1, 1, 4), "number of slots is 8.0"),
    ((np.ones((1, 8)), 0, 1, 1, 4), "number of slots is 0"),
]


@pytest.mark.parametrize(("call", "found"), BAD)
def test_bad_calls(call, found):
    """Where the published code asserts, ours says what was found and what would be legal."""
    with pytest.raises(ArgumentError) as error:
        rebalance_experts(*call)
    assert str(error.value).startswith(found)


def test_bad_replicas_name_the_nearest_legal_numbers():
    """10 replicas on 4 GPUs: 8 or 12."""
    with pytest.raises(ArgumentError, match="take 8 or 12 for 8 experts"):
        rebalance_experts(np.ones((1, 8)), 10, 1, 1, 4)
