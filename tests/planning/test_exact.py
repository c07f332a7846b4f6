"""Proofs against the exhaustive optimum: bounds below it, placements as good as they say, and optimal only where it is so."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from equipoise.errors import MissingExtraError
from equipoise.planning import by_partners, by_ranks
from equipoise.planning.exact import prove_layer

OPTIMAL = 1 - 1e-8


def _placements(num_experts, slot_counts, node_of_rank=None, group_of_expert=None):
    """Every strict placement as 0/1 [placements, ranks, experts], groups whole on a node and nodes evenly used if asked."""
    found = []
    for ranks in itertools.product(*(itertools.combinations(range(num_experts), k) for k in slot_counts)):
        held = np.array([[e in rank for e in range(num_experts)] for rank in ranks])
        if held.any(axis=0).all() and (group_of_expert is None or _is_local(held, node_of_rank, group_of_expert)):
            found.append(held)
    return np.array(found, np.float64)


def _placements_of_equal_ranks(num_experts, num_ranks, slots_per_rank):
    """The same for ranks that need not be told apart."""
    filled = itertools.combinations(range(num_experts), slots_per_rank)
    found = np.array(list(itertools.combinations_with_replacement(np.eye(num_experts)[list(filled)].sum(axis=1), num_ranks)))
    return found[found.any(axis=1).all(axis=1)]


def _is_local(held, node_of_rank, group_of_expert):
    homes = [set(node_of_rank[held[:, group_of_expert == g].any(axis=1)]) for g in np.unique(group_of_expert)]
    flat = [node for home in homes for node in home]
    return all(len(home) == 1 for home in homes) and len({flat.count(node) for node in set(node_of_rank)}) == 1


def _optimum(load, placements, inverse_speed):
    share = load / placements.sum(axis=1)
    return (np.einsum("pre,pe->pr", placements, share) * inverse_speed).max(axis=1).min()


def _time(load, slot_counts, inverse_speed, expert_of_slot):
    """Largest rank time of a placement, and its ranks; refuses what is no strict placement."""
    ranks = [part.tolist() for part in np.split(expert_of_slot, np.cumsum(slot_counts)[:-1])]
    assert all(rank == sorted(set(rank)) for rank in ranks)
    count = np.bincount(expert_of_slot, minlength=len(load))
    assert count.min() >= 1
    return max(sum(load[e] / count[e] for e in rank) * v for rank, v in zip(ranks, inverse_speed, strict=True)), ranks


def _check(load, slot_counts, inverse_speed, best, proof):
    """The bound is below the optimum, the placement reaches what is said, and both meet where they are said to."""
    assert proof.bound <= best * (1 + 1e-12)
    assert proof.bound <= proof.largest
    assert proof.largest >= best * (1 - 1e-12)
    assert proof.is_optimal == (proof.bound >= proof.largest * OPTIMAL)
    if proof.expert_of_slot is not None:
        reached, _ = _time(load, slot_counts, inverse_speed, proof.expert_of_slot)
        assert reached == pytest.approx(proof.largest, rel=1e-12)


def _loads(rng, num, num_experts):
    """Level, tied, skewed and absent loads, large and small."""
    kinds = [rng.integers(0, 10, num_experts), rng.random(num_experts) ** 4 * 1e9, 1e-6 * rng.integers(1, 4, num_experts)]
    return [np.asarray(kinds[i % 3], np.float64) + (kinds[i % 3].sum() == 0) for i in range(num)]


SHAPES = [(4, (2, 2, 2)), (5, (2, 2, 2)), (5, (3, 3)), (4, (1, 1, 1, 1)), (5, (1, 2, 3)), (4, (3, 3))]


@pytest.mark.parametrize(("experts", "slots"), SHAPES)
@pytest.mark.parametrize("speeds", ["equal", "unequal"])
def test_tiny_layers_are_solved(experts, slots, speeds):
    """From a poor start and the mean as bound, the optimum is found and proven."""
    slots = np.array(slots)
    inverse = np.ones(len(slots)) if speeds == "equal" else np.linspace(1.0, 0.5, len(slots))
    placements = _placements(experts, slots)
    for load in _loads(np.random.default_rng(experts), 6, experts):
        best = _optimum(load, placements, inverse)
        ideal = load.sum() / (1 / inverse).sum()
        proof = prove_layer(load, slots, inverse, largest=1.4 * best, bound=ideal, seconds=20)
        _check(load, slots, inverse, best, proof)
        assert proof.is_optimal
        assert proof.largest == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("slots_per_rank", [2, 3])
def test_many_layers_of_more_ranks(slots_per_rank):
    """Four equal ranks and six experts of like size, where the best placements differ by little."""
    slots, inverse = np.full(4, slots_per_rank), np.ones(4)
    placements = _placements_of_equal_ranks(6, 4, slots_per_rank)
    rng = np.random.default_rng(slots_per_rank)
    for load in rng.integers(20, 100, (60 // slots_per_rank**2, 6)).astype(np.float64):
        best = _optimum(load, placements, inverse)
        proof = prove_layer(load, slots, inverse, largest=1.1 * best, bound=load.sum() / 4, seconds=20)
        _check(load, slots, inverse, best, proof)
        assert proof.is_optimal


def test_strict_locality_is_kept_and_counts_for_the_proof():
    """Groups stay whole on a node, equally many on each; the optimum under that rule is proven, not the one without."""
    slots, inverse = np.array([2, 2, 2, 2]), np.array([1.0, 1.0, 1.0, 0.8])
    rule = {"node_of_rank": np.array([0, 1, 0, 1]), "group_of_expert": np.array([0, 0, 1, 1, 2, 3])}
    local, free = _placements(6, slots, **rule), _placements(6, slots)
    costly = 0
    for load in _loads(np.random.default_rng(1), 6, 6):
        best = _optimum(load, local, inverse)
        costly += best > _optimum(load, free, inverse) * (1 + 1e-9)
        proof = prove_layer(load, slots, inverse, largest=1.5 * best, bound=load.sum() / 4.25, seconds=20, **rule)
        _check(load, slots, inverse, best, proof)
        assert proof.is_optimal
        _, ranks = _time(load, slots, inverse, proof.expert_of_slot)
        held = np.array([[e in rank for e in range(6)] for rank in ranks])
        assert _is_local(held, rule["node_of_rank"], rule["group_of_expert"])
    assert costly


def test_the_published_toy_is_optimal_at_590_thirds():
    """The toy's best placement, and the proof of it."""
    load = np.array([600.0, 560, 120, 120, 20, 10, 10, 10])
    proof = prove_layer(load, np.full(8, 2), np.ones(8), largest=232.0, bound=181.25, seconds=30)
    assert proof.is_optimal
    assert proof.largest == pytest.approx(590 / 3)


def test_an_expert_beside_itself_is_no_placement():
    """Partners alone would allow two hot replicas on a rank; the proof goes on with ranks and ends at the true optimum."""
    slots, inverse = np.array([2, 2, 2]), np.ones(3)
    for load in ([9.0, 0, 0], [6.0, 6, 6], [9.0, 9, 0], [30.0, 2, 1, 1]):
        load = np.array(load)
        best = _optimum(load, _placements(len(load), slots), inverse)
        proof = prove_layer(load, slots, inverse, largest=2 * best, bound=0.5 * best, seconds=20)
        _check(load, slots, inverse, best, proof)
        assert proof.is_optimal


@pytest.mark.parametrize(("slots", "inverse"), [((3, 3, 3), (1.0, 1.0, 0.5)), ((2, 2, 2, 2), (1.0, 1.0, 1.0, 1.0))])
def test_many_counts_for_light_experts_are_one_choice(monkeypatch, slots, inverse):
    """With few exact counts the model is coarser: the bound stays below the optimum, and optimal is said only where it is."""
    for model in (by_partners, by_ranks):
        monkeypatch.setattr(model, "EXACT_COUNTS", 1)
    slots, inverse = np.array(slots), np.array(inverse)
    placements = _placements(5, slots)
    open_proofs = 0
    for load in _loads(np.random.default_rng(9), 9, 5):
        best = _optimum(load, placements, inverse)
        proof = prove_layer(load, slots, inverse, largest=1.2 * best, bound=0.1 * best, seconds=20)
        _check(load, slots, inverse, best, proof)
        open_proofs += not proof.is_optimal
    assert open_proofs


def test_what_was_known_is_kept_when_there_is_no_time():
    """Without time nothing is claimed beyond what was given, and hints change no truth."""
    rng = np.random.default_rng(2)
    load = rng.integers(1, 1000, 24).astype(np.float64)
    slots, inverse = np.full(8, 4), np.ones(8)
    hint = np.concatenate([np.sort([r, r + 8, r + 16, (r + 1) % 8]) for r in range(8)])
    reached, _ = _time(load, slots, inverse, hint)
    ideal = load.sum() / 8
    proof = prove_layer(load, slots, inverse, largest=reached, bound=ideal, hint=hint, seconds=0)
    assert (proof.bound, proof.largest, proof.expert_of_slot, proof.is_optimal) == (ideal, reached, None, False)
    proof = prove_layer(load, slots, inverse, largest=reached, bound=ideal, hint=hint, seconds=1)
    assert ideal <= proof.bound <= proof.largest <= reached
    if proof.largest < reached:
        assert _time(load, slots, inverse, proof.expert_of_slot)[0] == pytest.approx(proof.largest)


def test_layers_that_need_no_search():
    """No load; a bound that meets what was reached; slots that only just suffice."""
    slots, inverse = np.array([2, 2]), np.ones(2)
    nothing = prove_layer(np.zeros(3), slots, inverse, largest=0.0, bound=0.0, seconds=5)
    assert (nothing.bound, nothing.largest, nothing.is_optimal) == (0, 0, True)
    met = prove_layer(np.array([4.0, 4, 4, 4]), slots, inverse, largest=8.0, bound=8.0, seconds=5)
    assert met.is_optimal
    above = prove_layer(np.array([4.0, 4, 4, 4]), slots, inverse, largest=8.0, bound=8.00000001, seconds=5)
    assert (above.bound, above.largest) == (8, 8)
    with pytest.raises(AssertionError, match="which was reached"):
        prove_layer(np.array([4.0, 4, 4, 4]), slots, inverse, largest=8.0, bound=8.1, seconds=5)


def test_without_ortools_the_install_line_is_said(monkeypatch):
    """The extra is named, and how to get it."""
    monkeypatch.setitem(sys.modules, "ortools", None)
    monkeypatch.delitem(sys.modules, "ortools.sat.python", raising=False)
    monkeypatch.delitem(sys.modules, "ortools.sat.python.cp_model", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "equipoise\[exact\]"'):
        prove_layer(np.ones(2), np.array([1, 1]), np.ones(2), largest=2.0, bound=1.0, seconds=1)
