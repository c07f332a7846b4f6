"""Whether balancing pays: what a better placement saves of each token's time, against what moving to it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats
from equipoise.migrating.links import Links
from equipoise.migrating.scheduling import schedule_moves
from equipoise.models import Model, find_model
from equipoise.placement import Placement
from equipoise.planning.planner import plan
from equipoise.simulating.timing import TIME_MODELS
from equipoise.trace import LoadTrace

_NARROW_BITS = 8
ASCEND_DECODE, ASCEND_PREFILL = 128, 1024
"""Tokens of a device in decode, and of an input in prefill, under which vllm-ascend's guide says balancing does not pay."""


@dataclass(frozen=True)
class Worth:
    """What a plan saves against the placement in use, scored on steps that it was not planned on where there are any.

    Parameters
    ----------
    before, after : float
        Balancedness of the placement in use and of the plan.
    saved_per_token : float
        Seconds that each token of a step saves, over all layers; below 0 where the plan is worse.
    moves : int
        Replicas that ranks must receive.
    move_seconds : float
        What these take.
    every : int
        Steps from one rebalance to the next.
    is_next : bool
        Whether the plan was scored on steps after those it was made on.
    """

    before: float
    after: float
    saved_per_token: float
    moves: int
    move_seconds: float
    every: int
    is_next: bool

    @property
    def break_even(self) -> float | None:
        """Tokens of a step, over all ranks, from which on moves are paid back before the next; None where nothing is saved."""
        return self.move_seconds / (self.every * self.saved_per_token) if self.saved_per_token > 0.0 else None

    def pays(self, tokens: float) -> bool:
        """Whether steps of ``tokens`` tokens pay the moves back."""
        return self.break_even is not None and tokens >= self.break_even


def weigh(trace: LoadTrace, in_use: Placement, model: Model, links: Links, every: int, num_groups: int = 1) -> Worth:
    """Plan on the first half of a trace, and weigh what the plan saves on the second half against its moves.

    A token of a step passes each layer with ``model.top_k`` experts; a layer takes as long as its slowest rank (docs/
    time-model.md). Fixed costs of a batch are left out: they are the same before and after.

    Parameters
    ----------
    trace : LoadTrace
        Of the model; a single step is planned on and scored on alike.
    in_use : Placement
        The placement before.
    model : Model
        Whose experts move and are computed.
    links : Links
        How fast ranks send.
    every : int
        Steps from one rebalance to the next, >= 1.
    num_groups : int
        Groups of the router; the plan keeps to none.

    Raises
    ------
    ArgumentError
        When load and placement do not fit each other.
    """
    check_integer("every", every)
    past, future = _halves(trace)
    in_use.fitting_load(past)
    planned = plan(past, in_use.cluster, num_groups=num_groups).placement
    schedule = schedule_moves(in_use, planned)
    return Worth(
        before=in_use.balancedness(future),
        after=planned.balancedness(future),
        saved_per_token=seconds_per_token(model)
        * model.top_k
        * float((_peaks(in_use, future) - _peaks(planned, future)).sum()),
        moves=int(schedule.moves.sum()),
        move_seconds=schedule.seconds(links, model.expert_bytes),
        every=every,
        is_next=trace.num_steps > 1,
    )


def seconds_per_token(model: Model) -> float:
    """Return what one expert takes for one token on an H100, by the preset ``prefill-h100`` scaled to the expert's weights.

    Weights of more than 8 bits are computed at half the speed.

    >>> seconds_per_token(find_model("deepseek-v3")) == TIME_MODELS["prefill-h100"].cost.per_token
    True
    """
    known = find_model("deepseek-v3")
    size = (model.hidden * model.intermediate) / (known.hidden * known.intermediate)
    return TIME_MODELS["prefill-h100"].cost.per_token * size * (2.0 if model.bits > _NARROW_BITS else 1.0)


def strict_cost(trace: LoadTrace, cluster: Cluster, num_groups: int) -> tuple[float, float]:
    """Return the balancedness of plans that keep every group on one node, and of plans over all ranks; in-sample.

    Raises
    ------
    ArgumentError
        When groups do not fit experts or nodes.
    """
    strict = plan(trace, cluster, num_groups=num_groups, locality="strict")
    free = plan(trace, cluster, num_groups=num_groups)
    return strict.balancedness, free.balancedness


def _halves(trace: LoadTrace) -> tuple[LoadTrace, LoadTrace]:
    if trace.num_steps < 2:
        return trace, trace
    middle = trace.num_steps // 2
    halves = trace.load[:middle], trace.load[middle:]
    if not all(half.any() for half in halves):
        raise ArgumentError("half of the load is empty", "there must be load to plan on and to score on", "take other steps")
    return LoadTrace(halves[0], trace.layer_ids), LoadTrace(halves[1], trace.layer_ids)


def _peaks(placement: Placement, trace: LoadTrace) -> Floats:
    """Return the share of each layer's tokens that its slowest rank has, 0 without load."""
    load = placement.rank_load(trace)
    total = load.sum(axis=1)
    shares: Floats = np.divide(load.max(axis=1), total, out=np.zeros_like(total), where=total > 0)
    return shares
