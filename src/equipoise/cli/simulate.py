"""``equipoise simulate``: what policies reach on windows they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.cli import options
from equipoise.cli.linking import read_links
from equipoise.cli.output import counted, out, print_json, progress_bar, table, working
from equipoise.cli.selecting import AS_IT_IS, Reading, read_policy
from equipoise.cli.shaping import byte_size, counts, make_cluster
from equipoise.cli.streams import STREAM, check_streams, written
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, FileError
from equipoise.migrating.links import LINKS
from equipoise.simulating.policies import ONCE, Policy
from equipoise.simulating.replaying import simulate as replay
from equipoise.simulating.results import PolicyResult, Simulation, paired_difference
from equipoise.simulating.sweeping import open_trace, sweep
from equipoise.simulating.timing import TIME_MODELS, TimeModel, make_time_model
from equipoise.simulating.warming import warm_up
from equipoise.trace import LoadTrace

_MOST_EXPLAINED = 3


def simulate(
    loads: Annotated[list[str], typer.Argument(metavar="TRACE...", help="Load files, or - for standard input.")],
    ranks: options.Ranks,
    slots: Annotated[str, typer.Option(metavar="N,...", help="Places for replicas over all ranks; several are tried.")],
    policy: options.Policies = None,
    every: Annotated[str, typer.Option(metavar="W,...", help="Windows between plans, or once; several are tried.")] = "1",
    window: Annotated[int, typer.Option(min=1, metavar="W", help="Steps to add up for a window.")] = 1,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    nodes: options.Nodes = 1,
    groups: options.Groups = 1,
    locality: Annotated[str, typer.Option(metavar="NAME", help="none or strict (a group stays on one node).")] = "none",
    speeds: options.Speeds = "",
    down: options.Down = "",
    dispatch: options.Dispatch = "equal",
    time_model: Annotated[
        str, typer.Option(metavar="NAME", help=f"What windows and moves take: {', '.join(TIME_MODELS)}.")
    ] = "tokens",
    expert_bytes: options.ExpertBytes = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="B", help="h100, h800, b200 (between nodes), or bytes a second that a rank receives, such as 450GB."
        ),
    ] = None,
    batches: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Batches in a window, to count active experts. Default: --window.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep each policy's simulation there; what is there is not run again.")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes for several simulations; -1 for all cores.")] = 1,
    out_file: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Write the simulation, all windows, as JSON, or to - for standard output."),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Replay a trace: policies plan on the past, and the next window is scored.

    Example: equipoise simulate load.npz --ranks 8 --slots 40 --policy last --policy auto
    """
    quiet |= check_streams(active, out_file=out_file, json=json)
    silent = quiet or json
    slot_counts, intervals = counts("--slots", slots), _intervals(every)
    if len(set(loads)) < len(loads):
        raise ArgumentError(f"traces are {', '.join(loads)}", "each is replayed once", "name each once")
    outs = _outs(loads, out_file)
    reading = Reading.of(file_format, model, active, in_order)
    cluster = make_cluster(ranks, slot_counts[0], nodes, speeds, down)
    timing = _time_model(time_model, expert_bytes, link)
    defaults = {"num_groups": groups, "locality": locality, "every": intervals[0] if len(intervals) == 1 else 1}
    policies = [read_policy(text, ranks, reading, **defaults) for text in policy or ["last", "auto"]]
    how = {"dispatch": dispatch, "time_model": timing, "batches_per_window": batches or window, "seed": seed}
    with working("compiling, once a machine", quiet=silent):
        warm_up()
    if len(loads) == len(slot_counts) == len(intervals) == jobs == 1 and folder is None:
        found = {loads[0]: _replay(_to_replay(loads[0], reading), cluster, policies, window, how, silent)}
    else:
        spread = {"slots": slot_counts if len(slot_counts) > 1 else [], "every": intervals if len(intervals) > 1 else []}
        traces = {load: _to_replay(load, reading) for load in loads}
        found = _sweep(traces, cluster, policies, {**how, **spread, "window": window, "folder": folder, "jobs": jobs}, silent)
    for simulation, name in zip(found.values(), outs, strict=False):
        with written(name) as file:
            file.write(simulation.as_bytes())
    if json:
        setting = {"ranks": ranks, "dispatch": dispatch, "time_model": timing.name, "out": outs}
        print_json({**setting, "traces": [{"trace": load, **as_json(simulation)} for load, simulation in found.items()]})
    elif not quiet:
        for load, simulation in found.items():
            _show(load, simulation, timing)
        if outs:
            out.print(f"written to {', '.join(outs)}", soft_wrap=True)
    _refuse_all_stopped(found)


def _to_replay(load: str, reading: Reading) -> str | LoadTrace:
    """Return the path of a file as it is, to be read step by step; whatever else needs reading as a trace."""
    is_plain = reading == AS_IT_IS and load != "-" and not Path(load).is_dir()
    return load if is_plain else reading.read_fitting(load)


def _replay(
    load: str | LoadTrace, cluster: Cluster, policies: Sequence[Policy], window: int, how: dict[str, Any], silent: bool
) -> Simulation:
    """Replay one trace under all policies side by side, with a bar that counts windows."""
    with working("reading", quiet=silent):
        trace = open_trace(load, window)
    with progress_bar("replaying", trace.num_steps or 0, quiet=silent) as advance:
        return replay(trace, cluster, policies, **how, progress=advance)


def _sweep(
    traces: dict[str, str | LoadTrace], cluster: Cluster, policies: list[Policy], how: dict[str, Any], silent: bool
) -> dict[str, Simulation]:
    """Run every combination as a job of its own, with a bar that counts jobs; then put each trace's side by side."""
    total = len(traces) * len(policies) * max(1, len(how["slots"])) * max(1, len(how["every"]))
    with progress_bar("simulating", total, quiet=silent) as advance:
        cells = sweep(traces, cluster, policies, **how, progress=advance)
    return {load: _side_by_side([cell.found for cell in cells if cell.trace == load]) for load in traces}


def _side_by_side(simulations: list[Simulation]) -> Simulation:
    return replace(simulations[0], policies=tuple(result for one in simulations for result in one.policies))


def _outs(loads: list[str], path: str | None) -> list[str]:
    """Return the files to write, one a trace, numbered where there are several; their folder must be there."""
    if path is None:
        return []
    if path == STREAM:
        if len(loads) > 1:
            raise ArgumentError(f"--out - for {len(loads)} traces", "standard output holds one", "name a file")
        return [path]
    name = Path(path)
    if not name.parent.is_dir():
        raise FileError(f"{path} cannot be written (no folder {name.parent})", "its folder must be there", "make it first")
    return [path] if len(loads) == 1 else [str(name.with_stem(f"{name.stem}-{number}")) for number in range(len(loads))]


def _refuse_all_stopped(found: dict[str, Simulation]) -> None:
    failures = [result.failure for simulation in found.values() for result in simulation.policies]
    if all(failures):
        raise ArgumentError(failures[0], "no policy went all the way", "mend it, or name another")


def _intervals(text: str) -> list[int]:
    if not text.strip():
        raise ArgumentError("--every is empty", "it must be whole numbers >= 1, or once", "try 1,4,once")
    return [ONCE if part.strip() == "once" else counts("--every", part)[0] for part in text.split(",")]


def _time_model(name: str, expert_bytes: str | None, link: str | None) -> TimeModel:
    model = make_time_model(name)
    if model.name == "tokens" and (expert_bytes is not None or link is not None):
        raise ArgumentError(
            "--expert-bytes or --link with --time-model tokens", "tokens are no seconds", "add --time-model prefill-h100"
        )
    if expert_bytes is not None:
        model = replace(model, expert_bytes=byte_size("--expert-bytes", expert_bytes))
    if link is not None:
        model = replace(model, link_bandwidth=_received(link))
    return model


def _received(link: str) -> float:
    """Return the bytes a second that a rank receives: of named links those between nodes, the slower."""
    return LINKS[link].node_bandwidth if link in LINKS else read_links(link).bandwidth


def _show(load: str, found: Simulation, model: TimeModel) -> None:
    out.print(
        f"{load}: {counted(found.num_windows, 'window')} scored, each planned for on those before; "
        f"{counted(found.num_ranks, 'rank')}, "
        f"dispatch {found.dispatch}",
        soft_wrap=True,
    )
    first = found.policies[0]
    table(
        "Balancedness on the next window in %, mean over windows; 100 is perfect",
        ["policy", "slots", "balance", "p5", "worst", "moves", "ms"],
        [_balance_row(result) for result in found.policies],
    )
    for result in found.policies[1:]:
        gain = paired_difference(result, first)
        out.print(
            f"{result.name} against {first.name}: {100 * gain.mean:+.2f} points "
            f"(95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f})",
            soft_wrap=True,
        )
    for result in found.policies:
        _show_notes(result, explained=len(found.policies) <= _MOST_EXPLAINED)
    out.print("p5, worst: 5th percentile and worst of the layers, means over windows;", soft_wrap=True)
    out.print("moves: replicas received a window, all layers; ms: to forecast and plan, median", soft_wrap=True)
    if model.name != "tokens":
        table(
            f"Time by the model {model.name}; useful: ideal time over time with stalls",
            ["policy", "useful %", "windows s", "stalls s", "moved GB"],
            [_time_row(result) for result in found.policies],
        )


def _balance_row(result: PolicyResult) -> list[str]:
    shares = (result.mean_balancedness, result.mean_fifth_percentile, result.mean_worst_layer)
    return [
        result.name,
        str(result.num_slots),
        *(f"{100 * share:.2f}" for share in shares),
        f"{result.moves.mean():,.0f}" if result.moves.size else "-",
        "-" if isnan(result.milliseconds) else f"{result.milliseconds:.1f}",
    ]


def _time_row(result: PolicyResult) -> list[str]:
    times = (100 * result.useful_share, float(result.time.sum()), float(result.stall.sum()))
    return [result.name, *(f"{time:,.1f}" for time in times), f"{result.bytes_moved.sum() / 1e9:,.0f}"]


def _show_notes(result: PolicyResult, *, explained: bool) -> None:
    """Say what a figure alone would hide."""
    if result.failure:
        out.print(f"stopped: {result.failure}", soft_wrap=True)
    if result.idle_windows:
        out.print(
            f"{result.name}: {counted(result.idle_windows, 'window')} without load, left out of the means", soft_wrap=True
        )
    if result.duplicates:
        out.print(f"{result.name}: {result.duplicates} slots hold an expert that their rank holds already", soft_wrap=True)
    if result.explanation and explained:
        out.print(f"{result.name} {result.explanation}", soft_wrap=True)


def as_json(found: Simulation) -> dict[str, Any]:
    """Return a simulation's figures a policy, means and all windows."""
    first = found.policies[0]
    return {
        "windows": found.num_windows,
        "scored": "next-window",
        "policies": [
            {
                "policy": result.name,
                "slots": result.num_slots,
                "balancedness": result.mean_balancedness,
                "standard_error": result.standard_error,
                "p5_layer": result.mean_fifth_percentile,
                "worst_layer": result.mean_worst_layer,
                "gain_on_first": asdict(paired_difference(result, first)),
                "time": float(result.time.sum()),
                "ideal_time": float(result.ideal_time.sum()),
                "stall": float(result.stall.sum()),
                "useful_share": result.useful_share,
                "moves": int(result.moves.sum()),
                "bytes_moved": float(result.bytes_moved.sum()),
                "plans": int(result.is_renewed.sum()),
                "idle_windows": result.idle_windows,
                "duplicates": result.duplicates,
                "failure": result.failure,
                "explanation": result.explanation,
                "milliseconds": result.milliseconds,
                "per_window": {
                    name: getattr(result, name)
                    for name in (
                        "balancedness",
                        "worst_layer",
                        "fifth_percentile",
                        "time",
                        "ideal_time",
                        "moves",
                        "bytes_moved",
                        "stall",
                    )
                },
            }
            for result in found.policies
        ],
    }
