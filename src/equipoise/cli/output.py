"""What commands print: tables for people, one JSON object for programs, progress on a terminal only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False, markup=False)  # names of people's files may hold brackets
err = Console(stderr=True, highlight=False)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on one line; numbers that are not finite become null."""
    print(json.dumps(_plain(content)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others, figures, to the right."""
    out.print(title, style="bold", soft_wrap=True)
    grid = Table()
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Show a spinner on stderr while something of unknown length runs, if that is a terminal."""
    if quiet or not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


@contextmanager
def progress_bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr if that is a terminal; yields what advances it by one."""
    if quiet or not err.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


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
