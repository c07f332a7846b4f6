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
from equipoise.kernels.pairing import best_pairing, sum_groups
from equipoise.kernels.refining import UNTIL_NONE_HELPS, best_swap
from equipoise.kernels.sorting import sort_rows_descending
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.problem import Problem

MAX_PAIRINGS = 20_000
"""Up to so many ways to put groups on nodes, all are tried: 8 groups on 4 nodes have 105, 12 on 6 have 10,395."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Experts by row, in the order in which ties are broken.

    ``load`` float64 and ``expert`` int64 are [rows, experts of a row]; ``num_slots`` and ``num_ranks`` are those of a row.
    """

    load: Floats
    expert: Ints
    num_slots: int
    num_ranks: int


@dataclass(frozen=True, eq=False)
class Pairing:
    """Groups on nodes: ``node_of_group`` [layers, groups], the heaviest node's load [layers], and whether that is least."""

    node_of_group: Ints
    heaviest: Floats
    is_exact: bool


def rows_by_load(problem: Problem, pairing: Pairing | None) -> Rows:
    """Return rows sorted by (load, id), largest first: a plan then depends on loads, not on how experts are numbered."""
    load, expert = _split(problem, pairing)
    load, order = sort_rows_descending(load)
    return _rows(problem, load, np.take_along_axis(expert, order, axis=1))


def rows_as_published(problem: Problem, pairing: Pairing | None) -> Rows:
    """Return rows in the order in which the published policy breaks ties: groups as dealt (largest first), then ids."""
    load, expert = _split(problem, pairing)
    if pairing is not None:
        group_load = sum_groups(problem.load, problem.num_groups)
        _, dealt = sort_rows_descending(group_load)
        place_of_group = np.argsort(dealt, axis=1, kind="stable")
        size = problem.num_experts // problem.num_groups
        layer = np.repeat(np.arange(problem.num_layers), problem.num_domains)
        key = place_of_group[layer[:, np.newaxis], expert // size] * problem.num_experts + expert
        order = np.argsort(key, axis=1, kind="stable")
        load, expert = np.take_along_axis(load, order, axis=1), np.take_along_axis(expert, order, axis=1)
    return _rows(problem, load, expert)


def pair_groups(problem: Problem) -> Pairing | None:
    """Put groups on nodes so that the heaviest node is lightest; None without strict locality.

    Exact where there are at most MAX_PAIRINGS ways, else LPT and then exchanges.
    """
    if problem.num_domains == 1:
        return None
    groups, nodes = problem.num_groups, problem.num_domains
    if count_pairings(groups, nodes) > MAX_PAIRINGS:
        return _pair_by_packing(problem, refine=True)
    node_of_group, heaviest = best_pairing(sum_groups(problem.load, groups), _all_pairings(groups, nodes), nodes)
    return Pairing(node_of_group, heaviest, is_exact=True)


def pair_groups_as_published(problem: Problem) -> Pairing | None:
    """Put groups on nodes by LPT, as DeepSeek's policy does; None without strict locality."""
    return None if problem.num_domains == 1 else _pair_by_packing(problem, refine=False)


def count_pairings(num_groups: int, num_nodes: int) -> int:
    """Return the number of ways to put groups on equal nodes: G! / ((G/N)!^N N!)."""
    ordered: int = factorial(num_groups) // factorial(num_groups // num_nodes) ** num_nodes
    return ordered // factorial(num_nodes)


def slots_in_rank_order(problem: Problem, expert_of_slot: Ints) -> Ints:
    """Lay rows' slots [rows, slots of a row] side by side as [layers, slots], node by node, in the cluster's rank order."""
    slots = expert_of_slot.reshape(problem.num_layers, -1)
    if problem.num_domains == 1:
        return slots
    rank_order = np.argsort(problem.cluster.node_of_rank, kind="stable")
    by_rank = slots.reshape(problem.num_layers, problem.cluster.num_ranks, -1)
    placed = np.empty_like(by_rank)
    placed[:, rank_order] = by_rank
    return placed.reshape(problem.num_layers, -1)


def _split(problem: Problem, pairing: Pairing | None) -> tuple[Floats, Ints]:
    """Load and expert of each row, in rising id."""
    layers, experts = problem.num_layers, problem.num_experts
    if pairing is None:
        return problem.load, np.broadcast_to(np.arange(experts, dtype=np.int64), (layers, experts))
    node_of_expert = np.repeat(pairing.node_of_group, experts // problem.num_groups, axis=1)
    expert = np.argsort(node_of_expert, axis=1, kind="stable")
    load = np.take_along_axis(problem.load, expert, axis=1)
    shape = (layers * problem.num_domains, -1)
    return load.reshape(shape), expert.reshape(shape)


def _rows(problem: Problem, load: Floats, expert: Ints) -> Rows:
    domains, cluster = problem.num_domains, problem.cluster
    return Rows(np.ascontiguousarray(load), expert, cluster.num_slots // domains, cluster.num_ranks // domains)


def _pair_by_packing(problem: Problem, *, refine: bool) -> Pairing:
    nodes, groups = problem.num_domains, problem.num_groups
    load, dealt = sort_rows_descending(sum_groups(problem.load, groups))
    item_id = np.ascontiguousarray(np.broadcast_to(np.arange(groups, dtype=np.int64), load.shape))
    node = pack_in_orders(load, item_id, groups, nodes, np.asarray([SORTED], np.int64), 0.0, 0)
    if refine:
        best_swap(load, item_id, groups, node, nodes, UNTIL_NONE_HELPS)
    node_of_group = np.empty_like(node)
    np.put_along_axis(node_of_group, dealt, node, axis=1)
    heaviest = np.stack([np.where(node == n, load, 0.0).sum(axis=1) for n in range(nodes)]).max(axis=0)
    return Pairing(node_of_group, heaviest, is_exact=False)


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
