"""Checks of answers against a slow twin that goes slot by slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.scoring.answers import Answer, check_answer

LAYERS, EXPERTS, SLOTS = 2, 3, 5


def _answer(phy2log):
    count = np.stack([np.bincount(row, minlength=EXPERTS) for row in phy2log])
    lists = np.full((LAYERS, EXPERTS, count.max()), -1)
    for layer, row in enumerate(phy2log):
        for expert in range(EXPERTS):
            slots = np.flatnonzero(row == expert)
            lists[layer, expert, : slots.size] = slots
    return Answer(phy2log, lists, count)


def _is_right(answer):
    """The rules one by one, slot by slot."""
    for layer in range(LAYERS):
        row = answer.phy2log[layer].tolist()
        if any(not 0 <= expert < EXPERTS for expert in row):
            return False
        for expert in range(EXPERTS):
            slots = [slot for slot, held in enumerate(row) if held == expert]
            listed = answer.log2phy[layer, expert].tolist()
            if not slots or answer.logcnt[layer, expert] != len(slots):
                return False
            if sorted(listed[: len(slots)]) != slots or any(place != -1 for place in listed[len(slots) :]):
                return False
    return True


@st.composite
def _nearly_right(draw):
    """A right answer, with up to two of its numbers changed."""
    rows = [draw(st.permutations([0, 1, 2, *draw(st.lists(st.integers(0, 2), min_size=2, max_size=2))])) for _ in range(LAYERS)]
    answer = _answer(np.array(rows))
    for _ in range(draw(st.integers(0, 2))):
        array = draw(st.sampled_from([answer.phy2log, answer.log2phy, answer.logcnt]))
        array.flat[draw(st.integers(0, array.size - 1))] = draw(st.integers(-2, 6))
    return answer


@given(_nearly_right())
def test_as_the_slow_twin(answer):
    """A verdict exactly where a rule is broken."""
    assert (check_answer(answer, 0, LAYERS, EXPERTS, SLOTS) is None) == _is_right(answer)


@given(st.permutations(range(3)))
def test_lists_in_any_order(order):
    """The slots of an expert may be listed in any order, and padding may be wider than needed."""
    answer = _answer(np.array([[0, 0, 0, 1, 2], [1, 1, 1, 0, 2]]))
    lists = answer.log2phy.copy()
    lists[0, 0] = lists[0, 0][list(order)]
    wider = np.concatenate([lists, np.full((LAYERS, EXPERTS, 2), -1)], axis=2)
    assert check_answer(Answer(answer.phy2log, wider, answer.logcnt), 0, LAYERS, EXPERTS, SLOTS) is None


def test_a_slot_that_both_lists_and_counts_leave_out():
    """Shorter lists with counts to match are maps that disagree with phy2log."""
    answer = _answer(np.array([[0, 0, 0, 1, 2], [1, 1, 1, 0, 2]]))
    answer.log2phy[0, 0, 2] = -1
    answer.logcnt[0, 0] = 2
    verdict = check_answer(answer, 3, LAYERS, EXPERTS, SLOTS)
    assert (verdict.kind, verdict.found) == ("maps disagree", "window 3: layer 0, expert 0: logcnt says 2, phy2log 3")


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.uint64])
def test_any_integers(dtype):
    """Integers of any width are taken; unsigned ones cannot pad, so they must need none."""
    square = Answer(*(np.array(m, dtype) for m in ([[0, 1, 2]], [[[0], [1], [2]]], [[1, 1, 1]])))
    assert check_answer(square, 0, 1, 3, 3) is None
    swapped = Answer(square.phy2log, square.log2phy[:, ::-1], square.logcnt)
    assert check_answer(swapped, 4, 1, 3, 3).found.startswith("window 4: layer 0, expert 0")
