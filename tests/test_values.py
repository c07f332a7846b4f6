"""Cluster, LoadTrace, Placement, metrics, inspection: frozen, checked, and what they derive."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import twins
from equipoise import ABSENT, Cluster, LoadTrace, Placement, metrics
from equipoise.errors import ArgumentError, InvalidPlacementError
from equipoise.inspection import inspect_trace


class TestCluster:
    """The ranks, their slots and their nodes."""

    def test_defaults(self):
        """Even nodes, speed 1, all up."""
        cluster = Cluster(num_ranks=4, slots_per_rank=3, num_nodes=2)
        assert cluster.num_slots == 12
        assert cluster.node_of_rank == (0, 0, 1, 1)
        assert cluster.rank_speeds == (1.0,) * 4
        assert cluster.alive == (True,) * 4
        assert cluster.rank_of_slot.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert cluster.ranks_per_node == 2
        assert cluster.is_uniform

    def test_unequal_ranks(self):
        """Slots, speeds and nodes one a rank."""
        cluster = Cluster(3, [1, 2, 3], 2, node_of_rank=[1, 0, 1], rank_speeds=np.array([1, 2, 1]), alive=[1, 1, 0])
        assert cluster.num_slots == 6
        assert cluster.rank_of_slot.tolist() == [0, 1, 1, 2, 2, 2]
        assert not cluster.is_uniform
        with pytest.raises(ArgumentError, match=r"nodes have \[1, 2\] ranks"):
            _ = cluster.ranks_per_node

    def test_value_semantics(self):
        """Equal clusters are equal, hashable, frozen, and can be changed by replace."""
        cluster = Cluster(4, [2, 2, 2, 2], 2)
        assert cluster == Cluster(4, 2, 2)
        assert hash(cluster) == hash(Cluster(4, 2, 2))
        assert dataclasses.replace(cluster, slots_per_rank=3).num_slots == 12
        with pytest.raises(dataclasses.FrozenInstanceError):
            cluster.num_ranks = 5

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            ({"num_ranks": 0}, "num_ranks is 0"),
            ({"num_ranks": 2.5}, "num_ranks is 2.5"),
            ({"num_ranks": True}, "num_ranks is True"),
            ({"slots_per_rank": 0}, "slots_per_rank is 0"),
            ({"slots_per_rank": [1, 2]}, "slots_per_rank has 2 entries"),
            ({"slots_per_rank": [1, 2, 0, 1]}, r"slots_per_rank\[2\] is 0"),
            ({"num_nodes": 3}, "4 ranks on 3 nodes: ranks must be divisible by nodes; take one of 1, 2, 4 nodes"),
            ({"node_of_rank": [0, 0, 2, 2], "num_nodes": 2}, r"node_of_rank names nodes \[0, 2\]"),
            ({"rank_speeds": [1, 1, 0, 1]}, r"rank_speeds\[2\] is 0"),
            ({"rank_speeds": [1, 1, float("nan"), 1]}, r"rank_speeds\[2\] is nan"),
            ({"alive": [False] * 4}, "alive has no rank that is up"),
            ({"alive": [True]}, "alive has 1 entries"),
            ({"alive": "yes"}, "alive is 'yes'"),
            ({"node_of_rank": 5}, "node_of_rank is 5"),
            ({"node_of_rank": [0, 1.5, 0, 1], "num_nodes": 2}, r"node_of_rank is \[0, 1.5, 0, 1\]"),
            ({"rank_speeds": ["a"] * 4}, "rank_speeds is"),
            ({"rank_speeds": 2.0}, "rank_speeds is 2.0"),
        ],
    )
    def test_bad_arguments(self, arguments, found):
        """Each is named with its value."""
        with pytest.raises(ArgumentError, match=found):
            Cluster(**{"num_ranks": 4, "slots_per_rank": 2, **arguments})


class TestLoadTrace:
    """Load over time."""

    def test_windows_and_last(self):
        """Windows add up consecutive steps and leave the rest out; last takes from the end; labels go along."""
        trace = LoadTrace(np.arange(28).reshape(7, 2, 2), layer_ids=[3, 5], labels="abcdefg")
        windows = trace.windows(3)
        assert windows.load.tolist() == [[[12, 15], [18, 21]], [[48, 51], [54, 57]]]
        assert windows.layer_ids == (3, 5)
        assert windows.labels == ("a+b+c", "d+e+f")
        assert trace.windows(1).labels == tuple("abcdefg")
        assert trace.last(2).load.tolist() == trace.load[5:].tolist()
        assert trace.last(2).labels == ("f", "g")
        assert trace.sum().tolist() == trace.load.sum(axis=0).tolist()

    def test_integers_stay_and_sums_are_wide(self):
        """Small integer types keep their memory; sums do not overflow; floats become float64."""
        trace = LoadTrace(np.full((400, 1, 2), 2**31 - 1, np.int32))
        assert trace.load.dtype == np.int32
        assert trace.sum().tolist() == [[400 * (2**31 - 1)] * 2]
        assert LoadTrace(np.ones((1, 2), np.float16)).load.dtype == np.float64
        assert LoadTrace(np.ones((1, 2), ">i4")).load.dtype.isnative
        assert LoadTrace(np.ones((1, 2), np.uint64)).load.dtype == np.int64

    def test_frozen_and_not_shared(self):
        """The caller's array is copied, ours cannot be written."""
        array = np.ones((1, 2, 2))
        trace = LoadTrace(array)
        array[:] = 5
        assert trace.load.max() == 1
        with pytest.raises(ValueError, match="read-only"):
            trace.load[0] = 2

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            ({"layer_ids": [1]}, "layer_ids has 1 entries"),
            ({"layer_ids": [1, 1]}, "layer_ids has 2 entries, 1 of them distinct"),
            ({"labels": ["a", "b"]}, "labels has 2 entries"),
            ({"load": np.full((1, 1, 3), 2**62)}, "loads as large as"),
        ],
    )
    def test_bad_arguments(self, arguments, found):
        """Each is named with its value."""
        with pytest.raises(ArgumentError, match=found):
            LoadTrace(**{"load": np.ones((1, 2, 3)), **arguments})

    @pytest.mark.parametrize("steps", [1.5, "2", True])
    def test_windows_are_counted_in_whole_steps(self, steps):
        """Anything but an integer is refused."""
        with pytest.raises(ArgumentError, match=f"window is {steps!r}: it must be an integer"):
            LoadTrace(np.ones((7, 1, 1))).windows(steps)

    @pytest.mark.parametrize("steps", [0, 8, -1])
    def test_windows_must_fit(self, steps):
        """A window longer than the trace is refused with both numbers."""
        with pytest.raises(ArgumentError, match=f"window is {steps} steps: it must lie between 1 and the 7 steps"):
            LoadTrace(np.ones((7, 1, 1))).windows(steps)
        with pytest.raises(ArgumentError, match=f"last is {steps} steps"):
            LoadTrace(np.ones((7, 1, 1))).last(steps)

    def test_example(self, example):
        """The load that ships: every layer of a window has the same total, four experts a token."""
        assert example.load.shape == (31, 24, 32)
        totals = example.load.sum(axis=2)
        assert (totals == totals[:, :1]).all()
        assert (totals % 4 == 0).all()


class TestPlacement:
    """What engines produce can be held; what is strict is told."""

    cluster = Cluster(num_ranks=3, slots_per_rank=2)

    def test_derived_maps(self):
        """Replica counts, slots by expert, duplicates and lost experts of a placement with all of these."""
        placement = Placement([[0, 0, 1, ABSENT, 0, 2], [0, 1, 2, 3, 0, 1]], self.cluster, 4)
        assert placement.replica_count.tolist() == [[3, 1, 1, 0], [2, 2, 1, 1]]
        assert placement.slots_of_expert.tolist() == [
            [[0, 1, 4], [2, -1, -1], [5, -1, -1], [-1, -1, -1]],
            [[0, 4, -1], [1, 5, -1], [2, -1, -1], [3, -1, -1]],
        ]
        assert placement.duplicates.tolist() == [1, 0]
        assert placement.lost_experts == ((0, 3),)
        assert placement.replica_count.dtype == placement.slots_of_expert.dtype == np.int64

    def test_rank_load_equals_the_twin(self):
        """Each slot gets load / replicas, a duplicate two shares, a lost expert's load nowhere."""
        slots, load = [[0, 0, 1, ABSENT, 0, 2]], [[6, 5, 4, 3]]
        placement = Placement(slots, self.cluster, 4)
        assert placement.rank_load(load).tolist() == [twins.rank_loads(slots[0], load[0], 3, 2)] == [[4, 5, 6]]

    def test_speeds_and_dead_ranks(self):
        """Times divide by speed; the ideal spreads over what is up."""
        cluster = Cluster(3, 2, rank_speeds=[1, 2, 1], alive=[True, True, False])
        placement = Placement([[0, 1, 2, 3, ABSENT, ABSENT]], cluster, 4)
        placement.validate()
        assert placement.rank_time([[3, 1, 4, 4]]).tolist() == [[4, 4, 0]]
        assert placement.balancedness([[3, 1, 4, 4]]) == 1.0

    def test_balancedness_over_layers(self):
        """Sum of ideals over sum of largest; layers without load count nothing; the worst layer apart."""
        placement = Placement([[0, 1], [0, 1], [0, 1]], Cluster(2, 1), 2)
        load = [[4, 4], [3, 1], [0, 0]]
        assert placement.balancedness(load) == (4 + 2) / (4 + 3)
        assert placement.worst_layer(load) == 2 / 3
        assert np.isclose(placement.fifth_percentile(load), 2 / 3 + 0.05 / 3)
        assert placement.balancedness(np.zeros((3, 2))) == placement.worst_layer(np.zeros((3, 2))) == 1.0

    def test_lost_experts_do_not_flatter(self):
        """Load that no rank carries does not raise the mean."""
        placement = Placement([[0, 1]], Cluster(2, 1), 3)
        assert placement.balancedness([[2, 2, 96]]) == 1.0
        assert placement.balancedness([[3, 1, 96]]) == 2 / 3

    @pytest.mark.parametrize(
        ("slots", "cluster", "found"),
        [
            ([[0, 1, 2, 0, 1, 2]], Cluster(3, 2), "layer 0: expert 3 has no slot"),
            ([[0, 0, 1, 2, 3, 1]], Cluster(3, 2), "layer 0: rank 0 holds expert 0 twice"),
            ([[0, 1, 2, 3, 0, 1]], Cluster(3, 2, alive=[True, True, False]), "a rank that is down holds experts"),
        ],
    )
    def test_validate(self, slots, cluster, found):
        """The strict rule names layer, rank and expert."""
        with pytest.raises(InvalidPlacementError, match=found):
            Placement(slots, cluster, 4).validate()

    @pytest.mark.parametrize(
        ("slots", "found"),
        [
            ([[0, 1, 2]], r"expert_of_slot has shape \[1, 3\]"),
            ([0, 1, 2, 3, 0, 1], r"expert_of_slot has shape \[6\]"),
            ([[0, 1, 2, 4, 0, 1]], "layer 0, slot 3 holds expert 4"),
            ([[0, 1, -2, 3, 0, 1]], "layer 0, slot 2 holds expert -2"),
            ([[0.0, 1, 2, 3, 0, 1]], "expert_of_slot has dtype float64"),
        ],
    )
    def test_bad_structure(self, slots, found):
        """Shapes and ids that no placement can have are refused."""
        with pytest.raises(ArgumentError, match=found):
            Placement(slots, self.cluster, 4)

    def test_moves_compare_ranks_not_slots(self):
        """An expert that stays on its rank costs nothing, wherever in it; a new one costs one move."""
        old = Placement([[0, 1, 2, 3, 0, 1]], self.cluster, 4)
        new = Placement([[1, 0, 3, 0, 2, 1]], self.cluster, 4)
        assert new.moves_from(old).tolist() == [2]
        assert old.moves_from(old).tolist() == [0]
        with pytest.raises(ArgumentError, match="previous has 1 layers of 5 experts"):
            new.moves_from(Placement([[0, 1, 2, 3, 0, 1]], self.cluster, 5))
        with pytest.raises(ArgumentError, match="previous has 2 ranks"):
            new.moves_from(Placement([[0, 1, 2, 3]], Cluster(2, 2), 4))

    def test_load_of_another_model_is_refused(self):
        """Layers and experts must fit."""
        with pytest.raises(ArgumentError, match="load has 2 layers of 4 experts"):
            Placement([[0, 1, 2, 3, 0, 1]], self.cluster, 4).rank_load(np.ones((2, 4)))

    def test_arrays_cannot_be_written(self):
        """A placement stays what it was checked to be."""
        placement = Placement([[0, 1, 2, 3, 0, 1]], self.cluster, 4)
        for array in (placement.expert_of_slot, placement.replica_count, placement.slots_of_expert, placement.duplicates):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


def test_metrics_of_no_load():
    """Nothing to balance is balanced."""
    nothing = np.zeros(2)
    assert metrics.balancedness(nothing, nothing) == metrics.fifth_percentile(nothing, nothing) == 1.0
    assert np.isnan(metrics.layer_balancedness(nothing, nothing)).all()


class TestInspection:
    """What a load looks like, and what seems wrong."""

    def test_skew(self):
        """Hottest over mean, share of the top eight, hottest experts, checked by hand."""
        load = np.ones((1, 1, 16))
        load[0, 0, [3, 5]] = [10, 6]
        found = inspect_trace(LoadTrace(load))
        assert found.tokens.tolist() == [30]
        assert found.max_over_mean.tolist() == [10 / (30 / 16)]
        assert found.top_share.tolist() == [22 / 30]
        assert found.hottest[0, :3].tolist() == [3, 5, 0]
        assert found.findings == ()

    @pytest.mark.parametrize(
        ("load", "finding"),
        [
            ([[[2, 2], [0, 0], [3, 1]]], "no load at all in layer 1"),
            ([[[2, 2], [2, 2], [3, 2]]], "layers have unequal totals: layer 2 not 4 tokens"),
            ([[[0.5, 0.5]]], "values are not whole numbers"),
            ([[[1, 1]], [[0, 0]], [[0, 0]]], "only zeros in steps 1, 2"),
        ],
    )
    def test_findings(self, load, finding):
        """Each is said in one sentence."""
        found = inspect_trace(LoadTrace(load)).findings
        assert len(found) == 1
        assert found[0].startswith(finding)

    def test_example_has_no_findings(self, example):
        """The load that ships looks right."""
        assert inspect_trace(example).findings == ()
