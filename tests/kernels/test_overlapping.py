"""What two placements share, counted pair by pair; and slots settled as the rule says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from equipoise.kernels.overlapping import add_overlaps, settle_rows


@st.composite
def pairs_of_rows(draw):
    """Draw (layers of rank -> experts, the same of another placement): ranks of other numbers and widths, experts twice."""
    layers = draw(st.integers(1, 3))
    rooms = [draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)) for _ in range(2)]
    expert = st.integers(-1, 5)
    return [[[draw(st.lists(expert, min_size=n, max_size=n)) for n in room] for _ in range(layers)] for room in rooms]


def _flat(layers):
    return np.array([[e for held in layer for e in held] for layer in layers], np.int64)


def _rank_of_slot(layers):
    return np.array([r for r, held in enumerate(layers[0]) for _ in held], np.int64)


def _starts(layers):
    return np.cumsum([0, *(len(held) for held in layers[0])])


@given(pairs_of_rows(), st.sampled_from([1.0, 3.0]))
def test_overlaps_are_shared_experts(drawn, weight):
    """Each expert on both ranks adds the weight once, however often it is there; what stood there stays."""
    new, old = drawn
    num_ranks = len(new[0])
    value = np.arange(len(new) * num_ranks**2, dtype=float).reshape(len(new), num_ranks, num_ranks)
    expected = value.copy()
    for x in range(len(new)):
        for i in range(num_ranks):
            for j in range(min(num_ranks, len(old[0]))):
                expected[x, i, j] += weight * len((set(new[x][i]) & set(old[x][j])) - {-1})
    for x, (row, before) in enumerate(zip(_flat(new), _flat(old), strict=True)):
        add_overlaps(row, _rank_of_slot(new), before, _rank_of_slot(old), 6, weight, value[x])
    assert value.tolist() == expected.tolist()


def settled_by_rule(held, before):
    """Return what a rank's slots hold, given what it holds and what its slots held before."""
    rest = [e for e in held if e != -1]
    found = [-1] * len(held)
    for n, e in enumerate(before[: len(held)]):
        if e in rest:
            found[n] = e
            rest.remove(e)
    for e in sorted(rest):
        found[found.index(-1)] = e
    return found


@st.composite
def _renamings(draw, rooms):
    """Draw a new rank for each rank, with as many slots."""
    new_rank = list(range(len(rooms)))
    for room in set(rooms):
        ranks = [r for r, n in enumerate(rooms) if n == room]
        for rank, new in zip(ranks, draw(st.permutations(ranks)), strict=True):
            new_rank[rank] = new
    return new_rank


@given(pairs_of_rows(), st.data())
def test_slots_are_settled_by_rule(drawn, data):
    """Each rank's experts are on its new rank: where they were, if they were, and the others in order on what is left."""
    new, old = drawn
    rooms = [len(held) for held in new[0]]
    new_rank = [data.draw(_renamings(rooms)) for _ in new]
    settled = np.empty_like(_flat(new))
    settle_rows(_flat(new), _starts(new), np.array(new_rank), _flat(old), _starts(old), settled)
    for x, layer in enumerate(new):
        expected = [[] for _ in rooms]
        for i, held in enumerate(layer):
            rank = new_rank[x][i]
            expected[rank] = settled_by_rule(held, old[x][rank] if rank < len(old[x]) else [])
        assert settled[x].tolist() == [e for held in expected for e in held]
