"""The controller: quiet on a load that only chance moves, quick after a change of domain, with one set of settings.

    python -m benchmarks.controlling              # every row
    python -m benchmarks.controlling --rows 1,2   # some
    python -m benchmarks.controlling --quick      # a smoke run, which judges nothing

1: stationary loads (one distribution, fresh tokens drawn from it in each of 200 windows): the last window with a move; 2: GLM
as it is, each window met by the placement in use, against policies that plan every window from scratch, one and two windows
after each change of domain; 3: the same on other traffic, as a mean over windows, with moves; 4: time of a decision and of a
saved state. The placement at the start is a plan of the first window. Loads are found as in main_job.py. One thread.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
from benchmarks.dispatching import OLMOE
from benchmarks.main_job import GLM, GPT_OSS
from benchmarks.rows import Row, check_loads, measure, parse
from benchmarks.traffic import OTHERS, REQUESTS
from rich.console import Console

from equipoise import Cluster, LoadTrace, plan, simulate
from equipoise.controlling.controller import Controller
from equipoise.controlling.settings import ControlSettings

EP32 = Cluster(num_ranks=32, slots_per_rank=9)
CHANGES = (8, 16, 24, 32, 40)
"""GLM: six domains of 8 windows in turn."""

LATEST = 10
BACK = 0.03


class Run(NamedTuple):
    """What a controller did, window by window: balance met, moves, seconds of a decision; and the controller."""

    balance: np.ndarray
    moves: np.ndarray
    seconds: list[float]
    controller: Controller


def follow(windows: np.ndarray, cluster: Cluster, settings: ControlSettings | None = None) -> Run:
    """Let a controller follow windows [windows, layers, experts], each met by the placement in use; plans are used at once."""
    windows = np.asarray(windows, np.float64)
    start = plan(windows[0], cluster).placement
    controller = Controller(cluster, *windows.shape[1:], placement=start, settings=settings)
    balance, moves, seconds = [], [], []
    for step, load in enumerate(windows):
        balance.append(controller.placement.balancedness(load))
        begin = perf_counter()
        controller.observe(load, step)
        decision = controller.decide()
        seconds.append(perf_counter() - begin)
        moves.append(decision.moves)
        if decision.plan is not None:
            controller.applied(decision.plan)
    return Run(np.array(balance), np.array(moves), seconds, controller)


def drawn(load: np.ndarray, tokens: int, count: int, seed: int = 0) -> np.ndarray:
    """Return windows of so many tokens a layer, drawn independently from the shares of one load [layers, experts]."""
    rng = np.random.default_rng(seed)
    share = load / load.sum(axis=1, keepdims=True)
    return np.array([[rng.multinomial(tokens, row) for row in share] for _ in range(count)])


@cache
def glm() -> np.ndarray:
    """Return GLM's windows."""
    return np.asarray(LoadTrace.read(GLM).load)


def replanned(windows: np.ndarray, cluster: Cluster, forecast: str) -> np.ndarray:
    """Return the balance of a policy that plans every window from scratch, [windows]; nan in the first."""
    found = simulate(LoadTrace(windows), cluster, (forecast,)).policies[0].balancedness
    return np.concatenate([np.full(len(windows) - len(found), np.nan), found])


def on_stationary_loads(quick: bool) -> Iterator[Row]:
    """1: the last window with a move."""
    count = 15 if quick else 200
    gpt_oss, olmoe = (LoadTrace.read(file).load for file in (GPT_OSS, OLMOE))
    small = Cluster(num_ranks=8, slots_per_rank=5)
    cases = {f"GLM window {w}, 32k tokens a layer": (glm()[w], 32_000, EP32) for w in (5, 25, 47)}
    others = {
        "GLM window 5, 8k": (glm()[5], 8_000, EP32),
        "GLM window 45, 128k": (glm()[45], 128_000, EP32),
        "gpt-oss, 32k": (gpt_oss.sum(axis=0), 32_000, small),
        "OLMoE, 3 layers, 32k": (olmoe[0], 32_000, Cluster(num_ranks=8, slots_per_rank=9)),
    }
    for name, (load, tokens, cluster) in (cases | others).items():
        run = follow(drawn(load, tokens, count), cluster)
        moved = np.flatnonzero(run.moves)
        last = int(moved[-1]) if moved.size else 0
        early, late = run.moves[: LATEST + 1].sum() / len(load), run.moves[LATEST + 1 :].sum() / len(load)
        said = f"{last} ({early:.1f} moves a layer until then, {late:.2f} after; balance {run.balance[LATEST:].mean():.4f})"
        is_judged = name in cases
        yield Row(f"{name}: last window with a move", f"<= {LATEST}" * is_judged, said, last <= LATEST if is_judged else None)


def after_changes(quick: bool) -> Iterator[Row]:
    """2: GLM, against planning every window from scratch."""
    windows = glm()[:20] if quick else glm()
    changes = [window for window in CHANGES if window + 2 < len(windows)]
    run = follow(windows, EP32)
    yield Row("GLM: mean balance", "", f"{run.balance[1:].mean():.4f} with {run.moves[1:].mean() / 75:.1f} moves a layer")
    for forecast in ("last", "auto"):
        other = replanned(windows, EP32, forecast)
        yield Row(f"GLM: mean balance, {forecast} every window", "", f"{np.nanmean(other):.4f}")
        for later in (1, 2):
            behind = max(other[window + later] - run.balance[window + later] for window in changes)
            is_judged = forecast == "last"
            yield Row(
                f"GLM: most behind {forecast}, window {later} after a change",
                f"<= {BACK}" * is_judged,
                f"{behind:+.4f}",
                behind <= BACK if is_judged else None,
            )


def on_other_traffic(quick: bool) -> Iterator[Row]:
    """3: mean balance and moves on other traffic."""
    example = np.asarray(LoadTrace.example().load)
    cases = {"the example that ships": (example, 8, 40)} | {
        name: (make(1), ranks, slots) for name, (make, ranks, slots) in OTHERS.items()
    }
    for name, (windows, ranks, slots) in cases.items():
        windows = windows[:8] if quick else windows
        cluster = Cluster(num_ranks=ranks, slots_per_rank=slots // ranks)
        run = follow(windows, cluster)
        last, auto = (np.nanmean(replanned(windows, cluster, forecast)) for forecast in ("last", "auto"))
        moves = run.moves[1:].mean() / windows.shape[1]
        said = f"{run.balance[1:].mean():.4f} with {moves:.1f} moves a layer; last {last:.4f}, auto {auto:.4f}"
        yield Row(f"{name}: balance", "", said)


def time_taken(quick: bool) -> Iterator[Row]:
    """4: a decision, and a saved state."""
    run = follow(glm()[:12] if quick else glm(), EP32)
    yield Row(
        "GLM: observe and decide, median and most", "", f"{1e3 * median(run.seconds):.0f}, {1e3 * max(run.seconds):.0f} ms"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        begin = perf_counter()
        run.controller.save(path)
        saved = perf_counter()
        Controller.load(path)
        loaded = perf_counter() - saved
        said = f"{path.stat().st_size / 1e6:.1f} MB, {1e3 * (saved - begin):.0f} and {1e3 * loaded:.0f} ms"
    yield Row("GLM: state saved and loaded", "", said)


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "1": on_stationary_loads,
    "2": after_changes,
    "3": on_other_traffic,
    "4": time_taken,
}


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("controlling", "When a controller moves, and what it reaches.", ROWS, arguments)
    check_loads(GLM, GPT_OSS, OLMOE, REQUESTS)
    sys.exit(measure("the controller, 1 thread", ROWS, options.rows, options.quick, Console(width=150)))


if __name__ == "__main__":
    main(sys.argv[1:])
