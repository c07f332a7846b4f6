"""Packings side by side on the same loads: balance, in-sample and on the next window, and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.errors import ArgumentError
from equipoise.placement import Placement
from equipoise.planning.composition import Composition, place, solve
from equipoise.planning.efforts import EFFORTS, Stage
from equipoise.planning.locality import pair_groups, rows_by_load
from equipoise.planning.planner import plan
from equipoise.planning.problem import Locality, Problem, make_problem
from equipoise.planning.published import NOISY, named_composition, split_name
from equipoise.trace import LoadTrace

CANDIDATES = 128
"""Packings an ensemble builds."""

_LEAST_CALLS = 5


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
    candidates: int = CANDIDATES,
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
        Names such as ``ensemble+swap``, or an effort of plan(), such as ``default``; those with noise come once for each of
        ``noises``.
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


def pack_as_published(
    load: npt.ArrayLike,
    cluster: Cluster,
    packing: str,
    *,
    num_groups: int = 1,
    locality: str = "none",
    noise: float = 0.1,
    seed: int = 0,
) -> Placement:
    """Plan a load by a published packing, such as ``lpt+swap``: greedy counts, then that packing.

    Raises
    ------
    ArgumentError, NotSupportedError
        On an unknown name, and where ranks differ.
    """
    composition = _composition((packing, noise if split_name(packing)[0] in NOISY else None), CANDIDATES, None, seed)
    return _run(make_problem(load, cluster, num_groups, locality), composition).placement


@dataclass(frozen=True, eq=False)
class _Run:
    placement: Placement
    seconds: float


def _run(problem: Problem, composition: Composition | tuple[Stage, ...]) -> _Run:
    start = perf_counter()
    pairing = pair_groups(problem)
    rows = rows_by_load(problem, None if pairing is None else pairing.node_of_expert(problem.num_experts))
    if isinstance(composition, Composition):
        slots, _ = place(problem, rows, composition)
    else:
        slots, _, _ = solve(problem, rows, composition, np.zeros(problem.num_layers))
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


def _composition(
    variant: tuple[str, float | None], candidates: int, rounds: int | None, seed: int
) -> Composition | tuple[Stage, ...]:
    name, noise = variant
    if name in EFFORTS:
        return EFFORTS[name]
    constructor, refine = split_name(name)
    noise = 0.0 if noise is None else noise
    return named_composition(constructor, refine, candidates=candidates, noise=noise, rounds=rounds, seed=seed)


HOME_SHARES = (1.0, 0.99, 0.98, 0.97, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
"""The shares of load kept at home that the curve of soft locality asks for."""


@dataclass(frozen=True)
class DialScore:
    """One setting of the locality dial: means over windows of what is kept at home and of balancedness, in-sample.

    ``asked`` is the least share asked for, None for strict and none; ``milliseconds`` is the median time of a plan.
    """

    locality: str
    asked: float | None
    home_share: float
    balancedness: float
    worst_layer: float
    milliseconds: float


def compare_locality(
    trace: LoadTrace, cluster: Cluster, num_groups: int, *, progress: Callable[[], object] = lambda: None
) -> list[DialScore]:
    """Plan every step of ``trace`` with each of HOME_SHARES, and score what is kept at home against balance.

    Strict comes first where nodes have room for it, none last; ``home_share`` of none is nan: nothing is kept on purpose.
    ``progress`` is called after each plan, at most ``(len(HOME_SHARES) + 2) * steps`` times.

    Raises
    ------
    ArgumentError
        Where soft locality cannot be planned.
    """
    settings: list[tuple[str, Locality, float | None]] = []
    if make_problem(trace, cluster, num_groups, "soft").can_be_strict:
        settings.append(("strict", "strict", None))
    settings += [(f"soft, {share:.0%} asked", "soft", share) for share in HOME_SHARES]
    settings.append(("none", "none", None))
    return [_score_dial(trace, cluster, num_groups, *setting, progress) for setting in settings]


def _score_dial(
    trace: LoadTrace,
    cluster: Cluster,
    num_groups: int,
    name: str,
    locality: Locality,
    asked: float | None,
    progress: Callable[[], object],
) -> DialScore:
    plans, seconds = [], []
    constraints = None if asked is None else Constraints(home_share=asked)
    for step in trace.load:
        start = perf_counter()
        plans.append(plan(step, cluster, num_groups=num_groups, locality=locality, constraints=constraints))
        seconds.append(perf_counter() - start)
        progress()
    return DialScore(
        locality=name,
        asked=asked,
        home_share=float("nan") if locality == "none" else float(np.mean([p.home_share.mean() for p in plans])),
        balancedness=float(np.mean([p.balancedness for p in plans])),
        worst_layer=min(p.worst_layer for p in plans),
        milliseconds=1e3 * median(seconds),
    )
