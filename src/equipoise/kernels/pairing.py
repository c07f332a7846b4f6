"""Groups to nodes: which groups share a node, so that the heaviest node is lightest."""

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
