"""Soft locality: a dial between strict and none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import Cluster, Constraints, RankCost, plan
from equipoise.errors import ArgumentError, NotSupportedError


def _softly(load, cluster, share, groups=4, **options):
    return plan(load, cluster, num_groups=groups, locality="soft", constraints=Constraints(home_share=share), **options)


def _share_by_definition(result, load, groups):
    """Tokens served on the home node of each expert's group, slot by slot, over all tokens."""
    cluster, homes = result.placement.cluster, result.home_of_group
    shares = []
    for layer, slots in enumerate(result.placement.expert_of_slot.tolist()):
        at_home = sum(
            load[layer][e] / slots.count(e)
            for slot, e in enumerate(slots)
            if e >= 0 and homes[layer, e * groups // len(load[layer])] == cluster.node_of_rank[cluster.rank_of_slot[slot]]
        )
        shares.append(at_home / sum(load[layer]) if sum(load[layer]) else 1.0)
    return shares


@given(
    st.lists(st.lists(st.integers(0, 100), min_size=8, max_size=8), min_size=1, max_size=2),
    st.sampled_from([2, 3, 4]),
    st.floats(0, 1),
)
def test_the_share_asked_for_is_kept(load, slots, share):
    """Plans are strict placements, keep the share on every layer, report it, and are no worse than strict locality."""
    cluster = Cluster(4, slots, 2)
    result = _softly(load, cluster, share)
    result.placement.validate()
    assert np.allclose(result.home_share, _share_by_definition(result, load, 4), atol=1e-12)
    assert (result.home_share >= share - 1e-9).all()
    assert np.allclose(result.largest, result.placement.rank_time(load).max(axis=1), rtol=1e-12)
    assert (result.bound <= result.largest).all()
    strict = plan(load, cluster, num_groups=4, locality="strict")
    assert (result.largest <= strict.largest * (1 + 1e-9)).all()


def test_the_dial_runs_from_strict_to_none():
    """Asked for everything it is strict locality (but for the other pairing strict tries), for nothing it is none."""
    load = np.random.default_rng(3).integers(1, 1000, (4, 32)) ** 2
    cluster = Cluster(8, 5, 4)
    free = plan(load, cluster).largest
    assert (_softly(load, cluster, 0.0, 8).largest <= free * (1 + 1e-12)).all()
    everything = _softly(load, cluster, 1.0, 8)
    assert (everything.home_share == 1.0).all()
    balance = [_softly(load, cluster, share, 8).balancedness for share in (1.0, 0.97, 0.9, 0.5, 0.0)]
    assert balance[-1] > balance[0] + 0.01
    assert balance[2] > balance[0]


def test_a_share_out_of_reach_names_the_largest():
    """A node that lost a rank cannot hold its groups: soft locality goes on, up to what it can keep at home."""
    load = np.array([[9, 8, 7, 6, 5, 4, 3, 2]])
    cluster = Cluster(4, 3, 2, alive=[True, True, True, False])
    with pytest.raises(ArgumentError, match=r"home_share is 1.0: layer 0 keeps 0\.\d+ of its load at home at most"):
        _softly(load, cluster, 1.0)
    result = _softly(load, cluster, 0.8)
    result.placement.validate()
    assert (result.home_share >= 0.8).all()


def test_shapes_that_soft_locality_cannot_start_from_are_named():
    """Ranks with more slots than their node's experts everywhere; costs of active experts; and a node that is down plans."""
    load = np.arange(1.0, 9.0)[np.newaxis]
    with pytest.raises(ArgumentError, match=r"roomiest ranks have \[4, 4, 4, 4\] slots for 8 experts in all"):
        _softly(load, Cluster(4, 4, 4), 0.2)
    with pytest.raises(NotSupportedError, match="active experts cost"):
        _softly(load, Cluster(4, 3, 2), 0.5, cost=RankCost(per_active=1.0))
    result = _softly(load, Cluster(4, 5, 2, alive=[False, False, True, True]), 0.1)
    result.placement.validate()
    assert (result.home_share >= 0.1).all()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.9", True])
def test_shares_outside_their_range_are_refused(share):
    """A share lies in [0, 1]."""
    with pytest.raises(ArgumentError, match="home_share is"):
        Constraints(home_share=share)


def test_threads_change_nothing():
    """The soft plan too is the same for any number of threads."""
    load = np.random.default_rng(3).integers(1, 1000, (5, 32))
    one, many = (_softly(load, Cluster(8, 5, 4), 0.9, 8, num_threads=n) for n in (1, 3))
    assert one.placement.expert_of_slot.tobytes() == many.placement.expert_of_slot.tobytes()
