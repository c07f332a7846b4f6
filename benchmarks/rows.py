"""Rows of figures beside their goals, measured one after the other and shown as a table."""

from __future__ import annotations

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
