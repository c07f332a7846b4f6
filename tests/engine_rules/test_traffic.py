"""Tokens that leave their rank and node: by hand, and against a twin that sends token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, Placement
from equipoise.engines.traffic import count_traffic
from equipoise.errors import ArgumentError


def test_by_hand():
    """Two nodes of two ranks; expert 0 on ranks 0 and 2, expert 1 on rank 1, expert 2 on rank 3."""
    placed = Placement([[0, 1, 0, 2]], Cluster(4, 1, 2), 3)
    source = np.zeros((4, 1, 3))
    source[0, 0] = (8, 0, 4)  # equal: 4 of 8 go to rank 2, and so off the node; expert 2 is off the node
    source[1, 0] = (2, 6, 0)  # equal: 1 to rank 0, 1 to rank 2; expert 1 stays
    equal, nearest = count_traffic(placed, source)
    assert (equal.tokens, equal.leave_rank, equal.leave_node) == (20, 4 + 4 + 2, 4 + 4 + 1)
    assert (nearest.tokens, nearest.leave_rank, nearest.leave_node) == (20, 4 + 2, 4)


@given(st.integers(0, 10_000))
def test_against_a_twin(seed):
    """Every source, expert and replica on its own."""
    rng = np.random.default_rng(seed)
    nodes, per_node, experts, layers = (int(n) for n in rng.integers(1, 4, 4))
    ranks, slots = nodes * per_node, nodes * per_node * int(rng.integers(1, 4))
    slots = max(slots, -(-experts // ranks) * ranks)
    expert = np.stack(
        [
            rng.permutation(np.concatenate([np.arange(experts), rng.integers(0, experts, slots - experts)]))
            for _ in range(layers)
        ]
    )
    placed = Placement(expert, Cluster(ranks, slots // ranks, nodes), experts)
    source = rng.integers(0, 5, (ranks, layers, experts))
    wanted = {"equal": [0.0, 0.0], "nearest": [0.0, 0.0]}
    for r, x, e in np.ndindex(*source.shape):
        held = [int(placed.cluster.rank_of_slot[s]) for s in range(slots) if expert[x, s] == e]
        near = [q for q in held if q // per_node == r // per_node]
        share = source[r, x, e] / len(held)
        wanted["equal"][0] += share * sum(q != r for q in held)
        wanted["equal"][1] += share * (len(held) - len(near))
        wanted["nearest"][0] += source[r, x, e] * (r not in held)
        wanted["nearest"][1] += source[r, x, e] * (not near)
    for found in count_traffic(placed, np.stack([source, source])):
        assert (found.leave_rank / 2, found.leave_node / 2) == pytest.approx(wanted[found.dispatch])
        assert found.tokens == 2 * source.sum()


def test_of_another_shape():
    """Sources that are no ranks of the placement are refused."""
    with pytest.raises(ArgumentError, match=r"must be \[ranks, layers, experts\] = \[2, 1, 2\]"):
        count_traffic(Placement([[0, 1]], Cluster(2, 1), 2), np.ones((3, 1, 2)))
