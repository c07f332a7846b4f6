"""Exchanges of two items for two: the one all of them, tried one by one, say; and a row never ends later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise.kernels import doubling
from equipoise.kernels.packs import make_packs, open_packs
from equipoise.kernels.refining import UNTIL_NONE_HELPS, swap_in_row

JITTER = np.random.default_rng(0).random(64).tolist()
"""Added to weights where speeds differ: there only distinct numbers make an answer that rounding cannot change."""


@st.composite
def rows(draw, least_room=1, most_packs=4):
    """Draw packs of (weight, id, item), no id twice on one, one of them of four or more, and their speeds."""
    num_packs = draw(st.integers(2, most_packs))
    room = [
        draw(st.integers(4, 5)),
        *draw(st.lists(st.integers(least_room, 5), min_size=num_packs - 1, max_size=num_packs - 1)),
    ]
    speed = [draw(st.sampled_from([1.0, 2.0]))] * num_packs
    if draw(st.booleans()):
        speed = draw(st.lists(st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.0]), min_size=num_packs, max_size=num_packs))
    is_even = len(set(speed)) == 1
    ids = [draw(st.permutations(range(8)))[:size] for size in room]
    weight = draw(st.lists(st.integers(0, 60), min_size=sum(room), max_size=sum(room)))
    weight = [float(w) if is_even else w + JITTER[i] for i, w in enumerate(weight)]
    items = [(p, this_id) for p in range(num_packs) for this_id in ids[p]]
    order = sorted(range(len(items)), key=lambda i: -weight[i])
    found = [[] for _ in room]
    for item, i in enumerate(order):
        found[items[i][0]].append((weight[i], items[i][1], item))
    return found, speed


def _open(row, speed, num_ids=8):
    items = sorted((item, weight, this_id, p) for p, pack in enumerate(row) for weight, this_id, item in pack)
    packs = make_packs(np.array([len(pack) for pack in row]), np.array(speed), num_ids)
    weight, item_id, pack = (np.array([x[k] for x in items]) for k in (1, 2, 3))
    open_packs(weight, item_id, pack, packs)
    return packs, doubling.make_pairs(packs.item.shape[1])


def _read(packs):
    columns = packs.weight, packs.item_id, packs.item
    return [list(zip(*(x[p, :n].tolist() for x in columns), strict=True)) for p, n in enumerate(packs.room)]


def _assert_consistent(packs, row, speed):
    """The packs hold what ``row`` held, though elsewhere, no id twice, and are sorted, summed and ranked."""
    after = _read(packs)
    assert sorted(x for pack in after for x in pack) == sorted(x for pack in row for x in pack)
    for p, pack in enumerate(after):
        assert pack == sorted(pack, key=lambda x: (-x[0], x[2]))
        assert np.flatnonzero(packs.holds[p]).tolist() == sorted(x[1] for x in pack)
    assert packs.time.tolist() == twins.times(after, speed)
    assert packs.ranking.tolist() == twins.ranking(after, speed)


@given(rows())
def test_a_double_exchange_is_made_as_the_rule_says(drawn):
    """The partner, and when both end, are those that all legal exchanges, tried one by one, give; or none helps."""
    row, speed = drawn
    packs, pairs = _open(row, speed)
    heavy = twins.ranking(row, speed)[0]
    expected = twins.exchange_by_rule(row, speed, 2)
    assert doubling.double_once(packs, pairs) == (expected is not None)
    _assert_consistent(packs, row, speed)
    changed = {p: len(set(pack) - set(row[p])) for p, pack in enumerate(_read(packs)) if set(pack) != set(row[p])}
    if expected is None:
        assert not changed
    else:
        assert changed == {heavy: 2, expected[0]: 2}
        assert max(packs.time[heavy], packs.time[expected[0]]) == pytest.approx(expected[1], rel=1e-12)


@given(rows(most_packs=3), st.sampled_from([0, 1, 100]))
def test_a_row_never_ends_later_and_not_before_none_helps(drawn, rounds):
    """Every double exchange lowers the slowest pack or what ties with it; without a limit, none that helps is left."""
    row, speed = drawn
    packs, pairs = _open(row, speed)
    swap_in_row(packs, UNTIL_NONE_HELPS)
    row = _read(packs)
    before = packs.time.max()
    helps = twins.exchange_by_rule(row, speed, 2) is not None
    doubling.double_in_row(packs, 0.0, rounds, pairs)
    _assert_consistent(packs, row, speed)
    assert packs.time.max() <= before
    assert (_read(packs) != row) == (helps and rounds > 0)
    if rounds == 100:
        assert twins.exchange_by_rule(_read(packs), speed, 1) is None
        assert twins.exchange_by_rule(_read(packs), speed, 2) is None


@pytest.mark.parametrize("is_even", [True, False])
def test_larger_rows_keep_to_the_rule_step_by_step(is_even):
    """On seeded rows of five packs of five: each double exchange as the rule says, then single ones until none helps."""
    rng = np.random.default_rng(int(is_even))
    speed = [1.0] * 5 if is_even else [1.0, 2.0, 0.5, 1.3, 0.7]
    steps, mended = 0, 0
    for _ in range(12):
        weight = np.sort(rng.integers(0, 1000, 25) if is_even else rng.random(25) * 1000)[::-1].astype(np.float64)
        packs = make_packs(np.full(5, 5), np.array(speed), 25)
        open_packs(weight, np.arange(25), rng.permutation(np.repeat(np.arange(5), 5)), packs)
        pairs = doubling.make_pairs(5)
        swap_in_row(packs, UNTIL_NONE_HELPS)
        while (expected := twins.exchange_by_rule(_read(packs), speed, 2)) is not None:
            row, heavy = _read(packs), packs.ranking[0]
            again = _open(row, speed, 25)[0]
            assert doubling.double_once(again, pairs)
            changed = {p for p in range(5) if set(_read(again)[p]) != set(row[p])}
            assert changed == {heavy, expected[0]}
            mended += twins.exchange_by_rule(_read(again), speed, 1) is not None
            swap_in_row(again, UNTIL_NONE_HELPS)
            doubling.double_in_row(packs, 0.0, 1, pairs)
            assert _read(packs) == _read(again)
            steps += 1
    assert steps > mended > 0


def test_where_no_single_exchange_helps_two_for_two_do():
    """No two items differ by one, what has to move; two and two do."""
    row = [[(20.0, 0, 0), (13.0, 1, 3), (9.0, 2, 4), (2.0, 3, 7)], [(17.0, 4, 1), (15.0, 5, 2), (6.0, 6, 5), (4.0, 7, 6)]]
    assert twins.exchange_by_rule(row, [1.0, 1.0], 1) is None
    packs, pairs = _open(row, [1.0, 1.0])
    swap_in_row(packs, UNTIL_NONE_HELPS)
    assert packs.time.tolist() == [44.0, 42.0]
    doubling.double_in_row(packs, 0.0, 1, pairs)
    assert packs.time.tolist() == [43.0, 43.0]


def test_it_stops_at_the_bar_and_leaves_packs_of_three_alone():
    """A row that is good enough stays as it is; so do packs of fewer than four, whatever would help."""
    row = [[(9.0, 0, 0), (8.0, 1, 1), (7.0, 2, 2), (6.0, 3, 3)], [(4.0, 4, 4), (3.0, 5, 5), (2.0, 6, 6), (1.0, 7, 7)]]
    packs, pairs = _open(row, [1.0, 1.0])
    doubling.double_in_row(packs, 30.0, 100, pairs)
    assert _read(packs) == row
    doubling.double_in_row(packs, 29.0, 100, pairs)
    assert packs.time.tolist() == [20.0, 20.0]
    small = [pack[:3] for pack in row]
    small = [[(w, e, 3 * p + i) for i, (w, e, _) in enumerate(pack)] for p, pack in enumerate(small)]
    packs, pairs = _open(small, [1.0, 1.0])
    doubling.double_in_row(packs, 0.0, 100, pairs)
    assert _read(packs) == small
