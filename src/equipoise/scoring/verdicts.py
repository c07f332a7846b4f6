"""What the judge says of a program that it does not accept, or of one that it does."""

from __future__ import annotations

from dataclasses import dataclass

ACCEPTED = "accepted"

KINDS = (
    ACCEPTED,
    "unreadable",
    "syntax error",
    "no function",
    "import error",
    "raised",
    "exited",
    "timed out",
    "out of memory",
    "killed",
    "too many processes",
    "too many files",
    "garbled",
    "wrong type",
    "wrong shape",
    "out of range",
    "expert missing",
    "maps disagree",
    "changed later",
    "clock",
)
"""Every kind of verdict."""


def one_line(text: object, most: int = 500) -> str:
    r"""Return text that a program may have made as it can be shown anywhere: one line, escaped where it is not printable.

    >>> one_line("red\x1b[31m\n")
    'red\\x1b[31m\\n'
    """
    shown = str(text)[: most + 1]
    escaped = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)
    return escaped if len(escaped) <= most else escaped[:most] + "..."


@dataclass(frozen=True)
class Verdict:
    """One kind, and as every error of ours what was found, the rule it breaks, and the next step.

    >>> print(Verdict("timed out", "window 0 took longer than 10 s", "a call has 10 s", "make it faster"))
    timed out: window 0 took longer than 10 s; a call has 10 s; make it faster
    """

    kind: str
    found: str = ""
    rule: str = ""
    next_step: str = ""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        for name in ("found", "rule", "next_step"):
            object.__setattr__(self, name, one_line(getattr(self, name)))

    @property
    def is_accepted(self) -> bool:
        """Whether the program did nothing wrong."""
        return self.kind == ACCEPTED

    def __str__(self) -> str:
        return self.kind if self.is_accepted else f"{self.kind}: {self.found}; {self.rule}; {self.next_step}"


ALL_RIGHT = Verdict(ACCEPTED)
