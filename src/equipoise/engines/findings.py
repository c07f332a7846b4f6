"""What a check finds: how bad it is, what was found, the rule, the next step, and where the rule is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from equipoise.checks import check_choice

LEVELS = ("error", "warning", "note")
"""``error``: the engine refuses it, or fails on it. ``warning``: it is ignored without a word, or does harm. ``note``: worth
knowing."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Parameters
    ----------
    level : str
        One of ``LEVELS``.
    found : str
        What was found, with its value and place.
    rule : str
        What the engine does with it, and why.
    next_step : str
        What the reader can do about it; "" where nothing need be done.
    source : str
        Version and file of the engine in which the rule was read.

    Examples
    --------
    >>> print(Finding("error", "288 slots on 31 ranks", "slots must be divisible by ranks", "take 32 ranks", "vLLM 0.33.0"))
    error: 288 slots on 31 ranks: slots must be divisible by ranks; take 32 ranks [vLLM 0.33.0]
    """

    level: str
    found: str
    rule: str
    next_step: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_choice("level", self.level, LEVELS)

    def __str__(self) -> str:
        step = f"; {self.next_step}" if self.next_step else ""
        source = f" [{self.source}]" if self.source else ""
        return f"{self.level}: {self.found}: {self.rule}{step}{source}"


error = partial(Finding, "error")
warning = partial(Finding, "warning")
note = partial(Finding, "note")
