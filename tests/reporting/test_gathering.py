"""What a report says is what plan(), simulate(), explain() and the rest say; mismatches are named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from equipoise import Cluster, LoadTrace, Placement, plan, simulate
from equipoise.engines.starting import in_id_order
from equipoise.errors import ArgumentError
from equipoise.planning.redundancy import compare_redundancy
from equipoise.planning.trading import trade_off
from equipoise.reporting.answering import share
from equipoise.reporting.asked import POLICIES, Asked, NamedPlacement
from equipoise.reporting.figures import draw
from equipoise.reporting.gathering import ID_ORDER, fingerprint, gather
from equipoise.reporting.report import FORMAT, VERSION
from equipoise.simulating.explaining import explain
from reported import CLUSTER, make_trace, planned

pytestmark = pytest.mark.compiled


def test_answer(small):
    """The sentence holds each figure's number, in order, and each figure says what it was measured on."""
    trace, made, report = small
    figures = {figure.key: figure for figure in report.answer.figures}
    assert list(figures) == ["before", "after", "bound", "next", "optimal", "kept"]
    assert figures["before"].value == in_id_order(CLUSTER, 3, 8).balancedness(trace)
    assert figures["after"].value == pytest.approx(made.placement.balancedness(trace), abs=1e-15)
    assert figures["after"].value <= figures["bound"].value <= 1
    assert [figure.scored for figure in report.answer.figures] == [
        *("this load", "in-sample", "bound"),
        *["next-window"] * 2,
        "in-sample",
    ]
    replayed = simulate(trace, CLUSTER, [*POLICIES, made.placement])
    best = max(replayed.policy("last").mean_balancedness, replayed.policy("auto").mean_balancedness)
    assert figures["next"].value == best
    assert figures["optimal"].value == replayed.policy("auto,planned_for=optimal,dispatch=optimal").mean_balancedness
    assert figures["kept"].value == replayed.policies[-1].mean_balancedness
    told = f"planned anew before each window, expect on the next {share(best)} ("
    assert told in report.answer.sentence
    assert f"{replayed.policy(POLICIES[-1]).moves.sum():,} moves in all)" in report.answer.sentence
    places = [report.answer.sentence.find(f"{100 * figure.value:.2f}\u00a0%") for figure in report.answer.figures[:-1]]
    assert -1 not in places
    assert "slowest of 4 ranks" in report.answer.sentence


def test_balance_by_layer(small):
    """Before, after and bound of each layer, by the model's numbers; the worst are named, worst first."""
    trace, made, report = small
    balance = report.balance
    assert balance.layer_ids == (3, 4, 7)
    start = in_id_order(CLUSTER, 3, 8)
    for one, placement in zip(balance.placements, (start, made.placement), strict=True):
        largest, ideal = placement.layer_times(trace)
        assert one.by_layer == pytest.approx(ideal / largest, rel=1e-12)
        assert one.worst_layer == pytest.approx(placement.worst_layer(trace), rel=1e-12)
    best = plan(trace, CLUSTER)
    assert balance.bound_by_layer == pytest.approx(best.ideal / best.bound, rel=1e-12)
    assert balance.placements[0].name == ID_ORDER
    assert balance.placements[1].moves == made.placement.moves_from(start).sum()
    after = dict(zip(balance.layer_ids, balance.placements[1].by_layer, strict=True))
    assert [layer.layer_id for layer in balance.worst] == sorted(after, key=after.__getitem__)
    assert balance.worst[0].after == min(after.values())


def test_maps(small):
    """Loads over their layer's mean, by expert and by rank."""
    trace, made, report = small
    load = trace.sum()
    maps = {found.key: np.array(found.values) for found in report.maps}
    assert maps["experts"] == pytest.approx(load / load.mean(axis=1, keepdims=True), abs=5e-4)
    ranks = made.placement.rank_load(trace)
    assert maps["after"] == pytest.approx(ranks / ranks.mean(axis=1, keepdims=True), abs=5e-4)
    hottest = report.hottest[0]
    assert hottest.times_mean == (load / load.mean(axis=1, keepdims=True)).max()
    layer = report.balance.layer_ids.index(hottest.layer_id)
    assert len(hottest.ranks) == made.placement.replica_count[layer, hottest.expert]


def test_over_time(small):
    """Window by window as simulate() says; placements are kept beside policies; domains change where labels do."""
    trace, made, report = small
    fixed = [Placement(in_id_order(CLUSTER, 3, 8).expert_of_slot, CLUSTER, 8), made.placement]
    for line, policy in zip(report.timeline.policies, [*POLICIES, *fixed], strict=True):
        found = simulate(trace, CLUSTER, [policy]).policies[0]
        assert line.balancedness == tuple(found.balancedness)
        assert line.moves == tuple(found.moves)
        assert line.mean == found.mean_balancedness
        assert line.is_fixed == isinstance(policy, Placement)
    assert report.timeline.windows == (1, 2, 3, 4, 5)
    assert [(change.window, change.domain) for change in report.timeline.changes] == [(0, "a"), (3, "b"), (5, "c")]


def test_where_balance_is_lost(small):
    """The chains are explain()'s, and shares add up to all of the time."""
    trace, _, report = small
    for losses, chain in zip(report.losses, explain(trace, CLUSTER, POLICIES), strict=True):
        assert {term.term: term.tokens for term in losses.terms} == chain.terms
        assert sum(term.share for term in losses.terms) == pytest.approx(1)
        assert losses.terms[-1].balance == pytest.approx(losses.terms[0].share)


def test_redundancy_and_moves(small):
    """As compare_redundancy() and trade_off() say, with memory."""
    trace, _, report = small
    scores = compare_redundancy(trace, [Cluster(4, slots) for slots in (2, 3, 4, 6)], expert_bytes=2e6)
    assert [choice.slots for choice in report.redundancy.choices] == [8, 12, 16, 24]
    for choice, score in zip(report.redundancy.choices, scores, strict=True):
        assert (choice.in_sample, choice.next_window, choice.memory_bytes, choice.is_knee) == (
            score.balancedness,
            score.next_window,
            score.memory_bytes,
            score.is_knee,
        )
    curve = trade_off(trace.sum(), CLUSTER, in_id_order(CLUSTER, 3, 8))
    assert [point.moves for point in report.moves.points] == curve.total_moves.tolist()
    assert [point.balancedness for point in report.moves.points] == curve.balancedness.tolist()
    assert report.moves.knee == curve.knee


def test_json_is_versioned_and_repeats(small):
    """The same input, the same report; what is not finite is null."""
    trace, made, report = small
    found = report.as_json()
    assert (found["format"], found["version"]) == (FORMAT, VERSION) == ("equipoise-report", 1)
    json.dumps(found, allow_nan=False)
    assert gather(trace, [made], Asked(name="small", expert_bytes=2e6)).as_json() == found


def test_fingerprint_is_of_the_numbers():
    """Other tokens, another shape or another type: another fingerprint; another byte order: the same."""
    load = np.arange(12).reshape(1, 3, 4)
    known = fingerprint(LoadTrace(load))
    assert known == fingerprint(LoadTrace(load.astype(">i8")))
    others = [load + 1, load.reshape(3, 1, 4), load.astype(float)]
    assert len({known, *(fingerprint(LoadTrace(other)) for other in others)}) == 4
    assert len(known) == 32


def test_one_window_or_no_order_leaves_parts_out():
    """Parts that need windows are left out, and the report says why."""
    for trace, why in ((make_trace(steps=1), "one window"), (make_trace(is_in_order=False), "--in-order")):
        report = gather(trace, [planned(trace)])
        assert report.timeline is None
        assert report.losses == ()
        assert [what for what, _ in report.omissions] == ["over time", "where balance is lost"]
        assert all(why in reason for _, reason in report.omissions)
        assert "cannot tell" in report.answer.sentence
        assert report.redundancy.choices[0].next_window is None
        assert report.redundancy.windows == 1


def test_several_placements_are_before_and_after():
    """The first is the one before, the last the one after; moves are from one to the next."""
    trace = make_trace()
    first = planned(trace.last(1), "old.json")
    second = NamedPlacement("new.json", plan(trace, CLUSTER, previous=first.placement, max_moves=2).placement)
    report = gather(trace, [first, second], Asked(policies=("last",)))
    assert [one.name for one in report.balance.placements] == ["old.json", "new.json"]
    assert report.balance.placements[1].moves == second.placement.moves_from(first.placement).sum()
    assert report.balance.placements[1].scored == "this load"
    assert report.moves.previous == "old.json"


def test_simulation_of_this_trace_is_taken(small):
    """Its policies are shown and explained; names that do not tell how they plan are left out of the chains."""
    trace, made, _ = small
    found = simulate(trace, CLUSTER, ["mean:2", made.placement])
    report = gather(trace, [made], simulation=found)
    assert [line.name for line in report.timeline.policies] == [result.name for result in found.policies]
    assert [losses.policy for losses in report.losses] == ["mean:2"]
    assert [what for what, _ in report.omissions] == [f"where {found.policies[1].name} loses balance"]


def _mismatched():
    trace = make_trace()
    found = simulate(trace, CLUSTER, ["last"])
    other = LoadTrace(trace.load[:, ::-1].copy(), [3, 4, 7])
    return {
        "another trace": (found, other, "tokens a rank in layer 3"),
        "other windows": (found, make_trace(steps=5), "5 scored windows"),
        "other ranks": (simulate(trace, Cluster(2, 6), ["last"]), trace, "2 ranks"),
        "other slots": (simulate(trace, Cluster(4, 4), ["last"]), trace, "16 slots"),
        "permuted experts": (simulate(trace.load[:, :, ::-1], CLUSTER, ["last"]), trace, "fingerprint"),
        "windows the other way": (
            simulate(np.concatenate([trace.load[:1], trace.load[:0:-1]]), CLUSTER, ["last"]),
            trace,
            "order",
        ),
        "another history": (simulate(np.concatenate([trace.load[:1] + 1, trace.load[1:]]), CLUSTER, ["last"]), trace, "finger"),
        "other layers": (simulate(trace.load[:, :2], CLUSTER, ["last"]), trace, "2 layers"),
        "nothing that ended": (
            replace(found, policies=(replace(found.policies[0], failure="it broke"),)),
            trace,
            "no policy that went all the way",
        ),
    }


CASES = ("another trace", "other windows", "other ranks", "other slots", "permuted experts", "windows the other way")


@pytest.mark.parametrize("case", [*CASES, "another history", "other layers", "nothing that ended"])
def test_simulation_of_something_else_is_refused(case):
    """The mismatch is named."""
    simulation, trace, words = _mismatched()[case]
    with pytest.raises(ArgumentError, match=words):
        gather(trace, [planned(trace)], simulation=simulation)


def test_an_old_simulation_is_taken_as_far_as_it_tells():
    """Without slots and fingerprint: what there is is compared, and the report says so; slots still are those of policies."""
    trace = make_trace()
    found = simulate(trace, CLUSTER, ["last"])
    old = replace(found, fingerprint="", num_slots=0)
    notes = gather(trace, [planned(trace)], simulation=old).making.source.findings
    assert any("too old to hold a fingerprint" in note for note in notes)
    assert not any("fingerprint" in note for note in gather(trace, [planned(trace)], simulation=found).making.source.findings)
    other = replace(simulate(trace, Cluster(4, 4), ["last"]), fingerprint="", num_slots=0)
    with pytest.raises(ArgumentError, match="16 slots"):
        gather(trace, [planned(trace)], simulation=other)


def test_placement_of_another_model_is_refused():
    """Layers and experts are named, and a name that stands twice."""
    trace = make_trace()
    foreign = NamedPlacement("foreign.json", in_id_order(CLUSTER, 2, 8))
    with pytest.raises(ArgumentError, match=r"foreign.json has 2 layers of 8 experts: the load has 3 of 8"):
        gather(trace, [foreign])
    with pytest.raises(ArgumentError, match="named twice"):
        gather(trace, [planned(trace), planned(trace)])
    with pytest.raises(ArgumentError, match="no placements"):
        gather(trace, [])


def test_a_placement_with_lost_experts_is_shown_but_not_replayed():
    """Experts without a slot: balance of what is served, and the reason why it is not kept over time."""
    trace = make_trace()
    slots = np.array(in_id_order(CLUSTER, 3, 8).expert_of_slot)
    slots[slots == 7] = 0
    report = gather(trace, [NamedPlacement("broken", Placement(slots, CLUSTER, 8)), planned(trace)], Asked(policies=("last",)))
    assert (report.omissions[0][0], report.omissions[0][1].split(": ")[1]) == ("broken over time", "expert 7 has no slot")
    assert report.balance.placements[0].duplicates > 0


def test_uneven_ranks_speeds_and_dead_ranks():
    """What ranks differ in is taken into account: balance as the placement says it, and moves and slots where they apply."""
    trace = make_trace()
    cluster = Cluster(4, [4, 4, 3, 3], rank_speeds=[1, 1, 2, 1], alive=[True, True, True, False])
    made = plan(trace, cluster)
    report = gather(trace, [NamedPlacement("uneven", made.placement, is_planned=True)], Asked(policies=("last",)))
    assert report.balance.placements[1].balancedness == pytest.approx(made.balancedness)
    assert report.shape.ranks_up == 3
    after = np.array(report.maps[-1].values)
    assert np.isnan(after).all(axis=0).tolist() == [False, False, False, True]
    largest, ideal = made.placement.layer_times(trace)
    assert np.nanmax(after, axis=1) == pytest.approx(largest / ideal, abs=5e-4)
    speeds = np.array([1, 1, 2])
    assert (after[:, :3] * speeds).sum(axis=1) == pytest.approx(np.full(3, 4.0), abs=5e-3)
    drawn = draw(report)["map-after"]["data"][0]["z"]
    assert [row[3] for row in drawn] == [None] * 3
    json.dumps(drawn, allow_nan=False)
    assert "slowest of 3 ranks" in report.answer.sentence


def test_strict_locality_and_optimal_dispatch():
    """Bounds, slots and moves under the rule; balance under optimal dispatch is that of optimal splits."""
    trace = make_trace()
    cluster = Cluster(4, 3, 2)
    made = plan(trace, cluster, num_groups=2, locality="strict")
    asked = Asked(num_groups=2, locality="strict", policies=("last",))
    report = gather(trace, [NamedPlacement("strict", made.placement)], asked)
    assert report.balance.bound_by_layer == pytest.approx(made.ideal / made.bound)
    split = plan(trace, CLUSTER, dispatch="optimal")
    report = gather(trace, [NamedPlacement("split", split.placement)], Asked(dispatch="optimal", policies=("last",)))
    assert report.balance.placements[1].balancedness == pytest.approx(split.balancedness)
    assert [figure.key for figure in report.answer.figures][3:] == ["optimal", "kept"]
    assert "planned anew before each window, expect on the next with optimal dispatch" in report.answer.sentence


def test_engines_are_told_how(small):
    """One engine, or all: the command, how it loads the file, or why it cannot."""
    trace, made, report = small
    assert [way.engine for way in report.loading] == ["sglang", "vllm", "tensorrt-llm", "vllm-ascend", "deepseek"]
    assert "hidden layers" in report.loading[0].refusal
    one = gather(trace, [made], Asked(policies=("last",), engine="sglang", hidden_layers=8)).loading
    assert [way.engine for way in one] == ["sglang"]
    assert "--init-expert-location" in one[0].steps[1]
    with pytest.raises(ArgumentError, match="engine is 'x'"):
        Asked(engine="x")
