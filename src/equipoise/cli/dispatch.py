"""``equipoise dispatch``: how a batch's tokens are split over the replicas there are, or that spare slots hold for it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from equipoise import metrics
from equipoise.cli import options
from equipoise.cli.linking import read_links
from equipoise.cli.output import counted, out, percent, print_json, table, working
from equipoise.cli.selecting import Reading, read_part
from equipoise.cli.shaping import byte_size
from equipoise.cli.streams import check_streams
from equipoise.dispatching.batches import BatchPlan, MoveTime, plan_batch
from equipoise.dispatching.splitting import Dispatch, checked_load
from equipoise.dispatching.splitting import dispatch as split
from equipoise.dispatching.tables import fixed_table, probability_table
from equipoise.dispatching.warming import warm_up
from equipoise.errors import ArgumentError, FileError
from equipoise.files.atomic import whole_file
from equipoise.kernels.types import Floats
from equipoise.placement import Placement
from equipoise.trace import LoadTrace

_Rows = list[tuple[str, Floats]]


def dispatch(
    placement: options.Placement,
    load: options.Load,
    spare_slots: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Fill so many more slots on each rank with replicas for this very batch."),
    ] = None,
    stop_at: Annotated[
        float | None, typer.Option(metavar="X", help="Largest over ideal rank time that is good enough, >= 1.")
    ] = None,
    gain_per_move: Annotated[
        float | None, typer.Option(metavar="X", help="Part of the ideal time that a move must save. Default: 0.0005.")
    ] = None,
    max_received: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Replicas that a rank may receive. Default: --spare-slots.")
    ] = None,
    prefer_near: Annotated[bool, typer.Option("--prefer-near", help="Prefer receivers on the node of the giver.")] = False,
    expert_bytes: options.ExpertBytes = None,
    seconds_per_token: Annotated[
        float | None,
        typer.Option(metavar="S", help="One expert's work on one token; with --expert-bytes, moves must save their own time."),
    ] = None,
    link: options.Link = None,
    node_link: options.NodeLink = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="W", help="Take the last full window of W steps, counted from the first.")
    ] = None,
    last: options.Last = None,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    out_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write shares, tokens, rank loads and their proof as .npz.")
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="Write also probabilities by replica, and one fixed slot for each source rank.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Split a batch's tokens over replicas so that the slowest rank ends soonest; with spare slots, choose replicas too.

    The batch is the load's steps added up.
    Example: equipoise dispatch placement.json load.npz --last 1
    Example: equipoise dispatch placement.json load.npz --last 1 --spare-slots 1
    """
    check_streams(load, placement, active)
    _check_out(out_file, tables)
    move_time = _move_time(seconds_per_token, expert_bytes, link, node_link)
    wishes: dict[str, Any] = {
        "stop_at": stop_at,
        "gain_per_move": gain_per_move,
        "max_received": max_received,
        "prefer_near": prefer_near or None,
        "move_time": move_time,
    }
    wishes = {name: value for name, value in wishes.items() if value is not None}
    if wishes and spare_slots is None:
        name = "expert_bytes" if move_time is not None else next(iter(wishes))
        raise ArgumentError(
            f"{_option(name)} without --spare-slots", "it says how these are filled", f"add them, or leave {_option(name)} out"
        )
    home = Placement.read(placement)
    reading = Reading.of(file_format, model, active, in_order)
    trace, part = read_part(load, window, last, quiet=quiet or json, reading=reading)
    if window is not None:
        trace, part = trace.last(1), f"the last of {part}"
    checked_load(trace, home)  # says what is wrong before seconds go into compiling
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    start = perf_counter()
    at_home = split(trace, home)
    found: Dispatch | BatchPlan = at_home
    if spare_slots is not None:
        start = perf_counter()
        found = plan_batch(trace, home, spare_slots, **wishes)
    seconds = perf_counter() - start
    rows: _Rows = [("even" if spare_slots is None else "home, even", home.layer_times(trace)[0])]
    rows.append(("optimal" if spare_slots is None else "home, optimal", at_home.largest))
    if spare_slots is not None:
        rows.append(("replicas for the batch", found.largest))
    summary = _summary(trace, found, rows, seconds)
    if isinstance(found, BatchPlan):
        summary |= _moves(found, move_time)
    if out_file is not None:
        _write(out_file, trace, found, tables)
        summary["out"] = out_file
    if json:
        print_json(summary)
    elif not quiet:
        _show(part, found, rows, summary)


def _check_out(out_file: str | None, tables: bool) -> None:
    if tables and out_file is None:
        raise ArgumentError("--tables without --out", "tables are written to a file", "add --out split.npz")
    if out_file is not None and Path(out_file).suffix.lower() != ".npz":
        raise FileError(f"{out_file} ends in {Path(out_file).suffix or 'nothing'}", "a split is written as .npz", "name it so")


def _move_time(
    seconds_per_token: float | None, expert_bytes: str | None, link: str | None, node_link: str | None
) -> MoveTime | None:
    given = {
        "--seconds-per-token": seconds_per_token,
        "--expert-bytes": expert_bytes,
        "--link": link,
        "--node-link": node_link,
    }
    named = [option for option, value in given.items() if value is not None]
    if not named:
        return None
    if seconds_per_token is None or expert_bytes is None:
        raise ArgumentError(
            f"{named[0]} without {'--seconds-per-token' if seconds_per_token is None else '--expert-bytes'}",
            "the time of a move takes both to tell",
            "give both, or none",
        )
    links = read_links(link, node_link)
    size = byte_size("--expert-bytes", expert_bytes)
    return MoveTime(seconds_per_token, size, bandwidth=links.bandwidth, node_bandwidth=links.node_bandwidth)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _summary(trace: LoadTrace, found: Dispatch | BatchPlan, rows: _Rows, seconds: float) -> dict[str, Any]:
    cluster = found.placement.cluster
    return {
        "layers": trace.num_layers,
        "experts": trace.num_experts,
        "ranks": cluster.num_ranks,
        "slots": cluster.num_slots,
        "tokens": found.load.sum(),
        **_balance(found.largest, found.ideal),
        "ways": [{"way": name, **_balance(largest, found.ideal)} for name, largest in rows],
        "best_possible_balancedness": metrics.balancedness(found.bound, found.ideal),
        "largest_gap": found.gap.max(initial=0.0),
        "seconds": seconds,
        "per_layer": {
            "layer_id": trace.layer_ids,
            "balancedness": metrics.layer_balancedness(found.largest, found.ideal),
            "largest": found.largest,
            "ideal": found.ideal,
            "bound": found.bound,
            "gap": found.gap,
        },
    }


def _balance(largest: Floats, ideal: Floats) -> dict[str, float]:
    return {
        "balancedness": metrics.balancedness(largest, ideal),
        "worst_layer": metrics.worst_layer(largest, ideal),
        "p5_layer": metrics.fifth_percentile(largest, ideal),
    }


def _moves(found: BatchPlan, move_time: MoveTime | None) -> dict[str, Any]:
    layer, slot = np.nonzero(found.source >= 0)
    shape = found.rank_load.shape
    received, sent = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    np.add.at(received, (layer, found.placement.cluster.rank_of_slot[slot]), 1)
    np.add.at(sent, (layer, found.source[layer, slot]), 1)
    moves: dict[str, Any] = {
        "moves": found.moves,
        "mean_moves": float(found.moves.mean()),
        "most_received": received.max(initial=0),
        "most_sent": sent.max(initial=0),
    }
    if move_time is not None:
        moves["move_seconds"] = found.move_time * move_time.seconds_per_token
        moves["rank_seconds"] = found.largest * move_time.seconds_per_token
    return moves


def _write(path: str, trace: LoadTrace, found: Dispatch | BatchPlan, tables: bool) -> None:
    placement = found.placement
    arrays = {
        "expert_of_slot": placement.expert_of_slot,
        "rank_of_slot": placement.cluster.rank_of_slot,
        "layer_ids": np.asarray(trace.layer_ids, np.int64),
        **{name: getattr(found, name) for name in ("shares", "tokens", "whole_tokens", "rank_load", "bound", "tight")},
    }
    if isinstance(found, BatchPlan):
        arrays["source"] = found.source
    if tables:
        arrays["slots_of_expert"] = placement.slots_of_expert
        arrays["probability_of_replica"] = probability_table(placement, found.shares)
        arrays["slot_of_source"] = fixed_table(placement, found.shares)
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)


def _show(part: str, found: Dispatch | BatchPlan, rows: _Rows, summary: dict[str, Any]) -> None:
    cluster = found.placement.cluster
    spare = " with the spare ones" if isinstance(found, BatchPlan) else ""
    out.print(
        f"{counted(summary['layers'], 'layer')} of {counted(summary['experts'], 'expert')} on "
        f"{counted(cluster.num_ranks, 'rank')} with {counted(cluster.num_slots, 'slot')}{spare}; "
        f"the batch: {part}, {float(summary['tokens']):,.10g} tokens",
        soft_wrap=True,
    )
    limits = [("proven limit", found.bound), ("ideal", found.ideal)]
    table(
        "Balancedness of the batch: mean over largest rank load, 100 % is perfect",
        ["tokens split", "all layers", "worst layer", "p5"],
        [[name, *map(percent, _balance(largest, found.ideal).values())] for name, largest in [*rows, *limits]],
    )
    took = f"found in {1e3 * summary['seconds']:.1f} ms"
    if isinstance(found, BatchPlan):
        out.print(
            f"largest gap to the proven limit: {100 * summary['largest_gap']:.3f} %, which counts no moves; {took}",
            soft_wrap=True,
        )
        _show_moves(summary)
    else:
        out.print(f"largest gap to the proven limit: {summary['largest_gap']:.1e}, rounding; {took}", soft_wrap=True)
    if "out" in summary:
        out.print(f"split written to {summary['out']}", soft_wrap=True)


def _show_moves(summary: dict[str, Any]) -> None:
    out.print(
        f"moves a layer: {summary['mean_moves']:.1f} (mean), {summary['moves'].max()} (most); "
        f"a rank receives {summary['most_received']} at most, sends {summary['most_sent']}",
        soft_wrap=True,
    )
    if "move_seconds" in summary:
        moving, working_on = 1e6 * summary["move_seconds"], 1e6 * summary["rank_seconds"]
        out.print(
            f"moves take {moving.mean():,.1f} us a layer (mean), {moving.max():,.1f} us (most); the slowest rank then works "
            f"{working_on.mean():,.1f} us (mean)",
            soft_wrap=True,
        )
    else:
        hint = "where weights must move, give --expert-bytes and --seconds-per-token"
        out.print(f"their time is not counted: {hint}", soft_wrap=True)
