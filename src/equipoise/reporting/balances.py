"""Balance per layer, maps of load and time, and the hottest experts: what a load and its placements are, taken together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipoise import metrics
from equipoise.dispatching.splitting import dispatch as split
from equipoise.kernels.types import Floats
from equipoise.placement import Placement
from equipoise.planning.planner import plan
from equipoise.reporting.asked import Asked, NamedPlacement
from equipoise.reporting.report import (
    Balance,
    HeatMap,
    HotExpert,
    PlacementBalance,
    WorstLayer,
    numbers,
)
from equipoise.reporting.shrinking import shrink_map
from equipoise.trace import LoadTrace

_WORST = 5
_HOTTEST = 12


def weigh(trace: LoadTrace, named: Sequence[NamedPlacement], asked: Asked) -> Balance:
    """Hold placements, on all windows added up, against each other and against what no placement exceeds."""
    load = trace.sum()
    after = named[-1].placement
    best = plan(
        load,
        after.cluster,
        num_groups=asked.num_groups,
        locality="strict" if asked.locality == "strict" else "none",
        effort=asked.effort,
        dispatch=asked.dispatch,
    )
    shares = [_layer_times(one.placement, load, asked.dispatch) for one in named]
    before = [None, *(one.placement for one in named)]
    layers = [metrics.layer_balancedness(*times) for times in shares]
    limit = metrics.layer_balancedness(best.bound, best.ideal)
    order = np.lexsort((np.arange(trace.num_layers), np.nan_to_num(layers[-1], nan=np.inf)))[:_WORST]
    return Balance(
        layer_ids=tuple(int(number) for number in trace.layer_ids),
        placements=tuple(
            PlacementBalance(
                name=one.name,
                scored="in-sample" if one.is_planned else "this load",
                slots=one.placement.cluster.num_slots,
                balancedness=metrics.balancedness(*times),
                worst_layer=metrics.worst_layer(*times),
                by_layer=numbers(layer),
                moves=_count_moves(one.placement, earlier),
                duplicates=int(one.placement.duplicates.sum()),
            )
            for one, times, layer, earlier in zip(named, shares, layers, before, strict=False)
        ),
        bound=metrics.balancedness(best.bound, best.ideal),
        bound_by_layer=numbers(limit),
        worst=tuple(
            WorstLayer(int(trace.layer_ids[x]), float(layers[0][x]), float(layers[-1][x]), float(limit[x]))
            for x in order
            if not np.isnan(layers[-1][x])
        ),
    )


def _count_moves(placement: Placement, earlier: Placement | None) -> int | None:
    if earlier is None or earlier.cluster.num_ranks != placement.cluster.num_ranks:
        return None
    return int(placement.moves_from(earlier).sum())


def _rank_load(placement: Placement, load: Floats, dispatch: str) -> Floats:
    return split(load, placement).rank_load if dispatch == "optimal" else placement.rank_load(load)


def _layer_times(placement: Placement, load: Floats, dispatch: str) -> tuple[Floats, Floats]:
    """Return the largest rank time and the ideal time of each layer, of the load that is served."""
    speeds, alive = np.asarray(placement.cluster.rank_speeds), np.asarray(placement.cluster.alive)
    rank_load = _rank_load(placement, load, dispatch)
    return (rank_load / speeds).max(axis=1), rank_load.sum(axis=1) / float(speeds[alive].sum())


def draw_maps(trace: LoadTrace, named: Sequence[NamedPlacement], asked: Asked) -> tuple[HeatMap, ...]:
    """Return the maps of experts' tokens, and of ranks' time before and after."""
    load = trace.sum()
    found = [_map("experts", "Tokens of each expert", "expert", _over_mean(load))]
    for key, one in (("before", named[0]), ("after", named[-1])):
        times = _over_ideal(one.placement, load, asked.dispatch)
        found.append(_map(key, f"Time of each rank, {key}: {one.name}", "rank", times))
    return tuple(found)


def _over_ideal(placement: Placement, load: Floats, dispatch: str) -> Floats:
    """Return each rank's time over its layer's ideal time [layers, ranks]; nan for ranks that are down."""
    speeds, alive = np.asarray(placement.cluster.rank_speeds), np.asarray(placement.cluster.alive)
    rank_load = _rank_load(placement, load, dispatch)
    ideal = rank_load.sum(axis=1, keepdims=True) / float(speeds[alive].sum())
    return np.where(alive, _over(rank_load / speeds, ideal), np.nan)


def _over(values: Floats, level: Floats) -> Floats:
    """Return values over what they are where all is level; 0 for layers without load."""
    return np.divide(values, level, out=np.zeros_like(values), where=level > 0)


def _map(key: str, what: str, columns: str, over_level: Floats) -> HeatMap:
    small, rows_each, columns_each = shrink_map(over_level)
    return HeatMap(
        key=key,
        what=what,
        columns=columns,
        values=tuple(numbers(row.round(3)) for row in small),
        first_rows=tuple(range(0, over_level.shape[0], rows_each)),
        first_columns=tuple(range(0, over_level.shape[1], columns_each)),
        rows_each=rows_each,
        columns_each=columns_each,
    )


def _over_mean(load: Floats) -> Floats:
    values = load.astype(np.float64)
    return _over(values, values.mean(axis=1, keepdims=True))


def find_hottest(trace: LoadTrace, after: Placement) -> tuple[HotExpert, ...]:
    """Return the experts with most load over their layer's mean, ties by layer and expert."""
    over_mean = _over_mean(trace.sum())
    rank_of_slot = after.cluster.rank_of_slot
    found = []
    for place in np.argsort(-over_mean, axis=None, kind="stable")[:_HOTTEST]:
        layer, expert = divmod(int(place), trace.num_experts)
        slots = np.flatnonzero(after.expert_of_slot[layer] == expert)
        if over_mean[layer, expert] > 0:
            found.append(
                HotExpert(
                    layer_id=int(trace.layer_ids[layer]),
                    expert=expert,
                    times_mean=float(over_mean[layer, expert]),
                    share=float(over_mean[layer, expert] / trace.num_experts),
                    ranks=tuple(int(rank) for rank in rank_of_slot[slots]),
                )
            )
    return tuple(found)
