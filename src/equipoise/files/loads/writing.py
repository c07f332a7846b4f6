"""Write loads in our own format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.files.atomic import whole_file


def write_load(
    path: str | os.PathLike[str],
    load: npt.NDArray[Any],
    layer_ids: Sequence[int],
    labels: Sequence[str] | None = None,
    phases: Sequence[str] | None = None,
    source_load: npt.NDArray[Any] | None = None,
    *,
    is_in_order: bool = True,
) -> None:
    """Write a load as a compressed ``.npz``: ``load`` and ``layer_ids``, and where there is something to say the others.

    These are ``labels``, ``phases``, ``source_load`` and ``is_in_order`` (where False).
    """
    arrays: dict[str, Any] = {"load": load, "layer_ids": np.asarray(layer_ids, np.int64)}
    arrays.update({key: np.asarray(names, np.str_) for key, names in (("labels", labels), ("phases", phases)) if names})
    if source_load is not None:
        arrays["source_load"] = source_load
    if not is_in_order:
        arrays["is_in_order"] = np.asarray(False)
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)
