"""Soft locality: experts stay on their group's home node, but for a share of the load that buys balance.

Group-limited routing sends a token's work to few nodes; what is served off the home node crosses the slow links. The dial
between strict locality (all at home) and none is the least share of each layer's load served at home.
"""

from __future__ import annotations

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.kernels.softening import soften_rows
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.composition import solve
from equipoise.planning.efforts import Stage
from equipoise.planning.locality import rows_by_load
from equipoise.planning.problem import Problem

_THRIFTS = (0.01, 1.0)
"""Mean loads of a rank added to what an exchange sends away: little is thrifty, much takes what gains most."""

_ROUNDING = 1e-12


def plan_softly(
    problem: Problem, home_of_group: Ints, start: Ints | None, home_share: float, stages: tuple[Stage, ...], bound: Floats
) -> tuple[Ints, Floats, Floats]:
    """Plan with at least ``home_share`` of each layer's load at home.

    Goes from ``start``, a strict plan [layers, slots] (None where some node has no room for its groups; their coldest experts
    then start elsewhere), by exchanges across nodes as far as the share allows, and takes the plan without any rule where that
    keeps the share as well. Returns expert_of_slot, the slowest rank's time and the share at home.

    Raises
    ------
    ArgumentError
        Where a layer cannot keep the share, or no node's ranks can be filled from its own experts.
    """
    home = np.repeat(home_of_group, problem.num_experts // problem.num_groups, axis=1)
    if start is None:
        start, _, _ = solve(problem, rows_by_load(problem, _fitted(problem, home)), stages, bound)
    _check_reachable(problem, start, home, home_share)
    slots, largest = _soften(problem, start, home, home_share, bound, _THRIFTS[0])
    for thrift in _THRIFTS[1:]:
        slots, largest = _better(slots, largest, *_soften(problem, start, home, home_share, bound, thrift))
    free, free_largest, _ = solve(problem, rows_by_load(problem, None), stages, bound)
    keeps = share_at_home(problem, free, home) >= home_share
    slots, largest = _better(slots, largest, free, np.where(keeps, free_largest, np.inf))
    return slots, largest, share_at_home(problem, slots, home)


def share_at_home(problem: Problem, slots: Ints, home: Ints) -> Floats:
    """Share of each layer's load served on its expert's ``home`` node [layers, experts]; 1 where there is no load: [layers]."""
    placement = Placement(slots, problem.cluster, problem.num_experts)
    per_replica = problem.load / placement.replica_count
    node = np.asarray(problem.cluster.node_of_rank)[problem.cluster.rank_of_slot]
    at_home = (slots >= 0) & (np.take_along_axis(home, np.maximum(slots, 0), axis=1) == node)
    served = np.where(at_home, np.take_along_axis(per_replica, np.maximum(slots, 0), axis=1), 0.0).sum(axis=1)
    total = problem.load.sum(axis=1)
    shares: Floats = np.divide(served, total, out=np.ones_like(total), where=total > 0)
    return np.minimum(shares, 1.0)


def _soften(problem: Problem, strict: Ints, home: Ints, home_share: float, bound: Floats, thrift: float) -> tuple[Ints, Floats]:
    domain, cost = problem.everything, problem.cost
    slots = np.ascontiguousarray(strict[:, domain.slots])
    count = Placement(strict, problem.cluster, problem.num_experts).replica_count
    tokens = problem.load / count
    node = np.asarray(problem.cluster.node_of_rank, np.int64)[domain.ranks]
    spare = share_at_home(problem, strict, home) - home_share
    allowance = np.maximum(spare, 0.0) * problem.load.sum(axis=1) * (1.0 - _ROUNDING)
    largest = soften_rows(slots, tokens, home, node, domain.room, domain.speed / cost.per_token, allowance, bound, thrift)
    softened = strict.copy()
    softened[:, domain.slots] = slots
    return softened, largest


def _better(slots: Ints, largest: Floats, other: Ints, other_largest: Floats) -> tuple[Ints, Floats]:
    """Keep, layer by layer, what ends earlier; the first on ties."""
    better = other_largest < largest
    return np.where(better[:, np.newaxis], other, slots), np.where(better, other_largest, largest)


def _fitted(problem: Problem, home: Ints) -> Ints:
    """Return the node of each expert: its home, but for the coldest where a node has too few slots for its own."""
    room = np.array([node.slots.size for node in problem.nodes])
    most = np.array([node.room.max(initial=0) for node in problem.nodes])
    held = np.bincount(home[0], minlength=room.size)
    if (held <= room).all() and (held >= most).all():
        return home
    if most.sum() > problem.num_experts:
        raise ArgumentError(
            f"nodes' roomiest ranks have {most.tolist()} slots for {problem.num_experts} experts in all",
            "soft locality starts with each expert on one node, and a rank may hold no expert twice",
            "take fewer slots per rank, or locality none",
        )
    target = _held_by_each(held, room, most)
    node_of_expert = home.copy()
    for layer, load in enumerate(problem.load):
        coldest = np.argsort(load, kind="stable")
        homeless: list[int] = []
        for n in np.flatnonzero(target < held):
            homeless += [int(e) for e in coldest if home[layer, e] == n][: held[n] - target[n]]
        for n in np.flatnonzero(target > held):
            for _ in range(target[n] - held[n]):
                node_of_expert[layer, homeless.pop()] = n
    return node_of_expert


def _held_by_each(held: Ints, room: Ints, most: Ints) -> Ints:
    """How many experts each node starts with: at most its slots, at least as many as its roomiest rank has slots."""
    target = np.clip(held, most, room)
    while target.sum() != held.sum():
        step = 1 if target.sum() < held.sum() else -1
        free = room - target if step > 0 else target - most
        target[int(np.argmax(free))] += step
    return target


def _check_reachable(problem: Problem, slots: Ints, home: Ints, home_share: float) -> None:
    share = share_at_home(problem, slots, home)
    if (share < home_share - _ROUNDING).any():
        layer = int(np.argmin(share))
        raise ArgumentError(
            f"home_share is {home_share}",
            f"layer {layer} keeps {np.floor(share[layer] * 1e4) / 1e4} of its load at home at most, "
            "for the slots of some node do not suit its own experts",
            f"ask for at most {np.floor(share.min() * 1e4) / 1e4}",
        )
