"""What policy calls are answered with, held against the arguments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, EquipoiseError, Placement, plan
from equipoise.errors import ArgumentError
from equipoise.plugins.deciding import Call, decide
from equipoise.plugins.inheriting import previous_placement
from equipoise.plugins.settings import Settings

DEFAULT = Settings()


def trivial(layers: int, experts: int, slots: int) -> np.ndarray:
    """Return the placement that engines start from."""
    return np.tile(np.arange(slots) % experts, (layers, 1))


def check(decision, call: Call, num_nodes: int = 1) -> Placement:
    """Check that an answer can serve: strict, complete, of the shape asked for; moves and balancedness by slow twins."""
    layers, experts = call.load.shape
    slots = decision.expert_of_slot
    assert (slots.dtype, slots.shape, slots.flags.writeable) == (np.int64, (layers, call.num_slots), True)
    cluster = Cluster(call.num_ranks, call.num_slots // call.num_ranks, num_nodes, alive=call.alive)
    placement = Placement(slots, cluster, experts)
    placement.validate()
    assert ((slots == -1) == ~np.asarray(cluster.alive)[cluster.rank_of_slot]).all()
    if call.load.any():
        assert decision.after == pytest.approx(placement.balancedness(call.load), rel=1e-12)
    else:
        assert np.isnan(decision.after)
    assert decision.moves == (-1 if call.in_use is None else slow_moves(slots, call))
    return placement


def slow_moves(slots: np.ndarray, call: Call) -> int:
    """Count replicas that their rank did not hold, one by one."""
    room, moves = call.num_slots // call.num_ranks, 0
    for new, old in zip(slots.tolist(), np.asarray(call.in_use).tolist(), strict=True):
        for slot, expert in enumerate(new):
            rank = slot // room
            moves += expert >= 0 and expert not in old[rank * room : (rank + 1) * room]
    return moves


@st.composite
def all_calls(draw):
    """Draw calls that engines may make: any width in use, empty slots, duplicates, layers without load, dead ranks."""
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    ranks, nodes = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (3, 1)]))
    room = draw(st.integers(-(-experts // ranks), experts))
    load = draw(st.lists(st.lists(st.integers(0, 20), min_size=experts, max_size=experts), min_size=layers, max_size=layers))
    load = np.array(load) * np.array(draw(st.lists(st.integers(0, 1), min_size=layers, max_size=layers)))[:, np.newaxis]
    in_use = None
    if draw(st.booleans()):
        width = room * draw(st.integers(1, ranks + 2))
        row = st.lists(st.integers(-1, experts - 1), min_size=width, max_size=width)
        in_use = np.array(draw(st.lists(row, min_size=layers, max_size=layers)))
    groups = draw(st.sampled_from([g for g in range(1, experts + 1) if experts % g == 0]))
    is_hierarchical = groups % nodes == 0 and room <= experts // nodes
    alive = ()
    if draw(st.booleans()) and room * (ranks - 1) >= experts:
        alive = tuple(rank != draw(st.integers(0, ranks - 1)) for rank in range(ranks))
        alive = alive if sum(alive) * room >= experts else ()
    return Call(load, room * ranks, ranks, nodes, groups, is_hierarchical, in_use, alive)


class TestEveryCall:
    """Whatever engines hand over."""

    @given(all_calls(), st.sampled_from([None, 0, 1, 2]))
    @settings(max_examples=60)
    def test_answers_can_serve(self, call, max_moves):
        decision = decide(call, Settings(max_moves=max_moves))
        is_strict = call.is_hierarchical and call.num_nodes > 1 and all(call.alive)
        placement = check(decision, call, call.num_nodes if is_strict else 1)
        if is_strict:
            for row in placement.expert_of_slot:
                half = row.reshape(call.num_nodes, -1) * call.num_groups // placement.num_experts
                sides = [set(side.tolist()) for side in half]
                assert sum(len(side) for side in sides) == call.num_groups
        again = decide(call, Settings(max_moves=max_moves))
        assert again.expert_of_slot.tobytes() == decision.expert_of_slot.tobytes()

    @given(all_calls())
    @settings(max_examples=30)
    def test_arguments_are_not_changed(self, call):
        before = call.load.copy(), None if call.in_use is None else call.in_use.copy()
        decision = decide(call, DEFAULT)
        decision.expert_of_slot[:] = 0
        assert (call.load == before[0]).all()
        assert call.in_use is None or (call.in_use == before[1]).all()

    def test_without_a_placement_in_use_it_is_plan(self, skewed):
        for nodes, is_hierarchical, wanted in (
            (1, False, {}),
            (4, True, {"num_groups": 8, "locality": "strict"}),
            (4, False, {}),
        ):
            found = decide(Call(skewed, 80, 8, nodes, 8, is_hierarchical), DEFAULT)
            expected = plan(skewed, Cluster(8, 10, nodes), **wanted)
            assert (found.expert_of_slot == expected.placement.expert_of_slot).all()
            assert found.after == pytest.approx(expected.balancedness)
            assert np.isnan(found.before)

    def test_few_moves_and_no_less_balance(self, skewed):
        """Without a budget, from the plan for nearly the same load."""
        old = decide(Call(skewed, 80, 8, 1, 1, False), DEFAULT).expert_of_slot
        found = decide(Call(skewed + 3, 80, 8, 1, 1, False, old), DEFAULT)
        fresh = decide(Call(skewed + 3, 80, 8, 1, 1, False), DEFAULT)
        assert found.moves < 80
        assert found.after >= 0.999 * fresh.after
        stays = found.expert_of_slot == old
        assert stays.mean() > 0.8

    def test_budget_binds(self, skewed):
        old = trivial(6, 64, 80)
        found = decide(Call(skewed, 80, 8, 1, 1, False, old), Settings(max_moves=3))
        assert 0 < found.moves <= 18
        assert found.after > found.before

    def test_budget_too_small_to_serve_every_expert_gives_way(self, skewed):
        """A rank left, with the only replicas of its experts."""
        old = trivial(6, 64, 72)
        found = decide(Call(skewed, 64, 8, 1, 1, False, old), Settings(max_moves=0))
        check(found, Call(skewed, 64, 8, 1, 1, False, np.where(np.arange(72) < 64, old, old)))
        old = np.tile(np.r_[np.arange(56), np.arange(8), np.arange(56, 64)], (6, 1))
        assert decide(Call(skewed, 64, 8, 1, 1, False, old), Settings(max_moves=0)).moves >= 48


class TestWithoutLoad:
    """The start-up call, and layers without experts."""

    def test_placement_in_use_stays(self):
        old = np.array([[0, 1, 1, 0, 2, 3], [3, 2, 1, 0, 0, 0]])
        found = decide(Call(np.zeros((2, 4)), 6, 2, 1, 1, False, old), DEFAULT)
        assert (found.expert_of_slot.tolist(), found.moves) == (old.tolist(), 0)
        assert found.expert_of_slot is not old

    def test_fixed_rows(self):
        found = decide(Call(np.zeros((1, 4), np.int64), 6, 2, 1, 1, False), DEFAULT)
        assert found.expert_of_slot.tolist() == [[0, 1, 2, 3, 0, 1]]
        found = decide(Call(np.zeros((1, 8), np.int64), 12, 4, 2, 4, True), DEFAULT)
        assert found.expert_of_slot.tolist() == [[0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 4, 5]]
        found = decide(Call(np.zeros((1, 4)), 6, 3, 1, 1, False, alive=(True, False, True)), DEFAULT)
        assert found.expert_of_slot.tolist() == [[0, 1, -1, -1, 2, 3]]

    def test_dense_layers_among_others(self, skewed):
        load = skewed * np.array([[0], [1], [1], [0], [1], [1]])
        found = decide(Call(load, 80, 8, 1, 1, False), DEFAULT)
        assert (found.expert_of_slot[[0, 3]] == np.arange(80) % 64).all()
        others = decide(Call(skewed[[1, 2, 4, 5]], 80, 8, 1, 1, False), DEFAULT)
        assert (found.expert_of_slot[[1, 2, 4, 5]] == others.expert_of_slot).all()
        old = trivial(6, 64, 80)[:, ::-1]
        kept = decide(Call(load, 80, 8, 1, 1, False, old), DEFAULT)
        assert (kept.expert_of_slot[[0, 3]] == old[[0, 3]]).all()

    def test_scaling_up_moves_only_what_the_new_ranks_need(self):
        """An idle engine that gets two more ranks: the old ones keep what they hold."""
        old = np.pad(trivial(2, 8, 8), ((0, 0), (0, 4)), constant_values=-1)
        found = decide(Call(np.zeros((2, 8)), 12, 6, 1, 1, False, old), DEFAULT)
        assert (found.expert_of_slot[:, :8] == old[:, :8]).all()
        assert found.moves == 8

    def test_bad_shapes_are_found_all_the_same(self):
        with pytest.raises(ArgumentError, match="every expert needs a slot"):
            decide(Call(np.zeros((1, 8)), 4, 2, 1, 1, False), DEFAULT)


class TestInheriting:
    """Placements in use that do not fit."""

    def test_groups_on_several_nodes_count_where_most_of_them_is(self):
        """The start of an engine under strict locality: what was laid out without regard to nodes stays where it can."""
        load = np.arange(1, 17)[np.newaxis]
        old = trivial(1, 16, 20)
        found = decide(Call(load, 20, 4, 2, 4, True, old), DEFAULT)
        check(found, Call(load, 20, 4, 2, 4, True, old), 2)
        assert found.moves < 12

    def test_empty_slots_are_filled_from_the_groups_of_their_node(self):
        """No moves are allowed, but engines know no empty slots; the lightest expert of all is on the other node."""
        in_use = np.array([[0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7, -1]])
        call = Call(np.array([[50] * 7 + [1]]), 12, 4, 2, 2, True, in_use)
        found = decide(call, Settings(max_moves=0))
        check(found, call, 2)
        assert (found.expert_of_slot[0].reshape(2, 6) // 4 == [[0], [1]]).all()
        assert found.moves == 4

    def test_home_of_each_group(self):
        rows = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 0, 1]])
        kept = previous_placement(rows[:, :8], Cluster(4, 2, 2), 8, 4, True)
        assert kept.expert_of_slot.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
        crossed = previous_placement(np.array([[0, 1, 2, 4, 3, 5, 6, 7]]), Cluster(4, 2, 2), 8, 4, True)
        assert crossed.expert_of_slot.tolist() == [[0, 1, 2, -1, -1, 5, 6, 7]]
        full = previous_placement(np.array([[0, 2, 4, 6, 1, 3, 5, 7]]), Cluster(4, 2, 2), 8, 4, True)
        assert full.expert_of_slot.tolist() == [[0, 2, -1, -1, -1, -1, 5, 7]]

    def test_parts_of_ranks_are_no_placement(self):
        assert previous_placement(np.array([[0, 1, 2]]), Cluster(2, 2), 4, 1, False) is None

    def test_of_every_width(self, skewed):
        for width in (8, 64, 72, 80, 88, 79):
            old = trivial(6, 64, width)
            call = Call(skewed, 80, 8, 1, 1, False, old)
            found = decide(call, DEFAULT)
            assert found.expert_of_slot.shape == (6, 80)

    def test_numbers_below_zero_are_empty_slots(self, skewed):
        old = trivial(6, 64, 80)
        holes = [np.where(np.arange(80) < 64, old, hole) for hole in (-1, -7)]
        found = [decide(Call(skewed, 80, 8, 1, 1, False, hole), DEFAULT).expert_of_slot for hole in holes]
        assert (found[0] == found[1]).all()


class TestOptions:
    """Settings that change the answer."""

    def test_soft(self, skewed):
        """A soft plan is made afresh, then ranks of a node change places so that more stays."""
        asked, old = Settings(locality="soft", home_share=0.5), trivial(6, 64, 80)
        call = Call(skewed, 80, 8, 4, 8, False, old)
        found, fresh = decide(call, asked), decide(Call(skewed, 80, 8, 4, 8, False), asked)
        Placement(found.expert_of_slot, Cluster(8, 10, 4), 64).validate()
        assert found.after == pytest.approx(fresh.after)
        assert found.moves == slow_moves(found.expert_of_slot, call) < slow_moves(fresh.expert_of_slot, call)

    def test_none_where_the_engine_would_keep_groups(self, skewed):
        found = decide(Call(skewed, 80, 8, 4, 8, True), Settings(locality="none"))
        assert (found.expert_of_slot == plan(skewed, Cluster(8, 10)).placement.expert_of_slot).all()

    def test_forecast(self, skewed):
        windows = np.stack([skewed, skewed[:, ::-1], skewed[:, ::-1]])
        asked = Settings(mode="one_rank", forecast="last")
        found = decide(Call(windows.sum(axis=0), 80, 8, 1, 1, False, windows=windows), asked)
        assert (found.expert_of_slot == plan(windows[-1], Cluster(8, 10)).placement.expert_of_slot).all()

    @pytest.mark.compiled
    def test_optimal_dispatch(self, skewed):
        asked = Settings(locality="none", dispatch="optimal")
        check(
            decide(Call(skewed, 80, 8, 1, 1, False, trivial(6, 64, 80)), asked),
            Call(skewed, 80, 8, 1, 1, False, trivial(6, 64, 80)),
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_slots": 79}, "79 slots on 8 ranks"),
        ({"num_slots": 56}, "every expert needs a slot"),
        ({"num_ranks": 1, "num_slots": 65}, "no rank may hold an expert twice"),
        ({"num_ranks": 0}, "number of ranks is 0"),
        ({"num_slots": 80.0}, "number of slots is 80.0"),
        ({"load": np.ones(64)}, "shape"),
        ({"load": np.ones((0, 64))}, "shape"),
        ({"load": -np.ones((2, 64))}, "-1"),
        ({"load": np.full((2, 64), np.nan)}, "nan"),
        ({"in_use": trivial(3, 64, 80)}, "2 layers"),
        ({"in_use": trivial(2, 65, 80)}, "holds expert 64"),
        ({"in_use": np.ones((2, 80))}, "whole numbers"),
        ({"num_groups": 5, "num_nodes": 4, "is_hierarchical": True}, "groups"),
        ({"num_groups": None, "num_nodes": 4, "is_hierarchical": True}, "num_groups is None"),
        ({"num_nodes": 3, "num_groups": 3, "is_hierarchical": True}, "8 ranks on 3 nodes"),
        ({"alive": (True,) * 7}, "alive has 7 entries"),
        ({"alive": (True,) * 6 + (False,) * 2}, "60 slots|every expert needs"),
    ],
)
def test_bad_arguments(changes, words):
    """Each is named; every rank finds it alike."""
    asked = {
        "load": np.ones((2, 64)),
        "num_slots": 80,
        "num_ranks": 8,
        "num_nodes": 1,
        "num_groups": 1,
        "is_hierarchical": False,
    }
    with pytest.raises(EquipoiseError, match=words):
        decide(Call(**asked | changes), DEFAULT)


def test_digest_tells_calls_apart():
    """Of whatever decides the answer but for history."""
    base = {"load": np.ones((2, 4)), "num_slots": 4, "num_ranks": 2, "num_nodes": 1, "num_groups": 1, "is_hierarchical": False}
    changes = [
        {},
        {"load": np.ones((2, 4), np.int64)},
        {"load": np.ones((4, 2))},
        {"num_ranks": 1},
        {"num_groups": None},
        {"is_hierarchical": True},
        {"in_use": np.zeros((2, 4), np.int64)},
        {"alive": (True, False)},
    ]
    assert len({Call(**base | change).digest for change in changes}) == len(changes)
    assert Call(**base, windows=np.ones((3, 2, 4))).digest == Call(**base).digest
