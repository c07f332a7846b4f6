"""RankCost: what a rank's time is made of, where it is more than tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class RankCost:
    """The time of a rank: ``per_rank`` + (``per_token`` * tokens + ``per_active`` * active experts) / its speed.

    In memory-bound decode an expert's weights are read once however few tokens it gets: then active experts count, and
    spreading an expert over ranks makes more of them active. Of one batch's L tokens on c replicas, min(1, L/c) of each
    replica counts as active; a load added up over steps counts as one batch, so plan for the load of one.

    Parameters
    ----------
    per_rank, per_token, per_active : float
        In any one unit of time, finite and >= 0; ``per_token`` and ``per_active`` not both 0. Default: tokens alone.

    Raises
    ------
    ArgumentError
        When a value breaks one of these rules.

    Examples
    --------
    >>> RankCost(per_token=1.0, per_active=20.0).is_tokens_alone
    False
    """

    per_rank: float = 0.0
    per_token: float = 1.0
    per_active: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_rank", "per_token", "per_active"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or isinstance(value, bool) or not 0.0 <= value < np.inf:
                raise ArgumentError(f"{name} is {value!r}", "it must be a finite number >= 0", "give a time, such as 1.0")
            object.__setattr__(self, name, float(value))
        if self.per_token == self.per_active == 0.0:
            raise ArgumentError(
                "per_token and per_active are both 0",
                "one of them must cost something",
                "leave the cost out to plan for tokens",
            )

    @property
    def is_tokens_alone(self) -> bool:
        """Whether a rank's time is its tokens, over its speed."""
        return (self.per_rank, self.per_token, self.per_active) == (0.0, 1.0, 0.0)


TOKENS = RankCost()
"""A rank's time is its tokens."""
