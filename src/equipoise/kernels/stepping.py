"""One step of an engine in one call: a load is looked over, split or given replicas, and all that is asked for is written."""

from __future__ import annotations

from typing import NamedTuple

from equipoise.kernels.compiling import kernel
from equipoise.kernels.filling import Fees, FillWork, fill_rows
from equipoise.kernels.splitting import SplitWork, share_rows, split_rows
from equipoise.kernels.types import Flags, Floats, Ints


class Step(NamedTuple):
    """What one step reads and writes; all arrays but the scratch have a row a layer."""

    load: Floats  # [layers, experts] read-only
    replicas: Ints  # [layers, experts] that stay from step to step
    most: float  # tokens of a layer
    tokens: Floats  # [layers, slots] written, as all below
    shares: Floats  # [layers, slots]
    rank_load: Floats  # [layers, ranks]
    largest: Floats  # [layers]
    bound: Floats  # [layers]
    tight: Flags  # [layers, ranks]
    total: Ints  # [experts] scratch


@kernel
def split_step(begin: int, end: int, slots: Ints, work: SplitWork, step: Step) -> bool:
    """Split the load of layers ``begin`` to ``end``; where one cannot be served, write nothing and return False."""
    if not _can_serve(begin, end, step):
        return False
    split_rows(
        slots[begin:end],
        step.load[begin:end],
        work,
        step.tokens[begin:end],
        step.rank_load[begin:end],
        step.bound[begin:end],
        step.tight[begin:end],
    )
    _finish(begin, end, slots, work, step)
    return True


@kernel
def fill_step(
    begin: int,
    end: int,
    home: Ints,
    held: Ints,
    fees: Fees,
    fill: FillWork,
    work: SplitWork,
    slots: Ints,
    source: Ints,
    moves: Ints,
    step: Step,
) -> bool:
    """Fill spare slots of layers ``begin`` to ``end`` and split their load, as :func:`split_step` does."""
    if not _can_serve(begin, end, step):
        return False
    fill_rows(
        home[begin:end],
        held[begin:end],
        step.load[begin:end],
        fees,
        fill,
        work,
        slots[begin:end],
        source[begin:end],
        step.tokens[begin:end],
        step.rank_load[begin:end],
        step.bound[begin:end],
        step.tight[begin:end],
    )
    _finish(begin, end, slots, work, step)
    for x in range(begin, end):
        moves[x] = 0
        for s in range(source.shape[1]):
            if source[x, s] >= 0:
                moves[x] += 1
    return True


@kernel
def _can_serve(begin: int, end: int, step: Step) -> bool:
    """Tell whether loads are finite, >= 0 and not too large, and every expert with load has a replica that stays."""
    load, replicas = step.load, step.replicas
    for x in range(begin, end):
        total, is_served = 0.0, True
        for e in range(load.shape[1]):
            total += load[x, e]
            is_served &= (load[x, e] == 0.0) | ((load[x, e] > 0.0) & (replicas[x, e] > 0))
        if not (is_served and total <= step.most):
            return False
    return True


@kernel
def _finish(begin: int, end: int, slots: Ints, work: SplitWork, step: Step) -> None:
    """Write the largest rank time, keep the bound from lying above it by rounding, and write shares."""
    for x in range(begin, end):
        step.largest[x] = 0.0
        for r in range(work.speed.shape[0]):
            step.largest[x] = max(step.largest[x], step.rank_load[x, r] / work.speed[r])
        step.bound[x] = min(step.bound[x], step.largest[x])
    share_rows(slots[begin:end], step.load[begin:end], step.tokens[begin:end], step.total, step.shares[begin:end])
