"""Every format of placement files by name: read any, write any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from equipoise.errors import ArgumentError, FileError
from equipoise.files.atomic import whole_file
from equipoise.files.placements import deepseek, own, sglang, tensorrt_llm, vllm, vllm_ascend
from equipoise.files.placements.content import Content
from equipoise.files.placements.format import Format
from equipoise.files.placements.found import FoundPlacement

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (own, sglang, vllm, tensorrt_llm, vllm_ascend, deepseek)
}
"""By name, in the order in which they are tried: a line of vLLM's is TensorRT-LLM's YAML but for its keys."""

AUTO = "auto"
_PICKING = (sglang.NAME, tensorrt_llm.NAME)


def read_any(
    path: str | PathLike[str],
    format: str = AUTO,  # noqa: A002 - what readers of every kind call it
    *,
    layer_ids: Iterable[int] = (),
    hidden_layers: int | None = None,
    num_experts: int | None = None,
) -> FoundPlacement:
    """Read a placement file of any format.

    Parameters
    ----------
    path : path
        The file, at most 64 MiB.
    format : str
        A name of :data:`FORMATS`, or ``auto``: told by content.
    layer_ids : iterable of int
        The model's numbers of its MoE layers. Of SGLang's and TensorRT-LLM's files, which name layers so, these rows are read;
        others must have as many layers.
    hidden_layers : int, optional
        All layers of the model, dense ones too; an SGLang file must have as many rows.
    num_experts : int, optional
        Experts of each layer; a file that says another number, or holds a larger expert, is refused.

    Raises
    ------
    FileError
        When the file cannot be read, is of no format known, or is of another model.
    MissingExtraError
        For ``.pt`` without torch.
    ArgumentError
        On an unknown format.
    """
    content = Content.read(path)
    known = _recognised(content) if format == AUTO else find_format(format)
    found = replace(known.read(content), format=known.name, name=content.name)
    found = _for_model(found, tuple(layer_ids), hidden_layers, num_experts)
    if known.name != own.NAME:
        _check_experts(content, found)
    found.expert_of_slot.setflags(write=False)
    return found


def write_as(path: str | PathLike[str], name: str, found: FoundPlacement) -> None:
    """Write a placement file, whole or not at all.

    Raises
    ------
    FileError
        On an ending that the format's program does not take, or a folder that cannot be written.
    ArgumentError
        When the format cannot hold this placement, or something it needs is not known; nothing is written then.
    """
    ending = check_ending(path, name)
    data = find_format(name).encode(found, ending)
    with whole_file(path) as file:
        file.write(data)


def check_writable(name: str, found: FoundPlacement) -> None:
    """Refuse as :func:`write_as` would, before work is done in vain: empty slots, unequal ranks, numbers not known."""
    known = find_format(name)
    known.encode(found, known.endings[0])


def check_ending(path: str | PathLike[str], name: str = own.NAME) -> str:
    """Return the ending in lower case; refuse one that the format's program does not take, before work is done in vain."""
    endings = find_format(name).endings
    ending = Path(path).suffix.lower()
    if ending not in endings:
        what = "a placement" if name == own.NAME else f"a placement for {name}"
        raise FileError(f"{path} ends in {ending or 'nothing'}", f"{what} is written as {' or '.join(endings)}", "name it so")
    return ending


def how_to_load(path: str | PathLike[str], name: str, found: FoundPlacement) -> str:
    """Say in one line how the format's program loads the file."""
    return find_format(name).loading(str(path), found)


def find_format(name: str) -> Format:
    """Return a format by its name."""
    if name not in FORMATS:
        raise ArgumentError(f"format is {name!r}", f"it must be one of {', '.join(FORMATS)}", "choose one of these")
    return FORMATS[name]


def _recognised(content: Content) -> Format:
    for known in FORMATS.values():
        if known.recognises(content):
            return known
    raise content.foreign(_described(content))


def _described(content: Content) -> str:
    """Say what an unknown file holds."""
    if content.is_zip and not content.is_torch:
        return f"it holds the arrays {', '.join(sorted(name.removesuffix('.npy') for name in content.members)[:8]) or 'none'}"
    if "logical_count" in content.keys:
        return "it holds logical_count: a recorded load, not a placement"
    if content.keys:
        return f"it has the keys {', '.join(sorted(content.keys)[:8])}"
    if content.is_torch:
        return "it holds no dict of tensors"
    return "it is JSON of another kind" if content.text.lstrip()[:1] in ("{", "[") and content.values else "it is other text"


def _for_model(
    found: FoundPlacement, layer_ids: tuple[int, ...], hidden_layers: int | None, num_experts: int | None
) -> FoundPlacement:
    """Return the layers of the model that the caller has in mind; refuse a placement of another."""
    if hidden_layers is not None:
        if found.hidden_layers not in (None, hidden_layers):
            raise _of_another(found, f"{found.hidden_layers} hidden layers", f"{hidden_layers}")
        found = replace(found, hidden_layers=hidden_layers)
    if layer_ids:
        found = _picked(found, layer_ids) if found.format in _PICKING else _numbered(found, layer_ids)
    if num_experts is not None:
        if found.num_experts not in (None, num_experts):
            raise _of_another(found, f"{found.num_experts} experts", f"{num_experts}")
        found = replace(found, num_experts=num_experts)
    return found


def _picked(found: FoundPlacement, layer_ids: tuple[int, ...]) -> FoundPlacement:
    """Keep the rows of these layers."""
    row_of = {layer: row for row, layer in enumerate(found.layer_ids)}
    missing = [layer for layer in layer_ids if layer not in row_of]
    if missing:
        raise _of_another(found, f"no row for layer {missing[0]}", f"rows for the {len(layer_ids)} layers named")
    left_out = len(row_of) - len(layer_ids)
    kept = found.remarks if found.format == tensorrt_llm.NAME else ()  # SGLang's asks for the model, which is now named
    remarks = (f"{left_out} rows of layers that were not named are left out",) if left_out else ()
    rows = [row_of[layer] for layer in layer_ids]
    return replace(found, expert_of_slot=found.expert_of_slot[rows], layer_ids=layer_ids, remarks=(*kept, *remarks))


def _numbered(found: FoundPlacement, layer_ids: tuple[int, ...]) -> FoundPlacement:
    if len(layer_ids) != found.num_layers:
        raise _of_another(found, f"{found.num_layers} layers", f"{len(layer_ids)}")
    if found.layer_ids and found.layer_ids != layer_ids:
        position = next(i for i, (one, other) in enumerate(zip(found.layer_ids, layer_ids, strict=True)) if one != other)
        raise _of_another(found, f"layer {found.layer_ids[position]} at position {position}", f"layer {layer_ids[position]}")
    return replace(found, layer_ids=layer_ids)


def _of_another(found: FoundPlacement, has: str, expected: str) -> FileError:
    return FileError(f"{found.name} has {has}", f"the model asked for has {expected}", "name the model it was made for")


def _check_experts(content: Content, found: FoundPlacement) -> None:
    """Refuse empty slots, and experts that the model has not or that not all could have a slot."""
    limit = found.num_slots if found.num_experts is None else found.num_experts
    outside = np.argwhere((found.expert_of_slot < 0) | (found.expert_of_slot >= limit))
    if outside.size:
        layer, slot = (int(i) for i in outside[0])
        raise content.foreign(
            f"{found.layer_name(layer)}, slot {slot} holds expert {found.expert_of_slot[layer, slot]}, not 0..{limit - 1}"
        )
