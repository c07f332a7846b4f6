"""Sources of moves: least largest number of sends, then most within a node, against every choice there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.kernels.sourcing import choose_sources


@st.composite
def requests(draw, max_ranks=5, max_requests=6):
    """Draw (expert, receiver, holds, node): each request's expert is held by a rank that is not its receiver."""
    ranks, experts = draw(st.integers(2, max_ranks)), draw(st.integers(1, 4))
    nodes = draw(st.integers(1, min(3, ranks)))
    node = np.array([r * nodes // ranks for r in range(ranks)])
    chosen = draw(
        st.lists(st.tuples(st.integers(0, experts - 1), st.integers(0, ranks - 1)), max_size=max_requests, unique=True)
    )
    holds = np.array(
        draw(st.lists(st.lists(st.booleans(), min_size=experts, max_size=experts), min_size=ranks, max_size=ranks))
    )
    for e, r in chosen:
        holds[r, e] = False
    chosen = [(e, r) for e, r in chosen if holds[:, e].any()]
    expert = np.array([e for e, _ in chosen], np.int64)
    receiver = np.array([r for _, r in chosen], np.int64)
    return expert, receiver, holds, node


def _choose(expert, receiver, holds, node):
    source = np.empty(len(expert), np.int64)
    least = int(np.bincount(receiver, minlength=1).max())
    most = choose_sources(expert, receiver, holds, node, least, source)
    return most, source, least


def _best(expert, receiver, holds, node, least):
    """Least largest number of sends, at least ``least``, and the most requests within nodes at that: every choice is tried."""
    best = (np.inf, 0)
    for choice in itertools.product(*(np.flatnonzero(holds[:, e]) for e in expert)):
        most = max(np.bincount(np.array(choice, np.int64), minlength=1).max(), least)
        near = sum(node[s] == node[r] for s, r in zip(choice, receiver, strict=True))
        best = min(best, (most, -near))
    return best[0], -best[1]


@given(requests())
def test_against_every_choice(drawn):
    """No choice lets the busiest rank send less, and none with as few sends has more within nodes."""
    expert, receiver, holds, node = drawn
    most, source, least = _choose(*drawn)
    assert all(holds[s, e] for s, e in zip(source, expert, strict=True))
    best, near = _best(*drawn, least)
    assert most == best >= np.bincount(source, minlength=1).max()
    assert (node[source] == node[receiver]).sum() == near


def _seeded(seed, ranks=5, experts=6, count=6):
    """Return (expert, receiver, holds, node), each expert on one to three ranks of two nodes."""
    rng = np.random.default_rng(seed)
    holds = np.zeros((ranks, experts), np.bool_)
    for e in range(experts):
        holds[rng.permutation(ranks)[: rng.integers(1, 4)], e] = True
    pairs = [(e, r) for e in range(experts) for r in range(ranks) if not holds[r, e]]
    chosen = [pairs[i] for i in sorted(rng.permutation(len(pairs))[:count])]
    expert, receiver = (np.array(x) for x in zip(*chosen, strict=True))
    return expert, receiver, holds, np.arange(ranks) // 3


def test_many_against_every_choice():
    """The same where sends are few and many experts have several holders, so that requests must be handed on for nearness."""
    for seed in range(120):
        drawn = _seeded(seed)
        most, source, least = _choose(*drawn)
        near = (drawn[3][source] == drawn[3][drawn[1]]).sum()
        assert (most, near) == _best(*drawn, least), f"seed {seed}"
        assert np.bincount(source).max() <= most


def test_many_within_the_limit():
    """However many requests are handed on for nearness, no rank sends more than was said."""
    for seed in range(60):
        expert, receiver, holds, node = _seeded(seed, ranks=6, experts=20, count=24)
        source = np.empty(len(expert), np.int64)
        most = choose_sources(expert, receiver, holds, node, 1, source)
        assert np.bincount(source).max() == most


@pytest.mark.parametrize("seed", range(4))
def test_against_a_flow(seed):
    """Larger: as few sends as a linear program with whole solutions needs, and as many within nodes (HiGHS)."""
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    ranks, experts, count = 8, 24, 40
    holds = rng.random((ranks, experts)) < 0.3
    holds[rng.integers(0, ranks, experts), np.arange(experts)] = True
    pairs = [(e, r) for e in range(experts) for r in range(ranks) if not holds[r, e]]
    chosen = [pairs[i] for i in sorted(rng.choice(len(pairs), count, replace=False))]
    expert, receiver = (np.array(x) for x in zip(*chosen, strict=True))
    node = np.arange(ranks) // 2
    most, source, least = _choose(expert, receiver, holds, node)
    edges = [(i, r) for i in range(count) for r in range(ranks) if holds[r, expert[i]]]
    one_each = np.array([[float(i == j) for i, _ in edges] for j in range(count)])
    sends = np.array([[float(r == q) for _, r in edges] for q in range(ranks)])
    far = np.array([float(node[r] != node[receiver[i]]) for i, r in edges])

    def solve(limit):
        return linprog(far, A_ub=sends, b_ub=np.full(ranks, limit), A_eq=one_each, b_eq=np.ones(count), bounds=(0, 1))

    assert solve(most).fun == pytest.approx((node[source] != node[receiver]).sum())
    assert most == least or not solve(most - 1).success


def test_requests_are_handed_over():
    """A rank that could serve everything passes on what others can, along chains."""
    holds = np.array([[True, True, True], [True, False, False], [False, True, False], [False, False, False]])
    expert, receiver = np.array([0, 1, 2]), np.array([3, 3, 3])
    most, source, _ = _choose(expert, receiver, holds, np.zeros(4, np.int64))
    assert most == 3  # receives are given, so the sender may send three too
    source = np.empty(3, np.int64)
    assert choose_sources(expert, receiver, holds, np.zeros(4, np.int64), 1, source) == 1
    assert source.tolist() == [1, 2, 0]


def test_nothing_to_choose():
    """No requests, no sends."""
    empty = np.empty(0, np.int64)
    assert choose_sources(empty, empty, np.zeros((2, 3), np.bool_), np.array([0, 1]), 0, empty) == 0
