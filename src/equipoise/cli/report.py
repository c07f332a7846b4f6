"""``equipoise report``: one page on a load, its placements, and what to expect of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.numbering import HiddenLayers, LayerIds, Numbering, check_format, read_numbering
from equipoise.cli.output import print_json, progress_bar, say, working
from equipoise.cli.selecting import Reading, read_part, read_policy
from equipoise.cli.shaping import change_cluster, memory_of_expert, needed_cluster
from equipoise.cli.streams import STREAM, check_streams, shown, written
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, FileError
from equipoise.files.placements import FORMATS
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.planner import plan as make_plan
from equipoise.reporting.asked import Asked, NamedPlacement, default_policies
from equipoise.reporting.gathering import count_steps, gather
from equipoise.reporting.rendering import check_extra, render
from equipoise.reporting.replays import what_was_not_compared
from equipoise.reporting.report import Report
from equipoise.simulating.results import Simulation
from equipoise.simulating.warming import warm_up
from equipoise.trace import LoadTrace

THIS_PLAN = "this plan"
Writing = Callable[[str, str], tuple[str, str]]


def report(
    load: options.Load,
    placement: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACEMENT",
            help="A placement to judge, of any program; repeat it: the first is the one before, the last the one after. "
            "Default: a plan made here.",
        ),
    ] = None,
    simulation: Annotated[
        str | None, typer.Option(metavar="FILE", help="What equipoise simulate --out wrote of LOAD; default: simulated here.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs of the expert-parallel group. Default: those of --placement.")
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Places for replicas over all ranks. Default: those of --placement."),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Sets of ranks with fast links between them. Default: those of --placement, or 1."
        ),
    ] = None,
    groups: options.Groups = 1,
    locality: Annotated[str, typer.Option(metavar="NAME", help="none or strict (a group stays on one node).")] = "none",
    effort: Annotated[str, typer.Option(metavar="NAME", help="fast, default or best: how much is tried.")] = "default",
    policy: options.Policies = None,
    window: Annotated[int, typer.Option(min=1, metavar="W", help="Steps to add up for a window.")] = 1,
    last: options.Last = None,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    expert_bytes: options.ExpertBytes = None,
    for_engine: Annotated[
        str | None,
        typer.Option("--for", metavar="FORMAT", help=f"What is to load the placement: {', '.join(FORMATS)}. Default: all."),
    ] = None,
    out_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="The page to write, such as report.html.")
    ] = None,
    hidden_layers: HiddenLayers = None,
    layer_ids: LayerIds = "",
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one page on a load: what it loses, what a placement makes of it, what to expect, and why.

    Example: equipoise report load.npz --ranks 8 --slots 40 --out report.html
    """
    quiet |= check_streams(load, active, simulation, *(placement or []), out_file=out_file, json=json)
    silent = quiet or json
    check_page(out_file, "--out")
    if out_file is None and not json:
        raise ArgumentError("no --out", "a report is a page, or with --json its figures", "add --out report.html, or --json")
    check_choice("locality", locality, ("none", "strict"))
    check_choice("effort", effort, tuple(EFFORTS))
    check_format("--for", for_engine)
    _refuse_unused(placement or [], {"--slots": slots, "--nodes": nodes}, simulation, policy or [])
    numbering = read_numbering(model, hidden_layers, layer_ids)
    reading = replace(
        Reading.of(file_format, model, active, in_order), num_experts=numbering.num_experts, layer_ids=numbering.layer_ids
    )
    given = [NamedPlacement(shown(path), reading.placement(path, ranks)) for path in placement or []]
    replayed = None if simulation is None else Simulation.read(simulation)
    cluster = _cluster(given, ranks, slots, nodes)
    defaults = {"num_groups": groups, "locality": locality}
    policies = tuple(read_policy(text, cluster.num_ranks, reading, **defaults) for text in policy or default_policies(locality))
    trace, part, left_over = _read(load, window, last, reading, silent)
    trace = _numbered(trace, numbering)
    numbers = {"--model": model, "--hidden-layers": hidden_layers, "--layer-ids": layer_ids or None}
    how = {"--groups": groups, "--locality": locality, "--effort": effort, "--seed": seed, "--last": last}
    how |= {"--format": file_format, "--active": active, "--in-order": in_order, **numbers}
    asked = Asked(
        num_groups=groups,
        locality=locality,
        effort=effort,
        seed=seed,
        policies=policies,
        expert_bytes=memory_of_expert(expert_bytes, model),
        engine=for_engine,
        hidden_layers=numbering.hidden_layers,
        name=shown(load),
        command=command_line(),
        steps=part,
        writing=_writing(load, placement or [], cluster, how, numbers, left_over),
    )
    with working("compiling, once a machine", quiet=silent):
        warm_up()
    if not given:
        made = make_plan(trace, cluster, num_groups=groups, locality=locality, effort=effort, seed=seed)
        given = [NamedPlacement(THIS_PLAN, made.placement, is_planned=True)]
    found = gather_with_bar(trace, given, asked, replayed, quiet=silent)
    if out_file is not None:
        _write(out_file, found)
    if json:
        print_json(found.as_json() | ({} if out_file is None else {"out": out_file}))
    elif not quiet:
        say(found.answer.sentence)
        for note in what_was_not_compared(replayed):
            say(f"note: {note}")
        show_page(out_file, found)


def check_page(path: str | None, option: str) -> None:
    """Refuse a page that could not be written, before seconds go into the work: another ending, or no extra ``report``."""
    if path is None:
        return
    if path != STREAM and not path.lower().endswith((".html", ".htm")):
        raise FileError(f"{option} is {path!r}", "a report is a page, .html", "try report.html")
    check_extra()


def gather_with_bar(
    trace: LoadTrace, placements: list[NamedPlacement], asked: Asked, simulation: Simulation | None = None, *, quiet: bool
) -> Report:
    """Gather a report behind a progress bar."""
    with progress_bar("gathering", count_steps(trace, simulation), quiet=quiet) as advance:
        return gather(trace, placements, asked, simulation=simulation, progress=advance)


def write_report(path: str, trace: LoadTrace, placements: list[NamedPlacement], asked: Asked, *, quiet: bool) -> None:
    """Gather a report and write its page."""
    with working("compiling, once a machine", quiet=quiet):
        warm_up()
    _write(path, gather_with_bar(trace, placements, asked, quiet=quiet))


def writing_of_plan(out_file: str | None, for_engine: str | None, numbers: Mapping[str, Any]) -> Writing:
    """Return what says how a plan that was just made is written for an engine: it was, or is converted, or made again.

    ``numbers`` are the options that number layers, by name.
    """

    def write(engine: str, path: str) -> tuple[str, str]:
        if out_file is None:
            return f"{command_line()} {shlex.join(['--out', path, '--for', engine])}", path
        if engine == for_engine:
            return command_line(), out_file
        return shlex.join(["equipoise", "convert", out_file, path, "--for", engine, *_words(numbers)]), path

    return write


def _write(path: str, found: Report) -> None:
    page = render(found).encode()
    with written(path) as file:
        file.write(page)


def show_page(path: str | None, found: Report) -> None:
    """Say where the page was written, and what it leaves out."""
    for what, why in found.omissions:
        say(f"{what} left out: {why}")
    say(f"report written to {path}")


def command_line() -> str:
    """Return this command as it may be typed again."""
    return shlex.join(["equipoise", *sys.argv[1:]])


def _refuse_unused(placements: list[str], numbers: dict[str, int | None], simulation: str | None, policies: list[str]) -> None:
    if len(placements) > 1:
        for option, value in numbers.items():
            if value is not None:
                raise ArgumentError(
                    f"{option} {value} with {len(placements)} placements", "each brings its own", f"leave {option} out"
                )
    if simulation is not None and policies:
        raise ArgumentError(
            f"--policy {policies[0]} with --simulation", "the simulation brings its policies", "leave one of them out"
        )


def _cluster(given: list[NamedPlacement], ranks: int | None, slots: int | None, nodes: int | None) -> Cluster:
    """Return the cluster of the last placement, or what the options describe."""
    if given:
        own = given[-1].placement.cluster
        told = change_cluster(own, ranks, slots, nodes, None, None)
        if (told.num_ranks, told.num_slots, told.num_nodes) != (own.num_ranks, own.num_slots, own.num_nodes):
            raise ArgumentError(
                f"{given[-1].name} is for {own.num_ranks} ranks with {own.num_slots} slots on {own.num_nodes} nodes",
                f"the options say {told.num_ranks} with {told.num_slots} on {told.num_nodes}",
                "leave --ranks, --slots and --nodes out, or name the placement made for them",
            )
        return own
    return needed_cluster(ranks, slots, nodes, instead="a --placement to judge")


def _read(load: str, window: int, last: int | None, reading: Reading, silent: bool) -> tuple[LoadTrace, str, int]:
    """Read the trace, its last steps where asked, and add steps up to windows; say which part, and how many steps are left."""
    trace, part = read_part(load, None, last, quiet=silent, reading=reading)
    if window == 1:
        return trace, part, 0
    windows = trace.windows(window)
    left_over = trace.num_steps % window
    rest = f", {left_over} step{'s' * (left_over > 1)} at the end left out" if left_over else ""
    return windows, f"{windows.num_steps} windows of {window} steps{rest}", left_over


def _numbered(trace: LoadTrace, numbering: Numbering) -> LoadTrace:
    """Return the trace with the layer numbers that options gave; refuse where the load brought others."""
    numbers = numbering.merged(trace.layer_ids, trace.num_experts).layer_ids
    return replace(trace, layer_ids=numbers) if numbers else trace


_DEFAULTS = {"--nodes": 1, "--groups": 1, "--locality": "none", "--effort": "default", "--seed": 0, "--format": "auto"}


def _words(options_given: Mapping[str, Any]) -> list[str]:
    """Return options as they are typed, those that are not as by default."""
    words: list[str] = []
    for option, value in options_given.items():
        if value is True:
            words.append(option)
        elif value is not None and value is not False and value != _DEFAULTS.get(option):
            words += [option, str(value)]
    return words


def _writing(
    load: str,
    placements: list[str],
    cluster: Cluster,
    how: Mapping[str, Any],
    numbers: Mapping[str, Any],
    left_over: int,
) -> Writing:
    """Return what says how the placement is written for an engine: converted from its file, or planned again.

    A plan takes all steps: where windows left steps out, the command says that it makes another.
    """
    shape = {"--ranks": cluster.num_ranks, "--slots": cluster.num_slots, "--nodes": cluster.num_nodes}
    planned = f"  # plans for {left_over} step{'s' * (left_over > 1)} more, which this page left out at the end of the load"

    def write(engine: str, path: str) -> tuple[str, str]:
        if not placements:
            command = shlex.join(["equipoise", "plan", load, *_words({**shape, **how}), "--out", path, "--for", engine])
            return command + planned * bool(left_over), path
        ranks = {"--ranks": cluster.num_ranks}
        return shlex.join(["equipoise", "convert", placements[-1], path, "--for", engine, *_words(ranks | dict(numbers))]), path

    return write
