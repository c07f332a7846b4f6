"""numpy in, numpy out; torch in, torch out: without importing a framework its user has not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def is_tensor(value: object) -> bool:
    """Tell whether ``value`` is a torch tensor."""
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach")


def as_array(value: Any) -> Array:
    """Return numbers as an array; a tensor of any device or float type becomes one on the CPU."""
    if not is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return np.asarray((tensor.double() if tensor.is_floating_point() else tensor).numpy())


def like(value: Any, *, on_its_device: bool = True) -> Callable[[Array], Any]:
    """Return what turns an array into the kind ``value`` is: a tensor (on its device, or the CPU) or an array."""
    if not is_tensor(value):
        return lambda array: array
    import torch

    device = value.device if on_its_device else "cpu"
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)
