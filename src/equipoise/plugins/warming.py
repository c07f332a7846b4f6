"""Compile what policy calls need when a plug-in loads, once a machine although eight processes load it at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from equipoise.forecasting.naming import make_forecaster
from equipoise.kernels.compiling import is_interpreted
from equipoise.kernels.overlapping import settle_rows
from equipoise.planning.warming import warm_up as warm_up_planning
from equipoise.plugins.deciding import Call, decide
from equipoise.plugins.locking import one_compiles
from equipoise.plugins.settings import Settings


def warm_up(settings: Settings) -> None:
    """Answer toy calls of every kind, so that no call of an engine compiles anything.

    Of several processes one compiles and writes the cache, while the others wait and then load it; where no folder can be
    written, each compiles for itself.

    Raises
    ------
    ArgumentError
        When the forecast set is unknown.
    """
    if settings.forecast is not None:
        make_forecaster(settings.forecast)
    if is_interpreted():
        return
    with one_compiles(cache_folder()):
        warm_up_planning(everything=False, dispatch=settings.dispatch, goes_on=True)
        for call in _toy_calls(settings):
            decide(call, settings)


def cache_folder() -> Path | None:
    """Return the folder to which numba writes kernels; None where it writes none."""
    path = getattr(getattr(settle_rows, "_cache", None), "cache_path", None)
    return None if path is None else Path(path)


def _toy_calls(settings: Settings) -> Iterator[Call]:
    load = np.arange(1, 33, dtype=np.int64).reshape(2, 16)
    windows = None if settings.forecast is None else np.tile(load, (settings.forecast_windows, 1, 1))
    other = np.ascontiguousarray(load[:, ::-1])
    needs_groups = settings.locality in ("soft", "strict")
    for is_hierarchical in (False, True):
        groups = 4 if is_hierarchical or needs_groups else 1
        first = decide(Call(load, 24, 4, 2, groups, is_hierarchical), settings).expert_of_slot
        wider = np.pad(first, ((0, 0), (0, 12)), constant_values=-1)
        crossed = np.tile(np.arange(24, dtype=np.int64) % 16, (2, 1))
        for in_use in (None, first, wider, crossed):
            yield Call(other, 24, 4, 2, groups, is_hierarchical, in_use, windows=windows)
        yield Call(other * 1.0, 20, 4, 2, groups, is_hierarchical, first)
        yield Call(other, 16, 4, 2, groups, is_hierarchical, windows=windows)
    if not needs_groups:
        yield Call(load, 24, 4, 1, 1, False, crossed, (True, True, True, False), windows)
        yield Call(load[:, :7], 8, 4, 1, 1, False, np.tile(np.arange(8) % 7, (2, 1)))
        yield Call(load, 16, 1, 1, 1, False, np.tile(np.arange(16), (2, 1)))
