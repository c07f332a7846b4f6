"""Findings: what looks wrong with a recorded load, each made to happen, and none on a load that is right."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import LoadTrace
from equipoise.inspection import inspect_trace, slots_taken_for_experts
from equipoise.models import find_model
from equipoise.trace import Origin

MODEL = find_model("gpt-oss-20b")


def _routed(steps=4, layers=3, experts=32, tokens=100, top_k=4, seed=0):
    """Loads of tokens that each pick ``top_k`` different experts, some more often."""
    rng = np.random.default_rng(seed)
    load = np.zeros((steps, layers, experts), np.int64)
    odds = rng.dirichlet(np.full(experts, 2.0), layers)
    for step in range(steps):
        for layer in range(layers):
            for _ in range(tokens):
                load[step, layer, rng.choice(experts, top_k, replace=False, p=odds[layer])] += 1
    return load


LOAD = _routed()


def _found(load, model=None):
    return " | ".join(inspect_trace(LoadTrace(load), model).findings)


def test_nothing_is_wrong_with_a_load_that_is_right():
    """With the model and without."""
    assert _found(LOAD) == _found(LOAD, MODEL) == ""


def _alike(load):
    load[1] = 0
    load[1, :, :4] = 100


def _one_layer(load):
    load[2] = load[2, 0]


def _again(load):
    load[3] = load[0]


def _one_more(load):
    load[0, 1, 5] += 1


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_alike, "all tokens on the same few experts, each as many in step 1: padding or dummy batches"),
        (_one_layer, "the same load in every layer in step 2"),
        (_again, "step 3 the same as an earlier one, step 0 the first: rows of a ring buffer"),
        (_one_more, "layers have unequal totals: layer 1 not 1,600 tokens"),
    ],
)
def test_odd_steps(change, finding):
    """Each is said once, with its step."""
    load = LOAD.copy()
    change(load)
    assert _found(load).count(finding) == 1


def test_one_token_a_step_is_no_padding():
    """Decoding a single sequence: few experts, each once, and steps may repeat."""
    load = np.zeros((3, 2, 32), int)
    load[:, :, :4] = 1
    assert _found(load) == ""


def test_wrong_picks():
    """Totals must be a multiple of what a token picks."""
    load = LOAD.copy()
    _one_more(load)
    assert "tokens of layer 1 are no multiple of 4 in each step" in _found(load, MODEL)
    assert "no multiple" not in _found(LOAD / 3, MODEL)


def test_slots_taken_for_experts():
    """With the model for certain; without, where the last columns repeat the first and no model has so many."""
    slots = np.concatenate([LOAD, LOAD[:, :, :8]], axis=2)
    assert "40 columns, but gpt-oss-20b has 32 experts: these may be slots, 8 of them redundant" in _found(slots, MODEL)
    assert "columns 32 to 39 hold nearly the load of columns 0 to 7" in _found(slots)
    assert "slots" not in _found(_routed(experts=40))
    assert "24 columns, but gpt-oss-20b has 32 experts: another model" in _found(LOAD[:, :, :24], MODEL)


def test_unknown_order_is_said():
    """Beside the findings on the load."""
    found = inspect_trace(LoadTrace(LOAD, is_in_order=False)).findings
    assert len(found) == 1
    assert "--in-order" in found[0]


def test_layers_are_named_by_their_own_numbers():
    """Not by their position."""
    load = LOAD.copy()
    load[:, 0] = 0
    load[0, 2, 5] += 1
    findings = " | ".join(inspect_trace(LoadTrace(load, layer_ids=[3, 7, 9]), MODEL).findings)
    assert "no load at all in layer 3" in findings
    assert "tokens of layer 9 are no multiple" in findings
    assert "layer 0" not in findings


def test_slots_of_a_format_that_counts_them():
    """No known model has 40 experts; 32 are some model's, and nothing is said of traces from elsewhere."""
    for experts, format_, is_told in ((40, "tensorrt-llm", True), (32, "tensorrt-llm", False), (40, "npz", False)):
        origin = Origin(format_, may_be_slots=format_ != "npz")
        trace = LoadTrace(_routed(experts=experts), origin=origin)
        assert (slots_taken_for_experts(trace) is not None) == is_told
        assert any("slots may be taken for experts" in finding for finding in inspect_trace(trace).findings) == is_told


def test_picks_are_looked_for_in_plain_files_only():
    """What an engine recorded is what its format says."""
    picks = np.random.default_rng(0).permuted(np.tile(np.arange(40), (6, 3, 1)), axis=2)[:, :, :4]
    for format_, is_told in (("npy", True), ("megatron", False), ("equipoise-record", False)):
        findings = inspect_trace(LoadTrace(picks, origin=Origin(format_))).findings
        assert any("--format routed-experts" in finding for finding in findings) == is_told
