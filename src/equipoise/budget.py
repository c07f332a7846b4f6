"""MoveBudget: how many replicas a new placement may move, and what a move must save."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from equipoise.checks import check_integer, check_number
from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class MoveBudget:
    """How far a plan may go from the placement before (docs/semantics.md, 9); what is not given does not bind.

    Parameters
    ----------
    per_layer : int, optional
        Moves in each layer, >= 0.
    total : int, optional
        Moves over all layers, >= 0: they go to the layers that gain most.
    bytes : float, optional
        Bytes received over all ranks and layers, >= 0; with ``expert_bytes``.
    expert_bytes : float, optional
        Weights of one expert of one layer with its scales, > 0.
    gain_per_move : float
        Part of a layer's ideal time, without what ranks cost anyway, that a move must save at least, >= 0.

    Raises
    ------
    ArgumentError
        When a number is out of range, or bytes are given without the size of an expert.

    Examples
    --------
    >>> MoveBudget(bytes=1e9, expert_bytes=44e6).most_moves
    22
    """

    per_layer: int | None = None
    total: int | None = None
    bytes: float | None = None
    expert_bytes: float | None = None
    gain_per_move: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_layer", "total"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0)
        if self.bytes is not None:
            check_number("bytes", self.bytes, least=0.0)
        if self.expert_bytes is not None:
            check_number("expert_bytes", self.expert_bytes, above=0.0)
        check_number("gain_per_move", self.gain_per_move, least=0.0)
        if self.bytes is not None and self.expert_bytes is None:
            raise ArgumentError(
                f"bytes is {self.bytes:g} without expert_bytes", "moves are counted in experts", "give the size of one expert"
            )

    @property
    def most_moves(self) -> int | None:
        """Moves over all layers that ``total`` and ``bytes`` allow; None where neither is given."""
        limits = [] if self.total is None else [self.total]
        if self.bytes is not None and self.expert_bytes is not None:
            limits.append(Fraction(self.bytes) // Fraction(self.expert_bytes))
        return min(limits, default=None)
