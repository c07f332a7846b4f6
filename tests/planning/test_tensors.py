"""torch in, torch out."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import balanced_packing, rebalance_experts

torch = pytest.importorskip("torch")


def test_torch_in_torch_out(skewed):
    """Tensors of any number type give int64 tensors on the CPU, with the values numpy gives."""
    expected = rebalance_experts(skewed, 72, 1, 1, 8)
    for tensor in (torch.tensor(skewed), torch.tensor(skewed).double().requires_grad_()):
        got = rebalance_experts(tensor, 72, 1, 1, 8)
        assert all(g.dtype == torch.int64 and g.device.type == "cpu" for g in got)
        assert all(np.array_equal(g.numpy(), e) for g, e in zip(got, expected, strict=True))
    assert rebalance_experts(torch.ones(2, 8).bfloat16(), 8, 1, 1, 4)[0].shape == (2, 8)


def test_tensor_comes_back_as_tensor():
    """Torch in, torch out, same values as numpy."""
    weight = np.random.default_rng(0).random((2, 12))
    expected = balanced_packing(weight, 4)
    got = balanced_packing(torch.tensor(weight), 4)
    assert all(g.dtype == torch.int64 for g in got)
    assert all(np.array_equal(g.numpy(), e) for g, e in zip(got, expected, strict=True))
