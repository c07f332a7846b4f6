"""Filling spare slots: the bound, what moves, and what sending takes, against definitions and all ways tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.kernels.filling import Fees, fill_rows, make_fill_work, time_of_links
from equipoise.kernels.splitting import make_split_work

FREE = Fees(0.0, 0.0, 0.0, 0.0, False)
FEES = [
    FREE,
    Fees(0.0005, 0.0, 0.0, 0.0, False),
    Fees(0.05, 0.0, 0.0, 0.0, True),
    Fees(0.0, 0.5, 3.0, 0.0, False),
    Fees(0.0, 0.0, 0.0, 1.0, False),
    Fees(0.0005, 0.0, 0.0, 1.1, True),
]


@st.composite
def fillings(draw, max_layers=2, max_ranks=4, max_room=2, max_spare=2):
    """Draw (home [layers][slots], load [layers][experts], rank_of_slot, node, speed, is_up, room): spare slots come last."""
    ranks, own = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_room))
    spare = draw(st.integers(1, max_spare))
    is_up = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    experts = own + spare + draw(st.integers(0, 2))
    speed = draw(st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0]), min_size=ranks, max_size=ranks))
    node = draw(st.lists(st.integers(0, 1), min_size=ranks, max_size=ranks))
    room = [spare if up else 0 for up in is_up]
    rank_of_slot = [r for r in range(ranks) for _ in range(own + room[r])]
    home, load = [], []
    for _ in range(draw(st.integers(1, max_layers))):
        row = []
        for r in range(ranks):
            row += (draw(st.permutations(range(experts)))[:own] if is_up[r] else [-1] * own) + [-1] * room[r]
        home.append(row)
        load.append([float(draw(st.integers(0, 60))) if e in row else 0.0 for e in range(experts)])
    return home, load, rank_of_slot, node, speed, is_up, room


def _fill(drawn, fees=FREE, held=None, most=None, scratch=None):
    """Return (expert_of_slot, source, tokens, rank_load, bound, tight)."""
    home, load, _, _, speed, _, _ = (np.array(x) for x in drawn)
    if scratch is None:
        scratch = _scratch(drawn, most)
    slots, source, tokens = np.full_like(home, -7), np.full_like(home, -7), np.full(home.shape, np.nan)
    rank_load, bound = np.full((len(home), len(speed)), np.nan), np.full(len(home), np.nan)
    tight = np.ones(rank_load.shape, np.bool_)
    before = home if held is None else np.array(held)
    fill_rows(home, before, load, fees, *scratch, slots, source, tokens, rank_load, bound, tight)
    return slots, source, tokens, rank_load, bound, tight


def _scratch(drawn, most=None):
    _, load, rank_of_slot, node, speed, is_up, room = (np.array(x) for x in drawn)
    received = room if most is None else np.minimum(room, most)
    fill = make_fill_work(load.shape[1], rank_of_slot, node, is_up, room, received)
    return fill, make_split_work(load.shape[1], rank_of_slot, speed.astype(float))


def _experts_by_rank(row, rank_of_slot, num_ranks):
    return [{e for s, e in enumerate(row) if e >= 0 and rank_of_slot[s] == r} for r in range(num_ranks)]


def _least_time(load, by_rank, speed):
    """Least largest rank time of any split: the most that any set of ranks proves, all sets tried."""
    ranks = [{r for r, experts in enumerate(by_rank) if e in experts} for e in range(len(load))]
    most = 0.0
    for chosen in itertools.product([False, True], repeat=len(by_rank)):
        inside = {r for r, is_in in enumerate(chosen) if is_in}
        if inside:
            held = sum(x for e, x in enumerate(load) if ranks[e] and ranks[e] <= inside)
            most = max(most, held / sum(speed[r] for r in inside))
    return most


def _optimum(home, load, rank_of_slot, speed, room, most=None, held=None):
    """Least time over every choice of up to ``room`` experts beside home, up to ``most`` of them not held, and every split."""
    own = _experts_by_rank(home, rank_of_slot, len(speed))
    before = own if held is None else _experts_by_rank(held, rank_of_slot, len(speed))
    choices = []
    for r in range(len(speed)):
        others = [e for e in range(len(load)) if e not in own[r]]
        sets = [set(c) for n in range(room[r] + 1) for c in itertools.combinations(others, n)]
        sets = [c for c in sets if most is None or len(c - before[r]) <= most]
        choices.append([own[r] | c for c in sets if not any(c < other for other in sets)])
    return min(_least_time(load, by_rank, speed) for by_rank in itertools.product(*choices))


@settings(max_examples=40)
@given(fillings(max_layers=1), st.sampled_from(FEES), st.sampled_from([None, None, 0, 1]))
def test_no_filling_ends_before_the_bound(drawn, fees, most):
    """All fillings are tried: the best lies between the bound and what is found, which is no later than home alone."""
    home, load, rank_of_slot, _, speed, _, room = drawn
    _, _, _, rank_load, bound, _ = _fill(drawn, fees, most=most)
    for x, row in enumerate(home):
        best = _optimum(row, load[x], rank_of_slot, speed, room, most)
        found = (rank_load[x] / speed).max()
        alone = _least_time(load[x], _experts_by_rank(row, rank_of_slot, len(speed)), speed)
        assert bound[x] <= best * (1 + 1e-12)
        assert best * (1 - 1e-12) <= found <= alone * (1 + 1e-9)


@given(fillings(), st.sampled_from(FEES))
def test_moves_by_definition(drawn, fees):
    """Home stays; a replica comes from a rank that has it at home to one that has not; empty slots get nothing."""
    home, load, rank_of_slot, _, _, _, room = drawn
    slots, source, tokens, rank_load, _, _ = (x.tolist() for x in _fill(drawn, fees))
    for x, row in enumerate(home):
        own = _experts_by_rank(row, rank_of_slot, len(room))
        for s, e in enumerate(slots[x]):
            is_spare = s not in [t for t in range(len(row)) if _nth_on_rank(t, rank_of_slot) < _own(room, rank_of_slot, t)]
            if not is_spare or row[s] >= 0:
                assert (e, source[x][s]) == (row[s], -1)
            elif e >= 0:
                assert e in own[source[x][s]]
                assert e not in own[rank_of_slot[s]]
                assert tokens[x][s] > 0.0
            else:
                assert (source[x][s], tokens[x][s]) == (-1, 0.0)
        assert all(len(set(held)) == len(held) for held in _lists_by_rank(slots[x], rank_of_slot, len(room)))
        for e, wanted in enumerate(load[x]):
            assert sum(t for t, held in zip(tokens[x], slots[x], strict=True) if held == e) == pytest.approx(wanted, rel=1e-12)
        for r in range(len(room)):
            on_rank = sum(t for t, rank in zip(tokens[x], rank_of_slot, strict=True) if rank == r)
            assert rank_load[x][r] == pytest.approx(on_rank, rel=1e-12, abs=1e-9)


def _nth_on_rank(slot, rank_of_slot):
    return slot - rank_of_slot.index(rank_of_slot[slot])


def _own(room, rank_of_slot, slot):
    """Home slots of a slot's rank."""
    return rank_of_slot.count(rank_of_slot[slot]) - room[rank_of_slot[slot]]


def _lists_by_rank(row, rank_of_slot, num_ranks):
    return [[e for s, e in enumerate(row) if e >= 0 and rank_of_slot[s] == r] for r in range(num_ranks)]


@given(fillings(max_layers=3), st.sampled_from(FEES), st.data())
@settings(max_examples=80)
def test_scratch_carries_nothing_over(drawn, fees, data):
    """Layers in another order, on scratch that others have used, give the same rows in that order."""
    scratch = _scratch(drawn)
    order = data.draw(st.permutations(range(len(drawn[0]))))
    forward = _fill(drawn, fees, scratch=scratch)
    backward = _fill(([drawn[0][x] for x in order], [drawn[1][x] for x in order], *drawn[2:]), fees, scratch=scratch)
    for one, other in zip(forward, backward, strict=True):
        assert one[order].tobytes() == other.tobytes()


@given(fillings(max_layers=1), st.data(), st.sampled_from([None, 0, 1]))
def test_the_bound_where_replicas_are_held(drawn, data, most):
    """What ranks hold needs not be received: with it too no filling ends before the bound, and it is not lost."""
    home, load, rank_of_slot, _, speed, _, room = drawn
    other = [[float(data.draw(st.integers(0, 60))) if e in home[0] else 0.0 for e in range(len(load[0]))]]
    held = _fill((home, other, *drawn[2:]))[0]
    _, _, _, rank_load, bound, _ = _fill(drawn, held=held, most=most)
    best = _optimum(home[0], load[0], rank_of_slot, speed, room, most, held[0].tolist())
    found = (rank_load[0] / speed).max()
    kept = _least_time(load[0], _experts_by_rank(held[0].tolist(), rank_of_slot, len(speed)), speed)
    assert bound[0] <= best * (1 + 1e-12)
    assert best * (1 - 1e-12) <= found <= kept * (1 + 1e-9)


@given(fillings(max_ranks=6), st.floats(0.0, 5.0), st.floats(0.0, 5.0), st.data())
@settings(max_examples=80)
def test_time_of_links_by_definition(drawn, near, far, data):
    """Each rank adds up what it sends and what it receives, by whether the other is on its node; the busiest counts."""
    home, _, rank_of_slot, node, speed, _, _ = drawn
    source = [data.draw(st.integers(-1, len(speed) - 1)) for _ in home[0]]
    sent, received = [0.0] * len(speed), [0.0] * len(speed)
    for s, giver in enumerate(source):
        if giver >= 0:
            fee = near if node[giver] == node[rank_of_slot[s]] else far
            sent[giver] += fee
            received[rank_of_slot[s]] += fee
    arrays = (np.array(x) for x in (home[0], source))
    found = time_of_links(
        *arrays, near, far, np.array(rank_of_slot), np.array(node), np.empty(len(speed)), np.full(len(speed), 9.0)
    )
    assert found == pytest.approx(max(sent + received), rel=1e-12)


def _layer(home, load, ranks, own, spare, speed=None):
    """One layer of ranks alike."""
    row = [e for r in range(ranks) for e in (*home[r * own : (r + 1) * own], *[-1] * spare)]
    rank_of_slot = [r for r in range(ranks) for _ in range(own + spare)]
    speed = [1.0] * ranks if speed is None else speed
    return [row], [load], rank_of_slot, [0] * ranks, speed, [True] * ranks, [spare] * ranks


class TestByHand:
    """Fillings that can be read off."""

    def test_receivers_are_filled_to_the_brim(self):
        """10 tokens of 16 on one of four ranks: two receive, the others too little to send to."""
        slots, source, tokens, rank_load, bound, _ = _fill(_layer([0, 1, 2, 3], [10.0, 4.0, 1.0, 1.0], 4, 1, 1))
        assert slots.tolist() == [[0, -1, 1, -1, 2, 0, 3, 0]]
        assert source.tolist() == [[-1, -1, -1, -1, -1, 0, -1, 0]]
        assert tokens.tolist() == [[4.0, 0.0, 4.0, 0.0, 1.0, 3.0, 1.0, 3.0]]
        assert rank_load.tolist() == [[4.0] * 4]
        assert bound.tolist() == [4.0]

    def test_the_bound_counts_what_can_reach_a_rank(self):
        """A rank with one spare slot takes its own and one more: where that is little, the others have the rest."""
        load = [9.0, 9.0, 9.0, 9.0, 0.0, 1.0]
        _, _, _, rank_load, bound, _ = _fill(_layer([0, 1, 2, 3, 4, 5], load, 3, 2, 1))
        assert bound.tolist() == [13.5]
        assert rank_load.max() >= 13.5

    def test_faster_ranks_take_more(self):
        """A rank three times as fast ends with three times the tokens."""
        _, _, _, rank_load, bound, _ = _fill(_layer([0, 1], [8.0, 0.0], 2, 1, 1, [1.0, 3.0]))
        np.testing.assert_allclose(rank_load, [[2.0, 6.0]], rtol=1e-9)
        assert bound.tolist() == [2.0]

    def test_a_replica_held_in_another_slot_stays_there(self):
        """Whatever comes beside it, what a rank holds already is no move, nor is it there twice."""
        home = [5, 0, 6, -1, -1, -1, 4, 5, 2, -1, -1, -1, 8, 5, 7, -1, -1, -1]
        held = [5, 0, 6, 2, -1, -1, 4, 5, 2, -1, -1, -1, 8, 5, 7, 0, 6, 2]
        load = [91.0, 0.0, 41.0, 0.0, 93.0, 63.0, 4.0, 71.0, 91.0]
        drawn = [home], [load], [0] * 6 + [1] * 6 + [2] * 6, [0, 1, 1], [0.25, 0.25, 4.0], [True] * 3, [3] * 3
        slots, source, *_ = _fill(drawn, Fees(0.0, 0.0, 0.0, 0.0, True), held=[held])
        for r in range(3):
            before, now = held[6 * r : 6 * r + 6], slots[0, 6 * r : 6 * r + 6].tolist()
            came = [e for e, giver in zip(now, source[0, 6 * r : 6 * r + 6].tolist(), strict=True) if giver >= 0]
            assert not set(came) & set(before)
            now = [e for e in now if e >= 0]
            assert len(set(now)) == len(now)

    def test_what_comes_back_for_an_unused_move_is_used(self):
        """The tight ranks prove the time over the replicas that are there in the end, and no split of these ends sooner."""
        home = [5, 3, 7, 9, 4, 2, 8, 7, 17, 11, 4, 5, 14, 7, 3, 11, 16, 0, 4, 2, 4, 5, 18, 19, 17, 2, 3, 8, 7, 3, 16, 14]
        spare = [19, 18, 19, 18, 14, 0, 19, -1]
        load = [
            *[825.5915943987197, 0.0, 66.61357858857203, 396.48969639629036, 139.44506502741382, 694.8655971521945, 0.0],
            *[91.06660224768943, 170.40670697591108, 1.4363050496070995, 0.0, 43.337779817183694, 0.0, 0.0],
            *[2.4769236980457094, 0.0, 771.1938109501422, 0.7093139779014666, 376.0328275147847, 91.9063493308928],
        ]
        held = [e for r in range(8) for e in (*home[4 * r : 4 * r + 4], spare[r])]
        drawn = _layer(home, load, 8, 4, 1)
        slots, _, _, rank_load, _, _ = _fill(drawn, held=[held])
        least = _least_time(load, _experts_by_rank(slots[0].tolist(), drawn[2], 8), [1.0] * 8)
        assert rank_load.max() == pytest.approx(least, rel=1e-9)
