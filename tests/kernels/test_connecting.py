"""Placements whose ranks can pass load on: against a slow twin of the rule, and judged against linear programs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from equipoise import Cluster, Placement
from equipoise.dispatching.splitting import dispatch
from equipoise.kernels.connecting import connect_row, connect_rows, judge_rows, make_connect_work
from equipoise.kernels.splitting import make_split_work

SPEEDS = [0.25, 0.7, 1.0, 1.0, 1.0, 1.6, 4.0]
TOKENS = st.one_of(
    st.just(0.0),
    st.integers(0, 9).map(float),  # many ties
    st.integers(0, 10_000).map(float),
    st.floats(0.0, 1e4).map(lambda x: round(x, 6)),
)


@st.composite
def rows(draw, max_ranks=6, max_experts=9, max_loads=3, is_even=False, min_slots=1):
    """Draw (loads [loads, experts], weight, count, room, speed): counts fill all slots, 1 to ``ranks`` replicas an expert."""
    ranks = draw(st.integers(1, max_ranks))
    least = -(-max(1, min_slots) // ranks)
    experts = draw(st.integers(least, max(least, max_experts)))
    least = max(least, -(-experts // ranks))
    if is_even:
        room = [draw(st.integers(least, experts))] * ranks
    else:
        room = draw(st.lists(st.integers(1, experts), min_size=ranks, max_size=ranks).filter(lambda room: sum(room) >= experts))
    count = [1] * experts
    while sum(count) < sum(room):
        free = [e for e in range(experts) if count[e] < ranks]
        count[draw(st.sampled_from(free))] += 1
    number = draw(st.integers(1, max_loads))
    loads = [[draw(TOKENS) for _ in range(experts)] for _ in range(number)]
    weight = [0.5 / (number - 1)] * (number - 1) + [0.5] if number > 1 else [1.0]
    speed = draw(st.one_of(st.just([1.0] * ranks), st.lists(st.sampled_from(SPEEDS), min_size=ranks, max_size=ranks)))
    return np.array(loads), np.array(weight), np.array(count), np.array(room), np.array(speed)


def _connect(drawn, carry=0.75, work=None):
    """Return the slots of one layer planned for the last of its loads, and whether all replicas found a place."""
    loads, weight, count, room, speed = drawn
    work = make_connect_work(len(count), len(room), len(loads)) if work is None else work
    slots = np.full(room.sum(), -7)
    return slots, connect_row(loads[-1], loads, weight, count, carry, room, speed, work, slots)


def _by_rank(slots, room):
    return [part.tolist() for part in np.split(slots, np.cumsum(room)[:-1])]


def _quotas(count, room):
    """Slots for replicas of each rank: its part of them by its room, rounded down; what is left one each, from the first."""
    wanted = sum(n for n in count if n > 1)
    quota = [wanted * k // sum(room) for k in room]
    for r in range(len(room)):
        if sum(quota) < wanted and quota[r] < room[r]:
            quota[r] += 1
    return quota


def _steps_from(start, ranks):
    """Steps from ranks of ``start`` to each other rank, over ranks that share an expert; as many as ranks without a way."""
    steps, reached = dict.fromkeys(start, 0), set(start)
    for step in range(1, len(ranks)):
        reached |= {r for r, own in enumerate(ranks) for q in reached if set(own) & set(ranks[q])}
        steps |= {r: step for r in reached if r not in steps}
    return [steps.get(r, len(ranks)) for r in range(len(ranks))]


def _twin(drawn, carry):
    """Ranks' experts in the order they come, by the rule as it is told; None where some replica must make way."""
    loads, weight, count, room, speed = ([float(x) for x in part] if part.ndim == 1 else part.tolist() for part in drawn)
    count, room = [int(n) for n in count], [int(k) for k in room]
    share = [x / n for x, n in zip(loads[-1], count, strict=True)]
    order = sorted(range(len(count)), key=lambda e: (-share[e], e))
    ranks, carried, quota = [[] for _ in room], [0.0] * len(room), _quotas(count, room)
    for e in [e for e in order if count[e] > 1]:
        for _ in range(count[e]):
            steps = _steps_from([r for r, own in enumerate(ranks) if e in own], ranks)
            for limit in (quota, room):
                free = [r for r, own in enumerate(ranks) if e not in own and len(own) < limit[r]]
                if free:
                    break
            else:
                return None
            rank = min(free, key=lambda r: (-steps[r], carried[r], r))
            ranks[rank].append(e)
            carried[rank] += share[e] / speed[rank]
    time = [[0.0] * len(room) for _ in loads]
    for r, own in enumerate(ranks):
        for e in own:
            for n, load in enumerate(loads):
                time[n][r] += carry * load[e] / count[e] / speed[r]
    for e in [e for e in order if count[e] == 1]:

        def growth(r, e=e):
            total = 0.0
            for n, load in enumerate(loads):
                now, then = time[n][r] * time[n][r], (time[n][r] + load[e] / speed[r]) * (time[n][r] + load[e] / speed[r])
                total += weight[n] * speed[r] * (then * then - now * now)
            return total

        rank = min((r for r, own in enumerate(ranks) if len(own) < room[r]), key=lambda r: (growth(r), r))
        ranks[rank].append(e)
        for n, load in enumerate(loads):
            time[n][rank] += load[e] / speed[rank]
    return ranks


@given(rows(), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_what_is_placed_is_strict_with_counts_as_asked(drawn, carry):
    """All slots filled, each expert as often as asked, no rank with one twice; or it is said that there was no place."""
    _, _, count, room, _ = drawn
    slots, is_done = _connect(drawn, carry)
    if is_done:
        assert np.bincount(slots, minlength=len(count)).tolist() == count.tolist()
        assert all(len(set(own)) == len(own) for own in _by_rank(slots, room))


@given(rows(), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_the_twin_places_the_same(drawn, carry):
    """Replicas one after the other on the farthest rank, of several the least loaded; then singles where powers grow least."""
    expected = _twin(drawn, carry)
    if expected is not None:
        slots, is_done = _connect(drawn, carry)
        assert is_done
        assert _by_rank(slots, drawn[3]) == expected


def test_the_twin_places_most_cases():
    """On seeded problems of the usual kind no replica must make way, so that the twin says something of them."""
    rng = np.random.default_rng(3)
    twins = 0
    for _ in range(30):
        ranks, experts = int(rng.integers(3, 7)), int(rng.integers(8, 13))
        room = np.full(ranks, -(-experts // ranks) + 1)
        load = np.floor(rng.random((2, experts)) ** 3 * 100)
        count = np.ones(experts, int)
        while count.sum() < room.sum():
            count[np.argmax(np.where(count < ranks, np.sqrt(load[-1]) / count, -1.0))] += 1
        drawn = load, np.array([0.5, 0.5]), count, room, np.ones(ranks)
        expected = _twin(drawn, 0.8)
        if expected is not None:
            twins += 1
            assert _by_rank(_connect(drawn, 0.8)[0], room) == expected
    assert twins >= 25


@given(rows(is_even=True))
def test_replicas_are_spread_evenly(drawn):
    """Ranks with as many slots hold as many replicas of experts with several, give or take one, where quotas could be kept."""
    _, _, count, room, _ = drawn
    slots, is_done = _connect(drawn)
    many = [sum(count[e] > 1 for e in own) for own in _by_rank(slots, room)] if is_done else []
    quota = _quotas(count.tolist(), room.tolist())
    assert max(quota) - min(quota) <= 1
    if is_done and _keeps_quotas(drawn):
        assert many == quota


def _keeps_quotas(drawn):
    """Whether the twin never had to go beyond a rank's quota."""
    ranks = _twin(drawn, 0.75)
    count = drawn[2].tolist()
    return ranks is not None and [sum(count[e] > 1 for e in own) for own in ranks] == _quotas(count, drawn[3].tolist())


def test_a_ring_and_far_ranks_are_linked_by_hand():
    """Six pairs on six ranks with two slots each: the first three lie apart, the next ones join what cannot be reached yet."""
    load, count, room = np.array([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), np.full(6, 2), np.full(6, 2)
    slots, is_done = _connect((load, np.ones(1), count, room, np.ones(6)))
    assert is_done
    ranks = _by_rank(slots, room)
    assert [own[0] for own in ranks] == [0, 0, 1, 1, 2, 2]
    assert all(step < 6 for step in _steps_from([0], ranks))  # one component: load can get from any rank to any other
    assert max(max(_steps_from([r], ranks)) for r in range(6)) == 3  # a ring, no shorter cycles


def test_a_replica_makes_way():
    """Rank 0 is full of others when the last expert's second replica comes: one of them moves on, and all are placed."""
    made = 0
    rng = np.random.default_rng(5)
    for _ in range(300):
        ranks, experts = int(rng.integers(2, 5)), int(rng.integers(3, 7))
        room = rng.integers(1, experts + 1, ranks)
        if room.sum() < experts:
            continue
        count = np.ones(experts, int)
        while count.sum() < room.sum():
            count[rng.choice(np.flatnonzero(count < ranks))] += 1
        drawn = rng.integers(0, 9, (1, experts)).astype(float), np.ones(1), count, room, np.ones(ranks)
        if _twin(drawn, 0.75) is None:
            slots, is_done = _connect(drawn)
            if is_done:
                made += 1
                assert np.bincount(slots, minlength=experts).tolist() == count.tolist()
                assert all(len(set(own)) == len(own) for own in _by_rank(slots, room))
    assert made >= 5


def test_no_place_is_said_not_hidden():
    """An expert with more replicas than ranks has no place for the last, whatever makes way."""
    count, room = np.array([3, 1, 2]), np.array([1, 5])
    _, is_done = _connect((np.array([[9.0, 1.0, 1.0]]), np.ones(1), count, room, np.ones(2)))
    assert not is_done


def test_layers_do_not_touch_each_other():
    """Rows planned together are those planned alone, in any order, on scratch that was used before, whatever it holds."""
    rng = np.random.default_rng(11)
    layers, experts, ranks = 4, 10, 4
    room, speed, weight = np.array([3, 4, 3, 4]), np.array([1.0, 2.0, 1.0, 0.5]), np.array([0.25, 0.25, 0.5])
    loads = np.floor(rng.random((layers, 3, experts)) ** 2 * 30)
    count = np.ones((layers, experts), int)
    for x in range(layers):
        count[x, rng.permutation(experts)[:4]] = 2
    alone = []
    for x in range(layers):
        slots, is_done = _connect((loads[x], weight, count[x], room, speed), 0.8)
        assert is_done
        alone.append(slots)
    work = make_connect_work(experts, ranks, 3)
    for part in work:
        part[...] = 1
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        together, is_done = np.full((layers, room.sum()), -7), np.zeros(layers, np.bool_)
        chosen = np.ascontiguousarray(loads[order])
        forecast = np.ascontiguousarray(chosen[:, -1])
        connect_rows(forecast, chosen, weight, np.ascontiguousarray(count[order]), 0.8, room, speed, work, together, is_done)
        assert is_done.all()
        assert together.tolist() == [alone[x].tolist() for x in order]


def _judged(slots, loads, weight, room, speed):
    """Return judge_rows() of one layer."""
    rank_of_slot = np.repeat(np.arange(len(room)), room)
    rank_of_slot.setflags(write=False)
    work = make_split_work(loads.shape[1], rank_of_slot, speed)
    scratch = np.empty(len(slots)), np.empty(len(room)), np.empty(len(room), np.bool_)
    return judge_rows(slots[np.newaxis], loads[np.newaxis], weight, work, *scratch)[0]


def _least_time(load, row, room, speed):
    """Least largest rank time of one layer, by a linear program over the tokens of each slot, in units of the whole load."""
    unit = float(load.sum())
    if unit == 0.0:
        return 0.0
    rank = np.repeat(np.arange(len(room)), room)
    sums = np.column_stack([np.arange(len(load))[:, np.newaxis] == row, np.zeros(len(load))]).astype(float)
    loads = np.column_stack([np.arange(len(room))[:, np.newaxis] == rank, -speed]).astype(float)
    goal = np.append(np.zeros(len(row)), 1.0)
    found = linprog(goal, A_ub=loads, b_ub=np.zeros(len(room)), A_eq=sums, b_eq=load / unit, method="highs")
    assert found.status == 0
    return found.fun * unit


@given(rows(max_ranks=4, max_experts=6))
@settings(max_examples=40)
def test_judged_as_linear_programs_do(drawn):
    """The weighted mean, over loads, of the least time that any split over the placement's replicas reaches."""
    loads, weight, _, room, speed = drawn
    slots, is_done = _connect(drawn)
    if is_done:
        expected = sum(w * _least_time(load, slots, room, speed) for w, load in zip(weight, loads, strict=True))
        assert _judged(slots, loads, weight, room, speed) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(rows())
@settings(max_examples=60)
def test_judged_as_dispatch_does(drawn):
    """The same from dispatch(), to the last digits."""
    loads, weight, count, room, speed = drawn
    slots, is_done = _connect(drawn)
    if is_done:
        cluster = Cluster(len(room), room.tolist(), rank_speeds=speed.tolist())
        placement = Placement(slots[np.newaxis], cluster, len(count))
        expected = sum(w * dispatch(load[np.newaxis], placement).largest[0] for w, load in zip(weight, loads, strict=True))
        assert _judged(slots, loads, weight, room, speed) == pytest.approx(expected, rel=1e-12, abs=0.0)
