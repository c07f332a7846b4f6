"""Our planners and the published packings behind DeepSeek's call, as the judge runs them and as programs may call them."""

from __future__ import annotations

from typing import Any

from equipoise.cluster import Cluster
from equipoise.placement import Placement
from equipoise.planning.composition import place
from equipoise.planning.locality import pair_groups, rows_by_load
from equipoise.planning.planner import plan
from equipoise.planning.problem import even_slots, make_problem
from equipoise.planning.published import named_composition, split_name
from equipoise.tensors import as_array, like

Maps = tuple[Any, Any, Any]


def ours(weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int, *, effort: str = "default") -> Maps:
    """Answer DeepSeek's call with :func:`equipoise.plan`: by groups where nodes divide groups, as there.

    >>> phy2log, _, _ = ours([[90, 30, 20, 20]], 6, 1, 1, 2)
    >>> phy2log.tolist()
    [[0, 1, 2, 0, 1, 3]]
    """
    load = as_array("weight", weight)
    cluster, groups, locality = _asked(load, num_replicas, num_groups, num_nodes, num_gpus)
    return _maps(weight, plan(load, cluster, num_groups=groups, locality=locality, effort=effort).placement)


def published(
    weight: Any,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    packing: str = "lpt",
    candidates: int = 128,
    noise: float = 0.1,
) -> Maps:
    """Answer DeepSeek's call with greedy counts and a published packing (:mod:`equipoise.planning.published`).

    ``lpt`` alone is DeepSeek's own algorithm, but for ties, and never with an expert twice on a GPU.

    >>> phy2log, _, _ = published([[90, 30, 20, 20]], 6, 1, 1, 2, packing="lpt+swap")
    >>> sorted(phy2log[0].tolist())
    [0, 0, 1, 1, 2, 3]
    """
    load = as_array("weight", weight)
    cluster, groups, locality = _asked(load, num_replicas, num_groups, num_nodes, num_gpus)
    problem = make_problem(load, cluster, groups, locality)
    pairing = pair_groups(problem)
    rows = rows_by_load(problem, None if pairing is None else pairing.node_of_expert(problem.num_experts))
    composition = named_composition(*split_name(packing), candidates=candidates, noise=noise)
    return _maps(weight, Placement(place(problem, rows, composition)[0], cluster, problem.num_experts))


def _asked(load: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int) -> tuple[Cluster, int, str]:
    by_groups = num_groups % num_nodes == 0
    cluster = Cluster(num_gpus, even_slots(num_replicas, num_gpus, load.shape[1]), num_nodes if by_groups else 1)
    return (cluster, num_groups, "strict") if by_groups else (cluster, 1, "none")


def _maps(weight: Any, placement: Placement) -> Maps:
    give_back = like(weight, on_its_device=False)
    maps = placement.expert_of_slot, placement.slots_of_expert, placement.replica_count
    phy2log, log2phy, logcnt = (give_back(array.copy()) for array in maps)
    return phy2log, log2phy, logcnt
