"""Dispatcher and BatchDispatcher: the bytes of dispatch() and plan_batch(); nothing allocated, no lock held, none dropped."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.runtime import rtsys
from numba.core.runtime._nrt_python import memsys_enable_stats

from equipoise import Cluster, Placement, plan
from equipoise.dispatching.batches import MoveTime, plan_batch
from equipoise.dispatching.splitting import dispatch
from equipoise.dispatching.stepping import BatchDispatcher, Dispatcher
from equipoise.errors import ArgumentError, InvalidPlacementError

WRITTEN = ("shares", "tokens", "rank_load", "largest", "bound", "tight")
WRITTEN_FOR_BATCHES = (*WRITTEN, "source", "moves", "expert_of_slot")
SMALL = 4096  # bytes
HOME = Placement([[0, 1, 2, 3], [3, 2, 1, 0]], Cluster(4, 1), 4)
LOST = Placement([[0, 1, 0, 2], [0, 1, 1, 0]], Cluster(2, 2), 3)

tokens = st.one_of(st.just(0.0), st.integers(0, 9).map(float), st.floats(0.0, 1e4))


def _load(draw, placement):
    """Draw tokens of a batch, none for an expert without a slot."""
    rows = [[draw(tokens) for _ in range(placement.num_experts)] for _ in range(placement.num_layers)]
    return np.where(placement.replica_count > 0, np.array(rows), 0.0)


@st.composite
def placements(draw, most_slots=3):
    """Draw a placement: empty slots, experts twice on a rank, lost experts, ranks of several speeds, on nodes or down."""
    ranks, layers = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    experts = draw(st.integers(most_slots + 2, 8))
    alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    speeds = draw(st.lists(st.sampled_from([1.0, 1.0, 0.5, 3.0]), min_size=ranks, max_size=ranks))
    room = draw(st.lists(st.integers(1, most_slots), min_size=ranks, max_size=ranks))
    node = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=ranks - 2, max_size=ranks - 2))]
    rows = [
        [draw(st.integers(-1, experts - 1)) if alive[r] else -1 for r in range(ranks) for _ in range(room[r])]
        for _ in range(layers)
    ]
    return Placement(rows, Cluster(ranks, room, 2, node_of_rank=node, rank_speeds=speeds, alive=alive), experts)


@st.composite
def options(draw):
    """Draw options of plan_batch()."""
    return {
        "spare_slots": draw(st.integers(1, 2)),
        "stop_at": draw(st.sampled_from([None, None, 1.0, 1.1])),
        "gain_per_move": draw(st.sampled_from([0.0, 0.0005, 0.05])),
        "max_received": draw(st.sampled_from([None, 0, 1])),
        "move_time": draw(st.sampled_from([None, MoveTime(1e-6, 1e6, 1e10, 1e9)])),
        "prefer_near": draw(st.booleans()),
    }


def _assert_same(stepper, found, names=WRITTEN):
    """Every array has the bytes of the call's."""
    for name in names:
        wanted = found.placement.expert_of_slot if name == "expert_of_slot" else getattr(found, name)
        written = getattr(stepper, name)
        assert written.dtype == wanted.dtype, name
        assert written.shape == wanted.shape, name
        assert written.tobytes() == wanted.tobytes(), name


@given(placements(), st.data())
def test_a_step_writes_what_dispatch_returns(placement, data):
    """Batch after batch, all layers at once or one by one, to the byte; the load is not touched."""
    whole, by_layer = Dispatcher(placement), Dispatcher(placement)
    assert whole.cluster is placement.cluster
    _assert_same(whole, dispatch(np.zeros((placement.num_layers, placement.num_experts)), placement))
    for _ in range(2):
        load = _load(data.draw, placement)
        before = load.tobytes()
        found = dispatch(load, placement)
        whole.step(load)
        for layer in reversed(range(placement.num_layers)):
            by_layer.step_layer(layer, load[layer])
        _assert_same(whole, found)
        _assert_same(by_layer, found)
        assert load.tobytes() == before


@given(placements(), options(), st.data())
def test_a_step_writes_what_plan_batch_returns(home, wishes, data):
    """Spare slots keep what they hold from batch to batch, as with ``held``, until told to forget."""
    whole, by_layer, held = BatchDispatcher(home, **wishes), BatchDispatcher(home, **wishes), None
    for forgets in (False, False, True, False):
        if forgets:
            before = whole.expert_of_slot.tobytes()
            whole.forget()
            by_layer.forget()
            assert whole.expert_of_slot.tobytes() == before
            held = None
        load = _load(data.draw, home)
        found = plan_batch(load, home, held=held, **wishes)
        assert whole.cluster == found.placement.cluster
        whole.step(load)
        for layer in range(home.num_layers):
            by_layer.step_layer(layer, load[layer])
        _assert_same(whole, found, WRITTEN_FOR_BATCHES)
        _assert_same(by_layer, found, WRITTEN_FOR_BATCHES)
        held = found.placement


def test_begins_with_what_is_held():
    """``held`` is what slots hold before the first step, and what it is of layers that have had none."""
    load = np.array([[10.0, 4.0, 1.0, 1.0], [1.0, 1.0, 4.0, 10.0]])
    held = plan_batch(load, HOME).placement
    dispatcher = BatchDispatcher(HOME, held=held)
    assert np.array_equal(dispatcher.expert_of_slot, held.expert_of_slot)
    assert dispatcher.moves.tolist() == [0, 0]
    dispatcher.step(load)
    _assert_same(dispatcher, plan_batch(load, HOME, held=held), WRITTEN_FOR_BATCHES)
    assert dispatcher.moves.tolist() == [0, 0]
    dispatcher.forget()
    dispatcher.step(load)
    assert dispatcher.moves.tolist() == [2, 2]


def test_of_any_layout():
    """Loads that are read-only, strided or in another order are taken as well; so is a placement given column by column."""
    rng = np.random.default_rng(3)
    load = rng.integers(0, 99, (2, 4)).astype(np.float64)
    columns = Placement(np.asfortranarray(HOME.expert_of_slot), HOME.cluster, 4)
    wide = np.zeros((2, 8))
    wide[:, ::2] = load
    frozen = load.copy()
    frozen.setflags(write=False)
    for stepper, found in [(Dispatcher(columns), dispatch(load, HOME)), (BatchDispatcher(columns), plan_batch(load, HOME))]:
        for given_load in (load, frozen, np.asfortranarray(load), wide[:, ::2]):
            if isinstance(stepper, BatchDispatcher):
                stepper.forget()
            stepper.step(given_load)
            _assert_same(stepper, found)


STEPPERS = {"split": lambda: Dispatcher(LOST), "batch": lambda: BatchDispatcher(LOST)}


@pytest.mark.parametrize("make", STEPPERS.values(), ids=STEPPERS)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([[6, 1, 4], [1, 1, 5]], InvalidPlacementError, r"layer 1: expert 2 has 5 tokens and no slot \(1 such\): every expert"),
        ([[6, 1, 4], [1, 1, 5e-324]], InvalidPlacementError, "layer 1: expert 2 has"),
        ([[6, 1, 4], [-1, 1, 0]], ArgumentError, "load is -1.0 at step 0, layer 1, expert 0"),
        ([[6, np.nan, 4], [1, 1, 0]], ArgumentError, "load is nan at step 0, layer 0, expert 1"),
        ([[6, 1, 4], [1, np.inf, 0]], ArgumentError, "load is inf at step 0, layer 1, expert 1"),
        ([[6, 1, 4], [9e299, 9e299, 0]], ArgumentError, "1e[+]?300"),
    ],
)
def test_what_cannot_be_served_is_refused(make, bad, error, message):
    """As dispatch() refuses it, by step and by step_layer; the last good step stays, and the next one is as if nothing was."""
    stepper, other = make(), make()
    names = WRITTEN_FOR_BATCHES if isinstance(stepper, BatchDispatcher) else WRITTEN
    first, second = np.array([[6.0, 1.0, 4.0], [3.0, 1.0, 0.0]]), np.array([[1.0, 1.0, 7.0], [2.0, 9.0, 0.0]])
    bad = np.array(bad, np.float64)
    layer = int(bad[0].tolist() == [6, 1, 4])
    stepper.step(first)
    other.step(first)
    before = [getattr(stepper, name).tobytes() for name in names]
    for refused in (lambda: stepper.step(bad), lambda: stepper.step_layer(layer, bad[layer])):
        with pytest.raises(error, match=message):
            refused()
        assert [getattr(stepper, name).tobytes() for name in names] == before
    stepper.step_layer(1 - layer, second[1 - layer])
    stepper.step(second)
    other.step_layer(1 - layer, second[1 - layer])
    other.step(second)
    assert [getattr(stepper, name).tobytes() for name in names] == [getattr(other, name).tobytes() for name in names]


@pytest.mark.parametrize("make", STEPPERS.values(), ids=STEPPERS)
def test_bad_arguments_of_a_step(make):
    """Other dtypes and shapes, lists, and layers that there are not."""
    stepper = make()
    for bad, found in [
        (np.zeros((2, 3), np.float32), r"load is of dtype float32 and shape \[2, 3\]: it must be a float64 array \[2, 3\]"),
        (np.zeros((2, 3), np.int64), "load is of dtype int64"),
        (np.zeros((3, 2)), r"load is of dtype float64 and shape \[3, 2\]"),
        (np.zeros((1, 2, 3)), r"shape \[1, 2, 3\]"),
        ([[1.0, 2.0, 3.0]] * 2, "load is list"),
    ]:
        with pytest.raises(ArgumentError, match=found):
            stepper.step(bad)
    with pytest.raises(ArgumentError, match=r"shape \[2, 3\]: it must be a float64 array \[3\]"):
        stepper.step_layer(0, np.zeros((2, 3)))
    for layer, found in [(2, "layer is 2: there are 2 layers; take one of 0..1"), (-1, "layer is -1"), (0.0, "layer is 0.0")]:
        with pytest.raises(ArgumentError, match=found):
            stepper.step_layer(layer, np.zeros(3))


def test_bad_arguments_when_made():
    """What plan_batch() refuses is refused here, before the first step."""
    for make in (Dispatcher, BatchDispatcher):
        with pytest.raises(ArgumentError, match="placement is a list: it must be a Placement"):
            make([[0, 1]])
    for wrong, found in [
        ({"spare_slots": 4}, "4 spare slots beside 1 on rank 0 for 4 experts"),
        ({"stop_at": 0.5}, "stop_at is 0.5"),
        ({"gain_per_move": -1}, "gain_per_move is -1"),
        ({"max_received": -1}, "max_received is -1"),
        ({"move_time": 3}, "move_time is a int"),
        ({"held": HOME}, "held has 2 layers of 4 experts on 4 slots"),
    ]:
        with pytest.raises(ArgumentError, match=found):
            BatchDispatcher(HOME, **wrong)


def _model(layers, ranks=8, experts=64):
    """Return a placement of a model, its home, and three batches."""
    rng = np.random.default_rng(layers)
    loads = np.floor(rng.pareto(1.2, (3, layers, experts)) * 100)
    make = lambda slots: plan(loads[0], Cluster(ranks, slots, 2), effort="fast").placement  # noqa: E731
    return make(experts // ranks + 1), make(experts // ranks), loads


@pytest.mark.compiled
@pytest.mark.parametrize("spare_slots", [0, 1])
def test_a_step_allocates_nothing(spare_slots):
    """Arrays are those made at the start; kernels ask for as much memory for forty layers as for one, and give it back.

    What numba counts is a note for each array that it is handed; what Python asks for in between are a few small objects.
    """
    memsys_enable_stats()
    counted = []
    for layers in (1, 40):
        placement, home, loads = _model(layers)
        stepper = BatchDispatcher(home, spare_slots) if spare_slots else Dispatcher(placement)
        names = WRITTEN_FOR_BATCHES if spare_slots else WRITTEN
        arrays = [getattr(stepper, name) for name in names]
        places = [array.ctypes.data for array in arrays]
        for way in (lambda load, of=stepper: of.step(load), lambda load, of=stepper: of.step_layer(0, load[0])):
            way(loads[0])
            begin = rtsys.get_allocation_stats()
            way(loads[1])
            end = rtsys.get_allocation_stats()
            asked = end.alloc - begin.alloc
            assert end.free - begin.free == asked
            counted.append(asked)
            tracemalloc.start()
            way(loads[2])
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            way(loads[0])
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak - before < SMALL
            grown = []
            for _ in range(3):  # at first Python specialises its bytecode
                blocks = sys.getallocatedblocks()
                for _ in range(100):
                    way(loads[1])
                grown.append(sys.getallocatedblocks() - blocks)
            assert grown[-1] < 10
        assert all(getattr(stepper, name) is array for name, array in zip(names, arrays, strict=True))
        assert [array.ctypes.data for array in arrays] == places
    assert loads[0].nbytes > 2 * SMALL
    assert len(set(counted)) == 1


@pytest.mark.compiled
def test_a_step_lets_go_of_the_lock():
    """Python runs on while one long step does: a thread counts, and most of its counts fall into the step."""
    _, home, loads = _model(1500, ranks=32, experts=256)
    dispatcher = BatchDispatcher(home, gain_per_move=0.0)
    is_over, ticks = threading.Event(), []

    def count():
        while not is_over.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    counting = threading.Thread(target=count)
    counting.start()
    begin = time.perf_counter()
    dispatcher.step(loads[1])
    end = time.perf_counter()
    is_over.set()
    counting.join()
    inside = np.array([tick for tick in ticks if begin < tick < end])
    assert len(inside) >= 10
    assert np.diff(np.concatenate([[begin], inside, [end]])).max() < 0.7 * (end - begin)


@pytest.mark.compiled
def test_threads_side_by_side():
    """Each with its own, they write what one alone does."""
    placement, home, loads = _model(40)
    wanted = dispatch(loads[2], placement), plan_batch(loads[2], home)
    steppers = [make for _ in range(2) for make in (Dispatcher(placement), BatchDispatcher(home))]

    def run(stepper):
        for load in (*loads, *loads):
            if isinstance(stepper, BatchDispatcher):
                stepper.forget()
            stepper.step(load)

    threads = [threading.Thread(target=run, args=(stepper,)) for stepper in steppers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stepper, found in zip(steppers, (*wanted, *wanted), strict=True):
        _assert_same(stepper, found)


@pytest.mark.compiled
def test_nothing_is_compiled_in_a_step():
    """Making one compiles all it needs, whatever loads come."""
    from equipoise.kernels import stepping

    placement, home, loads = _model(2)
    steppers = Dispatcher(placement), BatchDispatcher(home)
    kernels = stepping.split_step, stepping.fill_step
    before = [len(kernel.signatures) for kernel in kernels]
    for stepper in steppers:
        for load in (loads[0], np.asfortranarray(loads[1]), loads[2, :, ::-1]):
            stepper.step(load)
            stepper.step_layer(1, load[1])
    assert [len(kernel.signatures) for kernel in kernels] == before == [1, 1]
