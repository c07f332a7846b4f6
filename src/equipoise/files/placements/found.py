"""What reading a placement file gives, whichever program wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FoundPlacement:
    """Slots as a file names them, unchecked: ``expert_of_slot`` int64 [layers, slots], -1 for an empty slot.

    ``layer_ids`` are the file's layer numbers, empty where it has none; ``num_ranks`` and ``num_experts`` are None where the
    file does not say. ``format`` is the name of the format that was recognised, ``name`` the file's own for messages.
    """

    expert_of_slot: npt.NDArray[np.int64]
    layer_ids: tuple[int, ...] = ()
    num_ranks: int | None = None
    num_experts: int | None = None
    format: str = ""
    name: str = ""
