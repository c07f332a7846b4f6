"""Where the balance is lost: a chain of tokens from the ideal to what a policy's placements met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from equipoise.checks import check_choice
from equipoise.cluster import Cluster
from equipoise.dispatching.splitting import split_batch
from equipoise.errors import ArgumentError
from equipoise.kernels.dispatch import split_evenly
from equipoise.kernels.scoring import add_up_ranks, largest_times
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.layers import plan_layers
from equipoise.planning.locality import pair_groups
from equipoise.planning.problem import Problem, make_problem
from equipoise.planning.replicas import greedy_replicas
from equipoise.simulating.naming import make_policies
from equipoise.simulating.policies import PlannedPolicy, Policy
from equipoise.simulating.replaying import Met, Windows, simulate

Level = Literal["rank", "slot"]

TERMS = ("ideal", "replicas", "locality", "packing", "forecast", "dispatch", "batch")
"""In this order, each what is added to the one before; see :class:`Chain`."""

MEANINGS = {
    "ideal": "all load level",
    "replicas": "whole replicas (bound)",
    "locality": "groups at home (bound)",
    "packing": "plan for this window",
    "forecast": "plan without knowing it",
    "dispatch": "split over replicas",
    "batch": "replicas for the batch",
}
"""What each term of a chain stands for, in a few words."""


@dataclass(frozen=True, eq=False)
class Chain:
    """Tokens of the largest ranks (or slots), added up over layers, from the ideal to what was met (docs/semantics.md, 14).

    ``tokens`` [terms, windows] has the terms in the order of TERMS; each column adds up to what the placement in use met in
    that window, ``total``. Terms but the first may be negative. At rank level tokens are over speed.

    - ``ideal``: the load level over all ranks (slots);
    - ``replicas``: on top of it, a proven bound for any placement of whole replicas in these slots;
    - ``locality``: on top, the bound with groups kept on their nodes; 0 without that rule;
    - ``packing``: on top, the placement this policy's planner makes when it knows the window, dispatched as it plans for:
      evenly, or optimally with ``planned_for="optimal"``; that split may beat the bounds, which are for even ones;
    - ``forecast``: on top, the placement in use, which was made without knowing it, dispatched evenly;
    - ``dispatch``: on top, with the dispatch rule instead of an even split: below 0 where it removes loss;
    - ``batch``: on top, with spare slots filled for the window: <= 0 at rank level, at slot level it may be positive. Without
      that rule 0; with it the placement in use has fewer slots than the one it is held against, and ``dispatch`` is the
      optimal split over it.
    """

    policy: str
    level: Level
    num_slots: int
    tokens: Floats
    dispatch: str = "equal"

    @property
    def terms(self) -> dict[str, float]:
        """Each term summed over windows."""
        return dict(zip(TERMS, (float(term) for term in self.tokens.sum(axis=1)), strict=True))

    @property
    def total(self) -> float:
        """What the placements in use met, over all windows."""
        return float(self.tokens.sum(axis=0).sum())

    @property
    def removed(self) -> dict[str, float]:
        """Share of the loss that ``dispatch`` and ``batch`` each take off, 0 where a term is not negative.

        The loss is the sum of the positive terms after the ideal, all windows together; 0 where nothing is lost.

        >>> Chain("last", "rank", 4, np.array([[8.0], [0], [0], [1], [3], [-2], [-1]]), "batch:1").removed
        {'dispatch': 0.5, 'batch': 0.25}
        """
        terms = self.terms
        lost = sum(max(tokens, 0.0) for term, tokens in terms.items() if term != "ideal")
        return {term: max(0.0, -terms[term]) / lost if lost > 0 else 0.0 for term in ("dispatch", "batch")}

    @property
    def balancedness(self) -> dict[str, float]:
        """Ideal over the sum up to each term: what balance would be if all that comes after cost nothing."""
        reached = np.cumsum(self.tokens.sum(axis=1))
        return {term: float(reached[0] / at) if at > 0 else 1.0 for term, at in zip(TERMS, reached, strict=True)}


def explain(
    trace: Windows,
    cluster: Cluster,
    policies: Sequence[str | Policy | Placement] = ("last", "auto"),
    *,
    levels: Sequence[Level] = ("rank",),
    dispatch: str = "equal",
    num_groups: int = 1,
    locality: str = "none",
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[Chain]:
    """Replay a trace and say where each policy loses balance, for each of ``levels``.

    Chains are by policy and level, in the order given. Policies by parts are held against plans of their own parts; placements
    that none of these made, a file's say, against our planner with ``num_groups`` and ``locality``, on all their slots: what
    empty slots and experts twice on a rank cost is part of the forecast's term. Everything else is as for
    :func:`equipoise.simulate`. Each window costs a replay and, for each policy, one more plan by its planner and two bounds.

    Raises
    ------
    ArgumentError
        As for simulate(), and when a policy fails on the way.

    Examples
    --------
    >>> windows = [[[8, 4, 2, 2]], [[2, 2, 4, 8]]]
    >>> chain, = explain(windows, Cluster(num_ranks=2, slots_per_rank=2), ["last"])
    >>> chain.terms
    {'ideal': 8.0, 'replicas': 0.0, 'locality': 0.0, 'packing': 2.0, 'forecast': 0.0, 'dispatch': 0.0, 'batch': 0.0}
    """
    for level in levels:
        check_choice("level", level, ("rank", "slot"))
    if not levels or len(set(levels)) < len(levels):
        raise ArgumentError(f"levels are {list(levels)}", "they must be rank, slot or both", "name each once")
    made = {policy.name: policy for policy in make_policies(policies)}
    columns: dict[tuple[str, Level], list[Floats]] = {(name, level): [] for name in made for level in levels}
    slots: dict[str, int] = {}
    rules: dict[str, str] = {}
    usual = PlannedPolicy(num_groups=num_groups, locality=locality)

    def take_apart(name: str, met: Met) -> None:
        policy = made[name] if isinstance(made[name], PlannedPolicy) else usual
        assert isinstance(policy, PlannedPolicy)
        known = policy.plan_for(met.load, _plannable(met.served.placement))
        slots[name], rules[name] = met.served.placement.cluster.num_slots, met.rule.name
        for level in levels:
            columns[name, level].append(_column(policy, known, met, level))

    found = simulate(trace, cluster, list(made.values()), dispatch=dispatch, seed=seed, watch=take_apart, progress=progress)
    for result in found.policies:
        if result.failure:
            raise ArgumentError(result.failure, "only a policy that goes all the way can be explained", "mend or drop it")
    return [
        Chain(name, level, slots[name], np.stack(columns[name, level], axis=1), rules[name])
        for name in made
        for level in levels
    ]


def _plannable(placement: Placement) -> Cluster:
    """Return the placement's cluster, without slots that no strict placement could fill."""
    cluster = placement.cluster
    most = np.minimum(cluster.slot_counts, placement.num_experts)
    return cluster if (most == cluster.slot_counts).all() else replace(cluster, slots_per_rank=most.tolist())


def _column(policy: PlannedPolicy, known: Placement, met: Met, level: Level) -> Floats:
    """Return one window's terms, [terms]."""
    load, cluster = met.load, known.cluster
    free = make_problem(load, cluster)
    bound_of = _rank_bound if level == "rank" else _slot_bound
    reached = [_ideal(free, level), bound_of(free)]
    kept = make_problem(load, cluster, policy.num_groups, policy.locality)
    reached.append(np.maximum(bound_of(kept), reached[-1]) if kept.locality == "strict" and kept.has_homes else reached[-1])
    reached.append(_largest(known, _split_as_planned(policy, known, load), level))
    reached.append(_largest(met.placement, split_evenly(met.placement.expert_of_slot, load), level))
    reached.append(_largest(met.placement, _split_at_home(met), level))
    reached.append(_largest(met.served.placement, met.served.tokens, level))
    sums = np.array([step.sum() for step in reached])
    return np.diff(sums, prepend=0.0)


def _split_as_planned(policy: PlannedPolicy, known: Placement, load: Floats) -> Floats:
    """Return the tokens over a plan by the split that it was made for."""
    if policy.planned_for == "optimal":
        return split_batch(load, known)[0]
    return split_evenly(known.expert_of_slot, load)


def _split_at_home(met: Met) -> Floats:
    """Return the tokens over the policy's own placement: as served, or split optimally where spare slots were filled."""
    return split_batch(met.load, met.placement)[0] if met.rule.spare_slots else met.served.tokens


def _ideal(problem: Problem, level: Level) -> Floats:
    if level == "rank":
        return problem.ideal
    level_load: Floats = problem.load.sum(axis=1) / problem.everything.slots.size
    return level_load


def _rank_bound(problem: Problem) -> Floats:
    return plan_layers(problem, EFFORTS["fast"]).bound


def _slot_bound(problem: Problem) -> Floats:
    """Return the largest replica under the counts that make it least, [layers]; a node's groups share its slots."""
    pairing = pair_groups(problem)
    if pairing is None:
        return _largest_replica(problem.load, problem.everything.slots.size, problem.everything.ranks.size)
    node_of_expert = pairing.node_of_expert(problem.num_experts)
    largest = np.zeros(problem.num_layers)
    for number, node in enumerate(problem.nodes):
        own = np.argsort(node_of_expert != number, axis=1, kind="stable")[:, : problem.num_experts // len(problem.nodes)]
        load = np.take_along_axis(problem.load, own, axis=1)
        np.maximum(largest, _largest_replica(load, node.slots.size, node.ranks.size), out=largest)
    return largest


def _largest_replica(load: Floats, num_slots: int, num_ranks: int) -> Floats:
    count: Ints = greedy_replicas(np.ascontiguousarray(load), num_slots, num_ranks)
    largest: Floats = (load / count).max(axis=1)
    return largest


def _largest(placement: Placement, tokens: Floats, level: Level) -> Floats:
    """Return the largest rank time or slot of each layer, [layers]."""
    if level == "slot":
        largest: Floats = tokens.max(axis=1)
        return largest
    cluster = placement.cluster
    rank_load = add_up_ranks(tokens, cluster.rank_of_slot, cluster.num_ranks)
    return largest_times(rank_load, np.asarray(cluster.rank_speeds, np.float64))
