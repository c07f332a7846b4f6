"""``equipoise inspect``: what a load file holds, and what seems wrong with it."""

from __future__ import annotations

import numpy as np

from equipoise.cli import options
from equipoise.cli.output import counted, out, percent, print_json, table, working
from equipoise.cli.selecting import Reading
from equipoise.inspection import TOP, Inspection, inspect_trace
from equipoise.models import find_model
from equipoise.trace import LoadTrace, Origin

_SHOWN = 5


def inspect(
    load: options.Load,
    file_format: options.FileFormat = "auto",
    model: options.ModelOfLoad = None,
    active: options.Active = None,
    in_order: options.InOrder = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show a load: what the file was taken for, its size, its skew, its hottest experts, and what seems wrong with it.

    Example: equipoise inspect load.npz
    """
    with working("reading", quiet=quiet or json):
        trace = Reading.of(file_format, model, active, in_order).read(load)
    found = inspect_trace(trace, None if model is None else find_model(model))
    if json:
        print_json(_as_json(trace, found))
    elif not quiet:
        show(trace, found)


def show(trace: LoadTrace, found: Inspection) -> None:
    """Print an inspection for people."""
    out.print(
        f"{counted(trace.num_steps, 'step')}, {counted(trace.num_layers, 'layer')}, {counted(trace.num_experts, 'expert')}, "
        f"{float(found.tokens.sum()):,.10g} tokens",
        soft_wrap=True,
    )
    if trace.origin is not None:
        out.print(f"read as {trace.origin.format}", soft_wrap=True)
        for remark in trace.origin.remarks:
            out.print(f"remark: {remark}", soft_wrap=True)
    busy = np.flatnonzero(found.tokens > 0)
    if busy.size:
        ranked = busy[np.argsort(-found.max_over_mean[busy], kind="stable")]
        shown = ranked[:_SHOWN] if ranked.size > _SHOWN else ranked
        table(
            f"Skew: the {len(shown)} most uneven of {busy.size} layers, then all of them",
            ["layer", "hottest / mean expert", f"share of top {TOP}", "hottest experts"],
            [
                *(_layer_row(trace, found, int(layer)) for layer in shown),
                [
                    "all (median)",
                    f"{np.median(found.max_over_mean[busy]):.2f}",
                    percent(float(np.median(found.top_share[busy]))),
                    "",
                ],
            ],
        )
    for finding in found.findings:
        out.print(f"note: {finding}", soft_wrap=True)


def _layer_row(trace: LoadTrace, found: Inspection, layer: int) -> list[str]:
    hottest = ", ".join(str(expert) for expert in found.hottest[layer][:4])
    share = percent(float(found.top_share[layer]))
    return [str(trace.layer_ids[layer]), f"{found.max_over_mean[layer]:.2f}", share, hottest]


def _as_json(trace: LoadTrace, found: Inspection) -> dict[str, object]:
    origin = trace.origin or Origin("")
    return {
        "format": origin.format,
        "remarks": origin.remarks,
        "is_in_order": trace.is_in_order,
        "source_ranks": 0 if trace.source_load is None else trace.source_load.shape[1],
        "steps": trace.num_steps,
        "layers": trace.num_layers,
        "experts": trace.num_experts,
        "tokens": found.tokens.sum(),
        "dtype": str(trace.load.dtype),
        "layers_without_load": found.layers_without_load,
        "findings": found.findings,
        "per_layer": {
            "layer_id": trace.layer_ids,
            "tokens": found.tokens,
            "max_over_mean": found.max_over_mean,
            f"top{TOP}_share": found.top_share,
            "hottest": found.hottest,
        },
    }
