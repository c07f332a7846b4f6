"""Checks that many arguments share, each said once."""

from __future__ import annotations

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


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a name that is none of ``choices``, and list them."""
    if value not in choices:
        raise ArgumentError(f"{name} is {value!r}", f"it must be one of {', '.join(choices)}", "choose one of these")


def check_seed(seed: object) -> int:
    """Return a seed as an int; refuse one that is no integer in [0, 2**63)."""
    return check_integer("seed", seed, 0)
