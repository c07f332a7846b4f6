"""The main job on recorded loads: balance and time from the same calls, memory, and first use, each beside its goal.

    make bench                                    # loads from ../shared/data/expert-load
    EQUIPOISE_LOADS=DIR make bench                # from elsewhere

The GLM set is 48 windows of 75 layers of 256 experts, the gpt-oss set 511 decode steps of 24 layers of 32 (see each SOURCE.md).
Every figure comes from processes started here; times are wall clock, one thread.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
LOADS = Path(os.environ.get("EQUIPOISE_LOADS", ROOT.parent / "shared" / "data" / "expert-load"))
GLM = LOADS / "glm52-reap-saliency" / "glm52_6domains.npz"
GPT_OSS = LOADS / "gpt-oss-20b-decode" / "gptoss20b_decode_steps.npz"

PLAN_ALL = """
import json, resource, sys, time
import numpy as np
from equipoise import Cluster, plan
file, shape, options, steps, windows, turns = json.loads(sys.argv[1])
load = np.load(file)["load"]
load = np.array([load[i : i + steps].sum(axis=0) for i in range(0, len(load) - steps + 1, steps)])[windows or slice(None)]
cluster = Cluster(*shape)
plan(load[0], cluster, **options)
milliseconds, balancedness, gap = [], [], []
for _ in range(turns):
    for window in load:
        start = time.perf_counter()
        result = plan(window, cluster, **options)
        milliseconds.append(1e3 * (time.perf_counter() - start))
        balancedness.append(result.balancedness)
        gap.append(float(result.largest.sum() / result.bound.sum() - 1))
        result.placement.validate()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"milliseconds": milliseconds, "balancedness": balancedness, "gap": gap, "peak_mb": peak}))
"""

PLAN_LARGE = """
import json, sys, time
import numpy as np
from equipoise import Cluster, plan
rng = np.random.default_rng(1)
share = 1.0 / np.arange(1, 513)
load = np.array([rng.multinomial(600_000, rng.permutation(share / share.sum())) for _ in range(60)])
seconds = []
for ranks, slots in ((256, 4), (1024, 4)):
    cluster = Cluster(ranks, slots)
    plan(load[:2], cluster)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        plan(load, cluster)
        taken.append(time.perf_counter() - start)
    seconds.append(sorted(taken)[10])
print(json.dumps(seconds))
"""

FIRST_PLAN = """
import resource, sys
from equipoise import Cluster, LoadTrace, plan
plan(LoadTrace.read(sys.argv[1]).load[0], Cluster(num_ranks=32, slots_per_rank=9))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True)
class Row:
    """A measured figure beside its goal."""

    what: str
    measured: float
    goal: str
    unit: str
    is_met: bool | None


@dataclass(frozen=True)
class Runs:
    """What planning windows one by one gave, call by call, and the process's peak memory."""

    milliseconds: list[float]
    balancedness: list[float]
    gap: list[float]
    peak_mb: float


def run(program: str, *arguments: str, cache: str | None = None) -> tuple[str, float]:
    """Run a program in a fresh interpreter; returns its output and the seconds from start to end."""
    env = {**os.environ, **({} if cache is None else {"NUMBA_CACHE_DIR": cache})}
    start = perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=env, check=True, capture_output=True, text=True)
    return done.stdout, perf_counter() - start


def plan_all(file: Path, shape: tuple[int, ...], effort: str = "default", **setting: Any) -> Runs:
    """Plan windows of a load, again and again in one process; ``setting``: steps, windows, turns, options of plan."""
    steps, windows, turns = setting.pop("steps", 1), setting.pop("windows", None), setting.pop("turns", 3)
    arguments = [str(file), shape, {"effort": effort, **setting}, steps, windows, turns]
    return Runs(**json.loads(run(PLAN_ALL, json.dumps(arguments))[0]))


def measure() -> list[Row]:
    """Return every row of the table."""
    return [*first_use(), *efforts(), *strict_locality(), *few_slots(), *scale()]


def first_use() -> list[Row]:
    """From the start of a process to its first plan."""
    with tempfile.TemporaryDirectory() as cache:
        cold_peak, cold = run(FIRST_PLAN, str(GLM), cache=cache)
        warm = median(run(FIRST_PLAN, str(GLM), cache=cache)[1] for _ in range(5))
    return [
        Row("start to plan, cold compile cache", cold, "<= 40", "s", cold <= 40),
        Row("start to plan, warm compile cache, median of 5", warm, "<= 2", "s", warm <= 2),
        Row("peak memory while compiling too", float(cold_peak), "<= 400", "MB", float(cold_peak) <= 400),
    ]


def efforts() -> list[Row]:
    """GLM, 288 slots on 32 ranks, all 48 windows one by one, each effort."""
    rows = []
    for effort, least, most in (("fast", 0.996, 2.0), ("default", 0.9995, 4.0), ("best", 0.9998, None)):
        runs = plan_all(GLM, (32, 9), effort, turns=1 if effort == "best" else 3)
        balance, time = mean(runs.balancedness), median(runs.milliseconds)
        rows += [
            Row(f"GLM 256/288/32, {effort}: balancedness", balance, f">= {least}", "", balance >= least),
            Row(f"GLM 256/288/32, {effort}: plan(), median", time, f"<= {most}" if most else "", "ms", most and time <= most),
            Row(f"GLM 256/288/32, {effort}: plan(), 99th percentile", percentile(runs.milliseconds), "", "ms", None),
            Row(f"GLM 256/288/32, {effort}: gap to the bound", 100 * mean(runs.gap), "", "%", None),
        ]
    return [*rows, Row("peak memory of the process", runs.peak_mb, "<= 400", "MB", runs.peak_mb <= 400)]


def strict_locality() -> list[Row]:
    """GLM, 8 groups on 4 nodes."""
    runs = plan_all(GLM, (32, 9, 4), num_groups=8, locality="strict")
    gap = 100 * mean(runs.gap)
    return [
        Row("GLM strict, 8 groups on 4 nodes: balancedness", mean(runs.balancedness), "", "", None),
        Row("GLM strict: plan(), median", median(runs.milliseconds), "", "ms", None),
        Row("GLM strict: gap to the exact pairing bound", gap, "<= 0.05", "%", gap <= 0.05),
    ]


def few_slots() -> list[Row]:
    """Hard shapes at effort best: six GLM windows, the first twelve gpt-oss windows of 16 steps."""
    rows = []
    for experts, slots, ranks, least in (
        (256, 288, 144, 0.901),
        (256, 320, 160, 0.965),
        (256, 288, 96, 0.994),
        (32, 48, 16, 0.988),
        (32, 64, 32, 0.955),
    ):
        source = {"windows": [2, 3, 18, 19, 34, 35]} if experts == 256 else {"steps": 16, "windows": list(range(12))}
        file, turns = (GLM, 4) if experts == 256 else (GPT_OSS, 2)
        runs = plan_all(file, (ranks, slots // ranks), "best", turns=turns, **source)
        name, balance, time = f"{experts}/{slots}/{ranks}, best", mean(runs.balancedness), median(runs.milliseconds)
        rows += [
            Row(f"{name}: balancedness", balance, f">= {least}", "", balance >= least),
            Row(f"{name}: plan(), median", time, "<= 500", "ms", time <= 500),
            Row(f"{name}: gap to the bound", 100 * mean(runs.gap), "", "%", None),
        ]
    return rows


def scale() -> list[Row]:
    """Sixty layers of 512 experts, Zipf 1.0."""
    small, large = json.loads(run(PLAN_LARGE)[0])
    return [
        Row("60 x 512/1024/256, default: plan(), median of 20", small, "", "s", None),
        Row("60 x 512/4096/1024, default: plan(), median of 20", large, "<= 1.5", "s", large <= 1.5),
        Row("ratio of the two", large / small, "<= 25", "", large / small <= 25),
    ]


def percentile(milliseconds: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(milliseconds)[int(0.99 * len(milliseconds))]


def main() -> None:
    """Measure and print; exits 1 where a goal is missed."""
    for file in (GLM, GPT_OSS):
        if not file.exists():
            sys.exit(f"benchmarks: {file} is missing; set EQUIPOISE_LOADS to the folder that holds {file.parent.name}")
    rows = measure()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    table = Table(title=f"plan(), 1 thread; experts/slots/ranks; {date.today()}, {machine}")
    for column in ("what", "measured", "goal", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        verdict = "" if row.is_met is None else "met" if row.is_met else "MISSED"
        table.add_row(row.what, f"{row.measured:.4f} {row.unit}".strip(), row.goal, verdict)
    Console(width=128).print(table)
    sys.exit(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    main()
