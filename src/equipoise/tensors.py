"""numpy in, numpy out; torch in, torch out: without importing a framework its user has not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError

Array = npt.NDArray[Any]


def is_tensor(value: object) -> bool:
    """Tell whether ``value`` is a torch tensor (or a subclass, such as a parameter)."""
    return any(kind.__module__.split(".")[0] == "torch" for kind in type(value).__mro__) and hasattr(value, "detach")


def as_array(name: str, value: Any) -> Array:
    """Return numbers as an array; a tensor of any device, layout or float type becomes one on the CPU.

    Raises
    ------
    ArgumentError
        When rows have unequal lengths; ``name`` says of what.
    """
    if is_tensor(value):
        tensor = value.detach().cpu()
        tensor = tensor if str(tensor.layout) == "torch.strided" else tensor.to_dense()
        return np.asarray((tensor.double() if tensor.is_floating_point() else tensor).numpy())
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ArgumentError(f"{name} is ragged", "all its rows must have equal length", "mend the rows") from error


def like(value: Any, *, on_its_device: bool = True) -> Callable[[Array], Any]:
    """Return what turns an array into the kind ``value`` is: a tensor (on its device, or the CPU) or an array."""
    if not is_tensor(value):
        return lambda array: array
    import torch

    device = value.device if on_its_device else "cpu"
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)
