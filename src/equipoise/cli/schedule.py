"""``equipoise schedule``: which rank sends what to which, round by round, to get from one placement to another."""

from __future__ import annotations

import json as encoding
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from equipoise.cli import options
from equipoise.cli.linking import read_links
from equipoise.cli.output import counted, out, print_json, table, working
from equipoise.cli.previous import show_lost
from equipoise.cli.shaping import memory_of_expert, whole_numbers
from equipoise.cli.streams import STREAM, check_streams, written
from equipoise.errors import ArgumentError, FileError
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.links import Links
from equipoise.migrating.schedules import MODES, MoveSchedule
from equipoise.migrating.scheduling import schedule_moves
from equipoise.migrating.warming import warm_up
from equipoise.placement import Placement


def schedule(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The placement in use, a file or - for standard input.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The placement to get to, a file or - for standard input.")],
    mode: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="duplex (a rank sends one expert and receives one a round) or one-peer (it exchanges with one peer).",
        ),
    ] = MODES[0],
    staging: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Experts that a rank can buffer. Default: as many as it receives.")
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Experts on their way in one round, over all ranks. Default: no limit."),
    ] = None,
    leaving: Annotated[
        str, typer.Option(metavar="R,...", help="Ranks down in NEW that still send what they hold, counted from 0.")
    ] = "",
    expert_bytes: options.ExpertBytes = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model whose experts move, for their size: deepseek-v3, ...")
    ] = None,
    link: options.Link = None,
    node_link: options.NodeLink = None,
    out_file: Annotated[
        str | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the schedule as .json, the same for every rank, or to - for standard output."
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Order the moves from one placement to another into rounds, prove the order safe, and say how long it stalls.

    Example: equipoise schedule placement.json next.json --model gpt-oss-20b
    """
    quiet |= check_streams(old, new, out_file=out_file, json=json)
    if out_file not in (None, STREAM) and not str(out_file).lower().endswith(".json"):
        raise FileError(f"{out_file} is no name for a schedule", "a schedule is written as .json", "name it so")
    size, links = _expert_bytes(expert_bytes, model), read_links(link, node_link)
    if size is None and (link is not None or node_link is not None):
        option = "--link" if link is not None else "--node-link"
        raise ArgumentError(
            f"{option} without --expert-bytes or --model", "seconds take the size of an expert", "add one of them"
        )
    before, after = Placement.read(old), Placement.read(new)
    with working("compiling, once a machine", quiet=quiet or json):
        warm_up()
    start = perf_counter()
    with working("scheduling", quiet=quiet or json):
        made = schedule_moves(
            before, after, mode=mode, staging=staging, chunk=chunk, leaving=whole_numbers("--leaving", leaving)
        )
        seconds = perf_counter() - start
        check_schedule(made, before, after)
    summary = _summary(made, size, links, seconds)
    if out_file is not None:
        with written(out_file) as file:
            file.write(encoding.dumps(made.as_dict()).encode())
        summary["out"] = out_file
    if json:
        print_json(summary)
    elif not quiet:
        _show(made, summary)


def _expert_bytes(text: str | None, model: str | None) -> float | None:
    if text is not None and model is not None:
        raise ArgumentError(f"--expert-bytes {text} and --model {model}", "both say the size of an expert", "give one of them")
    return memory_of_expert(text, model)


def _summary(made: MoveSchedule, size: float | None, links: Links, seconds: float) -> dict[str, Any]:
    local, disk = (np.bincount(made.layer[kind], minlength=made.num_layers) for kind in (made.is_local, made.is_from_disk))
    sent, received = made.sends.sum(axis=0), made.receives.sum(axis=0)
    stall = None if size is None else made.layer_seconds(links, size)
    return {
        "is_checked": True,
        "mode": made.mode,
        "staging": made.staging,
        "chunk": made.chunk,
        "layers": made.num_layers,
        "ranks": made.num_ranks,
        "rounds": int(made.rounds.sum()),
        "bound": int(made.bound.sum()),
        "rounds_added": int(made.added.sum()),
        "moves": int(made.moves.sum()),
        "local_copies": int(local.sum()),
        "from_disk": int(disk.sum()),
        "lost_experts": [list(pair) for pair in made.lost_experts],
        "most_staged": int(made.most_staged.max(initial=0)),
        "expert_bytes": size,
        "sent_bytes": None if size is None else made.sent_bytes(size),
        "received_bytes": None if size is None else made.received_bytes(size),
        "stall_seconds": None if stall is None else float(stall.sum()),
        "seconds": seconds,
        "per_layer": {
            "rounds": made.rounds,
            "bound": made.bound,
            "moves": made.moves,
            "local_copies": local,
            "from_disk": disk,
            "stall_seconds": stall,
        },
        "per_rank": {"sent": sent, "received": received},
    }


def _show(made: MoveSchedule, summary: dict[str, Any]) -> None:
    limits = [f"{name} {value}" for name, value in (("staging", made.staging), ("chunk", made.chunk)) if value is not None]
    out.print(
        f"{counted(made.num_layers, 'layer')} on {counted(made.num_ranks, 'rank')}, {', '.join([made.mode, *limits])}; "
        f"scheduled in {1e3 * summary['seconds']:.1f} ms",
        soft_wrap=True,
    )
    per_layer = summary["per_layer"]
    rows = [
        [name, str(int(per_layer[key].sum())), f"{per_layer[key].mean():.1f}", str(int(per_layer[key].max(initial=0)))]
        for name, key in (
            ("rounds", "rounds"),
            ("bound on rounds", "bound"),
            ("moves", "moves"),
            ("copies within a rank", "local_copies"),
            ("loads from disk", "from_disk"),
        )
    ]
    if summary["stall_seconds"] is not None:
        stall = 1e3 * per_layer["stall_seconds"]
        rows.append(["predicted stall, ms", f"{stall.sum():,.2f}", f"{stall.mean():,.3f}", f"{stall.max(initial=0.0):,.3f}"])
    above = f"{summary['rounds_added']} above the bound" if summary["rounds_added"] else "as few as the bound allows"
    table(f"One layer is committed at a time; rounds: {above}", ["", "all layers", "a layer", "most"], rows)
    _show_ranks(summary)
    if summary["stall_seconds"] is None:
        out.print("bytes and seconds are not told: give --expert-bytes or --model", soft_wrap=True)
    show_lost(list(made.lost_experts))
    out.print("checked: replayed slot by slot, every read finds its expert, the end is the new placement", soft_wrap=True)
    if "out" in summary:
        out.print(f"schedule written to {summary['out']}", soft_wrap=True)


def _show_ranks(summary: dict[str, Any]) -> None:
    def most(name: str) -> str:
        count = int(summary["per_rank"][name].max(initial=0))
        return f"{count}" if summary["expert_bytes"] is None else f"{count} ({count * summary['expert_bytes'] / 1e9:,.2f} GB)"

    out.print(
        f"over all layers a rank sends {most('sent')} at most, receives {most('received')}; "
        f"in one it buffers {summary['most_staged']}",
        soft_wrap=True,
    )
