"""Refiners: exchanges between packs that lower the largest one. None makes a row worse or puts equal ids together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from equipoise.kernels import refining as kernels
from equipoise.kernels.types import Ints
from equipoise.planning.packing import Items


@dataclass(frozen=True)
class Refiner:
    """One rule of exchange, applied for a number of rounds (None: until none helps)."""

    improve: Callable[..., None]
    rounds: int | None

    def refine(self, items: Items, pack: Ints) -> Ints:
        """Return a packing no worse on any row; ``pack`` [rows, n] is not changed."""
        refined = pack.copy()
        rounds = kernels.UNTIL_NONE_HELPS if self.rounds is None else self.rounds
        self.improve(items.weight, items.item_id, items.num_ids, refined, items.num_packs, rounds)
        return refined


def best_swap(rounds: int | None = None) -> Refiner:
    """Heaviest pack with any other, the exchange that lowers the larger of the two most; until none helps."""
    return Refiner(kernels.best_swap, rounds)


def swap(rounds: int | None = 5) -> Refiner:
    """Heaviest with lightest pack, the exchange that best closes their difference; published with 5 rounds."""
    return Refiner(kernels.swap, rounds)


def reconstruct(rounds: int | None = 5) -> Refiner:
    """Heaviest and lightest pack emptied and dealt anew; published with 5 rounds, mended as docs/decisions.md says."""
    return Refiner(kernels.reconstruct, rounds)
