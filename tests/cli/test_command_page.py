"""The page on the command line: every command, exit code and option, as they are; its commands run."""

from __future__ import annotations

import re

import pytest

from documents import DOCS, run_page
from equipoise.cli.catalogue import COMMANDS, GROUPS
from equipoise.cli.commands import EXIT_CODES, load_command

PAGE = (DOCS / "command-line.md").read_text()


def _rows(heading):
    """Return the rows of the table whose first column is called so."""
    table = re.search(rf"^\| {heading} \|.*?(?=^$|\Z)", PAGE, re.DOTALL | re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_commands():
    """In the order and the words of the help."""
    expected = []
    for title, entries in GROUPS.items():
        expected.append([f"**{title}**", ""])
        expected += [[f"`{entry.name}`", entry.line] for entry in entries]
    assert [[name, line] for name, line in _rows("command")] == expected


def test_exit_codes():
    """As the help has them."""
    assert _rows("code") == [[str(code), meaning] for code, meaning in EXIT_CODES.items()]


def test_options():
    """Each with the commands that have it."""
    found = {}
    for name in COMMANDS:
        for param in load_command(name).params:
            if param.param_type_name == "option":
                found.setdefault(param.opts[0], []).append(name)
    expected = [
        [f"`{option}`", "all" if len(names) == len(COMMANDS) else ", ".join(names)] for option, names in sorted(found.items())
    ]
    assert _rows("option") == expected


@pytest.mark.compiled
def test_commands_run(run, prepared, capsys):
    """Every command of the page, from the top."""
    assert len(run_page("command-line.md", run, capsys).commands) >= 3
