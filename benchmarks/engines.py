"""Files of serving engines: how soon the largest is read and planned, and in how much memory.

    python -m benchmarks.engines            # every row
    python -m benchmarks.engines --quick    # a smoke run, which judges nothing

1: an SGLang dump of 3,300 steps, 61 hidden layers (3 dense) and 256 experts, int32, 206 MB, planned for 32 ranks and 288 slots
by `equipoise plan`, a process of its own with kernels compiled before: the median of three from start to end, and the largest
resident memory. Loads are drawn from one skewed distribution a layer. Needs torch.
2: policy calls of the plug-ins, 58 layers of 256 experts for 288 slots on 32 ranks of 4 nodes, tensors in and out: what they
take more than plan() with the same arguments, the median of differences of pairs, called in turns: wall time, which is judged
and needs a calm machine, and processor time, which other work on the machine does not touch as much.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from benchmarks.rows import Row, measure, parse
from rich.console import Console

from equipoise import Cluster, plan
from equipoise.plugins.settings import Settings
from equipoise.plugins.sglang import rebalance_experts
from equipoise.plugins.vllm import Policy
from equipoise.plugins.warming import warm_up

STEPS, HIDDEN_LAYERS, DENSE, EXPERTS = 3300, 61, 3, 256
TOKENS = 4096 * 8
SECONDS, BYTES = 5.0, 1e9
REPEATS = 3
LAYERS, SLOTS, RANKS, NODES = 58, 288, 32, 4
EXTRA_MS = 1.0


def write_dump(path: Path, steps: int) -> None:
    """Write what SGLang's recorder dumps in mode ``stat``."""
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.full(EXPERTS, 0.3), HIDDEN_LAYERS - DENSE)
    counts = np.zeros((steps, HIDDEN_LAYERS, EXPERTS), np.int32)
    for step in counts:
        step[DENSE:] = rng.poisson(odds * TOKENS)
    torch.save({"rank": 0, "logical_count": torch.from_numpy(counts), "average_utilization_rate_over_window": None}, str(path))


def run_plan(path: Path) -> float:
    """Plan from the file in a process of its own; return its seconds."""
    command = [
        str(Path(sys.executable).with_name("equipoise")),
        "plan",
        str(path),
        "--ranks",
        "32",
        "--slots",
        "288",
        "--quiet",
    ]
    start = perf_counter()
    subprocess.run(command, check=True)
    return perf_counter() - start


def largest_memory() -> float:
    """Return the largest resident memory, in bytes, of the processes that ended so far."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def dump_row(quick: bool) -> Iterator[Row]:
    """Read and plan an SGLang dump."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.pt"
        write_dump(path, 33 if quick else STEPS)
        run_plan(path)  # compiles where nothing is yet
        seconds = median(run_plan(path) for _ in range(1 if quick else REPEATS))
        size = path.stat().st_size
    what = f"SGLang dump of {size / 1e6:,.0f} MB read and planned"
    yield Row(what, f"<= {SECONDS:g} s", f"{seconds:.2f} s", seconds <= SECONDS)
    memory = largest_memory()
    yield Row("its largest memory", f"<= {BYTES / 1e9:g} GB", f"{memory / 1e9:.2f} GB", memory <= BYTES)


def call_rows(quick: bool) -> Iterator[Row]:
    """Call policies as engines do, each beside plan()."""
    warm_up(Settings())
    load = np.random.default_rng(0).poisson(np.random.default_rng(1).dirichlet(np.full(EXPERTS, 0.3), LAYERS) * TOKENS)
    whole, parts = Cluster(RANKS, SLOTS // RANKS), Cluster(RANKS, SLOTS // RANKS, NODES)
    used = plan(np.ascontiguousarray(load[:, ::-1]), whole).placement
    weight, in_use = torch.from_numpy(load), torch.from_numpy(used.expert_of_slot.copy())
    tokens = weight[np.newaxis].int()
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "vLLM's call, hierarchical": (
            lambda: Policy.rebalance_experts(weight, SLOTS, 8, NODES, RANKS),
            lambda: plan(load, parts, num_groups=8, locality="strict"),
        ),
        "vLLM's call, from the map in use": (
            lambda: Policy.rebalance_experts(weight, SLOTS, 1, NODES, RANKS, in_use),
            lambda: plan(load, whole, previous=used),
        ),
        "SGLang's call": (
            lambda: rebalance_experts(tokens, SLOTS, SLOTS // RANKS, None, NODES, "deepseek"),
            lambda: plan(load, whole),
        ),
    }
    for what, (call, alone) in calls.items():
        wall, processor = extra_ms(call, alone, 3 if quick else 101)
        found = f"{wall:.2f} ms wall, {processor:.2f} ms processor"
        yield Row(f"{what}, beyond plan()", f"<= {EXTRA_MS:g} ms wall", found, wall <= EXTRA_MS)


def extra_ms(call: Callable[[], object], alone: Callable[[], object], pairs: int) -> tuple[float, float]:
    """Return the milliseconds, wall and processor, that ``call`` takes more than ``alone``: medians over pairs.

    The two go first in turns, since the second of a pair finds caches warm.
    """
    differences = []
    for number in range(pairs):
        if number % 2:
            without = seconds_of(alone)
            within = seconds_of(call)
        else:
            within = seconds_of(call)
            without = seconds_of(alone)
        differences.append((within[0] - without[0], within[1] - without[1]))
    wall, processor = (1e3 * median(values) for values in zip(*differences, strict=True))
    return wall, processor


def seconds_of(call: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and the processor time that a call takes."""
    start, worked = perf_counter(), process_time()
    call()
    return perf_counter() - start, process_time() - worked


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {"1": dump_row, "2": call_rows}


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("engines", "What files of serving engines take to read and plan.", ROWS, arguments)
    sys.exit(measure("files of serving engines", ROWS, options.rows, options.quick, Console(width=120)))


if __name__ == "__main__":
    main(sys.argv[1:])
