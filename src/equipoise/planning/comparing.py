"""Packings side by side on the same loads: balance, in-sample and on the next window, and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from equipoise import metrics
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.placement import Placement
from equipoise.planning.bounds import lower_bound
from equipoise.planning.composition import DEFAULT, Composition, place
from equipoise.planning.locality import pair_groups, rows_by_load
from equipoise.planning.problem import Problem, make_problem
from equipoise.planning.published import NOISY, named_composition, split_name
from equipoise.trace import LoadTrace

_LEAST_CALLS = 5

DEFAULT_NAME = "default"
"""What :func:`equipoise.plan` runs: ``lpt+best_swap``, then better counts."""


@dataclass(frozen=True)
class PackingScore:
    """One packing on all windows: means over windows of balancedness (docs/semantics.md, 5), and the median time of a call.

    ``next_window`` is planned on a window and scored on the one after; None when there is one window only. ``noise`` is None
    for packings without noise. ``milliseconds`` covers bound, replica counts, packing and layout of all layers, after warm-up.
    """

    packing: str
    noise: float | None
    balancedness: float
    worst_layer: float
    next_window: float | None
    milliseconds: float


def compare_packings(
    trace: LoadTrace,
    cluster: Cluster,
    packings: Sequence[str],
    *,
    noises: Sequence[float] = (0.1,),
    num_groups: int = 1,
    locality: str = "none",
    candidates: int = 128,
    rounds: int | None = None,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[PackingScore]:
    """Pack every step of ``trace`` with every packing, in turns, and score each.

    Parameters
    ----------
    trace : LoadTrace
        One load a step; cut it into windows first.
    packings : sequence of str
        Names such as ``ensemble+swap``, or ``default`` for what plan() runs; those with noise come once for each of ``noises``.
    progress : callable
        Called after each packing of each window; ``len(expand_variants(...)) * steps`` times.

    Raises
    ------
    ArgumentError
        On an unknown name or a parameter out of range, before any work.
    """
    compositions = {variant: _composition(variant, candidates, rounds, seed) for variant in expand_variants(packings, noises)}
    problems = [make_problem(step, cluster, num_groups, locality) for step in trace.load]
    runs: dict[tuple[str, float | None], list[_Run]] = {variant: [] for variant in compositions}
    for composition in compositions.values():
        _run(problems[0], composition)
    for turn in range(max(len(problems), _LEAST_CALLS)):
        for variant, composition in compositions.items():
            runs[variant].append(_run(problems[turn % len(problems)], composition))
            if turn < len(problems):
                progress()
    return [_score(variant, runs[variant], problems) for variant in compositions]


def expand_variants(packings: Sequence[str], noises: Sequence[float]) -> list[tuple[str, float | None]]:
    """Pair each packing that uses noise with every noise, the others with None; repeated ones once."""
    if not packings or not noises:
        raise ArgumentError("nothing to compare", "name at least one packing and one noise", "try lpt+best_swap")
    variants = [(name, noise) for name in packings for noise in (noises if split_name(name)[0] in NOISY else (None,))]
    return list(dict.fromkeys(variants))


@dataclass(frozen=True, eq=False)
class _Run:
    placement: Placement
    seconds: float


def _run(problem: Problem, composition: Composition) -> _Run:
    start = perf_counter()
    pairing = pair_groups(problem)
    bound = lower_bound(problem, pairing)
    slots, _ = place(problem, rows_by_load(problem, pairing), composition, bound)
    seconds = perf_counter() - start
    return _Run(Placement(slots, problem.cluster, problem.num_experts), seconds)


def _score(variant: tuple[str, float | None], runs: list[_Run], problems: list[Problem]) -> PackingScore:
    times = [run.placement.layer_times(problem.load) for run, problem in zip(runs, problems, strict=False)]
    following = [run.placement.balancedness(p.load) for run, p in zip(runs, problems[1:], strict=False)]
    return PackingScore(
        packing=variant[0],
        noise=variant[1],
        balancedness=float(np.mean([metrics.balancedness(*t) for t in times])),
        worst_layer=min(metrics.worst_layer(*t) for t in times),
        next_window=float(np.mean(following)) if following else None,
        milliseconds=1e3 * median(run.seconds for run in runs),
    )


def _composition(variant: tuple[str, float | None], candidates: int, rounds: int | None, seed: int) -> Composition:
    name, noise = variant
    if name == DEFAULT_NAME:
        return DEFAULT
    constructor, refine = split_name(name)
    noise = 0.0 if noise is None else noise
    return named_composition(constructor, refine, candidates=candidates, noise=noise, rounds=rounds, seed=seed)
