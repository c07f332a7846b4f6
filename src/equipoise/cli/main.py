"""The ``equipoise`` command: its options, its exit codes, and what becomes of errors; commands load when they are used."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated

import typer

from equipoise import __version__
from equipoise.cli.catalogue import CURVE
from equipoise.cli.commands import Commands
from equipoise.errors import EquipoiseError
from equipoise.reporting.unseen import one_line

app = typer.Typer(
    name="equipoise",
    cls=Commands,
    help="Balance the experts of Mixture-of-Experts models over GPUs.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"equipoise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter of a name shows all the others
    try:
        arguments = _with_curve(sys.argv[1:]) or ["--help"]
        code = typer.main.get_command(app).main(arguments, prog_name="equipoise", standalone_mode=False)
        if sys.stdout is not None:  # as where it was closed
            sys.stdout.flush()
    except EquipoiseError as error:
        sys.exit(_complain(str(error)))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # typer and rich exit with 1 where they catch one
            raise
        sys.exit(_leave())
    except BrokenPipeError:
        sys.exit(_leave())
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer's, whichever click it carries
            sys.exit(_complain(f"{error.format_message().rstrip('.')}; see equipoise COMMAND --help"))
        traceback.print_exc()
        _complain("this is a fault of equipoise, not yours: please report it with the lines above")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _with_curve(arguments: list[str]) -> list[str]:
    """Let ``compare --locality`` without a value ask for the whole curve."""
    completed = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        completed.append(argument)
        if argument == "--locality" and following.startswith("--") and arguments[0] == "compare":
            completed.append(CURVE)
    return completed


def _leave() -> int:
    """Let nothing more be written to a reader that is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    return 141


def _complain(message: str) -> int:
    print(f"equipoise: {one_line(' '.join(message.split()))}", file=sys.stderr)
    return 2
