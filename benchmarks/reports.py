"""Reports: how soon they are made, how large they are, how soon chromium has drawn them.

    python -m benchmarks.reports            # every row
    python -m benchmarks.reports --quick    # a smoke run, which judges nothing

1: GLM-5.2, 48 windows of 75 layers of 256 experts, 32 ranks, 288 slots, three policies: seconds of `equipoise report`, a
process of its own with kernels compiled before, the median of three; bytes; and seconds until headless chromium has drawn
every figure, the median of five new tabs (needs chromium and chromedriver).
2: 1,000 made windows of 60 layers of 512 experts, 64 ranks, 576 slots: bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
from benchmarks.rows import Row, check_loads, measure, parse
from rich.console import Console

from equipoise import LoadTrace

LOADS = Path(os.environ.get("EQUIPOISE_LOADS", "loads"))
MAKING, OPENING, BYTES = 15.0, 2.0, 8e6
REPEATS, OPENINGS = 3, 5


def run_report(load: Path, page: Path, *options: str) -> float:
    """Write a page in a process of its own; return its seconds."""
    command = [str(Path(sys.executable).with_name("equipoise")), "report", str(load), *options, "--out", str(page), "--quiet"]
    start = perf_counter()
    subprocess.run(command, check=True)
    return perf_counter() - start


def seconds_to_open(page: Path, times: int) -> list[float]:
    """Return the seconds until chromium has drawn all of a page, each time in a new tab."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or sys.exit("benchmarks: no chromium; run .ci/browser")
    found = []
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        for _ in range(times):
            browser.switch_to.new_window("tab")
            start = perf_counter()
            browser.get(page.resolve().as_uri())
            while browser.execute_script("return document.documentElement.dataset.drawn") is None:
                sleep(0.005)
            found.append(perf_counter() - start)
    return found


def recorded(quick: bool) -> Iterator[Row]:
    """GLM's windows."""
    load = next(iter(LOADS.glob("*/glm52_6domains.npz")), LOADS / "glm" / "glm52_6domains.npz")
    check_loads(load)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        shape = ("--ranks", "32", "--slots", "288")
        run_report(load, page, *shape, "--last", "4")  # compiles where nothing is yet
        seconds = median(run_report(load, page, *shape, *(["--last", "4"] * quick)) for _ in range(1 if quick else REPEATS))
        yield Row("made, GLM, 48 windows, 3 policies", f"<= {MAKING:.0f} s", f"{seconds:.1f} s", seconds <= MAKING)
        size = page.stat().st_size
        yield Row("its page", f"<= {BYTES / 1e6:.0f} MB", f"{size / 1e6:.2f} MB", size <= BYTES)
        opened = median(seconds_to_open(page, 1 if quick else OPENINGS))
        yield Row("drawn by chromium", f"<= {OPENING:.0f} s", f"{opened:.2f} s", opened <= OPENING)


def large(quick: bool) -> Iterator[Row]:
    """Many windows of many experts."""
    windows = 20 if quick else 1000
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.full(512, 0.3), 60) * 32768
    load = np.stack([rng.poisson(odds) for _ in range(windows)]).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        path, page = Path(folder) / "large.npz", Path(folder) / "large.html"
        LoadTrace(load, labels=[f"domain {window // 25 % 7}" for window in range(windows)]).write(path)
        seconds = run_report(path, page, "--ranks", "64", "--slots", "576")
        size = page.stat().st_size
        yield Row(f"60 x 512 x {windows:,}: its page", f"<= {BYTES / 1e6:.0f} MB", f"{size / 1e6:.2f} MB", size <= BYTES)
        yield Row(f"60 x 512 x {windows:,}: made", "", f"{seconds:.0f} s")


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {"1": recorded, "2": large}


def main(arguments: list[str]) -> int:
    """Measure the rows asked for; 1 where a goal was missed."""
    options = parse("reports", __doc__ or "", ROWS, arguments)
    return int(measure("Reports", ROWS, options.rows, options.quick, Console(width=110)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
