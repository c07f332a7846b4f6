"""SGLang's ``--init-expert-location``: ``{"physical_to_logical_map": [[...]]}``, a row a hidden layer, dense ones too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError
from equipoise.files.placements.content import Content, shown
from equipoise.files.placements.format import Format, check_for_engine, layer_numbers, rows_of_text
from equipoise.files.placements.found import FoundPlacement

NAME = "sglang"
_KEY = "physical_to_logical_map"


def _recognises(content: Content) -> bool:
    return _KEY in content.keys


def _read(content: Content) -> FoundPlacement:
    """Read the map, all rows: which of them are of dense layers the file does not say."""
    others = sorted(content.keys - {_KEY})
    if _KEY not in content.keys:
        raise content.foreign(f"it has no {_KEY}")
    if others:
        raise content.foreign(f"SGLang refuses the key {shown(others[0])} beside {_KEY}")
    placed = _rows_of_tensor(content) if content.is_torch else content.rows(content.single[_KEY], _KEY)
    layers = len(placed)
    return FoundPlacement(placed, tuple(range(layers)), hidden_layers=layers, remarks=_remarks(placed))


def _rows_of_tensor(content: Content) -> npt.NDArray[np.int64]:
    array = content.tensor(_KEY)
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        raise content.foreign(f"{_KEY} is {array.dtype} of shape {list(array.shape)}, not whole numbers [layers, slots]")
    return array.astype(np.int64)


def _remarks(placed: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Say how many rows look like those of dense layers."""
    experts = int(placed.max()) + 1
    level = int((placed == np.arange(placed.shape[1]) % max(1, experts)).all(axis=1).sum())
    if level == 0:
        return ()
    return (
        f"{level} of {len(placed)} rows hold experts in order and may be of dense layers: name the model to leave them out",
    )


def _encode(found: FoundPlacement, ending: str) -> bytes:
    if found.hidden_layers is None:
        raise ArgumentError(
            "how many hidden layers the model has is not known",
            f"{NAME} wants a row for each, dense ones too",
            "name the model (--model), or give --hidden-layers",
        )
    check_for_engine(found, NAME)
    layer_ids = layer_numbers(found, NAME)
    outside = [layer for layer in layer_ids if not 0 <= layer < found.hidden_layers]
    if outside:
        raise ArgumentError(
            f"layer {outside[0]} of a model with {found.hidden_layers} hidden layers",
            f"they count from 0 to {found.hidden_layers - 1}",
            "correct --layer-ids or --hidden-layers",
        )
    dense = np.arange(found.num_slots, dtype=np.int64) % found.experts_known
    rows = np.tile(dense, (found.hidden_layers, 1))
    rows[list(layer_ids)] = found.expert_of_slot
    return f'{{"{_KEY}": [\n{rows_of_text(rows, "  ")}\n]}}\n'.encode()


def _loading(path: str, found: FoundPlacement) -> str:
    return f"--init-expert-location {path} --ep-num-redundant-experts {found.num_slots - found.experts_known}"


FORMAT = Format(NAME, (".json",), _recognises, _read, _encode, _loading)
