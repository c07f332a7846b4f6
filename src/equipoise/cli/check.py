"""``equipoise check``: whether a placement, or an engine's options, will do what is hoped for."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.linking import read_links
from equipoise.cli.output import counted, out, percent, print_json, table, working
from equipoise.cli.selecting import Reading, read_part
from equipoise.cli.streams import check_streams
from equipoise.cluster import Cluster
from equipoise.engines.checking import ENGINES, Diagnosis, check, make_setup
from equipoise.engines.findings import LEVELS, Finding, error, note
from equipoise.engines.memory import Memory
from equipoise.engines.options import parse_options
from equipoise.engines.setups import Setup
from equipoise.engines.starting import in_id_order
from equipoise.engines.worth import ASCEND_DECODE, ASCEND_PREFILL, Worth, strict_cost, weigh
from equipoise.errors import ArgumentError, FileError
from equipoise.files.placements import FoundPlacement, read_any
from equipoise.files.placements.own import NAME as OWN
from equipoise.migrating.links import Links
from equipoise.models import Model, find_model
from equipoise.placement import Placement
from equipoise.planning.warming import warm_up
from equipoise.trace import LoadTrace

FOUND_ERRORS = 3
"""Exit code where the engine would refuse the setup, or fail on it."""

_DRAFT_OPTION = "num_nextn_predict_layers"


def check_command(
    engine: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(ENGINES)}.")],
    placement: Annotated[
        str | None,
        typer.Argument(
            metavar="PLACEMENT", help="Placement that the engine is to start from, of any format, or - for standard input."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Model: deepseek-v3, qwen3-235b-a22b, ...")] = None,
    ep: Annotated[
        int | None,
        typer.Option(
            "--ranks", "--ep", min=1, metavar="N", help="GPUs of the expert-parallel group. Default: the placement's."
        ),
    ] = None,
    redundant: Annotated[
        int | None, typer.Option(metavar="N", help="Slots over all ranks, less experts. Default: the placement's, or 0.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Nodes, as the engine counts them: hosts. Default: 1.")
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Experts of a layer, of a model that has no name here.")
    ] = None,
    groups: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Groups of experts, of a model that has no name here.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the engine by its own name. Repeat it.")
    ] = None,
    load: Annotated[
        str | None, typer.Option(metavar="LOAD", help="Recorded load, to say what locality costs and whether it is worth it.")
    ] = None,
    file_format: options.FileFormat = "auto",
    last: options.Last = None,
    link: options.Link = None,
    node_link: options.NodeLink = None,
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps between rebalances. Default: as the options say.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens of a step over all ranks, to say whether it is worth it.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a placement, or an engine's options: what is refused, what is silently ignored, what it costs, whether it pays.

    Exits 0 when nothing is refused, 3 when something is, 2 on bad input.
    Example: equipoise check --engine vllm --model deepseek-v3 --ranks 32 --redundant 32 --nodes 4
    """
    check_streams(placement, load)
    check_choice("--engine", engine, tuple(ENGINES))
    links = read_links(link, node_link)
    named = None if model is None else find_model(model)
    texts = option or []
    placed, troubles = _read_placement(placement, engine, named, ep, texts)
    setup = make_setup(
        engine,
        num_ranks=ep,
        redundant=redundant,
        num_nodes=nodes,
        num_experts=experts,
        num_groups=groups,
        model=named,
        options=texts,
        placement=placed,
        is_refused=placement is not None and placed is None,
    )
    setup = replace(setup, refused=(*troubles, *setup.refused))
    found = check(setup)
    worth, costs, missing = None, None, _missing(setup, load, found)
    if not missing and load is not None and named is not None:
        with working("compiling, once a machine", quiet=quiet or json):
            warm_up()
        trace = _read_load(load, file_format, model, last, quiet=quiet or json)
        worth, costs = _weigh(trace, setup, named, links, every or ENGINES[engine].interval(setup), quiet=quiet or json)
    if json:
        print_json(_as_json(setup, found, worth, costs, tokens, missing))
    elif not quiet:
        _show(setup, found)
        _show_costs(costs)
        _show_worth(worth, setup, tokens, missing)
    if found.count("error"):
        raise typer.Exit(FOUND_ERRORS)


def _read_placement(
    path: str | None, engine: str, model: Model | None, ranks: int | None, texts: list[str]
) -> tuple[Placement | None, list[Finding]]:
    """Read a placement as the engine would; what it would refuse becomes a finding where the ranks are known without it."""
    if path is None:
        return None, []
    try:
        found = _read_rows(path, engine, model, texts)
        placed = Placement.from_found(found, num_ranks=ranks if found.num_ranks is None else None)
    except FileError as refused:
        if ranks is None or not Path(path).is_file():
            raise
        return None, [error(refused.found, refused.rule, refused.next_step, f"reading it for {engine}")]
    if found.format == engine:
        return placed, []
    # vLLM loads no placement at all, which its own rules say; our own files are there to be converted.
    level = note if found.format == OWN or engine == "vllm" else error
    return placed, [
        level(
            f"{path} is a file of format {found.format}",
            f"{engine} cannot load it" if level is error else f"{engine} does not read it",
            f"equipoise convert {path} OUT --for {engine} --model NAME",
        )
    ]


def _read_rows(path: str, engine: str, model: Model | None, texts: list[str]) -> FoundPlacement:
    """Read the layers that the engine looks for in its file; without draft layers where the file has none, as a rule says."""
    if model is None:
        return read_any(path)
    values, _ = parse_options(ENGINES[engine].options, texts, engine)
    drafts = range(model.num_layers, model.num_layers + int(values.get(_DRAFT_OPTION) or 0))
    try:
        return read_any(path, layer_ids=(*model.moe_layer_ids, *drafts), num_experts=model.num_experts)
    except FileError:
        if not drafts or not Path(path).is_file():
            raise
        return read_any(path, layer_ids=model.moe_layer_ids, num_experts=model.num_experts)


def _read_load(load: str, file_format: str, model: str | None, last: int | None, *, quiet: bool) -> LoadTrace:
    return read_part(load, None, last, quiet=quiet, reading=Reading.of(file_format, model, None, False))[0]


def _missing(setup: Setup, load: str | None, found: Diagnosis) -> str:
    """Say what is missing to tell whether balancing pays."""
    if setup.model is None:
        return "--model says how large experts are"
    if load is None:
        return "--load says how uneven the load is"
    if found.count("error"):
        return "what is refused must be put right first"
    if setup.num_ranks % setup.num_nodes:
        return "ranks must be divisible by nodes first"
    return ""


def _weigh(
    trace: LoadTrace, setup: Setup, model: Model, links: Links, every: int, *, quiet: bool
) -> tuple[Worth, tuple[float, float] | None]:
    cluster = Cluster(setup.num_ranks, setup.num_slots // setup.num_ranks, setup.num_nodes)
    if setup.placement is None:
        in_use = in_id_order(cluster, trace.num_layers, trace.num_experts)
    else:
        in_use = replace(setup.placement, cluster=cluster)
    if trace.num_layers != in_use.num_layers or trace.num_experts != setup.num_experts:
        raise ArgumentError(
            f"the load has {trace.num_layers} layers of {trace.num_experts} experts",
            f"the setup has {in_use.num_layers} of {setup.num_experts}",
            "give a load of this model",
        )
    with working("planning", quiet=quiet):
        worth = weigh(trace, in_use, model, links, every, setup.num_groups)
        is_strict = ENGINES[setup.engine].is_hierarchical(setup)
        return worth, strict_cost(trace, cluster, setup.num_groups) if is_strict else None


def _as_json(
    setup: Setup, found: Diagnosis, worth: Worth | None, costs: tuple[float, float] | None, tokens: int | None, missing: str
) -> dict[str, Any]:
    return {
        "engine": setup.engine,
        "version": ENGINES[setup.engine].version,
        "model": None if setup.model is None else setup.model.name,
        "ranks": setup.num_ranks,
        "experts": setup.num_experts,
        "redundant": setup.redundant if setup.is_redundancy_known else None,
        "nodes": setup.num_nodes,
        "groups": setup.num_groups,
        **{f"{level}s": found.count(level) for level in LEVELS},
        "findings": [asdict(finding) for finding in found.findings],
        "memory": None if found.memory is None else asdict(found.memory),
        "locality": None if costs is None else {"strict": costs[0], "none": costs[1]},
        "worth": None if worth is None else _worth_as_json(worth, tokens),
        "missing": missing or None,
    }


def _worth_as_json(worth: Worth, tokens: int | None) -> dict[str, Any]:
    pays = None if tokens is None else worth.pays(tokens)
    return {**asdict(worth), "break_even": worth.break_even, "tokens": tokens, "pays": pays}


def _show(setup: Setup, found: Diagnosis) -> None:
    model = "" if setup.model is None else f" {setup.model.name}:"
    redundant = f" and {setup.redundant} redundant" if setup.is_redundancy_known else ""
    out.print(
        f"{ENGINES[setup.engine].version},{model} {counted(setup.num_experts, 'expert')}{redundant} on "
        f"{counted(setup.num_ranks, 'rank')}, {counted(setup.num_nodes, 'node')}",
        soft_wrap=True,
        markup=False,
    )
    for finding in found.findings:
        out.print(str(finding), soft_wrap=True, markup=False)
    out.print(", ".join(counted(found.count(level), level) for level in LEVELS), style="bold", soft_wrap=True)
    if found.memory is not None:
        _show_memory(found.memory)


def _show_memory(memory: Memory) -> None:
    rows = [
        ["experts of a rank, all MoE layers", f"{memory.experts / 1e9:,.2f}"],
        ["redundant ones among them", f"{memory.redundant / 1e9:,.2f}"],
        ["buffer of a rank for experts on their way", f"{memory.staging / 1e9:,.2f}"],
    ]
    if memory.host:
        rows.append(["shared memory of each host", f"{memory.host / 1e9:,.2f}"])
    table("Memory", ["routed experts", "GB"], rows)


def _show_costs(costs: tuple[float, float] | None) -> None:
    if costs is not None:
        out.print(
            f"plans that keep groups on nodes reach {percent(costs[0])}, over all ranks {percent(costs[1])} balancedness, "
            "in-sample",
            soft_wrap=True,
        )


def _show_worth(worth: Worth | None, setup: Setup, tokens: int | None, missing: str) -> None:
    if worth is None:
        out.print(f"whether balancing pays is not told: {missing}", soft_wrap=True)
        return
    scored = "steps it was not planned on" if worth.is_next else "the steps it was planned on"
    out.print(
        f"a plan takes balancedness from {percent(worth.before)} to {percent(worth.after)} on {scored}; "
        f"its {worth.moves:,} moves take {1e3 * worth.move_seconds:,.1f} ms",
        soft_wrap=True,
    )
    if worth.break_even is None:
        out.print("not worth it: the plan saves no time", style="bold", soft_wrap=True)
        return
    out.print(
        f"every {worth.every:,} steps it pays from {worth.break_even:,.0f} tokens a step over all ranks "
        f"({worth.break_even / setup.num_ranks:,.1f} a rank), by the time model (docs/time-model.md)",
        soft_wrap=True,
    )
    if tokens is not None:
        saved = tokens * worth.saved_per_token * worth.every
        verdict = "worth it" if worth.pays(tokens) else "not worth it"
        out.print(
            f"{verdict}: steps of {tokens:,} tokens save {1e3 * saved:,.1f} ms, moves take {1e3 * worth.move_seconds:,.1f} ms",
            style="bold",
            soft_wrap=True,
        )
    out.print(
        f"where an expert's weights take longer to read than its tokens to compute, less is saved: vllm-ascend's guide advises "
        f"against it under {ASCEND_DECODE} tokens a device in decode, {ASCEND_PREFILL:,} an input in prefill",
        soft_wrap=True,
    )
