"""Open packs: the exchange found is the one all exchanges, tried one by one, say; and packs stay sorted, ranked and summed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise.kernels import packs as kernels

JITTER = np.random.default_rng(0).random(64).tolist()
"""Added to weights where speeds differ: there only distinct numbers make an answer that rounding cannot change."""


@st.composite
def rows(draw, max_room=4):
    """Draw packs of (weight, id, item), no id twice on one, and their speeds."""
    num_packs = draw(st.integers(2, 5))
    room = draw(st.lists(st.integers(1, max_room), min_size=num_packs, max_size=num_packs))
    speed = [draw(st.sampled_from([1.0, 2.0]))] * num_packs
    if draw(st.booleans()):
        speed = draw(st.lists(st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.0]), min_size=num_packs, max_size=num_packs))
    is_even = len(set(speed)) == 1
    ids = [draw(st.permutations(range(max_room + 2)))[:size] for size in room]
    weight = draw(st.lists(st.integers(0, 30), min_size=sum(room), max_size=sum(room)))
    weight = [float(w) if is_even else w + JITTER[i] for i, w in enumerate(weight)]
    items = [(p, this_id) for p in range(num_packs) for this_id in ids[p]]
    order = sorted(range(len(items)), key=lambda i: -weight[i])
    found = [[] for _ in room]
    for item, i in enumerate(order):
        found[items[i][0]].append((weight[i], items[i][1], item))
    return found, speed


def _open(row, speed):
    items = sorted((item, weight, this_id, p) for p, pack in enumerate(row) for weight, this_id, item in pack)
    room = np.array([len(pack) for pack in row])
    packs = kernels.make_packs(room, np.array(speed), 1 + max(x[2] for x in items))
    weight, item_id, pack = (np.array([x[k] for x in items]) for k in (1, 2, 3))
    kernels.open_packs(weight, item_id, pack, packs)
    return packs


def _read(packs):
    columns = packs.weight, packs.item_id, packs.item
    return [list(zip(*(x[p, :n].tolist() for x in columns), strict=True)) for p, n in enumerate(packs.room)]


def _assert_consistent(packs, speed):
    row = _read(packs)
    for p, pack in enumerate(row):
        assert pack == sorted(pack, key=lambda x: (-x[0], x[2]))
        total = 0.0
        for weight, _, _ in pack:
            total += weight
        assert packs.load[p] == total
        assert sorted(np.flatnonzero(packs.holds[p])) == sorted(x[1] for x in pack)
    assert packs.time.tolist() == twins.times(row, speed)
    assert packs.ranking.tolist() == twins.ranking(row, speed)
    assert packs.ranking[packs.place].tolist() == list(range(len(row)))


@given(rows())
def test_an_exchange_is_found_as_the_rule_says(drawn):
    """The partner, and when both end, are those that all legal exchanges, tried one by one, give; or none helps."""
    row, speed = drawn
    packs = _open(row, speed)
    expected = twins.exchange_by_rule(row, speed, 1)
    i, other, j, compared = kernels.find_exchange(packs)
    assert 0 <= compared < len(row)
    if expected is None:
        assert other == -1
        return
    heavy = packs.ranking[0]
    ends = {(g[0], t[0]): end for end, g, t in twins.exchanges_between(row, speed, heavy, other, 1)}
    found = ends[_read(packs)[heavy][i], _read(packs)[other][j]]
    assert other == expected[0]
    assert found == pytest.approx(expected[1], rel=1e-12)


def test_a_partner_that_suffices_is_taken_before_a_better_one():
    """Once both end at or below the second slowest pack, no more partners are looked at; else the best of all is taken."""
    row = [[(10.0, 0, 0), (6.0, 1, 1)], [(9.0, 2, 2), (6.0, 3, 3)], [(5.0, 4, 4), (4.0, 5, 5)], [(5.0, 7, 6), (3.0, 0, 7)]]
    assert kernels.find_exchange(_open(row, [1.0] * 4)) == (1, 3, 0, 1)  # ends at 15; with pack 2 it would be 14
    row[1] = [(2.0, 0, 2), (2.0, 1, 3)]
    _, other, _, compared = kernels.find_exchange(_open(row, [1.0] * 4))
    assert (other, compared) == (2, 3)


def test_where_speeds_differ_a_faster_pack_may_follow_one_that_cannot_help():
    """A slow partner is level with the slowest pack too late; a pack that takes longer, but is fast, helps more."""
    row = [[(60.0, 0, 0), (40.0, 1, 1)], [(30.0, 5, 4), (0.0, 0, 6)], [(3.5, 6, 5)], [(40.0, 7, 2), (40.0, 8, 3)]]
    speed = [1.0, 1.0, 0.1, 2.0]
    assert twins.exchange_by_rule(row, speed, 1)[0] == 3
    i, other, _, compared = kernels.find_exchange(_open(row, speed))
    assert (i, other, compared) == (0, 3, 2)


@given(rows(), st.data())
def test_exchanges_and_new_weights_keep_packs_in_order(drawn, data):
    """After any legal exchanges and changes of weight, packs are sorted, summed, ranked, and know what they hold."""
    row, speed = drawn
    packs = _open(row, speed)
    _assert_consistent(packs, speed)
    for _ in range(4):
        p, q = data.draw(st.permutations(range(len(row))))[:2]
        row = _read(packs)
        legal = [(g[0], t[0]) for _, g, t in twins.exchanges_between(row, speed, p, q, 1)]
        if legal:
            given_item, taken = data.draw(st.sampled_from(legal))
            kernels.exchange(packs, p, row[p].index(given_item), q, row[q].index(taken))
            row[p][row[p].index(given_item)], row[q][row[q].index(taken)] = taken, given_item
            assert [sorted(pack) for pack in _read(packs)] == [sorted(pack) for pack in row]
            _assert_consistent(packs, speed)
        row = _read(packs)
        place, weight = data.draw(st.integers(0, len(row[p]) - 1)), float(data.draw(st.integers(0, 30)))
        _, this_id, item = row[p][place]
        kernels.put(packs, p, place, item, weight, this_id)
        assert (weight, this_id, item) in _read(packs)[p]
        _assert_consistent(packs, speed)


@given(rows())
def test_closed_packs_hold_nothing_and_tell_where_items_are(drawn):
    """Closing gives back each item's pack and leaves the packs empty."""
    row, speed = drawn
    packs = _open(row, speed)
    pack = np.full(sum(map(len, row)), -1)
    kernels.close_packs(pack, packs)
    assert pack.tolist() == [p for _, p in sorted((x[2], p) for p, items in enumerate(row) for x in items)]
    assert not packs.holds.any()


@pytest.mark.parametrize("time", [1.0, 1e300, 1e-300, 1e-310, 5e-324, 0.0])
def test_what_counts_as_a_gain_is_clearly_less(time):
    """The bar is a few units in the last place below, and nothing is a gain where there is no such number."""
    bar = kernels.clearly_below(time)
    assert bar < time
    assert bar == -np.inf or time * (1 - 1e-12) < bar
    assert (bar == -np.inf) == (time < 1e-310)
