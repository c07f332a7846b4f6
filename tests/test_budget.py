"""MoveBudget: what binds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import MoveBudget
from equipoise.errors import ArgumentError


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, None),
        ({"per_layer": 3}, None),
        ({"total": 7}, 7),
        ({"bytes": 1e9, "expert_bytes": 44e6}, 22),
        ({"bytes": 44e6, "expert_bytes": 44e6}, 1),
        ({"bytes": 43e6, "expert_bytes": 44e6}, 0),
        ({"total": 5, "bytes": 1e9, "expert_bytes": 44e6}, 5),
        ({"total": 50, "bytes": 1e9, "expert_bytes": 44e6}, 22),
        ({"expert_bytes": 44e6}, None),
        ({"bytes": 0, "expert_bytes": 1}, 0),
        ({"bytes": 0.3, "expert_bytes": 0.1}, 2),  # as floats 0.3 is less than three times 0.1
        ({"bytes": 2.0**500, "expert_bytes": 2.0**-600}, 2**1100),
        ({"total": 5, "bytes": 1e300, "expert_bytes": 1e-300}, 5),
    ],
)
def test_most_moves_over_all_layers(given, most):
    """The lower of the total and of the experts that the bytes hold."""
    assert MoveBudget(**given).most_moves == most


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"per_layer": -1}, "per_layer is -1"),
        ({"per_layer": 1.5}, "per_layer is 1.5"),
        ({"per_layer": True}, "per_layer is True"),
        ({"total": -2}, "total is -2"),
        ({"total": "3"}, "total is '3'"),
        ({"bytes": -1.0, "expert_bytes": 1.0}, "bytes is -1.0"),
        ({"bytes": float("nan"), "expert_bytes": 1.0}, "bytes is nan"),
        ({"bytes": float("inf"), "expert_bytes": 1.0}, "bytes is inf"),
        ({"bytes": 1e9}, "bytes is 1e+09 without expert_bytes"),
        ({"bytes": 1e9, "expert_bytes": 0.0}, "expert_bytes is 0.0"),
        ({"gain_per_move": -0.1}, "gain_per_move is -0.1"),
        ({"gain_per_move": None}, "gain_per_move is None"),
    ],
)
def test_bad_numbers_are_named(given, found):
    """The value found, the rule and the next step."""
    with pytest.raises(ArgumentError) as error:
        MoveBudget(**given)
    assert str(error.value).startswith(found)
    assert error.value.rule
    assert error.value.next_step


def test_numbers_of_numpy_are_taken():
    """Counts and sizes may come out of arrays."""
    budget = MoveBudget(per_layer=np.int64(3), total=np.int32(9), bytes=np.float64(10), expert_bytes=np.int64(4))
    assert budget.most_moves == 2
