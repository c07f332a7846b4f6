"""A program's answer to one window, and every rule that it must keep: stricter than any public evaluator's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.scoring.verdicts import Verdict

Array = npt.NDArray[Any]

PADDING = -1


@dataclass(frozen=True, eq=False)
class Answer:
    """What ``rebalance_experts`` returned: three arrays of whatever type and shape, under the outside's names."""

    phy2log: Array
    log2phy: Array
    logcnt: Array


def check_answer(answer: Answer, window: int, num_layers: int, num_experts: int, num_slots: int) -> Verdict | None:
    """Return what is wrong with an answer, None if nothing is. Time and memory grow as the arrays.

    The rules, in order: integers; shapes [layers, slots], [layers, experts, any], [layers, experts]; every slot holds an
    expert; counts are those of phy2log, none 0; log2phy lists each expert's slots first, each once, -1 after them.

    Examples
    --------
    >>> right = Answer(np.array([[0, 1, 0]]), np.array([[[0, 2], [1, -1]]]), np.array([[2, 1]]))
    >>> check_answer(right, 0, 1, 2, 3) is None
    True
    >>> lost = Answer(np.array([[0, 0, 0]]), np.array([[[0, 1, 2], [-1, -1, -1]]]), np.array([[3, 0]]))
    >>> check_answer(lost, 0, 1, 2, 3).kind
    'expert missing'
    """
    wrong = _wrong_types(answer) or _wrong_shapes(answer, num_layers, num_experts, num_slots)
    wrong = wrong or _wrong_slots(answer, num_experts) or _wrong_counts(answer, num_experts) or _wrong_lists(answer, num_slots)
    return None if wrong is None else Verdict(wrong.kind, f"window {window}: {wrong.found}", wrong.rule, wrong.next_step)


def _wrong_types(answer: Answer) -> Verdict | None:
    for name, array in vars(answer).items():
        if array.dtype.kind not in "iu":
            return Verdict("wrong type", f"{name} holds {array.dtype}", "all three hold integers", "return int64")
    return None


def _wrong_shapes(answer: Answer, num_layers: int, num_experts: int, num_slots: int) -> Verdict | None:
    wanted = {
        "phy2log": [num_layers, num_slots],
        "log2phy": [num_layers, num_experts, -1],
        "logcnt": [num_layers, num_experts],
    }
    for name, shape in wanted.items():
        found = list(getattr(answer, name).shape)
        if len(found) != len(shape) or any(a not in (b, -1) for a, b in zip(shape, found, strict=True)) or 0 in found:
            shown = str(shape).replace("-1", "any")
            return Verdict("wrong shape", f"{name} is {found}", f"it must be {shown}", "return a map of every layer")
    return None


def _wrong_slots(answer: Answer, num_experts: int) -> Verdict | None:
    outside = (answer.phy2log < 0) | (answer.phy2log >= num_experts)
    if not outside.any():
        return None
    layer, slot = (int(i) for i in np.argwhere(outside)[0])
    found = f"layer {layer}, slot {slot} holds expert {answer.phy2log[layer, slot]}"
    return Verdict("out of range", found, f"experts are 0..{num_experts - 1}", "fill every slot with one of them")


def _wrong_counts(answer: Answer, num_experts: int) -> Verdict | None:
    layers = answer.phy2log.shape[0]
    at = answer.phy2log.astype(np.int64) + np.arange(layers)[:, np.newaxis] * num_experts
    held = np.bincount(at.ravel(), minlength=layers * num_experts).reshape(layers, num_experts)
    if not held.all():
        layer, expert = (int(i) for i in np.argwhere(held == 0)[0])
        lost = f"layer {layer}: expert {expert} has no slot ({int((held == 0).sum())} such)"
        return Verdict("expert missing", lost, "every expert needs a slot in every layer", "place each at least once")
    if (held != answer.logcnt).any():
        layer, expert = (int(i) for i in np.argwhere(held != answer.logcnt)[0])
        found = f"layer {layer}, expert {expert}: logcnt says {answer.logcnt[layer, expert]}, phy2log {held[layer, expert]}"
        return Verdict("maps disagree", found, "logcnt counts the slots of phy2log", "make both from one map")
    return None


def _wrong_lists(answer: Answer, num_slots: int) -> Verdict | None:
    lists, count = answer.log2phy, answer.logcnt[:, :, np.newaxis]
    width = lists.shape[2]
    rule, next_step = "log2phy lists the slots of phy2log, each once, then -1", "make both from one map"
    if int(count.max()) > width:
        return Verdict("maps disagree", f"log2phy has {width} places, an expert {int(count.max())} slots", rule, next_step)
    used = np.arange(width) < count
    listed = np.where(used, lists, 0)
    bad = (used & ((listed < 0) | (listed >= num_slots))) | (~used & (lists != PADDING))
    layers, experts, _ = lists.shape
    if not bad.any():
        holder = np.take_along_axis(answer.phy2log, listed.reshape(layers, -1).astype(np.int64), axis=1).reshape(lists.shape)
        bad = used & (holder != np.arange(experts)[:, np.newaxis])
    if not bad.any():
        # As many places as slots, each holding its expert: all is right unless a slot is listed twice.
        layer = np.arange(layers)[:, np.newaxis, np.newaxis]
        times = np.bincount((layer * num_slots + listed.astype(np.int64))[used], minlength=layers * num_slots)
        bad = used & (times.reshape(layers, num_slots)[layer, listed.astype(np.int64)] > 1)
    if not bad.any():
        return None
    at, expert, place = (int(i) for i in np.argwhere(bad)[0])
    found = f"layer {at}, expert {expert}: log2phy[{place}] is {lists[at, expert, place]}"
    return Verdict("maps disagree", found, rule, next_step)
