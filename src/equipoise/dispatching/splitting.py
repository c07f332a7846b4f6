"""dispatch(): the split of a batch's tokens over the replicas that lets the slowest rank end soonest, with its proof."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.arrays import frozen
from equipoise.cluster import Cluster
from equipoise.dispatching.preferring import prefer_near, prefer_near_then_previous, prefer_previous
from equipoise.dispatching.routing import crossings, route_sources, share_sources, spread_sources
from equipoise.dispatching.tokens import round_tokens
from equipoise.errors import ArgumentError, InvalidPlacementError
from equipoise.kernels.scoring import add_up_ranks
from equipoise.kernels.splitting import SplitWork, make_split_work, share_rows, split_rows
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.trace import LoadTrace

LONGEST = 1e300
"""Rank times must stay below, so that sums of them do not overflow."""


@dataclass(frozen=True, eq=False)
class Dispatch:
    """An optimal split, and why none is better.

    Attributes
    ----------
    placement : Placement
        What was split over.
    load : float64 [layers, experts]
        What was split.
    shares : float64 [layers, slots]
        Part of its expert's tokens that each slot gets; over an expert's slots they add up to 1, evenly where it has no tokens.
        Of several slots of an expert on one rank the first gets all.
    tokens : float64 [layers, slots]
        The same in tokens, not rounded.
    rank_load : float64 [layers, ranks]
        Tokens of each rank.
    largest, ideal : float64 [layers]
        Largest rank time, and the time of the load lying level over the ranks that are up (docs/semantics.md, 4 and 5).
    bound : float64 [layers]
        Time before which no split over this placement ends.
    gap : float64 [layers]
        largest / bound - 1, >= 0; what rounding leaves.
    tight : bool [layers, ranks]
        The proof: the tokens of all experts held by these ranks alone take them ``bound`` (:func:`proven_level`).
    source_shares : float64 [sources, layers, slots] or None
        How each source rank splits its own tokens, where the load of each was given: as many as can stay on their rank, then
        on their node.
    crossing, crossing_evenly : float64 [layers] or None
        Tokens that leave their node so; and if every rank split its tokens by the shares of a split that knows no sources. What
        is kept low is 1 for a token that leaves its rank and 9 for one that leaves its node, so the first need not be lower.
    """

    placement: Placement
    load: Floats
    shares: Floats
    tokens: Floats
    rank_load: Floats
    largest: Floats
    ideal: Floats
    bound: Floats
    gap: Floats
    tight: Flags
    source_shares: Floats | None = None
    crossing: Floats | None = None
    crossing_evenly: Floats | None = None

    @property
    def balancedness(self) -> float:
        """Sum of ideal over sum of largest rank times, over layers (docs/semantics.md, 5)."""
        return metrics.balancedness(self.largest, self.ideal)

    @property
    def worst_layer(self) -> float:
        """Balancedness of the worst layer that has load."""
        return metrics.worst_layer(self.largest, self.ideal)

    @property
    def fifth_percentile(self) -> float:
        """5th percentile of balancedness over the layers that have load."""
        return metrics.fifth_percentile(self.largest, self.ideal)

    @cached_property
    def whole_tokens(self) -> Ints:
        """Whole tokens of each slot, int64 [layers, slots], that add up to each expert's load: largest remainders first.

        Raises
        ------
        ArgumentError
            Where the load is not whole.
        """
        return round_tokens(self.tokens, self.placement, self.load)


def dispatch(
    load: npt.ArrayLike | LoadTrace,
    placement: Placement,
    *,
    source_load: npt.ArrayLike | None = None,
    previous: npt.ArrayLike | None = None,
) -> Dispatch:
    """Split every expert's tokens over its replicas so that the slowest rank ends as soon as it can.

    Parameters
    ----------
    load : array_like or LoadTrace
        Tokens of the batch, [layers, experts]; steps are added up.
    placement : Placement
        Any whose experts with load all have a slot.
    source_load : array_like [ranks, layers, experts], optional
        Tokens whose router ran on each rank; over ranks they add up to ``load``. Of all optimal splits one is taken that lets
        tokens stay on their rank, or else on their node.
    previous : array_like [layers, slots], optional
        Shares of the batch before. Of all optimal splits (and nearest ones) one is taken that changes least.

    Returns
    -------
    Dispatch
        With a proof for each layer. Without the two wishes a pure function of load and placement, byte for byte; with them as
        deterministic as the solver is.

    Raises
    ------
    ArgumentError
        On arrays that do not fit the placement, or times that floats cannot hold.
    InvalidPlacementError
        When an expert with load has no slot: no token is ever dropped.

    Notes
    -----
    Sweeps that pour each expert's tokens level over its ranks, then augmenting paths between tight sets. About 10 to 25 us a
    layer of 256 experts; the two wishes are linear programs (scipy's HiGHS) of several milliseconds a layer. In rank time
    (docs/semantics.md, 4) the reachable loads form a base polytope, so the vector of least sum of squares has the least maximum
    (Fujishige, Submodular Functions and Optimization, 2005, chapter 8).

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=3)
    >>> found = dispatch([[6, 1, 4]], placement)
    >>> found.shares.round(3).tolist(), found.rank_load.tolist()
    ([[0.75, 1.0, 0.25, 1.0]], [[5.5, 5.5]])
    """
    checked = checked_load(load, placement)
    tokens, rank_load, bound, tight = split_batch(checked, placement)
    crossing = crossing_evenly = source_shares = None
    if source_load is not None or previous is not None:
        plain = tokens
        tokens = _preferred(checked, placement, bound, source_load, previous)
        rank_load = add_up_ranks(tokens, placement.cluster.rank_of_slot, placement.cluster.num_ranks)
    shares = shares_of(placement, checked, tokens)
    if source_load is not None:
        slots, cluster = placement.expert_of_slot, placement.cluster
        routed = route_sources(slots, cluster, tokens, source_load)
        source_shares = share_sources(slots, routed, source_load, shares)
        crossing = crossings(routed, cluster)
        crossing_evenly = crossings(spread_sources(slots, cluster, plain, source_load), cluster)
    return Dispatch(
        placement=placement,
        load=checked,
        shares=shares,
        tokens=tokens,
        rank_load=rank_load,
        tight=tight,
        source_shares=source_shares,
        crossing=crossing,
        crossing_evenly=crossing_evenly,
        **times_of(checked, rank_load, bound, placement.cluster),
    )


def proven_level(load: npt.ArrayLike, placement: Placement, tight: npt.ArrayLike) -> Floats:
    """Return the time that sets of ranks prove, float64 [layers]: no split of ``load`` over the placement ends before it.

    The tokens of an expert that only ranks of the set hold cannot leave the set, which works them off at its total speed.

    Parameters
    ----------
    load : array_like [layers, experts]
        Tokens.
    placement : Placement
        Where experts are.
    tight : array_like of bool [layers, ranks]
        Any set of ranks of each layer, such as :attr:`Dispatch.tight`.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=3)
    >>> proven_level([[6, 1, 4]], placement, [[False, True]]).tolist()
    [4.0]
    >>> proven_level([[6, 1, 4]], placement, [[True, True]]).tolist()
    [5.5]
    """
    inside = np.asarray(tight, bool)
    slots, cluster = placement.expert_of_slot, placement.cluster
    if inside.shape != (placement.num_layers, cluster.num_ranks):
        raise ArgumentError(
            f"tight has shape {list(inside.shape)}",
            f"it must be [{placement.num_layers} layers, {cluster.num_ranks} ranks]",
            "pass sets of ranks of this placement",
        )
    outside = ~inside[:, cluster.rank_of_slot] & (slots >= 0)
    can_leave = np.zeros((placement.num_layers, placement.num_experts), bool)
    layer, slot = np.nonzero(outside)
    can_leave[layer, slots[layer, slot]] = True
    held = np.where(can_leave, 0.0, placement.fitting_load(load)).sum(axis=1)
    width = np.where(inside, np.asarray(cluster.rank_speeds), 0.0).sum(axis=1)
    return np.asarray(np.divide(held, width, out=np.zeros(len(held)), where=width > 0.0))


def split_batch(load: Floats, placement: Placement) -> tuple[Floats, Floats, Floats, Flags]:
    """Split a checked load: tokens [layers, slots], rank loads [layers, ranks], bound [layers], tight [layers, ranks]."""
    num_layers, cluster = placement.num_layers, placement.cluster
    tokens = np.empty((num_layers, cluster.num_slots))
    rank_load = np.empty((num_layers, cluster.num_ranks))
    bound, tight = np.empty(num_layers), np.empty((num_layers, cluster.num_ranks), np.bool_)
    work = split_work(cluster, placement.num_experts)
    split_rows(placement.expert_of_slot, load, work, tokens, rank_load, bound, tight)
    return tokens, rank_load, bound, tight


def split_work(cluster: Cluster, num_experts: int) -> SplitWork:
    """Make the scratch of one thread for a cluster."""
    return make_split_work(num_experts, cluster.rank_of_slot, np.asarray(cluster.rank_speeds, np.float64))


def check_placement(placement: object) -> None:
    """Refuse what is no Placement."""
    if not isinstance(placement, Placement):
        raise ArgumentError(f"placement is a {type(placement).__name__}", "it must be a Placement", "make or read one")


def checked_load(load: npt.ArrayLike | LoadTrace, placement: Placement) -> Floats:
    """Return a load as read-only float64 [layers, experts]; refuse one that the placement cannot serve."""
    check_placement(placement)
    checked = placement.fitting_load(load)
    lost = (checked > 0.0) & (placement.replica_count == 0)
    if lost.any():
        layer, expert = (int(i) for i in np.argwhere(lost)[0])
        raise InvalidPlacementError(
            f"layer {layer}: expert {expert} has {checked[layer, expert]:g} tokens and no slot ({int(lost.sum())} such)",
            "every expert with load needs a slot, no token is dropped",
            "plan anew for the ranks that are up",
        )
    down = ~np.asarray(placement.cluster.alive)[placement.cluster.rank_of_slot]
    if (placement.expert_of_slot[:, down] != ABSENT).any():
        raise InvalidPlacementError(
            "a rank that is down holds experts", "its slots must hold -1", "plan anew for the ranks that are up"
        )
    with np.errstate(over="ignore"):
        longest = checked.sum(axis=1).max(initial=0.0) / min(placement.cluster.rank_speeds)
    if not longest <= LONGEST:
        raise ArgumentError(
            f"a rank could take {longest:g}", f"times must stay below {LONGEST:g}", "scale the load or the speeds"
        )
    return frozen(checked)


def times_of(load: Floats, rank_load: Floats, bound: Floats, cluster: Cluster) -> dict[str, Floats]:
    """Return largest, ideal, bound and gap of each layer from its rank loads."""
    speed = np.asarray(cluster.rank_speeds, np.float64)
    largest = (rank_load / speed).max(axis=1)
    ideal = load.sum(axis=1) / float(speed[np.asarray(cluster.alive)].sum())
    proven = np.minimum(bound, largest)
    gap = np.divide(largest, proven, out=np.ones_like(largest), where=proven > 0.0) - 1.0
    return {"largest": largest, "ideal": ideal, "bound": proven, "gap": gap}


def shares_of(placement: Placement, load: Floats, tokens: Floats) -> Floats:
    """Return tokens [layers, slots] as parts of each expert's load, evenly where it has none."""
    shares = np.empty_like(tokens)
    share_rows(placement.expert_of_slot, load, tokens, np.empty(placement.num_experts, np.int64), shares)
    return shares


def _preferred(
    load: Floats, placement: Placement, level: Floats, source_load: npt.ArrayLike | None, previous: npt.ArrayLike | None
) -> Floats:
    slots, cluster = placement.expert_of_slot, placement.cluster
    if source_load is None:
        assert previous is not None
        return prefer_previous(slots, cluster, load, level, previous)
    if previous is None:
        return prefer_near(slots, cluster, load, level, source_load)
    return prefer_near_then_previous(slots, cluster, load, level, source_load, previous)
