"""equipoise: balance the experts of Mixture-of-Experts models over GPUs.

``plan(load, cluster)`` says how many replicas each expert gets and which GPU holds each, with a proven bound on how much
better any placement could be; ``dispatch(load, placement)`` splits a batch over the replicas there are, and ``plan_batch(load,
home)`` fills spare slots for it; ``simulate(trace, cluster, policies)`` what plans reach on windows they have not seen, and
``explain`` where the rest is lost. ``rebalance_experts`` is DeepSeek's call, with a better planner behind it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.budget import MoveBudget as MoveBudget
    from equipoise.cluster import Cluster as Cluster
    from equipoise.constraints import Constraints as Constraints
    from equipoise.controlling.controller import Controller as Controller
    from equipoise.controlling.settings import ControlSettings as ControlSettings
    from equipoise.costs import RankCost as RankCost
    from equipoise.dispatching.batches import BatchPlan as BatchPlan
    from equipoise.dispatching.batches import MoveTime as MoveTime
    from equipoise.dispatching.batches import plan_batch as plan_batch
    from equipoise.dispatching.splitting import Dispatch as Dispatch
    from equipoise.dispatching.splitting import dispatch as dispatch
    from equipoise.errors import EquipoiseError as EquipoiseError
    from equipoise.migrating.checking import check_schedule as check_schedule
    from equipoise.migrating.scheduling import schedule_moves as schedule_moves
    from equipoise.placement import ABSENT as ABSENT
    from equipoise.placement import Placement as Placement
    from equipoise.planning.dropin import rebalance_experts as rebalance_experts
    from equipoise.planning.planner import Plan as Plan
    from equipoise.planning.planner import plan as plan
    from equipoise.planning.published import balanced_packing as balanced_packing
    from equipoise.planning.relabelling import relabel as relabel
    from equipoise.planning.trading import trade_off as trade_off
    from equipoise.simulating.explaining import explain as explain
    from equipoise.simulating.replaying import simulate as simulate
    from equipoise.streams import LoadStream as LoadStream
    from equipoise.trace import LoadTrace as LoadTrace

__version__ = "0.1.0"

_HOME = {
    "ABSENT": "placement",
    "BatchPlan": "dispatching.batches",
    "Cluster": "cluster",
    "Constraints": "constraints",
    "ControlSettings": "controlling.settings",
    "Controller": "controlling.controller",
    "Dispatch": "dispatching.splitting",
    "EquipoiseError": "errors",
    "LoadStream": "streams",
    "LoadTrace": "trace",
    "MoveBudget": "budget",
    "MoveTime": "dispatching.batches",
    "Placement": "placement",
    "Plan": "planning.planner",
    "RankCost": "costs",
    "balanced_packing": "planning.published",
    "check_schedule": "migrating.checking",
    "dispatch": "dispatching.splitting",
    "explain": "simulating.explaining",
    "plan": "planning.planner",
    "plan_batch": "dispatching.batches",
    "rebalance_experts": "planning.dropin",
    "relabel": "planning.relabelling",
    "schedule_moves": "migrating.scheduling",
    "simulate": "simulating.replaying",
    "trade_off": "planning.trading",
}

__all__ = [
    "ABSENT",
    "BatchPlan",
    "Cluster",
    "Constraints",
    "ControlSettings",
    "Controller",
    "Dispatch",
    "EquipoiseError",
    "LoadStream",
    "LoadTrace",
    "MoveBudget",
    "MoveTime",
    "Placement",
    "Plan",
    "RankCost",
    "balanced_packing",
    "check_schedule",
    "dispatch",
    "explain",
    "plan",
    "plan_batch",
    "rebalance_experts",
    "relabel",
    "schedule_moves",
    "simulate",
    "trade_off",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: compiled parts cost half a second to import."""
    if name not in _HOME:
        raise AttributeError(f"module 'equipoise' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"equipoise.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
