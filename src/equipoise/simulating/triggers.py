"""Whether a new plan is made, and used, when its time has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from equipoise import metrics
from equipoise.checks import suggestion
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats
from equipoise.placement import Placement

Times = Callable[[Placement, Floats], tuple[Floats, Floats]]
"""From a placement and a load [layers, experts] to the largest rank time and the ideal time of each layer."""


def even_times(placement: Placement, load: Floats) -> tuple[Floats, Floats]:
    """Return the times with each expert's tokens split evenly over its replicas."""
    return placement.layer_times(load)


class Trigger(Protocol):
    """Decides on plans by what is known before the next window.

    How tokens are split it must know by itself; those below do, from :func:`judging_by`.
    """

    @property
    def name(self) -> str:
        """Its name, with its setting."""
        ...

    def is_due(self, placement: Placement, last: Floats) -> bool:
        """Tell whether to plan at all, by how the placement in use met the last window [layers, experts]."""
        ...

    def is_worth_it(self, placement: Placement, found: Placement, expected: Floats) -> bool:
        """Tell whether to use the placement found instead of the one in use, by what is expected."""
        ...


@dataclass(frozen=True)
class Always:
    """Use every plan; by name ``always``. What engines do."""

    @property
    def name(self) -> str:
        """Its name."""
        return "always"

    def is_due(self, placement: Placement, last: Floats) -> bool:
        """Return True."""
        return True

    def is_worth_it(self, placement: Placement, found: Placement, expected: Floats) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True)
class Below:
    """Plan only where the placement in use had less balance than this on the last window; by name ``below:0.9``.

    SGLang's utilisation threshold. ``times`` says how tokens are split.
    """

    balancedness: float
    times: Times = field(default=even_times, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name."""
        return f"below:{self.balancedness:g}"

    def is_due(self, placement: Placement, last: Floats) -> bool:
        """Compare the last window's balance with the threshold."""
        return metrics.balancedness(*self.times(placement, last)) < self.balancedness

    def is_worth_it(self, placement: Placement, found: Placement, expected: Floats) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True)
class Gain:
    """Use a plan only where it lowers the slowest ranks' expected time by more than this share; by name ``gain:0.05``.

    vLLM's gate on ROCm uses 0.05. ``times`` says how tokens are split.
    """

    share: float
    times: Times = field(default=even_times, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name."""
        return f"gain:{self.share:g}"

    def is_due(self, placement: Placement, last: Floats) -> bool:
        """Return True: only a plan tells what there is to gain."""
        return True

    def is_worth_it(self, placement: Placement, found: Placement, expected: Floats) -> bool:
        """Compare what both are expected to take, over all layers (and scenarios)."""
        loads = expected if expected.ndim == 3 else expected[np.newaxis]
        now, then = (sum(float(self.times(p, load)[0].sum()) for load in loads) for p in (placement, found))
        return then < (1.0 - self.share) * now


def judging_by(trigger: Trigger, times: Times) -> Trigger:
    """Return a trigger of this module that judges by ``times``; any other as it is."""
    return replace(trigger, times=times) if isinstance(trigger, Below | Gain) else trigger


_TRIGGERS = {"below": Below, "gain": Gain}


def make_trigger(given: str | Trigger) -> Trigger:
    """Return a trigger by name: ``always``, ``below:0.9``, ``gain:0.05``; an object is returned as it is.

    >>> make_trigger("below:0.9")
    Below(balancedness=0.9)
    """
    if not isinstance(given, str):
        if not callable(getattr(given, "is_due", None)):
            raise ArgumentError(
                f"trigger is {given!r}", "it must be a name, or have is_due() and is_worth_it()", "try below:0.9"
            )
        return given
    name, _, text = given.partition(":")
    if given == "always":
        return Always()
    try:
        threshold = float(text)
    except ValueError:
        threshold = np.nan
    if name not in _TRIGGERS or not 0.0 <= threshold <= 1.0:
        names = ("always", *_TRIGGERS)
        near = "" if name in names else suggestion(name, names)
        raise ArgumentError(
            f"trigger is {given!r}",
            "it must be always, below:B or gain:G with a share in [0, 1]",
            near or "try below:0.9",
        )
    return _TRIGGERS[name](threshold)  # type: ignore[return-value]
