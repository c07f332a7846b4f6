"""``equipoise convert``: a placement file of one program as another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from equipoise.cli import options
from equipoise.cli.numbering import (
    HiddenLayers,
    LayerIds,
    Model,
    Numbering,
    check_format,
    read_numbering,
    shortened,
    show_written,
)
from equipoise.cli.output import counted, out, print_json
from equipoise.cli.streams import STREAM, check_streams, write_placement
from equipoise.errors import ArgumentError
from equipoise.files.placements import AUTO, FORMATS, FoundPlacement, check_ending, how_to_load, read_any


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Placement file of any format, or - for standard input.")],
    target: Annotated[
        str,
        typer.Argument(metavar="OUT", help="File to write, with an ending that its program takes, or - for standard output."),
    ],
    for_engine: Annotated[str, typer.Option("--for", metavar="FORMAT", help=f"What is to load it: {', '.join(FORMATS)}.")],
    from_format: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="What wrote it. Default: told by content.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs of the expert-parallel group, where the file does not say.")
    ] = None,
    model: Model = None,
    hidden_layers: HiddenLayers = None,
    layer_ids: LayerIds = "",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a placement file: read any program's, write another's.

    Example: equipoise convert placement.json map.yaml --for tensorrt-llm --model gpt-oss-20b
    """
    check_format("--for", for_engine)
    check_format("--from", from_format)
    quiet |= check_streams(out_file=target, json=json)
    if target != STREAM:
        check_ending(target, for_engine)
    numbering = read_numbering(model, hidden_layers, layer_ids)
    found = _with_ranks(_read(source, from_format or AUTO, numbering), ranks)
    write_placement(target, for_engine, found)
    summary = {
        "in": source,
        "from": found.format,
        "out": target,
        "for": for_engine,
        "layers": found.num_layers,
        "layer_ids": found.layer_ids or None,
        "experts": found.experts_known,
        "slots": found.num_slots,
        "ranks": found.num_ranks,
        "remarks": found.remarks,
        "load_with": how_to_load(target, for_engine, found),
    }
    if json:
        print_json(summary)
    elif not quiet:
        _show(found, summary)


def _read(source: str, format_: str, numbering: Numbering) -> FoundPlacement:
    return read_any(
        source,
        format_,
        layer_ids=numbering.layer_ids,
        hidden_layers=numbering.hidden_layers,
        num_experts=numbering.num_experts,
    )


def _with_ranks(found: FoundPlacement, ranks: int | None) -> FoundPlacement:
    if ranks is None:
        return found
    if found.num_ranks not in (None, ranks):
        raise ArgumentError(f"--ranks {ranks}", f"{found.name} is for {found.num_ranks}", "leave --ranks out")
    if found.num_slots % ranks:
        raise ArgumentError(
            f"--ranks {ranks} with {found.num_slots} slots", "slots must be divisible by ranks", "give the ranks it is for"
        )
    return replace(found, num_ranks=ranks)


def _show(found: FoundPlacement, summary: dict[str, object]) -> None:
    numbers = f" ({shortened(found.layer_ids)})" if found.layer_ids else ""
    on = f" on {counted(found.num_ranks, 'rank')}" if found.num_ranks else ""
    out.print(
        f"{counted(found.num_layers, 'layer')}{numbers} of {counted(found.experts_known, 'expert')} in "
        f"{counted(found.num_slots, 'slot')}{on}, "
        f"read as {found.format}",
        soft_wrap=True,
    )
    for remark in found.remarks:
        out.print(f"note: {remark}", soft_wrap=True)
    show_written(summary)
