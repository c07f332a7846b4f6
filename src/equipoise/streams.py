"""LoadStream: loads that exceed memory, a few steps at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.arrays import frozen
from equipoise.checks import check_integer
from equipoise.errors import ArgumentError, FileError
from equipoise.files.loads import open_steps, read_steps
from equipoise.steps import (
    as_labels,
    as_layer_ids,
    as_phases,
    as_steps,
    check_tokens,
    check_total,
    join_labels,
    join_phases,
    out_of_order,
)

Source = Callable[[], Iterable[Any]] | Iterable[Any]


@dataclass(frozen=True, eq=False)
class LoadStream:
    """Load over time, read anew at each iteration and never held as a whole.

    Iterating gives one read-only array [layers, experts] a step, checked: finite, >= 0, of one shape.

    Parameters
    ----------
    source : function or iterable
        A function that returns a fresh iterator, or what can be iterated again and again, such as a list or a memory-mapped
        array. Each item is a step [layers, experts] or a block of steps [steps, layers, experts] of tokens; blocks of a few MB
        are read faster than steps. Arrays that can be written are copied, so one buffer may be filled again and again.
    num_layers, num_experts : int, optional
        Default: those of the first item, for which the source is started once.
    num_steps : int, optional
        Steps that the source gives, where known.
    layer_ids : sequence of int, optional
        The model's own number of each layer. Default: 0, 1, 2, ...
    labels, phases : sequence of str, optional
        A name a step, as in LoadTrace; needs ``num_steps``.
    name : str, optional
        What errors call the source, which makes them FileErrors.
    is_in_order : bool
        As in LoadTrace.

    Raises
    ------
    ArgumentError
        On arguments that do not fit one another, and a source that can be read only once. While iterating: on another shape
        and on a load that is negative, nan or infinite (named by step, layer and expert).
    FileError
        The same, for a stream of a file.

    Examples
    --------
    >>> stream = LoadStream(lambda: ([[step, 1]] for step in range(5)))
    >>> stream.num_layers, stream.num_experts, stream.num_steps
    (1, 2, None)
    >>> [step.tolist() for step in stream.windows(2)]
    [[[1, 2]], [[5, 2]]]
    """

    source: Source
    num_layers: int = 0
    num_experts: int = 0
    num_steps: int | None = None
    layer_ids: Sequence[int] = ()
    labels: Sequence[str] | None = None
    phases: Sequence[str] | None = None
    name: str = ""
    is_in_order: bool = True

    def __post_init__(self) -> None:
        _check_source(self.source)
        if self.num_steps is not None:
            check_integer("num_steps", self.num_steps)
        elif self.labels is not None or self.phases is not None:
            raise ArgumentError("num_steps is not given", "labels and phases need one name a step", "say how many there are")
        shape = (check_integer("num_layers", self.num_layers, 0), check_integer("num_experts", self.num_experts, 0))
        if 0 in shape:
            shape = self._shape_of_first(shape)
        object.__setattr__(self, "num_layers", shape[0])
        object.__setattr__(self, "num_experts", shape[1])
        object.__setattr__(self, "layer_ids", as_layer_ids(self.layer_ids, shape[0]))
        if self.num_steps is not None:
            object.__setattr__(self, "labels", as_labels(self.labels, self.num_steps))
            object.__setattr__(self, "phases", as_phases(self.phases, self.num_steps))

    @classmethod
    def open(cls, path: str | PathLike[str]) -> LoadStream:
        """Open a ``.npy`` or ``.npz`` file (compressed or not), told apart by content; about 2 MB of it are held at a time.

        What the file may hold is described in docs/load-files.md; nothing is ever unpickled. Each iteration opens it anew.

        Raises
        ------
        FileError
            When the file cannot be read, is of another kind (the message says what streams), or holds something else.
        """
        found = open_steps(path)
        steps, layers, experts = found.shape
        try:
            return cls(
                partial(read_steps, found), layers, experts, steps, *found.names, name=found.name, is_in_order=found.is_in_order
            )
        except ArgumentError as error:
            raise _of_file(found.name, error) from error

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Give the same steps as iterating, several at a time as the source has them: [some steps, layers, experts]."""
        done, total = 0, 0.0
        for given in self._given():
            try:
                block = self._as_block(given, done)
                total = check_total(block, float(block.max()), total)
            except ArgumentError as error:
                raise self._named(error) from error
            done += len(block)
            yield block
        if done < (self.num_steps or 1):
            raise self._named(_ended(done, self.num_steps))

    def sum(self) -> npt.NDArray[Any]:
        """Add up all steps in order: [layers, experts], int64 for integer loads, else float64."""
        total = self._no_load()
        for step in self:
            total = _plus(total, step)
        return frozen(total)

    def windows(self, num_steps: int) -> LoadStream:
        """Return the stream of every ``num_steps`` consecutive steps added up, as :meth:`LoadTrace.windows` does.

        No more than a window and a block of this stream are held. Steps left over at the end are left out.

        Raises
        ------
        ArgumentError
            When ``num_steps`` is no whole number >= 1, or above the number of steps, where that is known.
        """
        check_integer("window", num_steps)
        if self.num_steps is not None and num_steps > self.num_steps:
            raise ArgumentError(
                f"window is {num_steps} steps",
                f"it must lie between 1 and the {self.num_steps} steps of the stream",
                "take fewer steps or record more",
            )
        spans = [slice(w * num_steps, (w + 1) * num_steps) for w in range((self.num_steps or 0) // num_steps)]
        return LoadStream(
            partial(self._windows, num_steps),
            self.num_layers,
            self.num_experts,
            None if self.num_steps is None else len(spans),
            self.layer_ids,
            None if self.labels is None else [join_labels(self.labels[span]) for span in spans],
            None if self.phases is None else [join_phases(self.phases[span]) for span in spans],
            is_in_order=self.is_in_order,
        )

    def check_order(self, what: str) -> None:
        """Refuse ``what`` where steps may not follow one another in time (docs/semantics.md, 21)."""
        if not self.is_in_order:
            raise out_of_order(what)

    def _windows(self, num_steps: int) -> Iterator[npt.NDArray[Any]]:
        total = self._no_load()
        for count, step in enumerate(self, 1):
            total = _plus(total, step)
            if count % num_steps == 0:
                yield frozen(total)
                total = self._no_load()

    def _given(self) -> Iterator[Any]:
        source = self.source() if callable(self.source) else self.source
        try:
            return iter(source)
        except TypeError as error:
            raise ArgumentError(
                f"source returns a {type(source).__name__}", "it must return an iterator of steps", "write it with yield"
            ) from error

    def _shape_of_first(self, asked: tuple[int, int]) -> tuple[int, int]:
        given = self._given()
        if given is self._given():
            raise _only_once(given)
        first = next(given, None)
        if isinstance(given, Generator):
            given.close()
        if first is None:
            raise _ended(0, self.num_steps)
        found = as_steps(first).shape[1:]
        return asked[0] or found[0], asked[1] or found[1]

    def _as_block(self, given: object, done: int) -> npt.NDArray[Any]:
        try:
            block = as_steps(given)
        except ArgumentError as error:
            raise ArgumentError(f"step {done}: {error.found}", error.rule, error.next_step) from error
        if block.shape[1:] != (self.num_layers, self.num_experts):
            raise ArgumentError(
                f"step {done} has shape {list(block.shape[1:])}",
                f"all steps must have the same, {[self.num_layers, self.num_experts]}",
                "mend that step",
            )
        check_tokens(block, done)
        if self.num_steps is not None and done + len(block) > self.num_steps:
            raise _ended(done + len(block), self.num_steps)
        return block

    def _named(self, error: ArgumentError) -> ArgumentError | FileError:
        return _of_file(self.name, error) if self.name else error

    def _no_load(self) -> npt.NDArray[Any]:
        return np.zeros((self.num_layers, self.num_experts), np.int64)


def _check_source(source: object) -> None:
    if callable(source):
        return
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise ArgumentError(
            f"source is a {type(source).__name__}",
            "it must be iterable, or a function that returns an iterator",
            "give a list of steps, an array [steps, layers, experts], or a function; LoadStream.open takes a path",
        )
    if isinstance(source, (str, PathLike)):
        raise ArgumentError(f"source is {str(source)!r}", "a path is opened first", "call LoadStream.open(path)")
    if isinstance(source, Iterator):
        raise _only_once(source)


def _only_once(source: object) -> ArgumentError:
    return ArgumentError(
        f"source gives a {type(source).__name__} that can be read only once",
        "a stream starts again at each iteration",
        "give a function that makes a new one at each call",
    )


def _ended(found: int, wanted: int | None) -> ArgumentError:
    rule = "it needs at least one" if wanted is None else f"num_steps says {wanted}"
    many = "more than num_steps" if wanted is not None and found > wanted else str(found)
    return ArgumentError(f"the source gives {many} steps", rule, "record it again, or say how many there are")


def _of_file(name: str, error: ArgumentError) -> FileError:
    return FileError(f"{name}: {error.found}", error.rule, error.next_step)


def _plus(total: npt.NDArray[Any], step: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Add in place; whole loads stay whole until the first that is a float."""
    if step.dtype.kind == "f":
        total = total.astype(np.float64, copy=False)
    total += step
    return total
