"""``equipoise plan``: a placement for a recorded load."""

from __future__ import annotations

from dataclasses import asdict, replace
from time import perf_counter
from typing import Annotated, Any

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
from equipoise.cli.output import counted, err, out, percent, print_json, say, table, working
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
from equipoise.cli.proofs import check_provable, prove_layers_of, show_proofs
from equipoise.cli.redundancy import suggest_slots
from equipoise.cli.report import THIS_PLAN, check_page, command_line, write_report, writing_of_plan
from equipoise.cli.selecting import Reading, read_part
from equipoise.cli.shaping import change_cluster, memory_of_expert, needed_cluster
from equipoise.cli.streams import STREAM, check_streams, shown, write_placement
from equipoise.cli.suggesting import clusters_to_weigh, read_windows, refuse_without_slots
from equipoise.cluster import Cluster
from equipoise.engines.starting import in_id_order
from equipoise.errors import ArgumentError
from equipoise.files.placements import (
    FORMATS,
    FoundPlacement,
    check_ending,
    check_writable,
    how_to_load,
)
from equipoise.forecasting.naming import make_forecaster
from equipoise.inspection import slots_taken_for_experts
from equipoise.placement import Placement
from equipoise.planning.planner import Plan
from equipoise.planning.planner import plan as make_plan
from equipoise.planning.problem import make_problem
from equipoise.planning.proving import LayerProof
from equipoise.planning.trading import trade_off
from equipoise.planning.warming import warm_up
from equipoise.reporting.asked import Asked, NamedPlacement
from equipoise.trace import LoadTrace


def plan(
    context: typer.Context,
    load: options.Load,
    ranks: options.RanksOrAsBefore = None,
    slots: options.SlotsOrAsBefore = None,
    nodes: options.NodesOrAsBefore = None,
    groups: options.Groups = 1,
    locality: options.Locality = "none",
    home_share: options.HomeShare = None,
    effort: Annotated[str, typer.Option(metavar="NAME", help="fast, default or best: how much is tried.")] = "default",
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
        str | None,
        typer.Option(metavar="NAME", help="ranks or nodes: what the replicas of --min-replicas each have of their own."),
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
        str,
        typer.Option(
            metavar="NAME", help="How batches will be split over replicas: equal, or optimal (by equipoise dispatch)."
        ),
    ] = "equal",
    seed: options.Seed = 0,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads over layers; the plan does not depend on it.")] = 1,
    out_file: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the placement: .json or .npz, what --for says, or - for standard output."
        ),
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
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page on LOAD and this plan (extra report), such as report.html.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Plan how many replicas each expert gets and which rank holds each.

    With --previous from the placement in use, with few moves; ranks, slots, nodes, speeds and ranks that are down are then its
    own where they are not given. Without --slots and --previous it plans nothing, and says how many slots pay.
    Example: equipoise plan load.npz --ranks 8
    Example: equipoise plan load.npz --ranks 8 --slots 40 --out placement.json
    Example: equipoise plan load.npz --previous placement.json --max-moves 4 --out next.json
    """
    quiet |= check_streams(load, previous, active, out_file=out_file, report=report, json=json)
    silent = quiet or json
    if ranks is not None and slots is None and previous is None:
        refuse_without_slots(context, locality, effort)
        windows, part = read_windows(Reading.of(file_format, model, active, in_order), load, window, last, quiet=silent)
        _note_slots(windows, quiet=quiet)
        _note_no_load(windows, quiet=quiet)
        clusters = clusters_to_weigh(windows.num_experts, ranks, nodes or 1, speeds or "", down or "", locality)
        size = memory_of_expert(expert_bytes, model)
        suggest_slots(windows, clusters, groups, locality, effort, size, part, json=json, quiet=quiet)
        return
    _check_target(out_file, for_engine)
    check_page(report, "--report")
    numbering = read_numbering(model, hidden_layers, layer_ids)
    constraints = read_constraints(home_share, min_replicas, hottest, spread)
    moving: dict[str, Any] = {"--max-moves": max_moves, "--move-total": move_total, "--move-bytes": move_bytes}
    moving |= {"--expert-bytes": expert_bytes, "--gain-per-move": gain_per_move}
    budget = read_budget(moving, has_previous=previous is not None)
    if curve and previous is None:
        raise ArgumentError("--curve without --previous", "it shows what moves from a placement buy", "add --previous")
    asks_for_replicas = constraints is not None and constraints.asks_for_replicas
    check_provable(prove, prove_layers, {"--previous": previous is not None, "--min-replicas": asks_for_replicas})
    reading = Reading(file_format, numbering.num_experts, numbering.layer_ids, active, in_order)
    in_use = None if previous is None else reading.placement(previous, ranks)
    cluster = _cluster(in_use, ranks, slots, nodes, speeds, down)
    whole, whole_part = read_part(load, window, last, quiet=silent, reading=reading)
    _note_slots(whole, quiet=quiet)
    trace, part = _to_plan_for(whole, whole_part, window, forecast)
    make_problem(trace, cluster, groups, locality)  # says what is wrong before seconds go into compiling
    if in_use is not None:
        in_use.fitting_load(trace)
    _note_no_load(trace, quiet=quiet)
    to_write = None if out_file is None else _to_write(for_engine or "json", numbering, trace, cluster)
    with working("compiling, once a machine", quiet=silent):
        warm_up(everything=False, dispatch=dispatch, goes_on=in_use is not None or asks_for_replicas)
    how: dict[str, Any] = {"num_groups": groups, "locality": locality, "effort": effort, "dispatch": dispatch}
    how["num_threads"] = threads
    start = perf_counter()
    with working("planning", quiet=silent):
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
        result, proofs = prove_layers_of(result, prove_layers, prove_seconds, quiet=silent)
    summary = _summary(trace, result, in_use, seconds, forecast)
    summary |= {"unconstrained_balancedness": result.unconstrained_balancedness, "proofs": [asdict(proof) for proof in proofs]}
    found = None
    if in_use is not None:
        summary |= summarise_moves(trace, result, in_use, budget.expert_bytes)
        if curve:
            found = trade_off(result.load, cluster, in_use, constraints=constraints, **how)
            summary["curve"] = summarise_curve(trace, found)
    if out_file is not None and to_write is not None:
        summary |= _write(out_file, for_engine, to_write, result, summary)
    if report is not None:
        numbers_given = {"--model": model, "--hidden-layers": hidden_layers, "--layer-ids": layer_ids or None}
        asked = Asked(
            **{name: value for name, value in how.items() if name != "num_threads"},
            seed=seed,
            expert_bytes=memory_of_expert(expert_bytes, model),
            engine=for_engine,
            hidden_layers=numbering.hidden_layers,
            name=shown(load),
            command=command_line(),
            steps=whole_part,
            writing=writing_of_plan(out_file, for_engine, numbers_given),
        )
        made = NamedPlacement(THIS_PLAN, result.placement, is_planned=forecast is None and window is None)
        before = [] if in_use is None else [NamedPlacement(shown(str(previous)), in_use)]
        write_report(report, whole, [*before, made], asked, quiet=silent)
        summary["report"] = report
    if json:
        print_json(summary)
    elif not quiet:
        _show(part, result, in_use, summary)
        if constraints is not None and asks_for_replicas:
            show_price(constraints, result.balancedness, result.unconstrained_balancedness)
        if found is not None:
            show_curve(found)
        show_proofs(proofs)
        show_written(summary)
        if report is not None:
            say(f"report written to {report}")


def _check_target(out_file: str | None, for_engine: str | None) -> None:
    """Refuse a format without a file, and a file whose ending the format's program would not take."""
    if out_file is None:
        if for_engine is not None:
            raise ArgumentError(f"--for {for_engine} without --out", "it says how the placement is written", "add --out FILE")
        return
    check_format("--for", for_engine)
    if out_file != STREAM:
        check_ending(out_file, for_engine or "json")


def _to_plan_for(whole: LoadTrace, part: str, window: int | None, forecast: str | None) -> tuple[LoadTrace, str]:
    """Return the steps that a plan is made for, or that a forecast is made from; and say so in words."""
    if forecast is not None:
        make_forecaster(forecast)
        return whole, f"the forecast {forecast} from {part}"
    return (whole, part) if window is None else (whole.last(1), f"the last of {part}")


def _cluster(
    in_use: Placement | None, ranks: int | None, slots: int | None, nodes: int | None, speeds: str | None, down: str | None
) -> Cluster:
    if in_use is not None:
        return change_cluster(in_use.cluster, ranks, slots, nodes, speeds, down)
    return needed_cluster(ranks, slots, nodes, speeds, down, instead="the --previous placement")


def _to_write(name: str, numbering: Numbering, trace: LoadTrace, cluster: Cluster) -> FoundPlacement:
    """Return what will be written, but for the plan; refuse what the format cannot hold before seconds go into planning."""
    numbers = numbering.merged(trace.layer_ids, trace.num_experts)
    layer_ids = numbers.layer_ids or (trace.layer_ids if name == "json" else ())
    found = in_id_order(cluster, trace.num_layers, trace.num_experts).as_found(layer_ids, numbers.hidden_layers)
    check_writable(name, found)
    return found


def _write(
    path: str, for_engine: str | None, to_write: FoundPlacement, result: Plan, summary: dict[str, object]
) -> dict[str, object]:
    """Write the placement with what is known of the plan; return where, and how an engine loads it."""
    known = {key: summary[key] for key in ("balancedness", "bound", "gap", "locality", "is_reproducible")}
    written = replace(to_write, expert_of_slot=result.placement.expert_of_slot, plan=known)
    write_placement(path, for_engine or "json", written)
    if for_engine is None:
        return {"out": path}
    return {"out": path, "load_with": how_to_load(path, for_engine, written)}


def _summary(
    trace: LoadTrace, result: Plan, in_use: Placement | None, seconds: float, forecast: str | None
) -> dict[str, object]:
    placement, cluster = result.placement, result.placement.cluster
    bound = float(result.bound.sum())
    before = float("nan"), float("nan")
    if result.num_loads == 1:
        start = in_use or in_id_order(cluster, placement.num_layers, placement.num_experts)
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


def _note_slots(trace: LoadTrace, *, quiet: bool) -> None:
    """Say on stderr, beside JSON too, where what is planned as experts may be slots."""
    if not quiet and (finding := slots_taken_for_experts(trace)) is not None:
        err.print(f"note: {finding}", soft_wrap=True)


def _note_no_load(trace: LoadTrace, *, quiet: bool) -> None:
    """Say on stderr, beside JSON too, where perfect balance means that there is nothing to balance."""
    empty = int((trace.sum().sum(axis=1) == 0).sum())
    if not quiet and empty:
        which = "any layer" if empty == trace.num_layers else f"{empty} of {trace.num_layers} layers"
        err.print(f"note: no load at all in {which}: 100 % says nothing there; see equipoise inspect", soft_wrap=True)


def _show(part: str, result: Plan, in_use: Placement | None, summary: dict[str, object]) -> None:
    placement = result.placement
    cluster = placement.cluster
    dead = cluster.num_ranks - sum(cluster.alive)
    out.print(
        f"{counted(placement.num_layers, 'layer')} of {counted(placement.num_experts, 'expert')} on "
        f"{counted(cluster.num_ranks, 'rank')}{f' ({dead} down)' if dead else ''} "
        f"with {counted(cluster.num_slots, 'slot')}, locality {result.locality}; planned on {part}",
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
    return f"the previous placement, on its {counted(sum(before.alive), 'rank')}"


def _number(summary: dict[str, object], key: str) -> float:
    value = summary[key]
    assert isinstance(value, float)
    return value
