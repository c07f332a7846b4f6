"""The documentation's pages taken apart, and run as a reader would: block after block, from the top."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)

Run = Callable[..., tuple[int, str, str]]
"""Arguments of the command line in; exit code, stdout and stderr out."""


@dataclass
class Ran:
    """What came of a page: what its commands printed, what its Python printed, and the names that this left."""

    commands: list[str] = field(default_factory=list)
    printed: str = ""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})


def blocks_of(page: Path | str) -> list[tuple[str, str]]:
    """Return kind and content of the fenced blocks of a page, by path or by its name under docs/."""
    return [(kind, code) for _, kind, code in _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))]


def has_code(page: Path | str) -> bool:
    """Whether a page holds Python, or commands of ours."""
    return any(kind == "python" or commands_in(code) for kind, code in blocks_of(page))


def lines_in(code: str) -> list[str]:
    """Return the lines of a shell block that do something; one that ends in a backslash goes on in the next."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def commands_in(code: str) -> list[list[str]]:
    """Return the words of each command in a block that is ours, or ``python -c`` and its program."""
    lines = [line for line in lines_in(code) if line.startswith(("equipoise ", "python -c "))]
    return [shlex.split(line, comments=True) for line in lines]


def run_page(page: Path | str, run: Run, capsys: Any, swaps: dict[str, str] | None = None) -> Ran:
    """Run a page from the top: commands must end well and say nothing on stderr, Python must raise nothing.

    What an ``output`` block shows must be among what commands before it print. ``swaps`` are words of commands that differ
    from run to run.
    """
    ran = Ran()
    for kind, code in blocks_of(page):
        if kind == "python":
            capsys.readouterr()
            exec(compile(code, f"{page}", "exec"), ran.names)
            ran.printed += capsys.readouterr().out
        elif kind == "output":
            _check_shown(code, "".join(ran.commands))
        else:
            ran.commands += [_run_command(run, command, swaps or {}) for command in commands_in(code)]
    return ran


def printed_comments(page: Path | str) -> list[str]:
    """Return the comments behind the print calls of a page: what its Python says it prints."""
    lines = [line for kind, code in blocks_of(page) if kind == "python" for line in code.splitlines()]
    return [line.split("  # ", 1)[1] for line in lines if line.startswith("print(") and "  # " in line]


def _run_command(run: Run, command: list[str], swaps: dict[str, str]) -> str:
    if command[0] == "python":
        exec(command[2], {})
        return ""
    code, out, err = run(*(swaps.get(word, word) for word in command[1:]))
    assert (code, err) == (0, ""), command
    return out


def _check_shown(shown: str, printed: str) -> None:
    everything = _plain(printed)
    for line in shown.splitlines():
        assert _plain(line) in everything, line


def _plain(text: str) -> str:
    """Leave out the lines of tables, and what only aligns."""
    return re.sub(r"[\s│┃|]+", " ", text).strip()
