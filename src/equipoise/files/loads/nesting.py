"""Refuse JSON text that is nested deeper than any load, before a streaming parser spends memory on it."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from equipoise.errors import FileError

_DEEPEST = 200
_BLOCK = 2**16
_OPENING, _CLOSING = b"[{", b"]}"


def check_nesting(file: BinaryIO, name: str) -> None:
    """Read a text to its end and refuse it where brackets nest too deep; brackets within strings count too.

    A parser that names each place by its path takes memory and time of the square of the depth. Counting bytes by the block is
    some gigabytes a second; only blocks that could go too deep are looked at byte by byte.

    Raises
    ------
    FileError
        Where it is more than 200 deep.
    """
    depth = 0
    while block := file.read(_BLOCK):
        opened, closed = (sum(block.count(bracket) for bracket in kind) for kind in (_OPENING, _CLOSING))
        if depth + opened > _DEEPEST and depth + _deepest_within(block) > _DEEPEST:
            raise FileError(
                f"{name} nests lists more than {_DEEPEST} deep", "a load is at most three deep", "write the file again"
            )
        depth = max(0, depth + opened - closed)


def _deepest_within(block: bytes) -> int:
    data = np.frombuffer(block, np.uint8)
    steps = np.isin(data, list(_OPENING)).astype(np.int32) - np.isin(data, list(_CLOSING)).astype(np.int32)
    return int(np.cumsum(steps).max())
