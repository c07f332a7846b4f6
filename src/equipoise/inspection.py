"""What a load looks like: its skew, its hottest experts, and what seems wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.trace import LoadTrace

TOP = 8
"""How many experts count as the top ones: what most large models pick for a token."""

_NAMED = 5


@dataclass(frozen=True, eq=False)
class Inspection:
    """A trace added up over its steps, layer by layer.

    ``tokens`` [layers]; ``max_over_mean`` [layers], hottest expert over mean expert (nan without load); ``top_share``
    [layers], share of the load on the TOP hottest; ``hottest`` [layers, up to TOP], expert ids, hottest first;
    ``layers_without_load``, positions; ``findings``, one sentence each, empty when nothing looks wrong.
    """

    tokens: npt.NDArray[Any]
    max_over_mean: npt.NDArray[np.float64]
    top_share: npt.NDArray[np.float64]
    hottest: npt.NDArray[np.int64]
    layers_without_load: tuple[int, ...]
    findings: tuple[str, ...]


def inspect_trace(trace: LoadTrace) -> Inspection:
    """Describe a trace.

    >>> inspect_trace(LoadTrace([[[30, 10], [20, 20]]])).max_over_mean.tolist()
    [1.5, 1.0]
    """
    load = trace.sum()
    tokens = load.sum(axis=1)
    order = np.argsort(-load.astype(np.float64), axis=1, kind="stable")[:, :TOP]
    top = np.take_along_axis(load, order, axis=1)
    with np.errstate(invalid="ignore"):
        max_over_mean = load.max(axis=1) / (tokens / trace.num_experts)
        top_share = top.sum(axis=1) / tokens
    return Inspection(
        tokens=tokens,
        max_over_mean=max_over_mean,
        top_share=top_share,
        hottest=order,
        layers_without_load=tuple(int(layer) for layer in np.flatnonzero(tokens == 0)),
        findings=tuple(_findings(trace, tokens)),
    )


def _findings(trace: LoadTrace, tokens: npt.NDArray[Any]) -> list[str]:
    found = []
    busy = np.flatnonzero(tokens > 0)
    if busy.size < tokens.size:
        found.append(f"no load at all in {_listed('layer', np.flatnonzero(tokens == 0))}")
    if busy.size and not np.allclose(tokens[busy], tokens[busy][0], rtol=1e-9):
        usual = np.median(tokens[busy])
        odd = busy[~np.isclose(tokens[busy], usual, rtol=1e-9)]
        found.append(
            f"layers have unequal totals: {_listed('layer', odd)} not {usual:,.10g} tokens, the median; "
            "every token passes every MoE layer, so counts may be missing, sampled or padded"
        )
    if trace.load.dtype.kind == "f" and (trace.load != np.floor(trace.load)).any():
        found.append("values are not whole numbers: these are no token counts but a forecast, a mean or a share")
    idle = np.flatnonzero(~trace.load.any(axis=(1, 2)))
    if idle.size:
        found.append(f"only zeros in {_listed('step', idle)}: dummy batches, or rows of a ring buffer never written")
    return found


def _listed(what: str, positions: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(int(p)) for p in positions[:_NAMED])
    more = f" and {positions.size - _NAMED} more" if positions.size > _NAMED else ""
    return f"{what}{'s' if positions.size > 1 else ''} {shown}{more}"
