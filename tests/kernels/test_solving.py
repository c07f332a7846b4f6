"""Rows planned from end to end, the counts they start from, and dealing onto unequal packs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import twins
from equipoise.kernels import solving
from equipoise.kernels.counts import make_counts
from equipoise.kernels.packing import deal_unequal
from equipoise.kernels.replicating import count_row, list_row, list_sorted_row
from equipoise.kernels.solving import plan_rows
from equipoise.planning.efforts import EFFORTS, budgets_of

TOKENS = (1.0, 0.0)
COSTS = st.sampled_from([TOKENS, TOKENS, (0.5, 3.0), (0.0, 2.0)])


@st.composite
def falling(draw, num):
    """Draw falling loads: ties, zeros, large numbers, or many near each other."""
    kind = draw(st.sampled_from([st.integers(0, 3), st.integers(0, 10_000), st.floats(0, 1).map(lambda x: round(x**4, 9))]))
    return sorted((float(x) for x in draw(st.lists(kind, min_size=num, max_size=num))), reverse=True)


@st.composite
def shapes(draw, max_packs=5, max_room=4, max_experts=9):
    """Draw (experts, room of each pack) that can be packed: experts fill the roomiest pack, and every expert has a slot."""
    num_packs = draw(st.integers(1, max_packs))
    room = [draw(st.integers(1, max_room))] * num_packs
    if draw(st.booleans()):
        room = draw(st.lists(st.integers(1, max_room), min_size=num_packs, max_size=num_packs))
    return draw(st.integers(max(room), max(max(room), min(sum(room), max_experts)))), room


def _share(load, count, cost=TOKENS):
    return cost[0] * (load / count) + cost[1] * min(1.0, load / count)


def _times(slots, load, room, speed, cost):
    """Time of each pack, from what its slots hold."""
    share = [_share(x, slots.count(e), cost) for e, x in enumerate(load)]
    ends = np.cumsum(room).tolist()
    packs = [slots[end - size : end] for end, size in zip(ends, room, strict=True)]
    return [sum(share[e] for e in pack) / s for pack, s in zip(packs, speed, strict=True)]


def _plan(load, room, speed, cost=TOKENS, effort="best", expert=None):
    load = np.array(load, np.float64)
    expert = np.tile(np.arange(load.shape[1]), (len(load), 1)) if expert is None else np.array(expert)
    floor = np.zeros(len(load))
    return plan_rows(load, expert, np.array(room), np.array(speed, np.float64), floor, *cost, budgets_of(EFFORTS[effort]))


@given(shapes(), COSTS, st.sampled_from(sorted(EFFORTS)), st.data())
def test_rows_are_strict_and_end_when_they_say(shape, cost, effort, data):
    """Every expert is placed, no slot empty, none twice on a pack, rising within; the time is so, and not below the bound."""
    experts, room = shape
    speed = data.draw(st.sampled_from([[1.0] * len(room), [2.0, 1.0, 0.7, 1.3, 1.0][: len(room)]]))
    load = [data.draw(falling(experts)) for _ in range(2)]
    names = [data.draw(st.permutations(range(experts))) for _ in range(2)]
    slots, largest, bound = _plan(load, room, speed, cost, effort, names)
    assert slots.shape == (2, sum(room))
    for x in range(2):
        row = slots[x].tolist()
        first = 0
        for size in room:
            pack = row[first : first + size]
            assert pack == sorted(set(pack))
            first += size
        assert set(row) == set(range(experts))
        by_name = dict(zip(names[x], load[x], strict=True))
        ends = max(_times(row, [by_name[e] for e in range(experts)], room, speed, cost))
        assert largest[x] == pytest.approx(ends, rel=1e-12, abs=1e-300)
        assert bound[x] <= largest[x] * (1 + 1e-12)


@given(shapes(max_packs=3, max_room=2, max_experts=4), st.data())
def test_no_placement_ends_before_the_bound(shape, data):
    """The bound holds for every placement, also where rooms and speeds differ; where all counts are tried, so does the end."""
    experts, room = shape
    speed = data.draw(st.sampled_from([[1.0] * len(room), [2.0, 1.0, 0.5][: len(room)]]))
    load = [float(data.draw(st.integers(0, 20))) for _ in range(experts)]
    load.sort(reverse=True)
    _, largest, bound = _plan([load], room, speed)
    best = _optimum(load, room, speed)
    assert bound[0] <= best * (1 + 1e-12)
    assert largest[0] >= best * (1 - 1e-12)
    if len(set(room)) == len(set(speed)) == 1:
        assert largest[0] <= best * (1 + 1e-12)


def _optimum(load, room, speed, chosen=()):
    """Least largest time over all placements, exhaustively."""
    if len(chosen) == len(room):
        row = [e for pack in chosen for e in pack]
        return max(_times(row, load, room, speed, TOKENS)) if set(row) == set(range(len(load))) else np.inf
    packs = itertools.combinations(range(len(load)), room[len(chosen)])
    return min(_optimum(load, room, speed, (*chosen, pack)) for pack in packs)


SHAPES = [
    (12, [2] * 8, [1.0] * 8),  # two slots a pack: pairs
    (5, [2] * 4, [1.0] * 4),  # few ways to count: all are tried
    (6, [3] * 3, [1.0] * 3),  # few ways, which have to be packed to tell
    (16, [3] * 8, [1.0] * 8),
    (24, [6] * 6, [1.0] * 6),  # enough a pack for exchanges of two for two
    (10, [3, 3, 2, 2, 4, 1], [1.0] * 6),
    (12, [2] * 8, [1.0, 1.0, 0.5, 2.0, 1.0, 1.0, 0.7, 1.0]),
    (14, [5, 4, 3, 5, 4, 3], [1.0, 0.5, 0.8, 1.2, 1.0, 1.0]),
]


def _seeded_loads(experts, rows):
    """Return falling loads from level to very uneven, with ties and zeros in every third row."""
    rng = np.random.default_rng(experts)
    load = rng.random((rows, experts)) ** rng.integers(1, 8, (rows, 1)) * 1000
    load[::3] = np.floor(load[::3] / 100)
    return np.sort(load, axis=1)[:, ::-1].copy()


@pytest.mark.compiled
@pytest.mark.parametrize("cost", [TOKENS, (0.5, 20.0)])
@pytest.mark.parametrize(("experts", "room", "speed"), SHAPES)
def test_more_effort_is_never_worse_on_any_row(experts, room, speed, cost):
    """Each effort ends every row no later than the one below it, and some earlier, at the times that the slots give."""
    load = _seeded_loads(experts, 30)
    plans = [_plan(load, room, speed, cost, effort) for effort in ("fast", "default", "best")]
    fast, default, best = (ends for _, ends, _ in plans)
    for slots, ends, _ in plans:
        times = [max(_times(row, x, room, speed, cost)) for row, x in zip(slots.tolist(), load.tolist(), strict=True)]
        assert np.allclose(ends, times, rtol=1e-12)
    assert (default <= fast).all()
    assert (best <= default).all()
    assert best.sum() < fast.sum()


@pytest.mark.parametrize(("experts", "room", "speed"), SHAPES)
def test_more_effort_is_never_worse_on_a_few_rows(experts, room, speed):
    """The same on so few rows that kernels need not be compiled."""
    load = _seeded_loads(experts, 3)[1:]
    (_, fast, _), (slots, default, _) = (_plan(load, room, speed, TOKENS, effort) for effort in ("fast", "default"))
    times = [max(_times(row, x, room, speed, TOKENS)) for row, x in zip(slots.tolist(), load.tolist(), strict=True)]
    assert np.allclose(default, times, rtol=1e-12)
    assert (default <= fast).all()


@pytest.mark.parametrize(("experts", "room", "speed"), SHAPES)
def test_rows_are_planned_each_for_itself(experts, room, speed):
    """A row's plan is the same alone as behind others: nothing is left over on the workbench."""
    load = _seeded_loads(experts, 3)
    together = _plan(load, room, speed, TOKENS, "default")
    for x in range(3):
        for found, alone in zip(together, _plan(load[x : x + 1], room, speed, TOKENS, "default"), strict=True):
            assert np.array_equal(found[x], alone[0])


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ({"ways": 0}, (6, [3] * 4, [1.0] * 4)),
        ({"paired": 0}, SHAPES[0]),  # all ways to count
        ({"paired": 0}, (24, [2] * 16, [1.0] * 16)),  # steps
        ({"handovers": 0, "comparisons": 0}, SHAPES[3]),
        ({"handovers": 0, "comparisons": 0}, SHAPES[5]),
        ({"doubles": 0}, (24, [4] * 6, [1.0] * 6)),
    ],
)
def test_each_part_of_a_stage_pays(part, shape):
    """Without it, seeded rows end later in sum."""
    experts, room, speed = shape
    load = _seeded_loads(experts, 40)
    expert = np.tile(np.arange(experts), (40, 1))
    ends = []
    for stages in (EFFORTS["default"], [EFFORTS["default"][0], replace(EFFORTS["default"][1], **part)]):
        budgets = budgets_of(tuple(stages))
        found = plan_rows(load, expert, np.array(room), np.array(speed), np.zeros(40), 1.0, 0.0, budgets)
        ends.append(found[1].sum())
    assert ends[0] < ends[1]


def test_a_row_at_its_floor_is_left_as_the_first_packing_had_it():
    """What ends at a time below which nothing is gained is not worked on."""
    load = _seeded_loads(12, 3)[1:]
    expert = np.tile(np.arange(12), (2, 1))
    args = load, expert, np.full(8, 2), np.ones(8)
    fast, late, _ = plan_rows(*args, np.zeros(2), 1.0, 0.0, budgets_of(EFFORTS["fast"]))
    default, early, _ = plan_rows(*args, np.zeros(2), 1.0, 0.0, budgets_of(EFFORTS["default"]))
    floored, _, _ = plan_rows(*args, late, 1.0, 0.0, budgets_of(EFFORTS["default"]))
    assert early.sum() < late.sum()
    assert not np.array_equal(fast, default)
    assert np.array_equal(fast, floored)


def test_the_toy_of_two_slots_a_rank_reaches_its_optimum():
    """Eight ranks of two slots: 590 / 3, which greedy counts miss."""
    load = [[600, 560, 120, 120, 20, 10, 10, 10]]
    assert _plan(load, [2] * 8, [1.0] * 8, effort="fast")[1][0] > 197
    _, largest, bound = _plan(load, [2] * 8, [1.0] * 8, effort="default")
    assert largest[0] == pytest.approx(590 / 3, rel=1e-12)
    assert bound[0] == 1450 / 8


@given(shapes(), st.data())
def test_the_bound_is_the_mean_or_the_largest_replica_on_the_fastest_pack(shape, data):
    """Whichever is later; with a cost of being active, which shares do not divide, only the mean of the tokens counts."""
    experts, room = shape
    speed = [2.0, 1.0, 0.7, 1.3, 1.0][: len(room)]
    load = data.draw(falling(experts))
    bound = _plan([load], room, speed, TOKENS, "fast")[2][0]
    share = float(_best_share(load, room)) if sum(room) <= 9 and experts <= 5 else None
    mean = sum(load) / sum(speed)
    if share is None:
        assert bound >= mean * (1 - 1e-12)
    else:
        assert bound == pytest.approx(max(mean, share / max(speed)), rel=1e-12)
    assert _plan([load], room, speed, (0.5, 3.0), "fast")[2][0] == pytest.approx(0.5 * mean, rel=1e-12)


def _is_packable(count, room):
    """Whether counts fit rooms with equal experts apart, by the theorem of Gale and Ryser."""
    size = sorted(room, reverse=True)
    fits = all(sum(size[:k]) <= sum(min(n, k) for n in count) for k in range(1, len(room) + 1))
    return fits and sum(count) == sum(room) and max(count) <= len(room)


def _best_share(load, room, cost=TOKENS):
    """Least largest share over all counts that can be packed, exhaustively."""
    ways = twins.ways_to_count(len(load), sum(room), len(room))
    return min(max(_share(x, n, cost) for x, n in zip(load, way, strict=True)) for way in ways if _is_packable(way, room))


def _greedy(load, room, most, limit, cost=TOKENS):
    counts = make_counts(len(load), len(room), *cost)
    counts.load[:] = load
    count_row(counts, sum(room), most, limit, np.empty(len(load), np.int64))
    assert counts.share.tolist() == [_share(x, n, cost) for x, n in zip(load, counts.count.tolist(), strict=True)]
    return counts.count.tolist()


@given(st.integers(1, 9), st.integers(1, 6), st.data())
def test_counts_of_falling_loads_equal_the_twin(experts, most, data):
    """One more replica, again and again, for the largest share; lower experts first, and zeros spread."""
    load = data.draw(falling(experts))
    slots = data.draw(st.integers(experts, experts * most))
    counts = make_counts(experts, most, 1.0, 0.0)
    counts.load[:] = load
    count_row(counts, slots, most, np.empty(0, np.int64), np.empty(experts, np.int64))
    assert counts.count.tolist() == twins.greedy_counts(load, slots, most)
    assert counts.share.tolist() == [x / n for x, n in zip(load, counts.count.tolist(), strict=True)]


def test_small_counts_equal_the_twin():
    """The same for all small whole loads, most of which tie somewhere."""
    for load in itertools.combinations_with_replacement(range(4, -1, -1), 3):
        for most, slots in itertools.product(range(1, 5), range(3, 10)):
            if slots <= 3 * most:
                counts = make_counts(3, most, 1.0, 0.0)
                counts.load[:] = load
                count_row(counts, slots, most, np.empty(0, np.int64), np.empty(3, np.int64))
                assert counts.count.tolist() == twins.greedy_counts(load, slots, most)


@st.composite
def uneven_shapes(draw):
    """Draw (experts, room of each pack) with hardly more experts than the roomiest pack has places: limits matter."""
    room = draw(st.lists(st.sampled_from([1, 3, 4]), min_size=2, max_size=5))
    return min(sum(room), max(room) + draw(st.integers(0, 1))), room


@given(uneven_shapes(), COSTS, st.data())
def test_counts_for_unequal_room_can_be_packed_and_none_that_can_have_a_smaller_largest_share(shape, cost, data):
    """Within the limits, greedy counts fill all slots, can be packed, and are best among those that can."""
    experts, room = shape
    load = data.draw(falling(experts))
    most = min(len(room), sum(room) - experts + 1)
    count = _greedy(load, room, most, solving.limits_of(np.array(room)), cost)
    assert sum(count) == sum(room)
    assert _is_packable(count, room)
    largest = max(_share(x, n, cost) for x, n in zip(load, count, strict=True))
    assert largest == _best_share(load, room, cost)


@given(shapes(max_packs=4, max_room=3, max_experts=4))
def test_the_limits_are_those_of_what_can_be_packed(shape):
    """The theorem used here says of all counts what trying all packings says."""
    experts, room = shape
    for way in twins.ways_to_count(experts, sum(room), len(room)):
        assert _is_packable(way, room) == twins.can_be_packed(way, room)


def test_limits_keep_two_heavy_experts_from_crowding_out_the_others():
    """Two packs of four need all four experts twice, so neither heavy one may be on all four packs."""
    load, room = [9.0, 8.0, 1.0, 1.0], [4, 1, 4, 1]
    assert _greedy(load, room, 4, np.empty(0, np.int64)) == [4, 4, 1, 1]
    assert _greedy(load, room, 4, solving.limits_of(np.array(room))) == [3, 3, 2, 2]
    slots, largest, _ = _plan([load], room, [1.0] * 4)
    assert all(len(set(pack)) == len(pack) for pack in np.split(slots[0], np.cumsum(room)[:-1]))
    assert largest[0] == pytest.approx(9 / 3 + 8 / 3 + 1)


def _deal(weight, ids, room, speed, num_ids):
    pack = np.full(len(ids), -1)
    holds = np.zeros((len(room), num_ids), np.bool_)
    count = np.bincount(ids, minlength=num_ids)
    deal_unequal(np.array(weight, np.float64), np.array(ids), np.array(room), np.array(speed, np.float64), count, pack, holds)
    assert not holds.any()
    return pack.tolist()


def _dealt_one_by_one(weight, ids, room, speed):
    """Each item to the pack with room and without its id that then ends earliest; None where there is none."""
    packs = [[] for _ in room]
    for i in range(len(ids)):
        fit = [p for p in range(len(room)) if len(packs[p]) < room[p] and all(ids[k] != ids[i] for k in packs[p])]
        if not fit:
            return None
        ends = {p: (sum(weight[k] for k in packs[p]) + weight[i]) / speed[p] for p in fit}
        packs[min(fit, key=lambda p: (ends[p], p))].append(i)
    return [next(p for p in range(len(room)) if i in packs[p]) for i in range(len(ids))]


@given(shapes(), st.data())
def test_unequal_packs_are_dealt_to_where_items_end_earliest(shape, data):
    """As the rule says one by one; where that gets stuck, anyhow, but filled, with equal ids apart."""
    experts, room = shape
    count = twins.greedy_counts(data.draw(falling(experts)), sum(room), len(room))
    assume(_is_packable(count, room))
    speed = data.draw(st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=len(room), max_size=len(room)))
    share = data.draw(st.lists(st.integers(0, 9), min_size=experts, max_size=experts))
    items = sorted((-share[e], e) for e in range(experts) for _ in range(count[e]))
    weight, ids = [float(-x[0]) for x in items], [x[1] for x in items]
    pack = _deal(weight, ids, room, speed, experts)
    expected = _dealt_one_by_one(weight, ids, room, speed)
    if expected is not None:
        assert pack == expected
    assert [pack.count(p) for p in range(len(room))] == room
    assert len(set(zip(pack, ids, strict=True))) == len(ids)


@pytest.mark.parametrize(
    ("ids", "room", "speed"),
    [
        ([0, 1, 1], [2, 1], [1.0, 2.0]),
        ([0, 1, 2, 2, 2], [2, 2, 1], [1.0, 1.0, 4.0]),
        ([0, 0, 1, 2, 3, 3, 3], [3, 2, 2], [0.5, 4.0, 4.0]),
    ],
)
def test_where_dealing_gets_stuck_all_are_dealt_anew_by_id(ids, room, speed):
    """Fast packs are full before the last expert's replicas come: a packing is found all the same."""
    weight = [float(9 - this_id) ** 3 for this_id in ids]
    assert _dealt_one_by_one(weight, ids, room, speed) is None
    pack = _deal(weight, ids, room, speed, max(ids) + 1)
    assert [pack.count(p) for p in range(len(room))] == room
    assert len(set(zip(pack, ids, strict=True))) == len(ids)


@given(st.integers(1, 9).flatmap(falling), st.data())
def test_replicas_of_falling_loads_are_listed_as_those_of_any(load, data):
    """Merging what is out of order gives the same list as sorting all, ties and all."""
    count = np.array(data.draw(st.lists(st.integers(1, 4), min_size=len(load), max_size=len(load))))
    share = np.array(load) / count
    n = int(count.sum())
    weight, expert = np.empty((2, n)), np.empty((2, n), np.int64)
    list_row(share, count, weight[0], expert[0], np.empty(n), np.empty(n, np.int64))
    list_sorted_row(share, count, weight[1], expert[1], np.empty(len(load), np.int64))
    assert weight[0].tolist() == weight[1].tolist()
    assert expert[0].tolist() == expert[1].tolist()
