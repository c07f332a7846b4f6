"""check_schedule(): schedules broken in every way are refused, with layer, round, slot and what it held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from equipoise import Cluster, Placement
from equipoise.errors import ArgumentError
from equipoise.kernels.sequencing import COMMIT, COPY, LOAD, MOVE, STASH
from equipoise.migrating.checking import InvalidScheduleError, check_schedule
from equipoise.migrating.scheduling import schedule_moves
from migrating.changes import RULES, changes, random_change, shuffles

COLUMNS = ("layer", "round", "kind", "source", "target", "expert", "buffer")


def _changed(schedule, step, **values):
    """The schedule with some values of one step changed."""
    columns = {name: getattr(schedule, name).copy() for name in values}
    for name, value in values.items():
        columns[name][step] = value
    return replace(schedule, **columns)


def _without(schedule, step):
    return replace(schedule, **{name: np.delete(getattr(schedule, name), step) for name in COLUMNS})


def _reordered(schedule, order):
    return replace(schedule, **{name: getattr(schedule, name)[order] for name in COLUMNS})


def _listed(cluster, experts, steps, rounds, **rules):
    """A schedule of one layer from rows (round, kind, source, target, expert, buffer)."""
    empty = schedule_moves(*[Placement([[-1] * cluster.num_slots], cluster, experts)] * 2, **rules)
    columns = np.array([(0, *step) for step in steps], np.int64).reshape(-1, 7).T
    return replace(empty, rounds=[rounds], **dict(zip(COLUMNS, columns, strict=True)))


def _refused(schedule, old, new, words):
    with pytest.raises(InvalidScheduleError, match=words):
        check_schedule(schedule, old, new)


class TestRules:
    """One rule broken at a time, on two ranks of two slots: 0 and 1, 2 and 3."""

    cluster = Cluster(3, 2)
    old = Placement([[0, 1, 2, 3, 4, 5]], cluster, 8)

    def _refuse(self, new, steps, rounds, words, **rules):
        new = Placement([new], self.cluster, 8)
        _refused(_listed(self.cluster, 8, steps, rounds, **rules), self.old, new, words)

    def test_wrong_source(self):
        """A slot that never held the expert."""
        words = "layer 0, round 0: the move to slot 0 reads slot 2, which holds expert 2: it must hold expert 3"
        self._refuse([3, 1, 2, 3, 4, 5], [(0, MOVE, 2, 0, 3, -1)], 1, words)

    def test_empty_source(self):
        """A slot that holds nothing, and a rank that was not there."""
        old = Placement([[0, 1, -1, 3, 4, 5]], self.cluster, 8)
        schedule = _listed(self.cluster, 8, [(0, MOVE, 2, 0, 2, -1)], 1)
        _refused(schedule, old, self.old, "reads slot 2, which holds nothing")
        new = Placement([[0, 1, 2, 3, 4, 5, 0]], Cluster(4, [2, 2, 2, 1]), 8)
        schedule = _changed(schedule_moves(self.old, new), 0, source=6, target=0)
        _refused(schedule, self.old, new, "comes from rank 3: that rank is down, or was not there")

    def test_overwritten_before_it_is_read(self):
        """The second move finds what the first has left."""
        steps = [(0, MOVE, 2, 0, 2, -1), (1, MOVE, 0, 4, 0, -1)]
        words = "layer 0, round 1: the move to slot 4 reads slot 0, which holds expert 2: it must hold expert 0"
        self._refuse([2, 1, 2, 3, 0, 5], steps, 2, words)

    def test_overwritten_while_it_is_read(self):
        """Both in one round."""
        steps = [(0, MOVE, 2, 0, 2, -1), (0, MOVE, 0, 4, 0, -1)]
        self._refuse([2, 1, 2, 3, 0, 5], steps, 1, "the move to slot 0 overwrites a slot that is read in this round")

    def test_a_local_copy_too_early(self):
        """Within the rank as well."""
        steps = [(-1, COPY, 1, 0, 1, -1), (0, MOVE, 0, 4, 0, -1)]
        self._refuse([1, 1, 2, 3, 0, 5], steps, 1, "reads slot 0, which holds expert 1: it must hold expert 0")

    @pytest.mark.parametrize(
        ("steps", "words"),
        [
            ([(0, MOVE, 0, 2, 0, -1), (0, MOVE, 1, 4, 1, -1)], "rank 0 sends 2 experts"),
            ([(0, MOVE, 2, 0, 2, -1), (0, MOVE, 4, 1, 4, -1)], "rank 0 receives 2 experts"),
        ],
    )
    def test_two_at_once(self, steps, words):
        """A rank sends one and receives one."""
        self._refuse([0, 1, 2, 3, 4, 5], steps, 1, words)

    def test_two_peers(self):
        """In one-peer mode to send to one and receive from another is too much."""
        steps = [(0, MOVE, 0, 2, 0, -1), (0, MOVE, 4, 1, 4, -1)]
        self._refuse([0, 4, 0, 3, 4, 5], steps, 1, r"rank 0 exchanges with ranks \[1, 2\]", mode="one-peer")

    def test_too_many_on_their_way(self):
        """More than a chunk."""
        steps = [(0, MOVE, 0, 2, 0, -1), (0, MOVE, 4, 1, 4, -1)]
        self._refuse([0, 4, 0, 3, 4, 5], steps, 1, "2 experts are on their way: at most 1", chunk=1)

    def test_more_buffers_than_there_are(self):
        """Two experts wait where one can."""
        steps = [(0, MOVE, 2, 0, 2, 0), (1, MOVE, 3, 1, 3, 1)]
        self._refuse([2, 3, 2, 3, 4, 5], steps, 2, r"takes rank 0's buffer 1 \(2 in use\): it has 1", staging=1)

    def test_a_buffer_that_is_taken(self):
        """The expert in it would be lost."""
        steps = [(0, MOVE, 2, 0, 2, 0), (1, MOVE, 3, 1, 3, 0)]
        self._refuse([2, 3, 2, 3, 4, 5], steps, 2, "overwrites buffer 0, which holds expert 2")

    def test_a_commit_of_something_else(self):
        """Or of nothing."""
        self._refuse([2, 1, 2, 3, 4, 5], [(0, COMMIT, -1, 0, 2, 0)], 1, "reads buffer 0, which holds nothing")

    def test_what_is_never_committed(self):
        """The slot lacks it in the end."""
        self._refuse([2, 1, 2, 3, 4, 5], [(0, MOVE, 2, 0, 2, 0)], 1, "slot 0 holds expert 0 in the end: the new placement has")

    def test_a_buffer_left_over(self):
        """Even where no slot lacks it."""
        self._refuse([0, 1, 2, 3, 4, 5], [(0, MOVE, 2, 0, 2, 0)], 1, "rank 0: buffer 0 holds expert 2 in the end")

    def test_a_stash_without_a_buffer(self):
        """It would be nowhere."""
        self._refuse([1, 1, 2, 3, 4, 5], [(-1, STASH, 1, 0, 1, -1)], 0, "names no buffer")

    def test_from_disk_what_ranks_hold(self):
        """Disks are for what is lost."""
        self._refuse([2, 1, 2, 3, 4, 5], [(-1, LOAD, -1, 0, 2, -1)], 0, "loads expert 2 from disk: a rank that is up holds it")

    def test_a_copy_between_ranks(self):
        """That is a move; and a move within a rank is none."""
        self._refuse([2, 1, 2, 3, 4, 5], [(-1, COPY, 2, 0, 2, -1)], 0, "reads slot 2 of another rank")
        self._refuse([1, 1, 2, 3, 4, 5], [(0, MOVE, 1, 0, 1, -1)], 1, "reads slot 1 of its own rank")

    def test_one_slot_written_twice(self):
        """In one-peer mode two experts could come at once."""
        steps = [(0, MOVE, 2, 0, 2, -1), (0, MOVE, 3, 0, 3, -1)]
        self._refuse([2, 1, 2, 3, 4, 5], steps, 1, "writes a slot that another move writes", mode="one-peer")

    def test_order(self):
        """Rounds rise, and moves come first in each, but not before the first round."""
        swap = [(0, MOVE, 2, 0, 2, -1), (1, MOVE, 4, 1, 4, -1)]
        self._refuse([2, 4, 2, 3, 4, 5], swap[::-1], 2, "round 0 comes behind round 1")
        late = [(0, COPY, 1, 0, 1, -1), (0, MOVE, 2, 1, 2, -1)]
        self._refuse([1, 2, 2, 3, 4, 5], late, 1, "a move behind a local step")
        self._refuse([2, 1, 2, 3, 4, 5], [(-1, MOVE, 2, 0, 2, -1)], 1, "comes before the first round")

    def test_ranks_that_are_down(self):
        """They neither send nor receive."""
        down = Cluster(3, 2, alive=[True, True, False])
        new = Placement([[4, 1, 2, 3, -1, -1]], down, 8)
        sends = _listed(self.cluster, 8, [(0, MOVE, 4, 0, 4, -1)], 1)
        _refused(sends, self.old, new, "comes from rank 2: that rank is down")
        receives = _listed(self.cluster, 8, [(0, MOVE, 0, 4, 0, -1)], 1)
        _refused(receives, self.old, new, "is on rank 2: that rank is down")

    def test_other_placements(self):
        """Another model, other slots."""
        schedule = schedule_moves(self.old, self.old)
        _refused(schedule, self.old, Placement([[0] * 6], self.cluster, 9), "layers of 8 and 9 experts")
        wide = Placement([[0] * 9], Cluster(3, 3), 8)
        _refused(schedule, wide, wide, r"the schedule's ranks have \[2, 2, 2\] slots")

    def test_layers_in_turn(self):
        """A step of a layer behind one of the next."""
        old, new = random_change(3, layers=2)
        schedule = schedule_moves(old, new)
        _refused(_reordered(schedule, np.arange(len(schedule.layer))[::-1]), old, new, "layer 0 comes behind layer 1")


@given(st.one_of(changes(), shuffles()), RULES, st.data())
def test_a_missing_step(drawn, rules, data):
    """Each step is needed, if only for its expert: without it the checker finds something, always."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    assume(len(schedule.layer))
    _refused(_without(schedule, data.draw(st.integers(0, len(schedule.layer) - 1))), old, new, "layer")


@given(st.one_of(changes(), shuffles()), RULES, st.data())
def test_another_expert_or_slot(drawn, rules, data):
    """A step with another expert, or to another slot, is refused."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    assume(len(schedule.layer))
    step = data.draw(st.integers(0, len(schedule.layer) - 1))
    name = data.draw(st.sampled_from(["expert", "target"]))
    end = schedule.num_experts if name == "expert" else int(schedule.slot_counts.sum())
    value = data.draw(st.integers(0, end - 1))
    assume(value != getattr(schedule, name)[step])
    if name == "target" and not (schedule.kind[step] == LOAD or schedule.kind[step] == COPY):
        assume(schedule.buffer[step] < 0)  # a move's slot says whose buffer; the slot itself is the commit's
    _refused(_changed(schedule, step, **{name: value}), old, new, "do not apply")


@given(shuffles(), st.data())
@settings(max_examples=60)
def test_straight_into_a_slot_that_is_needed(drawn, data):
    """What is staged is staged for a reason: written straight, another step finds its expert gone."""
    old, new = drawn
    schedule = schedule_moves(old, new)
    staged = np.flatnonzero(schedule.is_staged & schedule.is_move)
    assume(staged.size)
    _refused(_changed(schedule, data.draw(st.sampled_from(staged.tolist())), buffer=-1), old, new, "layer")


def _swap_rounds(schedule, layer, one, other):
    """The schedule with the moves of two rounds exchanged, local steps left where they are."""
    now = schedule.round.copy()
    here = (schedule.layer == layer) & schedule.is_move
    now[here & (schedule.round == one)], now[here & (schedule.round == other)] = other, one
    is_local = ~schedule.is_move
    order = np.lexsort((np.arange(len(now)), is_local, now, schedule.layer))
    return replace(_reordered(schedule, order), round=now[order])


def test_swapped_rounds():
    """With one buffer a rank most rounds cannot be exchanged; where the checker allows it, the end is reached."""
    refused = tried = 0
    for seed in range(8):
        old, new = random_change(seed, layers=1)
        schedule = schedule_moves(old, new, staging=1)
        for now in range(int(schedule.rounds[0]) - 1):
            tried += 1
            try:
                check_schedule(_swap_rounds(schedule, 0, now, now + 1), old, new)
            except InvalidScheduleError:
                refused += 1
    assert tried > 20
    assert refused > 0.8 * tried


def test_a_round_joined_with_the_next():
    """Two rounds at once: a rank sends twice."""
    old, new = random_change(5, layers=1)
    schedule = schedule_moves(old, new)
    last = int(schedule.rounds[0]) - 1
    now = np.where(schedule.is_move & (schedule.round == last), last - 1, schedule.round)
    order = np.lexsort((np.arange(len(now)), ~schedule.is_move, now))
    _refused(replace(_reordered(schedule, order), round=now[order]), old, new, "(sends|receives) 2 experts|read in this round")


def test_what_is_no_schedule_or_placement():
    """Named."""
    old, new = random_change(1)
    schedule = schedule_moves(old, new)
    for arguments, words in (
        ((schedule, old, new.expert_of_slot), "new is a ndarray"),
        ((schedule, None, new), "old is a NoneType"),
        ((schedule.as_dict(), old, new), "schedule is a dict"),
    ):
        with pytest.raises(ArgumentError, match=words):
            check_schedule(*arguments)
