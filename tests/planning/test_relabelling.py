"""Relabelling: as much stays as in the best of all renamings, balance stays, and slots go on holding what they held."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import ABSENT, Cluster, Placement, plan
from equipoise.errors import ArgumentError
from equipoise.planning.relabelling import relabel, relabel_slots, rename_ranks

EXPERTS = 6


@st.composite
def clusters(draw):
    """Draw a cluster of few ranks, of few kinds, on up to three nodes."""
    ranks = draw(st.integers(1, 5))
    one_each = {"min_size": ranks, "max_size": ranks}
    node = draw(st.lists(st.integers(0, 2), **one_each))
    names = sorted(set(node))
    alive = draw(st.lists(st.sampled_from([True, True, True, False]), **one_each))
    return Cluster(
        ranks,
        draw(st.lists(st.sampled_from([2, 2, 3]), **one_each)),
        len(names),
        node_of_rank=[names.index(n) for n in node],
        rank_speeds=draw(st.lists(st.sampled_from([1.0, 1.0, 2.0]), **one_each)),
        alive=alive if any(alive) else (),
    )


@st.composite
def placements(draw, cluster, num_layers):
    """Draw anything an engine may hold: experts twice on a rank, experts nowhere, empty slots; nothing on dead ranks."""
    is_up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    layer = st.lists(st.integers(-1, EXPERTS - 1), min_size=cluster.num_slots, max_size=cluster.num_slots)
    slots = np.array(draw(st.lists(layer, min_size=num_layers, max_size=num_layers)))
    return Placement(np.where(is_up, slots, ABSENT), cluster, EXPERTS)


@st.composite
def successions(draw):
    """Draw (new placement, the one before it): on other ranks and slots half of the time."""
    num_layers = draw(st.integers(1, 2))
    cluster = draw(clusters())
    before = cluster if draw(st.booleans()) else draw(clusters())
    return draw(placements(cluster, num_layers)), draw(placements(before, num_layers))


def _held(placement, layer):
    """What each rank holds, in slot order."""
    row, rank = placement.expert_of_slot[layer].tolist(), placement.cluster.rank_of_slot.tolist()
    return [[e for e, r in zip(row, rank, strict=True) if r == this] for this in range(placement.cluster.num_ranks)]


def _is_legal(new_rank, cluster, within_nodes):
    """Tell whether ranks go to ranks of their kind, and, if asked, those of a node to one node."""
    make = list(zip(cluster.alive, cluster.rank_speeds, cluster.slot_counts.tolist(), strict=True))
    if any(make[i] != make[r] for i, r in enumerate(new_rank)) or sorted(new_rank) != list(range(len(make))):
        return False
    node = cluster.node_of_rank
    together = [(i, j) for i, j in itertools.combinations(range(len(make)), 2) if node[i] == node[j]]
    return not within_nodes or all(node[new_rank[i]] == node[new_rank[j]] for i, j in together)


def _worth(new_rank, held, before):
    """Pairs that stay, and then ranks that keep their names."""
    kept = sum(len((set(held[i]) & set(before[r])) - {ABSENT}) for i, r in enumerate(new_rank) if r < len(before))
    return kept, sum(i == r for i, r in enumerate(new_rank))


@settings(max_examples=100)
@given(successions(), st.booleans())
def test_no_renaming_keeps_more(drawn, within_nodes):
    """All permutations are tried: none that is legal keeps more pairs, or as many with more names."""
    new, previous = drawn
    renamed = rename_ranks(
        new.expert_of_slot, previous.expert_of_slot, new.cluster, previous.cluster, within_nodes=within_nodes
    ).tolist()
    for x, new_rank in enumerate(renamed):
        held, before = _held(new, x), _held(previous, x)
        assert _is_legal(new_rank, new.cluster, within_nodes)
        every = itertools.permutations(range(len(held)))
        assert _worth(new_rank, held, before) == max(
            _worth(p, held, before) for p in every if _is_legal(p, new.cluster, within_nodes)
        )


@given(successions(), st.booleans())
def test_what_ranks_hold_is_renamed_and_nothing_else(drawn, within_nodes):
    """Each new rank holds what the old one held, twice what was there twice; the same bytes from arrays."""
    new, previous = drawn
    found = relabel(new, previous, within_nodes=within_nodes)
    arrays = new.expert_of_slot, previous.expert_of_slot, new.cluster, previous.cluster
    renamed = rename_ranks(*arrays, within_nodes=within_nodes).tolist()
    assert (found.cluster, found.num_experts) == (new.cluster, new.num_experts)
    assert found.expert_of_slot.tobytes() == relabel_slots(*arrays, within_nodes=within_nodes).tobytes()
    for x, new_rank in enumerate(renamed):
        held, after = _held(new, x), _held(found, x)
        assert [sorted(after[r]) for r in new_rank] == [sorted(h) for h in held]


@given(successions())
def test_an_expert_that_stays_keeps_its_slot(drawn):
    """A slot's expert is there again if its rank holds it still, once for each time; others rise, empty slots come last."""
    new, previous = drawn
    found = relabel(new, previous)
    for x in range(found.num_layers):
        before = _held(previous, x)
        for rank, now in enumerate(_held(found, x)):
            was = (before[rank] if rank < len(before) else [])[: len(now)]
            stays = [n for n, e in enumerate(was) if now[n] == e != ABSENT]
            for e in set(was) - {ABSENT}:
                places = [n for n, other in enumerate(was) if other == e]
                assert [n for n in stays if was[n] == e] == places[: now.count(e)]
            others = [e for n, e in enumerate(now) if n not in stays]
            assert others == sorted(others, key=lambda e: (e == ABSENT, e))


@given(successions(), st.booleans())
def test_balance_stays(drawn, within_nodes):
    """Rank loads are renamed among ranks of one kind, so that balancedness is the same."""
    new, previous = drawn
    load = np.arange(1.0, EXPERTS * new.num_layers + 1).reshape(new.num_layers, EXPERTS)
    found = relabel(new, previous, within_nodes=within_nodes)
    speed = np.asarray(new.cluster.rank_speeds)
    np.testing.assert_allclose(
        np.sort(found.rank_load(load) / speed, axis=1), np.sort(new.rank_load(load) / speed, axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(found.layer_times(load), new.layer_times(load), rtol=1e-12)


@given(successions(), st.booleans())
def test_against_itself_nothing_is_renamed(drawn, within_nodes):
    """Against itself it stays byte for byte, and so does what was relabelled once."""
    new, previous = drawn
    assert relabel(new, new, within_nodes=within_nodes).expert_of_slot.tobytes() == new.expert_of_slot.tobytes()
    once = relabel(new, previous, within_nodes=within_nodes)
    assert relabel(once, previous, within_nodes=within_nodes).expert_of_slot.tobytes() == once.expert_of_slot.tobytes()


@given(st.data(), st.integers(1, 5), st.integers(1, 3))
def test_a_shuffle_is_undone(data, ranks, room):
    """Ranks and their slots in another order: all comes back to where it was."""
    held = [data.draw(st.permutations(range(EXPERTS)))[:room] for _ in range(ranks)]
    shuffled = [data.draw(st.permutations(experts)) for experts in data.draw(st.permutations(held))]
    new, previous = (
        Placement([list(itertools.chain(*by_rank))], Cluster(ranks, room), EXPERTS) for by_rank in (shuffled, held)
    )
    assert relabel(new, previous).expert_of_slot.tobytes() == previous.expert_of_slot.tobytes()


@given(st.data())
def test_layers_do_not_matter_to_each_other(data):
    """Layers in another order give the same rows in that order."""
    new, previous = data.draw(successions())
    order = list(range(new.num_layers))[::-1]
    found = relabel_slots(new.expert_of_slot, previous.expert_of_slot, new.cluster, previous.cluster)
    turned = relabel_slots(new.expert_of_slot[order], previous.expert_of_slot[order], new.cluster, previous.cluster)
    assert turned.tobytes() == found[order].tobytes()


def test_nodes_are_placed_as_the_best_pairs_inside_allow():
    """4 nodes of 4 ranks: all ways to place nodes, with all ways inside for each pair of nodes."""
    rng = np.random.default_rng(3)
    cluster = Cluster(16, 3, 4)
    slots, before = (rng.integers(0, 12, (6, 48)) for _ in range(2))
    new_rank = rename_ranks(slots, before, cluster, cluster, within_nodes=True)
    for x in range(6):
        held, was = (row.reshape(16, 3).tolist() for row in (slots[x], before[x]))
        overlap = [[len(set(a) & set(b)) + (i == j) / 17 for j, b in enumerate(was)] for i, a in enumerate(held)]
        inside = [
            [
                max(sum(overlap[4 * a + i][4 * b + p[i]] for i in range(4)) for p in itertools.permutations(range(4)))
                for b in range(4)
            ]
            for a in range(4)
        ]
        best = max(sum(inside[a][p[a]] for a in range(4)) for p in itertools.permutations(range(4)))
        assert sum(overlap[i][r] for i, r in enumerate(new_rank[x])) == pytest.approx(best, rel=1e-12)


class TestByHand:
    """Cases that can be read off."""

    def test_nodes_change_places_as_a_whole(self):
        """Ranks 0 and 1 get back what they held, in its order, from node 1, and ranks that share a node go on doing so."""
        cluster = Cluster(4, 1, 2)
        now, new = Placement([[0, 1, 2, 3]], cluster, 4), Placement([[3, 2, 1, 0]], cluster, 4)
        assert relabel(new, now, within_nodes=True).expert_of_slot.tolist() == [[0, 1, 2, 3]]

    def test_within_nodes_keeps_less_rather_than_split_a_node(self):
        """Nodes {0, 2} and {1, 3} stay nodes: half of what ranks held is lost to that."""
        cluster = Cluster(4, 1, 2)
        now, new = Placement([[0, 1, 2, 3]], cluster, 4), Placement([[2, 0, 1, 3]], cluster, 4)
        assert relabel(new, now).expert_of_slot.tolist() == [[0, 1, 2, 3]]
        assert relabel(new, now, within_nodes=True).expert_of_slot.tolist() == [[0, 2, 1, 3]]

    def test_nodes_of_other_make_up_stay(self):
        """Node 1 has two faster ranks, node 0 one: what is on a node stays on it, though the other one held it."""
        cluster = Cluster(6, 1, 2, rank_speeds=[1, 1, 2, 1, 2, 2])
        now, new = Placement([[0, 1, 2, 3, 4, 5]], cluster, 6), Placement([[4, 3, 5, 1, 2, 0]], cluster, 6)
        assert relabel(new, now, within_nodes=True).expert_of_slot.tolist() == [[4, 3, 5, 1, 2, 0]]

    def test_ranks_change_places_with_their_like(self):
        """Rank 2 is faster and rank 3 has more slots: only 0 and 1 change places."""
        cluster = Cluster(4, [1, 1, 1, 2], rank_speeds=[1, 1, 2, 1])
        now, new = Placement([[0, 1, 2, 3, 4]], cluster, 5), Placement([[1, 2, 0, 4, 3]], cluster, 5)
        assert rename_ranks(new.expert_of_slot, now.expert_of_slot, cluster, cluster).tolist() == [[1, 0, 2, 3]]
        assert relabel(new, now).expert_of_slot.tolist() == [[2, 1, 0, 3, 4]]

    def test_a_dead_rank_stays_empty(self):
        """Rank 1 died: though it held what is now planned for rank 0, it gets nothing back."""
        now = Placement([[0, 1, 2, 3, 4, 5]], Cluster(3, 2), 6)
        new = Placement([[3, 2, -1, -1, 1, 0]], Cluster(3, 2, alive=[True, False, True]), 6)
        assert relabel(new, now).expert_of_slot.tolist() == [[0, 1, -1, -1, 2, 3]]

    def test_wider_and_more_ranks(self):
        """A third slot and a third rank: experts stay in the slots they had on their ranks."""
        now = Placement([[0, 1, 2, 3]], Cluster(2, 2), 5)
        new = Placement([[4, 3, 2, 0, 4, 3, 2, 1, 0]], Cluster(3, 3), 5)
        assert relabel(new, now).expert_of_slot.tolist() == [[0, 1, 2, 2, 3, 4, 0, 3, 4]]

    def test_narrower_and_fewer_ranks(self):
        """An expert whose slot is gone stays on its rank, in another; what the third rank held counts nothing."""
        now = Placement([[0, 1, 2, 3, 4, 0, 4, 3, 1]], Cluster(3, 3), 5)
        new = Placement([[4, 3, 2, 1]], Cluster(2, 2), 5)
        found = relabel(new, now)
        assert found.expert_of_slot.tolist() == [[2, 1, 3, 4]]

    def test_an_expert_twice_on_a_rank_counts_once(self):
        """Rank 0 shares two experts with what rank 1 holds, and with its own one, twice."""
        cluster = Cluster(2, 3)
        now = Placement([[0, 0, 0, 1, 2, 3]], cluster, 4)
        new = Placement([[1, 2, 0, 0, 0, 3]], cluster, 4)
        assert relabel(new, now).expert_of_slot.tolist() == [[0, 0, 3, 1, 2, 0]]

    def test_nothing_gained_renames_nothing(self):
        """No expert is where it was, or could be: ranks keep their names."""
        cluster = Cluster(3, 1)
        now, new = Placement([[0, 1, 2]], cluster, 6), Placement([[5, 4, 3]], cluster, 6)
        assert relabel(new, now).expert_of_slot.tolist() == [[5, 4, 3]]

    def test_no_layers(self):
        """Nothing to do is done."""
        cluster = Cluster(2, 1, 2)
        empty = Placement(np.empty((0, 2), np.int64), cluster, 2)
        for within_nodes in (False, True):
            assert relabel(empty, empty, within_nodes=within_nodes).expert_of_slot.shape == (0, 2)


def test_fewer_moves_on_recorded_loads(example):
    """Two plans of neighbouring windows share more than before, at the same balance, and pass as strict."""
    load, cluster = np.asarray(example.load), Cluster(8, 5, 2)
    now, new = (plan(load[w], cluster).placement for w in (0, 1))
    for within_nodes in (False, True):
        found = relabel(new, now, within_nodes=within_nodes)
        found.validate()
        assert (found.moves_from(now) <= new.moves_from(now)).all()
        assert found.moves_from(now).sum() < 0.85 * new.moves_from(now).sum()
        assert found.balancedness(load[1]) == pytest.approx(new.balancedness(load[1]), rel=1e-12)


@pytest.mark.parametrize(
    ("slots", "experts", "message"),
    [
        ([[0, 1], [1, 0]], 2, "previous has 2 layers of 2 experts: it must have 1 of 2"),
        ([[0, 1]], 3, "previous has 1 layers of 3 experts: it must have 1 of 2"),
    ],
)
def test_another_model_is_refused(slots, experts, message):
    """Layers and experts must be the same; nothing else."""
    new = Placement([[0, 1]], Cluster(2, 1), 2)
    with pytest.raises(ArgumentError, match=message):
        relabel(new, Placement(slots, Cluster(2, 1), experts))
    assert new.expert_of_slot.tolist() == [[0, 1]]
