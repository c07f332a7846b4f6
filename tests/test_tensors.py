"""torch in, torch out."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import Cluster, balanced_packing, plan, rebalance_experts

torch = pytest.importorskip("torch")


def test_torch_in_torch_out(skewed):
    """Tensors of any number type give int64 tensors on the CPU, with the values numpy gives."""
    expected = rebalance_experts(skewed, 72, 1, 1, 8)
    for tensor in (torch.tensor(skewed), torch.tensor(skewed).double().requires_grad_()):
        got = rebalance_experts(tensor, 72, 1, 1, 8)
        assert all(g.dtype == torch.int64 and g.device.type == "cpu" for g in got)
        assert all(np.array_equal(g.numpy(), e) for g, e in zip(got, expected, strict=True))
    assert rebalance_experts(torch.ones(2, 8).bfloat16(), 8, 1, 1, 4)[0].shape == (2, 8)


def test_tensors_of_any_kind_are_loads():
    """Parameters, half floats, sparse tensors and those that need gradients are planned like arrays."""
    expected = plan([[3, 1, 2, 0]], Cluster(2, 2)).placement.expert_of_slot
    tensor = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    for kind in (tensor, tensor.bfloat16(), tensor.to_sparse(), tensor.clone().requires_grad_(), torch.nn.Parameter(tensor)):
        assert np.array_equal(plan(kind, Cluster(2, 2)).placement.expert_of_slot, expected)
        assert isinstance(rebalance_experts(kind, 4, 1, 1, 2)[0], torch.Tensor)


def test_tensor_comes_back_as_tensor():
    """Torch in, torch out, same values as numpy."""
    weight = np.random.default_rng(0).random((2, 12))
    expected = balanced_packing(weight, 4)
    got = balanced_packing(torch.tensor(weight), 4)
    assert all(g.dtype == torch.int64 for g in got)
    assert all(np.array_equal(g.numpy(), e) for g, e in zip(got, expected, strict=True))
