"""JSON text nested deeper than any load is refused before it is parsed."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import FileError
from equipoise.files.loads.nesting import check_nesting


def _depth(text):
    deepest = now = 0
    for character in text:
        now += (character in "[{") - (character in "]}")
        deepest = max(deepest, now)
    return deepest


@given(st.lists(st.tuples(st.sampled_from("[{]}1"), st.integers(1, 150)), max_size=12))
def test_depth_is_what_reading_by_the_character_gives(runs):
    """Whatever stands where."""
    text = "".join(character * count for character, count in runs)
    if _depth(text) > 200:
        with pytest.raises(FileError):
            check_nesting(io.BytesIO(text.encode()), "x.json")
    else:
        check_nesting(io.BytesIO(text.encode()), "x.json")


def test_deep_text_is_refused_at_once():
    """Also where it goes deep after many blocks."""
    start = time.perf_counter()
    check_nesting(io.BytesIO(b"[" + b"[[1, 2], [3, 4]]," * 10**5 + b"[]]"), "x.json")
    with pytest.raises(FileError, match=r"x\.json nests lists more than 200 deep: a load is at most three deep"):
        check_nesting(io.BytesIO(b"[[1, 2], [3, 4]]," * 10**5 + b"[[1]," * 10**5), "x.json")
    assert time.perf_counter() - start < 5
