"""``equipoise metrics``: the engines' own figures of balance, for any load and placement."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.output import counted, out, percent, print_json, table, working
from equipoise.cli.selecting import Reading, read_part
from equipoise.cli.streams import check_streams
from equipoise.engines.formulas import Formula, formulas, rank_loads
from equipoise.engines.traffic import Traffic, count_traffic
from equipoise.kernels.types import Floats
from equipoise.models import find_model
from equipoise.placement import Placement
from equipoise.trace import LoadTrace

ALL = "all"


def metrics(
    load: options.Load,
    placement: options.Placement,
    formula: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(formulas())}, or {ALL} of them.")] = ALL,
    ranks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs of the expert-parallel group, where PLACEMENT does not say.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, metavar="W", help="Take W steps added up as one.")] = None,
    last: options.Last = None,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the balance of a placement by each engine's own formula, and the tokens that leave their rank and node.

    With --model, its dense layers count in SGLang's figure, as they do in SGLang.
    Example: equipoise metrics load.npz placement.json --formula vllm
    """
    check_streams(load, placement, active)
    check_choice("--formula", formula, (*formulas(), ALL))
    reading = Reading.of(file_format, model, active, in_order)
    placed = reading.placement(placement, ranks)
    trace, part = read_part(load, window, last, quiet=quiet or json, reading=reading)
    dense = 0 if model is None else _dense_layers(model)
    with working("counting", quiet=quiet or json):
        loads = rank_loads(trace, placed)
    wanted = [each for name, each in formulas(dense).items() if formula in (name, ALL)]
    found = {each.name: each.compute(loads) for each in wanted}
    traffic = _traffic(trace, placed)
    if json:
        print_json(_as_json(trace, found, loads, traffic))
    elif not quiet:
        _show(wanted, found, loads, part)
        _show_traffic(traffic)


def _dense_layers(name: str) -> int:
    model = find_model(name)
    return model.num_layers - model.num_moe_layers


def _traffic(trace: LoadTrace, placed: Placement) -> tuple[Traffic, ...]:
    return () if trace.source_load is None else count_traffic(placed, trace.source_load)


def _layer_excess(loads: Floats) -> Floats:
    """Return the largest rank over the mean rank of each layer, all steps added up; layers without load left out."""
    total = loads.sum(axis=0)
    busy = total[total.any(axis=1)]
    excess: Floats = busy.max(axis=1) / busy.mean(axis=1)
    return excess


def _quantiles(excess: Floats) -> dict[str, float | None]:
    if not excess.size:
        return dict.fromkeys(("p50", "p95", "max"))
    return {"p50": float(np.quantile(excess, 0.5)), "p95": float(np.quantile(excess, 0.95)), "max": float(excess.max())}


def _as_json(trace: LoadTrace, found: dict[str, float], loads: Floats, traffic: tuple[Traffic, ...]) -> dict[str, Any]:
    total = loads.sum(axis=0)
    mean = total.mean(axis=1)
    excess = np.divide(total.max(axis=1), mean, out=np.full(mean.shape, np.nan), where=mean > 0)
    return {
        "steps": trace.num_steps,
        "layers": trace.num_layers,
        "ranks": loads.shape[2],
        "formulas": found,
        "max_over_mean": _quantiles(_layer_excess(loads)),
        "traffic": [asdict(each) for each in traffic] or None,
        "per_layer": {"layer_id": trace.layer_ids, "max_over_mean": excess},
    }


def _show(wanted: list[Formula], found: dict[str, float], loads: Floats, part: str) -> None:
    table(
        f"Balance of {counted(loads.shape[2], 'rank')} on {part}, replicas served evenly",
        ["formula", "value", "perfect", "what it is"],
        [[each.name, f"{found[each.name]:.4f}", f"{each.perfect:g}", each.says] for each in wanted],
        words=["what it is"],
    )
    layers = _quantiles(_layer_excess(loads))
    if layers["max"] is not None:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in layers.items())
        out.print(f"max/mean rank of a layer, all steps added up: {shown} over layers", soft_wrap=True)


def _show_traffic(traffic: tuple[Traffic, ...]) -> None:
    if not traffic:
        out.print("tokens between nodes are not told: the load does not say which rank tokens came from", soft_wrap=True)
        return
    table(
        f"Tokens that leave where their router ran, of {traffic[0].tokens:,.10g}",
        ["dispatch", "leave their rank", "leave their node", "share between nodes"],
        [[each.dispatch, f"{each.leave_rank:,.0f}", f"{each.leave_node:,.0f}", percent(_share(each))] for each in traffic],
    )


def _share(traffic: Traffic) -> float:
    return traffic.leave_node / traffic.tokens if traffic.tokens else float("nan")
