"""Compile what dispatching needs, or load it from the cache, before its time counts."""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.dispatching.batches import MoveTime, plan_batch
from equipoise.dispatching.splitting import dispatch
from equipoise.dispatching.stepping import BatchDispatcher, Dispatcher
from equipoise.dispatching.tables import fixed_table
from equipoise.dispatching.tokens import apportion, apportion_exactly, choose_slots
from equipoise.kernels.compiling import is_interpreted
from equipoise.placement import Placement


def warm_up() -> None:
    """Split a toy batch, as one and step by step, fill spare slots for it, and choose slots token by token."""
    if is_interpreted():
        return
    load = np.arange(1, 9).reshape(2, 4)
    placement = Placement([[0, 1, 0, 2, 3, 1]] * 2, Cluster(num_ranks=3, slots_per_rank=2), num_experts=4)
    found = dispatch(load, placement)
    plan_batch(load, placement, move_time=MoveTime(1e-6, 1e6))
    Dispatcher(placement)
    BatchDispatcher(placement)
    apportion(found.shares, placement, load, source=0)
    apportion_exactly(found.whole_tokens, placement, load[np.newaxis])
    choose_slots(np.array([[0, 1]]), found.shares, placement, layer=0, source=0)
    fixed_table(placement, found.shares)
