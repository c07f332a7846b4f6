"""What redundancy is worth: figures by definition, the knee's rule, and slots shared out against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import ABSENT, Cluster, LoadTrace, plan
from equipoise.errors import ArgumentError
from equipoise.planning.redundancy import choose_counts, compare_redundancy, find_knee, score_redundancy, spend_slots, try_slots


@pytest.fixture(scope="module")
def drifting():
    """Return seven windows of 5 layers x 12 experts: layer 0 level, the others ever more uneven, all drifting."""
    rng = np.random.default_rng(11)
    base = np.arange(1, 13)[np.newaxis] ** np.arange(5)[:, np.newaxis]
    return LoadTrace((base * rng.uniform(80, 120, (7, 5, 12))).astype(np.int64))


@pytest.fixture(scope="module")
def trials(drifting):
    """Return its trials on 4 ranks with 3, 4, 5 and 7 slots each, given in another order and once too often."""
    return try_slots(drifting, [Cluster(4, slots) for slots in (5, 3, 7, 4, 5)])


def test_scores_are_what_the_definitions_say(drifting, trials):
    """Each window planned, scored on itself and on the next; memory a rank; layers one by one."""
    scores = score_redundancy(trials, expert_bytes=1e6)
    assert [score.slots for score in scores] == [12, 16, 20, 28]
    assert [score.memory_slots for score in scores] == [15, 20, 25, 35]
    assert [score.memory_bytes for score in scores] == [15e6, 20e6, 25e6, 35e6]
    assert [score.spare_per_rank for score in scores] == [0, 1, 2, 4]
    before = None
    for score in scores:
        plans = [plan(load, Cluster(4, score.slots // 4)) for load in drifting.load]
        after = [made.placement.balancedness(load) for made, load in zip(plans, drifting.load[1:], strict=False)]
        assert np.isclose(score.balancedness, np.mean([made.balancedness for made in plans]))
        assert score.worst_layer == min(made.worst_layer for made in plans)
        assert np.isclose(score.next_window, np.mean(after))
        assert np.isclose(score.next_window_error, np.std(after, ddof=1) / np.sqrt(6))
        times = [made.placement.rank_load(load).max(axis=1) for made, load in zip(plans, drifting.load[1:], strict=False)]
        assert np.allclose(score.largest, np.sum(times, axis=0))
        assert np.allclose(score.gain, 0 if before is None else before / score.largest - 1)
        before = score.largest
    assert sum(score.is_knee for score in scores) == 1


def test_one_window_is_judged_in_sample(drifting):
    """There is no next window: None, the knee and the layers in-sample, no bytes without a size."""
    scores = compare_redundancy(LoadTrace(drifting.load[0]), [Cluster(4, slots) for slots in (3, 4)], effort="fast")
    assert all(score.next_window is None and score.next_window_error is None and score.memory_bytes is None for score in scores)
    assert np.array_equal(scores[1].largest, plan(drifting.load[0], Cluster(4, 4), effort="fast").largest)
    assert scores[1].is_knee == (scores[1].balancedness / 4 > scores[0].balancedness / 3)
    with pytest.raises(ArgumentError, match="slots to share out on 1 window"):
        spend_slots(try_slots(LoadTrace(drifting.load[0]), [Cluster(4, 3), Cluster(4, 4)]), 16)


def test_two_windows_have_one_figure_and_no_error(drifting):
    """A single next-window figure says nothing of its noise, and leaves nothing to hold out."""
    two = try_slots(LoadTrace(drifting.load[:2]), [Cluster(4, 3), Cluster(4, 4)])
    assert [score.next_window_error for score in score_redundancy(two)] == [None, None]
    spent = spend_slots(two, 16)
    assert (spent.held_out_windows, spent.held_out, spent.held_out_uniform, spent.held_out_error) == (0, None, None, None)


@pytest.mark.parametrize(
    ("balance", "memory", "knee"),
    [
        ([0.6], [256], 0),
        ([0.60, 0.73], [256, 288], 1),
        ([0.95, 0.96], [32, 40], 0),
        ([0.60, 0.73, 0.74, 0.75, 0.78], [256, 288, 320, 352, 512], 1),
        ([0.60, 0.60, 0.90], [8, 9, 10], 2),
        ([1.0, 1.0, 1.0], [8, 9, 10], 0),
        ([0.5, 1.0], [8, 16], 0),
    ],
    ids=["one", "two that pay", "two that do not", "a knee", "late", "flat", "breaks even"],
)
def test_the_knee_in_plain_cases(balance, memory, knee):
    """The last step that adds a larger share to balance than to memory."""
    assert find_knee(np.array(balance)[:, np.newaxis], memory) == knee


def test_noise_is_no_gain():
    """The same mean gain counts where every window shows it, and does not where it hides in their differences."""
    steady = np.array([[0.50] * 4, [0.60] * 4])
    noisy = steady + np.array([[0.0] * 4, [0.3, -0.3, 0.3, -0.3]])
    assert find_knee(steady, [8, 9]) == 1
    assert find_knee(noisy, [8, 9]) == 0
    shared = np.array([[0.3, 0.5, 0.7, 0.9], [0.375, 0.625, 0.875, 1.0]])
    assert shared.std() > 0.2
    assert find_knee(shared, [8, 9]) == 1


@st.composite
def _options(draw):
    size, windows = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    balance = draw(st.lists(st.lists(st.floats(0.05, 1), min_size=windows, max_size=windows), min_size=size, max_size=size))
    memory = draw(st.lists(st.integers(1, 64), min_size=size, max_size=size, unique=True))
    return np.array(balance), sorted(memory)


@given(_options(), st.integers(-8, 8), st.integers(0, 8))
def test_the_knee_knows_no_units(options, up, wide):
    """It is one of the options, the same in other units, and the options above it may go."""
    balance, memory = options
    knee = find_knee(balance, memory)
    assert 0 <= knee < len(memory)
    assert find_knee(balance * 2.0**up, [m * 2**wide for m in memory]) == knee
    assert find_knee(balance[: knee + 1], memory[: knee + 1]) == knee


@given(_options())
def test_without_noise_the_knee_has_the_most_balance_for_its_memory(options):
    """With one window: the largest balance / memory, the least such option."""
    balance, memory = options
    worth = balance[:, 0] / np.array(memory)
    assert worth[find_knee(balance[:, :1], memory)] >= worth.max() * (1 - 1e-12)


@st.composite
def _budgets(draw):
    counts, layers = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    slots = draw(st.lists(st.integers(1, 12), min_size=counts, max_size=counts, unique=True))
    times = st.lists(st.integers(0, 50), min_size=layers, max_size=layers)
    time = draw(st.lists(times, min_size=counts, max_size=counts))
    slots = np.array(sorted(slots)) * 4
    return np.array(time, np.float64), slots, draw(st.integers(slots[0] * layers, slots[-1] * layers + 9))


@given(_budgets())
def test_slots_are_shared_out_as_well_as_can_be(budgets):
    """Never more than the limit, and the least time of all choices within it."""
    time, slots, limit = budgets
    layers = np.arange(time.shape[1])
    choice = choose_counts(time, slots, limit)
    assert slots[choice].sum() <= limit
    every = (np.array(one) for one in product(range(len(slots)), repeat=len(layers)))
    assert time[choice, layers].sum() == min(time[one, layers].sum() for one in every if slots[one].sum() <= limit)


@pytest.mark.parametrize("uniform", [12, 16, 20, 28])
def test_the_placement_of_unequal_layers(drifting, trials, uniform):
    """Strict; ABSENT at the end of each rank; every layer as the plan with its own slots has it; within the memory."""
    spent = spend_slots(trials, uniform)
    assert spent.total_slots == spent.slots_of_layer.sum() <= uniform * 5
    spent.placement.validate()
    slots = spent.placement.expert_of_slot.reshape(5, 4, -1)
    assert slots.shape[2] * 4 == spent.slots_of_layer.max()
    newest = drifting.load[-1]
    for layer, count in enumerate(spent.slots_of_layer // 4):
        assert (slots[layer, :, count:] == ABSENT).all()
        assert (slots[layer, :, :count] != ABSENT).all()
        own = plan(newest, Cluster(4, int(count))).placement
        assert np.array_equal(spent.placement.rank_load(newest)[layer], own.rank_load(newest)[layer])


def test_level_layers_give_their_slots_to_uneven_ones(trials):
    """A level layer needs no replica; what it leaves serves the others."""
    spent = spend_slots(trials, 16)
    assert spent.slots_of_layer[0] == 12
    assert spent.slots_of_layer.max() > 16
    uniform = trials.following[1].sum()
    chosen = sum(
        trials.following[list(trials.slots).index(slots), :, layer].sum() for layer, slots in enumerate(spent.slots_of_layer)
    )
    assert chosen <= uniform


def test_held_out_windows_take_no_part_in_the_choice(drifting, trials):
    """Chosen on windows 0 to 2, scored on 3 to 6, each planned on the one before; by hand."""
    spent = spend_slots(trials, 16)
    past = try_slots(LoadTrace(drifting.load[:3]), trials.clusters)
    chosen = spend_slots(past, 16).slots_of_layer // 4
    figures = {"chosen": [], "uniform": []}
    for now, later in zip(drifting.load[2:], drifting.load[3:], strict=False):
        for name, counts in (("chosen", chosen), ("uniform", [4] * 5)):
            plans = {int(count): plan(now, Cluster(4, int(count))).placement for count in counts}
            largest = sum(plans[int(count)].rank_load(later)[layer].max() for layer, count in enumerate(counts))
            figures[name].append(later.sum() / 4 / largest)
    assert spent.held_out_windows == 4
    assert np.isclose(spent.held_out, np.mean(figures["chosen"]))
    assert np.isclose(spent.held_out_uniform, np.mean(figures["uniform"]))
    difference = np.subtract(figures["chosen"], figures["uniform"])
    assert np.isclose(spent.held_out_error, difference.std(ddof=1) / 2)


def test_layers_and_windows_without_load():
    """They count nothing: balance 1, no gain, no slots beyond the least."""
    load = np.zeros((3, 2, 4), np.int64)
    load[:2, 0] = [90, 5, 3, 2]
    trials = try_slots(LoadTrace(load), [Cluster(2, slots) for slots in (2, 3, 4)])
    scores = score_redundancy(trials)
    assert np.isfinite([score.next_window for score in scores]).all()
    assert all(score.gain[1] == 0 for score in scores)
    assert spend_slots(trials, 6).slots_of_layer[1] == 4


@pytest.mark.parametrize(
    ("clusters", "found"),
    [
        ([], "no slots counts"),
        ([Cluster(4, 3), Cluster(4, (4, 3, 3, 3))], "13 slots on 4 ranks: memory is weighed with equally many"),
        ([Cluster(4, 3), Cluster(2, 6)], "clusters differ in more than slots"),
        ([Cluster(4, 3), Cluster(4, 4, rank_speeds=[1, 1, 1, 2])], "clusters differ in more than slots"),
        ([Cluster(4, 2), Cluster(4, 3)], "8 slots for 12 experts"),
    ],
)
def test_clusters_that_cannot_be_weighed(drifting, clusters, found):
    """Refused before any plan is made."""
    calls = []
    with pytest.raises(ArgumentError, match=found):
        try_slots(drifting, clusters, progress=lambda: calls.append(1))
    assert not calls


def test_other_arguments_out_of_range(drifting, trials):
    """Soft locality, sizes that are none, budgets that were not tried."""
    with pytest.raises(ArgumentError, match="locality is 'soft'"):
        try_slots(drifting, [Cluster(4, 3)], locality="soft")
    with pytest.raises(ArgumentError, match="effort is 'more'"):
        try_slots(drifting, [Cluster(4, 3)], effort="more")
    for size in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="expert_bytes is"):
            score_redundancy(trials, expert_bytes=size)
    with pytest.raises(ArgumentError, match=r"13 slots to share out: tried were \[12, 16, 20, 28\]"):
        spend_slots(trials, 13)


def test_ranks_that_are_down_hold_nothing(drifting):
    """Spare slots are those of ranks that are up; unequal layers keep dead ranks empty."""
    clusters = [Cluster(4, slots, alive=[True, True, False, True]) for slots in (4, 5, 6)]
    trials = try_slots(drifting, clusters)
    assert [score.spare_per_rank for score in score_redundancy(trials)] == [0, 1, 2]
    spend_slots(trials, 20).placement.validate()


def test_strict_locality(drifting):
    """Planned as plan() does under the rule, groups on their nodes."""
    trials = try_slots(drifting, [Cluster(4, slots, 2) for slots in (3, 4)], num_groups=4, locality="strict")
    made = plan(drifting.load[0], Cluster(4, 4, 2), num_groups=4, locality="strict")
    assert np.array_equal(trials.in_sample[1, 0], made.largest)
