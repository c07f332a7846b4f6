"""The main job on recorded loads: balance and time from the same calls, memory, and first use, each beside its goal.

    make bench                                    # loads from ../shared/data/expert-load
    EQUIPOISE_LOADS=DIR make bench                # from elsewhere

The GLM set is 48 windows of 75 layers of 256 experts (see its SOURCE.md); planned one by one for 288 slots on 32 ranks.
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

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
LOADS = Path(os.environ.get("EQUIPOISE_LOADS", ROOT.parent / "shared" / "data" / "expert-load"))
GLM = LOADS / "glm52-reap-saliency" / "glm52_6domains.npz"

PLAN_ALL = """
import json, resource, sys, time
from equipoise import Cluster, LoadTrace, plan
trace = LoadTrace.read(sys.argv[1])
cluster = Cluster(num_ranks=32, slots_per_rank=9, num_nodes=int(sys.argv[2]))
options = json.loads(sys.argv[3])
plan(trace.load[0], cluster, **options)
milliseconds, balancedness, gap = [], [], []
for _ in range(3):
    for window in trace.load:
        start = time.perf_counter()
        result = plan(window, cluster, **options)
        milliseconds.append(1e3 * (time.perf_counter() - start))
        balancedness.append(result.balancedness)
        gap.append(float(result.largest.sum() / result.bound.sum() - 1))
        result.placement.validate()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"milliseconds": milliseconds, "balancedness": balancedness, "gap": gap, "peak_mb": peak}))
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


def run(program: str, *arguments: str, cache: str | None = None) -> tuple[str, float]:
    """Run a program in a fresh interpreter; returns its output and the seconds from start to end."""
    from time import perf_counter

    env = {**os.environ, **({} if cache is None else {"NUMBA_CACHE_DIR": cache})}
    start = perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=env, check=True, capture_output=True, text=True)
    return done.stdout, perf_counter() - start


def measure() -> list[Row]:
    """Return every row of the table."""
    with tempfile.TemporaryDirectory() as cache:
        cold_peak, cold = run(FIRST_PLAN, str(GLM), cache=cache)
        warm = median(run(FIRST_PLAN, str(GLM), cache=cache)[1] for _ in range(5))
    free = json.loads(run(PLAN_ALL, str(GLM), "1", "{}")[0])
    strict = json.loads(run(PLAN_ALL, str(GLM), "4", '{"num_groups": 8, "locality": "strict"}')[0])
    time, balance = median(free["milliseconds"]), mean(free["balancedness"])
    return [
        Row("balancedness, in-sample, mean of 48 windows", balance, ">= 0.9993", "", balance >= 0.9993),
        Row("plan(), median", time, "<= 8", "ms", time <= 8),
        Row("plan(), 99th percentile", sorted(free["milliseconds"])[int(0.99 * len(free["milliseconds"]))], "", "ms", None),
        Row("gap to the proven bound, mean", 100 * mean(free["gap"]), "", "%", None),
        Row("peak memory of the process", free["peak_mb"], "<= 400", "MB", free["peak_mb"] <= 400),
        Row("peak memory while compiling too", float(cold_peak), "<= 400", "MB", float(cold_peak) <= 400),
        Row("start to plan, cold compile cache", cold, "<= 40", "s", cold <= 40),
        Row("start to plan, warm compile cache, median of 5", warm, "<= 2", "s", warm <= 2),
        Row("strict (8 groups, 4 nodes): balancedness", mean(strict["balancedness"]), "", "", None),
        Row("strict: plan(), median", median(strict["milliseconds"]), "", "ms", None),
        Row("strict: gap to the proven bound, mean", 100 * mean(strict["gap"]), "", "%", None),
    ]


def main() -> None:
    """Measure and print; exits 1 where a goal is missed."""
    if not GLM.exists():
        sys.exit(f"benchmarks: {GLM} is missing; set EQUIPOISE_LOADS to the folder that holds glm52-reap-saliency")
    rows = measure()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    table = Table(title=f"GLM-5.2, 288 slots on 32 ranks, 1 thread; {date.today()}, {machine}")
    for column in ("what", "measured", "goal", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        verdict = "" if row.is_met is None else "met" if row.is_met else "MISSED"
        table.add_row(row.what, f"{row.measured:.4f} {row.unit}".strip(), row.goal, verdict)
    Console(width=128).print(table)
    sys.exit(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    main()
