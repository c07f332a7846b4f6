"""The optimal split of tokens over replicas, against linear programs and against every set of ranks that could prove more."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from equipoise.kernels.splitting import make_split_work, share_rows, split_rows

SPEEDS = [0.25, 0.7, 1.0, 1.0, 1.0, 1.6, 4.0]
EXTREME_SPEEDS = [1e-3, 0.1, 1.0, 10.0, 1e3]
LEAST = 5e-324  # the least number above 0


@st.composite
def splits(draw, max_layers=3, max_ranks=6, max_slots=4, max_experts=7, speeds=SPEEDS, numbers=None):
    """Draw (rows [layers][slots], load [layers][experts], rank_of_slot, speed): no load without a slot.

    Slots may be empty, experts twice on a rank or nowhere, rooms and speeds unequal, and ranks down, their slots empty.
    """
    ranks, experts = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_experts))
    room = draw(st.lists(st.integers(1, max_slots), min_size=ranks, max_size=ranks))
    speed = draw(st.one_of(st.just([1.0] * ranks), st.lists(st.sampled_from(speeds), min_size=ranks, max_size=ranks)))
    is_up = draw(st.one_of(st.just([True] * ranks), st.lists(st.booleans(), min_size=ranks, max_size=ranks)))
    rank_of_slot = [r for r in range(ranks) for _ in range(room[r])]
    scale = draw(st.sampled_from([1.0, 1.0, 1e-9, 1e12]))
    plain = st.one_of(
        st.just(0.0),
        st.integers(0, 9).map(float),
        st.integers(0, 10_000).map(float),
        st.floats(0.0, 1e4).map(lambda x: round(x, 6)),
    )
    tokens = plain.map(lambda x: x * scale) if numbers is None else numbers
    rows, load = [], []
    for _ in range(draw(st.integers(1, max_layers))):
        rows.append([draw(st.integers(-1, experts - 1)) if is_up[r] else -1 for r in rank_of_slot])
        load.append([draw(tokens) if e in rows[-1] else 0.0 for e in range(experts)])
    return rows, load, rank_of_slot, speed


def _split(drawn, work=None):
    """Return (tokens [layers][slots], rank_load [layers][ranks], bound [layers], tight [layers][ranks]) as arrays."""
    rows, load, rank_of_slot, speed = (np.array(x) for x in drawn)
    if work is None:
        work = make_split_work(load.shape[1], rank_of_slot, speed)
    tokens, rank_load = np.full(rows.shape, np.nan), np.full((len(rows), len(speed)), np.nan)
    bound, tight = np.full(len(rows), np.nan), np.ones((len(rows), len(speed)), np.bool_)
    split_rows(rows, load, work, tokens, rank_load, bound, tight)
    return tokens, rank_load, bound, tight


def _ranks_of(row, rank_of_slot, experts):
    """Set of ranks that hold each expert."""
    return [{rank_of_slot[s] for s, held in enumerate(row) if held == e} for e in range(experts)]


def _proven(row, load, rank_of_slot, speed, ranks):
    """Time that a set of ranks proves, exactly: the tokens of experts held by it alone, over its speed."""
    held = _ranks_of(row, rank_of_slot, len(load))
    inside = sum(Fraction(x) for e, x in enumerate(load) if held[e] and held[e] <= ranks)
    return inside / sum(Fraction(speed[r]) for r in ranks)


def _least_time(row, load, rank_of_slot, speed):
    """Least largest rank time of any split, exactly: by the theorem of max flow and min cut, the most that any set proves."""
    ranks = range(len(speed))
    sets = (set(c) for n in range(1, len(speed) + 1) for c in itertools.combinations(ranks, n))
    return max(_proven(row, load, rank_of_slot, speed, chosen) for chosen in sets)


def _least_time_by_program(row, load, rank_of_slot, speed):
    """The same from a linear program over the tokens of each slot and the time, in units of the whole load."""
    unit = sum(load)
    if unit == 0.0:
        return 0.0
    slots, experts = [s for s, e in enumerate(row) if e >= 0], sorted({e for e in row if e >= 0})
    sums = np.array([[float(row[s] == e) for s in slots] + [0.0] for e in experts])
    times = np.array([[float(rank_of_slot[s] == r) for s in slots] + [-speed[r]] for r in range(len(speed))])
    cost = np.array([0.0] * len(slots) + [1.0])
    wanted = [load[e] / unit for e in experts]
    found = linprog(cost, A_ub=times, b_ub=np.zeros(len(speed)), A_eq=sums, b_eq=wanted, method="highs")
    assert found.status == 0
    return found.fun * unit


def _assert_conserved(drawn, tokens, rank_load):
    """Each expert's slots have its load, none negative, empty ones nothing; ranks have what their slots have."""
    rows, load, rank_of_slot, speed = drawn
    for row, layer_load, got, on_rank in zip(rows, load, tokens.tolist(), rank_load.tolist(), strict=True):
        total = math.fsum(layer_load)
        assert min(got) >= 0.0
        assert all(got[s] == 0.0 for s, e in enumerate(row) if e < 0)
        for e, own in enumerate(layer_load):
            found = math.fsum(got[s] for s, held in enumerate(row) if held == e)
            assert found == pytest.approx(own, rel=1e-12, abs=LEAST)
        for r in range(len(speed)):
            found = math.fsum(got[s] for s in range(len(row)) if rank_of_slot[s] == r)
            assert on_rank[r] == pytest.approx(found, rel=1e-12, abs=1e-12 * total)


def _assert_proven(drawn, tokens, bound, tight, gap=1e-9):
    """The slowest rank ends at the bound, and the tight ranks prove it, both counted anew."""
    rows, load, rank_of_slot, speed = drawn
    for row, layer_load, got, level, marked in zip(rows, load, tokens.tolist(), bound.tolist(), tight.tolist(), strict=True):
        ranks = {r for r, is_tight in enumerate(marked) if is_tight}
        assert ranks
        assert level == pytest.approx(float(_proven(row, layer_load, rank_of_slot, speed, ranks)), rel=1e-12, abs=LEAST)
        for r in range(len(speed)):
            assert math.fsum(got[s] for s in range(len(row)) if rank_of_slot[s] == r) <= level * speed[r] * (1 + gap)


@given(splits())
def test_tokens_add_up(drawn):
    """No token is lost or made, whatever slots are empty or hold an expert that their rank holds already."""
    tokens, rank_load, _, _ = _split(drawn)
    _assert_conserved(drawn, tokens, rank_load)


@given(splits())
def test_as_soon_as_any_set_of_ranks_allows(drawn):
    """The bound is the most that any set of ranks proves, all sets tried with exact fractions, and the split reaches it."""
    tokens, _, bound, tight = _split(drawn)
    _assert_proven(drawn, tokens, bound, tight)
    for row, load, level in zip(drawn[0], drawn[1], bound.tolist(), strict=True):
        assert level == pytest.approx(float(_least_time(row, load, drawn[2], drawn[3])), rel=1e-12)


@given(splits(max_layers=1))
@settings(max_examples=100)
def test_as_soon_as_a_linear_program_finds(drawn):
    """A solver that knows nothing of sets of ranks finds the same time."""
    _, rank_load, bound, _ = _split(drawn)
    least = _least_time_by_program(drawn[0][0], drawn[1][0], drawn[2], drawn[3])
    assert bound[0] == pytest.approx(least, rel=1e-6, abs=0.0)
    assert max(rank_load[0] / drawn[3]) == pytest.approx(least, rel=1e-6, abs=0.0)


@given(splits(speeds=EXTREME_SPEEDS, numbers=st.sampled_from([0.0, 1e-15, 1e-3, 0.3, 1.0, 7.0, 1e6, 1e15])))
def test_unlike_loads_and_speeds(drawn):
    """Loads 30 decades apart on ranks 6 decades apart are split as exactly."""
    tokens, rank_load, bound, tight = _split(drawn)
    _assert_conserved(drawn, tokens, rank_load)
    assert (rank_load >= 0.0).all()
    _assert_proven(drawn, tokens, bound, tight)
    for row, load, level in zip(drawn[0], drawn[1], bound.tolist(), strict=True):
        assert level == pytest.approx(float(_least_time(row, load, drawn[2], drawn[3])), rel=1e-9)


@given(splits(max_layers=2), st.sampled_from([1e290, 1e-290, 2.0**-1000]))
@settings(max_examples=60)
def test_near_the_ends_of_floats(drawn, scale):
    """Loads near the largest and least numbers neither overflow nor vanish."""
    rows, load, rank_of_slot, speed = drawn
    most = max(1.0, max(sum(row) for row in load))
    drawn = rows, [[x / most * scale for x in row] for row in load], rank_of_slot, speed
    tokens, rank_load, bound, tight = _split(drawn)
    _assert_conserved(drawn, tokens, rank_load)
    _assert_proven(drawn, tokens, bound, tight)


@given(splits(speeds=[1.0], numbers=st.integers(0, 40).map(lambda x: x * LEAST)))
@settings(max_examples=60)
def test_the_least_numbers_there_are(drawn):
    """Where half a token cannot be held, tokens still add up, and no rank ends later than a few of the least numbers."""
    tokens, rank_load, bound, _ = _split(drawn)
    _assert_conserved(drawn, tokens, rank_load)
    assert (rank_load <= bound[:, np.newaxis] + 20 * LEAST).all()


@given(splits(), st.integers(-40, 40))
def test_powers_of_two_scale_exactly(drawn, power):
    """Every number but the shape of the proof is multiplied, to the last bit."""
    rows, load, rank_of_slot, speed = drawn
    scaled = rows, [[x * 2.0**power for x in row] for row in load], rank_of_slot, speed
    for name, one, other in zip(("tokens", "ranks", "bound"), _split(drawn)[:3], _split(scaled)[:3], strict=True):
        assert (one * 2.0**power).tolist() == other.tolist(), name
    assert _split(drawn)[3].tolist() == _split(scaled)[3].tolist()


@given(splits(max_layers=4), st.randoms(use_true_random=False))
def test_layers_do_not_touch_each_other(drawn, random):
    """Layers in another order give the same rows in that order; what an earlier batch left in the scratch changes nothing."""
    rows, load, rank_of_slot, speed = drawn
    order = random.sample(range(len(rows)), len(rows))
    work = make_split_work(len(load[0]), np.array(rank_of_slot), np.array(speed))
    forward = _split(drawn, work)
    backward = _split(([rows[x] for x in order], [load[x] for x in order], rank_of_slot, speed), work)
    for one, other in zip(forward, backward, strict=True):
        assert one[order].tobytes() == other.tobytes()


@given(splits())
def test_shares_by_definition(drawn):
    """Tokens over load; where there is no load each slot of the expert gets as much; empty slots have none."""
    rows, load, _, _ = drawn
    tokens = _split(drawn)[0]
    shares = np.full(tokens.shape, np.nan)
    share_rows(np.array(rows), np.array(load), tokens, np.empty(len(load[0]), np.int64), shares)
    for row, layer_load, part, got in zip(rows, load, tokens.tolist(), shares.tolist(), strict=True):
        for s, e in enumerate(row):
            if e < 0:
                assert got[s] == 0.0
            elif layer_load[e] > 0.0:
                assert got[s] == part[s] / layer_load[e]
            else:
                assert got[s] == 1.0 / row.count(e)


class TestByHand:
    """Splits that can be read off."""

    def test_a_level_split(self):
        """Experts 0 and 1 are alone on a rank each, 2 is on both: it fills up what is missing."""
        tokens, rank_load, bound, tight = _split(([[0, 2, 1, 2]], [[5.0, 2.0, 7.0]], [0, 0, 1, 1], [1.0, 1.0]))
        assert tokens.tolist() == [[5.0, 2.0, 2.0, 5.0]]
        assert rank_load.tolist() == [[7.0, 7.0]]
        assert bound.tolist() == [7.0]
        assert tight.tolist() == [[True, True]]

    def test_a_hot_rank_proves_alone(self):
        """Rank 0 has more of its own than the mean: it keeps nothing else and is the whole proof."""
        tokens, _, bound, tight = _split(([[0, 2, 1, 2]], [[50.0, 2.0, 7.0]], [0, 0, 1, 1], [1.0, 1.0]))
        assert tokens.tolist() == [[50.0, 0.0, 2.0, 7.0]]
        assert bound.tolist() == [50.0]
        assert tight.tolist() == [[True, False]]

    def test_tokens_pass_through(self):
        """A chain of ranks, each sharing an expert with the next: all 60 tokens come from the first and end level."""
        rows, rank_of_slot = [[0, 0, 1, 1, 2, 2]], [0, 1, 1, 2, 2, 3]
        _, rank_load, bound, _ = _split((rows, [[60.0, 0.0, 0.0]], rank_of_slot, [1.0] * 4))
        assert rank_load.tolist() == [[30.0, 30.0, 0.0, 0.0]]
        assert bound.tolist() == [30.0]
        _, rank_load, bound, _ = _split((rows, [[60.0, 30.0, 30.0]], rank_of_slot, [1.0] * 4))
        np.testing.assert_allclose(rank_load, 30.0, rtol=1e-13)
        assert bound.tolist() == [30.0]

    def test_speeds(self):
        """A rank three times as fast takes three times as much."""
        tokens, _, bound, _ = _split(([[0, 0]], [[8.0]], [0, 1], [1.0, 3.0]))
        assert tokens.tolist() == [[2.0, 6.0]]
        assert bound.tolist() == [2.0]

    def test_an_expert_twice_on_a_rank(self):
        """The first of the two slots gets what the rank gets, also where no other rank has the expert."""
        tokens, rank_load, bound, _ = _split(([[0, 0, 0, 1]], [[6.0, 0.0]], [0, 0, 1, 1], [1.0, 1.0]))
        assert tokens.tolist() == [[3.0, 0.0, 3.0, 0.0]]
        assert bound.tolist() == [3.0]
        tokens, rank_load, bound, _ = _split(([[0, 0, 1, -1]], [[6.0, 1.0]], [0, 0, 1, 1], [1.0, 1.0]))
        assert tokens.tolist() == [[6.0, 0.0, 1.0, 0.0]]
        assert rank_load.tolist() == [[6.0, 1.0]]
        assert bound.tolist() == [6.0]

    def test_nothing_to_split(self):
        """Without tokens there is no time, and any proof holds."""
        tokens, rank_load, bound, tight = _split(([[0, 1, 0, -1]], [[0.0, 0.0]], [0, 0, 1, 1], [1.0, 2.0]))
        assert not tokens.any()
        assert not rank_load.any()
        assert bound.tolist() == [0.0]
        assert tight.any()

    def test_one_rank(self):
        """It takes everything, each expert on its first slot."""
        tokens, _, bound, _ = _split(([[0, 1, -1, 1]], [[3.0, 5.0]], [0] * 4, [2.0]))
        assert tokens.tolist() == [[3.0, 5.0, 0.0, 0.0]]
        assert bound.tolist() == [4.0]


def _ring(ranks, experts_a_rank, rng):
    """Experts on two or three ranks each at random, with loads that vary over six decades."""
    slots = 3 * experts_a_rank
    rows = np.stack([rng.permutation(ranks * experts_a_rank)[:slots] for _ in range(ranks)]).ravel()
    load = 10.0 ** rng.uniform(-3, 3, ranks * experts_a_rank)
    load[~np.isin(np.arange(len(load)), rows)] = 0.0
    return [rows.tolist()], [load.tolist()], [r for r in range(ranks) for _ in range(slots)], [1.0] * ranks


@pytest.mark.parametrize(
    "ranks", [9, 16, pytest.param(32, marks=pytest.mark.compiled), pytest.param(64, marks=pytest.mark.compiled)]
)
def test_many_ranks(ranks):
    """As exact with many ranks, equal and unequal speeds, as with few."""
    rng = np.random.default_rng(ranks)
    for trial in range(20):
        rows, load, rank_of_slot, speed = _ring(ranks, 4, rng)
        if trial % 2:
            speed = (10.0 ** rng.uniform(-3, 3, ranks)).tolist()
        drawn = rows, load, rank_of_slot, speed
        tokens, rank_load, bound, tight = _split(drawn)
        _assert_conserved(drawn, tokens, rank_load)
        _assert_proven(drawn, tokens, bound, tight)


def test_a_long_chain_of_ranks():
    """200 ranks in a row, each sharing one expert with the next, all load at one end: level over as many as prove it."""
    ranks = 200
    rows = [[e for r in range(ranks) for e in ((r - 1) % ranks, r)]]
    rows[0][0], rows[0][-1] = -1, -1
    rank_of_slot = [r for r in range(ranks) for _ in range(2)]
    load = [[float(ranks - e) ** 2 for e in range(ranks - 1)] + [0.0]]
    drawn = rows, load, rank_of_slot, [1.0] * ranks
    tokens, rank_load, bound, tight = _split(drawn)
    _assert_conserved(drawn, tokens, rank_load)
    _assert_proven(drawn, tokens, bound, tight)
    best = max(sum(load[0][:k]) / (k + 1) for k in range(1, ranks))
    assert bound[0] == pytest.approx(best, rel=1e-12)
