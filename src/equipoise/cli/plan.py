"""``equipoise plan``: a placement for a recorded load."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import Annotated

import numpy as np
import typer

from equipoise import metrics
from equipoise.cli import options
from equipoise.cli.output import out, percent, print_json, progress_bar, table, working
from equipoise.cli.selecting import read_part
from equipoise.cli.shaping import make_cluster, whole_numbers
from equipoise.constraints import Constraints
from equipoise.dispatching.splitting import dispatch as split
from equipoise.errors import ArgumentError
from equipoise.files.placements import check_ending
from equipoise.forecasting.naming import make_forecaster
from equipoise.placement import ABSENT, Placement
from equipoise.planning.exact import check_solver
from equipoise.planning.planner import Plan
from equipoise.planning.planner import plan as make_plan
from equipoise.planning.problem import make_problem
from equipoise.planning.proving import WORST, LayerProof
from equipoise.planning.proving import prove as prove_plan
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace


def plan(
    load: options.Load,
    ranks: options.Ranks,
    slots: options.Slots,
    nodes: options.Nodes = 1,
    groups: options.Groups = 1,
    locality: options.Locality = "none",
    home_share: options.HomeShare = None,
    effort: Annotated[str, typer.Option(help="fast, default or best: how much is tried.")] = "default",
    speeds: options.Speeds = "",
    down: options.Down = "",
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Plan for the last full window of W steps, counted from the first.")
    ] = None,
    last: options.Last = None,
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
        str | None, typer.Option("--out", metavar="FILE", help="Write the placement, .json or .npz by its name.")
    ] = None,
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
    """Plan how many replicas each expert gets and which rank holds each."""
    if out_file is not None:
        check_ending(out_file)
    if prove:
        check_solver()
    elif prove_layers:
        raise ArgumentError("--prove-layers without --prove", "it says which layers to prove", "add --prove")
    trace, part = read_part(load, window, last, quiet=quiet or json)
    if forecast is not None:
        make_forecaster(forecast)
        part = f"the forecast {forecast} from {part}"
    elif window is not None:
        trace, part = trace.last(1), f"the last of {part}"
    cluster = make_cluster(ranks, slots, nodes, speeds, down)
    constraints = None if home_share is None else Constraints(home_share)
    make_problem(trace, cluster, groups, locality)  # says what is wrong before seconds go into compiling
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up(everything=False, dispatch=dispatch)
    start = perf_counter()
    result = make_plan(
        trace,
        cluster,
        num_groups=groups,
        locality=locality,
        effort=effort,
        forecast=forecast,
        dispatch=dispatch,
        constraints=constraints,
        seed=seed,
        num_threads=threads,
    )
    seconds = perf_counter() - start
    proofs: tuple[LayerProof, ...] = ()
    if prove:
        chosen = whole_numbers("--prove-layers", prove_layers) or None
        total = len(chosen) if chosen else min(WORST, trace.num_layers)
        with progress_bar("proving", total, quiet=quiet or json) as advance:
            result, proofs = prove_plan(result, result.load, layers=chosen, seconds=prove_seconds, progress=advance)
    summary = _summary(trace, result, seconds, forecast)
    summary["proofs"] = [asdict(proof) for proof in proofs]
    if out_file is not None:
        known = {key: summary[key] for key in ("balancedness", "bound", "gap", "locality", "is_reproducible")}
        result.placement.write(out_file, layer_ids=list(trace.layer_ids), plan=known)
        summary["out"] = out_file
    if json:
        print_json(summary)
    elif not quiet:
        _show(part, result, summary)
        _show_proofs(proofs)


def _in_id_order(result: Plan) -> Placement:
    """Return what engines start from: slot s holds expert s, and the spare slots experts 0, 1, 2, ... once more."""
    placement = result.placement
    cluster = placement.cluster
    up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    experts = np.full(cluster.num_slots, ABSENT)
    experts[up] = np.arange(up.sum()) % placement.num_experts
    return Placement(np.tile(experts, (placement.num_layers, 1)), cluster, placement.num_experts)


def _before(result: Plan) -> tuple[float, float]:
    """Return balancedness and worst layer of what engines start from, under the plan's dispatch."""
    placement = _in_id_order(result)
    found = split(result.load, placement) if result.dispatch == "optimal" else None
    if found is not None:
        return found.balancedness, found.worst_layer
    return placement.balancedness(result.load), placement.worst_layer(result.load)


def _summary(trace: LoadTrace, result: Plan, seconds: float, forecast: str | None) -> dict[str, object]:
    placement, cluster = result.placement, result.placement.cluster
    bound = float(result.bound.sum())
    return {
        "balancedness": result.balancedness,
        "balancedness_before": _before(result)[0] if result.num_loads == 1 else float("nan"),
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
        },
    }


def _show(part: str, result: Plan, summary: dict[str, object]) -> None:
    placement = result.placement
    cluster = placement.cluster
    out.print(
        f"{placement.num_layers} layers of {placement.num_experts} experts on {cluster.num_ranks} ranks with "
        f"{cluster.num_slots} slots, locality {result.locality}; planned on {part}",
        soft_wrap=True,
    )
    scored = str(summary["scored"])
    on = "the load planned for (in-sample)" if scored == "in-sample" else f"the {scored}, not on any load"
    before = ["before: slots in id order", percent(_number(summary, "balancedness_before")), percent(_before(result)[1])]
    under = "" if result.dispatch == "equal" else f", under {result.dispatch} dispatch"
    table(
        f"Balancedness on {on}{under}: mean over largest rank load, 100 % is perfect",
        ["placement", "all layers", "worst layer"],
        [
            *([before] if result.num_loads == 1 else []),
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
    if "out" in summary:
        out.print(f"placement written to {summary['out']}", soft_wrap=True)


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
