"""Counts for packs of two: pairs are the best there are, steps never lose, and most tiny cases end at the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise.kernels import coupling
from equipoise.kernels.counts import make_counts

ENOUGH = 1_000_000


@st.composite
def rows(draw, max_experts=7, max_extra=8):
    """Draw (falling load, count, most) of an even number of replicas."""
    experts = draw(st.integers(1, max_experts))
    most = draw(st.integers(2, 6))
    extra = draw(st.lists(st.integers(0, most - 1), min_size=experts, max_size=experts))
    while sum(extra) > max_extra or (experts + sum(extra)) % 2:
        e = max(range(experts), key=lambda e: extra[e])
        extra[e] += 1 if extra[e] == 0 else -1
    load = sorted(draw(st.lists(st.integers(0, 100), min_size=experts, max_size=experts)), reverse=True)
    return [float(x) for x in load], [1 + x for x in extra], most


def _counts(load, count, most, cost=(1.0, 0.0)):
    counts = make_counts(len(load), most, *cost)
    counts.load[:] = load
    counts.count[:] = count
    counts.share[:] = [_share(x, n, cost) for x, n in zip(load, count, strict=True)]
    return counts


def _share(load, count, cost=(1.0, 0.0)):
    return cost[0] * (load / count) + cost[1] * min(1.0, load / count)


def _order(counts):
    order = np.empty(counts.load.shape[0], np.int64)
    coupling.sort_by_share(counts.share, order)
    return order


def _largest(load, count):
    return max(x[0] for x in twins.pairs_from_outside_in([_share(*x) for x in zip(load, count, strict=True)], count))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_experts_are_sorted_by_share(share):
    """From large to small, lower experts first on ties."""
    order = np.empty(len(share), np.int64)
    coupling.sort_by_share(np.array(share, np.float64), order)
    assert order.tolist() == twins.largest_first(share)


@given(rows())
def test_the_largest_pair_is_that_of_all_pairs_listed(row):
    """The largest replica with the smallest, and so on: the first of the largest pairs, from outside in."""
    counts = _counts(*row)
    pairs = twins.pairs_from_outside_in(counts.share.tolist(), row[1])
    found, a, b = coupling.largest_pair(counts.share, counts.count, _order(counts), np.inf)
    assert (found, a, b) == max(pairs, key=lambda pair: pair[0])


@given(rows(max_experts=5, max_extra=5))
def test_no_other_pairing_is_better(row):
    """Over all ways to pair, the largest pair is not smaller."""
    counts = _counts(*row)
    weight = np.repeat(counts.share, counts.count)[:8].tolist()
    share, count = np.unique(weight, return_counts=True)
    found, _, _ = coupling.largest_pair(share[::-1].copy(), count[::-1].copy(), np.arange(len(share)), np.inf)
    assert found == twins.least_largest_pair(weight)


@given(rows(), st.data())
def test_with_a_bar_it_stops_at_the_first_pair_that_reaches_it(row, data):
    """Where a pair is at least the bar, the first such is told, else the largest."""
    counts = _counts(*row)
    pairs = twins.pairs_from_outside_in(counts.share.tolist(), row[1])
    bar = data.draw(st.sampled_from([pair[0] for pair in pairs]) | st.floats(0, 200))
    expected = next((pair for pair in pairs if pair[0] >= bar), max(pairs, key=lambda pair: pair[0]))
    assert coupling.largest_pair(counts.share, counts.count, _order(counts), bar) == expected


@given(rows(), st.sampled_from([(1.0, 0.0), (0.5, 3.0)]), st.integers(0, 3), st.sampled_from([0, 1, 10, ENOUGH]))
def test_counts_stay_legal_and_the_largest_pair_never_grows(row, cost, chains, work):
    """Replicas keep their number, each expert has 1 to most, shares are those of the counts; cut off anywhere."""
    load, count, most = row
    counts = _counts(*row, cost)
    before = max(x[0] for x in twins.pairs_from_outside_in(counts.share.tolist(), count))
    couples = coupling.make_couples(len(load), chains)
    left = coupling.couple_counts(counts, 0.0, work, chains, couples)
    after = counts.count.tolist()
    assert sum(after) == sum(count)
    assert min(after) >= 1
    assert max(after) <= most
    assert counts.share.tolist() == [_share(x, n, cost) for x, n in zip(load, after, strict=True)]
    assert max(x[0] for x in twins.pairs_from_outside_in(counts.share.tolist(), after)) <= before
    assert left <= work
    if work == 0:
        assert after == count


@given(rows())
def test_it_goes_on_while_a_step_helps_and_stops_at_the_bar(row):
    """At the end no replica for one of the largest pair's experts lowers that; a pair small enough stays as it is."""
    load, count, most = row
    counts = _counts(*row)
    couples = coupling.make_couples(len(load), 0)
    assert coupling.couple_counts(counts, _largest(load, count), ENOUGH, 0, couples) == ENOUGH
    assert counts.count.tolist() == count
    coupling.couple_counts(counts, 0.0, ENOUGH, 0, couples)
    after = counts.count.tolist()
    _, *receivers = coupling.largest_pair(counts.share, counts.count, _order(counts), np.inf)
    for receiver in receivers:
        for donor in range(len(load)):
            if donor != receiver and after[donor] > 1 and after[receiver] < most:
                trial = [n + (e == receiver) - (e == donor) for e, n in enumerate(after)]
                assert _largest(load, trial) >= _largest(load, after) * (1 - 1e-12)


@pytest.mark.parametrize("skew", [1, 3])
def test_most_tiny_cases_end_at_the_optimum_and_chains_find_more(skew):
    """Of 200 seeded cases, two thirds end at the least of all counts, with chains over 70 %; no case ends higher for chains.

    (139 and 142 cases, with chains 150 and 145: such rows are planned by trying all ways; these steps are for larger ones.)
    """
    rng = np.random.default_rng(skew)
    reached = np.zeros(2)
    for _ in range(200):
        ranks = int(rng.integers(3, 6))
        experts = int(rng.integers(3, 2 * ranks))
        load = np.sort(rng.random(experts) ** skew)[::-1].tolist()
        greedy = twins.greedy_counts(load, 2 * ranks, ranks)
        least = min(_largest(load, way) for way in twins.ways_to_count(experts, 2 * ranks, ranks))
        ends = []
        for chains in (0, 16):
            counts = _counts(load, greedy, ranks)
            coupling.couple_counts(counts, 0.0, ENOUGH, chains, coupling.make_couples(experts, chains))
            ends.append(_largest(load, counts.count.tolist()))
        assert ends[1] <= ends[0] <= _largest(load, greedy)
        reached += [end <= least * (1 + 1e-12) for end in ends]
    assert reached[0] >= 133
    assert reached[1] >= 141
    assert reached[0] < reached[1]
