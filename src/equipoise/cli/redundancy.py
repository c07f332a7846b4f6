"""``equipoise compare --slots 256,288,320``, and ``equipoise plan`` without ``--slots``: balance against memory."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from equipoise.cli.output import counted, out, percent, print_json, progress_bar, table, working
from equipoise.cluster import Cluster
from equipoise.planning.problem import make_problem
from equipoise.planning.redundancy import RedundancyScore, SlotSpending, Trials, score_redundancy, spend_slots, try_slots
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace

_LEAST_GAIN = 0.01
_MOST_NAMED = 8


def compare_redundancy(
    trace: LoadTrace,
    clusters: list[Cluster],
    groups: int,
    locality: str,
    effort: str,
    expert_bytes: float | None,
    part: str,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Plan every window with every slots count, and print what each is worth."""
    trials = _try(trace, clusters, groups, locality, effort, silent=quiet or json)
    scores = score_redundancy(trials, expert_bytes=expert_bytes)
    several = trace.num_steps > 1
    spendings = [spend_slots(trials, score.slots) for score in scores[1:]] if several else []
    if json:
        setting = _setting(trace, clusters[0], groups, locality, effort)
        print_json({**setting, **_results(scores), "unequal": [_spending(spent) for spent in spendings]})
    elif not quiet:
        _show_setting(trace, clusters[0], locality, effort, part)
        _show_redundancy(scores)
        _show_layers(scores, trace, "next window" if several else "load planned for")
        _show_spending(scores, spendings)


def suggest_slots(
    trace: LoadTrace,
    clusters: list[Cluster],
    groups: int,
    locality: str,
    effort: str,
    expert_bytes: float | None,
    part: str,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Weigh slots counts as :func:`compare_redundancy` does, and say which to plan with; nothing is written."""
    trials = _try(trace, clusters, groups, locality, effort, silent=quiet or json)
    scores = score_redundancy(trials, expert_bytes=expert_bytes)
    knee = next(score.slots for score in scores if score.is_knee)
    if json:
        print_json({**_setting(trace, clusters[0], groups, locality, effort), **_results(scores), "suggested_slots": knee})
    elif not quiet:
        _show_setting(trace, clusters[0], locality, effort, part)
        _show_redundancy(scores)
        if trace.num_steps == 1:
            out.print(
                "nothing is told of the next window: the load is one window, or its steps are in no order", soft_wrap=True
            )
        if expert_bytes is None:
            out.print("give --model or --expert-bytes for the memory of a rank in GB", soft_wrap=True)
        out.print(
            f"nothing is planned yet: add --slots {knee} --out placement.json, or more slots where ranks have memory to spare",
            style="bold",
            soft_wrap=True,
        )


def _try(trace: LoadTrace, clusters: list[Cluster], groups: int, locality: str, effort: str, *, silent: bool) -> Trials:
    for cluster in clusters:
        make_problem(trace, cluster, groups, locality)
    with working("compiling, once a machine", quiet=silent):
        warm_up()
    with progress_bar("planning", len(clusters) * trace.num_steps, quiet=silent) as advance:
        return try_slots(trace, clusters, num_groups=groups, locality=locality, effort=effort, progress=advance)


def _setting(trace: LoadTrace, cluster: Cluster, groups: int, locality: str, effort: str) -> dict[str, object]:
    setting = {"ranks": cluster.num_ranks, "nodes": cluster.num_nodes, "groups": groups, "locality": locality, "effort": effort}
    shape = {"layers": trace.num_layers, "experts": trace.num_experts, "windows": trace.num_steps}
    judged = {"scored": "next-window" if trace.num_steps > 1 else "in-sample", "layer_ids": trace.layer_ids}
    return {**setting, **shape, **judged}


def _results(scores: list[RedundancyScore]) -> dict[str, object]:
    return {"results": [{**asdict(score), "layers_that_gain": _gaining(score).size} for score in scores]}


def _show_setting(trace: LoadTrace, cluster: Cluster, locality: str, effort: str, part: str) -> None:
    out.print(
        f"{counted(trace.num_layers, 'layer')} of {counted(trace.num_experts, 'expert')} on "
        f"{counted(cluster.num_ranks, 'rank')}, locality {locality}, "
        f"effort {effort}; planned on {part}",
        soft_wrap=True,
    )


def _show_redundancy(scores: list[RedundancyScore]) -> None:
    with_bytes = scores[0].memory_bytes is not None
    table(
        "Balance against the memory of a rank",
        ["slots", "spare", "held", *["GB"] * with_bytes, "in-sample", "worst", "next window", "error"],
        [
            [
                f"{score.slots}{' knee' * score.is_knee}",
                f"{score.spare_per_rank:.3g}",
                str(score.memory_slots),
                *([] if score.memory_bytes is None else [f"{score.memory_bytes / 1e9:.1f}"]),
                percent(score.balancedness),
                percent(score.worst_layer),
                "" if score.next_window is None else percent(score.next_window),
                "" if score.next_window_error is None else f"{100 * score.next_window_error:.2f}",
            ]
            for score in scores
        ],
    )
    out.print("spare, held: slots of a rank, in one layer and in all; worst: layer, in-sample;", soft_wrap=True)
    out.print("error: standard, of next window; knee: last step with more gain than cost, in %", soft_wrap=True)


def _show_layers(scores: list[RedundancyScore], trace: LoadTrace, judged: str) -> None:
    """Say which layers profit from each step up; the few by name."""
    out.print(f"Layers that gain more than {_LEAST_GAIN:.0%} over the row above, on the {judged}:", soft_wrap=True)
    for before, score in pairwise(scores):
        gaining = _gaining(score)
        others = np.setdiff1d(np.arange(trace.num_layers), gaining)
        named, words = (gaining, "layers") if gaining.size <= others.size else (others, "all but layers")
        names = (
            f" ({words} {', '.join(str(trace.layer_ids[layer]) for layer in named)})" if 0 < named.size <= _MOST_NAMED else ""
        )
        out.print(f"  {before.slots} to {score.slots}: {gaining.size} of {trace.num_layers}{names}", soft_wrap=True)


def _show_spending(scores: list[RedundancyScore], spendings: list[SlotSpending]) -> None:
    """Say what unequal budgets give at the knee, or a step above where that has no slots to share out."""
    knee = next(score.slots for score in scores if score.is_knee)
    shared_out = max(knee, scores[1].slots)
    for spent in spendings:
        if spent.uniform_slots == shared_out:
            each, layers = np.unique(spent.slots_of_layer, return_counts=True)
            shares = ", ".join(f"{count} x {slots}" for slots, count in zip(each, layers, strict=True))
            out.print(f"Unequal layers in the memory of {shared_out} slots each: {shares}.", soft_wrap=True)
            out.print(_held_out(spent), soft_wrap=True)


def _held_out(spent: SlotSpending) -> str:
    if spent.held_out is None or spent.held_out_uniform is None:
        return "What they bring takes three windows or more to say."
    rise, error = spent.held_out - spent.held_out_uniform, spent.held_out_error or 0.0
    verdict = "they pay" if rise > error else "no gain beyond noise: keep layers equal"
    return (
        f"Chosen on the first half of the windows, scored on the other {spent.held_out_windows}: {percent(spent.held_out)}, "
        f"equal layers {percent(spent.held_out_uniform)} ({100 * rise:+.2f} points, error {100 * error:.2f}); {verdict}."
    )


def _gaining(score: RedundancyScore) -> npt.NDArray[np.int64]:
    return np.flatnonzero(score.gain > _LEAST_GAIN)


def _spending(spent: SlotSpending) -> dict[str, object]:
    names = ("uniform_slots", "slots_of_layer", "total_slots", "held_out_windows", "held_out", "held_out_uniform")
    return {name: getattr(spent, name) for name in (*names, "held_out_error")}
