"""The engines' formulas, against numbers worked out by hand and against a slow twin that follows each engine's own steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise import Cluster, LoadTrace, Placement
from equipoise.engines.formulas import equipoise, formulas, rank_loads, sglang, tensorrt_llm, vllm, vllm_ascend, vllm_rocm
from equipoise.errors import ArgumentError

# Two steps, two layers, two ranks. By hand, largest and mean of each:
#   step 0: layer 0 (30, 10): 30, 20;  layer 1 (5, 5): 5, 5
#   step 1: layer 0 (0, 0): none;      layer 1 (2, 8): 8, 5
BY_HAND = [[[30, 10], [5, 5]], [[0, 0], [2, 8]]]


def test_by_hand():
    """Each formula on the same four layers and steps."""
    assert vllm(BY_HAND) == pytest.approx(((20 + 5) / (30 + 5) + 5 / 8) / 2)
    assert vllm_rocm(BY_HAND) == pytest.approx((30 + 5 + 2) / ((37 + 23) / 2))
    assert sglang(BY_HAND) == pytest.approx(((20 / 30 + 1) / 2 + (1 + 5 / 8) / 2) / 2, abs=1e-5)
    assert sglang(BY_HAND, window=1) == pytest.approx((1 + 5 / 8) / 2, abs=1e-5)
    assert sglang(BY_HAND, num_dense_layers=3) == pytest.approx(((20 / 30 + 4) / 5 + (4 + 5 / 8) / 5) / 2, abs=1e-5)
    assert tensorrt_llm(BY_HAND) == pytest.approx(((30 / 20 - 1) + ((5 / 5 - 1) + (8 / 5 - 1)) / 2) / 2)
    assert vllm_ascend(BY_HAND) == pytest.approx((30 / 20 + 13 / 10) / 2)
    assert vllm_ascend(BY_HAND, largest=True) == pytest.approx(30 / 20)
    assert equipoise(BY_HAND) == pytest.approx((20 + 10) / (30 + 13))


def test_a_ratio_of_sums_hides_a_light_layer():
    """The same ranks, read by each engine: one bad layer with a hundredth of the load."""
    load = [[[100, 100], [2, 0]]]
    assert vllm(load) > 0.99
    assert sglang(load) == pytest.approx(0.75, abs=1e-5)
    assert tensorrt_llm(load) == pytest.approx(0.5)
    assert vllm_ascend(load, largest=True) == 2.0


def _slowly(load):
    """Return all formulas with loops, as each engine takes its own steps."""
    steps, layers = range(len(load)), range(len(load[0]))
    ranks = len(load[0][0])
    mean = [[sum(load[t][x]) / ranks for x in layers] for t in steps]
    most = [[max(load[t][x]) for x in layers] for t in steps]
    total = [[sum(load[t][x][r] for t in steps) for r in range(ranks)] for x in layers]
    over = [sum(total[x][r] for x in layers) for r in range(ranks)]
    per_step = [sum(mean[t]) / sum(most[t]) if sum(most[t]) else 0.0 for t in steps]
    utilised = [sum((mean[t][x] + 1e-5) / (most[t][x] + 1e-5) for x in layers) / len(layers) for t in steps]
    ratios = [[most[t][x] / mean[t][x] - 1 for t in steps if mean[t][x]] for x in layers]
    ratios = [sum(row) / len(row) for row in ratios if row]
    hot = [max(row) / (sum(row) / ranks) for row in total if sum(row)]
    largest = sum(max(row) for row in total)
    return {
        "equipoise": sum(sum(row) / ranks for row in total) / largest if largest else 1.0,
        "vllm": sum(per_step) / len(per_step),
        "vllm-rocm": max(over) / (sum(over) / ranks) if sum(over) else 1.0,
        "sglang": sum(utilised) / len(utilised),
        **{f"sglang-{n}": sum(utilised[-n:]) / len(utilised[-n:]) for n in (10, 100, 1000)},
        "tensorrt-llm": sum(ratios) / len(ratios) if ratios else 0.0,
        "vllm-ascend": sum(hot) / len(hot) if hot else 1.0,
        "vllm-ascend-max": max(hot, default=1.0),
    }


@given(
    st.tuples(st.integers(1, 13), st.integers(1, 4), st.integers(1, 5)).flatmap(
        lambda shape: arrays(np.int64, shape, elements=st.integers(0, 40) | st.just(0))
    )
)
def test_against_the_slow_twin(load):
    """Every formula, zero layers and steps among the loads."""
    slow = _slowly(load.tolist())
    assert set(slow) == set(formulas())
    for name, formula in formulas().items():
        assert formula.compute(load) == pytest.approx(slow[name], rel=1e-12), name


@pytest.mark.parametrize("name", formulas())
def test_level_load_is_perfect(name):
    """Each formula's best value is what it gives where all ranks have the same."""
    formula = formulas(num_dense_layers=2)[name]
    assert formula.compute(np.full((3, 2, 4), 7)) == pytest.approx(formula.perfect)
    assert math.isfinite(formula.compute(np.zeros((3, 2, 4))))


def test_rank_loads_steps_add_up_to_the_placement(skewed):
    """Step by step, and added up, the placement's own rank loads; empty slots and ranks that are down take nothing."""
    steps = np.stack([skewed, skewed[:, ::-1]])
    slots = np.tile(np.concatenate([np.arange(64), [-1, 3, 3, -1]]), (6, 1))
    placed = Placement(slots, Cluster(5, [16, 16, 16, 16, 4]), 64)
    loads = rank_loads(LoadTrace(steps), placed)
    assert loads.shape == (2, 6, 5)
    assert np.allclose(loads[0], placed.rank_load(steps[0]), rtol=1e-12)
    assert np.allclose(loads.sum(axis=0), placed.rank_load(steps), rtol=1e-12)


def test_ranks_that_are_down_do_not_count():
    """A mean over ranks is over those that are up; an empty rank that is up counts."""
    placed = Placement([[0, 1, -1, -1]], Cluster(4, 1, alive=[True, True, False, True]), 2)
    assert rank_loads(LoadTrace([[[3, 5]]]), placed).tolist() == [[[3.0, 5.0, 0.0]]]
    nothing = Placement([[-1, -1]], Cluster(2, 1), 2)
    assert rank_loads(LoadTrace([[[3, 5]]]), nothing).tolist() == [[[0.0, 0.0]]]


def test_bad_arguments():
    """Of another model, or of another shape."""
    with pytest.raises(ArgumentError, match="this placement has 1 of 3"):
        rank_loads(LoadTrace([[[1, 2]]]), Placement([[0, 1, 2]], Cluster(3, 1), 3))
    with pytest.raises(ArgumentError, match="must be \\[steps, layers, ranks\\]"):
        vllm([[1, 2]])
    with pytest.raises(ArgumentError, match="window is 0"):
        sglang(BY_HAND, window=0)
    with pytest.raises(ArgumentError, match="num_dense_layers is -1"):
        sglang(BY_HAND, num_dense_layers=-1)
