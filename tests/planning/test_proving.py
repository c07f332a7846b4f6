"""Proofs of a plan's layers: better or equal, optimal only when proven, and never taken for reproducible."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import twins
from equipoise import Cluster, Constraints, LoadTrace, RankCost, plan
from equipoise.errors import ArgumentError, MissingExtraError, NotSupportedError
from equipoise.planning.proving import prove

EXAMPLE = LoadTrace.example()


def test_proven_layers_are_optimal():
    """On tiny layers the proof ends at the exhaustive optimum, bound and placement alike; other layers stay as they were."""
    load = np.random.default_rng(2).integers(1, 100, (4, 5))
    result = plan(load, Cluster(3, 2), effort="fast")
    proven, proofs = prove(result, load, layers=[0, 2], seconds=20, num_workers=1)
    proven.placement.validate()
    assert [proof.layer for proof in proofs] == [0, 2]
    for proof in proofs:
        best = float(twins.optimum(load[proof.layer].tolist(), 3, 2))
        assert proof.is_optimal
        assert np.isclose(proof.largest, best, rtol=1e-9)
        assert np.isclose(proven.bound[proof.layer], best, rtol=1e-7)
    assert np.allclose(proven.largest, proven.placement.rank_time(load).max(axis=1), rtol=1e-12)
    assert np.array_equal(proven.placement.expert_of_slot[[1, 3]], result.placement.expert_of_slot[[1, 3]])
    assert np.isclose(proven.balancedness, proven.placement.balancedness(load))
    assert result.is_reproducible
    assert not proven.is_reproducible


def test_strict_speeds_and_ranks_that_are_down():
    """What plan() can, proofs can: nodes, unequal ranks, a price a token."""
    load = np.random.default_rng(3).integers(1, 100, (1, 8))
    cluster = Cluster(4, (3, 2, 2, 3), 2, rank_speeds=[1, 2, 1, 1])
    result = plan(load, cluster, num_groups=4, locality="strict", cost=RankCost(per_rank=5.0, per_token=2.0))
    proven, (proof,) = prove(result, load, layers=[0], seconds=20, num_workers=1)
    proven.placement.validate()
    assert proof.bound_before <= proof.bound <= proof.largest <= proof.largest_before
    down = plan(load, Cluster(4, 4, alive=[True, False, True, True]))
    proven, (proof,) = prove(down, load, layers=[0], seconds=20, num_workers=1)
    proven.placement.validate()
    assert proof.bound <= proof.largest <= proof.largest_before


def test_the_worst_layers_are_chosen():
    """Where none are named, those with the largest gap."""
    load = np.random.default_rng(4).integers(1, 100, (6, 6))
    result = plan(load, Cluster(3, 2), effort="fast")
    _, proofs = prove(result, load, seconds=5, num_workers=1)
    assert [p.layer for p in proofs] == sorted(np.argsort(-result.gap, kind="stable")[:3].tolist())


def test_bad_input_is_named():
    """Layers that do not exist, no time, and plans that proofs do not know."""
    load = [[4, 3, 2, 1]]
    result = plan(load, Cluster(2, 2))
    with pytest.raises(ArgumentError, match="layer 1 is to be proven: layers are 0 to 0"):
        prove(result, load, layers=[1])
    with pytest.raises(ArgumentError, match="load is not the one"):
        prove(result, [[4, 3, 2, 2]])
    with pytest.raises(ArgumentError, match="seconds is 0"):
        prove(result, load, seconds=0)
    active = plan(load, Cluster(2, 2), cost=RankCost(per_active=1.0))
    soft = plan(load, Cluster(2, 2, 2), num_groups=2, locality="soft", constraints=Constraints(home_share=0.5))
    for other in (active, soft):
        with pytest.raises(NotSupportedError, match="proofs know"):
            prove(other, load)


def test_without_the_extra_the_install_line_is_given(run, monkeypatch):
    """Both from Python and from the command line, before any work."""
    monkeypatch.setitem(__import__("sys").modules, "ortools.sat.python", None)
    with pytest.raises(MissingExtraError, match="equipoise\\[exact\\]"):
        prove(plan([[4, 3, 2, 1]], Cluster(2, 2)), [[4, 3, 2, 1]])
    shape = ("--ranks", 8, "--slots", 40)
    code, out, err = run("plan", "src/equipoise/data/gpt-oss-20b-decode.npz", *shape, "--prove")
    assert (code, out) == (2, "")
    assert 'pip install "equipoise[exact]"' in err


@pytest.mark.compiled
@pytest.mark.parametrize(("ranks", "slots"), [(32, 2), (16, 3), (4, 9)])
def test_bounds_hold_against_cp_sat_on_real_layers(ranks, slots):
    """On layers 0, 5, 10, 15 and 20 of the load that ships: our bound <= what the solver reaches <= plan."""
    load = EXAMPLE.load[0][[0, 5, 10, 15, 20]]
    result = plan(load, Cluster(ranks, slots), effort="best")
    untold = replace(result, bound=result.ideal)
    proven, proofs = prove(untold, load, layers=range(5), seconds=1, num_workers=2)
    proven.placement.validate()
    for ours, proof in zip(result.bound, proofs, strict=True):
        assert ours <= proof.largest * (1 + 1e-12)
        assert ours <= proof.bound * (1 + 1e-7) or not proof.is_optimal
        assert proof.largest <= proof.largest_before


@pytest.mark.compiled
def test_from_the_command_line(run):
    """`plan --prove` says of each layer whether it is optimal, in its table and in JSON, and that it may not repeat."""
    command = ("plan", "src/equipoise/data/gpt-oss-20b-decode.npz", "--ranks", 4, "--slots", 36, "--prove")
    options = ("--prove-layers", "3", "--prove-seconds", 2)
    found = json.loads(run(*command, *options, "--json")[1])
    assert [proof["layer"] for proof in found["proofs"]] == [3]
    assert found["is_reproducible"] is False
    assert "another run may find more or less" in run(*command, *options)[1]
