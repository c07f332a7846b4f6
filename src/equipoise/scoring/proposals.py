"""Proposals: a change to a program as text, read strictly, and applied where it fits exactly once or not at all.

A proposal has three sections, <NAME>, <DESCRIPTION> and <DIFF>, each once and closed, in any order, with nothing but blank
lines between them. The diff is made of blocks: the line SEARCH, lines as the program has them, the line DIVIDER, what is to
stand there, the line REPLACE.

What a block searches for and puts in its place are whole lines. Every block is matched against the program as it was before
any of them, so the order of the blocks means nothing, and two of them must not overlap.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import NoReturn

from equipoise.errors import ArgumentError, FileError, unreadable

SECTIONS = ("NAME", "DESCRIPTION", "DIFF")
SEARCH, DIVIDER, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
MARKERS = (SEARCH, DIVIDER, REPLACE)
_ORDER = f"a block is {SEARCH}, lines, {DIVIDER}, lines, {REPLACE}"
_SECTION = re.compile(rf"\s*<(/?)({'|'.join(SECTIONS)})>\s*", re.ASCII)
_ONE_LINE = re.compile(r"\s*<(NAME|DESCRIPTION)>(.*)</\1>\s*", re.ASCII)
_MARK = re.compile(r"\s*#\s*EVOLVE-BLOCK-(START|END)\b")
_LARGEST = 4 << 20
_LONGEST_NAME = 120
_SHOWN = 60
_TRIED = 50


@dataclass(frozen=True)
class Block:
    """Whole lines of a program, and what stands in their place.

    Parameters
    ----------
    search, replace : tuple of str
        Lines without their ends. ``search`` holds at least one that is not blank; ``replace`` is another sequence, perhaps
        empty. None of them is a marker.
    line : int
        Where the block begins in its proposal, counted from 1; 0 where it was not read from one.

    Raises
    ------
    ArgumentError
        When it would change nothing, or could not be written down and read again.

    Examples
    --------
    >>> Block(("a = 1",), ("a = 2",)).replace
    ('a = 2',)
    """

    search: tuple[str, ...]
    replace: tuple[str, ...]
    line: int = 0

    def __post_init__(self) -> None:
        place = f"the block at line {self.line}" if self.line else "a block"
        if not any(line.strip() for line in self.search):
            raise ArgumentError(
                f"{place} has an empty SEARCH", "it must hold a line that is not blank", "copy the lines to change into it"
            )
        if self.search == self.replace:
            raise ArgumentError(
                f"{place} replaces lines by the same lines", "a block must change something", "drop it, or change its REPLACE"
            )
        for line in (*self.search, *self.replace):
            if "\n" in line or "\r" in line or _marker(line):
                raise ArgumentError(f"{place} holds {_shown(line)}", "a line of code is one line and no marker", "rewrite it")


@dataclass(frozen=True)
class Proposal:
    r"""A named change to a program.

    Parameters
    ----------
    name : str
        One printable line, at most 120 characters.
    description : str
        Why, in words; not empty.
    blocks : tuple of Block
        At least one.

    Raises
    ------
    ArgumentError
        When one of them is not so.

    Examples
    --------
    >>> proposal = Proposal("two", "One is not enough.", (Block(("a = 1",), ("a = 2",)),))
    >>> parse_proposal(proposal.as_text()).name
    'two'
    >>> apply_proposal(proposal, "a = 1\nb = a\n")
    'a = 2\nb = a\n'
    """

    name: str
    description: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.name.isprintable() or self.name != self.name.strip() or not 0 < len(self.name) <= _LONGEST_NAME:
            raise ArgumentError(
                f"the NAME is {_shown(self.name)}",
                f"it must be one printable line of 1 to {_LONGEST_NAME} characters",
                "give the change a short name",
            )
        if not self.description.strip():
            raise ArgumentError("the DESCRIPTION is empty", "it must say what changes and why", "describe the change")
        if not self.blocks:
            raise ArgumentError("the DIFF has no block", _ORDER, "add one")

    def as_text(self) -> str:
        """Return the proposal as it is written down; :func:`parse_proposal` reads it."""
        lines = ["<NAME>", self.name, "</NAME>", "<DESCRIPTION>", self.description, "</DESCRIPTION>", "<DIFF>"]
        for block in self.blocks:
            lines += [SEARCH, *block.search, DIVIDER, *block.replace, REPLACE]
        return "\n".join([*lines, "</DIFF>", ""])


def read_proposal(path: str | PathLike[str]) -> tuple[Proposal, str]:
    """Read a proposal from a file; returns it and its text as it stands in the file.

    Raises
    ------
    FileError
        When the file cannot be read, or is no text in UTF-8.
    ArgumentError
        When the text is no proposal.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > _LARGEST:
        raise FileError(f"{path} has {len(content):,} bytes", f"a proposal has at most {_LARGEST:,}", "shorten it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is no text in UTF-8", "a proposal is text", "name one") from error
    return parse_proposal(text, str(path)), text


def parse_proposal(text: str, source: str = "the proposal") -> Proposal:
    r"""Return the proposal that a text is.

    Parameters
    ----------
    text : str
        Lines that all end alike: in ``\n``, or in ``\r\n``.
    source : str
        What errors call it.

    Raises
    ------
    ArgumentError
        On a section that is missing or there twice, text outside the sections, or markers that do not make blocks; the
        message says at which line, counted from 1.
    """
    lines, _ = _split(text, source)
    try:
        sections = _sections(lines)
        (name, _), (description, _), (diff, first) = (sections[section] for section in SECTIONS)
        return Proposal("\n".join(name).strip(), "\n".join(description).strip("\n"), tuple(_blocks(diff, first)))
    except ArgumentError as error:
        raise ArgumentError(f"{source}: {error.found}", error.rule, error.next_step) from error


def make_proposal(name: str, description: str, before: str, after: str) -> Proposal:
    r"""Return a proposal that makes one program of another.

    Each change takes as many unchanged lines around it into its SEARCH as it needs to match once.

    Raises
    ------
    ArgumentError
        When both are the same, ``before`` is blank, a line is a marker, or lines end in different ways.

    Examples
    --------
    >>> proposal = make_proposal("double", "Twice as many.", "a = 1\nb = 2\n", "a = 1\nb = 4\n")
    >>> proposal.blocks[0].search, proposal.blocks[0].replace
    (('b = 2',), ('b = 4',))
    """
    if before == after:
        raise ArgumentError("both programs are the same", "a proposal must change something", "compare different programs")
    (old, old_end), (new, new_end) = _split(before, "the program before"), _split(after, "the program after")
    if old_end != new_end and len(new) > 1 < len(old):
        raise ArgumentError("the programs' lines end differently", "a proposal changes lines, not their ends", "convert one")
    return Proposal(name, description, tuple(_differences(old, new)))


def apply_proposal(proposal: Proposal, program: str, source: str = "the program") -> str:
    """Return the program with every block's lines replaced.

    Parameters
    ----------
    proposal : Proposal
        What to change.
    program : str
        The program's text. Where it has lines ``# EVOLVE-BLOCK-START`` and ``# EVOLVE-BLOCK-END``, only what stands between
        such a pair may change.
    source : str
        What errors call the program.

    Raises
    ------
    ArgumentError
        When a SEARCH matches no place or several, blocks overlap, lines outside the marks or the marks themselves would
        change, or the result is no Python. Nothing is repaired: a difference in indentation or at the ends of lines is named.
    """
    lines, ending = _split(program, source)
    places = [_place(block, number, lines, source) for number, block in enumerate(proposal.blocks, 1)]
    _check_apart(proposal.blocks, places)
    changed: list[str] = []
    done = 0
    for start, block in sorted(zip(places, proposal.blocks, strict=True), key=lambda pair: pair[0]):
        changed += [*lines[done:start], *block.replace]
        done = start + len(block.search)
    changed += lines[done:]
    _check_marks(lines, changed, proposal.blocks, places, source)
    result = ending.join(changed)
    _check_syntax(result)
    return result


def _split(text: str, source: str) -> tuple[list[str], str]:
    r"""Return the lines of a text without their ends, and how they end: all in ``\n``, or all in ``\r\n``."""
    lines = text.split("\n")
    ending = "\r\n" if len(lines) > 1 and lines[0].endswith("\r") else "\n"
    if ending == "\r\n":
        wrong = next((number for number, line in enumerate(lines[:-1], 1) if not line.endswith("\r")), 0)
        lines = [*(line.removesuffix("\r") for line in lines[:-1]), lines[-1]]
        if wrong:
            _refuse_ending(source, wrong, "LF", "CR LF")
    wrong = next((number for number, line in enumerate(lines, 1) if "\r" in line), 0)
    if wrong:
        _refuse_ending(source, wrong, "a CR", "CR LF" if ending == "\r\n" else "LF")
    return lines, ending


def _refuse_ending(source: str, line: int, found: str, first: str) -> NoReturn:
    raise ArgumentError(
        f"{source} has {found} at line {line}, and {first} at the first line",
        "all lines must end alike, in LF or in CR LF",
        "convert the line ends",
    )


def _sections(lines: Sequence[str]) -> dict[str, tuple[list[str], int]]:
    """Return each section's lines and the number of the first of them."""
    found: dict[str, tuple[list[str], int]] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip():
            continue
        opened = number
        name, content, first, number = _one_section(lines, number)
        if name in found:
            raise ArgumentError(f"<{name}> is there again at line {opened}", "each section must be there once", "keep one")
        found[name] = content, first
    missing = [f"<{name}>" for name in SECTIONS if name not in found]
    if missing:
        raise ArgumentError(
            f"there is no {' and no '.join(missing)}", f"it needs {', '.join(f'<{name}>' for name in SECTIONS)}", "add it"
        )
    return found


def _one_section(lines: Sequence[str], number: int) -> tuple[str, list[str], int, int]:
    """Return name, lines, number of the first line and of the last line of the section that opens at line ``number``."""
    line = lines[number - 1]
    if whole := _ONE_LINE.fullmatch(line):
        return whole[1], [whole[2]], number, number
    opening = _SECTION.fullmatch(line)
    if opening is None or opening[1]:
        raise ArgumentError(
            f"line {number} is {_shown(line)}",
            f"outside the sections ({', '.join(f'<{name}>' for name in SECTIONS)}) must be blank lines only",
            "move it into the DESCRIPTION, or drop it",
        )
    name = opening[2]
    end = _end_of_section(lines, number, name)
    return name, list(lines[number:end]), number + 1, end + 1


def _end_of_section(lines: Sequence[str], number: int, name: str) -> int:
    """Return the index of the line that closes a section; what stands in a block of the DIFF closes nothing."""
    is_inside = False
    for index in range(number, len(lines)):
        marker = _marker(lines[index])
        if name == "DIFF":
            is_inside = marker == SEARCH or (is_inside and marker != REPLACE)
        elif marker in (SEARCH, REPLACE):
            raise ArgumentError(f"line {index + 1} is {marker} in <{name}>", "blocks belong in the DIFF", "move it there")
        tag = _SECTION.fullmatch(lines[index])
        if is_inside or tag is None:
            continue
        if tag[1] and tag[2] == name:
            return index
        raise ArgumentError(
            f"line {index + 1} is {tag[0].strip()} in <{name}>", f"</{name}> must come first", "close it before"
        )
    if is_inside:
        list(_blocks(lines[number:], number + 1))
    raise ArgumentError(f"<{name}> at line {number} is not closed", f"it ends with </{name}> on a line", "add that line")


def _blocks(lines: Sequence[str], first: int) -> Iterator[Block]:
    """Yield the blocks of a DIFF whose first line has the number ``first``."""
    parts: list[list[str]] = []
    start = 0
    for number, line in enumerate(lines, first):
        marker = _marker(line)
        expected = MARKERS[len(parts)]
        if marker == expected and marker != REPLACE:
            start = start if parts else number
            parts.append([])
        elif marker == expected:
            search, replace = parts
            yield Block(tuple(search), tuple(replace), start)
            parts = []
        elif marker:
            raise ArgumentError(f"line {number} is {marker} where {expected} is due", _ORDER, "put the markers in this order")
        elif parts:
            parts[-1].append(line)
        elif line.strip():
            raise ArgumentError(
                f"line {number} of the DIFF is {_shown(line)}", "between blocks must be blank lines only", "drop it"
            )
    if parts:
        raise ArgumentError(f"the block at line {start} has no {MARKERS[len(parts)]}", _ORDER, "close it")


def _marker(line: str) -> str:
    """Return which marker a line is, blanks at its end aside, or an empty string."""
    bare = line.rstrip()
    return bare if bare in MARKERS else ""


def _place(block: Block, number: int, lines: Sequence[str], source: str) -> int:
    """Return the index of the one line where a block's SEARCH matches."""
    found = _matches(block.search, lines)
    if len(found) == 1:
        return found[0]
    what = f"block {number}" + (f" (line {block.line} of the proposal)" if block.line else "")
    if found:
        places = ", ".join(str(index + 1) for index in found[:8]) + (", ..." if len(found) > 8 else "")
        raise ArgumentError(
            f"the SEARCH of {what} matches {source} {len(found)} times, at lines {places}",
            "it must match exactly once",
            "add lines around it that tell the places apart",
        )
    raise ArgumentError(
        f"the SEARCH of {what} matches {source} nowhere; {_nearest(block.search, lines)}",
        "whole lines must match exactly once, blanks included",
        "copy them from the program as it is",
    )


def _matches(search: Sequence[str], lines: Sequence[str]) -> list[int]:
    wanted = list(search)
    starts = range(len(lines) - len(wanted) + 1)
    return [start for start in starts if lines[start] == wanted[0] and list(lines[start : start + len(wanted)]) == wanted]


def _nearest(search: Sequence[str], lines: Sequence[str]) -> str:
    """Say where the program is most like what was searched for, and what differs there first."""
    start = _nearest_start(search, lines)
    if start is None:
        return "no line of it is like the first one searched for"
    window = [*lines[start : start + len(search)], *[""] * (len(search) - len(lines[start : start + len(search)]))]
    index = next(i for i, (wanted, line) in enumerate(zip(search, window, strict=True)) if wanted != line)
    if start + index >= len(lines):
        return f"nearest is line {start + 1}, but the program ends at line {len(lines)}"
    wanted, line = search[index], window[index]
    return (
        f"nearest is line {start + 1}, where line {start + index + 1} is {_shown(line)} and not {_shown(wanted)}"
        f"{_difference(wanted, line)}"
    )


def _nearest_start(search: Sequence[str], lines: Sequence[str]) -> int | None:
    """Return the first index of the most similar window: first by lines that are equal but for blanks, then by characters."""
    bare_search, bare = [line.strip() for line in search], [line.strip() for line in lines]
    starts = range(max(1, len(lines) - len(search) + 1))
    equal = [
        sum(
            1 for wanted, line in zip(bare_search, bare[start : start + len(search)], strict=False) if wanted and wanted == line
        )
        for start in starts
    ]
    if not max(equal):
        first = next(line for line in bare_search if line)
        near = get_close_matches(first, dict.fromkeys(line for line in bare if line), n=1)
        return None if not near else max(0, min(bare.index(near[0]) - bare_search.index(first), starts[-1]))
    best = [start for start in starts if equal[start] == max(equal)][:_TRIED]
    matcher = SequenceMatcher(None, "", "\n".join(search), autojunk=False)
    ratios = []
    for start in best:
        matcher.set_seq1("\n".join(lines[start : start + len(search)]))
        ratios.append(matcher.ratio())
    return best[ratios.index(max(ratios))]


def _difference(wanted: str, line: str) -> str:
    """Name a difference that is in blanks only."""
    if wanted.rstrip() == line.rstrip():
        return " (only blanks at the end of the line differ)"
    if wanted.strip() == line.strip():
        kinds = {character for text in (wanted, line) for character in text[: len(text) - len(text.lstrip())]}
        return f" (only the indentation differs{', tabs against spaces' if {' ', chr(9)} <= kinds else ''})"
    if wanted.split() == line.split():
        return " (only blanks within the line differ)"
    return ""


def _check_apart(blocks: Sequence[Block], places: Sequence[int]) -> None:
    """Refuse blocks that search for the same lines."""
    spans = sorted(
        (start, start + len(block.search), number) for number, (block, start) in enumerate(zip(blocks, places, strict=True), 1)
    )
    for (_, end, number), (start, _, other) in pairwise(spans):
        if start < end:
            raise ArgumentError(
                f"blocks {min(number, other)} and {max(number, other)} overlap at line {start + 1} of the program",
                "each is applied to the program as it was, so no line may be in two",
                "make them one block",
            )


def _check_marks(
    before: Sequence[str], after: Sequence[str], blocks: Sequence[Block], places: Sequence[int], source: str
) -> None:
    """Refuse changes outside the marks of a program that has some, and of the marks."""
    outside, spans = _outside(before, source)
    if not spans:
        return
    rule = "only what stands between # EVOLVE-BLOCK-START and # EVOLVE-BLOCK-END may change, and not these marks"
    for number, (block, start) in enumerate(zip(blocks, places, strict=True), 1):
        first, last = (start + index for index in _changed(block))
        if not any(low <= first and last <= high for low, high in spans):
            raise ArgumentError(f"block {number} changes {source} at line {first + 1}", rule, "change lines between the marks")
    if _outside(after, "the changed program")[0] != outside:
        raise ArgumentError("the blocks bring in marks", rule, "leave them out of REPLACE")


def _outside(lines: Sequence[str], source: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the lines that may not change, marks included, and the spans of indices between each pair of marks."""
    kept: list[str] = []
    spans: list[tuple[int, int]] = []
    start = None
    for index, line in enumerate(lines):
        mark = _MARK.match(line)
        if mark is None:
            kept += [line] if start is None else []
            continue
        kept.append(line)
        if (mark[1] == "START") != (start is None):
            what = "inside another block" if mark[1] == "START" else "without a START before it"
            raise _unbalanced(f"{source} has EVOLVE-BLOCK-{mark[1]} at line {index + 1} {what}")
        if start is not None:
            spans.append((start, index))
        start = index + 1 if mark[1] == "START" else None
    if start is not None:
        raise _unbalanced(f"{source} has EVOLVE-BLOCK-START at line {start} without an END after it")
    return kept, spans


def _unbalanced(found: str) -> ArgumentError:
    return ArgumentError(found, "the marks must come in pairs, START and END", "mend the marks")


def _changed(block: Block) -> tuple[int, int]:
    """Return the span of a SEARCH, as indices, outside of which its lines stay as they are."""
    shortest = min(len(block.search), len(block.replace))
    first = next((i for i in range(shortest) if block.search[i] != block.replace[i]), shortest)
    last = next((i for i in range(shortest - first) if block.search[-1 - i] != block.replace[-1 - i]), shortest - first)
    return first, len(block.search) - last


def _check_syntax(program: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except SyntaxError as error:
        line = f" at line {error.lineno}, {_shown(error.text or '')}" if error.lineno else ""
        found = f"the changed program has a syntax error{line} ({error.msg})"
    except (ValueError, RecursionError, MemoryError) as error:
        found = f"the changed program cannot be parsed ({error or type(error).__name__})"
    else:
        return
    raise ArgumentError(found, "it must be Python", "mend the REPLACE that wrote it")


def _differences(old: Sequence[str], new: Sequence[str]) -> Iterator[Block]:
    """Yield blocks that make one list of lines of another."""
    opcodes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    changes = [(first, last, new[start:end]) for tag, first, last, start, end in opcodes if tag != "equal"]
    groups: list[tuple[int, int, list[tuple[int, int, Sequence[str]]]]] = []
    for change in changes:
        first, last = _widened(change[0], change[1], old)
        held = [change]
        while groups and groups[-1][1] > first:
            before = groups.pop()
            first, last, held = min(first, before[0]), max(last, before[1]), before[2] + held
        groups.append((first, last, held))
    for first, last, held in groups:
        replace: list[str] = []
        at = first
        for low, high, lines in held:
            replace += [*old[at:low], *lines]
            at = high
        replace += old[at:last]
        if list(old[first:last]) != replace:
            yield Block(tuple(old[first:last]), tuple(replace))


def _widened(first: int, last: int, lines: Sequence[str]) -> tuple[int, int]:
    """Return the smallest span around one, grown by turns, whose lines are not all blank and found once."""
    is_upward = True
    while not any(line.strip() for line in lines[first:last]) or len(_matches(lines[first:last], lines)) > 1:
        if first == 0 and last == len(lines):
            raise ArgumentError(
                "the program before is blank", "a proposal changes lines that are there", "start from a program"
            )
        if (is_upward and first > 0) or last == len(lines):
            first -= 1
        else:
            last += 1
        is_upward = not is_upward
    return first, last


def _shown(text: str) -> str:
    bare = text.strip("\n")
    return repr(bare if len(bare) <= _SHOWN else f"{bare[:_SHOWN]}...")
