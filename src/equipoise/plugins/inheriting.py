"""The placement in use, as an engine hands it over: with empty slots, of another width, or across nodes."""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Flags, Ints
from equipoise.placement import ABSENT, Placement


def checked_rows(in_use: Ints, num_layers: int, num_experts: int) -> Ints:
    """Return the placement in use as int64 [layers, slots it has], every number below 0 as ABSENT.

    Raises
    ------
    ArgumentError
        When it is of another model.
    """
    if in_use.ndim != 2 or in_use.shape[0] != num_layers or not np.issubdtype(in_use.dtype, np.integer):
        raise ArgumentError(
            f"the placement in use has shape {list(in_use.shape)} of {in_use.dtype}",
            f"it must be whole numbers [{num_layers} layers, slots]",
            "pass the placement of the model whose load this is",
        )
    if in_use.size and in_use.max() >= num_experts:
        raise ArgumentError(
            f"the placement in use holds expert {in_use.max()}",
            f"the load has {num_experts} experts",
            "pass the placement of the model whose load this is",
        )
    return np.maximum(in_use.astype(np.int64, copy=False), ABSENT)


def complete_rows(rows: Ints, num_slots: int, num_experts: int, is_open: Flags) -> Flags:
    """Tell which rows [layers] can go on as they are: of this width, open slots filled, every expert on one of them."""
    if rows.shape[1] != num_slots:
        return np.zeros(rows.shape[0], np.bool_)
    open_rows = rows[:, is_open]
    count = count_replicas(open_rows, num_experts)
    is_complete: Flags = (count > 0).all(axis=1) & (open_rows != ABSENT).all(axis=1)
    return is_complete


def count_replicas(rows: Ints, num_experts: int) -> Ints:
    """Return how many slots hold each expert, [layers, experts]."""
    layers = rows.shape[0]
    key = rows + (np.arange(layers) * (num_experts + 1))[:, np.newaxis] + 1
    count = np.bincount(key.ravel(), minlength=layers * (num_experts + 1)).reshape(layers, num_experts + 1)
    return np.ascontiguousarray(count[:, 1:])


def previous_placement(rows: Ints, cluster: Cluster, num_experts: int, num_groups: int, is_strict: bool) -> Placement | None:
    """Return what to plan from; None where its slots do not make whole ranks.

    Rank i stays rank i; of a wider placement the last ranks leave, of a narrower one the last ranks are new. Under strict
    locality what lies off its group's home counts as not there, so that the others can stay.
    """
    slots_per_rank = int(cluster.slot_counts[0])
    if rows.shape[1] == 0 or rows.shape[1] % slots_per_rank:
        return None
    if is_strict and cluster.num_nodes > 1:
        rows = _at_home(rows, cluster, num_experts // num_groups, num_groups)
    return Placement(rows, Cluster(rows.shape[1] // slots_per_rank, slots_per_rank), num_experts)


def _at_home(rows: Ints, cluster: Cluster, group_size: int, num_groups: int) -> Ints:
    nodes, layers = cluster.num_nodes, rows.shape[0]
    num_stay = min(rows.shape[1], cluster.num_slots)
    node = np.asarray(cluster.node_of_rank, np.int64)[cluster.rank_of_slot[:num_stay]]
    staying = rows[:, :num_stay]
    group = np.where(staying == ABSENT, 0, staying // group_size)
    key = (np.arange(layers)[:, np.newaxis] * num_groups + group) * nodes + node
    held = np.bincount(key[staying != ABSENT], minlength=layers * num_groups * nodes).reshape(layers, num_groups, nodes)
    is_apart = ((held > 0).sum(axis=2) > 1).any(axis=1) | ((held > 0).sum(axis=1) > num_groups // nodes).any(axis=1)
    if not is_apart.any():
        return rows
    rows = rows.copy()
    for x in np.flatnonzero(is_apart):
        home = _choose_homes(held[x], num_groups // nodes)
        rows[x, :num_stay][home[group[x]] != node] = ABSENT
    return rows


def _choose_homes(held: Ints, room: int) -> Ints:
    """Give each group the node that holds most of it, the fullest first, ``room`` groups a node."""
    groups, nodes = held.shape
    home, taken = np.full(groups, -1, np.int64), np.zeros(nodes, np.int64)
    for pair in np.argsort(-held.ravel(), kind="stable").tolist():
        g, n = divmod(pair, nodes)
        if home[g] < 0 and taken[n] < room:
            home[g] = n
            taken[n] += 1
    return home
