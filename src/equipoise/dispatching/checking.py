"""Checks that the second objective and the routes share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats, Ints

AGREE = 1e-9
"""Sums that should be the same may differ by this part."""


def checked_slots(expert_of_slot: npt.ArrayLike, cluster: Cluster) -> Ints:
    """Return int64 [layers, slots], as many slots as the cluster has."""
    slots = np.asarray(expert_of_slot, np.int64)
    if slots.ndim != 2 or slots.shape[1] != cluster.num_slots:
        raise ArgumentError(
            f"expert_of_slot has shape {list(slots.shape)}",
            f"it must be [layers, slots] with the cluster's {cluster.num_slots} slots",
            "pass the cluster it was made for",
        )
    return slots


def checked(name: str, given: npt.ArrayLike, shape: tuple[int | None, ...]) -> Floats:
    """Return float64 of a shape, None for any length, of which nothing is negative or not finite."""
    array = np.asarray(given, np.float64)
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ArgumentError(f"{name} has shape {list(array.shape)}", f"it must be [{wanted}]", "check its axes")
    wrong = ~np.isfinite(array) | (array < 0.0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ArgumentError(f"{name}{list(at)} is {array[at]}", "it must be finite and >= 0", "check where it comes from")
    return array


def check_sums(name: str, found: Floats, wanted: Floats) -> None:
    """Refuse sums [layers, experts] that differ by more than rounding."""
    wrong = np.abs(found - wanted) > AGREE * np.maximum(found, wanted)
    if wrong.any():
        x, e = (int(i) for i in np.argwhere(wrong)[0])
        raise ArgumentError(
            f"layer {x}, expert {e}: {name} adds up to {found[x, e]}",
            f"it must add up to the expert's load of {wanted[x, e]}",
            "count both over the same tokens",
        )
