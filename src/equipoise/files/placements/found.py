"""What reading a placement file gives, whichever program wrote it, and what writing one takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FoundCluster:
    """The ranks that a file describes, unchecked; named as the parameters of :class:`equipoise.Cluster`."""

    num_ranks: int
    slots_per_rank: int | Sequence[int]
    num_nodes: int = 1
    node_of_rank: Sequence[int] = ()
    rank_speeds: Sequence[float] = ()
    alive: Sequence[bool] = ()


@dataclass(frozen=True)
class FoundPlacement:
    """Slots as a file names them: ``expert_of_slot`` int64 [layers, slots], -1 for an empty slot.

    ``layer_ids`` are the model's numbers of the layers, empty where they are not known; ``num_ranks`` and ``num_experts`` are
    None where the file does not say. ``format`` is the name of the format that was recognised, ``name`` the file's own for
    messages. ``hidden_layers`` counts all layers of the model, dense ones too. ``cluster`` and ``plan`` (what was known of the
    plan) are only in our own files; ``remarks`` are one sentence each on what reading could not know or left out.
    """

    expert_of_slot: npt.NDArray[np.int64]
    layer_ids: tuple[int, ...] = ()
    num_ranks: int | None = None
    num_experts: int | None = None
    format: str = ""
    name: str = ""
    hidden_layers: int | None = None
    cluster: FoundCluster | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Layers that the placement is for."""
        return int(self.expert_of_slot.shape[0])

    @property
    def num_slots(self) -> int:
        """Slots over all ranks."""
        return int(self.expert_of_slot.shape[1])

    @property
    def experts_known(self) -> int:
        """Experts of each layer: as told, or as many as the largest number needs."""
        return self.num_experts if self.num_experts is not None else int(self.expert_of_slot.max(initial=-1)) + 1

    def layer_name(self, layer: int) -> str:
        """Name a layer for messages: its position, and the model's number where that differs."""
        is_same = not self.layer_ids or self.layer_ids[layer] == layer
        return f"layer {layer}" if is_same else f"layer {layer} (the model's {self.layer_ids[layer]})"
