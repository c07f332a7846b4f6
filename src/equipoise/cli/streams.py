"""Standard input and output in the place of files: ``-``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from equipoise.errors import ArgumentError
from equipoise.files.atomic import whole_file
from equipoise.files.placements import FoundPlacement, write_as
from equipoise.files.placements.formats import find_format

STREAM = "-"


def shown(path: str) -> str:
    """Return what people are told that a file is called."""
    return "standard input" if path == STREAM else path


def check_streams(*given: str | None, out_file: str | None = None, report: str | None = None, json: bool = False) -> bool:
    """Return whether standard output is for one file alone; refuse what would read or write one stream twice."""
    if given.count(STREAM) > 1:
        raise ArgumentError("two files are -", "standard input is read once", "name all but one of them")
    streamed = [option for option, path in {"--out": out_file, "--report": report}.items() if path == STREAM]
    if len(streamed) > 1:
        raise ArgumentError("--out - with --report -", "both write to standard output", "name a file for one of them")
    if streamed and json:
        raise ArgumentError(f"{streamed[0]} - with --json", "both write to standard output", "name a file, or leave --json out")
    return bool(streamed)


@contextmanager
def written(path: str) -> Iterator[BinaryIO]:
    """Open what a command writes: a file that is there whole or not at all, or standard output."""
    if path != STREAM:
        with whole_file(path) as file:
            yield file
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def write_placement(path: str, format_: str, found: FoundPlacement) -> None:
    """Write a placement file, or the same bytes to standard output."""
    if path != STREAM:
        write_as(path, format_, found)
        return
    known = find_format(format_)
    with written(path) as file:
        file.write(known.encode(found, known.endings[0]))
