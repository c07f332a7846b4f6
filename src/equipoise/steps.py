"""What steps of load must be, given whole or a few at a time: checks, names, sums in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.arrays import frozen
from equipoise.errors import ArgumentError
from equipoise.tensors import as_array

MIXED = "mixed"
"""The phase of a window, or of a mix, whose steps are of several phases."""

LARGEST_WHOLE = 2.0**62
LARGEST = 1e300
"""What all loads add up to at most, whole numbers and others."""

_NAMED = 3


def out_of_order(what: str) -> ArgumentError:
    """Return what to raise for a use that needs steps in order of time."""
    return ArgumentError(
        f"{what} of a trace whose steps may be out of order",
        "steps must follow one another in time",
        "record again without a bound (SGLang: --expert-distribution-recorder-buffer-size -1) and read it with "
        "is_in_order=True (--in-order), or plan on all steps added up",
    )


def as_steps(given: object) -> npt.NDArray[Any]:
    """Return loads as a read-only array [steps, layers, experts] of integers or float64; copied if it can be written."""
    array = _as_numbers(given)
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or 0 in array.shape:
        raise ArgumentError(
            f"load has shape {list(np.shape(array))}",
            "it must be [steps, layers, experts] or [layers, experts], none of them 0",
            "reshape it, or pick the array that holds the counts",
        )
    return array if not array.flags.writeable else frozen(array.copy())


def _as_numbers(given: object) -> npt.NDArray[Any]:
    if isinstance(given, np.ma.MaskedArray):
        raise ArgumentError("load is a masked array", "a mask has no meaning here", "fill it, or drop the masked layers")
    array = as_array("load", given)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):  # wider floats may not fit; what is infinite then is refused
            return array.astype(np.float64, copy=False)
    if array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint64 and (array.size == 0 or array.max() <= np.iinfo(np.int64).max):
        return array.astype(np.int64)
    raise ArgumentError(
        f"load has dtype {array.dtype}", "it must be integers or floats", "convert it with load.astype('int64') or 'float64'"
    )


def check_tokens(load: npt.NDArray[Any], first_step: int = 0) -> None:
    """Refuse negative and infinite loads and nan, naming step (counted from ``first_step``), layer and expert."""
    if load.min() >= 0 and np.isfinite(load.max()):
        return
    for step, layers in enumerate(load, first_step):
        wrong = ~(np.isfinite(layers) & (layers >= 0))
        if wrong.any():
            layer, expert = (int(i) for i in np.argwhere(wrong)[0])
            raise ArgumentError(
                f"load is {layers[layer, expert]} at step {step}, layer {layer}, expert {expert}",
                "a load must be finite and >= 0",
                "drop or mend that step",
            )


def check_total(load: npt.NDArray[Any], high: float, before: float = 0.0) -> float:
    """Refuse loads, ``high`` the largest, that would overflow beside those ``before``; returns a bound on the sum so far."""
    limit = LARGEST_WHOLE if load.dtype.kind in "iu" else LARGEST
    if high <= (limit - before) / load.size / 2:
        return before + high * load.size
    with np.errstate(over="ignore"):
        total = before + float(load.sum(dtype=np.float64))
    if total > limit:
        raise ArgumentError(
            f"loads as large as {high:g}", f"all loads must add up to at most {limit:g}", "give loads in tokens, or scale them"
        )
    return total


def as_layer_ids(given: Iterable[int], num_layers: int) -> tuple[int, ...]:
    """Return one distinct number a layer; 0, 1, 2, ... where none are given."""
    layer_ids = tuple(int(i) for i in given) or tuple(range(num_layers))
    if len(layer_ids) != num_layers or len(set(layer_ids)) != len(layer_ids):
        raise ArgumentError(
            f"layer_ids has {len(layer_ids)} entries, {len(set(layer_ids))} of them distinct",
            f"it must name each of the {num_layers} layers once",
            "give one number a layer",
        )
    return layer_ids


def as_labels(given: Iterable[object] | None, num_steps: int, what: str = "labels") -> tuple[str, ...] | None:
    """Return one name a step, or None where none are given."""
    if given is None:
        return None
    names = tuple(str(name) for name in given)
    if len(names) != num_steps:
        raise ArgumentError(f"{what} has {len(names)} entries", f"it needs one a step ({num_steps})", "give one name a step")
    return names


def as_phases(given: Iterable[object] | None, num_steps: int) -> tuple[str, ...] | None:
    """Return one name a step, none of them empty, or None where none are given."""
    if isinstance(given, str):
        raise ArgumentError(f"phases is {given!r}", "it must hold one name a step", f"give [{given!r}] * {num_steps}")
    phases = as_labels(given, num_steps, "phases")
    if phases is not None and "" in phases:
        raise ArgumentError(f"phases[{phases.index('')}] is empty", "every step needs a phase's name", "name it")
    return phases


def as_source_load(given: object, load: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return loads by source rank, [steps, source ranks, layers, experts], read-only; over the sources they must be ``load``.

    Exactly where all are whole, else to a relative 1e-9. Step by step: beside the result only a step of temporary memory.
    """
    array = _as_numbers(given)
    if array.ndim != 4 or 0 in array.shape or (array.shape[0], *array.shape[2:]) != load.shape:
        raise ArgumentError(
            f"source_load has shape {list(array.shape)}",
            f"it must be [steps, source ranks, layers, experts] beside a load of {list(load.shape)}",
            "add a dimension for the source ranks",
        )
    is_whole = array.dtype.kind in "iu" and load.dtype.kind in "iu"
    for step, (sources, total) in enumerate(zip(array, load, strict=True)):
        _check_sources(sources, step)
        added = add_up(sources)
        if not (np.array_equal(added, total) if is_whole else np.allclose(added, total, rtol=1e-9, atol=0.0)):
            layer, expert = (int(i) for i in np.argwhere(~np.isclose(added, total, rtol=1e-9, atol=0.0))[0])
            raise ArgumentError(
                f"source_load adds up to {added[layer, expert]} at step {step}, layer {layer}, expert {expert}",
                f"over the source ranks it must be the load, {total[layer, expert]}",
                "count the same tokens in both",
            )
    return array if not array.flags.writeable else frozen(array.copy())


def _check_sources(sources: npt.NDArray[Any], step: int) -> None:
    if sources.min() >= 0 and np.isfinite(sources.max()):
        return
    rank, layer, expert = (int(i) for i in np.argwhere(~(np.isfinite(sources) & (sources >= 0)))[0])
    raise ArgumentError(
        f"source_load is {sources[rank, layer, expert]} at step {step}, source rank {rank}, layer {layer}, expert {expert}",
        "a load must be finite and >= 0",
        "drop or mend that step",
    )


def join_labels(names: Iterable[str]) -> str:
    """Return the one label, or the different ones joined with ``+``: three of them, the others counted.

    >>> join_labels(["code", "code"]), join_labels("abcade")
    ('code', 'a+b+c+2 more')
    """
    different = list(dict.fromkeys(names))
    more = [f"{len(different) - _NAMED} more"] if len(different) > _NAMED else []
    return "+".join(different[:_NAMED] + more)


def join_phases(names: Iterable[str]) -> str:
    """Return the one phase, or ``mixed``.

    >>> join_phases(["decode", "decode"]), join_phases(["prefill", "decode"])
    ('decode', 'mixed')
    """
    first, *others = dict.fromkeys(names)
    return MIXED if others else first


def add_up(load: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Add up what stands along the first axis, one by one: int64 for integers, else float64."""
    total = np.zeros(load.shape[1:], np.int64 if load.dtype.kind in "iu" else np.float64)
    for step in load:
        total += step
    return total
