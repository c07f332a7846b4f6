"""The second objective: of all splits that keep every rank within the proven level, the nearest, or the least changed.

Many splits reach the least largest rank time. These are told apart here, layer by layer, by a linear program:

- *near*: tokens stay on the rank where their router ran, or else on its node. A token costs 0, 1 or ``far``.
- *previous*: as few tokens as possible go elsewhere than the shares of the batch before would send them.

Why the programs are small
    Both are wishes of one form: as much as possible of what a set of replicas receives, up to a cap. An expert's replicas on a
    rank receive own tokens up to what the rank itself has, those on a node up to what the node has, and both at once: lay own
    tokens first, then those of the node. So sources need no variables. Tokens moved against before are those not kept, and a
    slot keeps up to what it had. Experts held by one rank have no choice and are left out.

The programs are solved by scipy's HiGHS, by the simplex method: the same bytes on repetition, but not promised to be the same
with another scipy or CPU. Where several processes must agree, one computes and tells the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.cluster import Cluster
from equipoise.dispatching.checking import AGREE, check_sums, checked, checked_slots
from equipoise.errors import ArgumentError, EquipoiseError, InvalidPlacementError
from equipoise.kernels.types import Floats, Ints

_TOLERANCE = 1e-9  # a rank's load may lie above level * speed by this part
_DUST = 1e-12  # part of the heaviest expert's tokens that is not told from nothing
_SUM_ROUNDING = 1e-6  # shares may add up to more than 1 by as much
_INFEASIBLE = 2  # as scipy says it
_NEXT_STEP = "split without wishes, which needs no solver, and please report this load"
_OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}  # the solver takes no smaller ones


@dataclass(frozen=True, eq=False)
class _Free:
    """What has a choice in one layer: experts held by several ranks, one place for each rank that holds one."""

    expert: Ints  # [places]
    rank: Ints  # [places]
    total: Floats  # [places] load of the place's expert
    room: Floats  # [ranks] tokens that a rank may take beside those that have no choice


@dataclass(frozen=True, eq=False)
class _Wish:
    """As much as possible in each group of places, up to its cap."""

    group: Ints  # [places]
    cap: Floats  # [groups]
    weight: float = 1.0


def prefer_near(
    expert_of_slot: npt.ArrayLike,
    cluster: Cluster,
    load: npt.ArrayLike,
    level: npt.ArrayLike,
    source_load: npt.ArrayLike,
    *,
    far: float = 9.0,
) -> Floats:
    """Split each expert's tokens so that they travel least, within the level.

    Parameters
    ----------
    expert_of_slot : int [layers, slots]
        Expert in each slot, -1 for none. Slots of ranks that are down take nothing.
    cluster : Cluster
        Ranks, their nodes and speeds.
    load : float [layers, experts]
        Tokens of each expert.
    level : float [layers]
        Largest rank time allowed: the least there is, or any above it.
    source_load : float [ranks, layers, experts]
        Tokens whose router ran on each rank; over ranks they add up to ``load``.
    far : float
        Cost of a token that leaves its node, >= 1; one that leaves its rank only costs 1, and one that stays 0.

    Returns
    -------
    float64 [layers, slots]
        Tokens of each slot. Rank loads lie within level * speed, but for one part in 10^9.

    Raises
    ------
    ArgumentError
        When arrays do not fit each other, or no split keeps to the level.
    InvalidPlacementError
        When an expert has load and no slot.
    EquipoiseError
        When the solver fails: seen only where loads differ by a factor of 10^18 and speeds by one of 1000.

    Examples
    --------
    Expert 0 is on both ranks, and all its tokens come from rank 1:

    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2)
    >>> prefer_near([[0, 1, 0, 2]], cluster, [[4, 1, 1]], [5.0], [[[0, 1, 0]], [[4, 0, 1]]]).tolist()
    [[0.0, 1.0, 4.0, 1.0]]
    """
    return _prefer(expert_of_slot, cluster, load, level, source_load, None, far)


def prefer_previous(
    expert_of_slot: npt.ArrayLike,
    cluster: Cluster,
    load: npt.ArrayLike,
    level: npt.ArrayLike,
    shares_before: npt.ArrayLike,
) -> Floats:
    """Split each expert's tokens so that the least go elsewhere than ``shares_before`` would send them, within the level.

    What is least is the sum of the differences between tokens and ``shares_before`` * load. ``shares_before`` [layers, slots]
    are parts of an expert's load; they may add up to less than 1 where a replica is gone. All else is as in
    :func:`prefer_near`.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2)
    >>> prefer_previous([[0, 1, 0, 2]], cluster, [[4, 1, 1]], [4.0], [[1, 1, 0, 1]]).tolist()
    [[3.0, 1.0, 1.0, 1.0]]
    """
    return _prefer(expert_of_slot, cluster, load, level, None, shares_before, 1.0)


def prefer_near_then_previous(
    expert_of_slot: npt.ArrayLike,
    cluster: Cluster,
    load: npt.ArrayLike,
    level: npt.ArrayLike,
    source_load: npt.ArrayLike,
    shares_before: npt.ArrayLike,
    *,
    far: float = 9.0,
) -> Floats:
    """Split each expert's tokens so that they travel least, and of all such splits take the least changed.

    One follows the other, without weights between them. All else is as in :func:`prefer_near` and :func:`prefer_previous`.

    Examples
    --------
    Two of the tokens cannot stay on rank 0, and all other ranks are equally far; so they go where they went before:

    >>> cluster, source_load = Cluster(num_ranks=3, slots_per_rank=1, num_nodes=3), [[[4]], [[0]], [[0]]]
    >>> prefer_near_then_previous([[0, 0, 0]], cluster, [[4]], [2.0], source_load, [[0, 0, 1]]).tolist()
    [[2.0, 0.0, 2.0]]
    """
    return _prefer(expert_of_slot, cluster, load, level, source_load, shares_before, far)


def _prefer(
    expert_of_slot: npt.ArrayLike,
    cluster: Cluster,
    load: npt.ArrayLike,
    level: npt.ArrayLike,
    source_load: npt.ArrayLike | None,
    shares_before: npt.ArrayLike | None,
    far: float,
) -> Floats:
    """Check what was given, and prefer layer by layer."""
    if not 1.0 <= far < np.inf:
        raise ArgumentError(f"far is {far!r}", "it must be finite and >= 1, as leaving the rank only costs 1", "give 1 or more")
    slots = checked_slots(expert_of_slot, cluster)
    tokens = checked("load", load, (len(slots), None))
    levels = checked("level", level, (len(slots),))
    source = None
    if source_load is not None:
        source = checked("source_load", source_load, (cluster.num_ranks, *tokens.shape))
        check_sums("source_load", source.sum(axis=0), tokens)
    before = None
    if shares_before is not None:
        before = checked("shares_before", shares_before, slots.shape)
        _check_within_one(slots, before, tokens.shape[1])
    is_up = np.asarray(cluster.alive)[cluster.rank_of_slot]
    result = np.zeros(slots.shape)
    for x, expert in enumerate(slots):
        _check_held(x, expert[is_up], tokens[x])
        slot = np.flatnonzero(is_up & (expert >= 0))
        slot = slot[tokens[x, expert[slot]] > 0.0]
        own = None if source is None else source[:, x]
        kept = None if before is None else before[x, slot] * tokens[x, expert[slot]]
        result[x, slot] = _prefer_in_layer(
            x, expert[slot], cluster.rank_of_slot[slot], cluster, tokens[x], levels[x], own, kept, far
        )
    return result


def _check_within_one(slots: Ints, shares: Floats, num_experts: int) -> None:
    for x, expert in enumerate(slots):
        held = expert >= 0
        total = np.bincount(expert[held], weights=shares[x, held], minlength=num_experts)
        e = int(total.argmax())
        if total[e] > 1.0 + _SUM_ROUNDING:
            raise ArgumentError(
                f"layer {x}, expert {e} had shares that add up to {total[e]}",
                "over the slots of an expert they add up to 1, or less where a replica is gone",
                "divide them by their sum",
            )


def _check_held(layer: int, expert: Ints, load: Floats) -> None:
    held = np.bincount(expert[expert >= 0], minlength=len(load)) > 0
    lost = np.flatnonzero(~held & (load > 0.0))
    if len(lost):
        raise InvalidPlacementError(
            f"layer {layer}: expert {lost[0]} has {load[lost[0]]} tokens and no slot on a rank that is up",
            "every expert with load needs one",
            "plan anew for the ranks that are up",
        )


def _prefer_in_layer(
    layer: int,
    expert: Ints,
    rank: Ints,
    cluster: Cluster,
    load: Floats,
    level: float,
    source: Floats | None,
    kept: Floats | None,
    far: float,
) -> Floats:
    """Return the tokens of slots that hold experts with load; ``source`` is [ranks, experts], ``kept`` [slots]."""
    num_ranks = cluster.num_ranks
    key, place_of_slot = np.unique(expert * num_ranks + rank, return_inverse=True)
    expert_of_place, rank_of_place = key // num_ranks, key % num_ranks
    is_free = np.bincount(expert_of_place, minlength=len(load))[expert_of_place] > 1
    received = load[expert_of_place]
    limit = level * np.asarray(cluster.rank_speeds)
    settled = np.bincount(rank_of_place[~is_free], received[~is_free], num_ranks)
    _check_level(layer, level, bool((settled <= limit * (1.0 + _TOLERANCE)).all()))
    if is_free.any():
        free = _Free(expert_of_place[is_free], rank_of_place[is_free], received[is_free], np.maximum(limit - settled, 0.0))
        wishes = [] if source is None else [_wishes_near(free, np.asarray(cluster.node_of_rank), source, far)]
        if kept is not None:
            cap = np.bincount(place_of_slot, kept)[is_free]
            wishes.append([_Wish(np.arange(len(cap)), cap)])
        found = _solve(free, wishes)
        _check_level(layer, level, found is not None)
        received[is_free] = found
    reached = np.bincount(rank_of_place, received, num_ranks)
    if (reached > limit * (1.0 + _TOLERANCE)).any():
        raise EquipoiseError(f"layer {layer}: the solver broke the level of {level}", "its answer must keep to it", _NEXT_STEP)
    return _over_slots(received, place_of_slot, kept)


def _check_level(layer: int, level: float, holds: bool) -> None:
    if not holds:
        raise ArgumentError(
            f"layer {layer}: level is {level}",
            "some split must keep every rank's load / speed within it",
            "pass the level that the exact split proved for this load and placement",
        )


def _over_slots(received: Floats, place_of_slot: Ints, kept: Floats | None) -> Floats:
    """Lay each place's tokens on its slots: as they were before if they had any, else on the first."""
    is_first = np.zeros(len(place_of_slot))
    is_first[np.unique(place_of_slot, return_index=True)[1]] = 1.0
    if kept is None:
        return received[place_of_slot] * is_first
    total = np.bincount(place_of_slot, kept)[place_of_slot]
    part = np.divide(kept, total, out=is_first, where=total > 0.0)
    return np.asarray(received[place_of_slot] * part)


def _wishes_near(free: _Free, node_of_rank: Ints, source: Floats, far: float) -> list[_Wish]:
    """Stay on the rank, which saves 1, and stay on the node, which saves what leaving it costs more."""
    of_node = np.zeros((int(node_of_rank.max()) + 1, source.shape[1]))
    np.add.at(of_node, node_of_rank, source)
    pair, group = np.unique(free.expert * len(of_node) + node_of_rank[free.rank], return_inverse=True)
    at_home = of_node[pair % len(of_node), pair // len(of_node)]
    return [_Wish(np.arange(len(free.rank)), source[free.rank, free.expert]), _Wish(group, at_home, far - 1.0)]


def _solve(free: _Free, wishes: list[list[_Wish]]) -> Floats | None:
    """Return the tokens of each place, the first wishes fulfilled as far as possible, then the next; None where none fit."""
    from scipy.optimize import linprog  # type: ignore[import-untyped, unused-ignore]
    from scipy.sparse import coo_array, hstack, vstack  # type: ignore[import-untyped, unused-ignore]

    def members(group: Ints, num_groups: int) -> Any:
        """Return a matrix that adds up each group's members."""
        return coo_array((np.ones(len(group)), (group, np.arange(len(group)))), shape=(num_groups, len(group)))

    num_places, num_ranks = len(free.expert), len(free.room)
    unit = 2.0 ** np.frexp(free.total.max())[1]  # a power of two, by which whole tokens stay exact
    _, first, expert = np.unique(free.expert, return_index=True, return_inverse=True)
    every = [wish for stage in wishes for wish in stage]
    sizes = [len(wish.cap) for wish in every]
    weight, num_groups = np.repeat([wish.weight for wish in every], sizes), sum(sizes)
    stage_of_group = np.repeat([i for i, stage in enumerate(wishes) for _ in stage], sizes)
    in_groups = vstack([-members(wish.group, len(wish.cap)) for wish in every])
    rows = vstack(
        [
            hstack([members(free.rank, num_ranks), coo_array((num_ranks, num_groups))]),
            hstack([in_groups, members(np.arange(num_groups), num_groups)]),
        ]
    )
    most = np.concatenate([free.room / unit, np.zeros(num_groups)])
    sums = hstack([members(expert, len(first)), coo_array((len(first), num_groups))])
    caps = np.concatenate([np.full(num_places, np.inf), *(wish.cap / unit for wish in every)])
    for i in range(len(wishes)):
        cost = np.concatenate([np.zeros(num_places), np.where(stage_of_group == i, -weight, 0.0)])
        found = linprog(
            cost,
            A_ub=rows,
            b_ub=most,
            A_eq=sums,
            b_eq=free.total[first] / unit,
            bounds=np.column_stack([np.zeros_like(caps), caps]),
            method="highs-ds",
            options=_OPTIONS,
        )
        if found.status == _INFEASIBLE:
            return None
        if found.status != 0:
            raise EquipoiseError(f"the solver stopped: {found.message}", "it must solve every layer", _NEXT_STEP)
        rows = vstack([rows, coo_array(cost[np.newaxis])])
        most = np.append(most, found.fun + AGREE * (1.0 + abs(found.fun)))
    return _cleaned(np.asarray(found.x[:num_places] * unit), free, _DUST * unit)


def _cleaned(received: Floats, free: _Free, dust: float) -> Floats:
    """Clear what is next to nothing, and let each expert's places add up to its load: the largest takes what is missing."""
    received = np.where(received > dust, received, 0.0)
    for e in np.unique(free.expert):
        mine = np.flatnonzero(free.expert == e)
        largest = mine[np.argmax(received[mine])]
        received[largest] = 0.0
        received[largest] = free.total[largest] - received[mine].sum()
    return received
