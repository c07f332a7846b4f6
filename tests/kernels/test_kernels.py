"""Kernels against their twins, and called from another kernel, the use that breaks first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from equipoise import Cluster, plan
from equipoise.kernels import packing, pairing, random, refining, replicating, sorting
from equipoise.kernels.compiling import kernel
from equipoise.planning import locality
from strategies import loads


@given(st.lists(loads, min_size=1, max_size=60))
def test_sort_is_stable_and_falls(values):
    """Sorting gives Python's stable order from large to small."""
    ordered, order = sorting.sort_rows_descending(np.array([values], np.float64))
    expected = twins.largest_first(values)
    assert order[0].tolist() == expected
    assert ordered[0].tolist() == [values[i] for i in expected]


def test_sort_of_many_ties_and_long_rows():
    """Merging keeps ties in order over many runs."""
    values = np.random.default_rng(1).integers(0, 5, 1000).astype(np.float64)
    _, order = sorting.sort_rows_descending(values[np.newaxis])
    assert order[0].tolist() == twins.largest_first(values.tolist())


@pytest.mark.parametrize("n", [47, 48, 300])
def test_sort_of_any_bits(n):
    """Counts, fractions, huge and tiny numbers, both zeros and equal rows: the order of the definition, in either way."""
    rng = np.random.default_rng(n)
    rows = [
        rng.integers(0, 1 << 40, n).astype(np.float64),
        rng.random(n),
        np.where(rng.random(n) < 0.5, 1e300, 1e-300) * rng.random(n),
        np.where(rng.random(n) < 0.5, 0.0, -0.0),
        np.full(n, 7.0),
        np.concatenate([np.arange(n - 3), [5e-324, 0.0, -0.0]]),
    ]
    ordered, order = sorting.sort_rows_descending(np.array(rows))
    for row, values, found in zip(rows, ordered, order, strict=True):
        assert found.tolist() == twins.largest_first(row.tolist())
        assert values.tolist() == row[found].tolist()


@given(st.lists(loads, min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_counts_equal_the_twin_and_are_the_best_possible(load, max_replicas, data):
    """Greedy counts equal their twin's and make the largest replica as small as any counts can."""
    slots = data.draw(st.integers(len(load), min(len(load) * max_replicas, len(load) + 5)))
    count = replicating.count_replicas(np.array([load], np.float64), slots, max_replicas)[0]
    assert count.tolist() == twins.greedy_counts(load, slots, max_replicas)
    largest = max(x / c for x, c in zip(load, count.tolist(), strict=True))
    assert np.isclose(largest, float(twins.best_largest_replica(load, slots, max_replicas)), rtol=1e-12)


def test_spare_slots_of_a_layer_without_load_are_spread():
    """Without load, no expert gets a second spare slot before every other has one."""
    assert replicating.count_replicas(np.zeros((1, 4)), 10, 3).tolist() == [[3, 3, 2, 2]]


def test_counts_stop_at_the_cap_and_go_on_elsewhere():
    """An expert with all the load gets no more replicas than ranks; the rest is spread."""
    assert replicating.count_replicas(np.array([[90.0, 0.0, 0.0]]), 8, 3).tolist() == [[3, 3, 2]]


def test_loads_too_small_to_divide_still_fill_every_slot():
    """Half of the smallest float is 0: counts stay within the cap, and exchanges end."""
    assert replicating.count_replicas(np.array([[5e-324, 0.0]]), 6, 3).tolist() == [[3, 3]]
    assert refining.clearly_below(5e-324) == -np.inf
    assert refining.clearly_below(1.0) < 1.0
    for experts, ranks, slots in ((3, 2, 2), (5, 3, 2), (5, 3, 3)):
        plan(np.full((1, experts), 5e-324), Cluster(ranks, slots)).placement.validate()


@given(st.sampled_from([(2, 2), (4, 2), (6, 2), (6, 3), (8, 4)]), st.data())
def test_pairing_equals_its_twin(shape, data):
    """Of all ways to put groups on nodes, the first whose heaviest node is lightest."""
    group_load = data.draw(st.lists(st.integers(0, 20), min_size=shape[0], max_size=shape[0]))
    found, heaviest = pairing.best_pairing(np.array([group_load], np.float64), locality._all_pairings(*shape), shape[1])
    assert (found[0].tolist(), heaviest[0]) == twins.best_pairing(group_load, shape[1])


def test_random_numbers_are_the_published_generator():
    """The first draws of key 0 are SplitMix64's reference values for seed 0."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(random.draw(np.uint64(0), counter)) for counter in range(3)] == expected


def test_random_numbers_are_uniform_and_in_range():
    """Means of many draws are where a uniform distribution's are, and no draw leaves its range."""
    key = np.uint64(random.key_of(3, np.array([1.0, 2.0])))
    units = np.array([random.uniform(key, i) for i in range(4000)])
    below = np.array([random.below(key, i, 7) for i in range(4000)])
    assert units.min() >= 0
    assert units.max() < 1
    assert abs(units.mean() - 0.5) < 0.02
    assert set(below.tolist()) == set(range(7))
    assert abs(below.mean() - 3) < 0.15


def test_keys_depend_on_seed_and_content():
    """Another seed, another value or another order gives another key."""
    rows = [np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([1.0, 2.5])]
    keys = {int(random.key_of(seed, row)) for seed in (0, 1) for row in rows}
    assert len(keys) == 6


def test_a_kernel_can_be_called_from_a_kernel():
    """Compiled code can use the kernels as its parts."""

    @kernel
    def count_twice(load):
        return replicating.count_replicas(load, 5, 3)[0].sum() + replicating.count_replicas(load, 4, 3)[0].sum()

    count_twice_uncached = getattr(count_twice, "py_func", count_twice)
    assert count_twice_uncached(np.array([[3.0, 2.0, 1.0]])) == 9


def _packed(weight, ids, num_packs):
    """Sorted items and their LPT packing, as the refiners take them."""
    order = twins.largest_first(weight)
    weight, ids = [weight[i] for i in order], [ids[i] for i in order]
    array, id_array = np.array([weight], np.float64), np.array([ids], np.int64)
    kinds = np.array([packing.INTERLEAVED], np.int64)
    pack = packing.pack_in_orders(array, id_array, len(ids), num_packs, kinds, 0.0, 0)
    return weight, ids, array, id_array, pack


def _lists(pack, num_packs):
    return [[int(i) for i in np.flatnonzero(pack[0] == p)] for p in range(num_packs)]


def _loads(weight, packs):
    return [sum(weight[i] for i in pack) for pack in packs]


@st.composite
def rows(draw):
    """Draw one row of items: weights, ids of which none occurs more often than there are packs, and packs."""
    packs = draw(st.integers(2, 4))
    n = packs * draw(st.integers(1, 4))
    weight, ids = [], []
    while len(weight) < n:
        copies = min(draw(st.integers(1, packs)), n - len(weight))
        weight += [draw(st.integers(0, 50))] * copies
        ids += [len(set(ids))] * copies
    return weight, ids, packs


@given(rows())
def test_best_swap_makes_the_best_exchange_of_the_heaviest_pack(row):
    """One round makes the exchange that all pairs, tried one by one, say is best; or none helps."""
    weight, ids, array, id_array, pack = _packed(*row)
    before = _lists(pack, row[2])
    loads = _loads(weight, before)
    heavy = loads.index(max(loads))
    possible = [e[0] for p in range(row[2]) if p != heavy for e in twins.exchanges(weight, ids, before, heavy, p)]
    refining.best_swap(array, id_array, len(ids), pack, row[2], 1)
    after = _lists(pack, row[2])
    changed = [p for p in range(row[2]) if set(after[p]) != set(before[p])]
    if min(possible, default=max(loads)) >= max(loads):
        assert not changed
    else:
        assert heavy in changed
        assert max(_loads(weight, [after[p] for p in changed])) == min(possible)


@given(rows())
def test_swap_makes_the_best_exchange_of_heaviest_and_lightest(row):
    """One round of the published swap exchanges between these two only, and best."""
    weight, ids, array, id_array, pack = _packed(*row)
    before = _lists(pack, row[2])
    loads = _loads(weight, before)
    heavy, light = loads.index(max(loads)), max(p for p in range(row[2]) if loads[p] == min(loads))
    possible = [e[0] for e in twins.exchanges(weight, ids, before, heavy, light)] if heavy != light else []
    refining.swap(array, id_array, len(ids), pack, row[2], 1)
    after = _lists(pack, row[2])
    changed = {p for p in range(row[2]) if set(after[p]) != set(before[p])}
    if min(possible, default=max(loads)) >= max(loads):
        assert not changed
    else:
        assert changed == {heavy, light}
        assert max(_loads(weight, [after[heavy], after[light]])) == min(possible)


@given(rows())
def test_reconstruct_keeps_the_first_rebuild_that_helps(row):
    """One round rebuilds the heaviest with the lightest pack for which that lowers the larger of the two."""
    weight, ids, array, id_array, pack = _packed(*row)
    before = _lists(pack, row[2])
    loads = _loads(weight, before)
    heavy = loads.index(max(loads))
    expected = before
    for p in sorted((p for p in range(row[2]) if p != heavy), key=lambda p: (loads[p], -p)):
        built = twins.rebuild(weight, ids, before[heavy], before[p])
        if built is not None and max(_loads(weight, built)) < loads[heavy]:
            expected = list(before)
            expected[heavy], expected[p] = built
            break
    refining.reconstruct(array, id_array, len(ids), pack, row[2], 1)
    assert [sorted(items) for items in _lists(pack, row[2])] == [sorted(items) for items in expected]


@given(rows(), st.sampled_from(["best_swap", "swap", "reconstruct"]))
def test_refiners_keep_sizes_and_ids_apart_and_never_lose(row, name):
    """Until none helps: every pack keeps its size, equal ids stay apart, the largest pack does not grow, and it ends."""
    weight, ids, array, id_array, pack = _packed(*row)
    before = max(_loads(weight, _lists(pack, row[2])))
    getattr(refining, name)(array, id_array, len(ids), pack, row[2], refining.UNTIL_NONE_HELPS)
    after = _lists(pack, row[2])
    assert {len(items) for items in after} == {len(weight) // row[2]}
    assert all(len({ids[i] for i in items}) == len(items) for items in after)
    assert max(_loads(weight, after)) <= before
