"""Small figures of large things: twins that loop."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from equipoise.reporting.shrinking import MOST_COLUMNS, MOST_ROWS, pick_points, shrink_line, shrink_map


@given(st.integers(1, 300), st.integers(1, 1100), st.integers(0, 5))
def test_maps_keep_the_largest_of_each_block(rows, columns, seed):
    """Every cell is the largest of the block it stands for; blocks tile the map."""
    values = np.random.default_rng(seed).random((rows, columns))
    small, down, across = shrink_map(values)
    assert small.shape == (-(-rows // down), -(-columns // across))
    assert small.shape[0] <= MOST_ROWS
    assert small.shape[1] <= MOST_COLUMNS
    assert (down == 1) == (rows <= MOST_ROWS)
    assert (across == 1) == (columns <= MOST_COLUMNS)
    for row, column in [(0, 0), (small.shape[0] - 1, small.shape[1] - 1), (small.shape[0] // 2, small.shape[1] // 3)]:
        assert small[row, column] == values[row * down : (row + 1) * down, column * across : (column + 1) * across].max()


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=1, max_size=40), st.integers(1, 12))
def test_lines_are_means_of_windows_with_load(values, most):
    """Each point is the mean of its windows that are not nan."""
    found, each = shrink_line(np.array(values), most)
    assert len(found) <= most
    assert len(found) == -(-len(values) // each)
    for point, value in enumerate(found):
        known = [x for x in values[point * each : (point + 1) * each] if not math.isnan(x)]
        assert math.isnan(value) if not known else math.isclose(value, sum(known) / len(known), abs_tol=1e-12)


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_points_keep_ends_and_the_one_that_counts(count, most, data):
    """Rising, without repeats, with the first, the last and the one named."""
    kept = data.draw(st.integers(0, count - 1))
    found = pick_points(count, kept, most).tolist()
    assert found == sorted(set(found))
    assert {0, kept, count - 1} <= set(found) <= set(range(count))
    assert len(found) <= most + 1 or count <= most


def test_maps_leave_out_what_is_not_known():
    """A block's largest cell is that of its known ones; nan where there are none."""
    values = np.full((1, 2 * MOST_COLUMNS), math.nan)
    values[0, 1] = 3.0
    small, _, across = shrink_map(values)
    assert across == 2
    assert small[0, 0] == 3.0
    assert np.isnan(small[0, 1:]).all()
