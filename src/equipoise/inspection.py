"""What a load looks like: its skew, its hottest experts, and what seems wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.files.loads import could_be_picks
from equipoise.models import MODELS, Model
from equipoise.trace import LoadTrace

TOP = 8
"""How many experts count as the top ones: what most large models pick for a token."""

_NAMED = 5


@dataclass(frozen=True, eq=False)
class Inspection:
    """A trace added up over its steps, layer by layer.

    ``tokens`` [layers]; ``max_over_mean`` [layers], hottest expert over mean expert (nan without load); ``top_share``
    [layers], share of the load on the TOP hottest; ``hottest`` [layers, up to TOP], expert ids, hottest first;
    ``layers_without_load``, positions; ``findings``, one sentence each, empty when nothing looks wrong.
    """

    tokens: npt.NDArray[Any]
    max_over_mean: npt.NDArray[np.float64]
    top_share: npt.NDArray[np.float64]
    hottest: npt.NDArray[np.int64]
    layers_without_load: tuple[int, ...]
    findings: tuple[str, ...]


def inspect_trace(trace: LoadTrace, model: Model | None = None) -> Inspection:
    """Describe a trace; with the model that was recorded, hold it against that too.

    >>> inspect_trace(LoadTrace([[[30, 10], [20, 20]]])).max_over_mean.tolist()
    [1.5, 1.0]
    """
    load = trace.sum()
    tokens = load.sum(axis=1)
    order = np.argsort(-load.astype(np.float64), axis=1, kind="stable")[:, :TOP]
    top = np.take_along_axis(load, order, axis=1)
    with np.errstate(invalid="ignore"):
        max_over_mean = load.max(axis=1) / (tokens / trace.num_experts)
        top_share = top.sum(axis=1) / tokens
    return Inspection(
        tokens=tokens,
        max_over_mean=max_over_mean,
        top_share=top_share,
        hottest=order,
        layers_without_load=tuple(int(layer) for layer in np.flatnonzero(tokens == 0)),
        findings=tuple(_findings(trace, load, model)),
    )


def _findings(trace: LoadTrace, load: npt.NDArray[Any], model: Model | None) -> Iterator[str]:
    yield from _about_layers(load.sum(axis=1), np.array(trace.layer_ids))
    if trace.load.dtype.kind == "f" and (trace.load != np.floor(trace.load)).any():
        yield "values are not whole numbers: these are no token counts but a forecast, a mean or a share"
    yield from _about_steps(trace)
    yield from _about_experts(load, model)
    if (slots := slots_taken_for_experts(trace)) is not None:
        yield slots
    if model is not None:
        yield from _about_picks(trace, model)
    if (trace.origin is None or trace.origin.format in _PLAIN) and could_be_picks(trace.load):
        yield (
            "all values of each row are distinct and small: this may be a trace of the experts that tokens picked, "
            "[tokens, layers, picks]; if so, read it with --format routed-experts"
        )
    if not trace.is_in_order:
        yield "steps may not follow one another in time: forecasts and simulations need --in-order, if you know that they do"


def slots_taken_for_experts(trace: LoadTrace) -> str | None:
    """Say so where the file's format counts slots and no model known has as many experts; else None."""
    is_known = trace.num_experts in {model.num_experts for model in MODELS.values()}
    if trace.origin is None or not trace.origin.may_be_slots or is_known:
        return None
    return (
        f"{trace.num_experts} columns, as many experts as no known model has, and {trace.origin.format} counts slots: "
        "slots may be taken for experts; give --model, and the placement in use as --active"
    )


_PLAIN = ("npz", "npy", "pt", "json")


def _about_layers(tokens: npt.NDArray[Any], layer_ids: npt.NDArray[Any]) -> Iterator[str]:
    busy = np.flatnonzero(tokens > 0)
    if busy.size < tokens.size:
        yield f"no load at all in {_listed('layer', layer_ids[tokens == 0])}"
    if busy.size and not np.allclose(tokens[busy], tokens[busy][0], rtol=1e-9):
        usual = np.median(tokens[busy])
        odd = busy[~np.isclose(tokens[busy], usual, rtol=1e-9)]
        yield (
            f"layers have unequal totals: {_listed('layer', layer_ids[odd])} not {usual:,.10g} tokens, the median; "
            "every token passes every MoE layer, so counts may be missing, sampled or padded"
        )


def _about_steps(trace: LoadTrace) -> Iterator[str]:
    """Name steps that no traffic makes: empty, all tokens alike, all layers alike, or the same as one before."""
    kinds = np.array([_kind_of_step(step) for step in trace.load])
    for kind, what in _STEPS.items():
        steps = np.flatnonzero(kinds == kind)
        if steps.size:
            yield f"{what[0]} in {_listed('step', steps)}: {what[1]}"
    digests = [blake2b(step.tobytes(), digest_size=16).digest() for step in trace.load]
    first = {digest: step for step, digest in reversed(list(enumerate(digests)))}
    again = [step for step, digest in enumerate(digests) if kinds[step] == _USUAL and first[digest] < step]
    if again and float(trace.load[again[0]].sum()) >= _FEW * trace.num_layers:
        yield (
            f"{_listed('step', np.array(again))} the same as an earlier one, step {first[digests[again[0]]]} the first: "
            "rows of a ring buffer that were not overwritten, or a file joined to itself"
        )


_FEW = 64
"""Tokens of a layer below which chance may repeat a step, or send all of them to a few experts."""

_USUAL, _EMPTY, _ALIKE, _SAME_LAYERS = range(4)
_STEPS = {
    _EMPTY: ("only zeros", "dummy batches, or rows of a ring buffer never written"),
    _ALIKE: ("all tokens on the same few experts, each as many", "padding or dummy batches, whose tokens are all alike"),
    _SAME_LAYERS: ("the same load in every layer", "padding, a forced balance, or one layer copied"),
}


def _kind_of_step(step: npt.NDArray[Any]) -> int:
    """Say what is odd about a step [layers, experts]."""
    busy = step[step.any(axis=1)]
    if not len(busy):
        return _EMPTY
    largest = busy.max(axis=1, keepdims=True)
    used = np.count_nonzero(busy, axis=1)
    is_alike = ((busy == 0) | (busy == largest)).all() and (used == used[0]).all() and used[0] < step.shape[1] / 2
    if is_alike and (largest * used[0] >= _FEW).all():
        return _ALIKE
    if len(busy) > 1 and busy.sum() >= _FEW * len(busy) and (busy == busy[0]).all() and (busy[0] != busy[0, 0]).any():
        return _SAME_LAYERS
    return _USUAL


def _about_experts(load: npt.NDArray[Any], model: Model | None) -> Iterator[str]:
    """Say where columns may be slots: the model has fewer experts, or the last columns repeat the first."""
    columns = load.shape[1]
    if model is not None:
        if columns > model.num_experts:
            yield (
                f"{columns} columns, but {model.name} has {model.num_experts} experts: these may be slots, "
                f"{columns - model.num_experts} of them redundant; give the placement in use as --active"
            )
        elif columns < model.num_experts:
            yield f"{columns} columns, but {model.name} has {model.num_experts} experts: another model, or a part of its load"
        return
    known = [known.num_experts for known in MODELS.values()]
    experts = max((count for count in known if count < columns), default=0)
    spare = columns - experts
    if columns in known or not _FEWEST_SPARE <= spare <= experts:
        return
    if _are_near(load[:, :spare], load[:, experts:]) and not _are_near(load[:, 1 : spare + 1], load[:, experts:]):
        yield (
            f"columns {experts} to {columns - 1} hold nearly the load of columns 0 to {spare - 1}: these may be slots "
            f"({experts} experts and {spare} redundant), not experts; give --model, and the placement in use as --active"
        )


_FEWEST_SPARE = 4


def _are_near(load: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Say whether nine in ten columns with load differ by a tenth at most."""
    busy = np.maximum(load, other) > 0
    near = np.abs(load - other) <= 0.1 * np.maximum(load, other)
    return bool(busy.any()) and bool(near[busy].mean() >= 0.9)


def _about_picks(trace: LoadTrace, model: Model) -> Iterator[str]:
    """Say which layers count tokens that did not pick as many experts as the model's do."""
    if trace.load.dtype.kind == "f":
        return
    uneven = np.zeros(trace.num_layers, bool)
    for step in trace.load:
        uneven |= step.sum(axis=1, dtype=np.int64) % model.top_k != 0
    if uneven.any():
        layers = _listed("layer", np.array(trace.layer_ids)[uneven])
        yield (
            f"tokens of {layers} are no multiple of {model.top_k} in each step, the experts "
            f"that a token of {model.name} picks: another model, or counts that are sampled, or lack or add an expert"
        )


def _listed(what: str, numbers: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(int(n)) for n in numbers[:_NAMED])
    more = f" and {numbers.size - _NAMED} more" if numbers.size > _NAMED else ""
    return f"{what}{'s' if numbers.size > 1 else ''} {shown}{more}"
