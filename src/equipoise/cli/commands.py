"""The group of all commands: lists them without loading any, and loads the one that is used."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperGroup

from equipoise.cli.catalogue import COMMANDS, GROUPS
from equipoise.errors import ArgumentError

EXIT_CODES = {
    0: "done",
    1: "a fault of equipoise: the lines above it are for a report",
    2: "bad input, or none: one line on stderr says what, why, and what to do",
    3: "check: the engine would refuse the setup, or fail on it; score: every program is refused",
    130: "interrupted",
    141: "the reader of its output left",
}

READ_ON = "docs/command-line.md of the project says it at length; equipoise COMMAND --help shows options and an example."

_WIDEST = 70
_EXAMPLE = re.compile(r"\s*Example:\s*")


class Commands(TyperGroup):
    """All commands of the catalogue."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the catalogue's order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load the command that is used; say which are meant by a name that is none."""
        if cmd_name in COMMANDS:
            return load_command(cmd_name)
        if cmd_name.startswith("-"):
            return None
        from equipoise.checks import suggestion

        near = suggestion(cmd_name, tuple(COMMANDS))
        raise ArgumentError(f"No such command '{cmd_name}'", f"there are {', '.join(COMMANDS)}", near or "choose one of these")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each group of commands, then exit codes and where to read on."""
        for title, entries in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(entry.name, entry.line) for entry in entries], col_max=12)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()], col_max=12)
        with formatter.section("Read on"):
            formatter.write_text(READ_ON)


def load_command(name: str) -> Any:
    """Return a command of the catalogue with its options."""
    entry = COMMANDS[name]
    function = getattr(importlib.import_module(entry.module), entry.function)
    text, examples = split_help(function)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name=name, help=text, epilog=_shown(examples))(function)
    return typer.main.get_command(app)


def split_help(function: Callable[..., object]) -> tuple[str, list[str]]:
    """Return what a docstring says of a command, and the command lines behind its ``Example:``."""
    text, *examples = _EXAMPLE.split((function.__doc__ or "").strip())
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(lines), [" ".join(example.split()) for example in examples]


def _shown(examples: list[str]) -> str:
    """Return examples as a paragraph that help leaves unwrapped, so that they can be copied."""
    title = "Example:" if len(examples) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {_broken(example)}" for example in examples)]) if examples else ""


def _broken(example: str) -> str:
    """Break a long command line as a shell takes it."""
    return " \\\n      ".join(wrap(example, _WIDEST, break_long_words=False, break_on_hyphens=False))
