"""adopt(): what still stands of an old placement, what goes, and what experts must get, against the definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters import random_cluster
from equipoise import Cluster, Placement
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.planning.adopting import GONE, adopt, region_of_rank
from equipoise.planning.problem import make_problem

SEEDS = st.integers(0, 2**32 - 1)


def _random_case(seed):
    """Anything as previous: duplicates, empty slots, experts nowhere, another cluster."""
    rng = np.random.default_rng(seed)
    experts, num_nodes = int(rng.integers(1, 8)), int(rng.integers(1, 4))
    before, now = (random_cluster(rng, experts, num_nodes) for _ in range(2))
    now = before if rng.random() < 0.3 else now
    previous = Placement(rng.integers(-1, experts, (2, before.num_slots)), before, experts)
    return previous, make_problem(np.floor(rng.random((2, experts)) ** 3 * 100), now)


def _pairs(row, rank_of_slot):
    return [(int(r), int(e)) for r, e in zip(rank_of_slot, row, strict=True) if e >= 0]


def _rank_of_slot(problem):
    """Rank, as the cluster numbers them, of each slot that is up."""
    return problem.cluster.rank_of_slot[problem.everything.slots]


def _ones(problem):
    return np.ones(problem.load.shape, np.int64)


@given(SEEDS)
def test_what_stands_and_what_is_received(seed):
    """Strict and complete; experts keep slots; no more is received than what no rank that is up held or has room for."""
    previous, problem = _random_case(seed)
    found, rank = adopt(previous, problem, _ones(problem), 1), _rank_of_slot(problem)
    begin_before = np.cumsum([0, *previous.cluster.slot_counts[:-1]])
    begin = np.searchsorted(rank, np.arange(problem.cluster.num_ranks))
    for x, row in enumerate(found.start):
        pairs, had = _pairs(row, rank), _pairs(previous.expert_of_slot[x], previous.cluster.rank_of_slot)
        assert len(pairs) == len(set(pairs))
        assert {e for _, e in pairs} == set(range(problem.num_experts))
        up = {r for r in range(problem.cluster.num_ranks) if problem.cluster.alive[r]}
        still_held = {e for r, e in had if r in up}
        shrinks = any(r in up and previous.cluster.slot_counts[r] > problem.cluster.slot_counts[r] for r, _ in had)
        received = {(r, e) for r, e in pairs} - set(had)
        if not shrinks:
            assert sorted(e for _, e in received) == sorted(set(range(problem.num_experts)) - still_held)
        count = np.bincount(row[row >= 0], minlength=problem.num_experts)
        for _, e in received:
            slots = [held for s, held in zip(rank, row, strict=True) if (int(s), e) in had]
            assert all(held >= 0 and count[held] == 1 for held in slots), "it could have stayed where it was"
        for s, e in enumerate(row.tolist()):
            n = s - begin[rank[s]]
            if e >= 0 and (int(rank[s]), e) in had and not shrinks:
                held_there = previous.expert_of_slot[x, begin_before[rank[s]] : begin_before[rank[s]] + n + 1].tolist()
                assert held_there.index(e) == n, "an expert that stays keeps its slot"


@given(SEEDS)
def test_what_ranks_held(seed):
    """As in the placement before, ranks counted among those that are up."""
    previous, problem = _random_case(seed)
    found = adopt(previous, problem, _ones(problem), 1)
    up = np.flatnonzero(problem.cluster.alive).tolist()
    assert found.held.tolist() == previous.expert_of_slot.tolist()
    assert found.rank_held.tolist() == [up.index(r) if r in up else GONE for r in previous.cluster.rank_of_slot.tolist()]


def _can_be_met(room, node, least, spread):
    """Whether some strict placement gives every expert its replicas and nodes, all tried."""
    choices = []
    for n in least:
        sets = [c for k in range(n, len(room) + 1) for c in itertools.combinations(range(len(room)), k)]
        sets = [c for c in sets if n == 1 or len({node[r] for r in c}) >= spread]
        choices.append([c for c in sets if not any(set(d) < set(c) for d in sets)])
    return _fits(tuple(room), choices, 0)


def _fits(room, choices, at):
    if at == len(choices):
        return True
    for chosen in choices[at]:
        left = tuple(n - (r in chosen) for r, n in enumerate(room))
        if min(left) >= 0 and _fits(left, choices, at + 1):
            return True
    return False


@given(SEEDS)
@settings(max_examples=200)
def test_least_replicas_are_met_wherever_they_can_be(seed):
    """The promise holds, or no placement at all holds it and it is refused by name."""
    rng = np.random.default_rng(seed)
    previous, problem = _random_case(seed)
    most, is_hot = int(rng.integers(2, 4)), rng.random(problem.load.shape) < rng.choice([0.3, 1.0])
    least = np.where(is_hot, most, 1)
    cluster, up = problem.cluster, np.flatnonzero(problem.cluster.alive)
    node = [cluster.node_of_rank[r] for r in up]
    spread = min(most, len(set(node))) if rng.random() < 0.5 else 1
    can = [_can_be_met(cluster.slot_counts[up].tolist(), node, row.tolist(), spread) for row in least]
    if not all(can):
        with pytest.raises(ArgumentError, match="finds no slot"):
            adopt(previous, problem, least, spread)
        return
    found, rank = adopt(previous, problem, least, spread), _rank_of_slot(problem)
    for row, wanted in zip(found.start, least, strict=True):
        pairs = _pairs(row, rank)
        assert len(pairs) == len(set(pairs))
        for e, n in enumerate(wanted.tolist()):
            ranks = {r for r, held in pairs if held == e}
            assert len(ranks) >= n
            assert n == 1 or len({cluster.node_of_rank[r] for r in ranks}) >= spread


def _adopted(rows, before, now, experts, load=None, least=None, spread=1, **options):
    load = np.ones((len(rows), experts)) if load is None else load
    problem = make_problem(load, now, **options)
    least = _ones(problem) if least is None else np.array(least)
    return adopt(Placement(rows, before, experts), problem, least, spread).start.tolist()


class TestByHand:
    """Changes that can be read off."""

    def test_a_rank_dies(self):
        """What only it held goes to the slot of an expert that has another, on the rank that then ends soonest."""
        now = Cluster(3, 2, alive=[True, True, False])
        assert _adopted([[0, 1, 0, 2, 3, 1]], Cluster(3, 2), now, 4, [[2.0, 9.0, 1.0, 1.0]]) == [[0, 1, 3, 2]]

    def test_a_rank_comes_back_or_is_added(self):
        """It is empty."""
        assert _adopted([[0, 1, 2, 3]], Cluster(2, 2), Cluster(3, 2), 4) == [[0, 1, 2, 3, -1, -1]]

    def test_more_slots_a_rank(self):
        """Slots keep their places within the rank."""
        assert _adopted([[0, 1, 2, 3]], Cluster(2, 2), Cluster(2, 3), 4) == [[0, 1, -1, 2, 3, -1]]

    def test_fewer_slots_a_rank_keep_what_is_nowhere_else(self):
        """Expert 2, in the slot that goes, stays on its rank in the place of one that rank 1 has."""
        assert _adopted([[0, 1, 2, 1, 3, 0]], Cluster(2, 3), Cluster(2, 2), 4) == [[0, 2, 1, 3]]

    def test_duplicates_go(self):
        """The first of them stays."""
        assert _adopted([[0, 0, 1, 0]], Cluster(2, 2), Cluster(2, 2), 2) == [[0, -1, 1, 0]]

    def test_a_replica_returns_to_where_it_was(self):
        """A rank that lost a slot still has the weights: that is no move."""
        rows, least = [[0, 1, 2, 1, 3, 0]], [[2, 1, 1, 1]]
        assert _adopted(rows, Cluster(2, 3), Cluster(2, [3, 2]), 4, least=least) == [[0, 1, 2, 0, 3]]

    def test_others_are_passed_on_where_what_is_spare_lies_wrong(self):
        """Expert 0 needs a second rank, but the slot that can be spared is on its own: 2 is passed on."""
        assert _adopted([[0, 1, 2, 1]], Cluster(2, 2), Cluster(2, 2), 3, least=[[2, 1, 1]]) in ([[0, 2, 0, 1]], [[0, 1, 2, 0]])
        start = _adopted([[0, 1, -1, 2]], Cluster(2, [3, 1]), Cluster(2, [3, 1]), 3, least=[[2, 1, 1]])
        assert start == [[0, 1, 2, 0]]

    def test_nodes_reach_further(self):
        """Two replicas on one node become two on two, though no slot is to spare."""
        rows, cluster = [[0, 1, 0, 1, 2, 3, 2, 3]], Cluster(4, 2, 2)
        start = np.array(_adopted(rows, cluster, cluster, 4, least=[[2] * 4], spread=2)[0])
        assert all({s // 4 for s in np.flatnonzero(start == e).tolist()} == {0, 1} for e in range(4))


class TestStrictLocality:
    """Groups stay on the nodes where they are."""

    cluster = Cluster(4, 2, 2)

    def test_a_group_that_lost_all_goes_to_the_node_with_fewest(self):
        """Group 1 was on node 1 alone."""
        rows = [[0, 1, 0, 1, -1, -1, -1, -1]]
        start = _adopted(rows, self.cluster, self.cluster, 4, num_groups=2, locality="strict")
        assert start[0][:4] == [0, 1, 0, 1]
        assert set(start[0][4:]) == {2, 3, -1}

    def test_lost_experts_stay_at_home(self):
        """Expert 3 goes where its group is, though the other node has empty slots."""
        rows = [[0, 1, -1, -1, 2, 2, 2, -1]]
        start = _adopted(rows, self.cluster, self.cluster, 4, num_groups=2, locality="strict")
        assert 3 in start[0][4:]
        assert 3 not in start[0][:4]

    @pytest.mark.parametrize("rows", [[[0, 1, 2, 3, 2, 3, 0, 1]], [[0, 1, 0, 1, 2, 3, 2, 3], [0, 1, 0, 1, 2, 3, 2, 1]]])
    def test_a_group_on_two_nodes_is_refused(self, rows):
        """Also where every expert is served."""
        with pytest.raises(NotSupportedError, match=f"previous has group 0 of layer {len(rows) - 1} on nodes \\[0, 1\\]"):
            _adopted(rows, self.cluster, self.cluster, 4, num_groups=2, locality="strict")

    def test_none_is_passed_on_to_another_node(self):
        """Expert 1 needs a second rank, and 0 would have to leave its node for that."""
        cluster, rows = Cluster(4, [2, 1, 2, 1], 2), [[0, 1, 0, 2, 3, -1]]
        with pytest.raises(ArgumentError, match="expert 1 finds no slot"):
            _adopted(rows, cluster, cluster, 4, least=[[2, 2, 1, 1]], num_groups=2, locality="strict")

    def test_no_room_at_home(self):
        """Replicas beyond the slots of a group's node are refused by name, whatever is free elsewhere."""
        cluster, rows = Cluster(3, 2, 2, node_of_rank=[0, 0, 1]), [[0, 1, 0, -1, 2, 3]]
        least = [[1, 1, 2, 1]]
        with pytest.raises(ArgumentError, match="expert 2 finds no slot"):
            _adopted(rows, cluster, cluster, 4, least=least, num_groups=2, locality="strict")

    def test_regions(self):
        """Nodes under strict locality, else one for all; of the ranks that are up."""
        cluster = Cluster(4, 2, 2, alive=[True, False, True, True])
        assert region_of_rank(make_problem([[1.0] * 4], cluster)).tolist() == [0, 0, 0]
        strict = make_problem([[1.0] * 4], cluster, num_groups=2, locality="strict")
        assert region_of_rank(strict).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("previous", "found"),
    [
        (None, "previous is a NoneType"),
        ([[0, 1]], "previous is a list"),
        (Placement([[0, 1]], Cluster(2, 1), 3), "previous has 1 layers of 3 experts"),
        (Placement([[0, 1], [0, 1]], Cluster(2, 1), 2), "previous has 2 layers of 2 experts"),
    ],
)
def test_other_models_are_refused(previous, found):
    """What is no placement, or of other layers or experts."""
    problem = make_problem([[1.0, 2.0]], Cluster(2, 1))
    with pytest.raises(ArgumentError) as error:
        adopt(previous, problem, _ones(problem), 1)
    assert str(error.value).startswith(found)
