"""Compile what a replay needs, or load it from the cache, before its time counts."""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.dispatching.warming import warm_up as warm_up_dispatching
from equipoise.kernels.compiling import is_interpreted
from equipoise.migrating.warming import warm_up as warm_up_migrating
from equipoise.planning.warming import warm_up as warm_up_planning
from equipoise.simulating.replaying import simulate
from equipoise.simulating.rules import ENGINES, RULES


def warm_up(*, everything: bool = False) -> None:
    """Compile planning (all of it, or what plan() needs), then replay a toy under engines' dispatch rules, or under all."""
    if is_interpreted():
        return
    warm_up_planning(everything=everything)
    if everything:
        warm_up_dispatching()
        warm_up_migrating()
    windows = np.arange(1.0, 97.0).reshape(6, 2, 8)
    for rule in RULES if everything else ENGINES:
        simulate(windows, Cluster(num_ranks=4, slots_per_rank=3), ["auto", "robust:2"], dispatch=rule, time_model="decode-h100")
