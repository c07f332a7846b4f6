"""Which rows of a recorder's ring buffer were written, and in which order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_SHORT = 100
"""One run of rows without load shorter than this part of a ring is more likely idle passes."""


class Order(NamedTuple):
    """Positions of the rows that hold steps, whether these follow one another in time, and what is to be said of it."""

    rows: npt.NDArray[np.int64]
    is_known: bool
    remarks: tuple[str, ...]


def time_order(is_written: npt.NDArray[np.bool_], is_in_order: bool | None = None) -> Order:
    """Put the rows of a ring in order of time, as far as they tell it.

    Such a ring goes on where it was when it is emptied for the next recording, so rows never written may lie anywhere in it.
    One run of them, which may go over the end: recording began after it and ended before it, unless the ring wrapped and these
    are idle passes. A recording of any length ends within the last hundredth of a ring one time in a hundred, so a run shorter
    than that leaves the order unknown; a longer one is taken for rows never written, and said to be. None: the ring may have
    wrapped at any row. Several runs: some steps had no load, and which rows were never written is not known.

    Parameters
    ----------
    is_written : bool array [rows]
        Rows with any load; at least one.
    is_in_order : bool, optional
        What the caller knows; the rows are then taken as they stand, less those without load.

    Examples
    --------
    >>> time_order(np.array([True, False, False, True, True])).rows.tolist()
    [3, 4, 0]
    """
    rows = np.flatnonzero(is_written)
    empty = len(is_written) - len(rows)
    left_out = (f"left out {empty:,} of {len(is_written):,} rows without load",) if empty else ()
    if is_in_order is not None:
        return Order(rows, is_in_order, left_out)
    begins = np.flatnonzero(is_written & ~np.roll(is_written, 1))
    if len(begins) == 0:
        return Order(
            rows,
            False,
            (
                f"all {len(rows):,} rows are in use: a ring that may have wrapped and a recording without bound "
                "(--expert-distribution-recorder-buffer-size -1) look alike, so the order of steps is taken as unknown",
            ),
        )
    if len(begins) > 1:
        return Order(
            rows, False, (*left_out, f"which lie in {len(begins)} places: the order of the other steps is taken as unknown")
        )
    if empty * _SHORT < len(is_written):
        return Order(
            rows, False, (*left_out, "too few to be rows never written rather than idle passes: the order is taken as unknown")
        )
    ordered = np.roll(rows, -int(np.searchsorted(rows, begins[0])))
    turned = (f"took row {begins[0]} of the ring as the first step",) if begins[0] else ()
    assumed = "the order of steps rests on their being rows never written, not idle passes in a ring that wrapped"
    return Order(ordered, True, (*left_out, assumed, *turned))
