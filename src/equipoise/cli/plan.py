"""``equipoise plan``: a placement for a recorded load."""

from __future__ import annotations

from dataclasses import asdict, replace
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from equipoise import metrics
from equipoise.cli import options
from equipoise.cli.numbering import (
    HiddenLayers,
    LayerIds,
    Model,
    Numbering,
    check_format,
    read_numbering,
    show_written,
)
from equipoise.cli.output import out, percent, print_json, progress_bar, table, working
from equipoise.cli.previous import (
    balance_before,
    read_budget,
    read_constraints,
    show_curve,
    show_moves,
    show_price,
    summarise_curve,
    summarise_moves,
)
from equipoise.cli.selecting import Reading, read_part
from equipoise.cli.shaping import change_cluster, make_cluster, whole_numbers
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.files.placements import (
    FORMATS,
    FoundPlacement,
    check_ending,
    check_writable,
    how_to_load,
    write_as,
)
from equipoise.forecasting.naming import make_forecaster
from equipoise.placement import ABSENT, Placement
from equipoise.planning.exact import check_solver
from equipoise.planning.planner import Plan
from equipoise.planning.planner import plan as make_plan
from equipoise.planning.problem import make_problem
from equipoise.planning.proving import WORST, LayerProof
from equipoise.planning.proving import prove as prove_plan
from equipoise.planning.trading import trade_off
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace


def plan(
    load: options.Load,
    ranks: options.RanksOrAsBefore = None,
    slots: options.SlotsOrAsBefore = None,
    nodes: options.NodesOrAsBefore = None,
    groups: options.Groups = 1,
    locality: options.Locality = "none",
    home_share: options.HomeShare = None,
    effort: Annotated[str, typer.Option(help="fast, default or best: how much is tried.")] = "default",
    speeds: options.SpeedsOrAsBefore = None,
    down: options.DownOrAsBefore = None,
    previous: Annotated[
        str | None,
        typer.Option(metavar="PLACEMENT", help="The placement in use, of any program, to be improved with few moves."),
    ] = None,
    max_moves: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Replicas that may move in each layer; with --previous.")
    ] = None,
    move_total: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Replicas that may move over all layers; they go where most is gained."),
    ] = None,
    move_bytes: Annotated[
        str | None, typer.Option(metavar="B", help="Bytes that may move over all layers, such as 1GB; with --expert-bytes.")
    ] = None,
    expert_bytes: options.ExpertBytes = None,
    gain_per_move: Annotated[
        float | None, typer.Option(metavar="X", help="Part of a layer's ideal time that a move must save. Default: 0.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Show what moves buy: balance against moves, the knee marked.")
    ] = False,
    min_replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Replicas that experts have at least, each on a rank of its own.")
    ] = 1,
    hottest: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Part of each layer's experts that --min-replicas is for. Default: 1.")
    ] = None,
    spread: Annotated[
        str | None, typer.Option(help="ranks or nodes: what the replicas of --min-replicas each have of their own.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Plan for the last full window of W steps, counted from the first.")
    ] = None,
    last: options.Last = None,
    file_format: options.FileFormat = "auto",
    active: options.Active = None,
    in_order: options.InOrder = False,
    forecast: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Plan for what past steps (or windows) say of the next: last, mean:8, auto, ..."),
    ] = None,
    dispatch: Annotated[
        str, typer.Option(help="How batches will be split over replicas: equal, or optimal (by equipoise dispatch).")
    ] = "equal",
    seed: options.Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads over layers; the plan does not depend on it.")] = 1,
    out_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write the placement: .json or .npz, or what --for says.")
    ] = None,
    for_engine: Annotated[
        str | None,
        typer.Option("--for", metavar="FORMAT", help=f"What is to load --out: {', '.join(FORMATS)}. Default: json, our own."),
    ] = None,
    model: Model = None,
    hidden_layers: HiddenLayers = None,
    layer_ids: LayerIds = "",
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Prove or improve layers with an exact solver (extra exact); may not repeat."),
    ] = False,
    prove_layers: Annotated[
        str, typer.Option(metavar="L,...", help="Positions of the layers to prove. Default: the three with the largest gap.")
    ] = "",
    prove_seconds: Annotated[float, typer.Option(metavar="S", help="Time for each layer that is proven.")] = 30.0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Plan how many replicas each expert gets and which rank holds each.

    With --previous from the placement in use, with few moves; ranks, slots, nodes, speeds and ranks that are down are then its
    own where they are not given. Example: equipoise plan load.npz --previous placement.json --max-moves 8 --out next.json
    """
    if out_file is not None:
        check_format("--for", for_engine)
        check_ending(out_file, for_engine or "json")
    elif for_engine is not None:
        raise ArgumentError(f"--for {for_engine} without --out", "it says how the placement is written", "add --out FILE")
    numbering = read_numbering(model, hidden_layers, layer_ids)
    constraints = read_constraints(home_share, min_replicas, hottest, spread)
    moving: dict[str, Any] = {"--max-moves": max_moves, "--move-total": move_total, "--move-bytes": move_bytes}
    moving |= {"--expert-bytes": expert_bytes, "--gain-per-move": gain_per_move}
    budget = read_budget(moving, has_previous=previous is not None)
    if curve and previous is None:
        raise ArgumentError("--curve without --previous", "it shows what moves from a placement buy", "add --previous")
    asks_for_replicas = constraints is not None and constraints.asks_for_replicas
    if prove:
        _refuse_unprovable({"--previous": previous is not None, "--min-replicas": asks_for_replicas})
        check_solver()
    elif prove_layers:
        raise ArgumentError("--prove-layers without --prove", "it says which layers to prove", "add --prove")
    reading = Reading(file_format, numbering.num_experts, numbering.layer_ids, active, in_order)
    in_use = None if previous is None else reading.placement(previous, ranks)
    cluster = _cluster(in_use, ranks, slots, nodes, speeds, down)
    trace, part = read_part(load, window, last, quiet=quiet or json, reading=reading)
    if forecast is not None:
        make_forecaster(forecast)
        part = f"the forecast {forecast} from {part}"
    elif window is not None:
        trace, part = trace.last(1), f"the last of {part}"
    make_problem(trace, cluster, groups, locality)  # says what is wrong before seconds go into compiling
    if in_use is not None:
        in_use.fitting_load(trace)
    to_write = None if out_file is None else _to_write(for_engine or "json", numbering, trace, cluster)
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up(everything=False, dispatch=dispatch, goes_on=in_use is not None or asks_for_replicas)
    how: dict[str, Any] = {"num_groups": groups, "locality": locality, "effort": effort, "dispatch": dispatch}
    how["num_threads"] = threads
    start = perf_counter()
    result = make_plan(
        trace,
        cluster,
        constraints=constraints,
        forecast=forecast,
        previous=in_use,
        budget=None if in_use is None else budget,
        seed=seed,
        **how,
    )
    seconds = perf_counter() - start
    proofs: tuple[LayerProof, ...] = ()
    if prove:
        result, proofs = _proven(result, whole_numbers("--prove-layers", prove_layers), prove_seconds, quiet=quiet or json)
    summary = _summary(trace, result, in_use, seconds, forecast)
    summary |= {"unconstrained_balancedness": result.unconstrained_balancedness, "proofs": [asdict(proof) for proof in proofs]}
    found = None
    if in_use is not None:
        summary |= summarise_moves(trace, result, in_use, budget.expert_bytes)
        if curve:
            found = trade_off(result.load, cluster, in_use, constraints=constraints, **how)
            summary["curve"] = summarise_curve(trace, found)
    if out_file is not None and to_write is not None:
        known = {key: summary[key] for key in ("balancedness", "bound", "gap", "locality", "is_reproducible")}
        written = replace(to_write, expert_of_slot=result.placement.expert_of_slot, plan=known)
        write_as(out_file, for_engine or "json", written)
        summary["out"] = out_file
        if for_engine is not None:
            summary["load_with"] = how_to_load(out_file, for_engine, written)
    if json:
        print_json(summary)
    elif not quiet:
        _show(part, result, in_use, summary)
        if constraints is not None and asks_for_replicas:
            show_price(constraints, result.balancedness, result.unconstrained_balancedness)
        if found is not None:
            show_curve(found)
        _show_proofs(proofs)
        show_written(summary)


def _proven(result: Plan, layers: list[int], seconds: float, *, quiet: bool) -> tuple[Plan, tuple[LayerProof, ...]]:
    total = len(layers) if layers else min(WORST, result.placement.num_layers)
    with progress_bar("proving", total, quiet=quiet) as advance:
        return prove_plan(result, result.load, layers=layers or None, seconds=seconds, progress=advance)


def _refuse_unprovable(asked: dict[str, bool]) -> None:
    for option, is_given in asked.items():
        if is_given:
            raise ArgumentError(
                f"--prove with {option}", "an exact solver counts neither moves nor replicas", f"leave {option} or --prove out"
            )


def _cluster(
    in_use: Placement | None, ranks: int | None, slots: int | None, nodes: int | None, speeds: str | None, down: str | None
) -> Cluster:
    if in_use is not None:
        return change_cluster(in_use.cluster, ranks, slots, nodes, speeds, down)
    for option, value in (("--ranks", ranks), ("--slots", slots)):
        if value is None:
            raise ArgumentError(
                f"Missing option '{option}'", "a plan is for ranks with slots", "give it, or the --previous placement"
            )
    assert ranks is not None
    assert slots is not None
    return make_cluster(ranks, slots, nodes or 1, speeds or "", down or "")


def _to_write(name: str, numbering: Numbering, trace: LoadTrace, cluster: Cluster) -> FoundPlacement:
    """Return what will be written, but for the plan; refuse what the format cannot hold before seconds go into planning."""
    numbers = numbering.merged(trace.layer_ids, trace.num_experts)
    layer_ids = numbers.layer_ids or (trace.layer_ids if name == "json" else ())
    found = _in_id_order(cluster, trace.num_layers, trace.num_experts).as_found(layer_ids, numbers.hidden_layers)
    check_writable(name, found)
    return found


def _in_id_order(cluster: Cluster, num_layers: int, num_experts: int) -> Placement:
    """Return what engines start from: slot s holds expert s, and the spare slots experts 0, 1, 2, ... once more."""
    up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    experts = np.full(cluster.num_slots, ABSENT)
    experts[up] = np.arange(up.sum()) % num_experts
    return Placement(np.tile(experts, (num_layers, 1)), cluster, num_experts)


def _summary(
    trace: LoadTrace, result: Plan, in_use: Placement | None, seconds: float, forecast: str | None
) -> dict[str, object]:
    placement, cluster = result.placement, result.placement.cluster
    bound = float(result.bound.sum())
    before = float("nan"), float("nan")
    if result.num_loads == 1:
        start = in_use or _in_id_order(cluster, placement.num_layers, placement.num_experts)
        before = balance_before(result, start)
    return {
        "balancedness": result.balancedness,
        "balancedness_before": before[0],
        "worst_layer_before": before[1],
        "worst_layer": result.worst_layer,
        "p5_layer": result.fifth_percentile,
        "scored": "in-sample" if forecast is None else f"forecast {forecast}",
        "bound": bound,
        "gap": float(result.largest.sum()) / bound - 1.0 if bound > 0 else 0.0,
        "best_possible_balancedness": metrics.balancedness(result.bound, result.ideal),
        "seconds": seconds,
        "layers": placement.num_layers,
        "ranks": cluster.num_ranks,
        "slots": cluster.num_slots,
        "nodes": cluster.num_nodes,
        "experts": placement.num_experts,
        "groups": result.num_groups,
        "locality": result.locality,
        "effort": result.effort,
        "dispatch": result.dispatch,
        "is_reproducible": result.is_reproducible,
        "home_share": float(result.home_share.min()),
        "strict_balancedness": result.strict_balancedness,
        "per_layer": {
            "layer_id": trace.layer_ids,
            "balancedness": metrics.layer_balancedness(result.largest, result.ideal),
            "largest": result.largest,
            "bound": result.bound,
            "gap": result.gap,
            "home_share": result.home_share,
            "moves": result.moves,
        },
    }


def _show(part: str, result: Plan, in_use: Placement | None, summary: dict[str, object]) -> None:
    placement = result.placement
    cluster = placement.cluster
    dead = cluster.num_ranks - sum(cluster.alive)
    out.print(
        f"{placement.num_layers} layers of {placement.num_experts} experts on {cluster.num_ranks} ranks"
        f"{f' ({dead} down)' if dead else ''} with {cluster.num_slots} slots, locality {result.locality}; planned on {part}",
        soft_wrap=True,
    )
    scored = str(summary["scored"])
    on = "the load planned for (in-sample)" if scored == "in-sample" else f"the {scored}, not on any load"
    name = "slots in id order" if in_use is None else _name(in_use.cluster, cluster)
    figures = [percent(_number(summary, f"{figure}_before")) for figure in ("balancedness", "worst_layer")]
    under = "" if result.dispatch == "equal" else f", under {result.dispatch} dispatch"
    table(
        f"Balancedness on {on}{under}: mean over largest rank load, 100 % is perfect",
        ["placement", "all layers", "worst layer"],
        [
            *([[f"before: {name}", *figures]] if result.num_loads == 1 else []),
            ["after: this plan", percent(result.balancedness), percent(result.worst_layer)],
            ["proven limit", percent(_number(summary, "best_possible_balancedness")), ""],
        ],
    )
    if result.locality == "soft":
        out.print(
            f"at least {percent(_number(summary, 'home_share'))} of each layer's load is served on its home node; "
            f"strict locality would reach {percent(result.strict_balancedness)}",
            soft_wrap=True,
        )
    slack = 100 * _number(summary, "gap")
    out.print(f"within {slack:.3f} % of the proven limit; planned in {1e3 * _number(summary, 'seconds'):.1f} ms")
    if in_use is not None:
        show_moves(summary)


def _name(before: Cluster, now: Cluster) -> str:
    """Name the previous placement, and the ranks its balance is on where these were others."""
    if (before.num_ranks, before.alive) == (now.num_ranks, now.alive):
        return "the previous placement"
    return f"the previous placement, on its {sum(before.alive)} ranks"


def _show_proofs(proofs: tuple[LayerProof, ...]) -> None:
    if not proofs:
        return
    table(
        "Proofs by an exact solver, stopped by the clock: another run may find more or less",
        ["layer", "gap before", "gap now", "bound rose by", "rank load fell by", ""],
        [
            [
                str(proof.layer),
                percent(_rise(proof.bound_before, proof.largest_before)),
                percent(proof.gap),
                percent(_rise(proof.bound_before, proof.bound)),
                percent(-_rise(proof.largest_before, proof.largest)),
                "optimal" if proof.is_optimal else "open",
            ]
            for proof in proofs
        ],
    )


def _rise(before: float, now: float) -> float:
    return now / before - 1.0 if before > 0 else 0.0


def _number(summary: dict[str, object], key: str) -> float:
    value = summary[key]
    assert isinstance(value, float)
    return value
