"""How long a start takes before any work is done: ``make bench-start``.

Figures are medians over processes of their own, once bytecode and compiled kernels are on disk; imports by
``python -X importtime``, which counts a module with all it brings.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.rows import Row, measure, parse
from rich.console import Console

import equipoise

COMMAND = str(Path(sys.executable).with_name("equipoise"))
LOAD = str(Path(equipoise.__file__).parent / "data" / "gpt-oss-20b-decode.npz")
USED = "from equipoise import Cluster, LoadTrace, plan"


def imported(program: str) -> float:
    """Return the seconds that a program's imports of ours take, with all they bring that is not there yet."""
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in done.stderr.splitlines()]
    return sum(float(line[1]) for line in lines if line[-1].startswith(" equipoise")) / 1e6  # indented: brought by another


def run(*arguments: str) -> float:
    """Return the seconds of a command, from its start to its end."""
    start = perf_counter()
    subprocess.run([COMMAND, *arguments], capture_output=True, check=True)
    return perf_counter() - start


def imports(quick: bool) -> Iterator[Row]:
    """Yield what importing takes beyond numpy."""
    for program, goal in (("import equipoise", 0.15), (USED, None)):
        seconds = median(imported(f"import numpy; {program}") for _ in range(3 if quick else 15))
        yield _row(f"{program}, over numpy's", seconds, goal)


def commands(quick: bool) -> Iterator[Row]:
    """Yield what commands take that do little."""
    for text, goal in (("--help", 0.4), ("plan --help", None), (f"plan {LOAD} --ranks 8 --slots 40", None)):
        run(*text.split())
        seconds = median(run(*text.split()) for _ in range(3 if quick else 15))
        yield _row(f"equipoise {text.replace(LOAD, 'load.npz')}", seconds, goal)


def _row(what: str, seconds: float, goal: float | None) -> Row:
    return Row(what, f"<= {goal} s" if goal else "", f"{seconds:.3f} s", seconds <= goal if goal else None)


ROWS = {"1": imports, "2": commands}


def main(arguments: list[str]) -> None:
    """Measure and print; exits 1 where a goal is missed."""
    options = parse("starting", "How long a start takes before any work is done.", ROWS, arguments)
    sys.exit(int(measure("Starting", ROWS, options.rows, options.quick, Console(width=110))))


if __name__ == "__main__":
    main(sys.argv[1:])
