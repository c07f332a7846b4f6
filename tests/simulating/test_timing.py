"""What windows and moves take, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import RankCost
from equipoise.errors import ArgumentError
from equipoise.simulating.timing import TIME_MODELS, TimeModel, make_time_model

MODEL = TimeModel(RankCost(per_rank=3.0, per_token=0.5, per_active=10.0), expert_bytes=100.0, link_bandwidth=50.0)


def test_a_window_takes_its_slowest_ranks():
    """In 2 batches: 3 * 2 a layer, half a token's time, 10 * 2 an active replica, over speed; layers one after the other."""
    tokens, active = np.array([[40.0, 80.0], [10.0, 0.0]]), np.array([[2.0, 1.5], [0.5, 0.0]])
    speed = np.array([1.0, 2.0])
    # Layer 0: 20 + 40 = 60 against (40 + 30) / 2 = 35; layer 1: 5 + 10 = 15.
    assert MODEL.window_time(tokens, active, speed, 2.0) == 60 + 15 + 2 * 6
    assert TimeModel(RankCost()).window_time(tokens, active, speed, 2.0) == 40 + 10


def test_the_ideal_is_level_and_has_each_expert_once():
    """Tokens and active experts over all speed; of 2 batches, 1 token makes half of an expert active."""
    load = np.array([[100.0, 20.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert MODEL.ideal_time(load, 4.0, 2.0) == (0.5 * 121 + 10 * 2 * 2.5) / 4 + 3 * 2 * 2
    assert TimeModel(RankCost()).ideal_time(load, 4.0, 2.0) == 121 / 4


def test_no_window_is_faster_than_the_ideal():
    """Whatever the split, with each expert active as at least one replica."""
    rng = np.random.default_rng(0)
    for batches in (1.0, 7.0):
        load = rng.integers(0, 9, (3, 4)).astype(np.float64)
        active = np.minimum(load / batches, 1.0)
        assert MODEL.window_time(load, active, np.ones(4), batches) >= MODEL.ideal_time(load, 4.0, batches)


def test_moves_take_the_rank_that_receives_most_layer_by_layer():
    """3 and 2 experts of 100 bytes, at 50 bytes a second."""
    assert MODEL.stall(np.array([[1, 3], [2, 0], [0, 0]])) == 10.0
    assert TimeModel(RankCost()).stall(np.array([[1, 3]])) == 0.0


def test_models_by_name():
    """Each is called what it is found by; an object is taken as it is."""
    assert list(TIME_MODELS) == ["tokens", "prefill-h100", "decode-h100"]
    for name, model in TIME_MODELS.items():
        assert make_time_model(name) is model
        assert model.name == name
    assert make_time_model(MODEL) is MODEL
    assert MODEL.name == "own"


def test_tokens_are_time_and_moves_free():
    """The default measures balance alone."""
    tokens = np.array([[3.0, 5.0], [4.0, 1.0]])
    model = TIME_MODELS["tokens"]
    assert model.window_time(tokens, np.ones((2, 2)), np.ones(2), 3.0) == 9.0
    assert model.stall(np.array([[5, 5]])) == 0.0


def test_presets_are_those_of_the_hardware():
    """DeepSeek-V3's expert, 44 MB in FP8: 89 ns a token, 13 us to read, which 148 tokens take; 0.9 ms over the network."""
    prefill, decode = TIME_MODELS["prefill-h100"], TIME_MODELS["decode-h100"]
    assert prefill.cost.per_token == decode.cost.per_token == pytest.approx(89.0e-9, rel=1e-3)
    assert (prefill.cost.per_active, prefill.cost.per_rank) == (0.0, 0.0)
    assert decode.cost.per_active == pytest.approx(13.15e-6, rel=1e-3)
    assert decode.cost.per_active / decode.cost.per_token == pytest.approx(148, abs=0.5)
    assert prefill.stall(np.array([[1]])) == decode.stall(np.array([[1]])) == pytest.approx(0.88e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cost": 1.0}, "cost is a float: it must be a RankCost; make one with"),
        ({"expert_bytes": -1.0}, "expert_bytes is -1.0: it must be a finite number of bytes; give bytes"),
        ({"expert_bytes": np.inf}, "expert_bytes is inf"),
        ({"expert_bytes": np.nan}, "expert_bytes is nan"),
        ({"link_bandwidth": 0.0}, "link_bandwidth is 0.0"),
        ({"link_bandwidth": -5}, "link_bandwidth is -5"),
        ({"link_bandwidth": np.inf}, "link_bandwidth is inf"),
        ({"link_bandwidth": np.nan}, "link_bandwidth is nan"),
    ],
)
def test_what_does_not_fit_is_named(setting, message):
    """Value, rule, next step."""
    with pytest.raises(ArgumentError, match=f"^{message}"):
        TimeModel(**({"cost": RankCost()} | setting))


@pytest.mark.parametrize("name", ["Tokens", "", None, 3])
def test_an_unknown_model_is_named(name):
    """With those there are."""
    with pytest.raises(ArgumentError, match=f"time model is {name!r}: it must be one of tokens, prefill-h100, decode-h100; "):
        make_time_model(name)


@pytest.mark.parametrize("make", [lambda: TimeModel(RankCost(), expert_bytes="44e6"), lambda: make_time_model(["tokens"])])
def test_values_of_another_kind_are_named(make):
    """Not only numbers out of range."""
    with pytest.raises(ArgumentError):
        make()
