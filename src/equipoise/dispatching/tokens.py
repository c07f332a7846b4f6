"""Shares turned into whole tokens: by each source for itself, or for all sources exactly, and into a slot for each token.

A source is a rank whose tokens are routed. ``shares`` [layers, slots] says which share of its expert's tokens each slot gets;
all sources know the same shares, so each can decide for its own tokens and nothing is sent at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_integer
from equipoise.errors import ArgumentError
from equipoise.kernels.apportioning import (
    SlotLists,
    apportion_rows,
    apportion_rows_exactly,
    choose_slots_into,
    make_slot_lists,
    round_rows,
)
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.tensors import as_array, like

_MOST = 2**40
_MOST_OF_AN_EXPERT = 2**31
_SUM_ROUNDING = 1e-6
_TOKEN_ROUNDING = 0.25


def apportion(shares: Any, placement: Placement, counts: Any, source: int) -> Ints:
    """Apportion one source's own tokens over the slots by the shares that all sources know.

    An expert's tokens add up exactly, each slot is less than one token away from count * share, and no slot with share 0 gets
    any. Cumulative sums are rounded from an offset in [0, 1) that depends on source and expert, spread evenly over sources
    (:func:`equipoise.kernels.apportioning.offset_of`), so what sources round up and down nearly cancels.

    Parameters
    ----------
    shares : array_like of float [layers, slots]
        Over an expert's slots they add up to 1, but for 1e-6 (float32), and are scaled to do so; 0 in empty slots.
    placement : Placement
        Which expert each slot holds.
    counts : array_like of int [layers, experts]
        The source's tokens of each expert, at most 2**40.
    source : int
        Its rank.

    Returns
    -------
    int64 [layers, slots]

    Raises
    ------
    ArgumentError
        On bad shares or counts, a rank that does not exist, and an expert that has tokens and no slot.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0, -1]], Cluster(num_ranks=4, slots_per_rank=1), num_experts=2)
    >>> shares = [[0.7, 1.0, 0.3, 0.0]]
    >>> [apportion(shares, placement, [[5, 2]], source).tolist() for source in range(2)]
    [[[3, 2, 2, 0]], [[4, 2, 1, 0]]]
    """
    scaled = checked_shares(shares, placement)
    tokens = checked_counts("counts", counts, ("layers", "experts"), (placement.num_layers, placement.num_experts))
    check_held(placement, tokens)
    _check_below("source", source, placement.cluster.num_ranks, "ranks")
    out = np.empty(scaled.shape, np.int64)
    apportion_rows(placement.expert_of_slot, scaled, tokens, source, _lists(placement), out)
    return out


def apportion_exactly(slot_tokens: Any, placement: Placement, counts: Any) -> Ints:
    """Apportion all sources' tokens so that each source sends all it has and each slot receives exactly its tokens.

    Each entry is the slot's part of the source's tokens, counts * slot_tokens / total, rounded down or up. Parts of tokens go
    first where most are still to come; what that leaves is placed by shortest ways on which other sources make room.

    Parameters
    ----------
    slot_tokens : array_like of int [layers, slots]
        Tokens of all sources that each slot gets; over an expert's slots they add up to its tokens.
    placement : Placement
        Which expert each slot holds.
    counts : array_like of int [sources, layers, experts]
        Each source's tokens, at most 2**31 of an expert in all; as many sources as are given.

    Returns
    -------
    int64 [sources, layers, slots]

    Raises
    ------
    ArgumentError
        On bad counts, slots whose tokens are not those of their expert, and an expert that has tokens and no slot.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0]], Cluster(num_ranks=3, slots_per_rank=1), num_experts=2)
    >>> apportion_exactly([[4, 3, 2]], placement, [[[3, 1]], [[2, 0]], [[1, 2]]]).tolist()
    [[[2, 1, 1]], [[2, 0, 0]], [[0, 2, 1]]]
    """
    whole = checked_counts("slot_tokens", slot_tokens, ("layers", "slots"), placement.expert_of_slot.shape)
    axes, shape = ("sources", "layers", "experts"), (None, placement.num_layers, placement.num_experts)
    of_source = checked_counts("counts", counts, axes, shape)
    _check_in_use("slot_tokens", whole, placement)
    total = of_source.sum(axis=0)
    check_held(placement, total)
    _check_totals("slot_tokens", _sum_by_expert(placement.expert_of_slot, whole, placement.num_experts), total, 0.0)
    if (total > _MOST_OF_AN_EXPERT).any():
        layer, expert = _first(total > _MOST_OF_AN_EXPERT)
        raise ArgumentError(
            f"layer {layer}, expert {expert} has {total[layer, expert]} tokens",
            "an expert has at most 2**31 tokens of all sources",
            "split the batch",
        )
    out = np.zeros((len(of_source), *whole.shape), np.int64)
    apportion_rows_exactly(placement.expert_of_slot, whole, of_source, out)
    return out


def round_tokens(tokens: Any, placement: Placement, load: Any) -> Ints:
    """Round tokens of slots to whole ones that add up to each expert's load.

    All are rounded down; what is missing goes to the largest remainders, on ties to the lower slot.

    Parameters
    ----------
    tokens : array_like of float [layers, slots]
        Over an expert's slots they add up to its load, but for rounding (1e-6 of it, at most a quarter of a token).
    placement : Placement
        Which expert each slot holds.
    load : array_like [layers, experts]
        Tokens of each expert: whole numbers, at most 2**40.

    Returns
    -------
    int64 [layers, slots]

    Raises
    ------
    ArgumentError
        On bad tokens, loads that are not whole, and an expert that has tokens and no slot.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0, 0]], Cluster(num_ranks=4, slots_per_rank=1), num_experts=2)
    >>> round_tokens([[3.4, 2.0, 1.8, 1.8]], placement, [[7, 2]]).tolist()
    [[3, 2, 2, 2]]
    """
    whole = checked_counts("load", load, ("layers", "experts"), (placement.num_layers, placement.num_experts))
    parts = _checked_parts("tokens", tokens, placement)
    check_held(placement, whole)
    allowed = np.minimum(_SUM_ROUNDING * np.maximum(whole, 1), _TOKEN_ROUNDING)
    _check_totals("tokens", _sum_by_expert(placement.expert_of_slot, parts, placement.num_experts), whole, allowed)
    out = np.empty(parts.shape, np.int64)
    round_rows(placement.expert_of_slot, whole.astype(np.float64), parts, out, _lists(placement))
    return out


def choose_slots(topk_ids: Any, shares: Any, placement: Placement, layer: int, source: int) -> Any:
    """Choose the slot that serves each of a source's tokens in one layer.

    The slots of an expert get as many as :func:`apportion` says. Its tokens, in the order of ``topk_ids``, go to its slots in
    rising order: the first ones to the first slot, until that has all of its own.

    Parameters
    ----------
    topk_ids : array_like of int [tokens, k]
        Experts that the router picked; -1 for padding, which stays.
    shares : array_like of float [layers, slots]
        As for :func:`apportion`; only this layer's are looked at.
    placement : Placement
        Which expert each slot holds.
    layer : int
        The placement's layer.
    source : int
        Rank of the tokens.

    Returns
    -------
    int64 [tokens, k]
        A tensor on the device of ``topk_ids`` for a tensor, else an array.

    Raises
    ------
    ArgumentError
        On bad ids or shares, a layer or rank that does not exist, and an expert that has tokens and no slot.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=4, slots_per_rank=1), num_experts=3)
    >>> choose_slots([[0, 1], [2, 0], [0, -1], [1, 0]], [[0.5, 1.0, 0.5, 1.0]], placement, layer=0, source=0).tolist()
    [[0, 1], [3, 0], [2, -1], [1, 2]]
    """
    _check_below("layer", layer, placement.num_layers, "layers")
    _check_below("source", source, placement.cluster.num_ranks, "ranks")
    ids = _checked_ids(topk_ids, placement, layer)
    (scaled,) = checked_shares(shares, placement, layer)
    out = np.empty(ids.shape, np.int64)
    count, left = np.empty(placement.num_experts, np.int64), np.empty(placement.cluster.num_slots, np.int64)
    choose_slots_into(ids, placement.expert_of_slot[layer], scaled, source, _lists(placement), count, left, out)
    return like(topk_ids)(out)


def checked_shares(shares: Any, placement: Placement, layer: int | None = None) -> Floats:
    """Return shares [layers, slots], or one layer's [1, slots], scaled so that each expert's add up to 1.

    Raises
    ------
    ArgumentError
        Where one is negative or not finite, an empty slot or one of a rank that is down has any, or a sum misses 1.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 0]], Cluster(num_ranks=2, slots_per_rank=1), num_experts=1)
    >>> checked_shares([[0.25, 0.75]], placement).tolist()
    [[0.25, 0.75]]
    """
    part = _checked_parts("shares", shares, placement, layer)
    expert = placement.expert_of_slot[_rows(layer)]
    total = _sum_by_expert(expert, part, placement.num_experts)
    missed = (np.abs(total - 1.0) > _SUM_ROUNDING) & (placement.replica_count[_rows(layer)] > 0)
    if missed.any():
        row, e = _first(missed)
        raise ArgumentError(
            f"layer {(layer or 0) + row}, expert {e} has shares that add up to {total[row, e]}",
            "over the slots of an expert shares must add up to 1",
            "divide them by their sum",
        )
    scaled: Floats = part / np.where(expert == ABSENT, 1.0, np.take_along_axis(total, np.maximum(expert, 0), axis=1))
    return scaled


def checked_counts(name: str, given: Any, axes: tuple[str, ...], shape: tuple[int | None, ...]) -> Ints:
    """Return whole numbers of tokens as int64; ``shape`` says how long each of the ``axes`` is, None: any length.

    Raises
    ------
    ArgumentError
        On another shape, and on numbers that are negative, not whole or above 2**40.

    Examples
    --------
    >>> checked_counts("counts", [[3.0, 1.0]], ("layers", "experts"), (1, 2)).tolist()
    [[3, 1]]
    """
    array = _checked_numbers(name, given, axes, shape)
    bad = ~((array >= 0) & (array <= _MOST))
    if array.dtype.kind == "f":
        bad |= np.floor(array) != array
    _refuse(name, array, bad, "it must be a whole number in 0..2**40", "count the tokens of one batch, unscaled")
    return np.require(array, np.int64, ("C", "W"))


def checked_loads(name: str, given: Any, axes: tuple[str, ...], shape: tuple[int | None, ...]) -> Floats:
    """Return tokens, whole or not, as float64; otherwise as :func:`checked_counts`.

    Raises
    ------
    ArgumentError
        On another shape, and on numbers that are negative, not finite or above 2**40.

    Examples
    --------
    >>> checked_loads("source_load", [[[2.5, 1]]], ("ranks", "layers", "experts"), (1, 1, 2)).tolist()
    [[[2.5, 1.0]]]
    """
    array = _checked_numbers(name, given, axes, shape)
    _refuse(name, array, ~((array >= 0) & (array <= _MOST)), "it must lie in 0..2**40", "give tokens, as counted or forecast")
    return np.require(array, np.float64, ("C", "W"))


def check_held(placement: Placement, load: Floats | Ints) -> None:
    """Refuse tokens [layers, experts] of an expert that no slot holds."""
    lost = (load > 0) & (placement.replica_count == 0)
    if lost.any():
        layer, expert = _first(lost)
        raise ArgumentError(
            f"layer {layer}, expert {expert} has {load[layer, expert]} tokens and no slot",
            "every token must be served",
            "plan anew, so that each expert has a slot",
        )


def _checked_numbers(name: str, given: Any, axes: tuple[str, ...], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    array = as_array(name, given)
    if array.dtype.kind not in "iuf":
        raise ArgumentError(f"{name} has dtype {array.dtype}", "it must hold numbers", "convert it")
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        lengths = ", ".join(axis if n is None else f"{axis} ({n})" for axis, n in zip(axes, shape, strict=True))
        raise ArgumentError(
            f"{name} has shape {list(array.shape)}", f"it must be [{lengths}]", "pass what belongs to this placement"
        )
    return array


def _checked_parts(name: str, given: Any, placement: Placement, layer: int | None = None) -> Floats:
    """Return finite numbers >= 0, one a slot [layers, slots], or one layer's [1, slots]; 0 where nothing can be served."""
    array = _checked_numbers(name, given, ("layers", "slots"), placement.expert_of_slot.shape)[_rows(layer)]
    bad = ~((array >= 0) & np.isfinite(array))
    _refuse(name, array, bad, "it must be finite and >= 0", "check how it was made", layer or 0)
    _check_in_use(name, array, placement, layer)
    return np.require(array, np.float64, ("C", "W"))


def _check_in_use(name: str, array: npt.NDArray[Any], placement: Placement, layer: int | None = None) -> None:
    down = ~np.asarray(placement.cluster.alive)[placement.cluster.rank_of_slot]
    bad = (array != 0) & ((placement.expert_of_slot[_rows(layer)] == ABSENT) | down)
    rule = "an empty slot, or one of a rank that is down, serves nothing"
    _refuse(name, array, bad, rule, "make it for this placement", layer or 0)


def _checked_ids(topk_ids: Any, placement: Placement, layer: int) -> Ints:
    ids = as_array("topk_ids", topk_ids)
    if ids.dtype.kind not in "iu" or ids.ndim != 2:
        raise ArgumentError(
            f"topk_ids has dtype {ids.dtype} and shape {list(ids.shape)}",
            "it must hold integers, [tokens, k]",
            "pass the router's choice of logical experts",
        )
    outside = (ids < -1) | (ids >= placement.num_experts)
    next_step = "pass logical experts, and the placement in use"
    _refuse("topk_ids", ids, outside, f"an expert lies in 0..{placement.num_experts - 1}, or is -1 for padding", next_step)
    checked = np.require(ids, np.int64, ("C", "W"))
    lost = (checked >= 0) & (placement.replica_count[layer] == 0)[checked]
    _refuse("topk_ids", ids, lost, f"that expert has no slot in layer {layer}", next_step)
    return checked


def _check_below(name: str, value: object, limit: int, what: str) -> None:
    if check_integer(name, value, 0) >= limit:
        raise ArgumentError(f"{name} is {value}", f"there are {limit} {what}", f"take one of 0..{limit - 1}")


def _check_totals(name: str, found: Floats, wanted: Ints, allowed: float | Floats) -> None:
    missed = np.abs(found - wanted) > allowed
    if missed.any():
        layer, expert = _first(missed)
        raise ArgumentError(
            f"layer {layer}, expert {expert} has {name} that add up to {found[layer, expert]}",
            f"they must add up to its {wanted[layer, expert]} tokens",
            "pass the load that they were made from",
        )


def _refuse(name: str, array: npt.NDArray[Any], bad: Flags, rule: str, next_step: str, first_row: int = 0) -> None:
    """Refuse the first number that is ``bad``, named with its place; rows are counted from ``first_row``."""
    if bad.any():
        at = _first(bad)
        value = array[tuple(at)]
        at[0] += first_row
        raise ArgumentError(f"{name}{at} is {value}", rule, next_step)


def _sum_by_expert(expert: Ints, values: Floats | Ints, num_experts: int) -> Floats:
    """Add up values [layers, slots] over the slots of each expert, in slot order: [layers, experts]."""
    layer, slot = np.nonzero(expert != ABSENT)
    pair = layer * num_experts + expert[layer, slot]
    total = np.bincount(pair, values[layer, slot], minlength=len(expert) * num_experts)
    return np.asarray(total, np.float64).reshape(len(expert), num_experts)


def _lists(placement: Placement) -> SlotLists:
    return make_slot_lists(placement.num_experts, placement.cluster.num_slots)


def _rows(layer: int | None) -> slice:
    return slice(None) if layer is None else slice(layer, layer + 1)


def _first(bad: Flags) -> list[int]:
    return [int(i) for i in np.argwhere(bad)[0]]
