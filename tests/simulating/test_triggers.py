"""When plans are made and used, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from equipoise import Cluster
from equipoise.errors import ArgumentError
from equipoise.placement import Placement
from equipoise.simulating.triggers import Always, Below, Gain, make_trigger

CLUSTER = Cluster(2, 2)
USED, FOUND = (Placement([slots], CLUSTER, 4) for slots in ([0, 1, 2, 3], [0, 3, 1, 2]))
LOAD = np.array([[5.0, 5.0, 3.0, 3.0]])
"""Ranks have 10 and 6 tokens as USED, a balance of 0.8; 8 and 8 as FOUND."""


def test_always():
    """Whatever is met or expected."""
    assert Always().is_due(FOUND, LOAD)
    assert Always().is_worth_it(FOUND, USED, LOAD)


@pytest.mark.parametrize(("threshold", "due"), [(0.79, False), (0.8, False), (0.81, True), (1.0, True), (0.0, False)])
def test_below_plans_where_the_last_window_was_met_badly(threshold, due):
    """Only below: at the threshold nothing is done. What was found is used as it is."""
    assert Below(threshold).is_due(USED, LOAD) is due
    assert Below(threshold).is_worth_it(FOUND, USED, LOAD)


def test_below_is_content_with_a_level_load_or_none():
    """Perfect balance is not below 1, nor is a window without load."""
    assert not Below(1.0).is_due(FOUND, LOAD)
    assert not Below(1.0).is_due(USED, np.zeros((1, 4)))


@pytest.mark.parametrize(("share", "worth"), [(0.0, True), (0.19, True), (0.2, False), (0.21, False), (1.0, False)])
def test_gain_uses_what_lowers_the_time_enough(share, worth):
    """From 10 to 8 is a fifth: more than 0.19, not more than 0.2. A plan is always made, for only it can tell."""
    assert Gain(share).is_due(FOUND, LOAD)
    assert Gain(share).is_worth_it(USED, FOUND, LOAD) is worth


def test_gain_wants_something_to_gain():
    """The same placement, a worse one and a load of nothing are not worth it, even for a share of 0."""
    assert not Gain(0.0).is_worth_it(USED, USED, LOAD)
    assert not Gain(0.0).is_worth_it(FOUND, USED, LOAD)
    assert not Gain(0.0).is_worth_it(USED, FOUND, np.zeros((1, 4)))


def test_gain_adds_up_layers_and_scenarios():
    """A small layer's gain is small; scenarios count alike: 10 + 10 against 8 + 12 gain nothing, 10 + 10 against 8 + 10 do."""
    used, found = (Placement([p.expert_of_slot[0]] * 2, CLUSTER, 4) for p in (USED, FOUND))
    large = np.array([[100.0, 0.0, 100.0, 0.0], LOAD[0]])  # 100 and 10, then 100 and 8
    assert Gain(0.01).is_worth_it(used, found, large)
    assert not Gain(0.02).is_worth_it(used, found, large)
    other = np.array([[5.0, 5.0, 3.0, 7.0]])  # 10 as USED, 12 as FOUND
    same = np.array([[5.0, 5.0, 3.0, 5.0]])  # 10 either way
    assert not Gain(0.0).is_worth_it(USED, FOUND, np.stack([LOAD, other]))
    assert Gain(0.09).is_worth_it(USED, FOUND, np.stack([LOAD, same]))
    assert not Gain(0.11).is_worth_it(USED, FOUND, np.stack([LOAD, same]))


def test_faster_ranks_count_by_their_time():
    """Times, not tokens, are compared: 10 and 6 tokens at speeds 2 and 1 take 6, 8 and 8 take 8."""
    cluster = Cluster(2, 2, rank_speeds=[2.0, 1.0])
    used, found = (Placement(p.expert_of_slot, cluster, 4) for p in (USED, FOUND))
    assert not Gain(0.0).is_worth_it(used, found, LOAD)
    assert Gain(0.24).is_worth_it(found, used, LOAD)


@pytest.mark.parametrize("trigger", [Always(), Below(0.9), Below(1.0), Gain(0.05), Gain(0.0)], ids=lambda t: t.name)
def test_names_and_back(trigger):
    """A trigger's name makes it again; an object is taken as it is."""
    assert make_trigger(trigger.name) == trigger
    assert make_trigger(trigger) is trigger


@pytest.mark.parametrize(
    "text",
    ["", "always:1", "below", "below:", "below:x", "below:nan", "below:1.1", "gain:-0.1", "gain:inf", "never:0.5"],
)
def test_what_does_not_fit_is_named(text):
    """One line with what was found, the rule and the next step."""
    with pytest.raises(ArgumentError) as caught:
        make_trigger(text)
    expected = "it must be always, below:B or gain:G with a share in [0, 1]; try below:0.9"
    assert str(caught.value) == f"trigger is {text!r}: {expected}"


@pytest.mark.parametrize(("text", "near"), [("Gain:0.1", "gain"), ("blow:0.9", "below"), ("alway", "always")])
def test_the_nearest_name_is_suggested(text, near):
    """Only where it is the name that is wrong."""
    with pytest.raises(ArgumentError) as caught:
        make_trigger(text)
    assert str(caught.value).endswith(f"; did you mean {near}?")


@pytest.mark.parametrize("given", [None, 0.9])
def test_what_is_no_trigger_is_named(given):
    """As for forecasters."""
    with pytest.raises(ArgumentError):
        make_trigger(given)
