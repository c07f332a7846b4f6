"""Constraints: what is asked of a placement beside balance."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from equipoise.checks import check_choice, check_integer, check_number
from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Constraints:
    """What is asked of a placement beside balance.

    Parameters
    ----------
    home_share : float, optional
        Least share of each layer's load that is served on the node its group calls home, in [0, 1]; with locality "soft".
    min_replicas : int
        Replicas on ranks of their own that experts have at least, >= 1: with 2 no expert is lost with a single rank. A plan
        keeps this promise or is refused: where ranks that are up are fewer, or slots do not suffice.
    hottest : float
        Part of each layer's experts, those with most load, of which ``min_replicas`` is asked, in [0, 1], rounded up to whole
        experts; 1: all.
    spread : "ranks" or "nodes"
        Whether these replicas must be on nodes of their own as well, as far as there are nodes with ranks that are up.

    Raises
    ------
    ArgumentError
        When a number is out of its range.

    Examples
    --------
    >>> Constraints(home_share=0.9).home_share
    0.9
    >>> Constraints(min_replicas=2, hottest=0.1, spread="nodes").asks_for_replicas
    True
    """

    home_share: float | None = None
    min_replicas: int = 1
    hottest: float = 1.0
    spread: str = "ranks"

    def __post_init__(self) -> None:
        check_integer("min_replicas", self.min_replicas)
        check_choice("spread", self.spread, ("ranks", "nodes"))
        if check_number("hottest", self.hottest, least=0.0) > 1.0:
            raise ArgumentError(
                f"hottest is {self.hottest!r}", "it is a part of the experts, at most 1", "take 1 for all experts"
            )
        share = self.home_share
        if share is None:
            return
        if not isinstance(share, Real) or isinstance(share, bool) or not 0.0 <= share <= 1.0:
            raise ArgumentError(f"home_share is {share!r}", "it must lie in [0, 1]", "take 0.9 to keep nine tenths at home")
        object.__setattr__(self, "home_share", float(share))

    @property
    def asks_for_replicas(self) -> bool:
        """Whether some expert needs more than one replica."""
        return self.min_replicas > 1 and self.hottest > 0.0
