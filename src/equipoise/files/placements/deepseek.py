"""What DeepSeek's ``rebalance_experts`` returns: ``phy2log``, ``log2phy`` and ``logcnt``, arrays that must agree."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from equipoise.files.placements.content import LARGEST_ARRAYS, Content
from equipoise.files.placements.format import Format, check_for_engine, replica_count
from equipoise.files.placements.found import FoundPlacement

NAME = "deepseek"
_KEYS = ("phy2log", "log2phy", "logcnt")


def _recognises(content: Content) -> bool:
    return "phy2log.npy" in content.members or (content.is_torch and "phy2log" in content.keys)


def _read(content: Content) -> FoundPlacement:
    placed, slots, count = (array.astype(np.int64) for array in _checked_arrays(content))
    num_experts = count.shape[1]
    outside = np.argwhere((placed < 0) | (placed >= num_experts))
    if outside.size:
        layer, slot = (int(i) for i in outside[0])
        raise content.foreign(f"phy2log, layer {layer}, slot {slot} holds {placed[layer, slot]}, not 0..{num_experts - 1}")
    _check_agreement(content, "logcnt", count, replica_count(placed, num_experts))
    if slots.shape[2] < count.max():
        raise content.foreign(f"log2phy has room for {slots.shape[2]} replicas, logcnt counts {count.max()}")
    _check_agreement(content, "log2phy", _padded_last(slots), _slots(placed, count, slots.shape[2]))
    return FoundPlacement(placed, num_experts=num_experts)


def _checked_arrays(content: Content) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the three arrays of whole numbers with shapes that fit one another."""
    if content.is_torch:
        missing = [key for key in _KEYS if key not in content.keys]
        if missing:
            raise content.foreign(f"it has no {missing[0]}")
        arrays: tuple[npt.NDArray[np.int64], ...] = tuple(content.tensor(key) for key in _KEYS)
    else:
        arrays = content.arrays(*_KEYS)
    for key, array, dimensions in zip(_KEYS, arrays, (2, 3, 2), strict=True):
        if array.ndim != dimensions or array.dtype.kind not in "iu" or not array.size:
            raise content.foreign(f"{key} is {array.dtype} of shape {list(array.shape)}, not whole numbers in {dimensions}-D")
    if sum(array.size for array in arrays) * 8 > LARGEST_ARRAYS:
        raise content.foreign(f"its arrays are larger than {LARGEST_ARRAYS >> 20} MiB")
    placed, slots, count = arrays
    if not len(placed) == len(slots) == len(count) or slots.shape[1] != count.shape[1]:
        raise content.foreign(f"phy2log, log2phy and logcnt have the shapes {', '.join(str(list(a.shape)) for a in arrays)}")
    return arrays


def _check_agreement(content: Content, key: str, given: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]) -> None:
    wrong = np.argwhere(given != expected)
    if wrong.size:
        layer, expert = (int(i) for i in wrong[0][:2])
        raise content.foreign(f"{key} does not agree with phy2log at layer {layer}, expert {expert}")


def _padded_last(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the slots of each expert in rising order, those of -1 after them."""
    last = np.iinfo(np.int64).max
    rising = np.sort(np.where(slots == -1, last, slots), axis=2, kind="stable")
    return np.where(rising == last, -1, rising)


def _slots(placed: npt.NDArray[np.int64], count: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Return the slots of each expert in rising order, -1 padded: int64 [layers, experts, width]."""
    layers, num_slots = placed.shape
    order = np.argsort(placed, axis=1, kind="stable")
    expert = np.take_along_axis(placed, order, axis=1)
    first = np.cumsum(count, axis=1) - count
    nth = np.arange(num_slots) - np.take_along_axis(first, expert, axis=1)
    slots = np.full((layers, count.shape[1], width), -1, np.int64)
    slots[np.arange(layers)[:, np.newaxis], expert, nth] = order
    return slots


def _encode(found: FoundPlacement, ending: str) -> bytes:
    check_for_engine(found, NAME)
    placed = found.expert_of_slot
    count = replica_count(placed, found.experts_known)
    arrays = dict(zip(_KEYS, (placed, _slots(placed, count, int(count.max())), count), strict=True))
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _loading(path: str, found: FoundPlacement) -> str:
    return f"numpy.load({path!r}) holds phy2log, log2phy and logcnt, as rebalance_experts returns them"


FORMAT = Format(NAME, (".npz",), _recognises, _read, _encode, _loading)
