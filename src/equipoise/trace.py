"""LoadTrace: tokens per step, layer and expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from equipoise.checks import check_integer
from equipoise.errors import ArgumentError, FileError
from equipoise.files.loads import read_load, write_load
from equipoise.tensors import as_array

_EXAMPLE = Path(__file__).parent / "data" / "gpt-oss-20b-decode.npz"


@dataclass(frozen=True, eq=False)
class LoadTrace:
    """Load over time (docs/semantics.md, 1).

    Parameters
    ----------
    load : array_like [steps, layers, experts] or [layers, experts]
        Tokens routed to each expert: finite, >= 0; integers stay integers, floats become float64. Copied unless read-only.
    layer_ids : sequence of int, optional
        The model's own number of each layer. Default: 0, 1, 2, ...
    labels : sequence of str, optional
        A name a step, such as its text domain.

    Raises
    ------
    ArgumentError
        On another shape, or a load that is negative, nan or infinite (the message names step, layer and expert).

    Examples
    --------
    >>> trace = LoadTrace([[[3, 1]], [[2, 2]]])
    >>> trace.load.shape, trace.sum().tolist()
    ((2, 1, 2), [[5, 3]])
    """

    load: npt.NDArray[Any]
    layer_ids: Sequence[int] = ()
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        load = _as_trace(self.load)
        _check_tokens(load)
        layer_ids = tuple(int(i) for i in self.layer_ids) or tuple(range(load.shape[1]))
        if len(layer_ids) != load.shape[1] or len(set(layer_ids)) != len(layer_ids):
            raise ArgumentError(
                f"layer_ids has {len(layer_ids)} entries, {len(set(layer_ids))} of them distinct",
                f"it must name each of the {load.shape[1]} layers once",
                "give one number a layer",
            )
        labels = None if self.labels is None else tuple(str(label) for label in self.labels)
        if labels is not None and len(labels) != load.shape[0]:
            raise ArgumentError(
                f"labels has {len(labels)} entries", f"it needs one a step ({load.shape[0]})", "give one name a step"
            )
        object.__setattr__(self, "load", load)
        object.__setattr__(self, "layer_ids", layer_ids)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def read(cls, path: str | PathLike[str] | BinaryIO) -> LoadTrace:
        """Read a trace from ``.npz``, ``.npy``, ``.csv``, ``.json`` or ``.pt``, told apart by content, not by name.

        docs/load-files.md describes what each may hold. Nothing is ever unpickled. A 1,200 x 58 x 256 trace stays under
        1 GB of memory, JSON included.

        Raises
        ------
        FileError
            When the file cannot be read or holds something else.
        MissingExtraError
            For ``.pt`` without torch.
        """
        found = read_load(path)
        try:
            return cls(found.load, found.layer_ids, found.labels)
        except ArgumentError as error:
            raise FileError(f"{found.name}: {error.found}", error.rule, error.next_step) from error

    @classmethod
    def example(cls) -> LoadTrace:
        """Return the load that ships: gpt-oss-20b decoding, 31 windows of 16 steps, 24 layers, 32 experts."""
        return cls.read(_EXAMPLE)

    def write(self, path: str | PathLike[str]) -> None:
        """Write the trace as ``.npz``, atomically; :meth:`read` gives it back."""
        write_load(path, self.load, self.layer_ids, self.labels)

    @property
    def num_steps(self) -> int:
        """Steps (or windows) in the trace."""
        return int(self.load.shape[0])

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.load.shape[1])

    @property
    def num_experts(self) -> int:
        """Experts of each layer."""
        return int(self.load.shape[2])

    def sum(self) -> npt.NDArray[Any]:
        """Add up all steps: [layers, experts], int64 for integer loads, else float64.

        Steps are added in order, one by one: the same result on every machine.
        """
        return _add_up(self.load)

    def windows(self, num_steps: int) -> LoadTrace:
        """Add up every ``num_steps`` consecutive steps; steps left over at the end are left out.

        >>> LoadTrace([[[1, 2]], [[3, 4]], [[5, 6]]]).windows(2).load.tolist()
        [[[4, 6]]]
        """
        self._check_steps("window", num_steps)
        count = self.num_steps // num_steps
        added = np.stack([_add_up(self.load[w * num_steps : (w + 1) * num_steps]) for w in range(count)])
        labels = self.labels if num_steps == 1 else None
        return LoadTrace(_frozen(added), self.layer_ids, labels)

    def last(self, num_steps: int) -> LoadTrace:
        """Return the last ``num_steps`` steps."""
        self._check_steps("last", num_steps)
        labels = None if self.labels is None else self.labels[-num_steps:]
        return LoadTrace(self.load[-num_steps:], self.layer_ids, labels)

    def _check_steps(self, name: str, num_steps: int) -> None:
        if check_integer(name, num_steps, least=-(2**63)) < 1 or num_steps > self.num_steps:
            raise ArgumentError(
                f"{name} is {num_steps} steps",
                f"it must lie between 1 and the {self.num_steps} steps of the trace",
                "take fewer steps or record more",
            )


def _as_trace(given: object) -> npt.NDArray[Any]:
    array = _as_numbers(given)
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or 0 in array.shape:
        raise ArgumentError(
            f"load has shape {list(np.shape(array))}",
            "it must be [steps, layers, experts] or [layers, experts], none of them 0",
            "reshape it, or pick the array that holds the counts",
        )
    return array if not array.flags.writeable else _frozen(array.copy())


def _as_numbers(given: object) -> npt.NDArray[Any]:
    if isinstance(given, np.ma.MaskedArray):
        raise ArgumentError("load is a masked array", "a mask has no meaning here", "fill it, or drop the masked layers")
    array = as_array("load", given)
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    if array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint64 and (array.size == 0 or array.max() <= np.iinfo(np.int64).max):
        return array.astype(np.int64)
    raise ArgumentError(
        f"load has dtype {array.dtype}", "it must be integers or floats", "convert it with load.astype('int64') or 'float64'"
    )


def _check_tokens(load: npt.NDArray[Any]) -> None:
    low, high = load.min(), load.max()
    if low >= 0 and np.isfinite(high):
        _check_total(load, float(high))
        return
    for step, layers in enumerate(load):
        wrong = ~(np.isfinite(layers) & (layers >= 0))
        if wrong.any():
            layer, expert = (int(i) for i in np.argwhere(wrong)[0])
            raise ArgumentError(
                f"load is {layers[layer, expert]} at step {step}, layer {layer}, expert {expert}",
                "a load must be finite and >= 0",
                "drop or mend that step",
            )


def _check_total(load: npt.NDArray[Any], high: float) -> None:
    limit = 2.0**62 if load.dtype.kind in "iu" else 1e300
    if high <= limit / load.size:
        return
    with np.errstate(over="ignore"):
        total = float(load.sum(dtype=np.float64))
    if total > limit:
        raise ArgumentError(
            f"loads as large as {high:g}", f"all loads must add up to at most {limit:g}", "give loads in tokens, or scale them"
        )


def _add_up(load: npt.NDArray[Any]) -> npt.NDArray[Any]:
    total = np.zeros(load.shape[1:], np.int64 if load.dtype.kind in "iu" else np.float64)
    for step in load:
        total += step
    return total


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array
