"""The chain of losses: it adds up, each term is what it says, and at slot level packing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import INTERPRETED
from equipoise import Cluster, LoadTrace, Placement, explain, plan, simulate
from equipoise.dispatching.splitting import dispatch as split
from equipoise.errors import ArgumentError
from equipoise.simulating.explaining import TERMS, Chain
from equipoise.simulating.naming import make_policy

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


@settings(max_examples=3 if INTERPRETED else 15)
@given(seed=st.integers(0, 2**32 - 1), planned=st.sampled_from(["equal", "optimal"]))
def test_chains_by_each_policys_own_rule_add_up(seed, planned):
    """Under an optimal split and with spare slots filled for the window the terms sum to what simulate() met, at each level."""
    windows = windows_of(seed)
    policies = [f"last,planned_for={planned},dispatch=optimal", "last,dispatch=batch:1", "last"]
    made = [make_policy(policy) for policy in policies]
    chains = explain(windows, CLUSTER, made, dispatch="nearest", levels=["rank", "slot"])
    met = {policy.name: [] for policy in made}
    found = simulate(windows, CLUSTER, made, dispatch="nearest", watch=lambda name, m: met[name].append(m.served.tokens))
    results = {result.name: result for result in found.policies}
    assert [(chain.policy, chain.level) for chain in chains] == [(p.name, level) for p in made for level in ("rank", "slot")]
    for chain in chains:
        largest_slots = sum(tokens.max(axis=1).sum() for tokens in met[chain.policy])
        expected = results[chain.policy].largest_by_layer.sum() if chain.level == "rank" else largest_slots
        assert np.isclose(chain.total, expected)
        assert np.isclose(sum(chain.terms.values()), chain.total)
        assert chain.num_slots == results[chain.policy].num_slots == 16


@settings(max_examples=3 if INTERPRETED else 15)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_batch_removes_loss_and_other_rules_have_no_such_term(seed):
    """The batch's term is 0 or below in each window, 0 without spare slots; an optimal split is never above an even one."""
    policies = ["last,dispatch=batch:1", "last,dispatch=optimal", "last,planned_for=optimal,dispatch=optimal", "last"]
    batch, *others = explain(windows_of(seed), CLUSTER, policies, dispatch="hash")
    assert [chain.dispatch for chain in (batch, *others)] == ["batch:1", "optimal", "optimal", "hash"]
    assert (batch.tokens[TERMS.index("batch")] <= 1e-9).all()
    assert batch.terms["batch"] < 0.0
    for chain in others:
        assert (chain.tokens[TERMS.index("batch")] == 0.0).all()
    for chain in (batch, *others[:2]):
        assert (chain.tokens[TERMS.index("dispatch")] <= 1e-9).all()


def test_terms_of_a_batch_by_hand():
    """Home in id order on two ranks, one spare slot each: what an even split, an optimal one and the spare slots give."""
    windows = [[[8, 8, 0, 0]], [[8, 8, 0, 0]]]
    home = Placement([[0, 1, 2, 3]], Cluster(2, 2), 4)
    (chain,) = explain(windows, Cluster(2, 2), [home], dispatch="batch:1")
    assert chain.terms == {
        "ideal": 8.0,
        "replicas": 0.0,
        "locality": 0.0,
        "packing": 0.0,
        "forecast": 8.0,
        "dispatch": 0.0,
        "batch": -8.0,
    }
    assert (chain.total, chain.num_slots, chain.dispatch) == (8.0, 6, "batch:1")
    assert chain.removed == {"dispatch": 0.0, "batch": 1.0}


def test_terms_of_an_optimal_split_by_hand():
    """An expert on both ranks beside others of 6 and 2: 9 evenly, 7 where the rank that is ahead takes more of it."""
    windows = [[[6, 6, 2]], [[6, 6, 2]]]
    (chain,) = explain(windows, Cluster(2, 2), [Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)], dispatch="optimal")
    reached = np.cumsum(chain.tokens[:, 0])
    assert reached[[0, 4, 5, 6]].tolist() == [7.0, 9.0, 7.0, 7.0]
    assert chain.dispatch == "optimal"
    assert chain.removed == {"dispatch": 1.0, "batch": 0.0}
    (batch,) = explain(windows, Cluster(2, 2), [Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)], dispatch="batch:1")
    assert np.cumsum(batch.tokens[:, 0])[[4, 5, 6]].tolist() == [9.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("terms", "removed"),
    [
        ([8, 1, 0, 1, 2, -1, -3], (0.25, 0.75)),
        ([8, 4, 0, -2, 0, -1, 0], (0.25, 0.0)),
        ([8, 0, 0, 0, 4, 1, -1], (0.0, 0.2)),
        ([8, 0, 0, 0, 0, 0, 0], (0.0, 0.0)),
        ([0, 0, 0, 0, 0, 0, 0], (0.0, 0.0)),
    ],
)
def test_what_is_removed_by_hand(terms, removed):
    """Of the positive terms after the ideal, all windows together: what a negative dispatch and batch take off."""
    halves = np.outer(terms, [0.5, 0.5])
    chain = Chain("last", "rank", 4, halves, "batch:1")
    assert chain.removed == dict(zip(("dispatch", "batch"), removed, strict=True))


@settings(max_examples=3 if INTERPRETED else 15)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_plan_for_an_optimal_split_is_scored_under_it(seed):
    """What is reached with packing is dispatch() over the plan that knows the window; plans for an even split stay so."""
    windows = windows_of(seed)
    rules = ["last,planned_for=optimal,dispatch=optimal", "last,dispatch=optimal"]
    optimal, even = (np.cumsum(chain.tokens, axis=0)[3] for chain in explain(windows, CLUSTER, rules))
    for window, load in enumerate(windows[1:]):
        known = plan(load, CLUSTER, dispatch="optimal").placement
        assert np.isclose(optimal[window], split(load, known).largest.sum())
        assert np.isclose(even[window], plan(load, CLUSTER).largest.sum())
