"""Arrays that are handed on to be read, never written."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy.typing as npt

_Array = TypeVar("_Array", bound=npt.NDArray[Any])


def frozen(array: _Array) -> _Array:
    """Return the array itself, read-only from now on.

    >>> import numpy as np
    >>> frozen(np.zeros(2)).flags.writeable
    False
    """
    array.setflags(write=False)
    return array
