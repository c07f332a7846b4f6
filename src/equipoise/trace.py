"""LoadTrace: tokens per step, layer and expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from equipoise.arrays import frozen
from equipoise.checks import check_integer
from equipoise.errors import ArgumentError, FileError
from equipoise.files.loads import Hints, read_load, write_load
from equipoise.files.placements import FoundPlacement, read_any
from equipoise.steps import (
    LARGEST,
    LARGEST_WHOLE,
    add_up,
    as_labels,
    as_layer_ids,
    as_phases,
    as_source_load,
    as_steps,
    check_tokens,
    check_total,
    join_labels,
    join_phases,
    out_of_order,
)

_EXAMPLE = Path(__file__).parent / "data" / "gpt-oss-20b-decode.npz"


@dataclass(frozen=True)
class Origin:
    """The file a trace was read from: its format's name, and a sentence on each thing left out or not known for certain.

    ``may_be_slots`` where the format counts slots, and no placement or model said which expert each held.
    """

    format: str
    remarks: tuple[str, ...] = ()
    may_be_slots: bool = False


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
    phases : sequence of str, optional
        What each step does, such as ``prefill`` or ``decode``; any names but empty ones.
    source_load : array_like [steps, source ranks, layers, experts], optional
        The same tokens by the rank that they came from; over the sources they add up to ``load``.
    is_in_order : bool
        False where steps may not follow one another in time, as in a ring buffer that wrapped (docs/semantics.md, 21).
    origin : Origin, optional
        What the trace was read from; parts and windows of a trace keep it, mixes have none.

    Raises
    ------
    ArgumentError
        On another shape, or a load that is negative, nan or infinite (the message names step, layer and expert), and on source
        loads that do not add up.

    Examples
    --------
    >>> trace = LoadTrace([[[3, 1]], [[2, 2]]])
    >>> trace.load.shape, trace.sum().tolist()
    ((2, 1, 2), [[5, 3]])
    """

    load: npt.NDArray[Any]
    layer_ids: Sequence[int] = ()
    labels: Sequence[str] | None = None
    phases: Sequence[str] | None = None
    source_load: npt.NDArray[Any] | None = None
    is_in_order: bool = True
    origin: Origin | None = None

    def __post_init__(self) -> None:
        load = as_steps(self.load)
        check_tokens(load)
        check_total(load, float(load.max()))
        object.__setattr__(self, "load", load)
        object.__setattr__(self, "layer_ids", as_layer_ids(self.layer_ids, load.shape[1]))
        object.__setattr__(self, "labels", as_labels(self.labels, load.shape[0]))
        object.__setattr__(self, "phases", as_phases(self.phases, load.shape[0]))
        if self.source_load is not None:
            object.__setattr__(self, "source_load", as_source_load(self.source_load, load))

    @classmethod
    def read(
        cls,
        path: str | PathLike[str] | BinaryIO,
        format: str = "auto",  # noqa: A002 - the word that people type
        *,
        num_experts: int | None = None,
        layer_ids: Iterable[int] = (),
        active: str | PathLike[str] | FoundPlacement | None = None,
        is_in_order: bool | None = None,
    ) -> LoadTrace:
        """Read what an engine recorded, or a plain matrix: formats are told apart by content, not by name.

        docs/load-files.md describes each. Nothing is ever unpickled. A 1,200 x 58 x 256 trace stays under 1 GB of memory, JSON
        included.

        Parameters
        ----------
        path : path or binary stream
            A file, or a folder with the files of all ranks; ``-`` is standard input.
        format : str
            The name of the format, where content does not tell.
        num_experts : int, optional
            Experts of each layer, where the file names only those that were picked.
        layer_ids : iterable of int
            The model's numbers of its MoE layers. Files with rows for dense layers give these rows.
        active : path or FoundPlacement, optional
            The placement in use while the load was recorded, where the file counts slots.
        is_in_order : bool, optional
            Whether steps follow one another in time, where the file does not tell; then it is taken as it stands.

        Raises
        ------
        FileError
            When the file cannot be read or holds something else.
        MissingExtraError
            For ``.pt`` without torch.
        """
        layers = tuple(int(i) for i in layer_ids)
        if active is not None and not isinstance(active, FoundPlacement):
            active = read_any(active, layer_ids=layers, num_experts=num_experts)
        hints = Hints(num_experts, layers, active, is_in_order)
        found = read_load(path, format, hints)
        in_order = found.is_in_order if is_in_order is None else is_in_order
        origin = Origin(found.format, (*found.remarks, *_remarks_on(active)), found.may_be_slots)
        try:
            return cls(found.load, found.layer_ids, found.labels, found.phases, found.source_load, in_order, origin)
        except ArgumentError as error:
            raise FileError(f"{found.name}: {error.found}", error.rule, error.next_step) from error

    @classmethod
    def example(cls) -> LoadTrace:
        """Return the load that ships: gpt-oss-20b decoding, 31 windows of 16 steps, 24 layers, 32 experts."""
        return cls.read(_EXAMPLE)

    @staticmethod
    def mix(traces: Sequence[LoadTrace], weights: Sequence[float] | None = None) -> LoadTrace:
        """Add up several traces step by step, as if their traffic were served together.

        The shortest trace sets the length. A label that all traces give a step stays, others are joined with ``+``; a phase
        stays where all agree, else it is ``mixed``; both are dropped unless every trace has them, and so are source loads,
        unless all have as many source ranks.

        Parameters
        ----------
        traces : sequence of LoadTrace
            With the same ``layer_ids`` and number of experts.
        weights : sequence of float, optional
            A factor > 0 for each trace. Default: 1 each. Whole factors of whole loads give whole loads; others give float64,
            not rounded.

        Raises
        ------
        ArgumentError
            On traces that do not fit one another, and on bad weights.

        Examples
        --------
        >>> code, chat = LoadTrace([[[4, 0]]], labels=["code"]), LoadTrace([[[1, 3]]], labels=["chat"])
        >>> mixed = LoadTrace.mix([code, chat], [1, 2])
        >>> mixed.load.tolist(), mixed.labels
        ([[[6, 6]]], ('code+chat',))
        """
        traces = tuple(traces)
        _check_fit(traces)
        factors = _as_weights(weights, len(traces))
        steps = min(trace.num_steps for trace in traces)
        return LoadTrace(
            frozen(_add_weighted([trace.load[:steps] for trace in traces], factors)),
            traces[0].layer_ids,
            _names_together([trace.labels for trace in traces], steps, join_labels),
            _names_together([trace.phases for trace in traces], steps, join_phases),
            _sources_together([trace.source_load for trace in traces], factors, steps),
            all(trace.is_in_order for trace in traces),
        )

    def write(self, path: str | PathLike[str]) -> None:
        """Write the trace as ``.npz``, atomically; :meth:`read` gives it back."""
        write_load(path, self.load, self.layer_ids, self.labels, self.phases, self.source_load, is_in_order=self.is_in_order)

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
        return add_up(self.load)

    def windows(self, num_steps: int) -> LoadTrace:
        """Add up every ``num_steps`` consecutive steps; steps left over at the end are left out.

        A label or phase that all steps of a window share stays. Different labels are joined with ``+`` in order of first
        appearance, from the fourth on counted (``a+b+c+2 more``); the phase of a window with several phases is ``mixed``. For
        windows of one phase, take :meth:`phase` first.

        >>> LoadTrace([[[1, 2]], [[3, 4]], [[5, 6]]]).windows(2).load.tolist()
        [[[4, 6]]]
        """
        self._check_steps("window", num_steps)
        return self._added_up([w * num_steps for w in range(self.num_steps // num_steps + 1)])

    def windows_of_tokens(self, tokens: float) -> LoadTrace:
        """Add up consecutive steps until a window has at least ``tokens`` routed tokens; those left over are left out.

        What counts is the mean layer total, over the layers that have load anywhere in the trace. A token counts once for each
        expert it picks: with 8 experts a token, 1,000 tokens of text are 8,000 here. Labels and phases as :meth:`windows` does.

        Raises
        ------
        ArgumentError
            When ``tokens`` is no number above 0, or more than the whole trace has.

        Examples
        --------
        >>> LoadTrace([[[1, 2]], [[3, 4]], [[5, 6]], [[1, 0]]]).windows_of_tokens(10).load.tolist()
        [[[4, 6]], [[5, 6]]]
        """
        needed = _as_positive("tokens", tokens)
        dtype = np.int64 if self.load.dtype.kind in "iu" else np.float64
        totals = self.load.sum(axis=2, dtype=dtype)
        busy = totals.any(axis=0)
        starts = _starts_of_windows(totals[:, busy].sum(axis=1).tolist(), needed * int(busy.sum()))
        if len(starts) < 2:
            held = float(totals[:, busy].mean(axis=1).sum()) if busy.any() else 0.0
            raise ArgumentError(
                f"tokens is {tokens}",
                f"a window must fit in the trace, which has {held:,.10g} in the mean layer",
                "ask for fewer or record more",
            )
        return self._added_up(starts)

    def last(self, num_steps: int) -> LoadTrace:
        """Return the last ``num_steps`` steps.

        Raises
        ------
        ArgumentError
            When there are fewer, or steps are not known to be in order.
        """
        self._check_steps("last", num_steps)
        if num_steps < self.num_steps:
            self.check_order("the last steps")
        return self._picked(range(self.num_steps - num_steps, self.num_steps), self.load[-num_steps:])

    def phase(self, name: str) -> LoadTrace:
        """Return the steps of one phase, in order.

        Raises
        ------
        ArgumentError
            When no step is of that phase, or the trace has no phases; the message names those there are.

        Examples
        --------
        >>> LoadTrace([[[1, 2]], [[3, 4]], [[5, 6]]], phases=["prefill", "decode", "decode"]).phase("decode").num_steps
        2
        """
        steps = [step for step, phase in enumerate(self.phases or ()) if phase == name]
        if not steps:
            known = ", ".join(dict.fromkeys(self.phases or ())) or "none"
            raise ArgumentError(
                f"phase is {name!r}", f"it must be one of the phases of the trace ({known})", "choose one, or give phases"
            )
        return self._picked(steps, frozen(self.load[steps]))

    def check_order(self, what: str) -> None:
        """Refuse ``what`` where steps may not follow one another in time (docs/semantics.md, 21)."""
        if not self.is_in_order:
            raise out_of_order(what)

    def _picked(self, steps: Sequence[int], load: npt.NDArray[Any]) -> LoadTrace:
        labels = None if self.labels is None else [self.labels[step] for step in steps]
        phases = None if self.phases is None else [self.phases[step] for step in steps]
        sources = None if self.source_load is None else frozen(self.source_load[list(steps)])
        return LoadTrace(load, self.layer_ids, labels, phases, sources, self.is_in_order, self.origin)

    def _added_up(self, starts: Sequence[int]) -> LoadTrace:
        """Add up the steps between each two successive ``starts``."""
        spans = [slice(start, end) for start, end in pairwise(starts)]
        added = np.stack([add_up(self.load[span]) for span in spans])
        labels = None if self.labels is None else [join_labels(self.labels[span]) for span in spans]
        phases = None if self.phases is None else [join_phases(self.phases[span]) for span in spans]
        sources = None
        if self.source_load is not None:
            sources = frozen(np.stack([add_up(self.source_load[span]) for span in spans]))
        return LoadTrace(frozen(added), self.layer_ids, labels, phases, sources, self.is_in_order, self.origin)

    def _check_steps(self, name: str, num_steps: int) -> None:
        if check_integer(name, num_steps, least=-(2**63)) < 1 or num_steps > self.num_steps:
            raise ArgumentError(
                f"{name} is {num_steps} steps",
                f"it must lie between 1 and the {self.num_steps} steps of the trace",
                "take fewer steps or record more",
            )


def _remarks_on(active: FoundPlacement | None) -> tuple[str, ...]:
    """Return what reading the active placement left to say, with its name."""
    return () if active is None else tuple(f"{active.name or 'active placement'}: {remark}" for remark in active.remarks)


def _names_together(
    given: Sequence[Sequence[str] | None], num_steps: int, joined: Callable[[Iterable[str]], str]
) -> list[str] | None:
    known = [names for names in given if names is not None]
    if len(known) < len(given):
        return None
    return [joined([names[step] for names in known]) for step in range(num_steps)]


def _sources_together(
    given: Sequence[npt.NDArray[Any] | None], factors: Sequence[float], num_steps: int
) -> npt.NDArray[Any] | None:
    known = [sources[:num_steps] for sources in given if sources is not None]
    if len(known) < len(given) or len({sources.shape[1] for sources in known}) != 1:
        return None
    return frozen(_add_weighted(known, factors))


def _as_positive(name: str, value: object) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 < cast(float, value) <= LARGEST:
        raise ArgumentError(f"{name} is {value!r}", f"it must be a number above 0, at most {LARGEST:g}", "give such a number")
    return cast(float, value)


def _as_weights(given: Sequence[float] | None, count: int) -> list[float]:
    """Return one factor a trace: ints where all are whole, so that whole loads stay whole."""
    if given is None:
        return [1] * count
    weights = [_as_positive(f"weights[{i}]", weight) for i, weight in enumerate(given)]
    if len(weights) != count:
        raise ArgumentError(f"weights has {len(weights)} entries", f"it needs one a trace ({count})", "give one factor a trace")
    if all(weight == int(weight) for weight in weights):
        return [int(weight) for weight in weights]
    return [float(weight) for weight in weights]


def _check_fit(traces: Sequence[LoadTrace]) -> None:
    if not traces:
        raise ArgumentError("traces is empty", "a mix needs at least one trace", "give the traces to add up")
    for number, trace in enumerate(traces):
        if not isinstance(trace, LoadTrace):
            raise ArgumentError(
                f"traces[{number}] is a {type(trace).__name__}", "a mix adds up LoadTraces", "make one with LoadTrace(load)"
            )
        first = traces[0]
        if trace.load.shape[1:] != first.load.shape[1:]:
            raise ArgumentError(
                f"traces[{number}] has {trace.num_layers} layers of {trace.num_experts} experts",
                f"it needs those of traces[0], {first.num_layers} of {first.num_experts}",
                "mix traces of one model",
            )
        if trace.layer_ids != first.layer_ids:
            raise ArgumentError(
                f"traces[{number}] has the layer_ids {_shown(trace.layer_ids)}",
                f"it needs those of traces[0], {_shown(first.layer_ids)}",
                "mix traces of one model",
            )


def _shown(layer_ids: Sequence[int]) -> str:
    return ", ".join(str(i) for i in layer_ids[:8]) + (", ..." if len(layer_ids) > 8 else "")


def _add_weighted(loads: Sequence[npt.NDArray[Any]], factors: Sequence[float]) -> npt.NDArray[Any]:
    """Add up step by step: beside the result only a step of temporary memory."""
    is_whole = all(load.dtype.kind in "iu" for load in loads) and all(isinstance(factor, int) for factor in factors)
    _check_mixed_total(loads, factors, LARGEST_WHOLE if is_whole else LARGEST)
    total = np.zeros(loads[0].shape, np.int64 if is_whole else np.float64)
    for load, factor in zip(loads, factors, strict=True):
        for sum_of_step, step in zip(total, load, strict=True):
            sum_of_step += factor * step.astype(total.dtype)
    return total


def _check_mixed_total(loads: Sequence[npt.NDArray[Any]], factors: Sequence[float], limit: float) -> None:
    total = sum(factor * float(load.sum(dtype=np.float64)) for load, factor in zip(loads, factors, strict=True))
    if max(total, *factors) > limit:
        raise ArgumentError(
            f"the weighted loads add up to {total:g}", f"weights and all loads together must be at most {limit:g}", "scale them"
        )


def _starts_of_windows(totals: Iterable[float], needed: float) -> list[int]:
    """Return where windows start, and last where the last one ends: each as soon as it has what is needed."""
    starts = [0]
    held: float = 0
    for step, total in enumerate(totals, 1):
        held += total
        if held >= needed > 0:
            starts.append(step)
            held = 0
    return starts
