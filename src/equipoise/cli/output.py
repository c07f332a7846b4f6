"""What commands print: tables for people, one JSON object for programs, progress on a terminal only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from equipoise.reporting.unseen import one_line

_PATIENCE = 1.0  # seconds

_COLOURS: Any = None if os.environ.get("NO_COLOR") else "auto"  # None: no bold and no dim either

out = Console(highlight=False, markup=False, color_system=_COLOURS)  # names of people's files may hold brackets
err = Console(stderr=True, highlight=False, color_system=_COLOURS)


def say(text: str) -> None:
    """Print one line for people, whatever names of files it holds: what steers terminals is made visible."""
    out.print(one_line(text), soft_wrap=True)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on one line; numbers that are not finite become null."""
    print(json.dumps(_plain(content)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[str] = ()) -> None:
    """Print a table: the first column to the left, as are those of ``words``, the others, figures, to the right.

    Where the terminal is too narrow, headings break between words, then names and words break anywhere; figures stay whole.
    """
    lines = [list(row) for row in rows]
    out.print(title, style="bold", soft_wrap=True)
    grid = Table()
    is_wide = _width(columns, lines) > out.width
    for number, column in enumerate(columns):
        is_text = number == 0 or column in words
        grid.add_column(
            column if is_text or not is_wide else column.replace(" ", "\n"),
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
        )
    for line in lines:
        grid.add_row(*line)
    out.print(grid)


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return how wide a table is with every cell on one line."""
    cells = zip(columns, *rows, strict=True)
    return sum(max(map(cell_len, column)) + 3 for column in cells) + 1


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Show on a terminal's stderr, after a second, that something of unknown length runs, and for how long."""
    if quiet or not err.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=err, transient=True)
    bar.add_task(what, total=None)
    with _shown_late(bar):
        yield


@contextmanager
def progress_bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show on a terminal's stderr, after a second, a bar with the time left; yields what advances it by one."""
    if quiet or not err.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    bar = Progress(*columns, console=err, transient=True)
    task = bar.add_task(what, total=total or None)
    with _shown_late(bar):
        yield lambda: bar.advance(task)


@contextmanager
def _shown_late(bar: Progress) -> Iterator[None]:
    timer = Timer(_PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if bar.live.is_started:
            bar.stop()


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts.

    >>> counted(1, "rank"), counted(1024, "step")
    ('1 rank', '1,024 steps')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(share: float) -> str:
    """Format a share for people."""
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
