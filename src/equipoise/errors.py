"""One family of errors. Each says what was found, which rule it breaks, and what to do next, on one line."""

from __future__ import annotations

_LONGEST = 200


class EquipoiseError(Exception):
    """Base of every error that equipoise raises on purpose.

    Parameters
    ----------
    found : str
        What was found, with its value and place.
    rule : str
        The rule it breaks.
    next_step : str
        What the reader can do about it.

    Examples
    --------
    >>> str(EquipoiseError("slots is 290", "slots must be divisible by ranks (32)", "take 288 or 320"))
    'slots is 290: slots must be divisible by ranks (32); take 288 or 320'
    """

    def __init__(self, found: str, rule: str, next_step: str) -> None:
        super().__init__(found, rule, next_step)
        self.found = found
        self.rule = rule
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.found}: {self.rule}; {self.next_step}"


class ArgumentError(EquipoiseError, ValueError):
    """An argument is out of range, of the wrong shape, or does not fit another one."""


class InvalidPlacementError(EquipoiseError, ValueError):
    """A placement breaks the strict rule (docs/semantics.md, 3)."""


class FileError(EquipoiseError):
    """A file cannot be read or written, or does not hold what it should."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 200 characters, or the error's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:_LONGEST] if lines else type(error).__name__


def unreadable(path: object, error: OSError) -> FileError:
    """Return what to raise for a file that the system does not let be read."""
    return FileError(f"{path} cannot be read ({error.strerror})", "it must be a readable file", "check the path")


class MissingExtraError(EquipoiseError, ImportError):
    """An optional dependency is needed and not installed."""


class NotSupportedError(EquipoiseError, NotImplementedError):
    """A legal request that this version cannot carry out."""
