"""Constraints: what is asked of a placement beside balance."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Constraints:
    """What is asked of a placement beside balance.

    Parameters
    ----------
    home_share : float, optional
        Least share of each layer's load that is served on the node its group calls home, in [0, 1]; with locality "soft".

    Raises
    ------
    ArgumentError
        When the share is no number in [0, 1].

    Examples
    --------
    >>> Constraints(home_share=0.9)
    Constraints(home_share=0.9)
    """

    home_share: float | None = None

    def __post_init__(self) -> None:
        share = self.home_share
        if share is None:
            return
        if not isinstance(share, Real) or isinstance(share, bool) or not 0.0 <= share <= 1.0:
            raise ArgumentError(f"home_share is {share!r}", "it must lie in [0, 1]", "take 0.9 to keep nine tenths at home")
        object.__setattr__(self, "home_share", float(share))
