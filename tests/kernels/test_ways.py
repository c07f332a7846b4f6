"""All ways to count, against all ways listed by recursion."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise.kernels.ways import first_way, has_few_ways, next_way


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_ways_equal_their_twin(experts, most, data):
    """The kernel walks through all ways, in order, and knows when there are few."""
    slots = data.draw(st.integers(experts, experts * most))
    expected = twins.ways_to_count(experts, slots, most)
    way = np.empty(experts, np.int64)
    first_way(way, 0, slots, most)
    found = [way.tolist()]
    while next_way(way, most):
        found.append(way.tolist())
    assert found == expected
    assert way.tolist() == expected[-1]
    assert has_few_ways(experts, slots, most, len(expected))
    assert has_few_ways(experts, slots, most, len(expected) + 1)
    assert not has_few_ways(experts, slots, most, len(expected) - 1)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4), st.data())
def test_the_first_way_leaves_the_experts_before_alone(before, experts, data):
    """From an expert on, the last ones get what is to spare; the counts before stay."""
    slots = data.draw(st.integers(experts, experts * 4))
    way = np.array([*before, *[9] * experts])
    first_way(way, len(before), slots, 4)
    assert way.tolist() == before + twins.ways_to_count(experts, slots, 4)[0]


def test_counting_stops_at_the_limit():
    """Where there are astronomically many ways, a few steps tell."""
    assert not has_few_ways(256, 1000, 8, 100)
