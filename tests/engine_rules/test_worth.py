"""Break-even: by hand where one replica settles all, and against a twin on a real load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, plan, schedule_moves
from equipoise.engines.starting import in_id_order
from equipoise.engines.worth import seconds_per_token, strict_cost, weigh
from equipoise.errors import ArgumentError
from equipoise.migrating.links import LINKS
from equipoise.models import Model, find_model

TINY = Model("tiny", 2, (0, 1), 4, 2, 2, 1000, 500, 8, "a test")


def test_seconds_per_token_scale_with_the_expert():
    """Half the weights, half the time; BF16 at half the speed."""
    whole = seconds_per_token(find_model("deepseek-v3"))
    assert whole == pytest.approx(89e-9, rel=1e-3)
    assert seconds_per_token(find_model("deepseek-v3-bf16")) == 2 * whole
    assert seconds_per_token(TINY) == pytest.approx(whole * 500_000 / (7168 * 2048))


def test_by_hand():
    """Experts 0 and 1 are hot and on one rank; swapping one of them levels the ranks, at 2 moves a layer."""
    load = np.array([[[30, 30, 10, 10], [30, 30, 10, 10]]] * 2)
    in_use = in_id_order(Cluster(2, 2), 2, 4)
    found = weigh(LoadTrace(load), in_use, TINY, LINKS["h100"], every=100)
    assert (found.before, found.after, found.moves, found.is_next) == (40 / 60, 1.0, 4, True)
    # 60 of 80 tokens of a layer are on the slowest rank, then 40; a token has 2 experts in each of 2 layers
    assert found.saved_per_token == pytest.approx(seconds_per_token(TINY) * 2 * 2 * (60 - 40) / 80)
    assert found.move_seconds == pytest.approx(2 * LINKS["h100"].seconds(TINY.expert_bytes, is_near=True))
    assert found.break_even == pytest.approx(found.move_seconds / 100 / found.saved_per_token)
    assert found.pays(found.break_even * 1.001)
    assert not found.pays(found.break_even * 0.999)


def test_nothing_is_saved_where_load_turns():
    """What was hot is cold in the half that is scored: an honest no."""
    load = np.array([[[30, 30, 10, 10]], [[50, 1, 50, 1]]])
    found = weigh(LoadTrace(load), in_id_order(Cluster(2, 2), 1, 4), TINY, LINKS["h100"], every=10)
    assert found.after <= found.before
    assert found.saved_per_token <= 0
    assert found.break_even is None
    assert not found.pays(1e12)


@pytest.mark.compiled
def test_on_a_real_load(example):
    """Plan, moves and seconds are those of the functions that make them, on the halves they are for."""
    model = replace(find_model("gpt-oss-20b"), name="other")
    in_use = in_id_order(Cluster(8, 5, 2), 24, 32)
    found = weigh(example, in_use, model, LINKS["h800"], every=500)
    past, future = example.load[:15].sum(axis=0), example.load[15:].sum(axis=0)
    planned = plan(past, in_use.cluster).placement
    schedule = schedule_moves(in_use, planned)
    assert (found.before, found.after) == (in_use.balancedness(future), planned.balancedness(future))
    assert found.moves == schedule.moves.sum()
    assert found.move_seconds == schedule.seconds(LINKS["h800"], model.expert_bytes)
    lost = [(placed.rank_load(future).max(axis=1) / future.sum(axis=1)).sum() for placed in (in_use, planned)]
    assert found.saved_per_token == pytest.approx(4 * seconds_per_token(model) * (lost[0] - lost[1]))


def test_one_step_is_scored_on_itself():
    """No other step is there, and it is said."""
    found = weigh(LoadTrace([[[3, 1, 1, 1]]]), in_id_order(Cluster(2, 2), 1, 4), TINY, LINKS["h100"], every=1)
    assert not found.is_next
    assert found.after >= found.before


def test_what_strict_locality_costs():
    """One group is hot: kept on its node it leaves the other node idle."""
    strict, free = strict_cost(LoadTrace([[[9, 9, 1, 1]]]), Cluster(4, 1, 2), 2)
    assert (strict, free) == (5 / 9, 5 / 9)
    strict, free = strict_cost(LoadTrace([[[9, 9, 1, 1]]]), Cluster(4, 2, 2), 2)
    assert strict == pytest.approx(5 / 9)
    assert free > strict


@pytest.mark.parametrize(
    ("load", "every", "words"),
    [
        ([[[1, 1, 1, 1]], [[0, 0, 0, 0]]], 1, "half of the load is empty"),
        ([[[1, 1, 1]]], 1, "this placement has 1 of 4"),
        ([[[1, 1, 1, 1]]], 0, "every is 0"),
    ],
)
def test_bad_arguments(load, every, words):
    """Of another model, or of nothing."""
    with pytest.raises(ArgumentError, match=words):
        weigh(LoadTrace(load), in_id_order(Cluster(2, 2), 1, 4), TINY, LINKS["h100"], every)
