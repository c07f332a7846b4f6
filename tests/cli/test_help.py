"""Help: the way through the commands, fast to list, and examples that run as they stand."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from equipoise.cli import commands
from equipoise.cli.catalogue import COMMANDS
from equipoise.cli.commands import EXIT_CODES, load_command, split_help

PATH = ["inspect", "plan", "compare", "simulate", "report"]


def _examples(name):
    entry = COMMANDS[name]
    return split_help(getattr(import_module(entry.module), entry.function))[1]


def test_the_list_shows_the_way(run):
    """What a new user runs comes first, in order; then all others, exit codes, and where to read on."""
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert listed == list(COMMANDS)
    assert listed[:5] == PATH
    assert all(f"  {code}" in out for code in EXIT_CODES)
    assert "docs/command-line.md" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_loads_nothing():
    """Listing takes no numpy, no rich and no command's module."""
    program = (
        "import sys\nsys.argv = ['equipoise', '--help']\nfrom equipoise.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "loaded = sorted(name for name in sys.modules if name.split('.')[0] in ('numpy', 'numba', 'rich', 'pydantic'))\n"
        "loaded += [name for name in sys.modules if name.startswith('equipoise.cli.')]\n"
        "print(loaded, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours = ["equipoise.cli.main", "equipoise.cli.commands", "equipoise.cli.catalogue"]
    assert set(eval(done.stderr)) == set(ours)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each(run, name):
    """What it does, its options, an example of its own; nothing beyond 80 columns."""
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: equipoise {name} ")
    assert max(map(len, out.splitlines())) <= 80
    examples = _examples(name)
    assert examples
    assert all(example.startswith(f"equipoise {name}") for example in examples)
    shown = " ".join(out.replace("\\\n", " ").split())
    assert all(example in shown for example in examples)


@pytest.mark.compiled
@pytest.mark.parametrize(("name", "example"), [(name, example) for name in COMMANDS for example in _examples(name)])
def test_examples_run(run, prepared, name, example):
    """Each as it stands, on files of these names."""
    if name == "warmup":
        example += " --help"  # compiles for minutes where nothing is compiled
    if name == "score":
        pytest.importorskip("torch")
    code, out, err = run(*shlex.split(example)[1:])
    assert (code, err) == (0, "")
    assert out


def test_every_option_says_what_it_is():
    """No option without help; each ends with a full stop."""
    for name in COMMANDS:
        for param in load_command(name).params:
            assert (param.help or "").endswith("."), (name, param.name)


def test_options_are_alike():
    """One name is one kind of value, in every command, and one flag stays one."""
    kinds = {}
    for name in COMMANDS:
        for param in load_command(name).params:
            if param.param_type_name == "option":
                kinds.setdefault(param.opts[0], {}).setdefault(param.metavar or "", []).append(name)
    several = {option: shapes for option, shapes in kinds.items() if len(shapes) > 1}
    assert set(several) <= {"--slots", "--every"}, several  # several, with commas between, where they are compared


def test_long_examples_break_as_shells_take_them():
    """A line that would not fit goes on behind a backslash."""
    example = "equipoise plan load.npz " + " ".join(f"--option-{number} value" for number in range(9))
    shown = commands._shown([example])
    assert max(map(len, shown.splitlines())) <= 78
    assert shlex.split(shown.partition("Example:")[2].replace("\\\n", " ")) == shlex.split(example)


def test_help_is_split_at_examples():
    """What stands before is text, whatever comes behind is one command line each."""

    def command():
        """Do it.

        With care. Example: equipoise do
        it
        Example: equipoise undo
        """

    text, examples = split_help(command)
    assert inspect.cleandoc(text) == "Do it.\n\nWith care."
    assert examples == ["equipoise do it", "equipoise undo"]
