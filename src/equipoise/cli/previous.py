"""What ``equipoise plan --previous`` asks for and says: budgets, moves, experts that are lost, what moves buy."""

from __future__ import annotations

from typing import Any

import numpy as np

from equipoise.budget import MoveBudget
from equipoise.cli.output import out, percent, table
from equipoise.cli.shaping import byte_size
from equipoise.constraints import Constraints
from equipoise.dispatching.splitting import dispatch as split
from equipoise.errors import ArgumentError
from equipoise.migrating.moves import make_frame
from equipoise.placement import Placement
from equipoise.planning.improving import LADDER
from equipoise.planning.planner import Plan
from equipoise.planning.trading import TradeOff
from equipoise.trace import LoadTrace

_MOST_NAMED = 5
_PART_OF_BUDGET = {
    "--max-moves": "per_layer",
    "--move-total": "total",
    "--move-bytes": "bytes",
    "--expert-bytes": "expert_bytes",
    "--gain-per-move": "gain_per_move",
}


def read_budget(options: dict[str, Any], *, has_previous: bool) -> MoveBudget:
    """Return the budget that options describe, by their names; None is not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if given and not has_previous:
        raise _alone(next(iter(given)), "--previous", "moves are counted from a placement in use")
    if "--move-bytes" in given and "--expert-bytes" not in given:
        raise _alone("--move-bytes", "--expert-bytes", "moves are counted in experts")
    for option in ("--move-bytes", "--expert-bytes"):
        if option in given:
            given[option] = byte_size(option, given[option], allows_none=option == "--move-bytes")
    return MoveBudget(**{_PART_OF_BUDGET[option]: value for option, value in given.items()})


def read_constraints(
    home_share: float | None, min_replicas: int, hottest: float | None, spread: str | None
) -> Constraints | None:
    """Return what is asked of the placement, None for nothing."""
    for option, value in (("--hottest", hottest), ("--spread", spread)):
        if value is not None and min_replicas == 1:
            raise _alone(option, "--min-replicas", "it says which experts need them, and where")
    if home_share is None and min_replicas == 1:
        return None
    return Constraints(home_share, min_replicas, 1.0 if hottest is None else hottest, "ranks" if spread is None else spread)


def _alone(option: str, needed: str, rule: str) -> ArgumentError:
    return ArgumentError(f"{option} without {needed}", rule, f"add {needed}, or leave {option} out")


def balance_before(result: Plan, placement: Placement) -> tuple[float, float]:
    """Return balancedness and worst layer of a placement on the load of a plan, under the plan's dispatch."""
    if result.dispatch == "optimal" and not placement.lost_experts:
        found = split(result.load, placement)
        return found.balancedness, found.worst_layer
    return placement.balancedness(result.load), placement.worst_layer(result.load)


def summarise_moves(trace: LoadTrace, result: Plan, previous: Placement, expert_bytes: float | None) -> dict[str, Any]:
    """Return what a plan moves, and what has to come from disk."""
    total, replicas = int(result.moves.sum()), int((result.placement.expert_of_slot >= 0).sum())
    return {
        "moves": total,
        "mean_moves": float(result.moves.mean()),
        "most_moves": int(result.moves.max()),
        "share_moved": total / replicas,
        "bytes_moved": None if expert_bytes is None else total * expert_bytes,
        "lost_experts": [
            {"layer": layer, "layer_id": trace.layer_ids[layer], "expert": expert}
            for layer, expert in lost_experts(previous, result.placement)
        ],
    }


def lost_experts(old: Placement, new: Placement) -> list[tuple[int, int]]:
    """List pairs (layer, expert) that no rank can send: all that held them are down."""
    held = make_frame(old, new).held
    is_held = np.zeros((old.num_layers, old.num_experts + 1), np.bool_)
    np.put_along_axis(is_held, held, True, axis=1)  # ABSENT marks the column behind the last expert
    return [(int(layer), int(expert)) for layer, expert in np.argwhere(~is_held[:, :-1])]


def show_moves(summary: dict[str, Any]) -> None:
    """Print moves, and the first few lost experts."""
    size = "" if summary["bytes_moved"] is None else f", {summary['bytes_moved'] / 1e9:,.1f} GB to receive"
    out.print(
        f"moves: {summary['moves']} in all, {summary['mean_moves']:.1f} a layer (most {summary['most_moves']}), "
        f"{percent(summary['share_moved'])} of the replicas{size}",
        soft_wrap=True,
    )
    show_lost([(lost["layer_id"], lost["expert"]) for lost in summary["lost_experts"]])


def show_lost(lost: list[tuple[int, int]]) -> None:
    """Say which experts must come from disk: how many, and the first few as (layer, expert)."""
    if not lost:
        return
    named = ", ".join(f"layer {layer} expert {expert}" for layer, expert in lost[:_MOST_NAMED])
    more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    out.print(
        f"lost, for no rank that is up holds them, so that they must come from disk: {len(lost)} ({named}{more})",
        soft_wrap=True,
    )


def show_price(constraints: Constraints, balance: float, unconstrained: float) -> None:
    """Print what least numbers of replicas cost in balance."""
    whom = "every expert" if constraints.hottest == 1.0 else f"the hottest {100 * constraints.hottest:.3g} % of experts"
    price = max(0.0, round(100 * (unconstrained - balance), 2))  # searches may end a hair apart either way
    out.print(
        f"{constraints.min_replicas} replicas or more of {whom}, on {constraints.spread} of their own, cost "
        f"{price:.2f} points of balance: without them {percent(unconstrained)}",
        soft_wrap=True,
    )


def summarise_curve(trace: LoadTrace, curve: TradeOff) -> dict[str, Any]:
    """Return the Pareto curves, in total and layer by layer."""
    total = {name: getattr(curve, name) for name in ("share_moved", "balancedness", "worst_layer", "knee")}
    return {
        "scored": "in-sample",
        "replicas": curve.replicas,
        "total": {"moves": curve.total_moves, **total},
        "per_layer": [
            {"layer_id": number, "moves": layer.moves, "balancedness": layer.balancedness, "knee": layer.knee}
            for number, layer in zip(trace.layer_ids, curve.layers, strict=True)
        ],
    }


def show_curve(curve: TradeOff) -> None:
    """Print the curve in total at round means a layer, at its knee and its end."""
    layers, total, share = len(curve.layers), curve.total_moves, curve.share_moved
    points = {curve.within(mean * layers) for mean in LADDER} | {curve.knee, len(total) - 1}
    balance, worst = curve.balancedness, curve.worst_layer
    table(
        "What moves buy on this load (in-sample), each total in the layers that gain most",
        ["moves a layer", "in all", "of the replicas", "all layers", "worst layer"],
        [
            [
                f"{total[point] / layers:.1f}{' knee' * (point == curve.knee)}",
                str(total[point]),
                percent(share[point]),
                percent(balance[point]),
                percent(worst[point]),
            ]
            for point in sorted(points)
        ],
    )
    out.print("knee: the last step where a per cent of the replicas moved buys a per cent of balance", soft_wrap=True)
