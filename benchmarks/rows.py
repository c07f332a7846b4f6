"""Rows of figures beside their goals, measured one after the other and shown as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A measured figure beside its goal; ``is_met`` is None where nothing is asked."""

    what: str
    goal: str
    measured: str
    is_met: bool | None = None


def measure(
    title: str, rows: Mapping[str, Callable[[bool], Iterator[Row]]], numbers: Sequence[str], quick: bool, console: Console
) -> bool:
    """Measure rows and print them; return whether a goal was missed. A quick run judges nothing."""
    table = Table(title=title + ", quick: nothing is judged" * quick)
    for column in ("row", "what", "goal", "measured", "met"):
        table.add_column(column, justify="left" if column in ("row", "what") else "right")
    missed = False
    for number in numbers:
        console.log(f"row {number}")
        for row in rows[number](quick):
            is_met = None if quick else row.is_met
            missed |= is_met is False
            table.add_row(number, row.what, row.goal, row.measured, "" if is_met is None else "met" if is_met else "MISSED")
    console.print(table)
    return missed


def check_loads(*files: Path) -> None:
    """End with a message where a load is missing."""
    for file in files:
        if not file.exists():
            sys.exit(f"benchmarks: {file} is missing; set EQUIPOISE_LOADS to the folder that holds {file.parent.name}")


def parse(
    name: str, description: str, rows: Mapping[str, object], arguments: Sequence[str], *, has_others: bool = False
) -> argparse.Namespace:
    """Read the command line of ``benchmarks.<name>``: which rows, whether quick, and whether other traffic instead."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=description)
    parser.add_argument("--rows", default=",".join(rows), metavar="N,...", help=f"which of {', '.join(rows)}")
    if has_others:
        parser.add_argument("--others", action="store_true", help="other traffic, instead of the rows")
    parser.add_argument("--quick", action="store_true", help="few windows; nothing is judged")
    options = parser.parse_args(arguments)
    options.rows = options.rows.split(",")
    if unknown := set(options.rows) - set(rows):
        parser.error(f"no row {', '.join(sorted(unknown))}")
    return options
