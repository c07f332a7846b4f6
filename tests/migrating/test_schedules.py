"""MoveSchedule: what is derived from its steps, the seconds it predicts, and its way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings

from equipoise import Cluster, Placement
from equipoise.errors import ArgumentError
from equipoise.migrating.links import LINKS, Links
from equipoise.migrating.schedules import MoveSchedule
from equipoise.migrating.scheduling import schedule_moves
from migrating.changes import RULES, changes, random_change

LINK = Links(bandwidth=100.0, node_bandwidth=10.0, latency=1.0, node_latency=2.0)


def _seconds(schedule, links, expert_bytes):
    """Seconds of each layer, written from the definition: message by message."""
    layers = []
    for layer, rounds in enumerate(schedule.rounds.tolist()):
        total = 0.0
        for now in range(rounds):
            messages = {}
            for i in np.flatnonzero(schedule.is_move & (schedule.layer == layer) & (schedule.round == now)).tolist():
                ends = int(schedule.sender[i]), int(schedule.receiver[i])
                messages[ends] = messages.get(ends, 0) + 1
            node = schedule.node_of_rank
            total += max(links.seconds(n * expert_bytes, node[s] == node[r]) for (s, r), n in messages.items())
        layers.append(total)
    return layers


@given(changes(), RULES)
def test_seconds(drawn, rules):
    """Each round is as long as its slowest message."""
    schedule = schedule_moves(*drawn, **rules)
    np.testing.assert_allclose(schedule.layer_seconds(LINK, 50.0), _seconds(schedule, LINK, 50.0))
    assert schedule.seconds(LINK, 50.0) == pytest.approx(sum(_seconds(schedule, LINK, 50.0)))


def test_seconds_of_a_pair():
    """Two experts for one peer go as one message; the other direction takes no longer."""
    cluster = Cluster(2, 2)
    old, new = Placement([[0, 1, 2, 2]], cluster, 3), Placement([[2, 2, 0, 1]], cluster, 3)
    schedule = schedule_moves(old, new, mode="one-peer")
    assert schedule.rounds.tolist() == [1]
    assert schedule.seconds(LINK, 50.0) == 1.0 + 2 * 50.0 / 100.0
    assert schedule_moves(old, new).seconds(LINK, 50.0) == 2 * (1.0 + 50.0 / 100.0)


def test_bytes():
    """What ranks send is what they receive, an expert a move."""
    schedule = schedule_moves(*random_change(0))
    assert schedule.sent_bytes(44e6).sum() == schedule.received_bytes(44e6).sum() == schedule.moves.sum() * 44e6
    assert schedule.sends.sum(axis=1).tolist() == schedule.receives.sum(axis=1).tolist() == schedule.moves.tolist()


@given(changes(), RULES)
@settings(max_examples=60)
def test_through_json(drawn, rules):
    """A schedule read back is the same, to the last operation."""
    schedule = schedule_moves(*drawn, **rules)
    again = MoveSchedule.from_dict(json.loads(json.dumps(schedule.as_dict())))
    assert again.as_dict() == schedule.as_dict()
    for rank in range(schedule.num_ranks):
        assert list(again.operations(rank)) == list(schedule.operations(rank))


@given(changes(), RULES)
@settings(max_examples=60)
def test_sends_and_receives_match(drawn, rules):
    """What one rank sends another one receives, in the same round, both directions in one order."""
    schedule = schedule_moves(*drawn, **rules)
    sent, received = {}, {}
    for rank in range(schedule.num_ranks):
        for o in schedule.operations(rank):
            if o.action == "send":
                sent.setdefault((rank, o.peer), []).append((o.layer, o.round, o.expert))
            elif o.action == "receive":
                received.setdefault((o.peer, rank), []).append((o.layer, o.round, o.expert))
    assert sent == received


def test_frozen():
    """Arrays cannot be written."""
    schedule = schedule_moves(*random_change(0))
    for name in ("layer", "expert", "rounds", "slot_counts"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(schedule, name)[0] = 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "other"}, "no move schedule"),
        ({"version": 2}, "version 2"),
        ({"extra": 1}, "'extra'"),
        ({"leaving": 3}, "leaving is 3"),
        ({"leaving": ["a"]}, "a leaving rank is 'a'"),
        ({"layer": "abc"}, "layer has shape"),
        ({"layer": [[0]]}, "layer has shape [1, 1]"),
        ({"layer": [0, [1]]}, "layer has shape"),
        ({"expert": [0.5, 1.5]}, "expert has shape [2] of float64"),
        ({"expert": [0]}, "expert has 1 entries"),
        ({"target": [0, 9, 0, 1]}, "target[1] is 9"),
        ({"source": [-2, 0, 0, 0]}, "source[0] is -2"),
        ({"kind": [0, 7, 0, 0]}, "kind[1] is 7"),
        ({"rounds": []}, "rounds has 0 entries"),
        ({"rounds": [0]}, "round[0] is 0"),
        ({"node_of_rank": [0]}, "node_of_rank has 1 entries"),
        ({"staging": 0}, "staging is 0"),
        ({"mode": "half"}, "mode is 'half'"),
        ({"num_experts": "2"}, "num_experts is '2'"),
    ],
)
def test_foreign_dicts(changed, words):
    """Named, with the part that is wrong."""
    cluster = Cluster(2, 1)
    given = schedule_moves(Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2)).as_dict()
    with pytest.raises(ArgumentError, match=words.replace("[", "\\[")):
        MoveSchedule.from_dict(given | changed)


def test_dicts_that_lack_something():
    """Or are none."""
    given = schedule_moves(*random_change(0)).as_dict()
    del given["round"]
    with pytest.raises(ArgumentError, match="'round'"):
        MoveSchedule.from_dict(given)
    with pytest.raises(ArgumentError, match="no move schedule"):
        MoveSchedule.from_dict([])


def test_bad_arguments():
    """Ranks that are not there; bytes and links that cannot be."""
    schedule = schedule_moves(*random_change(0))
    for rank in (-1, 8, 0.5):
        with pytest.raises(ArgumentError, match=f"rank is {rank}"):
            schedule.operations(rank)
    for expert_bytes in (0, -1.0, np.inf, "44"):
        with pytest.raises(ArgumentError, match="expert_bytes is"):
            schedule.seconds(LINK, expert_bytes)
        with pytest.raises(ArgumentError, match="expert_bytes is"):
            schedule.sent_bytes(expert_bytes)
    with pytest.raises(ArgumentError, match="links is a float"):
        schedule.seconds(50e9, 44e6)


@pytest.mark.parametrize("name", ["bandwidth", "node_bandwidth", "latency", "node_latency"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "fast", True])
def test_bad_links(name, value):
    """Every speed and latency is a finite number above 0."""
    with pytest.raises(ArgumentError, match=f"{name} is"):
        Links(**{name: value})


def test_presets():
    """Links that are faster within a node."""
    assert all(link.bandwidth > link.node_bandwidth for link in LINKS.values())
