"""From slots to experts: the load that an engine counted by slot, added up by what each slot held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints
from equipoise.files.placements.found import FoundPlacement

_LARGEST_TOTAL = 2**62


def fold(
    load: npt.NDArray[Any],
    expert_of_slot: npt.NDArray[np.int64],
    num_experts: int | None,
    place: str,
    layer_ids: Sequence[int] = (),
) -> npt.NDArray[Any]:
    """Add up the load of the slots of each expert.

    Parameters
    ----------
    load : array [..., layers, slots] of integers or floats
        Tokens that each slot took.
    expert_of_slot : int64 array [layers, slots]
        What each slot held; -1 for nothing, and then its load must be 0.
    num_experts : int or None
        Experts of each layer, at most as many as slots. None: up to the largest that a slot holds.
    place : str
        File, and place in it, for messages.
    layer_ids : sequence of int
        The model's numbers of the layers, for messages. Default: 0, 1, 2, ...

    Returns
    -------
    array [..., layers, experts]
        int64 for integers, else float64. An expert without a slot has 0. Time and memory grow as the load does.

    Raises
    ------
    FileError
        On a slot with an expert outside, on load of a slot that holds none, and on loads that overflow.

    Examples
    --------
    >>> fold(np.array([[5, 1, 2]]), np.array([[0, 1, 0]]), 2, "here").tolist()
    [[7, 1]]
    """
    experts = _checked_experts(expert_of_slot, num_experts, place, layer_ids)
    _check_empty_slots(load, expert_of_slot, place, layer_ids)
    layers, slots = expert_of_slot.shape
    dtype = np.int64 if load.dtype.kind in "iu" else np.float64
    if dtype == np.int64 and load.size and max(abs(int(load.max())), abs(int(load.min()))) > _LARGEST_TOTAL // slots:
        raise FileError(f"{place} has a load of {int(load.max())}", f"sums must stay below {_LARGEST_TOTAL}", "record again")
    cell = (expert_of_slot + experts * np.arange(layers)[:, np.newaxis]).ravel()
    filled = np.flatnonzero(expert_of_slot >= 0)
    order = filled[np.argsort(cell[filled], kind="stable")]
    cells, starts = np.unique(cell[order], return_index=True)
    folded = np.zeros((*load.shape[:-2], layers, experts), dtype)
    if len(cells):
        for to, by_slot in zip(folded.reshape(-1, layers * experts), load.reshape(-1, layers * slots), strict=True):
            to[cells] = np.add.reduceat(by_slot[order].astype(dtype, copy=False), starts)
    return folded


def active_slots(
    hints: Hints, num_layers: int, num_slots: int, name: str, layer_ids: Sequence[int] = ()
) -> tuple[npt.NDArray[np.int64], int]:
    """Return what each slot held while the load was recorded, [layers, slots], and the number of experts.

    Layers are matched by the model's numbers where both the file (``layer_ids``) and the placement have them, else by position.

    Raises
    ------
    FileError
        When there is no active placement, or it lacks a layer, or has another number of slots.
    """
    active = hints.active
    if hints.num_experts is not None and hints.num_experts > num_slots:
        raise FileError(
            f"{name} counts {num_slots} experts or slots a layer",
            f"the model has {hints.num_experts} experts, and each needs a slot: this is a load of another model",
            "name the model that was recorded",
        )
    if active is None:
        raise FileError(
            f"{name} counts {num_slots} slots a layer, not experts",
            "only the placement in use while it was recorded says which expert each held",
            "give that placement's file as the active one",
        )
    source = active.name or "the active placement"
    if active.expert_of_slot.ndim != 2 or active.expert_of_slot.shape[1] != num_slots:
        raise FileError(
            f"{source} has shape {list(active.expert_of_slot.shape)}",
            f"{name} counts {num_slots} slots a layer, so it must be [layers, {num_slots}]",
            "give the placement that was in use while the load was recorded",
        )
    rows = _rows_of(active, source, num_layers, name, layer_ids)
    experts = active.num_experts or hints.num_experts
    return active.expert_of_slot[rows], experts or int(active.expert_of_slot[rows].max(initial=0)) + 1


def _rows_of(active: FoundPlacement, source: str, num_layers: int, name: str, layer_ids: Sequence[int]) -> list[int]:
    """Return the placement's row of each layer of the load."""
    if not (active.layer_ids and layer_ids):
        if len(active.expert_of_slot) != num_layers:
            raise FileError(
                f"{source} has {len(active.expert_of_slot)} layers",
                f"{name} has {num_layers}, and they are matched by position",
                "give the placement that was in use while the load was recorded",
            )
        return list(range(num_layers))
    row_of_layer = {layer: row for row, layer in enumerate(active.layer_ids)}
    missing = [layer for layer in layer_ids if layer not in row_of_layer]
    if missing:
        raise FileError(
            f"{source} has no layer {missing[0]}",
            f"it must have every layer of {name}",
            "give the placement that was in use while the load was recorded",
        )
    return [row_of_layer[layer] for layer in layer_ids]


def _checked_experts(
    expert_of_slot: npt.NDArray[np.int64], num_experts: int | None, place: str, layer_ids: Sequence[int]
) -> int:
    """Return the number of experts; every expert has a slot, so slots bound it, whatever a damaged file claims."""
    slots = expert_of_slot.shape[1]
    experts = num_experts or max(1, int(expert_of_slot.max(initial=0)) + 1)
    limit = min(experts, slots)
    wrong = (expert_of_slot < -1) | (expert_of_slot >= limit)
    if wrong.any():
        layer, slot = (int(i) for i in np.argwhere(wrong)[0])
        raise FileError(
            f"{place} has expert {expert_of_slot[layer, slot]} in {_slot(layer, slot, layer_ids)}",
            f"it must be one of the {limit} experts, 0 to {limit - 1}, or -1 for none",
            "give the map that was in use while the load was recorded",
        )
    if experts > slots:
        raise FileError(
            f"{place} has {slots} slots for {experts} experts", "each expert needs a slot", "check the number of experts"
        )
    return experts


def _check_empty_slots(
    load: npt.NDArray[Any], expert_of_slot: npt.NDArray[np.int64], place: str, layer_ids: Sequence[int]
) -> None:
    empty = expert_of_slot < 0
    if not empty.any():
        return
    taken = load[..., empty].reshape(-1, int(empty.sum()))
    if taken.any():
        step, index = (int(i) for i in np.argwhere(taken)[0])
        layer, slot = (int(i) for i in np.argwhere(empty)[index])
        raise FileError(
            f"{place} has load {taken[step, index]} in {_slot(layer, slot, layer_ids)}, which holds no expert",
            "a slot without an expert takes no tokens",
            "give the map that was in use while the load was recorded",
        )


def _slot(layer: int, slot: int, layer_ids: Sequence[int]) -> str:
    return f"layer {layer_ids[layer] if layer_ids else layer}, slot {slot}"
