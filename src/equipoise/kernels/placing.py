"""From packed items to slots."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats, Ints


@kernel
def fill_slots(pack: Ints, expert: Ints, num_packs: int) -> Ints:
    """Lay out each row's items pack by pack: the expert of every slot [rows, n], rising within a pack.

    ``pack`` and ``expert`` are [rows, n], n/num_packs items a pack.
    """
    num_rows, n = pack.shape
    size = n // num_packs
    expert_of_slot = np.empty((num_rows, n), np.int64)
    filled = np.empty(num_packs, np.int64)
    for x in range(num_rows):
        filled[:] = 0
        for i in range(n):
            p = pack[x, i]
            slot = p * size + filled[p]
            while slot > p * size and expert_of_slot[x, slot - 1] > expert[x, i]:
                expert_of_slot[x, slot] = expert_of_slot[x, slot - 1]
                slot -= 1
            expert_of_slot[x, slot] = expert[x, i]
            filled[p] += 1
    return expert_of_slot


@kernel
def largest_pack(weight: Floats, pack: Ints, num_packs: int) -> Floats:
    """Return the load of the heaviest pack of each row [rows]; ``weight`` and ``pack`` are [rows, n]."""
    num_rows, n = pack.shape
    largest = np.empty(num_rows, np.float64)
    load = np.empty(num_packs, np.float64)
    for x in range(num_rows):
        load[:] = 0.0
        for i in range(n):
            load[pack[x, i]] += weight[x, i]
        largest[x] = load.max()
    return largest
