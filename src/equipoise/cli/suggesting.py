"""What ``equipoise plan`` weighs without ``--slots``: windows and slots counts."""

from __future__ import annotations

import typer

from equipoise.checks import check_choice
from equipoise.cli import options
from equipoise.cli.selecting import Reading, cut, read_part
from equipoise.cli.shaping import make_cluster
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.planning.efforts import EFFORTS
from equipoise.reporting.choices import slots_that_fit
from equipoise.trace import LoadTrace

_SPARE = (0, 1, 2, 3, 4, 6, 8)
_MOST_WINDOWS = 16
_WEIGHED = {
    *("ranks", "nodes", "groups", "locality", "effort", "speeds", "down", "expert_bytes", "window", "last"),
    *("load", "file_format", "active", "in_order", "model", "json", "quiet"),
}


def refuse_without_slots(context: typer.Context, locality: str, effort: str) -> None:
    """Refuse options that have no part in weighing slots."""
    for parameter in context.command.params:
        if parameter.name not in _WEIGHED and options.is_given(context, str(parameter.name)):
            option = parameter.opts[0]
            raise ArgumentError(
                f"{option} without --slots",
                "nothing is planned without: plan then says how many slots pay",
                f"add --slots N; to see which, leave {option} out",
            )
    check_choice("locality", locality, ("none", "strict"))
    check_choice("effort", effort, tuple(EFFORTS))


def read_windows(reading: Reading, load: str, window: int | None, last: int | None, *, quiet: bool) -> tuple[LoadTrace, str]:
    """Read a load and cut it into windows of ``window`` steps, else into a few; where steps are in no order, add them up."""
    trace, part = read_part(load, window, last, quiet=quiet, reading=reading)
    if window is not None:
        trace.check_order("windows scored on the next one")
        return trace, part
    if not trace.is_in_order:
        return LoadTrace(trace.sum(), trace.layer_ids), part
    steps = -(-trace.num_steps // _MOST_WINDOWS)
    windows, words = cut(trace, steps, part)
    return windows, f"{words}; others by --window"


def clusters_to_weigh(
    num_experts: int, ranks: int, nodes: int, speeds: str, down: str, locality: str = "none"
) -> list[Cluster]:
    """Return the ranks with the fewest slots that hold every expert, then with more, in growing steps.

    >>> [cluster.num_slots for cluster in clusters_to_weigh(32, 8, 1, "", "")]
    [32, 40, 48, 56, 64, 80, 96]
    >>> [cluster.num_slots for cluster in clusters_to_weigh(32, 8, 4, "", "", "strict")]  # 8 experts a node
    [32, 40, 48, 56, 64]
    """
    fewest, most = slots_that_fit(make_cluster(ranks, ranks, nodes, speeds, down), num_experts, locality)
    slots = [ranks * fewest, *(ranks * (fewest + spare) for spare in _SPARE[1:] if fewest + spare <= most)]
    return [make_cluster(ranks, count, nodes, speeds, down) for count in slots]
