"""``equipoise compare``: packings, degrees of locality or slots counts side by side on the same load."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.catalogue import CURVE
from equipoise.cli.chains import show_chains
from equipoise.cli.output import counted, out, percent, print_json, progress_bar, table, working
from equipoise.cli.redundancy import compare_redundancy
from equipoise.cli.selecting import Reading, read_part, read_policy
from equipoise.cli.shaping import byte_size, counts, make_cluster, numbers
from equipoise.cli.streams import check_streams
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
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace

_PACKINGS = "lpt,lpt+swap,ensemble+swap,ensemble+reconstruct,lpt+best_swap,default"
_PACKING_HELP = "Constructors, alone or with +refiner; fast, default and best are what plan runs."
_LOCALITY_HELP = "none, strict, or curve (also --locality alone): balance against the share of load kept at home."
_SLOTS_HELP = (
    "Places for replicas over all ranks; several weigh balance against memory. Default: one spare a rank or a little more."
)
_RANKS = 8
_OF_PACKINGS = ("packing", "noise", "candidates", "rounds", "seed")
_OF_SLOTS = ("effort", "expert_bytes")
_OF_CHAINS = ("policy", "level", "dispatch")
_OF_VARIANTS = ("noise", "candidates", "rounds")


def compare(
    context: typer.Context,
    load: options.Load,
    packing: Annotated[str, typer.Option(metavar="NAME,...", help=_PACKING_HELP)] = _PACKINGS,
    noise: Annotated[str, typer.Option(metavar="W,...", help="Widths of noise, for noisy_lpt and ensemble.")] = "0.1",
    ranks: options.Ranks = _RANKS,
    slots: Annotated[str | None, typer.Option(metavar="N,...", help=_SLOTS_HELP)] = None,
    expert_bytes: options.ExpertBytes = None,
    effort: Annotated[
        str, typer.Option(metavar="NAME", help="fast, default or best: how much is tried; with several --slots.")
    ] = "default",
    nodes: options.Nodes = 1,
    groups: options.Groups = 1,
    locality: Annotated[str, typer.Option(metavar="NAME", help=_LOCALITY_HELP)] = "none",
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Pack every window of W steps, and score it on the next one too.")
    ] = None,
    last: options.Last = None,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say where balance is lost: bounds, locality, packing, forecast, dispatch.")
    ] = False,
    policy: options.Policies = None,
    level: Annotated[
        str, typer.Option(metavar="NAME,...", help="rank, slot or rank,slot: what the largest is taken of; with --explain.")
    ] = "rank",
    dispatch: options.Dispatch = "equal",
    candidates: Annotated[int, typer.Option(min=1, metavar="N", help="Packings an ensemble builds.")] = 128,
    rounds: Annotated[int | None, typer.Option(min=0, metavar="N", help="Rounds of a refiner. Default: as published.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare packings, the published ones among them; several --slots; or, with --explain, where policies lose balance.

    Example: equipoise compare load.npz --ranks 8 --slots 40
    Example: equipoise compare load.npz --ranks 8 --slots 40 --window 1 --explain
    """
    silent = quiet or json
    check_streams(load, active)
    slot_counts = [] if slots is None else counts("--slots", slots)
    _refuse_mixed(context, slot_counts, explain)
    size = None if expert_bytes is None else byte_size("--expert-bytes", expert_bytes)
    names, noises = _names(packing), numbers("--noise", noise)
    reading = Reading.of(file_format, model, active, in_order)
    trace, part = read_part(load, window, last, quiet=silent, reading=reading)
    if window is not None:
        trace.check_order("windows scored on the next one")
    if explain:
        cluster = make_cluster(ranks, slot_counts[0] if slot_counts else _default_slots(trace.num_experts, ranks), nodes)
        policies = [
            read_policy(text, ranks, reading, num_groups=groups, locality=locality)
            for text in policy or _policies(context, names)
        ]
        show_chains(trace, cluster, policies, _names(level), dispatch, groups, locality, seed, json=json, quiet=quiet)
        return
    if window is None:
        trace = LoadTrace(trace.sum(), trace.layer_ids)
    if len(slot_counts) > 1:
        check_choice("locality", locality, ("none", "strict"))
        check_choice("effort", effort, tuple(EFFORTS))
        clusters = [make_cluster(ranks, even_slots(count, ranks, trace.num_experts) * ranks, nodes) for count in slot_counts]
        compare_redundancy(trace, clusters, groups, locality, effort, size, part, json=json, quiet=quiet)
        return
    cluster = make_cluster(ranks, slot_counts[0] if slot_counts else _default_slots(trace.num_experts, ranks), nodes)
    check_choice("locality", locality, ("none", "strict", CURVE))
    if locality == CURVE:
        _compare_locality(trace, cluster, groups, part, json=json, quiet=quiet)
        return
    how = {"noises": noises, "candidates": candidates, "rounds": rounds, "seed": seed}
    _compare_packings(trace, cluster, names, groups, locality, how, part, json=json, quiet=quiet)


def _compare_packings(
    trace: LoadTrace,
    cluster: Cluster,
    names: list[str],
    groups: int,
    locality: str,
    how: dict[str, Any],
    part: str,
    *,
    json: bool,
    quiet: bool,
) -> None:
    make_problem(trace, cluster, groups, locality)
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    steps = len(expand_variants(names, how["noises"])) * trace.num_steps
    with progress_bar("packing", steps, quiet=quiet or json) as advance:
        scores = compare_packings(trace, cluster, names, num_groups=groups, locality=locality, **how, progress=advance)
    if json:
        setting = {"ranks": cluster.num_ranks, "slots": cluster.num_slots, "nodes": cluster.num_nodes, "groups": groups}
        shape = {"layers": trace.num_layers, "experts": trace.num_experts, "windows": trace.num_steps}
        print_json({**setting, "locality": locality, **shape, "results": [asdict(score) for score in scores]})
    elif not quiet:
        out.print(
            f"{counted(trace.num_layers, 'layer')} of {counted(trace.num_experts, 'expert')} on "
            f"{counted(cluster.num_ranks, 'rank')} with {counted(cluster.num_slots, 'slot')}, "
            f"locality {locality}; planned on {part}",
            soft_wrap=True,
        )
        _show(scores)


def _show(scores: list[PackingScore]) -> None:
    unseen = [score.next_window for score in scores if score.next_window is not None]
    table(
        "Balancedness: mean over largest rank load, 100 % is perfect",
        ["packing", "noise", "in-sample", "worst layer", *["next window"] * bool(unseen), "ms"],
        [
            [
                score.packing,
                "" if score.noise is None else f"{score.noise:g}",
                percent(score.balancedness),
                percent(score.worst_layer),
                *([] if score.next_window is None else [percent(score.next_window)]),
                f"{score.milliseconds:.2f}",
            ]
            for score in scores
        ],
    )
    out.print("worst layer: in-sample; noise: width of the random part; ms: to pack all layers once, median", soft_wrap=True)
    if not unseen:
        out.print("in-sample only: --window W scores the next window too", soft_wrap=True)


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
            f"{counted(trace.num_layers, 'layer')} of {counted(trace.num_experts, 'expert')} in {counted(groups, 'group')} on "
            f"{counted(cluster.num_ranks, 'rank')} of {counted(cluster.num_nodes, 'node')} with "
            f"{counted(cluster.num_slots, 'slot')}; planned on {part}",
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


def _refuse_mixed(context: typer.Context, slot_counts: list[int], explain: bool) -> None:
    """Refuse options that have no part in what is compared: packings, several slots counts, or chains."""
    several = len(slot_counts) > 1
    if explain and several:
        raise ArgumentError(f"--explain with {len(slot_counts)} slots counts", "a chain is for one", "say slots= in a --policy")
    if explain and options.is_given(context, "packing") and options.is_given(context, "policy"):
        raise ArgumentError("--packing and --policy with --explain", "both name what plans", "give one of them")
    unused = _OF_SLOTS + (_OF_VARIANTS if explain else _OF_CHAINS)
    for name in (*_OF_PACKINGS, *_OF_CHAINS) if several else unused:
        if not options.is_given(context, name):
            continue
        option = f"--{name.replace('_', '-')}"
        if name in _OF_VARIANTS and explain:
            raise ArgumentError(f"{option} with --explain", "packings are taken as published there", f"leave {option} out")
        if name in _OF_CHAINS:
            raise ArgumentError(f"{option} without --explain", "it goes with --explain", f"add it, or leave {option} out")
        if several:
            raise ArgumentError(
                f"{option} with {len(slot_counts)} slots counts",
                "several weigh redundancy with plan() itself, not packings",
                f"leave {option} out, or give one number of slots",
            )
        raise ArgumentError(
            f"{option} without several slots counts", "it goes with --slots 256,288,320", f"leave {option} out, or name several"
        )


def _policies(context: typer.Context, packings: list[str]) -> list[str]:
    """Return the policies to explain where none is named: the packings that are, planned for the last window, or ours."""
    if not options.is_given(context, "packing"):
        return ["last", "auto"]
    return [f"last,effort={name}" if name in EFFORTS else f"last,planner={name}" for name in packings]


def _default_slots(num_experts: int, ranks: int) -> int:
    """One spare slot a rank beyond the experts, rounded up to a multiple of ranks; none where ranks hold all experts."""
    return min(-(-num_experts // ranks) + 1, num_experts) * ranks


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
