"""The race on the screen, as JSON, and as a short Markdown table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.peers.fetching import SCIPY, Source
from benchmarks.peers.loads import POPULARITY, ROOT
from benchmarks.peers.racing import Row
from benchmarks.peers.rivals import DEFAULT, OURS
from benchmarks.peers.verdicts import Check, Verdict, checks, verdicts
from rich.console import Console
from rich.table import Table

WIDTH = 152


def environment(sources: Iterable[Source]) -> dict[str, Any]:
    """Return versions, CPU, threads, date and commit."""
    peers = {
        source.wheel.distribution: f"not to be had: {source.missing}" if source.missing else source.wheel.version
        for source in sources
    }
    digests = {source.wheel.distribution: source.digest for source in sources if source.digest}
    names = ("equipoise", "numpy", "numba", "torch")
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names} | {"scipy": _version("scipy") or SCIPY.partition("==")[2]},
        "peers": peers,
        "sha256_of_planner_files": digests,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """Return the short commit of the tree, marked where it has changes; ``unknown`` outside git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("-changed" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def cpu_model() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


FIGURES = ("B in-sample", "B next", "worst", "dup %", "bad", "moves %", "median ms", "p99 ms", "x ours", "calls", "beats us")
COLUMNS = ("load", "rival", *FIGURES)


def print_shape(console: Console, shape: str, rows: list[Row]) -> None:
    """Print the table of one shape, and below it who did not plan what."""
    table = Table(title=f"{shape}: experts/slots/ranks; B in-sample and on the next window", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("load", "rival") else "right", no_wrap=column != "rival")
    last = None
    for row in (row for row in rows if row.balancedness is not None):
        if last is not None and row.load != last:
            table.add_section()
        table.add_row(row.load if row.load != last else "", *_cells(row), style="bold" if row.rival == DEFAULT else None)
        last = row.load
    console.print(table)
    failed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.balancedness is None:
            failed.setdefault((row.rival, row.status), []).append(row.load)
    for (rival, status), loads in failed.items():
        console.print(f"  {rival}: {status} ({', '.join(loads)})", highlight=False)


def _cells(row: Row) -> list[str]:
    note = f" (1st {row.layers} layers)" if row.layers and row.layers < 3 else ""
    calls = f"{row.calls}" + (f" of {row.calls + row.failed_calls}" if row.failed_calls else "")
    return [
        row.rival + note,
        _number(row.balancedness, 4),
        _number(row.next_window, 4),
        _number(row.worst_layer, 3),
        _number(row.duplicates, 2, 100),
        str(row.invalid_layers or ""),
        _number(row.moves, 0, 100),
        _number(row.median_ms, 1),
        _number(row.p99_ms, 1),
        _number(row.times_default, 2),
        calls if row.calls else "",
        _beaten(row),
    ]


def _beaten(row: Row) -> str:
    """Return the layers a rival wins, those with an expert twice on a rank apart."""
    doubled = f"+{row.wins_by_duplicates} dup" if row.wins_by_duplicates else ""
    return f"{row.wins_fairly or ''}{doubled}"


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def print_verdicts(console: Console, found: list[Verdict]) -> None:
    """Print whether our ``default`` is at least the best valid peer, shape by shape and load by load."""
    table = Table(title="our default beside the best valid peer, in-sample, over the windows that peer planned")
    headings = ("shape", "load", "default", "best peer", "its B", "difference", "layers it wins", "only with duplicates", "of")
    for column in headings:
        table.add_column(column, justify="left" if column in ("shape", "load", "best peer") else "right")
    for verdict in found:
        counts = [str(verdict.wins_fairly), str(verdict.wins_by_duplicates), str(verdict.layers or "")]
        figures = [f"{verdict.ours:.4f}", verdict.peer, f"{verdict.theirs:.4f}", f"{verdict.ours - verdict.theirs:+.5f}"]
        table.add_row(verdict.shape, verdict.load, *figures, *counts, style=None if verdict.is_won else "bold red")
    console.print(table)
    lost = [verdict for verdict in found if not verdict.is_won]
    console.print(f"{len(found) - len(lost)} won, {len(lost)} lost")
    for verdict in lost:
        console.print(f"LOST {verdict.shape}, {verdict.load}: {verdict.ours:.5f} against {verdict.theirs:.5f}, {verdict.peer}")


def print_checks(console: Console, found: list[Check]) -> None:
    """Print which of the earlier figures were met."""
    for check in found:
        word = "met" if check.is_met else "NOT MET"
        where = f"{check.shape}, {check.load}, {check.rival}, {check.what}"
        console.print(f"  {word}: {where}: {check.now:.4f} now, {check.before:.4f} before")


def save(path: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """Write the whole race as JSON, a line for each row, verdict and check."""
    parts = {name: json.dumps(value) for name, value in facts.items()}
    parts["rows"] = _lines(_compact(asdict(row)) for row in rows)
    parts["verdicts"] = _lines(_compact(asdict(verdict) | {"is_won": verdict.is_won}) for verdict in verdicts(rows))
    parts["earlier_figures"] = _lines(_compact(asdict(check) | {"is_met": check.is_met}) for check in checks(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n")


def _lines(found: Iterable[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]"


def _compact(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not known, and digits that no clock or sum is good for."""
    return {name: _rounded(value) for name, value in found.items() if value is not None and value != ()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    return [_rounded(one) for one in value] if isinstance(value, tuple) else value


def markdown(rows: list[Row], facts: dict[str, Any]) -> str:
    """Return a table of at most about forty lines: one a shape and recorded load, one a shape for all synthetic loads."""
    efforts = list(dict.fromkeys(row.rival for row in rows if row.is_ours))
    names = [effort.removeprefix(OURS) for effort in efforts]
    headings = ["shape", "load", *names, "best peer", "its B", "vLLM B", "vLLM, times our `default`"]
    peers = ", ".join(f"{name} {found}" for name, found in facts["peers"].items())
    lines = [
        f"{facts['date']}, commit {facts['commit']}, {facts['cpu']}, 1 thread; {peers}.",
        "In-sample balancedness, means over windows (and over the synthetic loads; the peer named is then the closest).",
        "",
        "| " + " | ".join(headings) + " |",
        "| " + " | ".join(["---"] * len(headings)) + " |",
    ]
    by_cell = {(verdict.shape, verdict.load): verdict for verdict in verdicts(rows)}
    for shape in dict.fromkeys(row.shape for row in rows):
        of_shape = [row for row in rows if row.shape == shape]
        for load in dict.fromkeys(row.load for row in of_shape if row.load not in POPULARITY):
            lines.append(
                _markdown_line(
                    shape, load, efforts, [row for row in of_shape if row.load == load], [by_cell.get((shape, load))]
                )
            )
        synthetic = [row for row in of_shape if row.load in POPULARITY]
        loads = list(dict.fromkeys(row.load for row in synthetic))
        if loads:
            name = loads[0] if len(loads) == 1 else f"mean of {len(loads)} synthetic"
            lines.append(_markdown_line(shape, name, efforts, synthetic, [by_cell.get((shape, load)) for load in loads]))
    return "\n".join(lines) + "\n"


def _markdown_line(shape: str, load: str, efforts: list[str], rows: list[Row], found: list[Verdict | None]) -> str:
    known = [verdict for verdict in found if verdict is not None]
    closest = min(known, key=lambda verdict: verdict.ours - verdict.theirs, default=None)
    cells = [shape, load, *(_mean_of(rows, effort, "balancedness", 4) for effort in efforts)]
    if closest is None:
        cells += ["", ""]
    else:
        cells += [closest.peer, f"{mean(verdict.theirs for verdict in known):.4f}" + ("" if closest.is_won else " (wins)")]
    cells += [_mean_of(rows, "vLLM default", "balancedness", 4), _mean_of(rows, "vLLM default", "times_default", 1)]
    return "| " + " | ".join(cells) + " |"


def _mean_of(rows: list[Row], rival: str, field: str, digits: int) -> str:
    values = [value for row in rows if row.rival == rival and (value := getattr(row, field)) is not None]
    return f"{mean(values):.{digits}f}" if values else ""
