"""A first program to improve: greedy replicas, dealt to the ranks in turn."""

import torch


# EVOLVE-BLOCK-START
def count_replicas(load, num_slots):
    """Give every expert a replica, and each slot left to the expert with most load a replica; [layers, experts]."""
    layers, experts = load.shape
    count = torch.ones(layers, experts, dtype=torch.int64)
    every = torch.arange(layers)
    for _ in range(num_slots - experts):
        count[every, (load / count).argmax(dim=1)] += 1
    return count


def place(replica_load, num_ranks):
    """Return the slot of each replica, [layers, slots]: the heaviest first, to the ranks in turn."""
    layers, num_slots = replica_load.shape
    turn = torch.arange(num_slots)
    rank = turn % num_ranks
    slot = rank * (num_slots // num_ranks) + turn // num_ranks
    order = replica_load.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(1, order, slot.expand(layers, -1))


# EVOLVE-BLOCK-END


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Return the expert of each slot, the slots of each expert (-1 for none), and how many it has; DeepSeek's call."""
    layers, experts = weight.shape
    load = weight.double()
    count = count_replicas(load, num_replicas)
    replica = torch.arange(experts).repeat(layers).repeat_interleave(count.flatten()).reshape(layers, num_replicas)
    slot = place((load / count).gather(1, replica), num_gpus)
    phy2log = torch.empty_like(replica).scatter_(1, slot, replica)
    nth = torch.arange(num_replicas) - (count.cumsum(1) - count).gather(1, replica)
    log2phy = torch.full((layers, experts, int(count.max())), -1)
    log2phy[torch.arange(layers)[:, None], replica, nth] = slot
    return phy2log, log2phy, count
