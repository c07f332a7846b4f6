"""vllm-ascend's load tensors: tokens by layer, rank and the rank's slots (docs/engines/vllm-ascend.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads import arrays, torch_files
from equipoise.files.loads.folding import active_slots, fold
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import Input


def recognises(given: Input) -> bool:
    """Say whether it is a tensor [stages, layers, ranks, slots]; without stages it looks like any load: name the format."""
    return given.kind == "torch" and torch_files.is_tensor(given.torch_object) and given.torch_object.ndim == 4


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read counts by slot and fold them with the active placement, or a matrix [layers, experts] as it is.

    ``[layers, ranks, slots]`` is one step. With stages each is a step; they stand in a ring, so their order is not known.
    """
    load = _numbers(given)
    if load.ndim == 2:
        return FoundLoad(load, hints.layer_ids)
    if load.ndim not in (3, 4) or 0 in load.shape:
        raise FileError(
            f"{given.name} has shape {list(load.shape)}",
            "vllm-ascend's load is [layers, ranks, slots], with stages before it, or [layers, experts]",
            "save the tensor moe_load",
        )
    *stages, layers, ranks, slots = load.shape
    active = hints.active
    if active is not None and active.num_ranks not in (None, ranks):
        raise FileError(
            f"{given.name} counts {ranks} ranks",
            f"{active.name or 'the active placement'} is for {active.num_ranks}",
            "give the placement that was in use while the load was recorded",
        )
    expert_of_slot, experts = active_slots(hints, layers, ranks * slots, given.name)
    by_slot = load.reshape(math.prod(stages), layers, ranks * slots)
    return FoundLoad(
        fold(by_slot, expert_of_slot, experts, given.name),
        hints.layer_ids or (active.layer_ids if active else ()),
        is_in_order=not stages,
        remarks=("stages stand in a ring: their order may not be that of time",) if stages else (),
    )


def _numbers(given: Input) -> npt.NDArray[Any]:
    if given.kind != "torch":
        found = arrays.read_array(given, _only_array(given) if given.kind == "npz" else None)
    elif torch_files.is_tensor(given.torch_object):
        found = np.array(torch_files.as_numbers(given.torch_object, given.name))
    else:
        found = np.empty(0, object)
    if found.dtype.kind not in "iuf":
        raise FileError(f"{given.name} holds no tensor of numbers", "it must hold one, alone", "save the tensor moe_load")
    return found


def _only_array(given: Input) -> str:
    if len(given.arrays) != 1:
        raise FileError(f"{given.name} holds {len(given.arrays)} arrays", "it must hold one, alone", "save the tensor moe_load")
    return given.arrays[0]
