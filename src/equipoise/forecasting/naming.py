"""Forecasters by name: ``last``, ``mean:8``, ``exponential:0.5``, ``quantile:8,0.75``, ``auto``, ``robust:8`` and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from equipoise.checks import refuse_name
from equipoise.errors import ArgumentError
from equipoise.forecasting.auto import Auto
from equipoise.forecasting.forecasters import Exponential, Last, Mean, Quantile, Scenarios, Steps
from equipoise.forecasting.protocol import Forecaster
from equipoise.forecasting.robust import Robust

FORECASTERS: dict[str, tuple[Callable[..., Any], tuple[type, ...]]] = {
    "last": (Last, ()),
    "mean": (Mean, (int, float)),
    "exponential": (Exponential, (float, float)),
    "quantile": (Quantile, (int, float)),
    "scenarios": (Scenarios, (int,)),
    "steps": (Steps, ()),
    "auto": (Auto, ()),
    "robust": (Robust, (int,)),
}
"""Name -> what makes it, and the kinds of its settings."""


def make_forecaster(given: str | Forecaster) -> Forecaster:
    """Return a forecaster by name, with settings after a colon: ``exponential:0.3``; an object is returned as it is.

    Raises
    ------
    ArgumentError
        When the name is unknown, or a setting does not fit.

    Examples
    --------
    >>> make_forecaster("mean:4,0.5")
    Mean(windows=4, deviations=0.5)
    """
    if not isinstance(given, str):
        if not callable(getattr(given, "begin", None)):
            raise ArgumentError(
                f"forecast is a {type(given).__name__}", "it must be a name or a forecaster with begin()", "try 'auto'"
            )
        return given
    name, _, text = given.strip().partition(":")
    if name not in FORECASTERS:
        refuse_name("forecast", given, FORECASTERS, "try 'auto'")
    make, kinds = FORECASTERS[name]
    settings = [part.strip() for part in text.split(",")] if text else []
    if len(settings) > len(kinds):
        raise ArgumentError(f"forecast is {given!r}", f"{name} takes at most {len(kinds)} settings", "leave out the others")
    try:
        values = [kind(part) for kind, part in zip(kinds, settings, strict=False)]
    except ValueError as error:
        kind_names = ", ".join("a whole number" if kind is int else "a number" for kind in kinds)
        raise ArgumentError(f"forecast is {given!r}", f"{name} takes {kind_names}", f"try {make().name}") from error
    return cast(Forecaster, make(*values))
