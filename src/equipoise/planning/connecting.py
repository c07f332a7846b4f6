"""Plans for optimal dispatch: replicas and ranks chosen so that the split of what comes next can be level.

An ordinary plan is level on the load it was made for and rigid on any other. Under an optimal split it pays to give replicas to
more experts than a greedy count does, to spread them evenly over the ranks, and to link ranks that are far apart
(:mod:`equipoise.kernels.connecting`); what works was found on recorded windows (docs/decisions.md, 26).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np

from equipoise.arrays import frozen
from equipoise.checks import check_choice, check_integer
from equipoise.errors import NotSupportedError
from equipoise.kernels.connecting import connect_rows, judge_rows, make_connect_work
from equipoise.kernels.shares import to_shares
from equipoise.kernels.splitting import make_split_work
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import ABSENT
from equipoise.planning.bounds import lower_bound
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.layers import Layers, plan_layers
from equipoise.planning.problem import Domain, Problem
from equipoise.planning.replicas import greedy_replicas

WINDOWS = 16
"""Past windows that are looked at beside the forecast."""

_OF_FORECAST = 0.5
_WORTH_IT = 0.003
_SLOWEST = 1e-60  # of the fastest rank's speed; fourth powers of times must stay within floats


@dataclass(frozen=True)
class Manner:
    """One way to connect: replicas by load to the power of ``quarters`` / 4, ``carry`` of their share left free for them."""

    quarters: int
    carry: float


MANNERS = {
    "fast": (Manner(2, 0.8),),
    "default": (Manner(2, 0.8), Manner(3, 0.7)),
    "best": (Manner(2, 0.8), Manner(3, 0.7), Manner(4, 0.7), Manner(2, 1.0)),
}
"""Of each effort; a layer takes a later one where that is better by 0.3 %."""


def plan_for_dispatch(problem: Problem, windows: Floats, effort: str = "default", num_threads: int = 1) -> Layers:
    """Plan for a forecast, the problem's load, whose successor will be split optimally.

    Parameters
    ----------
    problem : Problem
        Without a locality rule, at a cost of tokens alone.
    windows : float64 [windows, layers, experts]
        What has lately been, tokens; the last ``WINDOWS`` are looked at. None at all is fine.
    effort : "fast", "default" or "best"
        How many manners are tried (``MANNERS``).
    num_threads : int
        Threads over layers, >= 1; they change nothing.

    Returns
    -------
    Layers
        ``largest`` is that of the forecast split optimally, ``bound`` one over every placement and split.

    Raises
    ------
    NotSupportedError
        With a locality rule, or a cost other than tokens.

    Notes
    -----
    Where speeds differ the ordinary plan is one more candidate: manners do not know that a very slow rank should hold little.

    A manner takes about O(slots * (ranks + links) + experts * ranks * windows) a layer, and a split a window to judge it.
    """
    _refuse_unsupported(problem)
    check_choice("effort", effort, tuple(EFFORTS))
    check_integer("num_threads", num_threads)
    recent = windows[-WINDOWS:]
    chunks = [chunk for chunk in np.array_split(np.arange(problem.num_layers), num_threads) if chunk.size]
    with ThreadPoolExecutor(len(chunks)) as pool:
        parts = list(
            pool.map(
                lambda chunk: _plan(replace(problem, load=problem.load[chunk]), recent[:, chunk], effort),
                chunks,
            )
        )
    return Layers(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Layers)))


def _plan(problem: Problem, windows: Floats, effort: str) -> Layers:
    loads, weight = _likely_loads(problem, windows)
    forecast = np.ascontiguousarray(loads[:, -1])
    held, level = _best_manner(problem, forecast, loads, weight, MANNERS[effort])
    domain = problem.everything
    in_doubt = np.flatnonzero(np.isinf(level) | (domain.speed.min() < domain.speed.max()))
    if in_doubt.size:
        usual = plan_layers(replace(problem, load=np.ascontiguousarray(problem.load[in_doubt])), EFFORTS[effort])
        usual_slots = np.ascontiguousarray(usual.slots[:, domain.slots])
        found = _judge(domain, usual_slots, np.ascontiguousarray(loads[in_doubt]), weight)
        wins = ~(level[in_doubt] * (1.0 - _WORTH_IT) <= found)
        held[in_doubt[wins]] = usual_slots[wins]
    slots = np.full((problem.num_layers, problem.cluster.num_slots), ABSENT, np.int64)
    slots[:, domain.slots] = held
    own = np.ones(1)
    largest = _judge(domain, held, np.ascontiguousarray(problem.load[:, np.newaxis]), own)
    everywhere, nowhere = np.ones(problem.num_layers), np.zeros((problem.num_layers, problem.num_groups), np.int64)
    bound = lower_bound(problem, None)
    return Layers(slots, largest, bound, everywhere, np.full_like(everywhere, np.nan), nowhere)


def _likely_loads(problem: Problem, windows: Floats) -> tuple[Floats, Floats]:
    """Return likely loads [layers, loads, experts] in shares of the mean rank load, the forecast last, and their weights."""
    ranks = problem.everything.ranks.size
    shares = [to_shares(np.ascontiguousarray(window, np.float64))[0] * ranks for window in (*windows, problem.load)]
    weight = np.full(len(shares), _OF_FORECAST / max(1, len(windows)))
    weight[-1] = 1.0 - _OF_FORECAST if len(windows) else 1.0
    return np.ascontiguousarray(np.stack(shares, axis=1)), weight


def _best_manner(
    problem: Problem, forecast: Floats, loads: Floats, weight: Floats, manners: tuple[Manner, ...]
) -> tuple[Ints, Floats]:
    """Return expert_of_slot of the ranks that are up, and its mean largest time over ``loads``; infinite without one."""
    domain, (num_layers, num_experts) = problem.everything, forecast.shape
    num_ranks, num_slots = domain.ranks.size, domain.slots.size
    work = make_connect_work(num_experts, num_ranks, loads.shape[1])
    speed = np.maximum(domain.speed / domain.speed.max(), _SLOWEST)
    best, level = np.empty((num_layers, num_slots), np.int64), np.full(num_layers, np.inf)
    for manner in manners:
        count = greedy_replicas(_power(forecast, manner.quarters), num_slots, num_ranks)
        slots, is_done = np.empty_like(best), np.empty(num_layers, np.bool_)
        connect_rows(forecast, loads, weight, count, manner.carry, domain.room, speed, work, slots, is_done)
        found = np.full(num_layers, np.inf)
        found[is_done] = _judge(domain, slots[is_done], np.ascontiguousarray(loads[is_done]), weight)
        wins = found < np.where(np.isinf(level), np.inf, level * (1.0 - _WORTH_IT))
        best[wins], level[wins] = slots[wins], found[wins]
    return best, level


def _judge(domain: Domain, slots: Ints, loads: Floats, weight: Floats) -> Floats:
    num_ranks = domain.ranks.size
    rank_of_slot = frozen(np.repeat(np.arange(num_ranks), domain.room))
    work = make_split_work(loads.shape[2], rank_of_slot, domain.speed)
    return judge_rows(slots, loads, weight, work, np.empty(slots.shape[1]), np.empty(num_ranks), np.empty(num_ranks, np.bool_))


def judge_splits(problem: Problem, windows: Floats) -> Callable[[Ints], Floats]:
    """Return what tells the largest rank times of rows [layers, slots of the ranks that are up] under the optimal split.

    Means over the problem's load and the last ``windows`` [windows, layers, experts], these scaled to its total.
    """
    loads, weight = _likely_loads(problem, windows[-WINDOWS:])
    scale = problem.load.sum(axis=1) / problem.everything.ranks.size
    return lambda slots: _judge(problem.everything, np.ascontiguousarray(slots), loads, weight) * scale


def _power(load: Floats, quarters: int) -> Floats:
    """Return load to the power of quarters / 4 by square roots, which are the same to the last bit everywhere."""
    root = np.sqrt(load)
    return np.ascontiguousarray({2: root, 3: root * np.sqrt(root), 4: load}[quarters])


def _refuse_unsupported(problem: Problem) -> None:
    if problem.has_homes:
        raise NotSupportedError(
            f"locality {problem.locality} under optimal dispatch", "it is planned over all ranks", "take locality none"
        )
    if not problem.cost.is_tokens_alone:
        raise NotSupportedError(
            "a cost other than tokens under optimal dispatch", "it is planned for tokens alone", "leave the cost out"
        )
