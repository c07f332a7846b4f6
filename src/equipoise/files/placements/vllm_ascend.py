"""vllm-ascend's expert map: for each MoE layer, counted from 0, and each device the experts of its slots, none twice."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError
from equipoise.files.placements.content import Content, shown
from equipoise.files.placements.format import OWN, Format, check_for_engine
from equipoise.files.placements.found import FoundPlacement

NAME = "vllm-ascend"


def _recognises(content: Content) -> bool:
    return not content.is_torch and bool(content.keys & {"layer_list", "moe_layer_count"})


def _read(content: Content) -> FoundPlacement:
    given = content.single
    layers = _listed(content, given, "layer_list", given.get("moe_layer_count"), "moe_layer_count")
    rows, ranks = [], 0
    for layer, entry in enumerate(layers):
        place = f"layer_list[{layer}]"
        _check_position(content, entry, "layer_id", layer, place)
        devices = _listed(content, entry, "device_list", entry.get("device_count"), f"{place}.device_count")
        ranks = ranks or len(devices)
        if len(devices) != ranks:
            raise content.foreign(f"{place} has {len(devices)} devices, layer_list[0] has {ranks}")
        for device, one in enumerate(devices):
            _check_position(content, one, "device_id", device, f"{place}.device_list[{device}]")
            rows.append(one.get("device_expert"))
    placed = content.rows(rows, "layer_list", lambda row: f"layer {row // ranks}, device {row % ranks}")
    placed = placed.reshape(len(layers), -1)
    return FoundPlacement(placed, num_ranks=ranks, remarks=_remarks(placed, ranks))


def _listed(content: Content, entry: dict[str, Any], key: str, count: object, counter: str) -> list[Any]:
    found = entry.get(key)
    if not isinstance(found, list) or not found:
        raise content.foreign(f"it needs a list {key}")
    if content.number(count, counter) != len(found):
        raise content.foreign(f"{counter} is {count}, but {key} has {len(found)} entries")
    return found


def _check_position(content: Content, entry: object, key: str, position: int, place: str) -> None:
    """Refuse numbers that differ from positions: vllm-ascend goes by position and ignores them."""
    if not isinstance(entry, dict):
        raise content.foreign(f"{place} is {shown(entry)}, not an object")
    if content.number(entry.get(key), f"{place}.{key}") != position:
        raise content.foreign(f"{place} has the {key} {entry[key]}, not its position")


def _first_duplicate(placed: npt.NDArray[np.int64], ranks: int) -> tuple[int, int, int] | None:
    """Return layer, device and expert of the first slot whose device holds its expert already."""
    held = np.sort(placed.reshape(len(placed), ranks, -1), axis=2, kind="stable")
    twice = np.argwhere((held[:, :, 1:] == held[:, :, :-1]) & (held[:, :, 1:] >= 0))
    if not twice.size:
        return None
    layer, device, nth = (int(i) for i in twice[0])
    return layer, device, int(held[layer, device, nth + 1])


def _remarks(placed: npt.NDArray[np.int64], ranks: int) -> tuple[str, ...]:
    twice = _first_duplicate(placed, ranks)
    if twice is None:
        return ()
    return ("layer {}: device {} holds expert {} twice, which vllm-ascend cannot use".format(*twice),)


def _encode(found: FoundPlacement, ending: str) -> bytes:
    ranks = found.num_ranks
    if ranks is None:
        raise ArgumentError("the number of ranks is not known", f"{NAME} lists the experts of each device", "give --ranks")
    check_for_engine(found, NAME)
    twice = _first_duplicate(found.expert_of_slot, ranks)
    if twice is not None:
        layer, device, expert = twice
        raise ArgumentError(
            f"{found.layer_name(layer)}: device {device} holds expert {expert} twice",
            f"{NAME} maps each expert to one slot of a device",
            f"plan anew: equipoise places no expert twice on a rank; {OWN}",
        )
    layers = found.expert_of_slot.reshape(found.num_layers, ranks, -1).tolist()
    lines = ",\n".join(f"  {json.dumps(_layer(layer, devices))}" for layer, devices in enumerate(layers))
    return f'{{"moe_layer_count": {len(layers)}, "layer_list": [\n{lines}\n]}}\n'.encode()


def _layer(layer: int, devices: list[list[int]]) -> dict[str, Any]:
    listed = [{"device_id": device, "device_expert": experts} for device, experts in enumerate(devices)]
    return {"layer_id": layer, "device_count": len(devices), "device_list": listed}


def _loading(path: str, found: FoundPlacement) -> str:
    return f'--additional-config \'{{"eplb_config": {{"expert_map_path": "{path}"}}}}\''


FORMAT = Format(NAME, (".json",), _recognises, _read, _encode, _loading)
