"""schedule_moves(): every schedule passes the checker, takes as many rounds as it must, and copies what moves are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, Placement, plan
from equipoise.errors import ArgumentError
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.scheduling import schedule_moves
from migrating.changes import RULES, changes, random_change, shuffles


def _degrees(schedule):
    """Largest number of sends or receives of any rank, per layer."""
    return np.maximum(schedule.sends.max(axis=1, initial=0), schedule.receives.max(axis=1, initial=0))


def _peers(schedule, layer):
    """Most peers that a rank has in a layer."""
    here = schedule.is_move & (schedule.layer == layer)
    pairs = {tuple(sorted(p)) for p in zip(schedule.sender[here].tolist(), schedule.receiver[here].tolist(), strict=True)}
    return max((sum(r in pair for pair in pairs) for r in range(schedule.num_ranks)), default=0)


@given(changes(), RULES)
def test_sound(drawn, rules):
    """Whatever both placements hold and the ranks are: the checker finds nothing, and never fewer rounds than the bound."""
    old, new = drawn
    schedule = schedule_moves(old, new, **rules)
    check_schedule(schedule, old, new)
    assert (schedule.added >= 0).all()
    assert (schedule.rounds[schedule.moves == 0] == 0).all()
    if rules["mode"] == "duplex" and "staging" not in rules:
        least = -(-schedule.moves // rules.get("chunk", 10**9))
        assert schedule.rounds.tolist() == schedule.bound.tolist() == np.maximum(_degrees(schedule), least).tolist()
    if rules["mode"] == "one-peer" and not {"staging", "chunk"} & set(rules):
        assert (schedule.added <= 1).all()
        assert all(schedule.bound[x] >= _peers(schedule, x) for x in range(schedule.num_layers))
    if "staging" in rules:
        assert schedule.most_staged.max(initial=0) <= rules["staging"]


@given(shuffles(), RULES)
def test_cycles(drawn, rules):
    """Swaps and longer cycles, through and within ranks, end with a single buffer a rank."""
    old, new = drawn
    check_schedule(schedule_moves(old, new, **rules), old, new)


@given(changes(same_cluster=True, with_down=False))
def test_moves_are_what_ranks_did_not_hold(drawn):
    """As many as Placement.moves_from counts, and what is lost from disk once a rank: slots of a rank are copied within it."""
    old, new = drawn
    schedule = schedule_moves(old, new)
    loads = np.bincount(schedule.layer[schedule.is_from_disk], minlength=old.num_layers)
    assert (schedule.moves + loads).tolist() == new.moves_from(old).tolist()
    wanted = {(x, e) for x in range(new.num_layers) for e in new.expert_of_slot[x].tolist() if e >= 0}
    assert set(schedule.lost_experts) == wanted & set(old.lost_experts)


@given(changes(), RULES)
@settings(max_examples=40)
def test_the_same_again(drawn, rules):
    """The same arguments, the same bytes; and from a placement to itself nothing."""
    old, new = drawn
    one, two = schedule_moves(old, new, **rules), schedule_moves(old, new, **rules)
    assert one.as_dict() == two.as_dict()
    assert len(schedule_moves(new, new, **rules).layer) == 0


def _fewest_rounds(old, new, staging):
    """Fewest rounds of one layer for the sources that schedule_moves takes, by a search over all choices of each round."""
    schedule = schedule_moves(old, new)
    jobs = [(int(s), int(t)) for s, t in zip(schedule.source[schedule.is_move], schedule.target[schedule.is_move], strict=True)]
    rank = schedule.rank_of_slot.tolist()
    assert not schedule.is_local.any(), "the search knows moves only"

    def settle(left, waiting):
        return frozenset(t for t in waiting if any(s == t for s, _ in left))

    states, rounds = {(frozenset(jobs), frozenset())}, 0
    while not any(not left for left, _ in states):
        following = set()
        for left, waiting in states:
            for n in range(1, len(left) + 1):
                for now in itertools.combinations(sorted(left), n):
                    senders, receivers = [rank[s] for s, _ in now], [rank[t] for _, t in now]
                    if len(set(senders)) < n or len(set(receivers)) < n:
                        continue
                    held = waiting | {t for _, t in now if any(s == t for s, _ in left)}
                    if all(sum(rank[t] == r for t in held) <= staging for r in set(rank)):
                        following.add((left - set(now), settle(left - set(now), held)))
        states, rounds = following, rounds + 1
    return rounds


@pytest.mark.compiled
def test_little_staging_against_the_fewest_rounds():
    """On tiny changes one buffer mostly takes the fewest rounds that any order of these moves does, and at most one more."""
    more = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cluster = Cluster(3, 2)
        old = Placement([rng.permutation(6)], cluster, 6)
        new = Placement([rng.permutation(6)], cluster, 6)
        schedule = schedule_moves(old, new, staging=1)
        if schedule.is_local.any():
            continue
        more.append(int(schedule.rounds[0]) - _fewest_rounds(old, new, 1))
    assert len(more) > 5
    assert min(more) >= 0
    assert max(more) <= 1
    assert np.mean(more) < 0.2


@pytest.mark.parametrize("mode", ["duplex", "one-peer"])
@pytest.mark.parametrize("rules", [{"staging": 1}, {"staging": 2}, {"staging": 1, "chunk": 5}, {"chunk": 3}])
def test_larger_changes(mode, rules):
    """Eight ranks of which every one sends and receives much: sound under each rule."""
    for seed in range(6):
        old, new = random_change(seed, layers=2)
        check_schedule(schedule_moves(old, new, mode=mode, **rules), old, new)


class TestExamples:
    """Small cases worked out by hand."""

    def test_a_swap_takes_one_round_and_a_buffer_each(self):
        """Both ranks send while they receive."""
        cluster = Cluster(2, 1)
        schedule = schedule_moves(Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2), staging=1)
        assert schedule.rounds.tolist() == [1]
        assert schedule.most_staged.tolist() == [1, 1]

    def test_a_swap_within_a_rank_takes_no_round(self):
        """One expert is put aside."""
        cluster = Cluster(1, 2)
        schedule = schedule_moves(Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2), staging=1)
        assert schedule.rounds.tolist() == [0]
        assert [o.action for o in schedule.operations(0)] == ["stash", "copy", "commit"]

    def test_nothing_is_staged_where_nothing_is_read(self):
        """Into empty slots experts go straight."""
        cluster = Cluster(3, 2)
        old, new = Placement([[0, 1, -1, -1, -1, -1]], cluster, 2), Placement([[0, 1, 1, 0, 0, 1]], cluster, 2)
        schedule = schedule_moves(old, new)
        assert schedule.most_staged.tolist() == [0, 0, 0]
        assert schedule.rounds.tolist() == [4], "rank 0 has all that the others need"

    def test_slots_that_stay_are_read_first(self):
        """Of two slots of a rank with the expert the one that keeps it, else the first."""
        cluster = Cluster(2, 3)
        old = Placement([[0, 1, 0, 2, 3, 3]], cluster, 4)
        for mine, source in (([3, 1, 0], 2), ([0, 1, 3], 0), ([1, 3, 2], 0)):
            new = Placement([[*mine, 0, 3, 3]], cluster, 4)
            schedule = schedule_moves(old, new)
            assert schedule.source[schedule.target == 3].tolist()[0] == source

    def test_what_a_rank_needs_twice_it_receives_once(self):
        """The second slot is copied from the first."""
        cluster = Cluster(2, 2)
        old, new = Placement([[0, 1, 2, 3]], cluster, 4), Placement([[0, 1, 0, 0]], cluster, 4)
        schedule = schedule_moves(old, new)
        assert schedule.moves.tolist() == [1]
        assert [o.action for o in schedule.operations(1)] == ["receive", "copy"]

    def test_a_rank_that_leaves_still_sends(self):
        """Told so; else what it alone holds is lost."""
        before, after = Cluster(2, 2), Cluster(2, 2, alive=[True, False])
        old, new = Placement([[0, 1, 2, 3]], before, 4), Placement([[2, 3, -1, -1]], after, 4)
        assert schedule_moves(old, new).lost_experts == ((0, 2), (0, 3))
        leaving = schedule_moves(old, new, leaving=[1])
        assert leaving.lost_experts == ()
        assert leaving.moves.tolist() == [2]
        check_schedule(leaving, old, new)

    def test_leaving_in_any_order_and_form(self):
        """The same schedule."""
        before, after = Cluster(3, 1), Cluster(3, 1, alive=[False, True, False])
        old, new = Placement([[0, 1, 2]], before, 3), Placement([[-1, 2, -1]], after, 3)
        for leaving in ([2, 0], (0, 2, 2), {0, 2}, np.array([2, 0]), iter([0, 2])):
            schedule = schedule_moves(old, new, leaving=leaving)
            assert schedule.leaving == (0, 2)
            assert schedule.lost_experts == ()

    @pytest.mark.parametrize(
        ("before", "after", "nodes"),
        [
            ([0, 0, 1, 1, 2, 2], [0, 0, 1], [0, 0, 1, 1, 2, 2]),
            ([0, 0, 1, 1, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0, 1, 1]),
            ([0, 2, 1, 1, 2, 0], [0, 1], [0, 1, 2, 2, 1, 0]),
            ([1, 0, 1, 0], [0, 1], [0, 1, 0, 1]),
            ([0, 0, 0, 0], [1, 0], [1, 0, 1, 1]),
            ([0, 1], [1, 1, 0], [1, 1, 0]),
        ],
        ids=["alike", "fewer", "a node goes", "renumbered", "divided", "added"],
    )
    def test_nodes_of_ranks_that_go(self, before, after, nodes):
        """Where the new cluster has the first rank of their old node; else together, on a node of their own."""
        old, new = (
            Placement([[0] * len(node)], Cluster(len(node), 1, max(node) + 1, node_of_rank=node), 1) for node in (before, after)
        )
        assert schedule_moves(old, new).node_of_rank.tolist() == nodes

    def test_a_removed_rank_sends_and_an_added_one_receives(self):
        """Ranks keep their numbers, the last ones go and come."""
        small, large = Cluster(2, 1), Cluster(3, 1)
        one, other = Placement([[0, 1]], small, 3), Placement([[0, 2, 1]], large, 3)
        grown, shrunk = schedule_moves(one, other), schedule_moves(other, one)
        assert grown.receives.tolist() == [[0, 0, 1]]
        assert grown.lost_experts == ((0, 2),)
        assert shrunk.sends.tolist() == [[0, 0, 1]]

    def test_slots_are_found_by_rank_and_place(self):
        """A rank with more slots than before keeps what it has where it is."""
        narrow, wide = Cluster(2, 2), Cluster(2, 3)
        old, new = Placement([[0, 1, 2, 3]], narrow, 4), Placement([[0, 1, 2, 2, 3, 0]], wide, 4)
        schedule = schedule_moves(old, new)
        assert schedule.target.tolist() == [2, 5]
        check_schedule(schedule, old, new)


@pytest.mark.compiled
@pytest.mark.parametrize("staging", [None, 1, 2])
def test_the_load_that_ships(example, staging):
    """From one window's plan to the next one's: exactly the bound without limit, few more with one buffer."""
    cluster = Cluster(8, 5, 2)
    old, new = (plan(example.load[w], cluster, effort="fast").placement for w in (3, 4))
    for mode in ("duplex", "one-peer"):
        schedule = schedule_moves(old, new, mode=mode, staging=staging)
        check_schedule(schedule, old, new)
        if staging is None:
            assert schedule.added.sum() <= (0 if mode == "duplex" else 2)
        assert schedule.added.sum() <= schedule.bound.sum() * 0.5


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_near_sources_come_first(seed):
    """With a choice between nodes the nearer source is taken, unless that makes more rounds."""
    old, new = random_change(seed, layers=1)
    schedule = schedule_moves(old, new)
    node = schedule.node_of_rank
    far = schedule.is_move & (node[schedule.sender] != node[schedule.receiver])
    sends = schedule.sends[0]
    for i in np.flatnonzero(far).tolist():
        for r in range(8):
            has = (old.expert_of_slot[0][old.cluster.rank_of_slot == r] == schedule.expert[i]).any()
            if has and node[r] == node[schedule.receiver[i]]:
                assert sends[r] == schedule.bound[0]


def _small(**changed):
    return Placement(**{"expert_of_slot": [[0, 1]], "cluster": Cluster(2, 1), "num_experts": 2} | changed)


@pytest.mark.parametrize(
    ("new", "rules", "words"),
    [
        (_small(num_experts=3), {}, "old has 1 layers of 2 experts"),
        (_small(expert_of_slot=[[0, 1], [1, 0]]), {}, "new has 2 of 2"),
        ([[0, 1]], {}, "new is a list"),
        (_small(cluster=Cluster(2, 1, alive=[True, False])), {}, "rank 1 is down"),
        (_small(), {"mode": "half"}, "mode is 'half'"),
        (_small(), {"staging": 0}, "staging is 0"),
        (_small(), {"staging": 1.5}, "staging is 1.5"),
        (_small(), {"chunk": 0}, "chunk is 0"),
        (_small(), {"leaving": [2]}, "leaving names rank 2"),
        (_small(), {"leaving": [-1]}, "a leaving rank is -1"),
        (_small(), {"leaving": [1]}, "it is up in the new placement"),
        (_small(), {"leaving": 3}, "leaving is 3"),
        (_small(), {"leaving": None}, "leaving is None"),
        (_small(), {"leaving": "1"}, "a leaving rank is '1'"),
        (_small().expert_of_slot, {}, "new is a ndarray"),
        (_small(expert_of_slot=[[0, 1, 1]], cluster=Cluster(3, 1)), {"leaving": [2]}, "it is not up in the old placement"),
    ],
)
def test_bad_input(new, rules, words):
    """Named, with what was found."""
    with pytest.raises(ArgumentError, match=words.replace("[", "\\[")):
        schedule_moves(_small(), new, **rules)
