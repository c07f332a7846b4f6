"""Plans on windows they have not seen: balance, FlashLB with its history, time and memory of replays, each beside its goal.

    python -m benchmarks.out_of_sample                 # every row
    python -m benchmarks.out_of_sample --rows 1,2      # some
    python -m benchmarks.out_of_sample --others        # traffic on which nothing was chosen, instead of the rows
    python -m benchmarks.out_of_sample --quick         # a smoke run, which judges nothing

1: `auto` against `last` on GLM; 2: against fixed forecasters on three traces; 3: against FlashLB, from its published wheel;
4: `equipoise simulate` as a whole process; 5: a long replay. Loads are found as in main_job.py, wheels as in benchmarks.peers.
A plan is made from the windows so far, on one thread, and scored on the next with equal dispatch: sum of ideal over sum of
largest rank load, mean over windows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from benchmarks.main_job import GLM, GPT_OSS
from benchmarks.peers.fetching import NotToBeHadError, obtain, scipy_folder
from benchmarks.peers.rivals import PEERS, AscendMaker, Ints, initial_placement
from benchmarks.peers.scoring import as_placement
from benchmarks.peers.shapes import HEADLINE
from benchmarks.peers.worker import Setting, Worker
from benchmarks.rows import Row, check_loads, measure, parse
from benchmarks.traffic import OTHERS, REQUESTS, as_result, said
from rich.console import Console
from rich.table import Table

import equipoise  # what compiles is loaded when first used: FlashLB's process imports this file too, before it sets numba up
from equipoise.simulating.results import PolicyResult, Simulation, paired_difference

FIXED = (
    "last",
    *(f"mean:{windows}" for windows in (2, 4, 8, 16)),
    *(f"exponential:{weight}" for weight in (0.7, 0.5, 0.3, 0.1)),
    "exponential:0.5,0.5",
    "exponential:0.3,0.5",
    "mean:8,0.674",
    "quantile:8,0.75",
)
"""The forecasters that `auto` is held against, chosen before it was measured."""

OURS = ("auto", "robust:8")

TRACES = {
    "GLM, 256/288/32": (GLM, 1, 32, 288),
    "gpt-oss x 16, 32/40/8": (GPT_OSS, 16, 8, 40),
    "gpt-oss x 4, 32/40/8": (GPT_OSS, 4, 8, 40),
}
"""Name -> file, steps a window, ranks, slots."""

LONG = """
import json, sys, time
from pathlib import Path
import numpy as np
import equipoise
file, policy, marks = json.loads(sys.argv[1])
windows = equipoise.LoadTrace.read(file).windows(4).load.astype(np.float64)
drift = np.random.default_rng(1).normal(0.0, 0.05, windows.shape[1:])

def blocks():
    log_factor = np.zeros_like(drift)
    for start in range(0, marks[-1], len(windows)):
        log_factor = 0.99 * log_factor + np.roll(drift, start // len(windows), axis=1)
        yield np.floor(windows * np.exp(log_factor))

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

seen, peaks = 0, []
def count():
    global seen
    seen += 1
    if seen in marks:
        peaks.append(peak_mb())

cluster = equipoise.Cluster(num_ranks=8, slots_per_rank=5)
equipoise.simulate(windows[:5], cluster, [policy])
start = time.perf_counter()
found = equipoise.simulate(equipoise.LoadStream(blocks), cluster, [policy], progress=count)
print(json.dumps({"seconds": time.perf_counter() - start, "peaks": peaks, "balance": found.policies[0].mean_balancedness}))
"""
"""Replays gpt-oss windows again and again, each round drifted further; notes its own peak memory after so many windows.

Not ru_maxrss: a process inherits that from the one that started it.
"""


@dataclass(frozen=True)
class Feed:
    """How FlashLB is given the past: how many windows, whether each is scaled to the last one's total, and its object kept."""

    windows: int
    is_scaled: bool = False
    keeps_policy: bool = False

    @property
    def name(self) -> str:
        """As printed."""
        return f"last {self.windows}" + ", scaled" * self.is_scaled + ", object kept" * self.keeps_policy

    def __call__(self, load: Ints, window: int) -> Ints:
        """Return what is known after ``window``: [stages, layers, experts]."""
        past = load[max(0, window + 1 - self.windows) : window + 1]
        if not self.is_scaled:
            return past
        total = past.sum(axis=2, keepdims=True)
        return np.rint(past * (total[-1] / total)).astype(np.int64)


FEEDS = (Feed(1), Feed(1, keeps_policy=True), Feed(4), Feed(8), Feed(48), Feed(4, is_scaled=True), Feed(8, is_scaled=True))
"""An engine gives FlashLB the stages of one period and keeps its object; bench-peers one stage and a fresh object."""


@cache
def load_of(name: str, quick: bool) -> Ints:
    """Return the windows of one of TRACES."""
    file, steps = TRACES[name][:2]
    load = equipoise.LoadTrace.read(file).windows(steps).load
    return np.ascontiguousarray(load[:10] if quick else load)


@cache
def replayed(name: str, quick: bool) -> Simulation:
    """Return a trace replayed under every fixed forecaster, ``auto`` and ``robust``."""
    _, _, ranks, slots = TRACES[name]
    return replay(load_of(name, quick), ranks, slots, (*FIXED, *OURS))


def replay(load: Ints, ranks: int, slots: int, policies: tuple[str, ...]) -> Simulation:
    """Replay windows; no policy may fail."""
    cluster = equipoise.Cluster(num_ranks=ranks, slots_per_rank=slots // ranks)
    found = equipoise.simulate(equipoise.LoadTrace(load), cluster, policies)
    failures = [policy.failure for policy in found.policies if policy.failure]
    if failures:
        raise RuntimeError(failures[0])
    return found


def best_fixed(found: Simulation) -> PolicyResult:
    """Return the fixed forecaster that was best, chosen afterwards."""
    return max((found.policy(name) for name in FIXED), key=lambda policy: policy.mean_balancedness)


def beats_last(quick: bool) -> Iterator[Row]:
    """1: GLM, ``auto`` against ``last``."""
    name = next(iter(TRACES))
    found = replayed(name, quick)
    auto, last, best = found.policy("auto"), found.policy("last"), best_fixed(found)
    for policy in dict.fromkeys((last, found.policy("exponential:0.7"), best)):
        what = policy.name + ", the best fixed" * (policy is best)
        yield Row(f"{name}: {what}", "", f"{policy.mean_balancedness:.4f}")
    balance, gain = auto.mean_balancedness, paired_difference(auto, last)
    yield Row(f"{name}: auto", ">= 0.742", f"{balance:.4f}", balance >= 0.742)
    yield Row(f"{name}: auto - last, 95 % interval", "> 0", said(gain), gain.low > 0)
    robust = found.policy("robust:8")
    yield Row(f"{name}: robust:8, and on auto", "", f"{robust.mean_balancedness:.4f}, {said(paired_difference(robust, auto))}")


def beside_fixed(quick: bool) -> Iterator[Row]:
    """2: ``auto`` against the best fixed forecaster of each trace."""
    for name in TRACES:
        found = replayed(name, quick)
        auto, best = found.policy("auto"), best_fixed(found)
        gain = paired_difference(auto, best)
        yield Row(f"{name}: auto - {best.name}, the best fixed", ">= -0.50", said(gain), gain.mean >= -0.005)


def against_flashlb(quick: bool) -> Iterator[Row]:
    """3: GLM, ours in turns with FlashLB, which is given the past in several ways; no index checks, which take it time."""
    name = next(iter(TRACES))
    load = load_of(name, quick)
    source = obtain("vllm-ascend")
    found: dict[Feed, Turns] = {}
    try:
        extra = scipy_folder()
    except NotToBeHadError as error:
        source = replace(source, folder=None, missing=str(error))
    if source.folder is None:
        yield Row("FlashLB", "measured", f"not to be had: {source.missing}", False)
        return
    for feed in FEEDS[:3] if quick else FEEDS:
        maker = AscendMaker("policy_flashlb", "FlashLB", feed.keeps_policy)
        rival = replace(next(peer for peer in PEERS if peer.name == "FlashLB"), make=maker, needs_bounds_checks=False)
        worker = Worker(Setting(rival, source.folder, extra))
        try:
            found[feed] = in_turns(load, feed, worker)
        except RuntimeError as error:
            yield Row(f"FlashLB, {feed.name}", "runs", str(error), False)
        finally:
            worker.close()
    for feed, turns in found.items():
        measured = f"{turns.flashlb.mean():.4f}, {turns.flashlb_ms:.0f} ms; {turns.ratio:.0f} x auto's"
        yield Row(f"{name}: FlashLB, {feed.name}", "", measured)
    for what, given in (("as counted", False), ("each scaled, which it does not do by itself", True)):
        raced = [turns for feed, turns in found.items() if feed.is_scaled == given]
        if raced:
            best = max(raced, key=lambda turns: float(turns.flashlb.mean()))
            gain = paired_difference(as_result("auto", best.auto), as_result("FlashLB", best.flashlb))
            goal, is_met = ("", None) if given else ("> 0", gain.low > 0)
            yield Row(f"{name}: auto - FlashLB's best, windows {what}", goal, said(gain), is_met)
            goal, is_met = ("", None) if given else (">= 50", best.ratio >= 50)
            times = f"{best.flashlb_ms:.0f} / {best.auto_ms:.1f} ms = {best.ratio:.0f}"
            yield Row(f"{name}: its time / auto's, medians in turns", goal, times, is_met)
            gain = paired_difference(as_result("robust", best.robust), as_result("FlashLB", best.flashlb))
            times = f"{best.flashlb_ms / best.robust_ms:.1f} times as fast at {best.robust_ms:.0f} ms"
            yield Row(f"{name}: robust:8 - FlashLB's best, windows {what}", "", f"{said(gain)}, {times}")


@dataclass(frozen=True, eq=False)
class Turns:
    """Balance on the next window, and median ms a window, of FlashLB, ``auto`` and ``robust``."""

    flashlb: np.ndarray
    auto: np.ndarray
    robust: np.ndarray
    flashlb_ms: float
    auto_ms: float
    robust_ms: float

    @property
    def ratio(self) -> float:
        """How many times as long FlashLB took."""
        return self.flashlb_ms / self.auto_ms


def in_turns(load: Ints, feed: Feed, worker: Worker) -> Turns:
    """Let FlashLB and ours (observe, forecast and plan) plan after each window; the call alone is timed."""
    from equipoise.simulating.policies import PlannedPolicy

    num_layers = load.shape[1]
    previous = initial_placement(HEADLINE, num_layers)
    worker.plan(np.ascontiguousarray(load[:1, :2]), HEADLINE, previous[:2])
    actors = [PlannedPolicy(name).begin(HEADLINE.cluster(), *load.shape[1:]) for name in OURS]
    balances, seconds = [], []
    for window in range(len(load) - 1):
        reply = worker.plan(np.ascontiguousarray(feed(load, window)), HEADLINE, previous)
        if reply.expert_of_slot is None:
            raise RuntimeError(reply.refused)
        previous = reply.expert_of_slot
        planned, taken, seen = [as_placement(previous, HEADLINE)], [reply.seconds], load[window].astype(np.float64)
        seen.setflags(write=False)
        for actor in actors:
            start = perf_counter()
            actor.observe(seen)
            placement = actor.decide()
            taken.append(perf_counter() - start)
            assert placement is not None
            planned.append(placement)
        seconds.append(taken)
        balances.append([placement.balancedness(load[window + 1]) for placement in planned])
    return Turns(*np.array(balances).T, *(1e3 * median(column) for column in zip(*seconds, strict=True)))


def whole_command(quick: bool) -> Iterator[Row]:
    """4: the command, from start to end, on 48 windows."""
    program = Path(sys.executable).with_name("equipoise")
    for policy in ("last", "auto"):
        call = [str(program), "simulate", str(GLM), "--ranks", "32", "--slots", "288", "--policy", policy]
        taken = [_seconds(call) for _ in range(2 if quick else 6)][1:]
        spread = f"{median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})"
        yield Row(
            f"equipoise simulate GLM --policy {policy}, warm, median of {len(taken)}", "<= 3 s", spread, median(taken) <= 3
        )


def long_replay(quick: bool) -> Iterator[Row]:
    """5: windows of 24 x 32 from a generator, effort fast."""
    short, long = (1_000, 5_000) if quick else (10_000, 100_000)
    done = _long("last,effort=fast", short, long)
    first, last = done["peaks"]
    seconds, policy = done["seconds"], f"{long:,} windows of 24 x 32, last,effort=fast"
    yield Row(f"{policy}, balance {done['balance']:.4f}", "<= 60 s", f"{seconds:.1f} s", seconds <= 60)
    grown = f"{first:.0f} MB after {short:,}, {last:.0f} MB at the end"
    yield Row(f"{policy}: growth of its peak memory", "<= 30 MB", grown, last - first <= 30)
    auto = _long("auto,effort=fast", short // 10, short)
    yield Row(f"{short:,} windows of 24 x 32, auto,effort=fast, balance {auto['balance']:.4f}", "", f"{auto['seconds']:.1f} s")


def _long(policy: str, *marks: int) -> dict:
    arguments = json.dumps([str(GPT_OSS), policy, marks])
    return json.loads(
        subprocess.run([sys.executable, "-c", LONG, arguments], check=True, capture_output=True, text=True).stdout
    )


def _seconds(call: list[str]) -> float:
    start = perf_counter()
    subprocess.run(call, check=True, capture_output=True)
    return perf_counter() - start


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "1": beats_last,
    "2": beside_fixed,
    "3": against_flashlb,
    "4": whole_command,
    "5": long_replay,
}


COMPARED = ("last", "exponential:0.5", "auto", "robust:8")


def others(quick: bool) -> Table:
    """Return the balance of four policies on other traffic, all seeds together."""
    seeds = range(1, 2 if quick else 6)
    table = Table(title=f"traffic on which nothing was chosen, seeds {list(seeds)}")
    for column in ("traffic", "windows", *COMPARED, "auto - last, points", "robust - last, points"):
        table.add_column(column, justify="left" if column == "traffic" else "right")
    for name, (make, ranks, slots) in OTHERS.items():
        found = [replay(make(seed), ranks, slots, COMPARED) for seed in seeds]
        last, mean, auto, robust = (
            as_result(policy, np.concatenate([one.policy(policy).balancedness for one in found])) for policy in COMPARED
        )
        gains = [said(paired_difference(ours, last)).removesuffix(" points") for ours in (auto, robust)]
        balances = [f"{policy.mean_balancedness:.4f}" for policy in (last, mean, auto, robust)]
        table.add_row(name, str(auto.balancedness.size), *balances, *gains)
    return table


def every_forecaster(quick: bool) -> Table:
    """Return the balance of every forecaster on every trace."""
    table = Table(title="next-window balance, mean over windows")
    table.add_column("forecast")
    for name in TRACES:
        table.add_column(name, justify="right")
    for policy in (*FIXED, *OURS):
        table.add_row(policy, *(f"{replayed(name, quick).policy(policy).mean_balancedness:.4f}" for name in TRACES))
    return table


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("out_of_sample", "Plans on windows they have not seen.", ROWS, arguments, has_others=True)
    check_loads(GLM, GPT_OSS, REQUESTS)
    console = Console(width=150)
    if options.others:
        console.print(others(options.quick))
        return
    missed = measure("out of sample, 1 thread", ROWS, options.rows, options.quick, console)
    if "2" in options.rows:
        console.print(every_forecaster(options.quick))
    sys.exit(missed)


if __name__ == "__main__":
    main(sys.argv[1:])
