"""Whole tokens by source, for all sources, and token by token: what callers see, and what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, Placement
from equipoise.dispatching import tokens
from equipoise.errors import ArgumentError

ROW = [0, 1, 0, -1, 2, 0, 2, -1]
SHARES = [0.5, 1.0, 0.2, 0.0, 0.6, 0.3, 0.4, 0.0]
PLACEMENT = Placement([ROW, ROW[::-1]], Cluster(num_ranks=4, slots_per_rank=2), num_experts=4)
BOTH = [SHARES, SHARES[::-1]]


def _random(seed, layers=2, experts=5, ranks=4, slots=3):
    """Return a placement with every expert, random shares, and random counts of each rank [ranks, layers, experts]."""
    rng = np.random.default_rng(seed)
    size = ranks * slots
    rows = np.array([rng.permutation([*range(experts), *rng.integers(-1, experts, size - experts)]) for _ in range(layers)])
    placement = Placement(rows, Cluster(num_ranks=ranks, slots_per_rank=slots), experts)
    weight = np.where(rows >= 0, rng.random(rows.shape) + 0.01, 0.0)
    return (
        placement,
        weight / _per_slot(placement, _by_expert(placement, weight)),
        rng.integers(0, 200, (ranks, layers, experts)),
    )


def _by_expert(placement, values):
    """Add up values [layers, slots] over each expert's slots."""
    total = np.zeros((placement.num_layers, placement.num_experts), values.dtype)
    for (x, s), e in np.ndenumerate(placement.expert_of_slot):
        if e >= 0:
            total[x, e] += values[x, s]
    return total


def _per_slot(placement, of_expert):
    """Spread [layers, experts] to the slots, 1 for empty ones."""
    spread = np.take_along_axis(of_expert, np.maximum(placement.expert_of_slot, 0), axis=1)
    return np.where(placement.expert_of_slot >= 0, spread, 1)


class TestApportion:
    """Each source for itself."""

    @given(st.integers(0, 10**6))
    def test_totals_and_nearness(self, seed):
        """Every source sends exactly what it has, every slot gets its share within a token, empty slots get nothing."""
        placement, shares, counts = _random(seed)
        for source, own in enumerate(counts):
            found = tokens.apportion(shares, placement, own, source)
            assert found.dtype == np.int64
            assert _by_expert(placement, found).tolist() == own.tolist()
            held = placement.expert_of_slot >= 0
            assert (np.abs(found - shares * _per_slot(placement, own))[held] < 1.0).all()
            assert (found[~held] == 0).all()

    def test_roundings_of_sources_cancel(self):
        """Over 32 sources, slots miss their share by a fraction of what they would if all had the offset of source 0."""
        placement, shares, _ = _random(1, ranks=32, slots=2, experts=12)
        miss, miss_alike = [], []
        for most in (2, 5, 30, 300):
            counts = np.random.default_rng(most).integers(0, most, (32, 2, 12))
            wanted = shares * _per_slot(placement, counts.sum(axis=0))
            held = placement.expert_of_slot >= 0
            for misses, source in ((miss, lambda rank: rank), (miss_alike, lambda _: 0)):
                found = sum(tokens.apportion(shares, placement, own, source(i)) for i, own in enumerate(counts))
                misses.append(np.abs(found - wanted)[held].mean())
        assert max(miss) < 2.0
        assert all(a < 0.7 * b for a, b in zip(miss, miss_alike, strict=True))
        assert sum(miss) < 0.5 * sum(miss_alike)

    def test_equal_sources_are_within_a_token(self):
        """32 sources with the same few tokens: in all, every slot is less than one token from its share of them."""
        placement, shares, _ = _random(2, ranks=32, slots=2, experts=12)
        for count in (1, 2, 3, 7):
            own = np.full((2, 12), count)
            found = sum(tokens.apportion(shares, placement, own, source) for source in range(32))
            held = placement.expert_of_slot >= 0
            assert (np.abs(found - 32 * count * shares)[held] < 1.0).all()

    def test_one_source_spreads_many_experts(self):
        """One token of each of many experts with two replicas: about half go to the first ones."""
        placement = Placement([[*range(40), *range(40)]], Cluster(2, 40), 40)
        for source in (0, 1):
            found = tokens.apportion(np.full((1, 80), 0.5), placement, np.ones((1, 40), int), source)
            assert 18 <= found[0, :40].sum() <= 22

    def test_shares_in_float32(self):
        """Sums that miss 1 in the seventh digit are taken, and scaled."""
        placement = Placement([[0, 0, 0]], Cluster(3, 1), 1)
        shares = np.full((1, 3), 1 / 3, np.float32)
        found = tokens.apportion(torch.tensor(shares), placement, [[3 * 10**9]], 0)
        assert found.tolist() == [[10**9] * 3]


class TestApportionExactly:
    """All sources together."""

    @given(st.integers(0, 10**6), st.booleans())
    def test_both_sums(self, seed, is_idle):
        """Sources send what they have, slots receive what they should, each entry within a token of its part."""
        placement, shares, counts = _random(seed)
        counts[:, 0, 0] *= not is_idle
        total = counts.sum(axis=0)
        whole = tokens.round_tokens(shares * _per_slot(placement, total), placement, total)
        found = tokens.apportion_exactly(whole, placement, counts)
        assert found.sum(axis=0).tolist() == whole.tolist()
        for own, sent in zip(counts, found, strict=True):
            assert _by_expert(placement, sent).tolist() == own.tolist()
            part = _per_slot(placement, own) * whole / np.maximum(_per_slot(placement, total), 1)
            assert (np.abs(sent - part) < 1.0).all()

    def test_large_counts(self):
        """2**31 tokens of an expert: products stay below 2**63."""
        placement = Placement([[0, 0]], Cluster(2, 1), 1)
        found = tokens.apportion_exactly([[2**31 - 1, 1]], placement, [[[2**31 - 3]], [[3]]])
        assert found.tolist() in ([[[2**31 - 3, 0]], [[2, 1]]], [[[2**31 - 4, 1]], [[3, 0]]])
        with pytest.raises(ArgumentError, match=r"layer 0, expert 0 has 2147483649 tokens: .* 2\*\*31"):
            tokens.apportion_exactly([[2**31, 1]], placement, [[[2**31 - 3]], [[4]]])


class TestRoundTokens:
    """Largest remainder."""

    def test_by_hand(self):
        """The largest remainders get what is missing, the lower slot on ties; loads may be floats that are whole."""
        found = tokens.round_tokens([[2.25, 7, 2.5, 0, 1.0, 2.25, 1, 0], [0.0] * 8], PLACEMENT, [[7.0, 7, 2, 0], [0] * 4])
        assert found.tolist() == [[2, 7, 3, 0, 1, 2, 1, 0], [0] * 8]
        found = tokens.round_tokens([[1.5, 0, 1.5, 0, 0, 0, 0, 0], [0.0] * 8], PLACEMENT, [[3, 0, 0, 0], [0] * 4])
        assert found[0].tolist() == [2, 0, 1, 0, 0, 0, 0, 0]

    def test_rounding_is_allowed_for(self):
        """Sums may miss the load in the last digits; a large load by more, never by half a token."""
        placement = Placement([[0, 0]], Cluster(2, 1), 1)
        assert tokens.round_tokens([[0.1 + 0.2, 2.7]], placement, [[3]]).tolist() == [[0, 3]]
        assert tokens.round_tokens([[1e9 + 0.2, 1e9]], placement, [[2 * 10**9]]).tolist() == [[10**9, 10**9]]
        with pytest.raises(ArgumentError, match=r"expert 0 has tokens that add up to 3.1: they must add up to its 3 tokens"):
            tokens.round_tokens([[1.1, 2.0]], placement, [[3]])
        with pytest.raises(ArgumentError, match="expert 0 has tokens that add up to"):
            tokens.round_tokens([[1e9 + 0.4, 1e9]], placement, [[2 * 10**9]])


class TestChooseSlots:
    """Token by token."""

    def test_counts_are_those_apportioned(self):
        """Each slot as often as apportion says; runs in slot order; padding stays; layers are told apart."""
        rng = np.random.default_rng(5)
        for layer in range(2):
            ids = rng.integers(-1, 3, (50, 3))
            counts = np.zeros((2, 4), int)
            counts[layer] = np.bincount(ids[ids >= 0], minlength=4)
            for source in range(4):
                chosen = tokens.choose_slots(ids, BOTH, PLACEMENT, layer, source)
                assert ((chosen < 0) == (ids < 0)).all()
                assert (PLACEMENT.expert_of_slot[layer][chosen[chosen >= 0]] == ids[ids >= 0]).all()
                wanted = tokens.apportion(BOTH, PLACEMENT, counts, source)[layer]
                assert np.bincount(chosen[chosen >= 0], minlength=8).tolist() == wanted.tolist()
                assert all((np.diff(chosen[ids == e]) >= 0).all() for e in range(3))

    def test_kinds(self):
        """A tensor for a tensor; smaller integers and read-only arrays are taken; nothing gives nothing."""
        ids = np.array([[0, 2], [1, -1]])
        wanted = tokens.choose_slots(ids, BOTH, PLACEMENT, 0, 0).tolist()
        found = tokens.choose_slots(torch.tensor(ids, dtype=torch.int32), BOTH, PLACEMENT, 0, 0)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.int64
        assert found.tolist() == wanted
        ids.setflags(write=False)
        assert tokens.choose_slots(ids, BOTH, PLACEMENT, 0, 0).tolist() == wanted
        assert tokens.choose_slots(np.empty((0, 2), int), BOTH, PLACEMENT, 0, 0).shape == (0, 2)

    def test_from_many_threads(self):
        """Calls share nothing."""
        ids = np.random.default_rng(1).integers(0, 3, (300, 4))
        wanted = tokens.choose_slots(ids, BOTH, PLACEMENT, 0, 3).tolist()
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(tokens.choose_slots(ids, BOTH, PLACEMENT, 0, 3).tolist()))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [wanted] * 4

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            ({"topk_ids": [[0, 4]]}, r"topk_ids\[0, 1\] is 4: an expert lies in 0..3"),
            ({"topk_ids": [[0, -2]]}, r"topk_ids\[0, 1\] is -2"),
            ({"topk_ids": [[0], [3]]}, r"topk_ids\[1, 0\] is 3: that expert has no slot in layer 0"),
            ({"topk_ids": [[0.0]]}, r"topk_ids has dtype float64 and shape \[1, 1\]"),
            ({"topk_ids": [0]}, r"topk_ids has dtype int64 and shape \[1\]"),
            ({"layer": 2}, "layer is 2: there are 2 layers; take one of 0..1"),
            ({"layer": -1}, "layer is -1"),
            ({"source": 4}, "source is 4: there are 4 ranks; take one of 0..3"),
            ({"layer": 1, "shares": [SHARES, SHARES]}, r"shares\[1, 0\] is 0.5: an empty slot"),
            (
                {"layer": 1, "shares": [SHARES, [0, 0.4, 0.3, 0.6, 0, 0.2, 0.9, 0.5]]},
                "layer 1, expert 1 has shares that add up to",
            ),
        ],
    )
    def test_bad_arguments(self, arguments, found):
        """Each is named with its value, and its layer."""
        with pytest.raises(ArgumentError, match=found):
            tokens.choose_slots(
                **{"topk_ids": [[0]], "shares": BOTH, "placement": PLACEMENT, "layer": 0, "source": 0, **arguments}
            )

    def test_other_layers_are_not_looked_at(self):
        """Shares of another layer may be anything."""
        assert tokens.choose_slots([[1]], [SHARES, [9.0] * 8], PLACEMENT, 0, 0).tolist() == [[1]]


def _changed(values, layer, slot, value):
    changed = np.array(values, float)
    changed[layer, slot] = value
    return changed


NO_TOKENS = np.zeros((2, 4), int)


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        (_changed(BOTH, 0, 2, 0.3), r"layer 0, expert 0 has shares that add up to 1.1"),
        (_changed(BOTH, 1, 6, 0.0), r"layer 1, expert 1 has shares that add up to 0.0: .* divide them by their sum"),
        (_changed(BOTH, 0, 2, -0.2), r"shares\[0, 2\] is -0.2: it must be finite and >= 0"),
        (_changed(BOTH, 0, 2, np.nan), r"shares\[0, 2\] is nan"),
        (_changed(BOTH, 0, 2, np.inf), r"shares\[0, 2\] is inf"),
        (_changed(BOTH, 0, 3, 0.1), r"shares\[0, 3\] is 0.1: an empty slot"),
        (SHARES, r"shares has shape \[8\]: it must be \[layers \(2\), slots \(8\)\]"),
        (np.ones((2, 7)), r"shares has shape \[2, 7\]"),
        ([["a"] * 8] * 2, "shares has dtype <U1: it must hold numbers"),
    ],
)
def test_bad_shares(shares, found):
    """Refused with place and value, whether anything is sent or not."""
    with pytest.raises(ArgumentError, match=found):
        tokens.apportion(shares, PLACEMENT, NO_TOKENS, 0)


def test_a_rank_that_is_down_serves_nothing():
    """A share on one of its slots is refused, even where the placement has experts there."""
    placement = Placement([[0, 0]], Cluster(2, 1, alive=[True, False]), 1)
    with pytest.raises(ArgumentError, match=r"shares\[0, 1\] is 0.5: an empty slot, or one of a rank that is down"):
        tokens.apportion([[0.5, 0.5]], placement, [[3]], 0)
    assert tokens.apportion([[1.0, 0.0]], placement, [[3]], 0).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        (_changed(NO_TOKENS, 1, 2, -1), r"counts\[1, 2\] is -1.0: it must be a whole number in 0..2\*\*40"),
        (_changed(NO_TOKENS, 1, 2, 0.5), r"counts\[1, 2\] is 0.5"),
        (_changed(NO_TOKENS, 1, 2, np.nan), r"counts\[1, 2\] is nan"),
        (np.full((2, 4), 2**40 + 1), r"counts\[0, 0\] is 1099511627777"),
        (np.full((2, 4), 2**64 - 1, np.uint64), r"counts\[0, 0\] is 18446744073709551615"),
        (np.zeros((2, 3), int), r"counts has shape \[2, 3\]: it must be \[layers \(2\), experts \(4\)\]"),
        (np.zeros((2, 4), bool), "counts has dtype bool"),
        ([[0, 0, 0, 7]] * 2, "layer 0, expert 3 has 7 tokens and no slot: every token must be served"),
    ],
)
def test_bad_counts(counts, found):
    """Refused with place and value."""
    with pytest.raises(ArgumentError, match=found):
        tokens.apportion(BOTH, PLACEMENT, counts, 0)


@pytest.mark.parametrize(("source", "found"), [(4, "source is 4"), (-1, "source is -1"), (1.0, "source is 1.0")])
def test_bad_sources(source, found):
    """A source is one of the ranks."""
    with pytest.raises(ArgumentError, match=found):
        tokens.apportion(BOTH, PLACEMENT, NO_TOKENS, source)


@pytest.mark.parametrize(
    ("slot_tokens", "counts", "found"),
    [
        (
            _changed(np.zeros((2, 8)), 0, 1, 3),
            NO_TOKENS,
            "layer 0, expert 1 has slot_tokens that add up to 3.0: .* its 0 tokens",
        ),
        (_changed(np.zeros((2, 8)), 0, 1, 0.5), NO_TOKENS, r"slot_tokens\[0, 1\] is 0.5"),
        (_changed(np.zeros((2, 8)), 0, 3, 1), NO_TOKENS, r"slot_tokens\[0, 3\] is 1: an empty slot"),
        (np.zeros((2, 8)), [[0, 0, 0, 2]] * 2, "layer 0, expert 3 has 2 tokens and no slot"),
        (np.zeros((2, 8)), [[0, 2, 0, 0]] * 2, "layer 0, expert 1 has slot_tokens that add up to 0.0: .* its 2 tokens"),
        (
            np.zeros((2, 8)),
            np.zeros((2, 3)),
            r"counts has shape \[1, 2, 3\]: it must be \[sources, layers \(2\), experts \(4\)\]",
        ),
    ],
)
def test_bad_totals(slot_tokens, counts, found):
    """Slots that do not get what sources have are refused: no token is dropped, none is made up."""
    with pytest.raises(ArgumentError, match=found):
        tokens.apportion_exactly(slot_tokens, PLACEMENT, [counts])


@pytest.mark.parametrize(
    ("values", "load", "found"),
    [
        (np.zeros((2, 8)), _changed(NO_TOKENS, 0, 1, 2.5), r"load\[0, 1\] is 2.5: it must be a whole number"),
        (np.zeros((2, 8)), _changed(NO_TOKENS, 0, 3, 2), "layer 0, expert 3 has 2 tokens and no slot"),
        (_changed(np.zeros((2, 8)), 1, 0, 2.5), NO_TOKENS, r"tokens\[1, 0\] is 2.5: an empty slot"),
        (_changed(np.zeros((2, 8)), 1, 1, -2.5), NO_TOKENS, r"tokens\[1, 1\] is -2.5: it must be finite and >= 0"),
    ],
)
def test_bad_tokens(values, load, found):
    """Whole loads only, and tokens where they can be served."""
    with pytest.raises(ArgumentError, match=found):
        tokens.round_tokens(values, PLACEMENT, load)
