"""A plan for several equally likely loads at once: for the mean over them of the largest rank time.

A plan for the mean load is level on a load that never comes; what comes is near one of the past windows. Planned for the mean
of their largest rank times, experts that swing together are kept apart.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_choice, check_integer
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.scenarios import refine_rows
from equipoise.kernels.types import Floats, Ints
from equipoise.planning.bounds import lower_bound, sharpened
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.layers import Layers, plan_layers
from equipoise.planning.locality import pair_groups
from equipoise.planning.problem import Problem
from equipoise.trace import LoadTrace

COMPARISONS = {"fast": 200, "default": 1_000, "best": 10_000}
"""Pairs of ranks compared a layer, at most. Each effort goes on from where the one below ran out."""


def plan_for_scenarios(problem: Problem, scenarios: npt.ArrayLike, effort: str = "default", num_threads: int = 1) -> Layers:
    """Plan for several loads at once: for the mean load at effort ``fast``, then exchanges that lower the mean largest time.

    Parameters
    ----------
    problem : Problem
        Cluster, groups, locality and shape; its load is not looked at.
    scenarios : array_like [scenarios, layers, experts]
        Equally likely loads, tokens >= 0, at least one. One that is to count k times is given k times.
    effort : "fast", "default" or "best"
        How many pairs of ranks are compared (``COMPARISONS``). What the effort and those below it plan for the mean load is
        kept, layer by layer, where it ends earlier: no layer is worse for a higher effort, nor than the plan for the mean.
    num_threads : int
        Threads over layers, >= 1; they change nothing.

    Returns
    -------
    Layers
        ``largest`` is the mean over scenarios of the largest rank time. ``bound`` is proven for that: in each scenario no
        placement ends before that scenario's own bound, nor in the mean before the bound of the mean load. The ideal that goes
        with them is that of :func:`mean_load`.

    Raises
    ------
    ArgumentError
        Where scenarios have another shape, or hold what is no load.
    NotSupportedError
        Under soft locality, or a cost other than tokens.

    Notes
    -----
    A comparison looks at slots_per_rank^2 exchanges in one to two scenarios, and in the others if these gain: 75 layers of 288
    slots on 32 ranks, 8 scenarios, take some 80 ms at ``default``, one thread.
    """
    _refuse_unsupported(problem)
    check_choice("effort", effort, tuple(EFFORTS))
    check_integer("num_threads", num_threads)
    loads = _checked_scenarios(problem, scenarios)
    chunks = [chunk for chunk in np.array_split(loads, num_threads, axis=1) if chunk.shape[1]]
    with ThreadPoolExecutor(len(chunks)) as pool:
        parts = list(pool.map(lambda chunk: _plan(problem, chunk, effort), chunks))
    return Layers(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Layers)))


def mean_load(scenarios: Floats) -> Floats:
    """Return the mean of loads [scenarios, layers, experts], added up in order: [layers, experts]."""
    total = np.zeros(scenarios.shape[1:])
    for load in scenarios:
        total += load
    return total / len(scenarios)


def _plan(problem: Problem, scenarios: Floats, effort: str) -> Layers:
    problem = replace(problem, load=mean_load(scenarios))
    load = scenarios.transpose(1, 0, 2).copy()
    lowest, *higher = list(EFFORTS)[: list(EFFORTS).index(effort) + 1]
    found = _refined(problem, load, plan_layers(problem, EFFORTS[lowest]), COMPARISONS[effort])
    for level in higher:
        found = found.better(_refined(problem, load, plan_layers(problem, EFFORTS[level]), 0))
    return replace(found, bound=np.maximum(found.bound, _bound(problem, load, found.slots, effort)))


def _refined(problem: Problem, load: Floats, start: Layers, comparisons: int) -> Layers:
    slots, times = _exchange(problem, load, start.slots, comparisons)
    largest = _mean(times)
    strict_largest = largest if problem.has_homes else start.strict_largest
    return replace(start, slots=slots, largest=largest, strict_largest=strict_largest)


def _exchange(problem: Problem, load: Floats, slots: Ints, comparisons: int) -> tuple[Ints, Floats]:
    """Refine ``slots`` for ``load`` [layers, scenarios, experts]; also return the largest times, [layers, scenarios]."""
    domain = problem.everything
    node = np.asarray(problem.cluster.node_of_rank, np.int64)[domain.ranks]
    held = np.ascontiguousarray(slots[:, domain.slots])
    times = refine_rows(held, load, domain.room, domain.speed, node if problem.has_homes else np.zeros_like(node), comparisons)
    refined = slots.copy()
    refined[:, domain.slots] = held
    return refined, times


def _bound(problem: Problem, load: Floats, slots: Ints, effort: str) -> Floats:
    """Return the mean over scenarios of each one's own bound, [layers]."""
    each = replace(problem, load=load.reshape(-1, problem.num_experts))
    pairing = pair_groups(each)
    bound = lower_bound(each, pairing)
    if pairing is None:
        _, times = _exchange(problem, load, slots, 0)
        bound = sharpened(each, bound, times.ravel(), EFFORTS[effort])
    return _mean(bound.reshape(load.shape[:2]))


def _mean(times: Floats) -> Floats:
    """Mean over scenarios [layers, scenarios], added up in order."""
    means: Floats = np.cumsum(times, axis=1)[:, -1] / times.shape[1]
    return means


def _checked_scenarios(problem: Problem, scenarios: npt.ArrayLike) -> Floats:
    loads = np.ascontiguousarray(LoadTrace(scenarios).load, np.float64)  # type: ignore[arg-type]
    if loads.shape[1:] != problem.load.shape or not len(loads):
        raise ArgumentError(
            f"scenarios have shape {list(loads.shape)}",
            f"they must be [scenarios, {problem.num_layers} layers, {problem.num_experts} experts], at least one",
            "give loads of the model planned for",
        )
    replace(problem, load=loads.reshape(-1, problem.num_experts))  # checks that floats can hold every scenario's times
    return loads


def _refuse_unsupported(problem: Problem) -> None:
    if problem.has_homes and problem.locality == "soft":
        raise NotSupportedError(
            "several scenarios under soft locality", "they are planned under strict locality or none", "take strict or none"
        )
    if not problem.cost.is_tokens_alone:
        raise NotSupportedError(
            "several scenarios with a cost other than tokens", "they are planned for tokens alone", "leave the cost out"
        )
