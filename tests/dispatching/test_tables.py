"""Tables that engines load: probabilities by replica, and one slot for each source rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, Placement
from equipoise.dispatching.tables import fixed_table, probability_table
from equipoise.errors import ArgumentError

PARTS = 16


@st.composite
def cases(draw, max_ranks=6, max_experts=3):
    """Draw (placement of one layer, shares in 16ths): some slots empty, some ranks down, some experts without a slot."""
    ranks, experts, nodes = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_experts)), draw(st.integers(1, 3))
    nodes = min(nodes, ranks)
    node = [*range(nodes), *draw(st.lists(st.integers(0, nodes - 1), min_size=ranks - nodes, max_size=ranks - nodes))]
    room = draw(st.lists(st.integers(1, 3), min_size=ranks, max_size=ranks))
    alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    row = [draw(st.integers(-1, experts - 1)) if alive[r] else -1 for r in range(ranks) for _ in range(room[r])]
    placement = Placement([row], Cluster(ranks, room, nodes, node_of_rank=node, alive=alive), experts)
    shares = [0.0] * len(row)
    for e in range(experts):
        mine = [s for s, held in enumerate(row) if held == e]
        cuts = sorted(draw(st.lists(st.integers(0, PARTS), min_size=max(0, len(mine) - 1), max_size=max(0, len(mine) - 1))))
        for s, low, high in zip(mine, [0, *cuts], [*cuts, PARTS], strict=False):
            shares[s] = (high - low) / PARTS
    return placement, [shares]


def _slots(placement, expert):
    return np.flatnonzero(placement.expert_of_slot[0] == expert).tolist()


def _distance(cluster, rank, slot):
    """0 on the rank itself, 1 on its node, else 2."""
    other = int(cluster.rank_of_slot[slot])
    return 0 if other == rank else 2 - (cluster.node_of_rank[other] == cluster.node_of_rank[rank])


@given(cases())
def test_probabilities(drawn):
    """Each replica's share where slots_of_expert has it, 0 elsewhere; they add up to 1 for every expert that has a slot."""
    placement, shares = drawn
    table = probability_table(placement, shares)
    assert table.dtype == np.float64
    assert table.shape == placement.slots_of_expert.shape
    for e, (slots, row) in enumerate(zip(placement.slots_of_expert[0].tolist(), table[0].tolist(), strict=True)):
        assert row == [shares[0][s] if s >= 0 else 0.0 for s in slots]
        assert sum(row) == (1.0 if e in placement.expert_of_slot[0] else 0.0)


def test_probabilities_of_several_layers():
    """Layers are told apart, and shares scaled."""
    placement = Placement([[0, 1, 1], [1, 0, 0]], Cluster(3, 1), 2)
    table = probability_table(placement, np.array([[1, 0.2, 0.8], [1, 0.7, 0.3]], np.float32))
    assert table == pytest.approx(np.array([[[1, 0], [0.2, 0.8]], [[0.7, 0.3], [1, 0]]]), abs=1e-7)
    assert table.sum(axis=2) == pytest.approx(1.0, abs=1e-15)


@given(cases())
def test_equal_sources(drawn):
    """Each slot less than one source from its share, none for a share of 0; ranks that are down and lost experts have -1."""
    placement, shares = drawn
    table = fixed_table(placement, shares)
    assert table.dtype == np.int64
    assert table.shape == (placement.cluster.num_ranks, 1, placement.num_experts)
    up = [r for r, alive in enumerate(placement.cluster.alive) if alive]
    assert all((table[r] == -1).all() for r in range(placement.cluster.num_ranks) if r not in up)
    for e in range(placement.num_experts):
        picked = table[up, 0, e].tolist()
        slots = _slots(placement, e)
        assert set(picked) <= set(slots or [-1])
        for s in slots:
            assert abs(picked.count(s) - len(up) * shares[0][s]) < 1.0
            assert shares[0][s] > 0.0 or s not in picked


@given(cases(max_ranks=5, max_experts=2), st.data())
def test_no_other_choice_of_sources_is_nearer(drawn, data):
    """Among all tables that give each slot as much from sources of equal load: most on their own rank, then on their node.

    Loads are 0 and 1, so that there are two sizes of sources, of which those without load are divided by themselves.
    """
    placement, shares = drawn
    cluster = placement.cluster
    size = cluster.num_ranks, 1, placement.num_experts
    load = np.array(data.draw(st.lists(st.integers(0, 1), min_size=size[0] * size[2], max_size=size[0] * size[2]))).reshape(
        size
    )
    load *= placement.replica_count > 0
    table = fixed_table(placement, shares, load)
    for e, amount in itertools.product(range(size[2]), (0, 1)):
        slots = _slots(placement, e)
        alike = [r for r in range(size[0]) if cluster.alive[r] and load[r, 0, e] == amount]
        picked = table[alike, 0, e].tolist()
        if not slots:
            continue
        assert all(abs(picked.count(s) - len(alike) * shares[0][s]) < 1.0 for s in slots)
        found = [_distance(cluster, r, s) for r, s in zip(alike, picked, strict=True)]
        best = max(
            (near.count(0), near.count(1))
            for choice in set(itertools.permutations(picked))
            for near in [[_distance(cluster, r, s) for r, s in zip(alike, choice, strict=True)]]
        )
        assert (found.count(0), found.count(1)) == best


def test_nearness_by_hand():
    """Four ranks on two nodes, expert 0 on ranks 0 and 1 alone, expert 1 on ranks 0 and 2, expert 2 on rank 3."""
    placement = Placement([[0, 1, 0, -1, 1, -1, 2, -1]], Cluster(4, 2, 2), 3)
    shares = [[0.5, 0.5, 0.5, 0, 0.5, 0, 1, 0]]
    assert fixed_table(placement, shares)[:, 0].T.tolist() == [[0, 2, 0, 2], [1, 1, 4, 4], [6] * 4]
    shares = [[0.25, 0.25, 0.75, 0, 0.75, 0, 1, 0]]
    assert fixed_table(placement, shares)[:, 0].T.tolist() == [[0, 2, 2, 2], [1, 4, 4, 4], [6] * 4]


def test_a_node_comes_before_a_lower_slot():
    """Ranks 0 and 3 are one node, 1 and 2 the other; rank 0 uses rank 3's replica, though rank 1's has as many to come."""
    placement = Placement([[-1, 0, -1, 0]], Cluster(4, 1, 2, node_of_rank=[0, 1, 1, 0]), 1)
    assert fixed_table(placement, [[0, 0.5, 0, 0.5]]).ravel().tolist() == [3, 1, 1, 3]


def test_what_rounding_hides_goes_to_no_share_of_0():
    """A load that is lost in the sum leaves nothing owed to either slot; the one with share 0 stays out, near as it is."""
    placement = Placement([[0, 0]], Cluster(2, 1), 1)
    assert fixed_table(placement, [[1.0, 0.0]], [[[1e12]], [[1e-5]]]).ravel().tolist() == [0, 0]


def test_three_sources_to_two_replicas_take_turns():
    """The odd source goes to the first replica of one expert and the second of the next."""
    placement = Placement([[0, 0, 1, 1, -1, -1]], Cluster(3, 2, 3), 2)
    table = fixed_table(placement, [[0.5, 0.5, 0.5, 0.5, 0, 0]])[:, 0].T.tolist()
    assert [sorted(row) for row in table] == [[0, 0, 1], [2, 3, 3]]


@given(cases(max_ranks=6, max_experts=2), st.integers(0, 10**6))
def test_unequal_sources(drawn, seed):
    """By a twin: from heavy to light, each to the slot that is owed most; no slot gets more than the lightest source on top."""
    placement, shares = drawn
    cluster = placement.cluster
    rng = np.random.default_rng(seed)
    load = rng.permutation(100)[: cluster.num_ranks * placement.num_experts] + 1.0
    load = load.reshape(cluster.num_ranks, 1, -1) * (placement.replica_count > 0)
    table = fixed_table(placement, shares, load)
    up = [r for r in range(cluster.num_ranks) if cluster.alive[r]]
    for e in range(placement.num_experts):
        slots = [s for s in _slots(placement, e) if shares[0][s] > 0]
        owed = {s: shares[0][s] * sum(load[r, 0, e] for r in up) for s in slots}
        for r in sorted(up, key=lambda r: (-load[r, 0, e], r)):
            picked = int(table[r, 0, e])
            if not slots:
                assert picked == -1
                continue
            assert owed[picked] == max(owed.values())
            near = min(_distance(cluster, r, s) for s in slots if owed[s] == owed[picked])
            assert _distance(cluster, r, picked) == near
            owed[picked] -= load[r, 0, e]


def test_loads_of_ranks_that_are_down_do_not_count():
    """The table is the same whatever is said of them."""
    placement = Placement([[0, 0, -1]], Cluster(3, 1, alive=[1, 1, 0]), 2)
    first, second = ([[[5.0, 0]], [[3.0, 0]], [[down, down]]] for down in (0.0, 99.0))
    table = fixed_table(placement, [[0.5, 0.5, 0]], second)
    assert table.tolist() == fixed_table(placement, [[0.5, 0.5, 0]], first).tolist() == [[[0, -1]], [[1, -1]], [[-1, -1]]]


@pytest.mark.parametrize(
    ("shares", "load", "found"),
    [
        ([[0.5, 0.4, 0]], None, "layer 0, expert 0 has shares that add up to 0.9"),
        (
            [[0.5, 0.5, 0]],
            [[[1, 0]]],
            r"source_load has shape \[1, 1, 2\]: it must be \[ranks \(3\), layers \(1\), experts \(2\)\]",
        ),
        ([[0.5, 0.5, 0]], [[[1, 0]], [[-1, 0]], [[0, 0]]], r"source_load\[1, 0, 0\] is -1"),
        ([[0.5, 0.5, 0]], [[[1, 0]], [[np.inf, 0]], [[0, 0]]], r"source_load\[1, 0, 0\] is inf"),
        ([[0.5, 0.5, 0]], [[[1, 0]], [[1, 2]], [[0, 0]]], "layer 0, expert 1 has 2.0 tokens and no slot"),
    ],
)
def test_bad_arguments(shares, load, found):
    """Named with place and value."""
    placement = Placement([[0, 0, -1]], Cluster(3, 1), 2)
    with pytest.raises(ArgumentError, match=found):
        fixed_table(placement, shares, load)
    if load is None:
        with pytest.raises(ArgumentError, match=found):
            probability_table(placement, shares)
