"""Models: their numbers agree with each other, and with the parameters that their publishers state."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from equipoise.errors import ArgumentError
from equipoise.models import MODELS, Model, find_model

PARAMETERS = {  # billions, of the main model, as its publisher states them
    "deepseek-v3": 671,
    "deepseek-v2": 236,
    "deepseek-v4-flash": 284,
    "deepseek-v4-pro": 1600,
    "kimi-k2": 1040,
    "kimi-k2.5": 1040,
    "glm-5": 744,
    "glm-4.5": 355,
    "glm-4.5-air": 106,
    "qwen3-235b-a22b": 235,
    "qwen3-30b-a3b": 30.5,
    "qwen3-coder-480b-a35b": 480,
    "qwen3-next-80b-a3b": 80,
    "gpt-oss-120b": 116.8,
    "gpt-oss-20b": 20.9,
    "mixtral-8x7b": 46.7,
    "llama4-scout": 109,
    "llama4-maverick": 400,
    "olmoe-1b-7b": 6.9,
    "minimax-m2": 230,
}
SAME_SHAPE = {
    "deepseek-v3-bf16": "deepseek-v3",
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3.1": "deepseek-v3",
    "deepseek-v3.2": "deepseek-v3",
    "glm-5-fp8": "glm-5",
    "glm-4.5-fp8": "glm-4.5",
    "glm-4.5-air-fp8": "glm-4.5-air",
    "qwen3-235b-a22b-fp8": "qwen3-235b-a22b",
    "qwen3-coder-480b-a35b-fp8": "qwen3-coder-480b-a35b",
}


@pytest.mark.parametrize("name", MODELS)
def test_routed_weights_come_to_the_stated_parameters(name):
    """Routed experts are most of a model, and no more than all of it."""
    model = MODELS[name]
    weights = model.num_moe_layers * model.num_experts * 3 * model.hidden * model.intermediate
    stated = PARAMETERS[SAME_SHAPE.get(name, name)] * 1e9
    assert 0.88 * stated < weights < 0.99 * stated
    assert model.name == name
    assert model.source


@pytest.mark.parametrize(("variant", "name"), SAME_SHAPE.items())
def test_variants_share_a_shape(variant, name):
    """A variant differs in precision, architecture or name only."""
    other, model = MODELS[variant], MODELS[name]
    assert replace(other, name=name, bits=model.bits, architecture=model.architecture) == model


@pytest.mark.parametrize(
    ("name", "layers", "first", "moe", "experts", "groups", "top_k"),
    [
        ("deepseek-v3", 61, 3, 58, 256, 8, 8),
        ("deepseek-v2", 60, 1, 59, 160, 8, 6),
        ("deepseek-v4-flash", 43, 0, 43, 256, 1, 6),
        ("kimi-k2", 61, 1, 60, 384, 1, 8),
        ("glm-5", 78, 3, 75, 256, 1, 8),
        ("glm-4.5", 92, 3, 89, 160, 1, 8),
        ("qwen3-235b-a22b", 94, 0, 94, 128, 1, 8),
        ("gpt-oss-20b", 24, 0, 24, 32, 1, 4),
        ("llama4-maverick", 48, 1, 24, 128, 1, 1),
    ],
)
def test_layers_and_experts(name, layers, first, moe, experts, groups, top_k):
    """Hand-kept, so that a slip in the table shows."""
    model = find_model(name)
    assert (model.num_layers, model.moe_layer_ids[0], model.num_moe_layers) == (layers, first, moe)
    assert (model.num_experts, model.num_groups, model.top_k) == (experts, groups, top_k)


def test_expert_bytes():
    """Three matrices, in the model's precision."""
    assert find_model("deepseek-v3").expert_bytes == 3 * 7168 * 2048
    assert find_model("deepseek-v3-bf16").expert_bytes == 2 * 3 * 7168 * 2048
    assert find_model("gpt-oss-120b").expert_bytes == 3 * 2880 * 2880 * 17 / 32


def test_names_as_published():
    """A publisher and upper case do not matter; a slip is answered with the nearest names."""
    assert find_model("deepseek-ai/DeepSeek-V3.2") is MODELS["deepseek-v3.2"]
    with pytest.raises(ArgumentError, match=r"did you mean deepseek-v3"):
        find_model("deepseek-v3-0324")
    with pytest.raises(ArgumentError, match="give the numbers of another model"):
        find_model("zzz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"moe_layer_ids": ()}, "rising numbers"),
        ({"moe_layer_ids": (3, 3)}, "rising numbers"),
        ({"moe_layer_ids": (4, 3)}, "rising numbers"),
        ({"moe_layer_ids": (61,)}, "0 to 60"),
        ({"moe_layer_ids": (-1,)}, "integer >= 0"),
        ({"num_groups": 3}, "groups must be of one size"),
        ({"top_k": 257}, "cannot have more experts"),
        ({"bits": 0}, "finite number > 0"),
        ({"num_experts": 0}, "integer >= 1"),
    ],
)
def test_wrong_numbers_are_refused(change, words):
    """What no model can be."""
    with pytest.raises(ArgumentError, match=words):
        replace(MODELS["deepseek-v3"], **change)


def test_models_are_frozen():
    """A preset cannot be changed by accident."""
    with pytest.raises(FrozenInstanceError):
        MODELS["deepseek-v3"].top_k = 2
    assert Model("own", 4, [1, 3], 8, 1, 2, 16, 8, 16, "a test").moe_layer_ids == (1, 3)
