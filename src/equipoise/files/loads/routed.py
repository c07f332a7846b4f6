"""Read which experts each token picked, as vLLM and SGLang return it with a completion: [tokens, layers, picks]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError
from equipoise.files.loads import torch_files
from equipoise.files.loads.arrays import chosen_array, read_array, read_shape
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import moe_rows
from equipoise.files.loads.opening import Input

KEY = "routed_experts"
UNSET = -1
_MOST_PICKS = 64
_MOST_EXPERTS = 2**16
_FOLDER_KINDS = ("npy", "npz", "torch")


def recognises(given: Input) -> bool:
    """Say whether it is called ``routed_experts``, or ids that are no load: some -1, others of a token and layer distinct."""
    if given.kind == "directory":
        parts = [part for part in given.parts if part.kind in _FOLDER_KINDS]
        return bool(parts) and recognises(parts[0])
    if given.kind == "npz":
        return KEY in given.arrays
    if given.kind == "torch" and isinstance(given.torch_object, dict):
        return KEY in given.torch_object
    if given.kind == "torch" and not torch_files.is_tensor(given.torch_object):
        return False
    if given.kind == "npy" and read_shape(given)[-1:] > (_MOST_PICKS,):
        return False
    picks = _picks(given)
    return could_be_picks(picks) and picks.min() == UNSET


def could_be_picks(array: npt.NDArray[Any]) -> bool:
    """Say whether an array may hold expert ids: integers [tokens, layers, picks], in each row distinct but for -1.

    Layers that are 0 throughout may be dense ones, and are passed over. A single pick a token tells nothing.

    >>> could_be_picks(np.array([[[3, 1], [0, -1]]])), could_be_picks(np.array([[[3, 3]]]))
    (True, False)
    """
    return _is_shaped(array) and array.shape[2] > 1 and _are_distinct(array, _moe_layers([array]))


def _is_shaped(array: npt.NDArray[Any]) -> bool:
    """Say whether an array is integers [tokens, layers, picks] in the range of expert ids."""
    if array.ndim != 3 or array.dtype.kind not in "iu" or array.shape[2] > _MOST_PICKS or 0 in array.shape:
        return False
    return bool(array.min() >= UNSET and array.max() < _MOST_EXPERTS)


def _moe_layers(sequences: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Say of each layer whether any token picked there: engines leave rows of dense layers at 0."""
    used: npt.NDArray[np.bool_] = np.any([picks.any(axis=(0, 2)) for picks in sequences], axis=0)
    return used


def _are_distinct(array: npt.NDArray[Any], layers: npt.NDArray[Any]) -> bool:
    """Say whether no token picked an expert of one of these layers twice; of no layer at all it is not known."""
    ranked = np.sort(array[:, layers], axis=2)
    twice = (ranked[:, :, 1:] == ranked[:, :, :-1]) & (ranked[:, :, 1:] != UNSET)
    return ranked.shape[1] > 0 and not twice.any()


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a sequence a file, or a folder of such files by name: each becomes one step, all its tokens added up.

    A token's place in its sequence says nothing of when others passed the layers beside it, so it makes no step.
    """
    parts = [part for part in given.parts if part.kind in _FOLDER_KINDS]
    sequences = [_checked(_picks(part), part.name) for part in parts]
    layers = {picks.shape[1] for picks in sequences}
    if len(layers) != 1:
        raise FileError(f"{given.name} has sequences of {sorted(layers)} layers", "all must be of one model", "sort them out")
    rows, of_layers = moe_rows(_moe_layers(sequences), hints.layer_ids, given.name)
    for picks, part in zip(sequences, parts, strict=True):
        if not _are_distinct(picks, np.array(rows)):
            raise _no_picks(picks, part.name)
    sequences = [picks[:, rows] for picks in sequences]
    largest = max(int(picks.max()) for picks in sequences)
    num_experts = hints.num_experts or largest + 1
    if largest >= num_experts:
        raise FileError(
            f"{given.name} names expert {largest}",
            f"the model has {num_experts}, 0 to {num_experts - 1}",
            "name the right model",
        )
    remarks = [*of_layers, "each sequence is one step: its tokens passed the engine in many"]
    if hints.num_experts is None:
        remarks.append(f"took the largest id, {largest}, for the last expert")
    return FoundLoad(
        np.stack([_counted(picks, num_experts) for picks in sequences]),
        hints.layer_ids or (tuple(rows) if of_layers else ()),
        labels=tuple(part.path.stem for part in parts) if given.kind == "directory" else None,
        is_in_order=len(sequences) == 1,
        remarks=tuple(remarks),
    )


def _picks(given: Input) -> npt.NDArray[Any]:
    if given.kind == "npy":
        return read_array(given)
    if given.kind == "npz":
        return read_array(given, KEY if KEY in given.arrays else chosen_array(given.arrays, given.name))
    found = given.torch_object
    if isinstance(found, dict):
        found = found.get(KEY)
    if not torch_files.is_tensor(found):
        raise FileError(f"{given.name} has no tensor {KEY}", "it must hold the experts picked", "save them as a tensor")
    return torch_files.as_numbers(found, given.name)


def _no_picks(picks: npt.NDArray[Any], name: str) -> FileError:
    return FileError(
        f"{name} holds {picks.dtype} of shape {list(picks.shape)}",
        f"it must be expert ids [tokens, layers, picks], up to {_MOST_PICKS} of a row, distinct, {UNSET} for none",
        "save the engine's array as it is, or read the file as another format",
    )


def _checked(picks: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if not _is_shaped(picks):
        raise _no_picks(picks, name)
    if picks.max() == UNSET:
        raise FileError(f"{name} names no expert", "a sequence has at least one token", "record it again")
    return picks


def _counted(picks: npt.NDArray[Any], num_experts: int) -> npt.NDArray[np.int64]:
    """Count the tokens of each layer and expert."""
    by_layer = picks.swapaxes(0, 1).reshape(picks.shape[1], -1)
    return np.stack([np.bincount(layer[layer != UNSET].astype(np.int64), minlength=num_experts) for layer in by_layer])
