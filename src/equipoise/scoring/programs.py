"""The programs to be judged: a Python file, or a planner of ours or a published one by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from equipoise.checks import check_choice
from equipoise.errors import ArgumentError, FileError, unreadable
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.published import NOISY, named_composition, split_name
from equipoise.scoring.verdicts import one_line

OURS, PUBLISHED = "equipoise", "published"
_LARGEST = 4 << 20

_TEXT = """\
from functools import partial

from equipoise.scoring.planners import {function}

rebalance_experts = partial({function}, {settings})
"""


@dataclass(frozen=True)
class Program:
    """A program's name and text; ``is_builtin`` for those that come with equipoise, which run unconfined.

    ``path`` is where its file is, absolute, and empty for a program that was not read from one.

    >>> Program("mine.py", "def rebalance_experts(*arguments): ...").sha256[:8]
    '52a48fa4'
    """

    name: str
    text: str
    is_builtin: bool = False
    path: str = ""

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def calls_equipoise(self) -> bool:
        """Whether its text names this package (or numba), so that kernels are worth loading beforehand."""
        return "equipoise" in self.text


def find_program(given: str | PathLike[str] | Program) -> Program:
    """Return a program from a path, or from a name such as ``equipoise:default`` and ``published:ensemble+swap:128,0.2``.

    Raises
    ------
    FileError
        When there is no such file, or it is no text.
    ArgumentError
        On an unknown name, or numbers out of range after it.

    Examples
    --------
    >>> find_program("published:lpt").is_builtin
    True
    """
    if isinstance(given, Program):
        return given
    name = fspath(given)
    family, _, rest = name.partition(":")
    if family == OURS and rest:
        return _ours(name, rest)
    if family == PUBLISHED and rest:
        return _published(name, rest)
    return _read(name)


def find_programs(given: Sequence[str | PathLike[str] | Program]) -> list[Program]:
    """Return programs as :func:`find_program` does, each once.

    Raises
    ------
    ArgumentError
        When two of them have the same name, or are the same file.
    FileError
        As :func:`find_program` does.
    """
    found = [find_program(one) for one in given]
    seen: dict[str, str] = {}
    for program in found:
        for key in {program.name, _identity(program)}:
            if key in seen:
                also = "" if seen[key] == program.name else f", first as {seen[key]}"
                raise ArgumentError(f"{program.name} is given twice{also}", "results go by name", "name it once")
        seen |= dict.fromkeys((program.name, _identity(program)), program.name)
    return found


def labels_of(programs: Sequence[Program]) -> list[str]:
    """Return what tables call programs: of a file the end of its path, as short as tells it from the others.

    Other programs keep their names. What cannot be printed is escaped.

    Examples
    --------
    >>> labels_of([Program(path, "", path=path) for path in ("/x/a/p.py", "/x/b/p.py", "/x/b/q.py")])
    ['a/p.py', 'b/p.py', 'q.py']
    """
    parts = {program.path: Path(program.path).parts for program in programs if program.path}
    taken = {program.name for program in programs if not program.path}
    labels = []
    for program in programs:
        others = [held for path, held in parts.items() if path != program.path]
        label = _end_of_path(parts[program.path], others, taken) if program.path else program.name
        labels.append(one_line(label))
    return labels


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can write: what it cannot, halves of a pair of surrogates, is escaped.

    >>> encodable("\ud800!") == "\\ud800!"
    True
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _identity(program: Program) -> str:
    return str(Path(program.path).resolve()) if program.path else program.name


def _end_of_path(own: tuple[str, ...], others: Sequence[tuple[str, ...]], taken: set[str]) -> str:
    for length in range(1, len(own)):
        label = str(Path(*own[-length:]))
        if label not in taken and all(other[-length:] != own[-length:] for other in others):
            return label
    return str(Path(*own))


def _ours(name: str, effort: str) -> Program:
    check_choice("the planner after equipoise:", effort, (*EFFORTS, "rebalance_experts"))
    if effort == "rebalance_experts":
        return Program(name, "from equipoise import rebalance_experts\n", is_builtin=True)
    return Program(name, _TEXT.format(function="ours", settings=f"effort={effort!r}"), is_builtin=True)


def _published(name: str, rest: str) -> Program:
    """Return a published packing; after a second colon its candidates and noise."""
    packing, _, numbers = rest.partition(":")
    candidates, noise = _numbers(name, numbers)
    constructor, refine = split_name(packing)
    named_composition(constructor, refine, candidates=candidates, noise=noise)
    if numbers and constructor not in NOISY:
        raise ArgumentError(f"{name!r} has candidates and noise", f"only {', '.join(NOISY)} take any", "leave them out")
    settings = f"packing={packing!r}, candidates={candidates}, noise={noise}"
    return Program(name, _TEXT.format(function="published", settings=settings), is_builtin=True)


def _numbers(name: str, text: str) -> tuple[int, float]:
    try:
        candidates, _, noise = text.partition(",")
        return int(candidates or 128), float(noise or 0.1)
    except ValueError as error:
        raise ArgumentError(
            f"the planner is {name!r}", "candidates and noise follow the second colon", "try published:ensemble+swap:128,0.2"
        ) from error


def _read(name: str) -> Program:
    path = Path(name)
    try:
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{name} has {path.stat().st_size:,} bytes", f"a program has at most {_LARGEST:,}", "shorten it")
        return Program(name, path.read_text(encoding="utf-8"), path=str(path.absolute()))
    except UnicodeDecodeError as error:
        raise FileError(f"{name} is no text in UTF-8", "a program is a Python file", "name one") from error
    except OSError as error:
        raise unreadable(name, error) from error
