"""Compile kernels, or load them from the cache, before their time counts."""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.kernels.compiling import is_interpreted
from equipoise.planning.dropin import rebalance_experts
from equipoise.planning.planner import plan
from equipoise.planning.published import CONSTRUCTORS, REFINERS, balanced_packing


def warm_up(*, everything: bool = True, dispatch: str = "equal", goes_on: bool = False) -> None:
    """Run every kernel once on a toy, so that each is compiled and cached; or only those of plan() without a forecast.

    ``dispatch`` and ``goes_on`` say whether plans for optimal dispatch, and from the placement before, are among these.

    Seconds the first time on a machine, a fraction of one after. Call it before an engine's first step, never inside.
    """
    if is_interpreted():
        return
    load = np.arange(1.0, 33.0).reshape(2, 16)
    plan(load, Cluster(num_ranks=4, slots_per_rank=5))
    plan(load, Cluster(num_ranks=4, slots_per_rank=5, num_nodes=2), num_groups=4, locality="strict")
    plan(load[:, :7], Cluster(num_ranks=4, slots_per_rank=2), effort="best")
    if everything or dispatch == "optimal":
        plan(load, Cluster(num_ranks=4, slots_per_rank=5), dispatch="optimal")
    if everything or goes_on:
        in_use = plan(load[:, ::-1], Cluster(num_ranks=4, slots_per_rank=5)).placement
        plan(load, in_use.cluster, previous=in_use)
    if everything:
        plan(np.tile(load[0], (6, 1, 1)), Cluster(num_ranks=4, slots_per_rank=5), forecast="robust:2")
        unequal = Cluster(num_ranks=4, slots_per_rank=5, num_nodes=2, rank_speeds=[1, 1, 2, 2])
        plan(load, unequal, num_groups=4, locality="soft", constraints=Constraints(home_share=0.9))
        rebalance_experts(load, 20, 1, 1, 4)
        for constructor in CONSTRUCTORS:
            balanced_packing(load, 4, constructor=constructor, candidates=4, refine=None)
        for refine in REFINERS:
            balanced_packing(load, 4, refine=refine)
