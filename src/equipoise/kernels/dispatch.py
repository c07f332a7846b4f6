"""How engines split an expert's tokens over its replicas: tokens of each slot, [layers, slots]."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.random import below, key_of
from equipoise.kernels.types import Flags, Floats, Ints

_MOST_HASHED = 1e7


@kernel
def split_evenly(expert_of_slot: Ints, load: Floats) -> Floats:
    """Give each replica load / replicas; empty slots, -1, get nothing."""
    num_layers, num_slots = expert_of_slot.shape
    tokens = np.zeros((num_layers, num_slots), np.float64)
    count = np.empty(load.shape[1], np.int64)
    for x in range(num_layers):
        _count_replicas(expert_of_slot[x], count)
        for s in range(num_slots):
            e = expert_of_slot[x, s]
            if e >= 0:
                tokens[x, s] = load[x, e] / count[e]
    return tokens


@kernel
def split_by_shares(expert_of_slot: Ints, shares: Floats, load: Floats) -> Floats:
    """Give each slot its share [layers, slots] of its expert's load."""
    tokens = np.zeros(expert_of_slot.shape, np.float64)
    for x in range(expert_of_slot.shape[0]):
        for s in range(expert_of_slot.shape[1]):
            e = expert_of_slot[x, s]
            if e >= 0:
                tokens[x, s] = shares[x, s] * load[x, e]
    return tokens


@kernel
def split_by_hash(expert_of_slot: Ints, load: Floats, seed: int) -> Floats:
    """Send every token to a replica by a hash of its number; what is less than a token is split evenly.

    Tokens of a layer that have a choice are numbered expert by expert; the hash is keyed by the layer's load and ``seed``.
    An expert with more than ten million tokens is split evenly: chance moves less than a thousandth of them. O(tokens of
    experts with several replicas).
    """
    num_layers, num_slots = expert_of_slot.shape
    num_experts = load.shape[1]
    tokens = np.zeros((num_layers, num_slots), np.float64)
    count = np.empty(num_experts, np.int64)
    first = np.empty(num_experts + 1, np.int64)
    slots = np.empty(num_slots, np.int64)
    for x in range(num_layers):
        key = key_of(seed, load[x])
        _list_slots(expert_of_slot[x], count, first, slots)
        number = 0
        for e in range(num_experts):
            if count[e] == 0:
                continue
            whole = int(load[x, e]) if count[e] > 1 and load[x, e] <= _MOST_HASHED else 0
            for i in range(count[e]):
                tokens[x, slots[first[e] + i]] = (load[x, e] - whole) / count[e]
            for t in range(whole):
                tokens[x, slots[first[e] + below(key, number + t, count[e])]] += 1.0
            number += whole
    return tokens


@kernel
def split_in_turn(expert_of_slot: Ints, load: Floats, num_sources: int) -> Floats:
    """Let every source deal its tokens of an expert over the replicas in turn.

    Sources have equally many tokens of an expert, the first ones one more; source i begins with replica i mod replicas. What
    is less than a token is split evenly.
    """
    num_layers, num_slots = expert_of_slot.shape
    num_experts = load.shape[1]
    tokens = np.zeros((num_layers, num_slots), np.float64)
    count = np.empty(num_experts, np.int64)
    first = np.empty(num_experts + 1, np.int64)
    slots = np.empty(num_slots, np.int64)
    for x in range(num_layers):
        _list_slots(expert_of_slot[x], count, first, slots)
        for e in range(num_experts):
            if count[e] == 0:
                continue
            whole = np.floor(load[x, e])
            each = np.floor(whole / num_sources)
            more = whole - each * num_sources
            rounds = np.floor(each / count[e])
            for i in range(count[e]):
                tokens[x, slots[first[e] + i]] = rounds * num_sources + (load[x, e] - whole) / count[e]
            for source in range(num_sources):
                left = each - rounds * count[e] + (1.0 if source < more else 0.0)
                replica = source % count[e]
                while left > 0.0:
                    tokens[x, slots[first[e] + replica]] += 1.0
                    replica = (replica + 1) % count[e]
                    left -= 1.0
    return tokens


@kernel
def pin_sources(
    expert_of_slot: Ints, num_experts: int, rank_of_slot: Ints, node_of_rank: Ints, alive: Flags, seed: int
) -> Floats:
    """Return the share of each slot, [layers, slots], when each source rank always uses one nearest replica of an expert.

    Nearest is its own rank's, else one on its node, else any. The ranks of a node that have none of their own are spread evenly
    over those on the node, ranks with none near over all, in an order drawn from ``seed``. Every rank that is up has as many
    tokens of an expert.
    """
    num_layers, num_slots = expert_of_slot.shape
    num_ranks = node_of_rank.shape[0]
    shares = np.zeros((num_layers, num_slots), np.float64)
    count = np.empty(num_experts, np.int64)
    first = np.empty(num_experts + 1, np.int64)
    slots = np.empty(num_slots, np.int64)
    taken = np.empty(num_slots, np.int64)
    sources = alive.sum()
    row = np.empty(num_slots, np.float64)
    for x in range(num_layers):
        _list_slots(expert_of_slot[x], count, first, slots)
        for s in range(num_slots):
            row[s] = expert_of_slot[x, s]
        key = key_of(seed, row)
        taken[:] = 0
        for tier in range(3):
            if tier == 2:
                _add_shares(taken, sources, shares[x])
            for r in range(num_ranks):
                if not alive[r]:
                    continue
                for e in range(num_experts):
                    mine = slots[first[e] : first[e] + count[e]]
                    if count[e] == 0 or _nearest_tier(mine, r, rank_of_slot, node_of_rank) != tier:
                        continue
                    start = below(key, e * num_ranks + r, count[e]) if tier == 2 else 0
                    best = -1
                    for i in range(count[e]):
                        s = mine[(start + i) % count[e]]
                        near = tier == 2 or _distance(rank_of_slot[s], r, node_of_rank) == tier
                        if near and (best < 0 or taken[s] < taken[best]):
                            best = s
                    taken[best] += 1
        _add_shares(taken, sources, shares[x])
    return shares


@kernel
def _add_shares(taken: Ints, sources: int, shares: Floats) -> None:
    """Add to each slot's share the sources that have taken it, and count anew."""
    for s in range(taken.shape[0]):
        shares[s] += taken[s] / sources
        taken[s] = 0


@kernel
def _distance(rank: int, other: int, node_of_rank: Ints) -> int:
    if rank == other:
        return 0
    return 1 if node_of_rank[rank] == node_of_rank[other] else 2


@kernel
def _nearest_tier(slots: Ints, rank: int, rank_of_slot: Ints, node_of_rank: Ints) -> int:
    nearest = 2
    for s in slots:
        nearest = min(nearest, _distance(rank_of_slot[s], rank, node_of_rank))
    return nearest


@kernel
def _count_replicas(expert: Ints, count: Ints) -> None:
    count[:] = 0
    for e in expert:
        if e >= 0:
            count[e] += 1


@kernel
def _list_slots(expert: Ints, count: Ints, first: Ints, slots: Ints) -> None:
    """List the slots of each expert, rising: those of e are slots[first[e] : first[e] + count[e]]."""
    _count_replicas(expert, count)
    first[0] = 0
    for e in range(count.shape[0]):
        first[e + 1] = first[e] + count[e]
        count[e] = 0
    for s in range(expert.shape[0]):
        e = expert[s]
        if e >= 0:
            slots[first[e] + count[e]] = s
            count[e] += 1
