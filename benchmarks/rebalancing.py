"""Plans from the placement before: moves against balance, relabelling, schedules.

    python -m benchmarks.rebalancing                 # every row
    python -m benchmarks.rebalancing --rows 1,2      # some
    python -m benchmarks.rebalancing --others        # traffic on which nothing was chosen, instead of the rows
    python -m benchmarks.rebalancing --quick         # a smoke run, which judges nothing

GLM, 256 experts on 288 slots of 32 ranks: a free plan of window 0, then each window planned from the placement before it,
with at most so many moves a layer. 1: balance on the window planned for, and time; 2: moves that 0.999 takes; 3: balance on
the next window, equal dispatch; 4: the same, optimal dispatch; 5: relabelling of free plans; 6: rounds of the schedules;
7: with few buffers; 8: what they take. Balance is sum of ideal over sum of largest rank load, mean over windows 1 to 47 (the
next one: 2 to 47). One thread. Loads are found as in main_job.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.main_job import GLM, GPT_OSS
from benchmarks.rows import Row, check_loads, measure, parse
from benchmarks.traffic import OTHERS, REQUESTS
from rich.console import Console
from rich.table import Table

from equipoise import Cluster, LoadTrace, MoveBudget, Placement, dispatch, plan, relabel
from equipoise.migrating.links import LINKS
from equipoise.migrating.scheduling import schedule_moves
from equipoise.models import MODELS

CLUSTER = Cluster(num_ranks=32, slots_per_rank=9)
IN_SAMPLE = {8: (0.87, 15.0), 16: (0.93, None), 40: (0.985, 60.0)}


@dataclass(frozen=True)
class Chain:
    """What plans, each from the one before, reached: of every window."""

    in_sample: list[float]
    unseen: list[float]
    unseen_split: list[float]
    moves: list[float]
    milliseconds: list[float]


@cache
def glm(quick: bool) -> np.ndarray:
    """Return GLM's windows, float64 [windows, layers, experts]."""
    load = LoadTrace.read(GLM).load.astype(np.float64)
    return load[:6] if quick else load


def follow(load: np.ndarray, cluster: Cluster, budget: MoveBudget, first: str = "equal", **settings: Any) -> Chain:
    """Plan window after window from the placement before, and score each on its own window and on the next."""
    placement, chain = plan(load[0], cluster, dispatch=first).placement, Chain([], [], [], [], [])
    for window in range(1, len(load)):
        known = LoadTrace(load[: window + 1]) if "forecast" in settings else load[window]
        start = perf_counter()
        found = plan(known, cluster, previous=placement, budget=budget, **settings)
        chain.milliseconds.append(1e3 * (perf_counter() - start))
        placement = found.placement
        chain.in_sample.append(placement.balancedness(load[window]))
        chain.moves.append(float(found.moves.mean()))
        if window + 1 < len(load):
            chain.unseen.append(placement.balancedness(load[window + 1]))
            chain.unseen_split.append(dispatch(load[window + 1], placement).balancedness)
    return chain


def within_a_budget(quick: bool) -> Iterator[Row]:
    """1: balance on the window planned for."""
    for moves, (least, limit) in IN_SAMPLE.items():
        chain = follow(glm(quick), CLUSTER, MoveBudget(per_layer=moves))
        balance, time = float(np.mean(chain.in_sample)), median(chain.milliseconds)
        yield Row(f"at most {moves} moves a layer: balance in-sample", f">= {least}", f"{balance:.4f}", balance >= least)
        yield Row(f"at most {moves} moves a layer: next window", "", f"{np.mean(chain.unseen):.4f}")
        spread = f"{time:.1f} ms, p99 {np.percentile(chain.milliseconds, 99):.1f}"
        yield Row(
            f"at most {moves} moves a layer: plan(), median",
            f"<= {limit} ms" if limit else "",
            spread,
            time <= limit if limit else None,
        )


def nearly_level(quick: bool) -> Iterator[Row]:
    """2: how many pairs of rank and expert change for 0.999."""
    for moves in (60, 100, None):
        chain = follow(glm(quick), CLUSTER, MoveBudget(per_layer=moves))
        balance, share = float(np.mean(chain.in_sample)), float(np.mean(chain.moves)) / CLUSTER.num_slots
        is_met = None if moves != 100 else balance >= 0.999 and share <= 0.35
        what = f"{'any number of' if moves is None else f'at most {moves}'} moves a layer: balance, pairs that change"
        yield Row(what, ">= 0.999, <= 35 %" if moves == 100 else "", f"{balance:.4f}, {100 * share:.1f} %", is_met)
        yield Row("the same: next window, plan()", "", f"{np.mean(chain.unseen):.4f}, {median(chain.milliseconds):.0f} ms")


def on_the_next_window(quick: bool) -> Iterator[Row]:
    """3: equal dispatch."""
    for forecast in (None, "auto"):
        settings = {} if forecast is None else {"forecast": forecast}
        for moves in (8, 16, 40):
            chain = follow(glm(quick), CLUSTER, MoveBudget(per_layer=moves), **settings)
            balance = float(np.mean(chain.unseen))
            is_goal = moves == 16 and forecast == "auto"
            what = f"at most {moves} moves, {forecast or 'last window'}: next window, equal dispatch"
            yield Row(what, ">= 0.725" if is_goal else "", f"{balance:.4f}", balance >= 0.725 if is_goal else None)


def split_optimally(quick: bool) -> Iterator[Row]:
    """4: optimal dispatch."""
    for moves in (8, 16, 40):
        for what, first, settings in (
            ("planned for an even split", "equal", {"forecast": "auto"}),
            ("planned for it", "optimal", {"forecast": "auto", "dispatch": "optimal"}),
        ):
            chain = follow(glm(quick), CLUSTER, MoveBudget(per_layer=moves), first, **settings)
            balance = float(np.mean(chain.unseen_split))
            is_goal = moves == 8 and first == "optimal"
            measured = f"{balance:.4f}, {median(chain.milliseconds):.0f} ms with the forecast"
            name = f"at most {moves} moves, auto, {what}: next window, optimal dispatch"
            yield Row(name, ">= 0.78" if is_goal else "", measured, balance >= 0.78 if is_goal else None)


def relabelled(quick: bool) -> Iterator[Row]:
    """5: free plans, renamed to keep what they can."""
    plans = free_plans(quick)
    times, kept, before = [], [], []
    for previous, found in pairwise(plans):
        start = perf_counter()
        renamed = relabel(found, previous)
        times.append(1e3 * (perf_counter() - start))
        before.append(found.moves_from(previous).mean() / CLUSTER.num_slots)
        kept.append(renamed.moves_from(previous).mean() / CLUSTER.num_slots)
    yield Row("relabel(), 75 layers, median", "<= 30 ms", f"{median(times):.1f} ms", median(times) <= 30.0)
    shares = f"{100 * float(np.mean(before)):.1f} %, {100 * float(np.mean(kept)):.1f} %"
    yield Row("free plans: pairs that change, and relabelled", "", shares)
    load = glm(quick)
    in_sample = np.mean([found.balancedness(load[window]) for window, found in enumerate(plans) if window])
    unseen = np.mean([found.balancedness(load[window + 1]) for window, found in enumerate(plans[:-1]) if window])
    yield Row("free plans: balance in-sample, next window", "", f"{in_sample:.4f}, {unseen:.4f}")


@cache
def free_plans(quick: bool) -> list[Placement]:
    """Return a plan of each window, made without the one before."""
    return [plan(load, CLUSTER).placement for load in glm(quick)]


def scheduled(quick: bool) -> Iterator[Row]:
    """6: rounds of each layer beside the largest number of sends or receives of any rank."""
    plans = free_plans(quick)
    for mode in ("duplex", "one-peer"):
        layers, exact, times, over = 0, 0, [], []
        for previous, found in pairwise(plans):
            start = perf_counter()
            schedule = schedule_moves(previous, relabel(found, previous), mode=mode)
            times.append(1e3 * (perf_counter() - start))
            layers += len(schedule.rounds)
            exact += int((schedule.rounds == schedule.bound).sum())
            over.append(float((schedule.rounds - schedule.bound).mean()))
        measured = f"{exact} of {layers}, {np.mean(over):.2f} over it in the mean, {median(times):.0f} ms"
        is_met = exact == layers if mode == "duplex" else None
        yield Row(f"schedules, {mode}: layers with rounds at the bound", "all" if mode == "duplex" else "", measured, is_met)


def staged(quick: bool) -> Iterator[Row]:
    """7: rounds that few buffers add, over all windows and layers, free plans relabelled."""
    plans = free_plans(quick)
    changes = [(previous, relabel(found, previous)) for previous, found in pairwise(plans)]
    for staging in (1, 2, 4):
        schedules = [schedule_moves(previous, found, staging=staging) for previous, found in changes]
        added, rounds = (
            sum(int(one.sum()) for one in parts) for parts in zip(*((s.added, s.bound) for s in schedules), strict=True)
        )
        yield Row(f"schedules, {staging} buffers a rank: rounds added to those of the bound", "", f"{added} to {rounds}")


def stalled(quick: bool) -> Iterator[Row]:
    """8: what a schedule takes, window 0 to 1, four nodes of eight ranks, experts of DeepSeek-V3 in FP8, links of H100s."""
    cluster, load, size = Cluster(32, 9, 4), glm(quick), MODELS["deepseek-v3"].expert_bytes
    in_use, free = plan(load[0], cluster).placement, plan(load[1], cluster).placement
    within = {
        f"{moves} moves a layer": plan(load[1], cluster, previous=in_use, max_moves=moves).placement for moves in (8, 16, 40)
    }
    within["no limit"] = plan(load[1], cluster, previous=in_use).placement
    for what, found in (within | {"free plan, relabelled": relabel(free, in_use), "free plan": free}).items():
        duplex, one_peer = (schedule_moves(in_use, found, mode=mode) for mode in ("duplex", "one-peer"))
        seconds = [schedule.seconds(LINKS["h100"], size) for schedule in (duplex, one_peer)]
        most = duplex.received_bytes(size).max() / 1e9
        figures = f"{duplex.moves.sum()}, {duplex.rounds.sum()}, {seconds[0]:.2f} s, {seconds[1]:.2f} s, {most:.1f} GB"
        yield Row(f"{what}: moves, rounds, stall, one peer at a time, most bytes of a rank", "", figures)


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "1": within_a_budget,
    "2": nearly_level,
    "3": on_the_next_window,
    "4": split_optimally,
    "5": relabelled,
    "6": scheduled,
    "7": staged,
    "8": stalled,
}


def others(quick: bool) -> Table:
    """Return balance in-sample and on the next window on other traffic, two seeds each, beside free plans."""
    table = Table(title="traffic on which nothing was chosen: balance in-sample / next window, moves as a share of slots")
    for column in ("traffic", "3 % a window", "6 % a window", "14 % a window", "no budget", "free plans, relabelled"):
        table.add_column(column, justify="left" if column == "traffic" else "right")
    for name, (make, ranks, slots) in OTHERS.items():
        cluster, load = Cluster(ranks, slots // ranks), make(1).astype(np.float64)
        load = load[:6] if quick else load
        budgets = [*(MoveBudget(per_layer=max(1, round(share * slots))) for share in (0.03, 0.06, 0.14)), MoveBudget()]
        cells = [_said(follow(load, cluster, budget), slots) for budget in budgets]
        table.add_row(name, *cells, _said(_freely(load, cluster), slots))
    return table


def _said(chain: Chain, slots: int) -> str:
    return f"{np.mean(chain.in_sample):.4f} / {np.mean(chain.unseen):.4f}, {100 * np.mean(chain.moves) / slots:.0f} %"


def _freely(load: np.ndarray, cluster: Cluster) -> Chain:
    placement, chain = plan(load[0], cluster).placement, Chain([], [], [], [], [])
    for window in range(1, len(load)):
        found = plan(load[window], cluster).placement
        renamed = relabel(found, placement)
        chain.moves.append(float(renamed.moves_from(placement).mean()))
        placement = renamed
        chain.in_sample.append(placement.balancedness(load[window]))
        if window + 1 < len(load):
            chain.unseen.append(placement.balancedness(load[window + 1]))
    return chain


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("rebalancing", "Plans from the placement before.", ROWS, arguments, has_others=True)
    check_loads(GLM, GPT_OSS, REQUESTS)
    if options.others:
        Console(width=150).print(others(options.quick))
        return
    sys.exit(measure("moves, 1 thread", ROWS, options.rows, options.quick, Console(width=150)))


if __name__ == "__main__":
    main(sys.argv[1:])
