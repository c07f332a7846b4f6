"""Batches on plans that do not know them: optimal dispatch, plans made for it, replicas chosen for the batch.

    python -m benchmarks.dispatching                 # every row
    python -m benchmarks.dispatching --rows 1,2      # some
    python -m benchmarks.dispatching --others        # traffic on which nothing was chosen, instead of the rows
    python -m benchmarks.dispatching --quick         # a smoke run, which judges nothing

1: dispatch against the linear program (scipy's HiGHS), every fourth window and every tenth layer, equal and unequal speeds,
on ordinary plans and on plans for dispatch; 2: its time on both; 3: next-window balance with planning for dispatch, beside
ordinary plans; 4: replicas for the batch, balance, moves and time from the same calls; 5: balance against moves; 6: one home
kept for all windows, and what spare slots hold from the window before. Loads are found as in main_job.py. A plan, or a home,
is made from the windows so far and meets the next one; balance is sum of ideal over sum of largest rank load, mean over
windows. One thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from time import perf_counter

import numpy as np
from benchmarks.main_job import GLM, GPT_OSS, LOADS
from benchmarks.rows import Row, check_loads, measure, parse
from benchmarks.traffic import OTHERS as UNSEEN
from benchmarks.traffic import REQUESTS, as_result, said
from rich.console import Console
from rich.table import Table
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from equipoise import Cluster, LoadTrace, Placement, dispatch, plan, simulate
from equipoise.dispatching.stepping import BatchDispatcher, Dispatcher
from equipoise.simulating.results import paired_difference

OLMOE = LOADS / "olmoe-routing-analysis" / "olmoe_1b7b_base_6domains.npz"
SLOTS = (288, 320, 384)
FASTEST = {288: 15.0, 320: 25.0, 384: 25.0}
PLANNED = {288: 0.83, 320: 0.91, 384: 0.965}
OTHERS = {
    "gpt-oss x 16, 32/40/8": (GPT_OSS, 16, 8, 40),
    "gpt-oss x 4, 32/40/8": (GPT_OSS, 4, 8, 40),
    "OLMoE domains, 64/72/8": (OLMOE, 1, 8, 72),
}
PLANS = {"equal": "ordinary plans", "optimal": "plans for dispatch"}
PRICES = {1: 0.003, 2: 0.0005}
"""Part of the ideal time that a move must save, for one and two spare slots a rank."""

CURVE = (0.05, 0.0355, 0.0265, 0.0185, 0.0101, 0.005, 0.003, 0.001, 0.0005, 0.0)
CURVE_GOALS = {4.2: 0.86, 7.9: 0.92, 11.7: 0.96}


@cache
def glm(quick: bool) -> np.ndarray:
    """Return GLM's windows, float64 [windows, layers, experts]."""
    load = LoadTrace.read(GLM).load.astype(np.float64)
    return np.ascontiguousarray(load[:6] if quick else load)


@cache
def planned(num_ranks: int, num_slots: int, quick: bool, split: str = "equal") -> list[Placement]:
    """Return a plan of each window but the last, made for that split."""
    cluster = Cluster(num_ranks=num_ranks, slots_per_rank=num_slots // num_ranks)
    return [plan(load, cluster, dispatch=split).placement for load in glm(quick)[:-1]]


def least_by_program(load: np.ndarray, expert: np.ndarray, rank: np.ndarray, speed: np.ndarray) -> float:
    """Return the least largest rank time of one layer, by linear programming: tokens of each slot, and the time."""
    slots = np.flatnonzero(expert >= 0)
    held, row = np.unique(expert[slots], return_inverse=True)
    count, ranks = len(slots), len(speed)
    equal = coo_matrix((np.ones(count), (row, np.arange(count))), (len(held), count + 1))
    rows, columns = np.concatenate([rank[slots], np.arange(ranks)]), np.concatenate([np.arange(count), np.full(ranks, count)])
    below = coo_matrix((np.concatenate([np.ones(count), -speed]), (rows, columns)), (ranks, count + 1))
    cost = np.zeros(count + 1)
    cost[-1] = 1.0
    scale = load.sum() / ranks
    found = linprog(cost, below.tocsr(), np.zeros(ranks), equal.tocsr(), load[held] / scale, method="highs")
    return float(found.fun * scale)


def beside_the_program(quick: bool) -> Iterator[Row]:
    """1: the largest rank time against the optimum."""
    uneven = 0.5 + np.random.default_rng(0).random(32)
    for num_slots in SLOTS:
        for split, what in PLANS.items():
            for speeds, speed in (("equal", np.ones(32)), ("unequal", uneven)):
                worst, layers = off_the_optimum(num_slots, split, speed, quick)
                name = f"256/{num_slots}/32, {what}, {speeds} speeds, {layers} layers: off the optimum"
                yield Row(name, "<= 1e-6", f"{worst:.1e}", worst <= 1e-6)


def off_the_optimum(num_slots: int, split: str, speed: np.ndarray, quick: bool) -> tuple[float, int]:
    """Return the largest relative difference from the linear program's optimum, and the number of layers looked at."""
    load, cluster = glm(quick), Cluster(num_ranks=32, slots_per_rank=num_slots // 32, rank_speeds=speed)
    worst, layers = 0.0, 0
    for window in range(0, len(load) - 1, 4):
        slots = planned(32, num_slots, quick, split)[window].expert_of_slot
        found = dispatch(load[window + 1], Placement(slots, cluster, 256))
        for x in range(0, len(slots), 10):
            least = least_by_program(load[window + 1, x], slots[x], cluster.rank_of_slot, speed)
            worst, layers = max(worst, abs(found.largest[x] / least - 1.0)), layers + 1
    return worst, layers


def time_to_dispatch(quick: bool) -> Iterator[Row]:
    """2: microseconds a layer: a whole window's call over its layers, and single layers."""
    for num_slots in SLOTS:
        for split, what in PLANS.items():
            whole, single = times_of_splits(num_slots, split, quick)
            goal, measured = FASTEST[num_slots], f"{median(whole):.1f} us"
            yield Row(
                f"dispatch, 256/{num_slots}/32, {what}, a layer, median", f"<= {goal:.0f} us", measured, median(whole) <= goal
            )
            spread = f"{median(single):.1f}, {np.percentile(single, 99):.1f} us"
            yield Row(f"dispatch, 256/{num_slots}/32, {what}, one layer a call, median and p99", "", spread)


def times_of_splits(num_slots: int, split: str, quick: bool) -> tuple[list[float], list[float]]:
    """Return microseconds a layer: of whole windows, of single layers."""
    load, whole, single = glm(quick), [], []
    for window, placement in enumerate(planned(32, num_slots, quick, split)):
        step = Dispatcher(placement)
        step.step(load[window + 1])
        start = perf_counter()
        step.step(load[window + 1])
        whole.append(1e6 * (perf_counter() - start) / len(load[0]))
        for x, row in enumerate(load[window + 1]):
            start = perf_counter()
            step.step_layer(x, row)
            single.append(1e6 * (perf_counter() - start))
    return whole, single


def planned_for_dispatch(quick: bool) -> Iterator[Row]:
    """3: next-window balance under optimal dispatch, of ordinary plans and of plans for dispatch."""
    cases = {f"GLM, 256/{num_slots}/32": (GLM, 1, 32, num_slots) for num_slots in SLOTS} | OTHERS
    for name, (file, steps, ranks, num_slots) in cases.items():
        windows = LoadTrace.read(file).windows(steps).load
        policies = ("last", "auto", "robust:8", "auto,planned_for=optimal")
        found = simulate(
            LoadTrace(windows[:6] if quick else windows), Cluster(ranks, num_slots // ranks), policies, dispatch="optimal"
        )
        last, *_, ours = found.policies
        for result in found.policies[:-1]:
            yield Row(f"{name}: {result.name}", "", f"{result.mean_balancedness:.4f}, {result.milliseconds:.0f} ms")
        measured = f"{ours.mean_balancedness:.4f}, {ours.milliseconds:.0f} ms"
        if file == GLM:
            goal = PLANNED[num_slots]
            yield Row(f"{name}: {ours.name}", f">= {goal}", measured, ours.mean_balancedness >= goal)
        else:
            gain = paired_difference(ours, last)
            measured += f"; on last {100 * gain.mean:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}) points"
            yield Row(f"{name}: {ours.name}", ">= last", measured, ours.mean_balancedness >= last.mean_balancedness)


def run_batches(num_ranks: int, spare: int, price: float, quick: bool) -> tuple[float, float, list[float], list[float]]:
    """Return balance, moves a layer, and microseconds a layer: of whole windows, of single layers."""
    load = glm(quick)
    balance, moves, whole, single = [], [], [], []
    for window, home in enumerate(planned(num_ranks, 256, quick)):
        batch = BatchDispatcher(home, spare, gain_per_move=price)
        start = perf_counter()
        batch.step(load[window + 1])
        whole.append(1e6 * (perf_counter() - start) / len(load[0]))
        balance.append(batch.rank_load.sum() / num_ranks / batch.rank_load.max(axis=1).sum())
        moves.append(batch.moves.mean())
        batch.forget()
        for x, row in enumerate(load[window + 1]):
            start = perf_counter()
            batch.step_layer(x, row)
            single.append(1e6 * (perf_counter() - start))
    return float(np.mean(balance)), float(np.mean(moves)), whole, single


def replicas_for_the_batch(quick: bool) -> Iterator[Row]:
    """4: balance, moves and time of the same calls."""
    for num_ranks, spare, least, most, limit in (
        (32, 1, 0.990, 18, 40),
        (32, 2, 0.9985, 25, 40),
        (64, 1, 0, 0, 80),
        (64, 2, 0, 0, 80),
    ):
        balance, moves, whole, single = run_batches(num_ranks, spare, PRICES[spare], quick)
        what = f"EP{num_ranks}, {spare} spare, {PRICES[spare]} a move"
        yield Row(f"{what}: balance", f">= {least}" if least else "", f"{balance:.4f}", balance >= least if least else None)
        yield Row(f"{what}: moves a layer", f"<= {most}" if most else "", f"{moves:.1f}", moves <= most if most else None)
        yield Row(f"{what}: time a layer, median", f"<= {limit} us", f"{median(whole):.1f} us", median(whole) <= limit)
        spread = f"{median(single):.1f}, {np.percentile(single, 99):.1f} us"
        yield Row(f"{what}: one layer a call, median and p99", "", spread)


def balance_against_moves(quick: bool) -> Iterator[Row]:
    """5: one spare slot a rank, EP32; the price of a move sets how many."""
    points = {}
    for price in CURVE:
        balance, moves, _, _ = run_batches(32, 1, price, quick)
        points[price] = (moves, balance)
        yield Row(f"EP32, 1 spare, {price} a move", "", f"{balance:.4f} with {moves:.1f} moves a layer")
    for most, least in CURVE_GOALS.items():
        within = [balance for moves, balance in points.values() if moves <= most]
        best = max(within, default=0.0)
        yield Row(f"EP32, 1 spare, at most {most} moves a layer: balance", f">= {least}", f"{best:.4f}", best >= least)


def one_home_kept(quick: bool) -> Iterator[Row]:
    """6: the first window's plan as home for good, with what spare slots hold carried on, and without."""
    load = glm(quick)
    for num_ranks, spare in ((32, 1), (32, 2), (64, 1), (64, 2)):
        for keeps in (True, False):
            batch = BatchDispatcher(planned(num_ranks, 256, quick)[0], spare, gain_per_move=PRICES[spare])
            balance, moves, times = [], [], []
            for window in load[1:]:
                if not keeps:
                    batch.forget()
                start = perf_counter()
                batch.step(window)
                times.append(1e6 * (perf_counter() - start) / len(window))
                balance.append(batch.rank_load.sum() / num_ranks / batch.rank_load.max(axis=1).sum())
                moves.append(batch.moves.mean())
            what = f"EP{num_ranks}, {spare} spare, {PRICES[spare]} a move, one home, {'held' if keeps else 'empty'} at first"
            yield Row(what, "", f"{np.mean(balance):.4f} with {np.mean(moves):.1f} moves a layer, {median(times):.1f} us")


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "1": beside_the_program,
    "2": time_to_dispatch,
    "3": planned_for_dispatch,
    "4": replicas_for_the_batch,
    "5": balance_against_moves,
    "6": one_home_kept,
}

COMPARED = ("last", "auto", "robust:8", "auto,planned_for=optimal")


def others(quick: bool) -> Table:
    """Return the balance under optimal dispatch on other traffic, all seeds together."""
    seeds = range(1, 2 if quick else 4)
    table = Table(title=f"optimal dispatch on traffic on which nothing was chosen, seeds {list(seeds)}")
    for column in ("traffic", "windows", *COMPARED, "planned for it - auto, points"):
        table.add_column(column, justify="left" if column == "traffic" else "right")
    for name, (make, ranks, slots) in UNSEEN.items():
        cluster = Cluster(num_ranks=ranks, slots_per_rank=slots // ranks)
        found = [simulate(LoadTrace(make(seed)), cluster, COMPARED, dispatch="optimal") for seed in seeds]
        last, auto, robust, ours = (
            as_result(policy, np.concatenate([one.policies[i].balancedness for one in found]))
            for i, policy in enumerate(COMPARED)
        )
        gain = said(paired_difference(ours, auto)).removesuffix(" points")
        balances = [f"{policy.mean_balancedness:.4f}" for policy in (last, auto, robust, ours)]
        table.add_row(name, str(ours.balancedness.size), *balances, gain)
    return table


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("dispatching", "Batches on plans that do not know them.", ROWS, arguments, has_others=True)
    check_loads(GLM, GPT_OSS, OLMOE, REQUESTS)
    if options.others:
        Console(width=150).print(others(options.quick))
        return
    sys.exit(measure("batches, 1 thread", ROWS, options.rows, options.quick, Console(width=150)))


if __name__ == "__main__":
    main(sys.argv[1:])
