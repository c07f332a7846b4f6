"""What judging costs, and the worked case of docs/scoring.md on GLM: ``make bench-score``.

    python -m benchmarks.scoring                  # every row
    python -m benchmarks.scoring --rows 2         # GLM alone

1: what judging costs beside the program's own time, at 58 layers of 256 experts. A program of a fraction of a millisecond is
run, checked and scored; what a window costs is all of that but the program's own time, over its windows: what is paid once a
program (a fork, an interval by bootstrap) is in it, the host's start is not. 2: exchanges, rebuild and greedy counts on GLM:
slots cannot tell them apart, ranks not for certain, and the page's balances are these. Loads are found as in main_job.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from benchmarks.main_job import GLM
from benchmarks.rows import Row, check_loads, measure, parse
from rich.console import Console

from equipoise import LoadTrace
from equipoise.scoring.answers import check_answer
from equipoise.scoring.judging import ProgramScore, score_programs
from equipoise.scoring.programs import Program
from equipoise.scoring.protocols import OURS, PROTOCOLS, PUBLIC, score_publicly
from equipoise.scoring.ranking import rank_programs
from equipoise.scoring.replayed import score_replayed
from equipoise.scoring.running import Runner
from equipoise.scoring.setups import Setup

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scoring.md").read_text()
NAMED = {
    str(ROOT / "examples" / "scored" / "single_swap.py"): "exchanges",
    str(ROOT / "examples" / "scored" / "destroy_and_rebuild.py"): "rebuild",
    "published:lpt": "DeepSeek's greedy",
    "equipoise:fast": "`equipoise:fast`",
    "equipoise:default": "`equipoise:default`",
}
LAYERS, EXPERTS = 58, 256
WINDOWS = 26
PROGRAM = """
import torch

def rebalance_experts(weight, slots, groups, nodes, ranks):
    layers, experts = weight.shape
    spare = slots - experts
    phy2log = (torch.arange(slots) % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, 2), -1)
    log2phy[:, :, 0] = torch.arange(experts)
    log2phy[:, :spare, 1] = torch.arange(experts, slots)
    logcnt = torch.ones(layers, experts, dtype=torch.int64)
    logcnt[:, :spare] = 2
    return phy2log, log2phy, logcnt
"""


def trace(windows: int) -> LoadTrace:
    """Return skewed loads from a fixed seed."""
    draw = np.random.default_rng(3)
    return LoadTrace((draw.random((windows, LAYERS, EXPERTS)) ** 3 * 10_000).astype(np.int64))


def seconds(runner: Runner, loads: LoadTrace, protocols: tuple[str, ...]) -> float:
    """Return what a window costs beside the program's own time."""
    setup = Setup()
    start = perf_counter()
    run = runner.run(Program("in id order", PROGRAM), loads.load[:-1], setup.arguments)
    assert run.verdict.is_accepted, run.verdict
    for window, answer in enumerate(run.answers):
        assert check_answer(answer, window, LAYERS, EXPERTS, setup.num_slots) is None
    own = [timing.own for timing in run.timings]
    for name in protocols:
        if name == OURS:
            score_replayed("in id order", [answer.phy2log for answer in run.answers], loads, setup.cluster)
        else:
            score_publicly(PUBLIC[name], run.answers, loads.load, own, setup.num_slots, setup.num_ranks, 0.0)
    return (perf_counter() - start - sum(own)) / len(run.answers)


def cost(quick: bool) -> Iterator[Row]:
    """Yield what a window costs without scoring, under all protocols, and under some."""
    loads, turns = trace(WINDOWS), 2 if quick else 9
    with Runner() as runner:
        for protocols in ((), (*PUBLIC,), (OURS,), PROTOCOLS):
            seconds(runner, loads, protocols)
            each = median(seconds(runner, loads, protocols) for _ in range(turns))
            is_all = protocols == PROTOCOLS
            what = ", ".join(protocols) or "run and checked only"
            goal, is_met = ("<= 30 ms", each <= 0.03) if is_all else ("", None)
            yield Row(f"a window, {what}", goal, f"{1e3 * each:.1f} ms", is_met)


def worked_case(quick: bool) -> Iterator[Row]:
    """Yield what docs/scoring.md says of GLM, and whether it is so."""
    check_loads(GLM)
    loads = LoadTrace.read(GLM)
    found = score_programs([*NAMED], LoadTrace(loads.load[:8]) if quick else loads)
    assert all(score.is_accepted for score in found), [str(score.verdict) for score in found]
    for name in ("v1", "v2", "v3"):
        first, *others = (np.array(score.scores[name].per_pair) for score in found[:3])
        apart = max(float(np.abs(first - other).max()) for other in others)
        yield Row(
            f"GLM, {name}: most that packings differ in a pair's slot balance", "<= 1e-12", f"{apart:.1e}", apart <= 1e-12
        )
    for standing in rank_programs(found, OURS)[1:]:
        interval = f"{standing.low:+.4f} to {standing.high:+.4f}"
        yield Row(f"GLM: {NAMED[standing.program]} behind the first, ranks", "covers 0", interval, not standing.is_clear)
    for score in found:
        figures = _figures(score)
        row = next(
            line
            for line in PAGE.split("GLM-5.2, the same")[1].splitlines()
            if line.startswith(f"| {NAMED[score.program.name]}")
        )
        is_said = all(figure in row for figure in figures)
        yield Row(
            f"GLM, {NAMED[score.program.name]}: B_slot, v2's, B_rank, in-sample", "docs/scoring.md", ", ".join(figures), is_said
        )


def _figures(score: ProgramScore) -> list[str]:
    v1, v2, ours = (score.scores[name] for name in ("v1", "v2", OURS))
    return [f"{figure:.4f}" for figure in (v1.balancedness_slot, v2.balancedness_slot, ours.score, ours.in_sample)]


ROWS = {"1": cost, "2": worked_case}


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("scoring", "What judging costs, and the worked case on GLM.", ROWS, arguments)
    sys.exit(int(measure("Judging", ROWS, options.rows, options.quick, Console(width=110))))


if __name__ == "__main__":
    main(sys.argv[1:])
