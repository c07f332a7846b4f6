"""Plans from the placement before: as level as the budget of moves allows.

The previous placement is improved step by step (:mod:`equipoise.kernels.improving`). Where moves are plenty the free plan,
relabelled so that as much as possible stays, is tried too. A total budget goes to the layers that gain most: each is improved
under a ladder of budgets, and the steepest rises of all layers' gains are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from equipoise.arrays import frozen
from equipoise.budget import MoveBudget
from equipoise.errors import ArgumentError
from equipoise.kernels.dispatch import split_evenly
from equipoise.kernels.improving import improve_rows, make_improve_work
from equipoise.kernels.scoring import add_up_ranks, largest_times
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT
from equipoise.planning.adopting import Adopted, region_of_rank
from equipoise.planning.problem import Problem

STEPS = {"fast": 0, "default": 14, "best": 400}
"""Of each effort: another search begins while a layer took fewer steps."""

LADDER = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Budgets of moves a layer that are tried where a total is to be shared out, and all moves beside."""

_WORTH_IT = 1e-3

Judge = Callable[[Ints], Floats]
"""From expert_of_slot [layers, slots of the ranks that are up] to the largest rank times."""


@dataclass(frozen=True, eq=False)
class Improved:
    """Rows found: ``slots`` [layers, slots of the ranks that are up], their largest rank times and moves [layers]."""

    slots: Ints
    largest: Floats
    moves: Ints

    def where(self, wins: Flags, other: Improved) -> Improved:
        """Take the layers in which ``other`` wins from it."""
        return Improved(
            np.where(wins[:, np.newaxis], other.slots, self.slots),
            np.where(wins, other.largest, self.largest),
            np.where(wins, other.moves, self.moves),
        )


@dataclass(frozen=True, eq=False)
class Search:
    """What is improved, and by which rules.

    Parameters
    ----------
    problem : Problem
        Its load is the one to be level on.
    ideal : float64 [layers]
        Ideal times in the unit of ``judge``, which may look at another load.
    adopted : Adopted
        The previous placement on the ranks that are up.
    least : int64 [layers, experts]
        Replicas that each expert keeps at least.
    spread : int
        Nodes over which experts that need several replicas are spread.
    judge : callable
        Tells the largest rank times under the split that is planned for.
    effort : "fast", "default" or "best"
        How often a layer is searched (``STEPS``).
    num_threads : int
        Threads over layers.
    """

    problem: Problem
    ideal: Floats
    adopted: Adopted
    least: Ints
    spread: int
    judge: Judge
    effort: str
    num_threads: int

    @property
    def all_moves(self) -> int:
        """More moves than any layer can need."""
        return int(self.adopted.start.shape[1])

    def run(self, layers: Ints, budget: Ints, price: float) -> Improved:
        """Improve some layers, each within its budget, where a move must save ``price`` of the ideal time."""
        chunks = [chunk for chunk in np.array_split(np.arange(layers.size), self.num_threads) if chunk.size]
        with ThreadPoolExecutor(max(1, len(chunks))) as pool:
            parts = list(pool.map(lambda chunk: self._run(layers[chunk], budget[chunk], price), chunks))
        slots = np.concatenate([part[0] for part in parts]) if parts else self.adopted.start[layers]
        moves = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.int64)
        return Improved(slots, self.judge_rows(layers, slots), moves)

    def judge_rows(self, layers: Ints, slots: Ints) -> Floats:
        """Return the largest rank times of rows of some layers."""
        rows = self.adopted.start.copy()
        rows[layers] = slots
        return self.judge(rows)[layers]

    def _run(self, layers: Ints, budget: Ints, price: float) -> tuple[Ints, Ints]:
        domain, adopted = self.problem.everything, self.adopted
        rank = np.repeat(np.arange(domain.ranks.size), domain.room)
        node = np.asarray(self.problem.cluster.node_of_rank, np.int64)[domain.ranks]
        region = region_of_rank(self.problem)
        work = make_improve_work(self.problem.num_experts, rank, region, node, domain.speed, adopted.rank_held)
        slots, moves = np.empty((layers.size, rank.size), np.int64), np.empty(layers.size, np.int64)
        curve = np.empty((layers.size, 1))
        load, start = np.ascontiguousarray(self.problem.load[layers]), np.ascontiguousarray(adopted.start[layers])
        held, least = np.ascontiguousarray(adopted.held[layers]), np.ascontiguousarray(self.least[layers])
        steps = STEPS[self.effort]
        improve_rows(load, start, held, least, self.spread, budget, price, steps, work, slots, moves, curve)
        return slots, moves


def judge_evenly(problem: Problem) -> Judge:
    """Return the judge of an even split over replicas."""
    domain, load = problem.everything, frozen(problem.load.copy())
    rank = frozen(np.repeat(np.arange(domain.ranks.size), domain.room))

    def judge(slots: Ints) -> Floats:
        rows = frozen(slots.copy())
        return largest_times(add_up_ranks(split_evenly(rows, load), rank, domain.ranks.size), domain.speed)

    return judge


@dataclass(frozen=True, eq=False)
class Climb:
    """Layers under rising budgets.

    ``start`` has the moves that serving every expert takes, ``rungs`` one find a budget; ``rises`` are what leads from one to
    the next at the most time saved a move: (time saved a move, layer, rung), steepest first.
    """

    start: Improved
    rungs: tuple[Improved, ...]
    rises: tuple[tuple[float, int, int], ...]


def climb(search: Search, budgets: Sequence[int], price: float = 0.0) -> Climb:
    """Improve all layers under each of some budgets of moves a layer, rising; what a layer needs anyway is allowed always."""
    needed = count_moves(search, search.adopted.start)
    layers = np.arange(needed.size)
    start = Improved(search.adopted.start.copy(), search.judge(search.adopted.start), needed)
    rungs = tuple(search.run(layers, np.maximum(budget, needed), price) for budget in budgets)
    return Climb(start, rungs, tuple(_rises(start, rungs)))


def rungs_below(cap: int) -> tuple[int, ...]:
    """Return the budgets of the ladder up to ``cap``, and that."""
    return (*(rung for rung in LADDER if rung < cap), cap)


def improve(search: Search, budget: MoveBudget, free: Ints | None = None) -> Improved:
    """Improve every layer within a budget.

    Parameters
    ----------
    search : Search
        What is improved.
    budget : MoveBudget
        Moves beyond it are refused by name where serving every expert needs them.
    free : int64 [layers, slots of the ranks that are up], optional
        Another plan, relabelled, that is taken where it fits the budget and ends earlier by 0.1 %.
    """
    problem = search.problem
    layers, needed = np.arange(problem.num_layers), count_moves(search, search.adopted.start)
    cap = search.all_moves if budget.per_layer is None else min(budget.per_layer, search.all_moves)
    _refuse_too_few(needed, cap, budget)
    if budget.most_moves is not None and budget.most_moves < cap * layers.size:
        return _shared_out(search, budget.most_moves, cap, budget.gain_per_move)
    found = search.run(layers, np.full(layers.size, cap), budget.gain_per_move)
    if free is None:
        return found
    other = Improved(free, search.judge(free), count_moves(search, free))
    price = budget.gain_per_move * search.ideal
    is_better = other.largest + price * other.moves < (1.0 - _WORTH_IT) * (found.largest + price * found.moves)
    return found.where(is_better & (other.moves <= cap), other)


def count_moves(search: Search, slots: Ints) -> Ints:
    """Return the replicas of each layer on ranks that did not hold them, [layers]."""
    domain, adopted = search.problem.everything, search.adopted
    rank = np.repeat(np.arange(domain.ranks.size), domain.room)
    had = np.zeros((len(slots), domain.ranks.size, search.problem.num_experts), np.bool_)
    layer, place = np.nonzero((adopted.held != ABSENT) & (adopted.rank_held >= 0))
    had[layer, adopted.rank_held[place], adopted.held[layer, place]] = True
    layer, slot = np.nonzero(slots != ABSENT)
    moves = np.bincount(layer[~had[layer, rank[slot], slots[layer, slot]]], minlength=len(slots))
    return moves.astype(np.int64)


def _refuse_too_few(needed: Ints, cap: int, budget: MoveBudget) -> None:
    if needed.max(initial=0) > cap:
        layer = int(needed.argmax())
        raise ArgumentError(
            f"a budget of {cap} moves a layer, and layer {layer} needs {needed[layer]} to serve every expert as asked",
            "every expert needs its replicas on ranks that are up",
            f"allow {int(needed.max())} moves a layer",
        )
    if budget.most_moves is not None and needed.sum() > budget.most_moves:
        raise ArgumentError(
            f"a budget of {budget.most_moves} moves in all, and {int(needed.sum())} are needed to serve every expert as asked",
            "every expert needs its replicas on ranks that are up",
            f"allow {int(needed.sum())} moves",
        )


def _shared_out(search: Search, total: int, cap: int, price: float) -> Improved:
    """Share a total out: all layers under every rung, then the steepest rises first, then what is left to the next ones."""
    climbed = climb(search, rungs_below(cap), price)
    found, layers = climbed.start, np.arange(search.problem.num_layers)
    left = total - int(found.moves.sum())
    for gain, x, rung in climbed.rises:
        if gain <= price * search.ideal[x]:
            continue
        candidate = climbed.rungs[rung]
        extra = int(candidate.moves[x] - found.moves[x])
        if extra > left > 0:
            candidate = _at(candidate, x, search.run(np.array([x]), np.array([found.moves[x] + left]), price))
            extra = int(candidate.moves[x] - found.moves[x])
        if extra <= left and candidate.largest[x] < found.largest[x]:
            found, left = found.where(layers == x, candidate), left - extra
    return found


def _at(rows: Improved, x: int, one: Improved) -> Improved:
    rows = Improved(rows.slots.copy(), rows.largest.copy(), rows.moves.copy())
    rows.slots[x], rows.largest[x], rows.moves[x] = one.slots[0], one.largest[0], one.moves[0]
    return rows


def _rises(start: Improved, rungs: Sequence[Improved]) -> list[tuple[float, int, int]]:
    """List (time saved a move, layer, rung) of the corners of each layer's convex hull, steepest first, in order of layers."""
    rises = []
    for x in range(len(start.moves)):
        at_moves, at_time, taken = start.moves[x], start.largest[x], -1
        while True:
            best, place = 0.0, -1
            for i in range(taken + 1, len(rungs)):
                extra, saved = rungs[i].moves[x] - at_moves, at_time - rungs[i].largest[x]
                if saved > 0.0 and saved / max(extra, 1e-9) > best:
                    best, place = saved / max(extra, 1e-9), i
            if place < 0:
                break
            rises.append((float(best), x, place))
            at_moves, at_time, taken = rungs[place].moves[x], rungs[place].largest[x], place
    return sorted(rises, key=lambda rise: (-rise[0], rise[1], rise[2]))
