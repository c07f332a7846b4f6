"""From slots to experts: sums against plain loops, and slots that cannot be told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import FileError
from equipoise.files.loads.folding import active_slots, fold
from equipoise.files.loads.found import Hints
from equipoise.files.placements.found import FoundPlacement
from samples import fold_slowly


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_folding_is_what_slot_by_slot_gives(data):
    """Any map with or without empty slots, any axes before layers, integers and floats."""
    layers, slots = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    experts = data.draw(st.integers(1, slots))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    expert_of_slot = rng.integers(-1, experts, (layers, slots))
    lead = data.draw(st.sampled_from([(), (3,), (2, 3), (0,)]))
    load = rng.integers(0, 50, (*lead, layers, slots)).astype(data.draw(st.sampled_from(["i4", "i8", "u2", "f8", ">i4"])))
    load[..., expert_of_slot < 0] = 0
    folded = fold(load, expert_of_slot, experts, "here")
    assert np.array_equal(folded, fold_slowly(load, expert_of_slot, experts))
    assert folded.dtype == (np.float64 if load.dtype.kind == "f" else np.int64)


def test_experts_are_counted_where_nobody_says_how_many():
    """Up to the largest that a slot holds."""
    assert fold(np.array([[5, 1, 2]]), np.array([[1, 0, 1]]), None, "here").tolist() == [[1, 7]]


BAD = {
    "an expert outside": ([[1, 1]], [[0, 2]], 2, "here has expert 2 in layer 7, slot 1: it must be one of the 2 experts"),
    "an expert below -1": ([[1, 1]], [[0, -2]], 2, "here has expert -2 in layer 7, slot 1"),
    "more experts than slots": ([[1, 1]], [[0, 1]], 3, "here has 2 slots for 3 experts: each expert needs a slot"),
    "a map that claims billions": ([[1, 1]], [[0, 10**12]], None, "here has expert 1000000000000 in layer 7, slot 1"),
    "load without expert": ([[1, 5]], [[0, -1]], 1, "here has load 5 in layer 7, slot 1, which holds no expert"),
    "sums beyond 64 bits": ([[2**62, 2**62]], [[0, 0]], 1, "here has a load of 4611686018427387904: sums must stay below"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_slots_are_named(name):
    """The place, the layer by its own number, the slot, the rule."""
    load, slots, experts, message = BAD[name]
    with pytest.raises(FileError) as error:
        fold(np.array(load), np.array(slots), experts, "here", layer_ids=[7])
    assert message in str(error.value)


def _active(rows, layer_ids=(), **fields):
    return Hints(active=FoundPlacement(np.array(rows), tuple(layer_ids), name="active.yaml", **fields))


def test_active_layers_are_matched_by_number_or_by_position():
    """By number where both have numbers; a placement may hold more layers than the load."""
    rows = [[0, 1, 1], [1, 0, 0], [0, 0, 1]]
    found, experts = active_slots(_active(rows, [3, 4, 61]), 2, 3, "stats", [61, 3])
    assert found.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert experts == 2
    found, experts = active_slots(_active(rows, [3, 4, 61], num_experts=3), 3, 3, "stats")
    assert (found.tolist(), experts) == (rows, 3)


UNFIT = {
    "fewer columns than experts": (
        Hints(num_experts=4),
        [3],
        "the model has 4 experts, and each needs a slot: this is a load of",
    ),
    "none given": (Hints(), [3], "stats counts 3 slots a layer, not experts: only the placement in use"),
    "other slots": (_active([[0, 1]]), [3], "active.yaml has shape [1, 2]: stats counts 3 slots a layer"),
    "a layer missing": (_active([[0, 1, 1]], [4]), [3], "active.yaml has no layer 3: it must have every layer of stats"),
    "other layers": (_active([[0, 1, 1]] * 2), [3], "active.yaml has 2 layers: stats has 1, and they are matched by position"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_active_placement_that_does_not_fit_is_one_clear_error(name):
    """Each says what the load has and what the placement has."""
    hints, layer_ids, message = UNFIT[name]
    with pytest.raises(FileError) as error:
        active_slots(hints, 1, 3, "stats", layer_ids)
    assert message in str(error.value)
