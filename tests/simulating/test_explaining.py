"""The chain of losses: it adds up, each term is what it says, and at slot level packing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Cluster, LoadTrace, Placement, explain, plan, simulate
from equipoise.errors import ArgumentError
from equipoise.simulating.explaining import TERMS

CLUSTER = Cluster(num_ranks=4, slots_per_rank=4, num_nodes=2)
RULES = st.sampled_from(["equal", "hash", "round_robin", "nearest"])


def windows_of(seed, count=4, layers=2, experts=8):
    """Return random windows [count, layers, experts]."""
    return np.random.default_rng(seed).integers(0, 100, (count, layers, experts)).astype(np.float64)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), dispatch=RULES, locality=st.sampled_from(["none", "strict"]))
def test_the_chain_adds_up_to_what_was_met(seed, dispatch, locality):
    """Terms sum to the largest rank loads that simulate() saw under the same rule, window by window."""
    windows = windows_of(seed)
    policy = f"last,groups=4,locality={locality}"
    (chain,) = explain(windows, CLUSTER, [policy], dispatch=dispatch)
    found = simulate(windows, CLUSTER, [policy], dispatch=dispatch).policies[0]
    assert np.isclose(chain.total, found.largest_by_layer.sum())
    assert np.isclose(sum(chain.terms.values()), chain.total)
    totals = windows[1:].sum(axis=(1, 2)) / 4
    assert np.allclose(chain.tokens[0], totals)
    assert np.allclose(totals / chain.tokens.sum(axis=0), found.balancedness)
    assert np.isclose(chain.balancedness["dispatch"], totals.sum() / chain.total)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_terms_are_what_they_say(seed):
    """Bounds and the plan that knows the window, from plan() itself."""
    windows = windows_of(seed)
    (chain,) = explain(windows, CLUSTER, ["last,groups=4,locality=strict"])
    reached = np.cumsum(chain.tokens, axis=0)
    for window, load in enumerate(windows[1:]):
        free = plan(load, CLUSTER, effort="fast")
        kept = plan(load, CLUSTER, num_groups=4, locality="strict")
        assert np.isclose(reached[1, window], free.bound.sum())
        assert np.isclose(reached[2, window], np.maximum(kept.bound, free.bound).sum())
        assert np.isclose(reached[3, window], kept.largest.sum())
    assert (chain.tokens[:4] >= -1e-9).all()
    assert (chain.tokens[5] == 0).all()


def test_terms_that_do_not_apply_are_zero():
    """Without a locality rule nothing is lost to one; a trace that stands still loses nothing to the forecast."""
    load = windows_of(1)[:1].repeat(4, axis=0)
    (chain,) = explain(load, CLUSTER, ["last"])
    assert chain.terms["locality"] == 0.0
    assert abs(chain.terms["forecast"]) < 1e-9
    assert tuple(chain.terms) == TERMS


@pytest.mark.compiled
@pytest.mark.parametrize("locality", ["none", "strict"])
def test_at_slot_level_packing_changes_nothing(locality):
    """On the load that ships and on Zipf 1.0, planners with greedy counts lose the same to the last digit, packing 0."""
    zipf = np.random.default_rng(0).permuted(np.tile(1e6 // np.arange(1, 33), (3, 6, 1)), axis=2)
    packings = ("lpt", "lpt+swap", "zigzag", "ensemble+reconstruct")
    policies = [f"last,planner={packing},groups=8,locality={locality}" for packing in packings]
    cluster = Cluster(8, 5, num_nodes=4)
    for trace in (LoadTrace.example().last(4), LoadTrace(zipf)):
        chains = explain(trace, cluster, policies, levels=["rank", "slot"])
        slot = [chain for chain in chains if chain.level == "slot"]
        assert len({chain.total for chain in slot}) == 1
        assert all(abs(chain.terms["packing"]) < 1e-9 * chain.total for chain in slot)
        rank = [chain for chain in chains if chain.level == "rank"]
        assert len({chain.total for chain in rank}) > 1


def test_a_placement_file_is_held_against_our_planner():
    """A fixed placement's packing term is that of a plan that knows the window; the rest is its forecast."""
    windows = windows_of(2)
    placement = Placement([[0, 1, 2, 3, 4, 5, 6, 7] * 2] * 2, CLUSTER, 8)
    (chain,) = explain(windows, CLUSTER, [placement])
    known = sum(plan(load, CLUSTER).largest.sum() for load in windows[1:])
    assert np.isclose(sum(list(chain.terms.values())[:4]), known)
    assert np.isclose(chain.total, sum(placement.rank_load(load).max(axis=1).sum() for load in windows[1:]))


def test_bad_levels_and_policies_are_named():
    """A level that is none, none or one twice, two policies of one name, and a policy that fails on the way."""
    for levels in ([], ["rank", "rank"]):
        with pytest.raises(ArgumentError, match="levels are"):
            explain(windows_of(0), CLUSTER, ["last"], levels=levels)
    with pytest.raises(ArgumentError, match="two policies are called last"):
        explain(windows_of(0), CLUSTER, ["last", "last"])
    with pytest.raises(ArgumentError, match="level is 'gpu'"):
        explain(windows_of(0), CLUSTER, ["last"], levels=["gpu"])

    class Lost:
        name = "lost"

        def begin(self, cluster, num_layers, num_experts):
            return self

        def observe(self, load):
            pass

        def decide(self):
            return None

    with pytest.raises(ArgumentError, match="policy lost, window 1: the placement is a NoneType"):
        explain(windows_of(0), CLUSTER, [Lost()])
