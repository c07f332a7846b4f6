"""Clusters that several tests draw."""

from __future__ import annotations

from equipoise import Cluster


def random_cluster(rng, experts, num_nodes):
    """A cluster with room for every expert, rooms and speeds unequal, some ranks down."""
    ranks = int(rng.integers(num_nodes, 6))
    room = rng.integers(1, min(experts, 4) + 1, ranks).tolist()
    alive = (rng.random(ranks) < 0.8).tolist()
    while sum(n for n, up in zip(room, alive, strict=True) if up) < experts:
        room, alive = [*room, min(experts, 3)], [*alive, True]
    node = [*range(num_nodes), *rng.integers(0, num_nodes, len(room) - num_nodes).tolist()]
    speeds = rng.choice([0.5, 1.0, 1.0, 2.0], len(room)).tolist()
    return Cluster(len(room), room, num_nodes, node_of_rank=node, rank_speeds=speeds, alive=alive)
