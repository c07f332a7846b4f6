"""The public evaluators' formulas, against examples worked by hand and against the same loops in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.scoring.answers import Answer
from equipoise.scoring.protocols import (
    PUBLIC,
    guard,
    rank_load,
    ratio_of_sums,
    score_publicly,
    score_v1,
    score_v2,
    score_v3,
    score_v4,
    slot_load,
)

ANSWER = Answer(
    np.array([[0, 1, 0, 2], [2, 2, 1, 0]]),
    np.array([[[0, 2], [1, -1], [3, -1]], [[3, -1], [2, -1], [0, 1]]]),
    np.array([[2, 1, 1], [1, 1, 2]]),
)
"""Three experts on four slots of two ranks. Layer 0: 0 1 | 0 2; layer 1: 2 2 | 1 0."""

FIRST = np.array([[6, 4, 2], [1, 3, 8]])
SECOND = np.array([[2, 8, 2], [4, 4, 4]])


def test_one_window_by_hand():
    """Slots of layer 0 get 3 4 3 2, of layer 1 4 4 3 1.

    Slot level: means 3 + 3, largest 4 + 4, so 6/8. Ranks: 7 5 and 8 4, means 6 + 6, largest 7 + 8, so 12/15.
    """
    load = slot_load(ANSWER, FIRST, 4)
    assert load.tolist() == [[3, 4, 3, 2], [4, 4, 3, 1]]
    assert ratio_of_sums(load) == 6 / 8
    assert rank_load(load, 2).tolist() == [[7, 5], [8, 4]]
    assert ratio_of_sums(rank_load(load, 2)) == 12 / 15


def test_all_four_by_hand():
    """Pairs (0, 1) and (1, 2) with windows FIRST, SECOND, FIRST, the answer each time the one above; calls of 10 and 30 ms.

    SECOND gives slots 1 8 1 2 and 2 2 4 4: means 3 + 3, largest 8 + 4: 1/2; ranks 9 3 and 4 8: 12/17. FIRST gave 3/4 and 12/15.
    Slot balance (1/2 + 3/4) / 2 = 5/8; rank balance (12/17 + 4/5) / 2 = 64/85. The planner takes 20 ms, the simulator 480.

    v1: (5/8 + 0.02/0.5) / 2 = 0.3325. v3: (5/8 + 0.002/0.5) / 2 = 0.3145. v4: 90 * 64/85 + 5 * 0.1 - 20 * 0.02.
    """
    windows, answers, seconds = [FIRST, SECOND, FIRST], [ANSWER, ANSWER], [0.01, 0.03]
    found = {name: score_publicly(PUBLIC[name], answers, windows, seconds, 4, 2, 0.48) for name in ("v1", "v3", "v4")}
    assert found["v1"].per_pair == found["v3"].per_pair == (0.5, 0.75)
    assert found["v4"].per_pair == (12 / 17, 0.8)
    assert found["v1"].score == pytest.approx(0.3325, abs=1e-15)
    assert found["v3"].score == pytest.approx(0.3145, abs=1e-15)
    assert found["v4"].score == pytest.approx(90 * 64 / 85 + 0.5 - 0.4, abs=1e-12)
    assert found["v1"].score_planner_only == pytest.approx((5 / 8 + 1) / 2)
    assert [found[name].simulator_seconds for name in found] == [0.48, 0.48, 0]
    assert all(score.planner_seconds == pytest.approx(0.02) for score in found.values())


def test_v2_takes_five_pairs():
    """Windows FIRST, SECOND, ... seven of them: pairs end on S F S F S, 3 times 1/2 and 2 times 3/4: 0.6, so (0.6 + 1) / 2."""
    windows = [FIRST, SECOND, FIRST, SECOND, FIRST, SECOND, FIRST]
    found = score_publicly(PUBLIC["v2"], [ANSWER] * 6, windows, [1.0] * 6, 4, 2, 0.48)
    assert found.per_pair == (0.5, 0.75, 0.5, 0.75, 0.5)
    assert found.score == pytest.approx(0.8, abs=1e-15)
    assert PUBLIC["v2"].windows_needed == 6
    assert {PUBLIC[name].windows_needed for name in ("v1", "v3", "v4")} == {2}


def test_formulas_by_hand():
    """Balance 0.5 at chosen times, each term by itself."""
    assert score_v1(0.5, 0.02) == 0.75  # (0.5 + 1) / 2: without a cap it goes on
    assert score_v1(0.5, 0.002) == 5.25
    assert score_v2(0.5, 123.0) == 0.75
    assert score_v3(0.5, 0.002) == 0.75
    assert score_v3(0.5, 2.0) == 0.2505
    assert score_v4(0.5, 0.001) == 45 + 10  # the cap
    assert score_v4(0.5, 0.002) == 45 + 5
    assert score_v4(0.5, 0.01) == 45 + 1  # 10 ms is not above 10 ms
    assert score_v4(0.5, 0.02) == pytest.approx(45 + 0.5 - 0.4)
    assert score_v4(0.5, 1.5) == pytest.approx(45 + 0.01 / 1.5 - 20)


def test_v1_against_v3():
    """On answers that v3's guard takes they differ in the target time alone; on others v3 gives 0."""
    for seconds in (0.001, 0.02, 1.0):
        windows = [FIRST, SECOND]
        one, three = (score_publicly(PUBLIC[name], [ANSWER], windows, [seconds], 4, 2, 0.1) for name in ("v1", "v3"))
        assert one.per_pair == three.per_pair
        assert one.score - three.score == pytest.approx((0.02 - 0.002) / (seconds + 0.1) / 2)
    few = Answer(ANSWER.phy2log, ANSWER.log2phy, np.array([[1, 1, 1], [1, 1, 1]]))
    one, three = (score_publicly(PUBLIC[name], [few], [FIRST, SECOND], [0.1], 4, 2, 0.1) for name in ("v1", "v3"))
    assert one.score > 0
    assert not one.rejected
    assert three.score == 0
    assert "add up to 4" in three.rejected


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"phy2log": ANSWER.phy2log[:, :3]}, "not 4 wide"),
        ({"phy2log": ANSWER.phy2log[0]}, "not 4 wide"),
        ({"logcnt": np.array([[2, 1, 1], [1, 1, 1]])}, "add up"),
        ({"logcnt": np.array([[5, -2, 1], [1, 1, 2]])}, "negative"),
        ({"logcnt": np.array([[3, 0, 1], [1, 1, 2]])}, "1 experts have load and no replica"),
        ({"logcnt": np.array([[4], [4]])}, "logcnt is [2, 1]"),
    ],
)
def test_guards(change, why):
    """What v3 and v4 refuse; v1 scores it all the same where its loop gets through."""
    answer = Answer(**{**vars(ANSWER), **change})
    assert why in guard(answer, FIRST, 4)
    found = score_publicly(PUBLIC["v4"], [answer], [FIRST, FIRST], [0.1], 4, 2, 0.0)
    assert (found.score, found.per_pair) == (0, ())
    assert why in found.rejected


def test_guards_see_no_disagreement():
    """Maps that disagree, and empty lists, pass every public guard: load is lost, and a level score is the reward."""
    lists = np.zeros_like(ANSWER.log2phy)
    lists[:, :, 0] = [[0, 1, 2], [0, 1, 2]]
    lists[:, :, 1] = 3
    cheat = Answer(ANSWER.phy2log, lists, ANSWER.logcnt)
    assert guard(cheat, FIRST, 4) == ""
    assert not score_publicly(PUBLIC["v4"], [cheat], [FIRST, FIRST], [0.1], 4, 2, 0.0).rejected


def test_programs_that_failed():
    """Missing answers, and lists that the loop cannot follow, score 0 as there."""
    missing = score_publicly(PUBLIC["v1"], [ANSWER], [FIRST, SECOND, FIRST], [0.1], 4, 2, 0.0)
    assert (missing.score, missing.rejected) == (0, "window 1: no answer")
    for lists in (ANSWER.log2phy + 4, ANSWER.log2phy.astype(float), ANSWER.log2phy[:1], ANSWER.phy2log):
        found = score_publicly(PUBLIC["v1"], [Answer(ANSWER.phy2log, lists, ANSWER.logcnt)], [FIRST, FIRST], [0.1], 4, 2, 0.0)
        assert found.score == 0
        assert found.rejected.startswith("window 0: ")


def _loop(answer, load, num_slots):
    """Add up as the evaluators do: a loop over layers and experts, fancy indexing that does not accumulate."""
    slots = np.zeros((len(load), num_slots))
    for layer, row in enumerate(load):
        for expert, tokens in enumerate(row):
            count = int(answer.logcnt[layer, expert])
            if tokens > 0 and count > 0:
                slots[layer, answer.log2phy[layer, expert][:count]] += tokens / count
    return slots


@given(st.data())
def test_slot_loads_are_those_of_the_loop(data):
    """Also on lists that are wrong: too short, with slots twice, with -1 inside the count."""
    layers, experts, slots, width = (data.draw(st.integers(1, n)) for n in (3, 5, 6, 4))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    answer = Answer(
        draw.integers(0, experts, (layers, slots)),
        draw.integers(-slots, slots, (layers, experts, width)),
        draw.integers(-1, width + 2, (layers, experts)),
    )
    load = draw.integers(0, 9, (layers, experts))
    expected = _loop(answer, load, slots)
    # A slot named once from the start and once from the end is one slot, to which each adds what was there before.
    assert np.allclose(slot_load(answer, load, slots), expected)
