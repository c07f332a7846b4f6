"""The published packings by name, each usable alone: ``ensemble+swap``, ``ensemble+reconstruct``, ``lpt+best_swap``, ...

A name is a constructor, and after a plus sign a refiner. All work row by row and give valid packings only.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_choice, check_integer, check_seed
from equipoise.errors import ArgumentError
from equipoise.kernels.sorting import sort_rows_descending
from equipoise.kernels.types import Ints
from equipoise.planning import packing, refining
from equipoise.planning.composition import Composition
from equipoise.planning.packing import Dealt, Items
from equipoise.planning.refining import Refiner
from equipoise.tensors import as_array, like
from equipoise.trace import LoadTrace

CONSTRUCTORS: dict[str, Callable[[int, float, int], Dealt]] = {
    "lpt": lambda candidates, noise, seed: packing.lpt(),
    "zigzag": lambda candidates, noise, seed: packing.zigzag(),
    "shuffle": lambda candidates, noise, seed: packing.shuffle(seed),
    "noisy_lpt": lambda candidates, noise, seed: packing.noisy_lpt(noise, seed),
    "ensemble": packing.ensemble,
}
NOISY = ("noisy_lpt", "ensemble")
"""The constructors that ``noise`` changes."""

REFINERS: dict[str, tuple[Callable[[int | None], Refiner], int | None]] = {
    "swap": (refining.swap, 5),
    "reconstruct": (refining.reconstruct, 5),
    "best_swap": (refining.best_swap, None),
}
"""Each refiner with the number of rounds it was published with (None: until none helps)."""


def named_composition(
    constructor: str,
    refine: str | None,
    *,
    candidates: int = 128,
    noise: float = 0.1,
    rounds: int | None = None,
    seed: int = 0,
) -> Composition:
    """Return the composition of a constructor and a refiner, each by name; arguments as for :func:`balanced_packing`."""
    check_choice("constructor", constructor, tuple(CONSTRUCTORS))
    if refine is not None:
        check_choice("refine", refine, tuple(REFINERS))
    check_integer("candidates", candidates, 1)
    if not (isinstance(noise, Real) and 0.0 <= noise <= 1.0):
        raise ArgumentError(f"noise is {noise!r}", "it must lie in [0, 1]", "published settings are 0.1 and 0.2")
    if rounds is not None:
        check_integer("rounds", rounds, 0)
    check_seed(seed)
    first = CONSTRUCTORS[constructor](candidates, noise, seed)
    if refine is None:
        return Composition(first)
    make_refiner, published_rounds = REFINERS[refine]
    return Composition(first, make_refiner(published_rounds if rounds is None else rounds))


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``constructor+refiner`` into its two names; without a plus sign there is no refiner."""
    constructor, _, refine = name.partition("+")
    return constructor, refine or None


def balanced_packing(
    weight: Any,
    num_packs: int,
    *,
    constructor: str = "lpt",
    refine: str | None = "best_swap",
    candidates: int = 128,
    noise: float = 0.1,
    rounds: int | None = None,
    seed: int = 0,
    item_ids: npt.ArrayLike | None = None,
) -> tuple[Any, Any]:
    """Pack the n items of each row into packs of exactly n/num_packs items, so that the heaviest pack is light.

    Parameters
    ----------
    weight : array or tensor [rows, n]
        Weights, finite and >= 0.
    num_packs : int
        Divides n.
    constructor : {"lpt", "zigzag", "shuffle", "noisy_lpt", "ensemble"}
        First packing; see :mod:`equipoise.planning.packing`.
    refine : {"best_swap", "swap", "reconstruct"} or None
        Refiner; see :mod:`equipoise.planning.refining`.
    candidates : int
        Packings an ensemble builds a row, >= 1.
    noise : float
        Width of the noise of ``noisy_lpt`` and of the ensemble's noisy candidates, in [0, 1].
    rounds : int, optional
        Exchanges or rebuilds at most, >= 0. Default: as published (5 for swap and reconstruct, best_swap until none helps).
    seed : int
        In [0, 2**63), for the random orders; a row's draws depend on seed and its weights, not on its index.
    item_ids : array_like of int [rows, n] or [n], optional
        Items with the same id in a row go to different packs (replicas of one expert). Default: all differ.

    Returns
    -------
    pack_index, rank_in_pack : int64 [rows, n]
        The pack of each item, and its place within the pack; tensors on the device of ``weight`` for a tensor.

    Raises
    ------
    ArgumentError
        On a wrong shape or value, an unknown name, or an id that occurs more often than there are packs.

    Examples
    --------
    >>> pack_index, _ = balanced_packing(np.array([[9.0, 8.0, 5.0, 4.0, 3.0, 1.0]]), 2)
    >>> pack_index.tolist()
    [[1, 0, 1, 0, 0, 1]]
    """
    composition = named_composition(constructor, refine, candidates=candidates, noise=noise, rounds=rounds, seed=seed)
    values = _checked_weight(as_array("weight", weight))
    check_integer("num_packs", num_packs, 1)
    n = values.shape[1]
    if n % num_packs:
        raise ArgumentError(f"{n} items for {num_packs} packs", "items must be divisible by packs", "change num_packs")
    ids = _checked_ids(item_ids, values.shape, num_packs)
    sorted_weight, order = sort_rows_descending(values)
    sorted_ids = np.take_along_axis(ids, order, axis=1)
    pack = np.empty_like(order)
    items = Items(sorted_weight, sorted_ids, int(ids.max()) + 1, int(num_packs))
    packed = composition.constructor.pack(items)
    if composition.refiner is not None:
        packed = composition.refiner.refine(items, packed)
    np.put_along_axis(pack, order, packed, axis=1)
    give_back = like(weight)
    return give_back(pack), give_back(_rank_in_pack(pack, n // num_packs))


def _checked_weight(weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if weight.ndim != 2:
        raise ArgumentError(
            f"weight has shape {list(weight.shape)}", "it must be [rows, items]", "give each row its own list of weights"
        )
    return np.ascontiguousarray(LoadTrace(weight).load[0], np.float64)


def _checked_ids(given: npt.ArrayLike | None, shape: tuple[int, ...], num_packs: int) -> Ints:
    """Renumber the ids of each row from 0, all at once."""
    if given is None:
        return np.broadcast_to(np.arange(shape[1], dtype=np.int64), shape).copy()
    ids = as_array("item_ids", given)
    if ids.dtype.kind not in "iu" or ids.shape not in (shape, shape[1:]):
        raise ArgumentError(
            f"item_ids has shape {list(ids.shape)} and dtype {ids.dtype}",
            f"it must hold integers, {list(shape)} or {list(shape[1:])}",
            "give one id an item",
        )
    numbered = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int64)
    numbered = np.broadcast_to(numbered, shape).copy()
    for row in numbered:
        most = int(np.bincount(row).argmax())
        times = int((row == most).sum())
        if times > num_packs:
            raise ArgumentError(
                f"one of item_ids occurs {times} times in a row",
                f"it may occur at most once a pack ({num_packs})",
                "use more packs or fewer copies",
            )
    return numbered


def _rank_in_pack(pack: Ints, size: int) -> Ints:
    order = np.argsort(pack, axis=1, kind="stable")
    rank = np.empty_like(pack)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(pack.shape[1]) % size, pack.shape), axis=1)
    return rank
