"""``equipoise score``: programs that place experts, run in a process of their own, checked, scored and ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.checks import refuse_name
from equipoise.cli import options
from equipoise.cli.archiving import Patch, archived, change_shown, look, score_shown
from equipoise.cli.output import counted, out, print_json, progress_bar, table, working
from equipoise.cli.selecting import Reading
from equipoise.cli.shaping import byte_size
from equipoise.errors import ArgumentError
from equipoise.scoring.archive import VARIABLE, Archive, default_path
from equipoise.scoring.judging import ProgramScore, score_programs
from equipoise.scoring.limits import Limits
from equipoise.scoring.programs import encodable, labels_of
from equipoise.scoring.protocols import OURS, PROTOCOLS, PUBLIC, PublicScore
from equipoise.scoring.ranking import Standing, rank_programs
from equipoise.scoring.replayed import OurScore
from equipoise.scoring.setups import WINDOW, Setup
from equipoise.scoring.verdicts import one_line
from equipoise.trace import LoadTrace

NONE_ACCEPTED = 3
"""Exit code where every program was refused."""

_ALL = "all"


def score(
    programs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROGRAM...",
            help="Python files that define rebalance_experts, or planners by name: equipoise:default, published:lpt, "
            "published:ensemble+swap:128,0.2.",
        ),
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--load", "--trace", metavar="LOAD", help="The recorded load to score on.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(metavar="P,...", help=f"{', '.join(PROTOCOLS)}, several with commas between, or all.")
    ] = _ALL,
    window: Annotated[
        int, typer.Option(min=1, metavar="W", help="Steps of a window; 1 where each step is a window already.")
    ] = WINDOW,
    slots: options.Slots = Setup.num_slots,
    groups: options.Groups = Setup.num_groups,
    nodes: options.Nodes = Setup.num_nodes,
    ranks: options.Ranks = Setup.num_ranks,
    call_seconds: Annotated[float, typer.Option(metavar="S", help="Seconds that a call may take.")] = Limits.call_seconds,
    memory: Annotated[str, typer.Option(metavar="B", help="Memory that a program may take, beside torch's own.")] = "2GiB",
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Run programs also where the kernel cannot keep them from files and sockets.")
    ] = False,
    patch: Annotated[
        str | None, typer.Option(metavar="PROPOSAL", help="Text that changes PROGRAM; both are scored, before and after it.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help=f"Where programs and scores are kept. Default: {VARIABLE}, or the user's data folder."
        ),
    ] = None,
    no_archive: Annotated[bool, typer.Option("--no-archive", help="Keep nothing.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show what was scored before, the newest last.")] = False,
    show: Annotated[
        str | None, typer.Option(metavar="ID", help="Show a program scored before, by the start of its id.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Show the best program for each trace and protocol, or for one --protocol.")
    ] = False,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run programs that place experts and score them on load they have not seen, as public evaluators do and as we do.

    Exits 0 when a program is accepted, 3 when every one is refused, 2 on bad input.
    Example: equipoise score mine.py --load load.npz --window 1 --ranks 8 --slots 40
    """
    kept = None if no_archive else Archive(default_path() if archive is None else Path(archive))
    protocols = _protocols(protocol)
    if history or best or show is not None:
        _check_looking(history, show, best, programs, trace, patch, kept)
        assert kept is not None
        look(kept, show=show, best=best, protocol=_only(protocols), json=json)
        return
    if not programs or trace is None:
        missing = "PROGRAM" if not programs else "--trace"
        raise ArgumentError(
            f"no {missing}", "scoring takes programs and a load", "try equipoise score mine.py --trace load.npz"
        )
    change = None if patch is None else Patch(programs, patch)
    asked = list(programs) if change is None else [change.before, change.after]
    setup = Setup(slots, groups, nodes, ranks)
    limits = Limits(call_seconds=call_seconds, memory=int(byte_size("--memory", memory)))
    with working("reading", quiet=quiet or json):
        read = Reading.of(file_format, model, active, in_order).read_fitting(trace)
    windows = _windows(read, window, setup, protocols)
    if kept is not None:
        kept.check()
    calls = len(asked) * (windows.num_steps - 1)
    with progress_bar("scoring", calls, quiet=quiet or json) as advance:
        found = score_programs(
            asked,
            windows,
            setup,
            protocols=protocols,
            limits=limits,
            hidden=[trace],
            must_load=True,
            unprotected=unprotected,
            progress=advance,
        )
    names = dict(zip((score.program.name for score in found), labels_of([score.program for score in found]), strict=True))
    if json:
        proposal = None if change is None else change.as_dict()
        more = {"proposal": proposal, "archive": None if kept is None else str(kept.path)}
        print_json(_as_json(found, protocols, windows, window, setup) | more)
    elif not quiet:
        _show(found, names, protocols, windows, window, setup)
        if change is not None:
            change.show(found, protocols)
    if kept is not None:
        kept.add(archived(found, names, windows, setup, change))
        if not json and not quiet:
            ids = ", ".join(f"{names[score.program.name]} as {score.program.sha256[:6]}" for score in found)
            out.print(f"kept in {encodable(str(kept.path))}: {ids}", soft_wrap=True)
    if not any(score.is_accepted for score in found):
        raise typer.Exit(NONE_ACCEPTED)


def _check_looking(
    history: bool,
    show: str | None,
    best: bool,
    programs: Sequence[str] | None,
    trace: str | None,
    patch: str | None,
    kept: Archive | None,
) -> None:
    """Refuse to look at the archive and to score at once."""
    looking = [name for name, is_given in (("--history", history), ("--show", show is not None), ("--best", best)) if is_given]
    given = (("PROGRAM", programs), ("--trace", trace), ("--patch", patch), ("--no-archive", kept is None))
    scoring = [name for name, value in given if value]
    if len(looking) > 1 or scoring:
        rule = "one of --history, --show and --best shows the archive, and scores nothing"
        raise ArgumentError(f"{' and '.join([*looking, *scoring])} together", rule, "give that one alone")


def _only(protocols: Sequence[str]) -> str | None:
    """Return the one protocol asked for, None where all are."""
    if len(protocols) == len(PROTOCOLS):
        return None
    if len(protocols) != 1:
        raise ArgumentError(
            f"--protocol {','.join(protocols)}", f"it must be one of {', '.join(PROTOCOLS)}", "choose one of these"
        )
    return protocols[0]


def _protocols(text: str) -> list[str]:
    if text == _ALL:
        return list(PROTOCOLS)
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or [text]:
        if name not in PROTOCOLS:
            refuse_name("--protocol", name, (*PROTOCOLS, _ALL))
    return names


def _windows(read: LoadTrace, window: int, setup: Setup, protocols: Sequence[str]) -> LoadTrace:
    """Cut a load into windows; where it has too few for a protocol, say how many that needs."""
    if read.num_steps >= window:
        windows = read.windows(window)
        setup.check(windows, protocols)
        return windows
    needed = max(PUBLIC[name].windows_needed if name in PUBLIC else 2 for name in protocols)
    raise ArgumentError(
        f"the load has {counted(read.num_steps, 'step')}, no window of {window}",
        f"{', '.join(protocols)} need{'s' * (len(protocols) == 1)} {needed} windows",
        "give --window 1 if steps are windows already, or shorter ones",
    )


def _as_json(
    found: Sequence[ProgramScore], protocols: Sequence[str], windows: LoadTrace, window: int, setup: Setup
) -> dict[str, Any]:
    return {
        "windows": windows.num_steps,
        "window": window,
        "layers": windows.num_layers,
        "experts": windows.num_experts,
        "slots": setup.num_slots,
        "groups": setup.num_groups,
        "nodes": setup.num_nodes,
        "ranks": setup.num_ranks,
        "programs": [score.as_dict() for score in found],
        "ranking": {name: [vars(standing) for standing in rank_programs(found, name)] for name in protocols},
    }


def _show(
    found: Sequence[ProgramScore],
    names: Mapping[str, str],
    protocols: Sequence[str],
    windows: LoadTrace,
    window: int,
    setup: Setup,
) -> None:
    out.print(
        f"{counted(windows.num_steps, 'window')} of {counted(window, 'step')}, {counted(windows.num_layers, 'layer')} of "
        f"{counted(windows.num_experts, 'expert')} in {counted(setup.num_groups, 'group')}; "
        f"{counted(setup.num_slots, 'slot')} on {counted(setup.num_ranks, 'rank')} of {counted(setup.num_nodes, 'node')}",
        soft_wrap=True,
    )
    table(
        "Programs, each in a process of its own",
        ["program", "verdict", "calls", "first call, ms", "later, ms"],
        [
            [
                names[score.program.name],
                score.verdict.kind,
                str(len(score.seconds)),
                _milliseconds(score.cold_seconds),
                _milliseconds(score.warm_seconds),
            ]
            for score in found
        ],
    )
    for score in found:
        _show_remarks(score, names[score.program.name])
    for name in protocols:
        standings = rank_programs(found, name)
        if name == OURS:
            _show_ours(found, standings, names)
        else:
            _show_public(name, found, standings, names)


def _show_remarks(score: ProgramScore, name: str) -> None:
    if not score.is_accepted:
        out.print(f"{name}: {score.verdict}", soft_wrap=True)
        if score.run.output.strip():
            last = one_line(score.run.output.strip().splitlines()[-1], 200)
            out.print(f"{name} printed last: {last}", soft_wrap=True)
    for note in (*score.run.notes, *score.run.unprotected):
        out.print(f"note: {name}: {note}", soft_wrap=True)


def _show_public(name: str, found: Sequence[ProgramScore], standings: list[Standing], names: Mapping[str, str]) -> None:
    protocol = PUBLIC[name]
    columns = ["program", "score", "balance", "behind the first", "planner, ms"]
    columns += ["simulator, ms"] if protocol.times_simulator else []
    rows = []
    places = {standing.program: standing for standing in standings}
    for score in _in_order(found, standings):
        made = score.scores[name]
        assert isinstance(made, PublicScore)
        standing = places.get(score.program.name)
        balance = made.balancedness_rank if protocol.level == "rank" else made.balancedness_slot
        row = [_placed(standing, names[score.program.name]), score_shown(score, name)]
        row += ["-" if made.rejected else f"{balance:.4f}", _behind(standing)]
        row.append("-" if made.rejected else _milliseconds(made.planner_seconds))
        rows.append(row + ([_milliseconds(made.simulator_seconds)] if protocol.times_simulator else []))
    table(f"{name} would say: balance of {protocol.level}s, next-window, {protocol.pairs or 'all'} pairs", columns, rows)
    for score in found:
        made = score.scores[name]
        if isinstance(made, PublicScore) and made.rejected:
            out.print(f"{name} refuses {names[score.program.name]}: {one_line(made.rejected)}", soft_wrap=True)


def _show_ours(found: Sequence[ProgramScore], standings: list[Standing], names: Mapping[str, str]) -> None:
    places = {standing.program: standing for standing in standings}
    balance, beside = [], []
    for score in _in_order(found, standings):
        made, standing = score.scores[OURS], places.get(score.program.name)
        name = _placed(standing, names[score.program.name])
        if not isinstance(made, OurScore):
            balance.append([name, *["-"] * 4])
            beside.append([name, *["-"] * 5])
            continue
        half = (made.high - made.low) / 2
        balance.append([name, *map(_balance, (made.score, half, made.std)), _behind(standing)])
        figures = map(_balance, (made.worst_layer, made.p5_layer, made.in_sample))
        beside.append([name, *figures, f"{made.moves:,.0f}", f"{made.duplicates:,.0f}"])
    table(
        "equipoise: balance of ranks, next-window",
        ["program", "balance", "± 95 %", "std of windows", "behind the first"],
        balance,
    )
    table("beside it", ["program", "worst layer", "5th percentile", "in-sample", "moves", "twice on a rank"], beside)


def _in_order(found: Sequence[ProgramScore], standings: list[Standing]) -> list[ProgramScore]:
    places = {standing.program: standing.place for standing in standings}
    return sorted(found, key=lambda score: places.get(score.program.name, len(found) + 1))


def _placed(standing: Standing | None, name: str) -> str:
    return f"{'-' if standing is None else standing.place} {name}"


def _behind(standing: Standing | None) -> str:
    if standing is None:
        return "-"
    return "" if standing.place == 1 else change_shown(standing.behind, standing.low, standing.high)


def _balance(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.2f}"
