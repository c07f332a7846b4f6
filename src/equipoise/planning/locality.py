"""Which experts are packed onto which ranks: all onto all, or every node's groups onto the node's ranks.

A row is one set of experts packed onto one set of ranks. Without a locality rule a layer is one row; under strict locality it
is one row a node (DeepSeek's hierarchical policy).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import numpy as np

from equipoise.kernels.packing import SORTED, pack_in_orders
from equipoise.kernels.pairing import best_pairing, best_pairing_on, sum_groups
from equipoise.kernels.refining import UNTIL_NONE_HELPS, best_swap
from equipoise.kernels.sorting import sort_rows_descending
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.problem import Domain, Problem

MAX_PAIRINGS = 20_000
"""Up to so many ways to put groups on nodes, all are tried: 8 groups on 4 nodes have 105, 12 on 6 have 10,395."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One row a layer for one domain, experts in the order in which ties are broken.

    ``load`` float64 and ``expert`` int64 are [layers, experts of the domain].
    """

    domain: Domain
    load: Floats
    expert: Ints


@dataclass(frozen=True, eq=False)
class Pairing:
    """Groups on nodes: ``node_of_group`` [layers, groups]; ``level`` [layers], the slowest node's tokens over speed.

    ``is_exact`` tells that no pairing has a lower level.
    """

    node_of_group: Ints
    level: Floats
    is_exact: bool

    def node_of_expert(self, num_experts: int) -> Ints:
        """Node of each expert's group, [layers, experts]."""
        return np.repeat(self.node_of_group, num_experts // self.node_of_group.shape[1], axis=1)


def rows_by_load(problem: Problem, node_of_expert: Ints | None) -> list[Rows]:
    """Return rows sorted by (load, id), largest first: a plan then depends on loads, not on how experts are numbered.

    One for all ranks, or one a node for the experts put there; every layer puts equally many on a node.
    """
    if node_of_expert is None:
        load, order = sort_rows_descending(problem.load)
        return [Rows(problem.everything, load, order)]
    rows = []
    for domain, expert in _experts_by_node(problem, node_of_expert):
        load, order = sort_rows_descending(np.take_along_axis(problem.load, expert, axis=1))
        rows.append(Rows(domain, load, np.take_along_axis(expert, order, axis=1)))
    return rows


def rows_as_published(problem: Problem, pairing: Pairing | None) -> list[Rows]:
    """Return rows in the order in which the published policy breaks ties: groups as dealt (largest first), then ids."""
    layers, experts = problem.load.shape
    if pairing is None:
        order = np.broadcast_to(np.arange(experts, dtype=np.int64), (layers, experts)).copy()
        return [Rows(problem.everything, problem.load, order)]
    _, dealt = sort_rows_descending(sum_groups(problem.load, problem.num_groups))
    place_of_group = np.argsort(dealt, axis=1, kind="stable")
    rows = []
    for domain, expert in _experts_by_node(problem, pairing.node_of_expert(experts)):
        place = np.take_along_axis(place_of_group, expert // (experts // problem.num_groups), axis=1)
        expert = np.take_along_axis(expert, np.argsort(place, axis=1, kind="stable"), axis=1)
        rows.append(Rows(domain, np.take_along_axis(problem.load, expert, axis=1), expert))
    return rows


def pair_groups(problem: Problem) -> Pairing | None:
    """Put groups on nodes so that the slowest node is fastest; None without a locality rule.

    Exact where there are at most MAX_PAIRINGS ways, else LPT and then exchanges.
    """
    if not problem.has_homes:
        return None
    groups, nodes = problem.num_groups, problem.cluster.num_nodes
    if count_pairings(groups, nodes) > MAX_PAIRINGS:
        return _pair_by_packing(problem, refine=True)
    group_load, speed = sum_groups(problem.load, groups), _node_speeds(problem)
    if speed.min() < speed.max():
        return Pairing(*best_pairing_on(group_load, _all_pairings(groups, nodes), speed), is_exact=True)
    node_of_group, heaviest = best_pairing(group_load, _all_pairings(groups, nodes), nodes)
    return Pairing(node_of_group, heaviest / speed[0], is_exact=True)


def pair_groups_as_published(problem: Problem) -> Pairing | None:
    """Put groups on nodes by LPT, as DeepSeek's policy does; None without a locality rule."""
    return _pair_by_packing(problem, refine=False) if problem.has_homes else None


def count_pairings(num_groups: int, num_nodes: int) -> int:
    """Return the number of ways to put groups on equal nodes: G! / ((G/N)!^N N!)."""
    ordered: int = factorial(num_groups) // factorial(num_groups // num_nodes) ** num_nodes
    return ordered // factorial(num_nodes)


def _experts_by_node(problem: Problem, node_of_expert: Ints) -> list[tuple[Domain, Ints]]:
    """List the experts put on each node, in rising id, [layers, experts of the node]."""
    order = np.argsort(node_of_expert, axis=1, kind="stable")
    ends = np.cumsum(np.bincount(node_of_expert[0], minlength=len(problem.nodes)))
    parts = zip(problem.nodes, np.split(order, ends[:-1], axis=1), strict=True)
    return [(node, expert) for node, expert in parts if node.ranks.size]


def _node_speeds(problem: Problem) -> Floats:
    """Speed of each node; one without a rank that is up counts as fast as the slowest other, so that its groups have a home."""
    speed = np.array([node.speed.sum() for node in problem.nodes])
    return np.where(speed > 0, speed, speed[speed > 0].min())


def _pair_by_packing(problem: Problem, *, refine: bool) -> Pairing:
    nodes, groups = problem.cluster.num_nodes, problem.num_groups
    load, dealt = sort_rows_descending(sum_groups(problem.load, groups))
    item_id = np.broadcast_to(np.arange(groups, dtype=np.int64), load.shape).copy()
    node = pack_in_orders(load, item_id, groups, nodes, np.asarray([SORTED], np.int64), 0.0, 0)
    if refine:
        best_swap(load, item_id, groups, node, nodes, UNTIL_NONE_HELPS)
    node_of_group = np.empty_like(node)
    np.put_along_axis(node_of_group, dealt, node, axis=1)
    node_load = np.stack([np.where(node == n, load, 0.0).sum(axis=1) for n in range(nodes)])
    speed = _node_speeds(problem)
    if speed.min() < speed.max():
        node_of_group = _heaviest_on_fastest(node_of_group, node_load, speed)
        node_load = np.sort(node_load, axis=0)[::-1]
        speed = np.sort(speed)[::-1]
    return Pairing(node_of_group, (node_load / speed[:, np.newaxis]).max(axis=0), is_exact=False)


def _heaviest_on_fastest(node_of_group: Ints, node_load: Floats, speed: Floats) -> Ints:
    """Rename nodes so that the heaviest part of each layer lies on the fastest node, and so on."""
    heaviest = np.argsort(-node_load, axis=0, kind="stable")
    fastest = np.argsort(-speed, kind="stable")
    renamed = np.empty_like(heaviest)
    np.put_along_axis(renamed, heaviest, np.broadcast_to(fastest[:, np.newaxis], heaviest.shape), axis=0)
    return np.take_along_axis(renamed.T, node_of_group, axis=1)


@lru_cache(maxsize=16)
def _all_pairings(num_groups: int, num_nodes: int) -> Ints:
    """List every pairing once, [pairings, groups]: a node is opened by the lowest group that has none yet."""
    size = num_groups // num_nodes
    partial: list[tuple[int, ...]] = [()]
    for _ in range(num_groups):
        partial = [
            (*nodes, node)
            for nodes in partial
            for node in range(min(num_nodes, max(nodes, default=-1) + 2))
            if nodes.count(node) < size
        ]
    return np.asarray(partial, np.int64)
