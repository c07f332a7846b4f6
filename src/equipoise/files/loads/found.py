"""What reading a load file gives, and what a reader may be told beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from equipoise.files.placements.found import FoundPlacement


@dataclass(frozen=True)
class FoundLoad:
    """What a file held: the load, 2-D or 3-D and unchecked, the names that came with it, and the file's own for messages.

    ``source_load`` is [steps, source ranks, layers, experts] where the file tells which rank the tokens came from; over the
    sources it adds up to ``load``. ``is_in_order`` is False where steps may not follow one another in time. ``format`` is the
    name of the format that was recognised; ``remarks`` are one sentence each on what reading left out or could not know.
    ``may_be_slots`` where the format counts slots and nobody said which expert each held, so each was taken for an expert.
    """

    load: npt.NDArray[Any]
    layer_ids: tuple[int, ...] = ()
    labels: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None
    name: str = ""
    format: str = ""
    source_load: npt.NDArray[Any] | None = None
    is_in_order: bool = True
    remarks: tuple[str, ...] = ()
    may_be_slots: bool = False


@dataclass(frozen=True)
class Hints:
    """What the caller knows of the model and the engine that recorded a load; what a file says itself goes first.

    Parameters
    ----------
    num_experts : int, optional
        Experts of each layer, for formats that only name the experts picked.
    layer_ids : tuple of int
        The model's numbers of its MoE layers, for formats that hold rows for dense layers too.
    active : FoundPlacement, optional
        The placement in use while the load was recorded, for formats that count slots.
    is_in_order : bool, optional
        Whether steps follow one another in time, for formats that cannot tell; None where it is not known.
    """

    num_experts: int | None = None
    layer_ids: tuple[int, ...] = ()
    active: FoundPlacement | None = None
    is_in_order: bool | None = None
