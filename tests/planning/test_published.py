"""balanced_packing: every published variant by name, valid on every row, as its definition says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise import balanced_packing
from equipoise.errors import ArgumentError
from equipoise.planning.published import CONSTRUCTORS, REFINERS
from strategies import packings

constructors = st.sampled_from(sorted(CONSTRUCTORS))
refiners = st.sampled_from([None, *sorted(REFINERS)])


def _pack_loads(weight, pack_index, num_packs):
    return [[sum(w for w, p in zip(row, packs, strict=True) if p == k) for k in range(num_packs)]
            for row, packs in zip(weight, pack_index.tolist(), strict=True)]  # fmt: skip


@given(packings(with_ids=True), constructors, refiners, st.integers(0, 3))
def test_every_variant_is_valid(packing, constructor, refine, seed):
    """Exactly n/num_packs items a pack, each place once, equal ids apart."""
    weight, packs, ids = packing
    pack_index, rank_in_pack = balanced_packing(
        np.array(weight), packs, constructor=constructor, refine=refine, candidates=9, seed=seed, item_ids=ids
    )
    size = len(weight[0]) // packs
    for row, places in zip(pack_index.tolist(), rank_in_pack.tolist(), strict=True):
        assert sorted(zip(row, places, strict=True)) == [(p, i) for p in range(packs) for i in range(size)]
        assert len(set(zip(row, ids, strict=True))) == len(row)


@given(packings())
def test_lpt_and_zigzag_equal_their_twins(packing):
    """Dealing in the named order, one by one, gives the same packs."""
    weight, packs, _ = packing
    for constructor in ("lpt", "zigzag"):
        pack_index, _ = balanced_packing(np.array(weight), packs, constructor=constructor, refine=None)
        for row, found in zip(weight, pack_index.tolist(), strict=True):
            order = twins.largest_first(row)
            if constructor == "zigzag":
                ends = [order[i // 2] if i % 2 == 0 else order[-1 - i // 2] for i in range(len(order))]
                order = ends
            expected = twins.deal(row, list(range(len(row))), order, packs)
            assert [found[i] for p in expected for i in p] == [k for k, p in enumerate(expected) for _ in p]


@given(packings(with_ids=True))
def test_lpt_with_ids_equals_its_twin(packing):
    """Also where a pack must be freed for the last copies of an id."""
    weight, packs, ids = packing
    pack_index, _ = balanced_packing(np.array(weight), packs, refine=None, item_ids=ids)
    for row, found in zip(weight, pack_index.tolist(), strict=True):
        expected = twins.deal(row, ids, twins.largest_first(row), packs)
        loads = [sum(row[i] for i in p) for p in expected]
        assert np.allclose(_pack_loads([row], np.array([found]), packs)[0], loads, rtol=1e-12)


@given(packings(with_ids=True), st.integers(0, 5), st.sampled_from([0.1, 0.2, 1.0]))
def test_random_orders_equal_their_twins(packing, seed, noise):
    """Shuffles, noisy LPT and the ensemble pack exactly as their definition with the published generator says."""
    weight, packs, ids = packing
    kinds = ["lpt", "zigzag", "shuffle", "shuffle", "shuffle", *["noisy_lpt"] * 7]
    for constructor, candidates in (("shuffle", ["shuffle"]), ("noisy_lpt", ["noisy_lpt"]), ("ensemble", kinds)):
        options = {"constructor": constructor, "refine": None, "noise": noise, "seed": seed, "candidates": len(candidates)}
        pack_index, _ = balanced_packing(np.array(weight), packs, item_ids=ids, **options)
        for row, found in zip(weight, pack_index.tolist(), strict=True):
            order = twins.largest_first(row)
            falling, falling_ids = [float(row[i]) for i in order], [ids[i] for i in order]
            best, expected = None, None
            for number, kind in enumerate(candidates):
                dealt = twins.deal(falling, falling_ids, twins.dealing_order(kind, falling, noise, seed, number), packs)
                largest = max(sum(falling[i] for i in pack) for pack in dealt)
                if best is None or largest < best * (1 - 1e-12):
                    best, expected = largest, dealt
            if constructor == "ensemble":
                loads = _pack_loads([row], np.array([found]), packs)[0]
                assert np.isclose(max(loads), best, rtol=1e-12)
            else:
                assert [found[order[i]] for pack in expected for i in pack] == [
                    p for p, pack in enumerate(expected) for _ in pack
                ]


def test_ties_between_candidates_go_to_the_first():
    """All packings of equal weights are equally good, so the ensemble's is LPT's."""
    packs = [balanced_packing(np.ones((2, 12)), 4, constructor=name, refine=None)[0] for name in ("lpt", "ensemble")]
    assert np.array_equal(*packs)


def test_last_copies_find_room():
    """Ids 0..2 fill the light packs first, so that the last item's own id sits in every pack with room: one moves."""
    weight = np.array([[9.0, 9.0, 1.0, 1.0, 1.0, 1.0]])
    pack_index, _ = balanced_packing(weight, 3, refine=None, item_ids=[0, 1, 2, 3, 2, 2])
    assert len({(p, i) for p, i in zip(pack_index[0].tolist(), [0, 1, 2, 3, 2, 2], strict=True)}) == 6


@given(packings(with_ids=True), st.integers(0, 3), st.sampled_from([0.1, 0.2]))
def test_ensemble_is_no_worse_than_its_members(packing, seed, noise):
    """It holds LPT and zigzag, so its largest pack is at most theirs on every row."""
    weight, packs, ids = packing
    largest = {
        name: np.max(
            _pack_loads(
                weight,
                balanced_packing(
                    np.array(weight), packs, constructor=name, refine=None, noise=noise, seed=seed, item_ids=ids, candidates=20
                )[0],
                packs,
            ),
            axis=1,
        )
        for name in ("lpt", "zigzag", "ensemble")
    }
    assert (largest["ensemble"] <= np.minimum(largest["lpt"], largest["zigzag"]) * (1 + 1e-12)).all()


@given(packings(with_ids=True), constructors, st.sampled_from(sorted(REFINERS)))
def test_refiners_never_lose(packing, constructor, refine):
    """On every row the refined packing's largest pack is at most the unrefined one's."""
    weight, packs, ids = packing
    options = {"constructor": constructor, "candidates": 5, "item_ids": ids}
    plain = balanced_packing(np.array(weight), packs, refine=None, **options)[0]
    refined = balanced_packing(np.array(weight), packs, refine=refine, **options)[0]
    before, after = (np.max(_pack_loads(weight, pack, packs), axis=1) for pack in (plain, refined))
    assert (after <= before * (1 + 1e-12)).all()


def test_equal_packs_survive_reconstruct():
    """The published rebuild returns an invalid packing when all packs weigh the same (heaviest = lightest)."""
    pack_index, rank_in_pack = balanced_packing(np.ones((3, 8)), 4, refine="reconstruct", constructor="zigzag")
    for row, places in zip(pack_index.tolist(), rank_in_pack.tolist(), strict=True):
        assert sorted(zip(row, places, strict=True)) == [(p, i) for p in range(4) for i in range(2)]


def test_rounds_limit_and_the_published_five(skewed):
    """More rounds never balance worse; None is 5 for swap and reconstruct; 0 leaves the packing as built."""
    for refine in ("swap", "reconstruct", "best_swap"):
        largest = []
        for rounds in (0, 1, 5, 50):
            pack = balanced_packing(skewed, 8, constructor="zigzag", refine=refine, rounds=rounds)[0]
            largest.append(np.max(_pack_loads(skewed.tolist(), pack, 8), axis=1))
        assert all((b <= a * (1 + 1e-12)).all() for a, b in pairwise(largest))
        plain = balanced_packing(skewed, 8, constructor="zigzag", refine=None)[0]
        assert np.array_equal(largest[0], np.max(_pack_loads(skewed.tolist(), plain, 8), axis=1))
    five = balanced_packing(skewed, 8, constructor="zigzag", refine="swap", rounds=5)[0]
    assert np.array_equal(five, balanced_packing(skewed, 8, constructor="zigzag", refine="swap")[0])


def test_noise_and_seed_matter_and_repeat(skewed):
    """Random variants repeat for a seed and differ between seeds; noise 0 is LPT."""
    for name in ("shuffle", "noisy_lpt"):
        packs = [balanced_packing(skewed, 8, constructor=name, refine=None, seed=seed)[0] for seed in (0, 0, 1)]
        assert np.array_equal(packs[0], packs[1])
        assert not np.array_equal(packs[0], packs[2])
    still = balanced_packing(skewed, 8, constructor="noisy_lpt", refine=None, noise=0.0)[0]
    assert np.array_equal(still, balanced_packing(skewed, 8, refine=None)[0])


def test_rows_are_packed_by_content_not_by_place(skewed):
    """A row's packing does not depend on the rows around it, random candidates included."""
    together = balanced_packing(skewed, 8, constructor="ensemble", candidates=30)[0]
    for row in range(len(skewed)):
        alone = balanced_packing(skewed[row : row + 1], 8, constructor="ensemble", candidates=30)[0]
        assert np.array_equal(alone[0], together[row])


BAD = [
    ({"weight": np.ones(6)}, "weight has shape [6]"),
    ({"weight": np.array([[1.0, -1.0]])}, "load is -1.0"),
    ({"num_packs": 4}, "6 items for 4 packs"),
    ({"num_packs": 0}, "num_packs is 0"),
    ({"constructor": "best"}, "constructor is 'best': it must be one of lpt, zigzag, shuffle, noisy_lpt, ensemble"),
    ({"refine": "anneal"}, "refine is 'anneal': it must be one of swap, reconstruct, best_swap"),
    ({"candidates": 0}, "candidates is 0"),
    ({"noise": -0.1}, "noise is -0.1"),
    ({"noise": float("nan")}, "noise is nan"),
    ({"rounds": -1}, "rounds is -1"),
    ({"seed": -5}, "seed is -5"),
    ({"item_ids": [0, 0, 0, 0, 1, 2]}, "one of item_ids occurs 4 times"),
    ({"item_ids": [0, 1]}, "item_ids has shape [2]"),
    ({"item_ids": [0.5] * 6}, "item_ids has shape [6] and dtype float64"),
]


@pytest.mark.parametrize(("change", "found"), BAD)
def test_bad_arguments(change, found):
    """Each is named with its value."""
    with pytest.raises(ArgumentError) as error:
        balanced_packing(**{"weight": np.ones((1, 6)), "num_packs": 3, **change})
    assert str(error.value).startswith(found)
