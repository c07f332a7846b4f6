"""Options that several commands share, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

Load = Annotated[
    str,
    typer.Argument(metavar="LOAD", help="What an engine recorded (a file, or a folder of all ranks), or - for standard input."),
]
FileFormat = Annotated[
    str, typer.Option("--format", metavar="NAME", help="Format of LOAD, where its content does not tell: sglang-stat, csv, ...")
]
ModelOfLoad = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Model that was recorded: deepseek-v3, qwen3-235b-a22b, ...")
]
Active = Annotated[
    str | None,
    typer.Option(metavar="PLACEMENT", help="Placement in use while LOAD was recorded, where it counts slots, not experts."),
]
InOrder = Annotated[
    bool, typer.Option("--in-order", help="Take LOAD's steps to follow one another in time, where the file cannot tell.")
]
Ranks = Annotated[int, typer.Option(min=1, metavar="N", help="GPUs of the expert-parallel group.")]
Slots = Annotated[
    int, typer.Option(min=1, metavar="N", help="Places for replicas over all ranks; what does not divide goes to the first.")
]
RanksOrAsBefore = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="GPUs of the expert-parallel group. Default: those of --previous.")
]
SlotsOrAsBefore = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Places for replicas over all ranks; what does not divide goes to the first. Default: as many a rank as in "
        "--previous; without that, plan says how many pay.",
    ),
]
NodesOrAsBefore = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Sets of ranks with fast links between them. Default: those of --previous, or 1."),
]
Nodes = Annotated[int, typer.Option(min=1, metavar="N", help="Sets of ranks with fast links between them.")]
Groups = Annotated[int, typer.Option(min=1, metavar="N", help="Groups of experts that the router picks together.")]
Locality = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="none (over all ranks), soft (a share stays at home) or strict (a group stays on one node)."
    ),
]
HomeShare = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Least share of a layer's load served at home; with soft locality.")
]
Speeds = Annotated[str, typer.Option(metavar="S,...", help="Relative speed of each rank, commas between. Default: all 1.")]
Down = Annotated[str, typer.Option(metavar="R,...", help="Ranks that are down, counted from 0; their slots stay empty.")]
SpeedsOrAsBefore = Annotated[
    str | None,
    typer.Option(metavar="S,...", help="Relative speed of each rank, commas between. Default: those of --previous, or all 1."),
]
DownOrAsBefore = Annotated[
    str | None,
    typer.Option(
        metavar="R,...",
        help="Ranks that are down, counted from 0, or none; their slots stay empty. Default: those down in --previous.",
    ),
]
Last = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the last N steps.")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POLICY",
        help="What plans: a forecast (last, mean:8, exponential:0.5,0.5, quantile:8,0.75, auto, robust:8) and settings "
        "(effort=, planner=, slots=, every=, trigger=, groups=, locality=, dispatch=, planned_for=), or a placement file. "
        "Repeat it to compare. "
        "Default: last and auto.",
    ),
]
Dispatch = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How an expert's tokens are split over its replicas: equal, hash, round_robin, nearest, optimal, or batch:N.",
    ),
]
Link = Annotated[
    str | None,
    typer.Option(metavar="B", help="h100, h800, b200, or bytes a second that a rank sends within its node. Default: h100."),
]
NodeLink = Annotated[
    str | None,
    typer.Option(metavar="B", help="Bytes a second that a rank sends to other nodes, such as 25GB. Default: those of --link."),
]
Placement = Annotated[str, typer.Argument(metavar="PLACEMENT", help="Placement file of any format, or - for standard input.")]
ExpertBytes = Annotated[str | None, typer.Option(metavar="B", help="Size of one expert of one layer, such as 44MB.")]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of random choices.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option or argument, by its parameter's name, was given and not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
