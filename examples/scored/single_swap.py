"""The published program: the best of 128 packings (noise 0.2), then exchanges of one expert for one.

Score it beside the proposal that replaced it::

    equipoise score examples/scored/single_swap.py examples/scored/destroy_and_rebuild.py --trace LOAD
"""

from equipoise.scoring.planners import published


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    """Answer DeepSeek's call."""
    # EVOLVE-BLOCK-START
    packing, noise = "ensemble+swap", 0.2
    # EVOLVE-BLOCK-END
    return published(weight, num_replicas, num_groups, num_nodes, num_gpus, packing=packing, candidates=128, noise=noise)
