"""Bounds that see what stands beside a replica: never above the exhaustive optimum, never below what was known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from equipoise.kernels.bounding import heavy_replica_bound, paired_replica_bound
from equipoise.kernels.replicating import count_replicas

LOOSE = 1 + 1e-12


def _all_placements(num_experts, slot_counts):
    """Every strict placement as 0/1 [placements, ranks, experts]; ranks with equally many slots are not told apart."""
    filled = {k: list(itertools.combinations(range(num_experts), k)) for k in set(slot_counts)}
    by_size = [itertools.combinations_with_replacement(filled[k], slot_counts.count(k)) for k in sorted(filled)]
    found = []
    for parts in itertools.product(*by_size):
        held = [[e in rank for e in range(num_experts)] for part in parts for rank in part]
        if np.any(held, axis=0).all():
            found.append(held)
    return np.array(found, np.float64)


def _optimum(load, placements):
    """Smallest largest rank load over all placements, by looking at each."""
    share = load / placements.sum(axis=1)
    return np.einsum("pre,pe->pr", placements, share).max(axis=1).min()


def _tiny_loads(rng, num, num_experts):
    """Level, skewed, tied and partly absent loads of all magnitudes, sorted from large to small."""
    kinds = [
        rng.integers(0, 10, (num, num_experts)),
        rng.integers(1, 1000, (num, num_experts)),
        rng.random((num, num_experts)) ** 6 * 1e4,
        1 + rng.random((num, num_experts)) * 0.5,
        rng.integers(1, 4, (num, num_experts)) * np.array([1e-200, 1e-9, 1e9, 1e200])[rng.integers(0, 4, (num, 1))],
    ]
    load = np.concatenate(kinds).astype(np.float64)
    return np.ascontiguousarray(-np.sort(-load[load.sum(axis=1) > 0], axis=1))


def _simple(load, num_slots, num_ranks):
    largest = (load / count_replicas(load, num_slots, num_ranks)).max(axis=1)
    return np.maximum(load.sum(axis=1) / num_ranks, largest)


def _both(load, num_slots, num_ranks, fewest, known, upper):
    heavy = heavy_replica_bound(load, num_slots, num_ranks, fewest, known, upper)
    if num_slots != 2 * num_ranks or fewest != 2:
        return heavy, heavy
    return heavy, paired_replica_bound(load, num_slots, num_ranks, known, upper, 60, 1e-5)


def _bound(load, num_ranks, slots_per_rank):
    """Both bounds of one layer, with nothing known but the simple ones."""
    row = np.array([sorted(load, reverse=True)], np.float64)
    known = _simple(row, num_ranks * slots_per_rank, num_ranks)
    heavy, paired = _both(row, num_ranks * slots_per_rank, num_ranks, slots_per_rank, known, 4 * known)
    return known[0], heavy[0], paired[0]


SHAPES = [
    (experts, (slots,) * ranks)
    for experts, ranks, slots in itertools.product((3, 4, 5), (2, 3), (1, 2, 3))
    if experts <= ranks * slots and slots <= experts
]


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("experts", "slots"), [*SHAPES, (5, (1, 2, 3)), (4, (2, 2, 3)), (6, (2,) * 4), (5, (2,) * 5), (6, (3,) * 4)]
)
def test_never_above_the_exhaustive_optimum(experts, slots):
    """With room above the optimum, so that the end of the bisection hides nothing, and with little or much known."""
    placements = _all_placements(experts, slots)
    num = 100 if len(placements) < 500 else 4
    load = _tiny_loads(np.random.default_rng(len(placements)), num, experts)
    best = np.array([_optimum(row, placements) for row in load])
    for known in (_simple(load, sum(slots), len(slots)), 0.1 * best):
        for bound in _both(load, sum(slots), len(slots), min(slots), known, 3 * best):
            assert (bound <= best * LOOSE).all()
            assert (bound >= known).all()


def test_some_tiny_problems_interpreted_too():
    """The same oracle on few problems, quick without compiling."""
    placements = _all_placements(4, (2, 2, 2))
    load = _tiny_loads(np.random.default_rng(5), 3, 4)
    best = np.array([_optimum(row, placements) for row in load])
    for bound in _both(load, 6, 3, 2, _simple(load, 6, 3), 2 * best):
        assert (bound <= best * LOOSE).all()


def test_a_hot_expert_stands_beside_others():
    """Nine beside three: nothing known says more than nine, yet some rank must hold twelve."""
    known, heavy, _ = _bound([9, 3, 3, 3], 2, 2)
    assert known == 9
    assert heavy == pytest.approx(12, rel=1e-6)
    known, heavy, _ = _bound([9, 1, 1, 1, 1, 1], 2, 3)
    assert known == 9
    assert heavy == pytest.approx(11, rel=1e-6)


def test_slots_that_heavy_experts_need_cannot_make_others_small():
    """Two spare slots: 18 in three replicas leaves three at its side; 12 beside 3 would need no slot but 9 beside 3 both."""
    placements = _all_placements(4, (2, 2, 2))
    known, heavy, _ = _bound([18, 3, 3, 3], 3, 2)
    assert known == 9
    assert heavy == pytest.approx(_optimum(np.array([18.0, 3, 3, 3]), placements), rel=1e-6) == pytest.approx(9, rel=1e-6)


def test_two_heavy_replicas_cannot_share_one_light_partner():
    """Six and six with five and one: one six has the five beside it."""
    known, heavy, paired = _bound([6, 6, 5, 1], 2, 2)
    assert known == heavy == 9
    assert paired == pytest.approx(11, rel=1e-4)


def test_the_published_toy():
    """Its optimum is 196.67; with the greedy's counts no packing beats 232."""
    known, heavy, paired = _bound([600, 560, 120, 120, 20, 10, 10, 10], 8, 2)
    assert known <= heavy <= paired <= 590 / 3
    assert paired > 1.01 * known


def test_what_is_known_comes_back_where_nothing_can_be_added():
    """No load, one slot a rank, an optimum reached already, numbers too small or too large to be told apart."""
    row = np.array([[9.0, 3.0, 3.0, 3.0]])
    for load, known, upper in [
        (0 * row, 0.0, 0.0),
        (row, 12.0, 12.0),
        (row * 1e-307, 9e-307, 12e-307),
        (row * 1e306, 9e306, 12e306),
    ]:
        for bound in _both(load, 4, 2, 2, np.array([known]), np.array([upper])):
            assert bound.tolist() == [known]
    assert heavy_replica_bound(row, 4, 4, 1, np.array([9.0]), np.array([10.0])).tolist() == [9.0]
    assert paired_replica_bound(row, 6, 2, np.array([9.0]), np.array([10.0]), 10, 1e-4).tolist() == [9.0]


def test_never_above_what_was_reached():
    """The upper end is not passed, and rows do not touch one another."""
    load = np.array([[9.0, 3.0, 3.0, 3.0], [6.0, 6.0, 5.0, 1.0]])
    known, upper = np.array([9.0, 9.0]), np.array([11.0, 10.0])
    for k in (heavy_replica_bound(load, 4, 2, 2, known, upper), paired_replica_bound(load, 4, 2, known, upper, 50, 1e-4)):
        assert (k <= upper).all()
        assert k[0] == pytest.approx(11, rel=1e-3)
    assert known.tolist() == [9, 9]
