"""Constraints: what can be asked, and what is refused."""

from __future__ import annotations

import pytest

from equipoise import Constraints
from equipoise.errors import ArgumentError


@pytest.mark.parametrize(
    ("given", "asks"),
    [({}, False), ({"min_replicas": 2}, True), ({"min_replicas": 2, "hottest": 0.0}, False), ({"hottest": 0.5}, False)],
)
def test_asks_for_replicas(given, asks):
    """Where some expert needs a second one."""
    assert Constraints(**given).asks_for_replicas is asks


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"min_replicas": 0}, "min_replicas is 0"),
        ({"min_replicas": 1.5}, "min_replicas is 1.5"),
        ({"hottest": -0.1}, "hottest is -0.1"),
        ({"hottest": 1.1}, "hottest is 1.1"),
        ({"hottest": float("nan")}, "hottest is nan"),
        ({"spread": "racks"}, "spread is 'racks'"),
        ({"home_share": 1.5}, "home_share is 1.5"),
    ],
)
def test_bad_values_are_named(given, found):
    """The value found, the rule and the next step."""
    with pytest.raises(ArgumentError) as error:
        Constraints(**given)
    assert str(error.value).startswith(found)
    assert error.value.rule
    assert error.value.next_step
