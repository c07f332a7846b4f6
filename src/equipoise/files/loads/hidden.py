"""Which rows of a load are of MoE layers, where a file has a row for every hidden layer, dense ones too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads.found import Hints

_NAMED = 8


class Rows(NamedTuple):
    """Rows of MoE layers, which are the model's numbers of them too, and what is to be said of the others."""

    layers: list[int]
    remarks: tuple[str, ...]


def named_rows(count: int, layer_ids: Sequence[int], name: str) -> Rows:
    """Return the rows of the layers that the caller named, of ``count`` hidden layers.

    Raises
    ------
    FileError
        When there is no row for one of them.
    """
    if max(layer_ids) >= count:
        raise FileError(f"{name} has {count} hidden layers", f"it must have layer {max(layer_ids)}", "name the model that ran")
    return Rows(list(layer_ids), ())


def busy_rows(is_busy: npt.NDArray[np.bool_]) -> Rows:
    """Return the rows with load, [hidden layers]; the others are dense layers, most likely."""
    missing = [str(layer) for layer in np.flatnonzero(~is_busy)]
    shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    remarks = (f"left out layer{'s' * (len(missing) > 1)} {shown} without load, dense ones most likely",) if missing else ()
    return Rows([int(layer) for layer in np.flatnonzero(is_busy)], remarks)


def moe_rows(is_busy: npt.NDArray[np.bool_], layer_ids: Sequence[int], name: str) -> Rows:
    """Return the rows of MoE layers: those named, all where as many are named, and those with load where none are."""
    if layer_ids and len(layer_ids) != len(is_busy):
        return named_rows(len(is_busy), layer_ids, name)
    if layer_ids or not is_busy.any():
        return Rows(list(range(len(is_busy))), ())
    return busy_rows(is_busy)


def without_dense(load: npt.NDArray[Any], hints: Hints) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return a load [..., layers, experts] with the rows of the layers named, where it has empty rows beside, and a remark.

    Any other load is returned as it is: with load in other rows too it is of another model.

    >>> load, remarks = without_dense(np.array([[0, 0], [1, 2], [3, 4]]), Hints(layer_ids=(1, 2)))
    >>> load.tolist(), remarks
    ([[1, 2], [3, 4]], ('took the rows of the 2 layers named; the other 1 of 3 has no load',))
    """
    layers = hints.layer_ids
    count = load.shape[-2] if load.ndim >= 2 and load.dtype.kind in "iuf" else 0
    others = sorted(set(range(count)) - set(layers))
    if not layers or count <= max(layers) or not others:
        return load, ()
    with np.errstate(all="ignore"):  # what is no number of tokens is refused later, by its place
        if any(load[..., row, :].any() for row in others):
            return load, ()
    have = "has" if len(others) == 1 else "have"
    remark = f"took the rows of the {len(layers)} layers named; the other {len(others)} of {count} {have} no load"
    return np.take(load, layers, axis=-2), (remark,)


def busy_layers(load: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say of each step and layer whether it has load: [steps, layers]; a step at a time, without a copy of the load."""
    return np.stack([step.any(axis=1) for step in load])
