"""Traces of the experts that tokens picked: counted, never mistaken for a load."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import FileError
from equipoise.inspection import inspect_trace


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return file


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    return file


def _picks(tokens, layers, experts, top_k, seed=0):
    ranked = np.random.default_rng(seed).permuted(np.tile(np.arange(experts), (tokens, layers, 1)), axis=2)
    return ranked[:, :, :top_k].astype(np.int16)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(3, 20), st.integers(2, 3), st.integers(0, 10**6))
@settings(max_examples=30)
def test_tokens_are_counted(tokens, layers, experts, top_k, seed):
    """Against a loop over tokens; one sequence is one step; ids that are unset count nothing."""
    picks = _picks(tokens, layers, experts, top_k, seed)
    picks[0, 0, 0] = -1
    expected = np.zeros((1, layers, experts), int)
    for token in picks:
        for layer, row in enumerate(token):
            for expert in row:
                expected[0, layer, expert] += expert >= 0
    for given_file in (_npz(routed_experts=picks, tokens=np.ones(3)), _npy(picks)):
        trace = LoadTrace.read(given_file, num_experts=experts)
        assert trace.load.tolist() == expected.tolist()
        assert trace.origin.format == "routed-experts"


def test_a_folder_is_a_sequence_a_file(tmp_path):
    """By name, which is no order of time."""
    for number in range(3):
        np.savez(tmp_path / f"request-{number}.npz", routed_experts=_picks(4 + number, 2, 8, 2, number))
    trace = LoadTrace.read(tmp_path, num_experts=8, layer_ids=[1, 2])
    assert trace.load.sum(axis=2).tolist() == [[8, 8], [10, 10], [12, 12]]
    assert (trace.labels, trace.layer_ids, trace.is_in_order) == (("request-0", "request-1", "request-2"), (1, 2), False)
    np.savez(tmp_path / "request-3.npz", routed_experts=_picks(4, 3, 8, 2))
    with pytest.raises(FileError, match=r"has sequences of \[2, 3\] layers"):
        LoadTrace.read(tmp_path)


def test_torch_files(tmp_path):
    """A dict with the tensor, or the tensor alone where nothing else can be meant."""
    torch = pytest.importorskip("torch")
    picks = torch.from_numpy(_picks(5, 2, 8, 2))
    torch.save({"routed_experts": picks}, tmp_path / "x.pt")
    assert LoadTrace.read(tmp_path / "x.pt", num_experts=8).sum().sum() == 20
    picks[0, 0, 0] = -1
    torch.save(picks, tmp_path / "x.pt")
    assert LoadTrace.read(tmp_path / "x.pt", num_experts=8).sum().sum() == 19


def test_what_may_be_a_load_is_one_and_inspect_says_so():
    """Both readings are legal: the load wins, and --format routed-experts forces the other."""
    picks = _picks(6, 3, 40, 4)
    trace = LoadTrace.read(_npy(picks))
    assert trace.load.tolist() == picks.tolist()
    assert any("--format routed-experts" in finding for finding in inspect_trace(trace).findings)
    forced = LoadTrace.read(_npy(picks), "routed-experts")
    assert forced.load.shape == (1, 3, picks.max() + 1)
    assert "took the largest id" in " ".join(forced.origin.remarks)


@pytest.mark.parametrize(
    ("array", "how", "found"),
    [
        (np.array([[[3, 3]]]), {}, "holds int64 of shape [1, 1, 2]: it must be expert ids"),
        (np.array([[[2**40, 3]]]), {}, "it must be expert ids"),
        (np.array([[[0.5, 3]]]), {}, "holds float64"),
        (np.array([[[-1, -1]]]), {}, "names no expert"),
        (np.array([[[1, 9]]]), {"num_experts": 8}, "names expert 9: the model has 8, 0 to 7"),
        (np.ones((2, 3), int), {}, "of shape [2, 3]"),
    ],
)
def test_bad_traces(array, how, found):
    """Each is named."""
    with pytest.raises(FileError) as error:
        LoadTrace.read(_npz(routed_experts=array), **how)
    assert found in str(error.value)


def _with_dense(tokens=20, layers=8, dense=3):
    """As engines return them: a row for each hidden layer, dense ones 0 throughout."""
    picks = np.zeros((tokens, layers, 4), np.uint8)
    picks[:, dense:] = _picks(tokens, layers - dense, 200, 4)
    return picks


def test_dense_layers():
    """Left out where nobody names the layers; else the rows named, before ids are compared."""
    picks = _with_dense()
    trace = LoadTrace.read(_npz(routed_experts=picks))
    assert trace.layer_ids == (3, 4, 5, 6, 7)
    assert trace.sum().sum(axis=1).tolist() == [80] * 5
    assert "left out layers 0, 1, 2 without load" in trace.origin.remarks[0]
    named = LoadTrace.read(_npz(routed_experts=picks), num_experts=200, layer_ids=range(3, 8))
    assert named.layer_ids == trace.layer_ids
    assert np.array_equal(named.load[:, :, : trace.num_experts], trace.load)
    assert LoadTrace.read(_npz(routed_experts=picks[:, 3:]), layer_ids=range(3, 8)).layer_ids == trace.layer_ids
    unset = picks.astype(np.int16)
    unset[0, 5, 0] = -1
    assert LoadTrace.read(_npy(unset)).origin.format == "routed-experts"
    assert any("--format routed-experts" in finding for finding in inspect_trace(LoadTrace.read(_npy(picks))).findings)
    with pytest.raises(FileError, match="has 8 hidden layers: it must have layer 9"):
        LoadTrace.read(_npz(routed_experts=picks), layer_ids=[8, 9])
    with pytest.raises(FileError, match="it must be expert ids"):
        LoadTrace.read(_npz(routed_experts=picks), layer_ids=[2, 3])


def test_dense_layers_of_a_folder(tmp_path):
    """A layer is dense where no sequence has another id; one token may well have picked expert 0."""
    for number, picks in enumerate(([[[0], [0], [4]]], [[[0], [2], [0]]])):
        np.savez(tmp_path / f"{number}.npz", routed_experts=np.array(picks, np.uint8))
    trace = LoadTrace.read(tmp_path)
    assert trace.layer_ids == (1, 2)
    assert trace.load.tolist() == [[[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]]


def test_one_expert_a_token():
    """Read where it is named, or the format is; never guessed."""
    picks = np.array([[[1], [2]], [[3], [2]]])
    for trace in (LoadTrace.read(_npz(routed_experts=picks)), LoadTrace.read(_npy(picks), "routed-experts")):
        assert trace.load.tolist() == [[[0, 1, 0, 1], [0, 0, 2, 0]]]
    assert LoadTrace.read(_npy(picks)).load.tolist() == picks.tolist()
