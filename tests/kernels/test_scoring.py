"""Sums over slots, and what moves, against twins of sets and lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster
from equipoise.kernels import scoring
from equipoise.placement import ABSENT, Placement


@st.composite
def ranks_with_slots(draw):
    """Draw the rank of each slot, and how many ranks; some may have no slot at all."""
    room = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))
    return [r for r, slots in enumerate(room) for _ in range(slots)], len(room)


@given(ranks_with_slots(), st.integers(1, 3), st.floats(0.1, 10), st.data())
def test_slots_are_added_up_by_rank(drawn, layers, batches, data):
    """Tokens, replicas active in a mean batch, and the largest time."""
    rank_of_slot, ranks = drawn
    row = st.lists(st.floats(0, 100), min_size=len(rank_of_slot), max_size=len(rank_of_slot))
    tokens = data.draw(st.lists(row, min_size=layers, max_size=layers))
    speed = data.draw(st.lists(st.floats(0.5, 2), min_size=ranks, max_size=ranks))
    load = scoring.add_up_ranks(np.array(tokens), np.array(rank_of_slot), ranks)
    active = scoring.add_up_active(np.array(tokens), np.array(rank_of_slot), ranks, batches)
    for x, of_layer in enumerate(tokens):
        mine = [[t for t, r in zip(of_layer, rank_of_slot, strict=True) if r == rank] for rank in range(ranks)]
        assert load[x].tolist() == [sum(part) for part in mine]
        assert active[x].tolist() == pytest.approx([sum(min(1.0, t / batches) for t in part) for part in mine])
    largest = scoring.largest_times(load, np.array(speed))
    assert largest.tolist() == [max(t / s for t, s in zip(row, speed, strict=True)) for row in load.tolist()]


def test_by_hand():
    """Three slots on two ranks, the second twice as fast; in 4 batches, 2 tokens make half of a replica active."""
    tokens, rank_of_slot = np.array([[6.0, 2.0, 10.0], [0.0, 0.0, 0.0]]), np.array([0, 0, 1])
    load = scoring.add_up_ranks(tokens, rank_of_slot, 2)
    assert load.tolist() == [[8, 10], [0, 0]]
    assert scoring.add_up_active(tokens, rank_of_slot, 2, 4.0).tolist() == [[1.5, 1], [0, 0]]
    assert scoring.largest_times(load, np.array([1.0, 2.0])).tolist() == [8, 0]


@given(ranks_with_slots(), st.data())
def test_largest_loads_under_an_even_split(drawn, data):
    """Added up over layers as a placement says it; -1 once an expert has no slot in a layer."""
    rank_of_slot, ranks = drawn
    room = np.bincount(rank_of_slot, minlength=ranks)
    row = st.lists(st.integers(-1, 2), min_size=len(rank_of_slot), max_size=len(rank_of_slot))
    slots = np.array(data.draw(st.lists(row, min_size=2, max_size=2)))
    load = np.array(data.draw(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=2, max_size=2)), float)
    found = scoring.add_up_largest(load, slots, np.array(rank_of_slot), ranks)
    placement = Placement(slots[:, : len(rank_of_slot)], Cluster(ranks, room.tolist()), 3) if room.min() > 0 else None
    lacks = any(expert not in row for row in slots.tolist() for expert in range(3))
    if lacks:
        assert found == -1
    elif placement is not None:
        assert found == pytest.approx(placement.rank_load(load).max(axis=1).sum())


EXPERTS = 5


@st.composite
def placements(draw, ranks, layers, alive=None):
    """Draw a placement of any kind: ranks of different room, empty slots, experts twice or nowhere."""
    room = draw(st.lists(st.integers(1, 4), min_size=ranks, max_size=ranks))
    cluster = Cluster(ranks, room, alive=alive or [True] * ranks)
    row = st.lists(st.integers(ABSENT, EXPERTS - 1), min_size=sum(room), max_size=sum(room))
    return Placement(draw(st.lists(row, min_size=layers, max_size=layers)), cluster, EXPERTS)


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_what_ranks_receive(ranks, layers, data):
    """Experts that a rank holds now and did not before, each once, whatever the slots, and however many; the sum is moves."""
    old, new = data.draw(placements(ranks, layers)), data.draw(placements(ranks, layers))

    def held(placement, layer, rank):
        slots = placement.expert_of_slot[layer][placement.cluster.rank_of_slot == rank]
        return {int(e) for e in slots if e != ABSENT}

    maps = new.expert_of_slot, new.cluster.rank_of_slot, old.expert_of_slot, old.cluster.rank_of_slot
    received = scoring.count_received(*maps, ranks, EXPERTS)
    assert received.tolist() == [[len(held(new, x, r) - held(old, x, r)) for r in range(ranks)] for x in range(layers)]
    assert received.sum(axis=1).tolist() == new.moves_from(old).tolist()


def test_moves_within_a_rank_cost_nothing():
    """Slots swapped, an expert twice, an empty slot: only what the rank did not hold at all is received."""
    ranks = np.array([0, 0, 1, 1])
    old, new = np.array([[0, 1, 2, -1]] * 3), np.array([[1, 0, -1, 2], [0, 0, 2, 2], [3, 3, 0, 2]])
    assert scoring.count_received(new, ranks, old, ranks, 2, 4).tolist() == [[0, 0], [0, 0], [1, 1]]


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_an_audit_finds_what_is_wrong(ranks, layers, data):
    """The first expert without a slot, the first layer on a rank that is down, and slots wasted on experts held already."""
    alive = data.draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    placement = data.draw(placements(ranks, layers, alive))
    rank_of_slot = placement.cluster.rank_of_slot
    lost_layer, lost_expert, dead_layer, twice = scoring.audit(placement.expert_of_slot, rank_of_slot, np.array(alive), EXPERTS)
    assert (lost_layer, lost_expert) == (placement.lost_experts or ((-1, -1),))[0]
    assert twice == placement.duplicates.sum()
    dead = [
        x
        for x, row in enumerate(placement.expert_of_slot.tolist())
        if any(e != ABSENT and not alive[r] for e, r in zip(row, rank_of_slot.tolist(), strict=True))
    ]
    assert dead_layer == (dead or [-1])[0]


def test_an_audit_of_a_strict_placement_finds_nothing():
    """All experts have slots, none twice on a rank, and the rank that is down is empty."""
    slots = np.array([[0, 1, 2, 3, -1, -1], [3, 2, 1, 0, -1, -1]])
    assert scoring.audit(slots, np.repeat(np.arange(3), 2), np.array([True, True, False]), 4) == (-1, -1, -1, 0)
