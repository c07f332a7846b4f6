"""The published proposal: the same 128 packings with noise 0.1, then the heaviest and the lightest rank emptied and dealt anew.

The rebuild is ours, mended in the places that docs/decisions.md names: as published it can return no valid packing.
"""

from equipoise.scoring.planners import published


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer DeepSeek's call."""
    # EVOLVE-BLOCK-START
    packing, noise = "ensemble+reconstruct", 0.1
    # EVOLVE-BLOCK-END
    return published(weight, num_replicas, num_groups, num_nodes, num_gpus, packing=packing, candidates=128, noise=noise)
