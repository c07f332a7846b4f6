"""Whole tokens from shares, against twins in exact fractions and against every way there is."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.kernels import apportioning

PARTS = 64


@st.composite
def divisions(draw, max_layers=2, max_experts=4, max_slots=8):
    """Draw (expert_of_slot, shares in 64ths, counts), each [layers][...]: some slots empty, some shares 0."""
    layers, experts, slots = (
        draw(st.integers(1, max_layers)),
        draw(st.integers(1, max_experts)),
        draw(st.integers(1, max_slots)),
    )
    rows = [draw(st.lists(st.integers(-1, experts - 1), min_size=slots, max_size=slots)) for _ in range(layers)]
    shares, counts = [], []
    for row in rows:
        share = [0] * slots
        for mine in _slots_of(row).values():
            cuts = sorted(draw(st.lists(st.integers(0, PARTS), min_size=len(mine) - 1, max_size=len(mine) - 1)))
            for s, low, high in zip(mine, [0, *cuts], [*cuts, PARTS], strict=True):
                share[s] = high - low
        shares.append(share)
        some = st.one_of(st.integers(0, 3), st.integers(0, 1000))
        counts.append([draw(some) if e in row else 0 for e in range(experts)])
    return rows, shares, counts


def _slots_of(row):
    """Slots of each expert that has any."""
    return {e: [s for s, held in enumerate(row) if held == e] for e in sorted(set(row)) if e >= 0}


def _lists(experts, slots):
    return apportioning.make_slot_lists(experts, slots)


def _apportion(rows, shares, counts, source):
    tokens = np.full((len(rows), len(rows[0])), 99, np.int64)
    scratch = _lists(len(counts[0]), len(rows[0]))
    apportioning.apportion_rows(np.array(rows), np.array(shares, np.float64), np.array(counts), source, scratch, tokens)
    return tokens.tolist()


def _offset(source, expert):
    """Van der Corput's number of the source, moved on by the golden ratio for each expert."""
    corput = Fraction(int(format(source, "032b")[::-1], 2), 2**32)
    return (corput + expert * Fraction(0x9E3779B9, 2**32)) % 1


def test_offsets_are_spread_evenly():
    """Any 2**m sources in a row have one offset in each of 2**m equal parts, whatever the expert; the first are known."""
    assert [apportioning.offset_of(source, 0) for source in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]
    for start, expert in itertools.product((0, 8, 24), (0, 1, 255)):
        eighths = sorted(int(apportioning.offset_of(source, expert) * 8) for source in range(start, start + 8))
        assert eighths == list(range(8))
    assert 0.0 <= apportioning.offset_of(2**32 - 1, 2**30) < 1.0


@given(st.integers(0, 2**32 - 1), st.integers(0, 5000))
def test_offsets_exactly(source, expert):
    """As the sequence is defined, to the bit."""
    assert Fraction(apportioning.offset_of(source, expert)) == _offset(source, expert)


@given(divisions(), st.integers(0, 40))
def test_cumulative_sums_are_rounded(drawn, source):
    """Slot k gets floor(c_k + u) - floor(c_(k-1) + u), worked out in fractions; empty slots get nothing."""
    rows, parts, counts = drawn
    found = _apportion(rows, np.array(parts) / PARTS, counts, source)
    for row, share, count, got in zip(rows, parts, counts, found, strict=True):
        expected = [0] * len(row)
        for e, mine in _slots_of(row).items():
            reach = _offset(source, e)
            for s in mine:
                expected[s] = math.floor(reach + Fraction(count[e] * share[s], PARTS)) - math.floor(reach)
                reach += Fraction(count[e] * share[s], PARTS)
        assert got == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(any), st.integers(0, 2**40), st.integers(0, 99))
def test_nothing_is_lost_by_rounding(parts, count, source):
    """Whatever the shares: the total is exact, no slot is a token away, and a share of 0 gets nothing."""
    share = np.array(parts) / sum(parts)
    (got,) = _apportion([[0] * len(parts)], [share], [[count]], source)
    assert sum(got) == count
    for tokens, part in zip(got, share.tolist(), strict=True):
        assert abs(tokens - count * Fraction(part)) < 1
        assert part > 0.0 or tokens == 0


@pytest.mark.parametrize("replicas", [3, 7, 10, 49])
@pytest.mark.parametrize("count", [1, 5, 49, 2**40 - 1])
def test_shares_that_no_float_holds(replicas, count):
    """Thirds, sevenths and the like, for every one of 64 sources."""
    for source in range(64):
        (got,) = _apportion([[0] * replicas], [[1 / replicas] * replicas], [[count]], source)
        assert sum(got) == count
        assert max(got) - min(got) <= 1


@given(divisions(max_experts=3), st.integers(0, 40), st.randoms(use_true_random=False))
def test_tokens_choose_slots(drawn, source, random):
    """Each expert's tokens go to its slots in rising order, each slot as many as are apportioned to it; -1 stays."""
    rows, parts, counts = drawn
    expected_counts = _apportion(rows, np.array(parts) / PARTS, counts, source)
    for row, share, count, expected in zip(rows, parts, counts, expected_counts, strict=True):
        ids = [e for e, n in enumerate(count) for _ in range(n)] + [-1] * 3
        ids += [-1] * (len(ids) % 2)
        random.shuffle(ids)
        topk, out = np.array(ids).reshape(-1, 2), np.full((len(ids) // 2, 2), 99)
        scratch = _lists(len(count), len(row)), np.full(len(count), 7), np.full(len(row), 7)
        apportioning.choose_slots_into(topk, np.array(row), np.array(share) / PARTS, source, *scratch, out)
        chosen = out.ravel().tolist()
        dealt = {e: iter([s for s in mine for _ in range(expected[s])]) for e, mine in _slots_of(row).items()}
        assert chosen == [next(dealt[e]) if e >= 0 else -1 for e in ids]


@given(divisions(), st.data())
def test_largest_remainder(drawn, data):
    """As a sort by remainder, then slot, says; in fractions."""
    rows, parts, counts = drawn
    shares = np.array(parts) / PARTS
    tokens = np.array(
        [[shares[x, s] * counts[x][e] if e >= 0 else 0.0 for s, e in enumerate(row)] for x, row in enumerate(rows)]
    )
    whole = np.full(shares.shape, 99, np.int64)
    scratch = _lists(len(counts[0]), shares.shape[1])
    apportioning.round_rows(np.array(rows), np.array(counts, np.float64), tokens, whole, scratch)
    for row, share, count, got in zip(rows, parts, counts, whole.tolist(), strict=True):
        expected = [0] * len(row)
        for e, mine in _slots_of(row).items():
            exact = {s: Fraction(share[s] * count[e], PARTS) for s in mine}
            for s in mine:
                expected[s] = math.floor(exact[s])
            by_remainder = sorted(mine, key=lambda s: (math.floor(exact[s]) - exact[s], s))
            for s in by_remainder[: count[e] - sum(expected[s] for s in mine)]:
                expected[s] += 1
        assert got == expected


def test_dust_gets_no_token():
    """What rounding left over on a slot does not win against what is nearly a token; a slot just above one keeps it."""
    tokens = np.array([[4e-16, 2.9999999999999996, 1.0000000001]])
    whole = np.empty((1, 3), np.int64)
    apportioning.round_rows(np.zeros((1, 3), np.int64), np.array([[4.0]]), tokens, whole, _lists(1, 3))
    assert whole.tolist() == [[0, 3, 1]]


@st.composite
def transports(draw, max_sources=6, max_slots=6, most=30):
    """Draw (counts [sources], slot tokens [slots]) with the same total."""
    counts = draw(st.lists(st.integers(0, most), min_size=1, max_size=max_sources))
    replicas = draw(st.integers(1, max_slots))
    cuts = sorted(draw(st.lists(st.integers(0, sum(counts)), min_size=replicas - 1, max_size=replicas - 1)))
    return counts, [high - low for low, high in zip([0, *cuts], [*cuts, sum(counts)], strict=True)]


def _exactly(counts, slot_tokens):
    tokens = np.zeros((len(counts), 1, len(slot_tokens)), np.int64)
    expert = np.zeros((1, len(slot_tokens)), np.int64)
    apportioning.apportion_rows_exactly(expert, np.array([slot_tokens]), np.array(counts).reshape(-1, 1, 1), tokens)
    return tokens[:, 0].tolist()


def _assert_exact(counts, slot_tokens, got):
    total = max(1, sum(counts))
    assert [sum(row) for row in got] == counts
    assert [sum(column) for column in zip(*got, strict=True)] == slot_tokens
    for count, row in zip(counts, got, strict=True):
        assert all(abs(x * total - count * tokens) < total for x, tokens in zip(row, slot_tokens, strict=True))


@given(transports())
def test_sources_and_slots_both_exactly(drawn):
    """Rows, columns, and each entry rounded down or up."""
    _assert_exact(*drawn, _exactly(*drawn))


def test_every_small_case():
    """All ways to have up to 4 tokens a source on three sources, and to divide them over three slots: ways are needed too."""
    for counts in itertools.product(range(5), repeat=3):
        for first in range(sum(counts) + 1):
            for second in range(first, sum(counts) + 1):
                slot_tokens = [first, second - first, sum(counts) - second]
                _assert_exact(list(counts), slot_tokens, _exactly(list(counts), slot_tokens))


@given(transports(max_sources=3, max_slots=3, most=6))
def test_among_all_roundings(drawn):
    """What is found is among all roundings with these sums, listed one by one."""
    counts, slot_tokens = drawn
    total = max(1, sum(counts))
    entries = [(n * t // total, -(-n * t // total)) for n in counts for t in slot_tokens]
    width = len(slot_tokens)
    legal = []
    for choice in itertools.product(*(sorted({low, high}) for low, high in entries)):
        rows = [list(choice[i : i + width]) for i in range(0, len(choice), width)]
        if [sum(row) for row in rows] == counts and [sum(c) for c in zip(*rows, strict=True)] == slot_tokens:
            legal.append(rows)
    assert _exactly(counts, slot_tokens) in legal


@pytest.mark.parametrize(
    ("counts", "slot_tokens"),
    [
        ([1, 1, 2, 0], [1, 1, 2]),  # one other source gives way
        ([2, 1, 4, 5, 6, 3], [3, 4, 7, 0, 7]),  # twice
        ([3, 1, 7, 0, 1, 3, 6, 6], [1, 1, 18, 3, 4]),  # two others, one after the other
    ],
)
def test_other_sources_make_room(counts, slot_tokens):
    """Where placing parts of tokens source by source ends in a corner, all is exact all the same."""
    assert _greedy_fails(counts, slot_tokens)
    _assert_exact(counts, slot_tokens, _exactly(counts, slot_tokens))


def _greedy_fails(counts, slot_tokens):
    """Whether placing parts of tokens where most are still to come, source by source, leaves some out."""
    total = sum(counts)
    below = [[n * t // total for t in slot_tokens] for n in counts]
    to_come = [t - sum(column) for t, column in zip(slot_tokens, zip(*below, strict=True), strict=True)]
    for n, row in zip(counts, below, strict=True):
        is_open = [n * t % total > 0 for t in slot_tokens]
        for _ in range(n - sum(row)):
            free = [j for j, t in enumerate(to_come) if is_open[j] and t > 0]
            if not free:
                return True
            best = max(free, key=lambda j: (to_come[j], -j))
            is_open[best] = False
            to_come[best] -= 1
    return False


def _fixed(row, shares, weight, rank_of_slot, node_of_rank):
    """Slot of each source for each expert of one layer, [experts][ranks], all ranks up."""
    weight = np.array(weight, np.float64)[np.newaxis]
    table = np.full((weight.shape[2], 1, weight.shape[1]), -1)
    order = np.argsort(-weight, axis=2, kind="stable")
    arrays = np.array(rank_of_slot), np.array(node_of_rank), table
    apportioning.fix_sources(np.array([row]), np.array([shares], np.float64), weight, order, *arrays)
    return table[:, 0].T.tolist()


def test_fixed_sources_by_hand():
    """Heavy sources first, each by the slot owed most; equal ones by nearness; on ties from replica expert mod replicas."""
    ranks, nodes = [0, 1, 2, 3], [0, 0, 1, 1]
    # 9 + 5 + 4 + 2 tokens, 10 owed to each slot: 9 and 2 find both owed as much, so they look for nearness, then turns
    assert _fixed([0, 0, -1, -1], [0.5, 0.5, 0, 0], [[5, 9, 4, 2]], ranks, nodes) == [[0, 1, 0, 0]]
    assert _fixed([0, -1, 0, -1], [0.5, 0, 0.5, 0], [[5, 4, 2, 9]], ranks, nodes) == [[0, 0, 2, 2]]
    both = [[5, 4, 2, 9], [5, 4, 2, 9]]
    assert _fixed([0, 0, 1, 1], [0.5] * 4, both, [0, 0, 0, 0], [0, 0, 1, 1]) == [[1, 1, 0, 0], [2, 2, 3, 3]]
    # three of four sources for slot 2: its own rank and node, and one from afar
    assert _fixed([0, -1, 0, -1], [0.25, 0, 0.75, 0], [[1, 1, 1, 1]], ranks, nodes) == [[0, 2, 2, 2]]
    # sources without tokens are divided among themselves
    assert _fixed([0, -1, 0, -1], [0.5, 0, 0.5, 0], [[0, 0, 0, 8]], ranks, nodes) == [[0, 0, 2, 2]]
