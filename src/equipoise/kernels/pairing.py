"""Groups to nodes: which groups share a node, so that the node that takes longest takes least."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats, Ints


@kernel
def sum_groups(load: Floats, num_groups: int) -> Floats:
    """Add up the load of each group of consecutive experts: [layers, experts] to [layers, groups], in expert order."""
    num_layers, num_experts = load.shape
    size = num_experts // num_groups
    total = np.zeros((num_layers, num_groups), np.float64)
    for x in range(num_layers):
        for e in range(num_experts):
            total[x, e // size] += load[x, e]
    return total


@kernel
def best_pairing(group_load: Floats, pairings: Ints, num_nodes: int) -> tuple[Ints, Floats]:
    """Try every pairing and keep, a layer, the first whose heaviest node is lightest.

    ``group_load`` is [layers, groups]; ``pairings`` [pairings, groups] holds a node for each group. Returns the node of each
    group [layers, groups] and the load of the heaviest node [layers].
    """
    num_layers, num_groups = group_load.shape
    best = np.empty(num_layers, np.int64)
    best_heaviest = np.empty(num_layers, np.float64)
    node_load = np.empty(num_nodes, np.float64)
    for x in range(num_layers):
        for candidate in range(pairings.shape[0]):
            node_load[:] = 0.0
            for g in range(num_groups):
                node_load[pairings[candidate, g]] += group_load[x, g]
            heaviest = node_load.max()
            if candidate == 0 or heaviest < best_heaviest[x]:
                best[x] = candidate
                best_heaviest[x] = heaviest
    return pairings[best], best_heaviest


@kernel
def best_pairing_on(group_load: Floats, pairings: Ints, node_speed: Floats) -> tuple[Ints, Floats]:
    """Do as :func:`best_pairing` for nodes of ``node_speed`` [nodes]: the slowest time is least, and returned.

    The heaviest part goes to the fastest node, the next to the next: any other order has a part that takes longer.
    """
    num_layers, num_groups = group_load.shape
    num_nodes = node_speed.shape[0]
    fastest = np.argsort(-node_speed, kind="mergesort")
    node_of_group = np.empty((num_layers, num_groups), np.int64)
    best_time = np.empty(num_layers, np.float64)
    part_load = np.empty(num_nodes, np.float64)
    node_of_part = np.empty(num_nodes, np.int64)
    for x in range(num_layers):
        for candidate in range(pairings.shape[0]):
            part_load[:] = 0.0
            for g in range(num_groups):
                part_load[pairings[candidate, g]] += group_load[x, g]
            heaviest = np.argsort(-part_load, kind="mergesort")
            time = 0.0
            for i in range(num_nodes):
                time = max(time, part_load[heaviest[i]] / node_speed[fastest[i]])
            if candidate == 0 or time < best_time[x]:
                best_time[x] = time
                for i in range(num_nodes):
                    node_of_part[heaviest[i]] = fastest[i]
                for g in range(num_groups):
                    node_of_group[x, g] = node_of_part[pairings[candidate, g]]
    return node_of_group, best_time
