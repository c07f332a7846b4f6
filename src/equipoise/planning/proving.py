"""Prove or improve chosen layers of a plan with an exact solver, for as long as one is ready to wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.checks import check_integer
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.placement import Placement
from equipoise.planning.bounds import gap, without_rounding
from equipoise.planning.exact import prove_layer
from equipoise.planning.planner import Plan
from equipoise.planning.problem import Problem, make_problem
from equipoise.planning.solver import check_solver
from equipoise.trace import LoadTrace

WORST = 3
"""Layers that are proven where none are named: those with the largest gap."""


@dataclass(frozen=True)
class LayerProof:
    """One layer before and after: slowest rank's time, its proven bound, and whether they are proven to meet."""

    layer: int
    largest_before: float
    bound_before: float
    largest: float
    bound: float
    is_optimal: bool

    @property
    def gap(self) -> float:
        """Largest / bound - 1 after the proof."""
        return self.largest / self.bound - 1.0 if self.bound > 0 else 0.0


def prove(
    result: Plan,
    load: npt.ArrayLike | LoadTrace,
    *,
    layers: Sequence[int] | None = None,
    seconds: float = 30.0,
    num_workers: int = 4,
    progress: Callable[[], object] = lambda: None,
) -> tuple[Plan, tuple[LayerProof, ...]]:
    """Search for better placements and bounds of some layers of a plan, until time is up or the best is proven.

    The search stops by the clock, so what it finds need not repeat: every rank of an engine must get the placement from one
    process. It is never worse than the plan given.

    Parameters
    ----------
    result : Plan
        From :func:`equipoise.plan` with locality none or strict.
    load : array_like or LoadTrace
        The load it was planned for.
    layers : sequence of int, optional
        Positions of the layers. Default: the WORST with the largest gap.
    seconds : float
        For each layer, > 0; setting up a large model may take longer.
    num_workers : int
        Threads of the solver.
    progress : callable
        Called after each layer.

    Raises
    ------
    MissingExtraError
        Without ortools.
    ArgumentError
        On another load, a layer that does not exist, or a time that is not > 0.
    NotSupportedError
        For soft locality, where active experts cost, and for plans for several loads.
    """
    check_solver()
    if not seconds > 0:
        raise ArgumentError(f"seconds is {seconds}", "it must be > 0", "give each layer some time, such as 30")
    check_integer("num_workers", num_workers)
    if result.dispatch != "equal":
        raise NotSupportedError(
            f"the plan is for {result.dispatch} dispatch", "proofs are of plans for an even split", "plan with dispatch equal"
        )
    if result.num_loads > 1:
        raise NotSupportedError(
            f"the plan is for {result.num_loads} loads at once", "proofs are of plans for one load", "plan for one of them"
        )
    if result.locality == "soft" or result.cost.per_active:
        raise NotSupportedError(
            "the plan is soft, or active experts cost", "proofs know locality none and strict, and tokens", "plan one of these"
        )
    problem = make_problem(load, result.placement.cluster, result.num_groups, result.locality, result.cost)
    if problem.num_layers != result.ideal.size or not np.allclose(
        problem.ideal + result.cost.per_rank, result.ideal, rtol=1e-9
    ):
        raise ArgumentError("load is not the one the plan was made for", "its mean rank loads differ", "pass that load")
    slots, largest, bound = result.placement.expert_of_slot.copy(), result.largest.copy(), result.bound.copy()
    proofs = []
    for layer in _chosen(result, layers):
        proof = _prove(problem, result, layer, seconds, num_workers, slots)
        proofs.append(proof)
        largest[layer], bound[layer] = proof.largest, proof.bound
        progress()
    bound = without_rounding(bound, largest)
    proven = replace(
        result,
        placement=Placement(slots, problem.cluster, problem.num_experts),
        balancedness=metrics.balancedness(largest, result.ideal),
        largest=largest,
        bound=bound,
        gap=gap(largest, bound),
        is_reproducible=False,
    )
    return proven, tuple(proofs)


def _chosen(result: Plan, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        return sorted(np.argsort(-result.gap, kind="stable")[:WORST].tolist())
    for layer in layers:
        if not 0 <= layer < result.gap.size:
            raise ArgumentError(f"layer {layer} is to be proven", f"layers are 0 to {result.gap.size - 1}", "name one of these")
    return sorted(set(layers))


def _prove(
    problem: Problem, result: Plan, layer: int, seconds: float, num_workers: int, slots: npt.NDArray[np.int64]
) -> LayerProof:
    """Prove one layer, and write a better placement into its row of ``slots``."""
    domain, cost = problem.everything, problem.cost
    groups = np.repeat(np.arange(problem.num_groups), problem.num_experts // problem.num_groups)
    proof = prove_layer(
        problem.load[layer],
        domain.room,
        cost.per_token / domain.speed,
        largest=float(result.largest[layer]) - cost.per_rank,
        bound=float(result.bound[layer]) - cost.per_rank,
        node_of_rank=np.asarray(problem.cluster.node_of_rank)[domain.ranks] if problem.has_homes else None,
        group_of_expert=groups if problem.has_homes else None,
        hint=slots[layer, domain.slots],
        seconds=seconds,
        num_workers=num_workers,
    )
    if proof.expert_of_slot is not None:
        slots[layer, domain.slots] = proof.expert_of_slot
    return LayerProof(
        layer=layer,
        largest_before=float(result.largest[layer]),
        bound_before=float(result.bound[layer]),
        largest=proof.largest + cost.per_rank,
        bound=proof.bound + cost.per_rank,
        is_optimal=proof.is_optimal,
    )
