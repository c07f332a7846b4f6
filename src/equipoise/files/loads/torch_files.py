"""Read torch files: tensors, numbers and containers only, never another pickle."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, MissingExtraError, first_line
from equipoise.files.loads.damage import a_pickle, naming_damage, too_large
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.hidden import without_dense
from equipoise.files.pickles import asks_for_long_name

if TYPE_CHECKING:
    from equipoise.files.loads.opening import Input

_MOST_BYTES_OF_SPARSE = 2**30
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ADVICE = "Weights only load failed"
_REFUSED = re.compile(r"nsupported (?:global: )?GLOBAL ([\w.]+)")
_INNER = re.compile(r"WeightsUnpickler error: ([^\n]+?)(?:\.\s|\n|$)")
_LONGEST_CAUSE = 200


def load(path: Path, name: str) -> Any:
    """Return what a torch file holds; tensors are mapped from it, so copy what is kept.

    Raises
    ------
    FileError
        When it holds more than tensors, numbers and containers, or is damaged.
    MissingExtraError
        Without torch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is a torch file", "reading it needs torch", "pip install 'equipoise[torch]', or save it with numpy"
        ) from error
    try:
        with path.open("rb") as file:
            if asks_for_long_name(file):
                raise a_pickle(name)
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileError:
        raise
    except Exception as error:  # whatever torch raises on a file it refuses, down to KeyError and RuntimeError
        raise FileError(
            f"{name} cannot be loaded as plain tensors ({_cause(error)})",
            "a .pt file may hold tensors, numbers and containers only; other pickles are never loaded",
            "save the count tensor alone with torch.save",
        ) from error


def _cause(error: BaseException) -> str:
    """Say why torch refused a file, without its colours and its advice on how to load it all the same."""
    text = _COLOURS.sub("", str(error))
    told = _REFUSED.search(text)
    if told is not None:
        return f"it asks for {told[1][:_LONGEST_CAUSE]}"
    if text.startswith(_ADVICE):
        inner = _INNER.search(text)
        return inner[1][:_LONGEST_CAUSE] if inner is not None else "it is no torch file of tensors alone"
    return first_line(error)


def is_tensor(value: object) -> bool:
    """Say whether a value from a torch file is a tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def as_numbers(tensor: Any, name: str) -> npt.NDArray[Any]:
    """Return a tensor as a numpy array, where it can on the file's own memory; floats as float64.

    Raises
    ------
    FileError
        When it holds no real numbers, or its shape claims more elements than are stored (of sparse tensors, 1 GB).
    """
    import torch

    if tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        raise FileError(f"{name} holds a tensor of {tensor.dtype}", "it must hold real numbers", "convert it before saving it")
    is_dense = tensor.layout == torch.strided
    if tensor.numel() * tensor.element_size() > (tensor.untyped_storage().nbytes() if is_dense else _MOST_BYTES_OF_SPARSE):
        raise too_large(name)
    if is_dense and tensor.numel() and not _lies_within(tensor):
        raise too_large(name)
    with naming_damage(name):
        plain = tensor.detach() if is_dense else _dense(tensor.detach())
        found: npt.NDArray[Any] = (plain.double() if plain.is_floating_point() else plain).numpy()
        return found


def _dense(tensor: Any) -> Any:
    """Return a sparse tensor filled up, its indices checked first: torch follows those of a damaged file out of memory."""
    import torch

    if tensor.layout != torch.sparse_coo:
        raise ValueError(f"its layout is {tensor.layout}")
    indices, values = tensor._indices(), tensor._values()
    if not all(_lies_within(part) for part in (indices, values) if part.numel()):
        raise ValueError("its indices or values lie outside of the file")
    return torch.sparse_coo_tensor(indices, values, tensor.shape, check_invariants=True).to_dense()


def _lies_within(tensor: Any) -> bool:
    """Say whether all elements lie in the storage; a damaged file's offset or strides may lead out of it."""
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    last = tensor.storage_offset() + sum(step for step in steps if step > 0)
    first = tensor.storage_offset() + sum(step for step in steps if step < 0)
    return bool(first >= 0 and (last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes())


def recognises(given: Input) -> bool:
    """Say whether it is a torch file."""
    return given.kind == "torch"


def read(given: Input, hints: Hints) -> FoundLoad:
    """Read a tensor, or a dict with one under ``load`` or ``logical_count``: [steps, layers, experts] or [layers, experts]."""
    found = given.torch_object
    if isinstance(found, dict):
        found = next((found[key] for key in ("load", "logical_count") if key in found), found)
    if not is_tensor(found):
        raise FileError(
            f"{given.name} holds a {type(found).__name__}",
            "it must be a tensor, or a dict with one under load or logical_count",
            "save the count tensor alone",
        )
    load, remarks = without_dense(as_numbers(found, given.name), hints)
    return FoundLoad(np.array(load), hints.layer_ids, remarks=remarks)
