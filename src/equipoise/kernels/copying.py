"""Copying one list of numbers to another: a slice assignment compiles ten times as long, for errors that cannot occur."""

from __future__ import annotations

from equipoise.kernels.compiling import part
from equipoise.kernels.types import Floats, Ints


@part
def copy_to(source: Ints | Floats, target: Ints | Floats) -> None:
    """Copy ``source`` [n] to ``target`` [n]."""
    for i in range(source.shape[0]):
        target[i] = source[i]
