"""DeepSeek's call: the same arguments, shapes and rules, with this planner behind it.

Source: deepseek-ai/EPLB, ``rebalance_experts``. The outside's names are used here and nowhere else: a physical expert is a
slot, a logical expert an expert, a GPU a rank.
"""

from __future__ import annotations

from typing import Any

from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Ints
from equipoise.placement import Placement
from equipoise.planning.composition import Composition, place
from equipoise.planning.locality import pair_groups_as_published, rows_as_published
from equipoise.planning.packing import lpt
from equipoise.planning.planner import Plan, plan
from equipoise.planning.problem import even_slots, make_problem
from equipoise.planning.refining import best_swap
from equipoise.tensors import as_array, like


def rebalance_experts(weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int) -> tuple[Any, Any, Any]:
    """Balance experts over GPUs, called like DeepSeek's EPLB.

    Hierarchical (groups stay on a node) where ``num_nodes`` divides ``num_groups``, else global, as there. On every layer the
    result is at least as balanced as the published algorithm's would be if it kept the copies of an expert apart; it never
    puts one expert twice on a GPU.

    Parameters
    ----------
    weight : tensor or array [layers, num_logical_experts]
        Load of each expert, >= 0.
    num_replicas : int
        Physical experts (slots) over all GPUs; divisible by ``num_gpus``.
    num_groups, num_nodes, num_gpus : int
        Groups of experts, nodes, GPUs.

    Returns
    -------
    physical_to_logical_map : int64 [layers, num_replicas]
    logical_to_physical_map : int64 [layers, num_logical_experts, largest count], padded with -1
    expert_count : int64 [layers, num_logical_experts]
        Tensors on the CPU for a tensor, else arrays.

    Raises
    ------
    ArgumentError
        Where the published code asserts, and where experts would have to lie twice on a GPU.

    Examples
    --------
    >>> weight = [[90, 30, 20, 20, 10, 10]]
    >>> phy2log, log2phy, logcnt = rebalance_experts(weight, 8, 1, 1, 4)
    >>> phy2log.tolist(), logcnt.tolist()
    ([[0, 2, 0, 3, 0, 4, 1, 5]], [[3, 1, 1, 1, 1, 1]])
    """
    load = as_array("weight", weight)
    if load.ndim != 2:
        raise ArgumentError(
            f"weight has shape {list(load.shape)}", "it must be [layers, num_logical_experts]", "add up the steps first"
        )
    for name, value in (("num_groups", num_groups), ("num_nodes", num_nodes)):
        check_integer(name, value)
    hierarchical = num_groups % num_nodes == 0
    groups, nodes = (num_groups, num_nodes) if hierarchical else (1, 1)
    cluster = Cluster(num_gpus, even_slots(num_replicas, num_gpus, load.shape[1]), nodes)
    result = plan(load, cluster, num_groups=groups, locality="strict" if hierarchical else "none")
    slots = _no_worse_than_published(load, result)
    placement = Placement(slots, cluster, load.shape[1])
    give_back = like(weight, on_its_device=False)
    maps = placement.expert_of_slot, placement.slots_of_expert, placement.replica_count
    phy2log, log2phy, logcnt = (give_back(array.copy()) for array in maps)
    return phy2log, log2phy, logcnt


def _no_worse_than_published(load: Any, result: Plan) -> Ints:
    """Where the published steps, which break ties by id, pack a layer lower, start from them instead.

    Ties between loads per replica can lead to other counts; on a tie neither choice is better in general.
    """
    problem = make_problem(load, result.placement.cluster, result.num_groups, result.locality)
    rows = rows_as_published(problem, pair_groups_as_published(problem))
    _, published_largest = place(problem, rows, Composition(lpt()))
    slots: Ints = result.placement.expert_of_slot.copy()
    if (published_largest < result.largest).any():
        refined_slots, refined_largest = place(problem, rows, Composition(lpt(), best_swap()))
        better = refined_largest < result.largest
        slots[better] = refined_slots[better]
    return slots
