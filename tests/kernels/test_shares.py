"""Shares, their distance, and weighted means learnt window by window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise.kernels import shares

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5))


def _loads(shape):
    """Loads of this shape, some layers idle."""
    busy = arrays(np.bool_, (*shape[:-1], 1))
    return st.tuples(arrays(np.float64, shape, elements=st.integers(0, 50).map(float)), busy).map(lambda x: x[0] * x[1])


@given(SHAPES.flatmap(_loads))
def test_shares_and_totals(load):
    """Each load over its layer's total, summed in order; all 0 without load."""
    share, total = shares.to_shares(load)
    for row, got, layer_total in zip(load.tolist(), share.tolist(), total.tolist(), strict=True):
        assert layer_total == sum(row)
        assert got == ([x / sum(row) for x in row] if sum(row) else [0.0] * len(row))


@given(SHAPES.flatmap(lambda shape: st.tuples(_loads(shape), _loads(shape))))
def test_distance(pair):
    """Mean over the layers loaded in both of the absolute differences; symmetric, 0 from itself, at most 2."""
    first, second = (shares.to_shares(load)[0] for load in pair)
    apart = [
        sum(abs(a - b) for a, b in zip(p, q, strict=True))
        for p, q in zip(first.tolist(), second.tolist(), strict=True)
        if any(p) and any(q)
    ]
    found = shares.mean_distance(first, second)
    assert found == pytest.approx(sum(apart) / len(apart) if apart else 0.0, abs=1e-15)
    assert found == shares.mean_distance(second, first)
    assert shares.mean_distance(first, first) == 0.0
    assert 0.0 <= found <= 2.0 + 1e-12


def test_distance_by_hand():
    """Disjoint layers are 2 apart; one that is idle in either does not count."""
    one, other = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.25, 0.75], [1.0, 0.0]])
    assert shares.mean_distance(one, other) == 1.25
    assert shares.mean_distance(one[2:], other[2:]) == 0.0


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)).flatmap(_loads),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
)
def test_what_is_learnt_window_by_window(history, keep):
    """Weighted means, squared deviations and weights are those of the whole history at once; idle layers keep theirs."""
    mean, spread, weight = np.zeros(history.shape[1:]), np.zeros(history.shape[1:]), np.zeros(history.shape[1])
    for load in history:
        share, total = shares.to_shares(np.ascontiguousarray(load))
        before = [x.tobytes() for x in (mean[total == 0.0], spread[total == 0.0], weight[total == 0.0])]
        shares.learn(mean, spread, weight, share, total, keep)
        assert before == [x.tobytes() for x in (mean[total == 0.0], spread[total == 0.0], weight[total == 0.0])]
    for x in range(history.shape[1]):
        loaded = [row for row in history[:, x].tolist() if sum(row)]
        weights = [keep**age for age in range(len(loaded))][::-1]
        assert weight[x] == pytest.approx(math.fsum(weights), abs=1e-15)
        for e in range(history.shape[2]):
            values = [row[e] / sum(row) for row in loaded]
            expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights) if loaded else 0.0
            square = sum(w * (v - expected) ** 2 for w, v in zip(weights, values, strict=True))
            assert mean[x, e] == pytest.approx(expected, abs=1e-12)
            assert spread[x, e] == pytest.approx(square, abs=1e-12)


def test_squares_are_never_negative():
    """Even where nothing is kept and the mean jumps to the window's share."""
    mean, spread, weight = np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1)
    for share in ([0.0, 1.0, 0.0], [0.0, 1 / 3, 2 / 3]):
        shares.learn(mean, spread, weight, np.array([share]), np.ones(1), 0.0)
    assert (spread >= 0.0).all()
