"""First packings: replicas dealt onto ranks one by one, in an order that gives each its name.

Every constructor deals each item onto the lightest pack that has room and does not hold its id; they differ in the order:
``lpt`` from large to small, ``zigzag`` from both ends in turn, ``shuffle`` at random, ``noisy_lpt`` by weight times noise.
``ensemble`` builds many and keeps, a row, the one whose largest pack is smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.kernels import packing as kernels
from equipoise.kernels.types import Floats, Ints


@dataclass(frozen=True, eq=False)
class Items:
    """Rows of items to be packed, n/num_packs on each pack.

    Parameters
    ----------
    weight : float64 [rows, n]
        Falls along each row.
    item_id : int64 [rows, n]
        In [0, num_ids); items of one id must end on different packs.
    num_ids : int
        Bound of the ids.
    num_packs : int
        Divides n; no id occurs more often.
    """

    weight: Floats
    item_id: Ints
    num_ids: int
    num_packs: int


@dataclass(frozen=True)
class Dealt:
    """Pack in one or several orders of dealing, and keep the best a row."""

    order_kinds: tuple[int, ...]
    noise: float = 0.0
    seed: int = 0

    def pack(self, items: Items) -> Ints:
        """Return the pack of each item, int64 [rows, n]."""
        kinds = np.asarray(self.order_kinds, np.int64)
        return kernels.pack_in_orders(
            items.weight, items.item_id, items.num_ids, items.num_packs, kinds, float(self.noise), self.seed
        )


def lpt() -> Dealt:
    """Largest first."""
    return Dealt((kernels.SORTED,))


def zigzag() -> Dealt:
    """Take the sorted list from both ends in turn: largest, smallest, second largest, ..."""
    return Dealt((kernels.INTERLEAVED,))


def shuffle(seed: int = 0) -> Dealt:
    """Deal in a random order."""
    return Dealt((kernels.SHUFFLED,), seed=seed)


def noisy_lpt(noise: float = 0.1, seed: int = 0) -> Dealt:
    """Largest first by weight times uniform noise in [1 - noise, 1 + noise]; published with 0.1 and 0.2."""
    return Dealt((kernels.NOISY,), noise, seed)


def ensemble(candidates: int = 128, noise: float = 0.1, seed: int = 0) -> Dealt:
    """LPT, zigzag, a quarter of shuffles, the rest noisy LPT: 1, 1, 32 and 94 of the published 128."""
    kinds = [kernels.SORTED, kernels.INTERLEAVED, *[kernels.SHUFFLED] * (candidates // 4)]
    kinds += [kernels.NOISY] * (candidates - len(kinds))
    return Dealt(tuple(kinds[:candidates]), noise, seed)
