"""``equipoise compare``: packings, degrees of locality or slots counts side by side on the same load."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.output import out, percent, print_json, progress_bar, table, working
from equipoise.cli.selecting import read_part
from equipoise.cli.shaping import byte_size, counts, make_cluster, numbers
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.planning.comparing import (
    HOME_SHARES,
    DialScore,
    PackingScore,
    compare_locality,
    compare_packings,
    expand_variants,
)
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.problem import even_slots, make_problem
from equipoise.planning.redundancy import RedundancyScore, SlotSpending, score_redundancy, spend_slots, try_slots
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace

_PACKINGS = "lpt,lpt+swap,ensemble+swap,ensemble+reconstruct,lpt+best_swap,default"
_PACKING_HELP = "Constructors, alone or with +refiner; fast, default and best are what plan runs."
_LOCALITY_HELP = "none, strict, or curve (also --locality alone): balance against the share of load kept at home."
_SLOTS_HELP = (
    "Places for replicas over all ranks; several weigh balance against memory. Default: one spare a rank or a little more."
)
CURVE = "curve"
_RANKS = 8
_OF_PACKINGS = ("packing", "noise", "candidates", "rounds", "seed")
_OF_SLOTS = ("effort", "expert_bytes")
_LEAST_GAIN = 0.01
_MOST_NAMED = 8


def compare(
    context: typer.Context,
    load: options.Load,
    packing: Annotated[str, typer.Option(metavar="NAME,...", help=_PACKING_HELP)] = _PACKINGS,
    noise: Annotated[str, typer.Option(metavar="W,...", help="Widths of noise, for noisy_lpt and ensemble.")] = "0.1",
    ranks: options.Ranks = _RANKS,
    slots: Annotated[str | None, typer.Option(metavar="N,...", help=_SLOTS_HELP)] = None,
    expert_bytes: options.ExpertBytes = None,
    effort: Annotated[str, typer.Option(help="fast, default or best: how much is tried; with several --slots.")] = "default",
    nodes: options.Nodes = 1,
    groups: options.Groups = 1,
    locality: Annotated[str, typer.Option(help=_LOCALITY_HELP)] = "none",
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Pack every window of W steps, and score it on the next one too.")
    ] = None,
    last: options.Last = None,
    candidates: Annotated[int, typer.Option(min=1, help="Packings an ensemble builds.")] = 128,
    rounds: Annotated[int | None, typer.Option(min=0, help="Rounds of a refiner. Default: as published.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare packings, the published ones among them, or with several --slots what redundancy is worth."""
    silent = quiet or json
    slot_counts = [] if slots is None else counts("--slots", slots)
    _refuse_mixed(context, slot_counts)
    size = None if expert_bytes is None else byte_size("--expert-bytes", expert_bytes)
    names, noises = _names(packing), numbers("--noise", noise)
    trace, part = read_part(load, window, last, quiet=silent)
    if window is None:
        trace = LoadTrace(trace.sum(), trace.layer_ids)
    if len(slot_counts) > 1:
        check_choice("locality", locality, ("none", "strict"))
        check_choice("effort", effort, tuple(EFFORTS))
        clusters = [make_cluster(ranks, even_slots(count, ranks, trace.num_experts) * ranks, nodes) for count in slot_counts]
        _compare_redundancy(trace, clusters, groups, locality, effort, size, part, json=json, quiet=quiet)
        return
    cluster = make_cluster(ranks, slot_counts[0] if slot_counts else _default_slots(trace.num_experts, ranks), nodes)
    check_choice("locality", locality, ("none", "strict", CURVE))
    if locality == CURVE:
        _compare_locality(trace, cluster, groups, part, json=json, quiet=quiet)
        return
    make_problem(trace, cluster, groups, locality)
    with working("compiling, once a machine", quiet=silent):
        warm_up()
    with progress_bar("packing", len(expand_variants(names, noises)) * trace.num_steps, quiet=silent) as advance:
        scores = compare_packings(
            trace,
            cluster,
            names,
            noises=noises,
            num_groups=groups,
            locality=locality,
            candidates=candidates,
            rounds=rounds,
            seed=seed,
            progress=advance,
        )
    if json:
        setting = {"ranks": ranks, "slots": cluster.num_slots, "nodes": nodes, "groups": groups, "locality": locality}
        shape = {"layers": trace.num_layers, "experts": trace.num_experts, "windows": trace.num_steps}
        print_json({**setting, **shape, "results": [asdict(score) for score in scores]})
    elif not quiet:
        out.print(
            f"{trace.num_layers} layers of {trace.num_experts} experts on {ranks} ranks with {cluster.num_slots} slots, "
            f"locality {locality}; planned on {part}",
            soft_wrap=True,
        )
        _show(scores)


def _show(scores: list[PackingScore]) -> None:
    table(
        "Balancedness: mean over largest rank load, 100 % is perfect",
        ["packing", "noise", "in-sample", "worst layer", "next window", "ms"],
        [
            [
                score.packing,
                "" if score.noise is None else f"{score.noise:g}",
                percent(score.balancedness),
                percent(score.worst_layer),
                "" if score.next_window is None else percent(score.next_window),
                f"{score.milliseconds:.2f}",
            ]
            for score in scores
        ],
    )


def _compare_locality(trace: LoadTrace, cluster: Cluster, groups: int, part: str, *, json: bool, quiet: bool) -> None:
    if cluster.num_nodes == 1:
        raise ArgumentError("the locality curve on 1 node", "all load is at home there", "say --nodes and --groups")
    make_problem(trace, cluster, groups, "soft")
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    with progress_bar("planning", (len(HOME_SHARES) + 2) * trace.num_steps, quiet=quiet or json) as advance:
        scores = compare_locality(trace, cluster, groups, progress=advance)
    if json:
        setting = {"ranks": cluster.num_ranks, "slots": cluster.num_slots, "nodes": cluster.num_nodes, "groups": groups}
        print_json({**setting, "windows": trace.num_steps, "results": [asdict(score) for score in scores]})
    elif not quiet:
        out.print(
            f"{trace.num_layers} layers of {trace.num_experts} experts in {groups} groups on {cluster.num_ranks} ranks of "
            f"{cluster.num_nodes} nodes with {cluster.num_slots} slots; planned on {part}",
            soft_wrap=True,
        )
        _show_curve(scores)


def _show_curve(scores: list[DialScore]) -> None:
    table(
        "What keeping load on its groups' home nodes costs; in-sample",
        ["locality", "home share kept", "balancedness", "worst layer", "ms"],
        [
            [
                score.locality,
                percent(score.home_share),
                percent(score.balancedness),
                percent(score.worst_layer),
                f"{score.milliseconds:.2f}",
            ]
            for score in scores
        ],
    )


def _compare_redundancy(
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
    for cluster in clusters:
        make_problem(trace, cluster, groups, locality)
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    with progress_bar("planning", len(clusters) * trace.num_steps, quiet=quiet or json) as advance:
        trials = try_slots(trace, clusters, num_groups=groups, locality=locality, effort=effort, progress=advance)
    scores = score_redundancy(trials, expert_bytes=expert_bytes)
    several = trace.num_steps > 1
    spendings = [spend_slots(trials, score.slots) for score in scores[1:]] if several else []
    ranks, nodes = clusters[0].num_ranks, clusters[0].num_nodes
    if json:
        setting = {"ranks": ranks, "nodes": nodes, "groups": groups, "locality": locality, "effort": effort}
        shape = {"layers": trace.num_layers, "experts": trace.num_experts, "windows": trace.num_steps}
        judged = {"scored": "next-window" if several else "in-sample", "layer_ids": trace.layer_ids}
        results = [{**asdict(score), "layers_that_gain": _gaining(score).size} for score in scores]
        print_json({**setting, **shape, **judged, "results": results, "unequal": [_spending(spent) for spent in spendings]})
    elif not quiet:
        out.print(
            f"{trace.num_layers} layers of {trace.num_experts} experts on {ranks} ranks, locality {locality}, effort {effort}; "
            f"planned on {part}",
            soft_wrap=True,
        )
        _show_redundancy(scores)
        _show_layers(scores, trace, "next window" if several else "load planned for")
        _show_spending(scores, spendings)


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


def _refuse_mixed(context: typer.Context, slot_counts: list[int]) -> None:
    """Refuse options of packings beside several slots counts, and options of slots counts without."""
    several = len(slot_counts) > 1
    for name in _OF_PACKINGS if several else _OF_SLOTS:
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT":
            continue
        option = f"--{name.replace('_', '-')}"
        if several:
            raise ArgumentError(
                f"{option} with {len(slot_counts)} slots counts",
                "several weigh redundancy with plan() itself, not packings",
                f"leave {option} out, or give one number of slots",
            )
        raise ArgumentError(
            f"{option} without several slots counts", "it goes with --slots 256,288,320", f"leave {option} out, or name several"
        )


def _default_slots(num_experts: int, ranks: int) -> int:
    """One spare slot a rank beyond the experts, rounded up to a multiple of ranks; none where ranks hold all experts."""
    return min(-(-num_experts // ranks) + 1, num_experts) * ranks


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
