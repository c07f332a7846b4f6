"""Checks that many arguments share, each said once."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

import numpy as np

from equipoise.errors import ArgumentError


def check_integer(name: str, value: object, least: int = 1) -> int:
    """Return ``value`` as an int.

    Raises
    ------
    ArgumentError
        When it is no integer (a bool is none), below ``least``, or too large for 64 bits.

    Examples
    --------
    >>> check_integer("num_ranks", 8)
    8
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value < 2**63:
        raise ArgumentError(f"{name} is {value!r}", f"it must be an integer >= {least}", "give a whole number in that range")
    return int(value)


def check_number(name: str, value: object, *, least: float = 0.0, above: float | None = None) -> float:
    """Return ``value`` as a finite float; refuse what is below ``least``, or not above ``above``.

    >>> check_number("stop_at", 2, least=1.0)
    2.0
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not (least <= value < np.inf) or (above is not None and not value > above):  # type: ignore[operator]
        rule = f"> {above:g}" if above is not None else f">= {least:g}"
        raise ArgumentError(f"{name} is {value!r}", f"it must be a finite number {rule}", "give a number in that range")
    return float(value)  # type: ignore[arg-type]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a name that is none of ``choices``, and list them."""
    if value not in choices:
        refuse_name(name, value, choices)


def refuse_name(name: str, value: object, choices: Iterable[str], next_step: str = "choose one of these") -> NoReturn:
    """Raise an ArgumentError that lists the names there are, and ends with the nearest, or else with ``next_step``."""
    known = tuple(choices)
    near = suggestion(str(value), known)
    raise ArgumentError(f"{name} is {value!r}", f"it must be one of {', '.join(known)}", near or next_step)


def suggestion(given: str, choices: Iterable[str], most: int = 1) -> str:
    """Ask whether the nearest of ``choices`` were meant, ``most`` of them; empty where none is near. Case does not matter.

    >>> suggestion("Stirct", ("none", "soft", "strict"))
    'did you mean strict?'
    """
    near = get_close_matches(given.lower(), tuple(choices), n=most)
    return f"did you mean {' or '.join(near)}?" if near else ""


def check_seed(seed: object) -> int:
    """Return a seed as an int; refuse one that is no integer in [0, 2**63)."""
    return check_integer("seed", seed, 0)
