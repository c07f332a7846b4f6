"""What ranks get and receive: sums over slots."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Flags, Floats, Ints


@kernel
def add_up_ranks(tokens: Floats, rank_of_slot: Ints, num_ranks: int) -> Floats:
    """Add up the tokens of slots [layers, slots] by rank: [layers, ranks]."""
    total = np.zeros((tokens.shape[0], num_ranks), np.float64)
    for x in range(tokens.shape[0]):
        for s in range(tokens.shape[1]):
            total[x, rank_of_slot[s]] += tokens[x, s]
    return total


@kernel
def add_up_active(tokens: Floats, rank_of_slot: Ints, num_ranks: int, batches: float) -> Floats:
    """Add up by rank how many replicas are active in a mean batch: min(1, tokens / batches) of each; [layers, ranks]."""
    total = np.zeros((tokens.shape[0], num_ranks), np.float64)
    for x in range(tokens.shape[0]):
        for s in range(tokens.shape[1]):
            total[x, rank_of_slot[s]] += min(1.0, tokens[x, s] / batches)
    return total


@kernel
def largest_times(rank_load: Floats, speed: Floats) -> Floats:
    """Return the largest rank time of each layer, [layers]; ranks that are down have no load."""
    largest = np.zeros(rank_load.shape[0], np.float64)
    for x in range(rank_load.shape[0]):
        for r in range(rank_load.shape[1]):
            largest[x] = max(largest[x], rank_load[x, r] / speed[r])
    return largest


@kernel
def add_up_largest(load: Floats, expert_of_slot: Ints, rank_of_slot: Ints, num_ranks: int) -> float:
    """Add up over layers the largest rank load under an even split; -1 where an expert has no slot."""
    num_experts = load.shape[1]
    count, total = np.empty(num_experts, np.int64), np.empty(num_ranks, np.float64)
    largest = 0.0
    for x in range(expert_of_slot.shape[0]):
        count[:] = 0
        for s in range(expert_of_slot.shape[1]):
            if expert_of_slot[x, s] >= 0:
                count[expert_of_slot[x, s]] += 1
        for e in range(num_experts):
            if count[e] == 0:
                return -1.0
        total[:] = 0.0
        for s in range(expert_of_slot.shape[1]):
            e = expert_of_slot[x, s]
            if e >= 0:
                total[rank_of_slot[s]] += load[x, e] / count[e]
        most = 0.0
        for r in range(num_ranks):
            most = max(most, total[r])
        largest += most
    return largest


@kernel
def count_received(new: Ints, rank_of_new: Ints, old: Ints, rank_of_old: Ints, num_ranks: int, num_experts: int) -> Ints:
    """Count the experts that each rank holds now and did not before, [layers, ranks]; both maps are [layers, slots]."""
    received = np.zeros((new.shape[0], num_ranks), np.int64)
    seen = np.full((num_ranks, num_experts), -1, np.int64)
    for x in range(new.shape[0]):
        for s in range(old.shape[1]):
            if old[x, s] >= 0:
                seen[rank_of_old[s], old[x, s]] = x
        for s in range(new.shape[1]):
            if new[x, s] >= 0 and seen[rank_of_new[s], new[x, s]] != x:
                seen[rank_of_new[s], new[x, s]] = x
                received[x, rank_of_new[s]] += 1
    return received


@kernel
def audit(expert_of_slot: Ints, rank_of_slot: Ints, alive: Flags, num_experts: int) -> tuple[int, int, int, int]:
    """Look for what is wrong with a placement [layers, slots].

    Returns the first layer that leaves an expert without a slot and that expert, the first layer in which a rank that is down
    holds one, -1 each where there is none, and how many slots hold an expert that their rank holds already.
    """
    lost_layer, lost_expert, dead_layer, twice = -1, -1, -1, 0
    held = np.full((alive.shape[0], num_experts), -1, np.int64)
    found = np.full(num_experts, -1, np.int64)
    for x in range(expert_of_slot.shape[0]):
        for s in range(expert_of_slot.shape[1]):
            e = expert_of_slot[x, s]
            if e < 0:
                continue
            r = rank_of_slot[s]
            found[e] = x
            if held[r, e] == x:
                twice += 1
            held[r, e] = x
            if dead_layer < 0 and not alive[r]:
                dead_layer = x
        for e in range(num_experts):
            if lost_layer < 0 and found[e] != x:
                lost_layer, lost_expert = x, e
    return lost_layer, lost_expert, dead_layer, twice
