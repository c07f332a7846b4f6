"""recover(): what it says ranks hold is what ranks hold that ran at their own pace; the rest is sound, nothing lost twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, Placement
from equipoise.errors import ArgumentError
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.recovering import recover
from equipoise.migrating.scheduling import schedule_moves
from migrating.changes import RULES, Run, changes, random_change, shuffles


def _run_some(draw, schedule, old):
    """Let ranks come as far as chance has it."""
    run = Run(schedule, old)
    ranks = st.integers(0, schedule.num_ranks - 1)
    for rank, is_done in draw(st.lists(st.tuples(ranks, st.sampled_from([True, True, False])), max_size=60)):
        run.begin(rank)
        if is_done and run.can_finish(rank):
            run.finish(rank)
    return run


def _is_gone(schedule, old, new, dead):
    """Ranks that hold nothing: the dead, those down in new, those down in old that are not in new."""
    gone = []
    for r in range(schedule.num_ranks):
        was_up = r < old.cluster.num_ranks and old.cluster.alive[r]
        is_up = r < new.cluster.num_ranks and new.cluster.alive[r]
        gone.append(r in dead or not (is_up or (was_up and (r >= new.cluster.num_ranks or r in schedule.leaving))))
    return gone


def _assert_recovers(run, old, new, dead, back, is_told=True):
    """Compare with what ranks hold; not told what they have begun, each has begun its next round, for all one knows."""
    schedule = run.schedule
    gone = _is_gone(schedule, old, new, dead)
    target = old if back else new
    target_up = [up and not gone[r] for r, up in enumerate(target.cluster.alive)]
    done = [run.done(r) for r in range(schedule.num_ranks)]
    told = {"begun": run.begun} if is_told else {}
    if not any(target_up):
        with pytest.raises(ArgumentError, match="dead_ranks leaves no rank"):
            recover(schedule, old, new, done, dead, back=back, **told)
        return None
    found = recover(schedule, old, new, done, dead, back=back, **told)
    surviving = set()
    begin = np.cumsum([0, *found.state.cluster.slot_counts.tolist()])
    for r in range(schedule.num_ranks):
        for (x, place), expert in run.slots[r].items():
            is_known = not gone[r] and expert != run.WRITING and (is_told or (x, place) not in run.next_targets(r))
            held = found.state.expert_of_slot[x, begin[r] + place]
            assert held == (expert if is_known else -1), f"rank {r}, layer {x}, place {place}"
            surviving |= {(x, expert)} if is_known else set()
        surviving |= {(x, e) for (x, _), e in run.buffers[r].items() if not gone[r]}
    lost = [(x, e) for x in range(old.num_layers) for e in range(old.num_experts) if (x, e) not in surviving]
    assert list(found.lost_experts) == lost
    assert found.state.cluster.alive == tuple(not g for g in gone)
    is_kept = np.asarray(target_up)[target.cluster.rank_of_slot]
    assert (found.target.expert_of_slot == np.where(is_kept, target.expert_of_slot, -1)).all()
    assert found.homeless_experts == found.target.lost_experts
    assert set(found.schedule.lost_experts) <= set(found.lost_experts)
    check_schedule(found.schedule, found.state, found.target)
    return found


def _draw_dead(draw, schedule):
    return draw(st.lists(st.integers(0, schedule.num_ranks - 1), max_size=2, unique=True))


@given(changes(), RULES, st.booleans(), st.booleans(), st.data())
def test_ranks_die_anywhere(drawn, rules, back, is_told, data):
    """The state is what live ranks hold, lost is what none does, and the rest leads to the target."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    run = _run_some(data.draw, schedule, old)
    _assert_recovers(run, old, new, _draw_dead(data.draw, schedule), back, is_told)


@given(shuffles(), RULES, st.booleans(), st.booleans(), st.data())
def test_ranks_die_in_the_middle_of_cycles(drawn, rules, back, is_told, data):
    """Where a buffer holds the last replica of an expert it is not lost; ranks may die during the recovery, too."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    run = _run_some(data.draw, schedule, old)
    found = _assert_recovers(run, old, new, _draw_dead(data.draw, schedule), back, is_told)
    if found is not None:
        second = _run_some(data.draw, found.schedule, found.state)
        _assert_recovers(second, found.state, found.target, _draw_dead(data.draw, schedule), False)


@given(st.one_of(changes(), shuffles()), RULES, st.integers(0, 8), st.data())
@settings(max_examples=60)
def test_between_rounds_nothing_is_lost_in_vain(drawn, rules, rounds, data):
    """All ranks stop after the same rounds, none has begun the next: what is lost is what no rank that is left has whole."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    run = Run(schedule, old)
    ranks = range(schedule.num_ranks)
    for _ in range(min(rounds, len(run.stages) - 1)):
        for rank in ranks:
            run.begin(rank)
        for rank in ranks:
            run.finish(rank)
    dead = _draw_dead(data.draw, schedule)
    if _assert_recovers(run, old, new, dead, False) is None:
        return
    done, gone = run.done(0), _is_gone(schedule, old, new, dead)
    lost = recover(schedule, old, new, done, dead, begun=False).lost_experts
    left = [(x, e) for r in ranks if not gone[r] for held in (run.slots[r], run.buffers[r]) for (x, _), e in held.items()]
    assert set(lost) == set(np.ndindex(old.num_layers, old.num_experts)) - set(left)
    assert set(lost) <= set(recover(schedule, old, new, done, dead).lost_experts)


@given(changes(), RULES)
@settings(max_examples=60)
def test_operations_lead_to_the_new_placement(drawn, rules):
    """Ranks that do their own operations, waiting only for peers, all end, and hold what they should."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    run = Run(schedule, old)
    while any(position < len(run.stages) for position in run.position):
        for r in range(schedule.num_ranks):
            run.begin(r)
        able = [r for r in range(schedule.num_ranks) if run.can_finish(r)]
        assert able, "ranks wait for each other"
        run.finish(able[-1])
    for r in range(new.cluster.num_ranks):
        for x in range(new.num_layers):
            for place, expert in enumerate(new.expert_of_slot[x][new.cluster.rank_of_slot == r].tolist()):
                assert expert in (-1, run.slots[r][x, place])
    assert not any(run.buffers)


class TestExamples:
    """Small cases worked out by hand."""

    cluster = Cluster(2, 1)
    old, new = Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2)

    def test_a_buffer_saves_the_last_replica(self):
        """Rank 0 holds both experts of a swap, one of them in a buffer, when rank 1 dies."""
        cluster = Cluster(3, 1)
        old, new = Placement([[0, 1, 2]], cluster, 3), Placement([[1, 2, 0]], cluster, 3)
        schedule = schedule_moves(old, new, staging=1, chunk=1)
        assert schedule.operations(schedule.receiver[0]).__next__().buffer == 0
        keeper, giver = int(schedule.receiver[0]), int(schedule.sender[0])
        found = recover(schedule, old, new, (0, 1), [giver])
        assert found.lost_experts == ()
        assert found.state.cluster.slot_counts.tolist() == [2 if r == keeper else 1 for r in range(3)]

    def test_without_deaths_the_rest_is_scheduled(self):
        """Nothing is lost, and what is done is not done again."""
        old, new = random_change(1)
        schedule = schedule_moves(old, new)
        for layer in range(4):
            found = recover(schedule, old, new, (layer, 0), [])
            assert found.lost_experts == found.homeless_experts == ()
            assert found.schedule.moves[:layer].tolist() == [0] * layer
            check_schedule(found.schedule, found.state, new)

    def test_at_the_end_nothing_is_left(self):
        """The state is the new placement."""
        found = recover(schedule_moves(self.old, self.new), self.old, self.new, (1, 0), [])
        assert found.state.expert_of_slot.tolist() == [[1, 0]]
        assert len(found.schedule.layer) == 0

    def test_a_round_that_was_not_begun_has_written_nothing(self):
        """Rank 1's expert is half overwritten if it had begun to receive, else it is there."""
        new = Placement([[0, 0]], self.cluster, 2)
        schedule = schedule_moves(self.old, new)
        for begun, held in ((True, -1), (False, 1), ([True, False], 1), (np.array([False, True]), -1)):
            found = recover(schedule, self.old, new, (0, 0), [0], begun=begun)
            assert found.state.expert_of_slot.tolist() == [[-1, held]]
            assert found.lost_experts == (((0, 0), (0, 1)) if held < 0 else ((0, 0),))

    def test_a_cluster_that_shrinks_to_fewer_nodes(self):
        """Ranks 4 and 5 are not in the new cluster, nor is their node: they have one of their own."""
        large, small = Cluster(6, 2, num_nodes=3), Cluster(4, 3)
        old = Placement([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]], large, 10)
        new = Placement([[0, 1, 8, 2, 3, 9, 4, 5, 0, 6, 7, 1]], small, 10)
        for back in (False, True):
            found = recover(schedule_moves(old, new), old, new, (0, 0), [0], begun=False, back=back)
            assert found.state.cluster.node_of_rank == (0, 0, 0, 0, 1, 1)
            check_schedule(found.schedule, found.state, found.target)

    def test_what_has_no_slot_any_more_is_homeless(self):
        """Experts of a dead rank that the target has nowhere else."""
        found = recover(schedule_moves(self.old, self.new), self.old, self.new, (0, 1), [1])
        assert found.homeless_experts == ((0, 0),)
        assert found.lost_experts == ((0, 0),)
        found = recover(schedule_moves(self.old, self.new), self.old, self.new, (0, 1), [1], back=True)
        assert found.target.expert_of_slot.tolist() == [[0, -1]]

    @pytest.mark.parametrize(
        ("done", "dead", "words"),
        [
            ((0, 2), [], "rank 0 has done 2 rounds of layer 0"),
            ((2, 0), [], "there are 1 layers"),
            ((0, -1), [], "has done -1 rounds"),
            ([(0, 1), (0, 0), (0, 0)], [], "done is"),
            (0.5, [], "done is 0.5"),
            ([(0, 1), (0,)], [], "done is"),
            ((0, 1), [2], "dead_ranks names rank 2"),
            ((0, 1), [-1], "a dead rank is -1"),
            ((0, 1), 0, "dead_ranks is 0"),
            ((0, 1), None, "dead_ranks is None"),
            ((0, 1), [[0]], "a dead rank is [0]"),
            ((0, 1), [0, 1], "dead_ranks leaves no rank"),
        ],
    )
    def test_bad_input(self, done, dead, words):
        """Named, with what was found."""
        with pytest.raises(ArgumentError, match=words.replace("[", "\\[")):
            recover(schedule_moves(self.old, self.new), self.old, self.new, done, dead)

    @pytest.mark.parametrize("begun", [1, None, [True], [[True, False]], [0, 1], [True, [False]], "no"])
    def test_begun_is_yes_or_no(self, begun):
        """One answer, or one a rank."""
        with pytest.raises(ArgumentError, match="begun is "):
            recover(schedule_moves(self.old, self.new), self.old, self.new, (0, 0), [], begun=begun)

    def test_what_is_no_schedule_or_placement(self):
        """Named."""
        schedule = schedule_moves(self.old, self.new)
        for arguments, words in (
            ((None, self.old, self.new), "schedule is a NoneType"),
            ((schedule, self.old.expert_of_slot, self.new), "old is a ndarray"),
            ((schedule, self.old, None), "new is a NoneType"),
        ):
            with pytest.raises(ArgumentError, match=words):
                recover(*arguments, (0, 0), [])

    def test_progress_that_cannot_be(self):
        """A rank cannot have received what its peer has not begun to send."""
        cluster = Cluster(3, 2)
        old, new = Placement([[0, 1, -1, -1, -1, -1]], cluster, 2), Placement([[0, 1, 0, 1, -1, -1]], cluster, 2)
        schedule = schedule_moves(old, new)
        assert recover(schedule, old, new, [(0, 1), (0, 2), (0, 0)], []).lost_experts == ()
        with pytest.raises(ArgumentError, match="rank 1 has finished round 1 of layer 0"):
            recover(schedule, old, new, [(0, 0), (0, 2), (0, 0)], [])
        with pytest.raises(ArgumentError, match="rank 0, which sends to it then, has not come that far"):
            recover(schedule, old, new, [(0, 1), (0, 2), (0, 0)], [], begun=[False, True, True])
        assert recover(schedule, old, new, [(0, 1), (0, 2), (0, 0)], [0], begun=False).lost_experts == ()

    def test_other_placements(self):
        """A schedule is that of its own placements."""
        cluster = Cluster(2, 2)
        other = Placement([[0, 1, 1, 0]], cluster, 2)
        with pytest.raises(ArgumentError, match="the schedule has 1 layers"):
            recover(schedule_moves(self.old, self.new), other, other, (0, 0), [])
