"""Read torch files: tensors, numbers and containers only, never another pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import FileError, MissingExtraError
from equipoise.files.loads.damage import a_pickle, first_line, naming_damage, too_large
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.pickles import asks_for_long_name

if TYPE_CHECKING:
    from equipoise.files.loads.opening import Input

_MOST_BYTES_OF_SPARSE = 2**30


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
            f"{name} cannot be loaded as plain tensors ({first_line(error)})",
            "a .pt file may hold tensors, numbers and containers only; other pickles are never loaded",
            "save the count tensor alone with torch.save",
        ) from error


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
    with naming_damage(name):
        plain = tensor.detach() if is_dense else tensor.detach().to_dense()
        found: npt.NDArray[Any] = (plain.double() if plain.is_floating_point() else plain).numpy()
        return found


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
    return FoundLoad(np.array(as_numbers(found, given.name)), hints.layer_ids)
