"""plan_batch(): which replicas spare slots hold for one batch, and how its tokens are split over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.arrays import frozen
from equipoise.checks import check_integer, check_number
from equipoise.cluster import Cluster
from equipoise.dispatching.splitting import checked_load, shares_of, split_work, times_of
from equipoise.dispatching.tokens import round_tokens
from equipoise.errors import ArgumentError
from equipoise.kernels.filling import Fees, FillWork, fill_rows, make_fill_work, time_of_links
from equipoise.kernels.splitting import SplitWork
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.trace import LoadTrace


@dataclass(frozen=True)
class MoveTime:
    """What it takes to send one expert, against what it takes to serve tokens.

    Parameters
    ----------
    seconds_per_token : float
        Of one expert's work on one token, at speed 1; > 0.
    expert_bytes : float
        Weights of one expert with its scales; > 0.
    bandwidth : float
        Bytes a second that a rank sends, and receives, within its node.
    node_bandwidth : float
        The same to and from other nodes.

    Examples
    --------
    >>> MoveTime(seconds_per_token=89e-9, expert_bytes=44e6, bandwidth=450e9, node_bandwidth=50e9).tokens(is_near=False) // 1
    9887.0
    """

    seconds_per_token: float
    expert_bytes: float
    bandwidth: float = 450e9
    node_bandwidth: float = 50e9

    def __post_init__(self) -> None:
        for name in ("seconds_per_token", "expert_bytes", "bandwidth", "node_bandwidth"):
            check_number(name, getattr(self, name), above=0.0)

    def tokens(self, is_near: bool) -> float:
        """Return how many tokens could be served while one expert is sent: the break-even of a move."""
        return self.expert_bytes / (self.bandwidth if is_near else self.node_bandwidth) / self.seconds_per_token


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Replicas for one batch, and the optimal split over them.

    Attributes
    ----------
    placement : Placement
        Home experts where they were, each rank's spare slots behind them; ABSENT where one is not used.
    load : float64 [layers, experts]
        The batch.
    shares, tokens : float64 [layers, slots]
        Part of its expert's tokens that each slot gets, and the same in tokens.
    rank_load : float64 [layers, ranks]
        Tokens of each rank.
    largest, ideal : float64 [layers]
        Largest rank time, and the time of the load lying level over the ranks that are up (docs/semantics.md, 4 and 5).
    bound : float64 [layers]
        Time before which no filling of the spare slots ends, however many moves it takes.
    gap : float64 [layers]
        largest / bound - 1, >= 0.
    tight : bool [layers, ranks]
        The proof that no split over *these* replicas is better (:func:`equipoise.dispatching.splitting.proven_level`).
    source : int64 [layers, slots]
        Rank that a slot's replica must be copied from, -1 where nothing moves.
    moves : int64 [layers]
        Replicas that ranks must receive.
    move_time : float64 [layers]
        Time of the rank that sends or receives longest, in tokens; 0 without a :class:`MoveTime`.
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
    source: Ints
    moves: Ints
    move_time: Floats

    @property
    def balancedness(self) -> float:
        """Sum of ideal over sum of largest rank times, over layers (docs/semantics.md, 5); moves are not counted."""
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
        """Whole tokens of each slot that add up to each expert's load (:attr:`equipoise.Dispatch.whole_tokens`)."""
        return round_tokens(self.tokens, self.placement, self.load)


def plan_batch(
    load: npt.ArrayLike | LoadTrace,
    home: Placement,
    spare_slots: int = 1,
    *,
    stop_at: float | None = None,
    gain_per_move: float = 0.0005,
    max_received: int | None = None,
    move_time: MoveTime | None = None,
    prefer_near: bool = False,
    held: Placement | None = None,
) -> BatchPlan:
    """Fill each rank's spare slots for this very batch, and split its tokens: the slowest rank ends soonest, few replicas move.

    Parameters
    ----------
    load : array_like or LoadTrace
        Tokens of the batch, [layers, experts]; steps are added up.
    home : Placement
        What stays: every expert with load has a slot.
    spare_slots : int
        Slots beside its home that each rank which is up has, >= 1.
    stop_at : float, optional
        Largest over ideal rank time that is good enough, >= 1: the filling with few moves that reaches it, or comes nearest, as
        far as moves pay.
    gain_per_move : float
        Part of the ideal time that a move must save, >= 0. The default leaves out moves nobody would notice and takes others
        for free, as nothing is known of links without ``move_time``; 0 takes any.
    max_received : int, optional
        Replicas that a rank may receive, <= spare_slots. Default: all its spare slots.
    move_time : MoveTime, optional
        What moves take. They are then made only where the batch ends earlier by more than the slowest rank takes to send or
        receive; give it wherever weights really move.
    prefer_near : bool
        Prefer receivers on the node of the rank that gives.
    held : Placement, optional
        What slots hold from the batch before (its :attr:`BatchPlan.placement`): kept where good enough, and no move where it
        is used again.

    Returns
    -------
    BatchPlan
        A pure function of its arguments, byte for byte.

    Raises
    ------
    ArgumentError
        On arguments out of range, or a load or ``held`` that do not fit ``home``.
    InvalidPlacementError
        When an expert with load has no slot: no token is ever dropped.

    Notes
    -----
    For a time to keep, ranks above it give to ranks below it, which are always filled to the brim; a rank that gave too much
    receives from others (in the manner of A. J. Walker's alias tables, ACM TOMS 3, 1977). A few such times are tried, then the
    split over the replicas found is made optimal. 30 to 50 us a layer of 256 experts on 32 ranks.

    Examples
    --------
    >>> from equipoise import Cluster, Placement
    >>> home = Placement([[0, 1, 2, 3]], Cluster(num_ranks=4, slots_per_rank=1), num_experts=4)
    >>> found = plan_batch([[10, 4, 1, 1]], home)
    >>> found.rank_load.tolist(), found.moves.tolist(), found.placement.expert_of_slot.tolist()
    ([[4.0, 4.0, 4.0, 4.0]], [2], [[0, -1, 1, -1, 2, 0, 3, 0]])
    """
    checked = checked_load(load, home)
    setting = batch_setting(home, spare_slots, stop_at, gain_per_move, max_received, move_time, prefer_near)
    cluster, at_home, fees, fill, split = setting
    before = at_home if held is None else checked_held(held, home, setting)
    slots = np.empty_like(at_home)
    source, tokens = np.empty_like(at_home), np.empty(at_home.shape)
    rank_load, bound = np.empty((home.num_layers, cluster.num_ranks)), np.empty(home.num_layers)
    tight = np.empty(rank_load.shape, np.bool_)
    fill_rows(at_home, before, checked, fees, fill, split, slots, source, tokens, rank_load, bound, tight)
    placement = Placement(slots, cluster, home.num_experts)
    moves = (source >= 0).sum(axis=1)
    return BatchPlan(
        placement=placement,
        load=checked,
        shares=shares_of(placement, checked, tokens),
        tokens=tokens,
        rank_load=rank_load,
        tight=tight,
        source=source,
        moves=np.asarray(moves, np.int64),
        move_time=_times_to_move(slots, source, fees, cluster),
        **times_of(checked, rank_load, bound, cluster),
    )


class BatchSetting(NamedTuple):
    """What holds for all batches over one home, and the scratch of one thread."""

    cluster: Cluster  # with the spare slots
    at_home: Ints  # [layers, slots] ABSENT in the spare slots
    fees: Fees
    fill: FillWork
    split: SplitWork


def batch_setting(
    home: Placement,
    spare_slots: int,
    stop_at: float | None,
    gain_per_move: float,
    max_received: int | None,
    move_time: MoveTime | None,
    prefer_near: bool,
) -> BatchSetting:
    """Check what :func:`plan_batch` is told beside the load, and make all that batches share."""
    fees = _fees(stop_at, gain_per_move, move_time, prefer_near)
    most = _checked_spare(spare_slots, home)
    if max_received is not None and check_integer("max_received", max_received, 0) > most:
        raise ArgumentError(f"max_received is {max_received}", f"a rank has {most} spare slots", f"take at most {most}")
    most = most if max_received is None else int(max_received)
    cluster = with_spare_slots(home.cluster, spare_slots)
    fill = make_batch_work(cluster, home.num_experts, home.cluster, most)
    return BatchSetting(cluster, spread_home(home, cluster), fees, fill, split_work(cluster, home.num_experts))


def checked_held(held: Placement, home: Placement, setting: BatchSetting) -> Ints:
    """Return what slots hold [layers, slots]; refuse what is not home with its spare slots."""
    cluster, at_home = setting.cluster, setting.at_home
    if not isinstance(held, Placement):
        raise ArgumentError(f"held is a {type(held).__name__}", "it must be a Placement", "pass the last batch's placement")
    found, wanted = (held.num_layers, held.num_experts), (home.num_layers, home.num_experts)
    if found != wanted or held.cluster != cluster:
        raise ArgumentError(
            f"held has {found[0]} layers of {found[1]} experts on {held.cluster.num_slots} slots",
            f"home with its spare slots has {wanted[0]} of {wanted[1]} on {cluster.num_slots}, on the same ranks",
            "pass the placement of the last batch",
        )
    moved = (at_home != ABSENT) & (held.expert_of_slot != at_home)
    if moved.any():
        layer, slot = (int(i) for i in np.argwhere(moved)[0])
        raise ArgumentError(
            f"held has expert {held.expert_of_slot[layer, slot]} in layer {layer}, slot {slot}",
            f"home has expert {at_home[layer, slot]} there, and home stays",
            "leave held out after home has changed",
        )
    twice = np.flatnonzero(held.duplicates > home.duplicates)
    if twice.size:
        raise ArgumentError(
            f"held has an expert twice on a rank in layer {twice[0]}",
            "no spare slot may repeat what its rank holds",
            "pass the placement of the last batch",
        )
    return held.expert_of_slot  # type: ignore[no-any-return]


def with_spare_slots(cluster: Cluster, spare_slots: int) -> Cluster:
    """Return a cluster with so many slots more on each rank that is up.

    >>> with_spare_slots(Cluster(num_ranks=2, slots_per_rank=3), 1).slots_per_rank
    4
    """
    counts = cluster.slot_counts + np.where(cluster.alive, spare_slots, 0)
    return Cluster(
        cluster.num_ranks,
        counts.tolist(),
        cluster.num_nodes,
        node_of_rank=cluster.node_of_rank,
        rank_speeds=cluster.rank_speeds,
        alive=cluster.alive,
    )


def spread_home(home: Placement, cluster: Cluster) -> Ints:
    """Return ``home`` as slots of a cluster that has more on each rank, ABSENT in those: [layers, slots], read-only."""
    counts = home.cluster.slot_counts
    begin = np.cumsum(cluster.slot_counts) - cluster.slot_counts
    offset = np.arange(home.cluster.num_slots) - np.repeat(np.cumsum(counts) - counts, counts)
    slots = np.full((home.num_layers, cluster.num_slots), ABSENT, np.int64)
    slots[:, np.repeat(begin, counts) + offset] = home.expert_of_slot
    return frozen(slots)


def make_batch_work(cluster: Cluster, num_experts: int, home: Cluster, most_received: int) -> FillWork:
    """Make the scratch of one thread for batches on a cluster of which ``home`` are the slots that stay."""
    room = cluster.slot_counts - home.slot_counts
    node, is_up = np.asarray(cluster.node_of_rank, np.int64), np.asarray(cluster.alive)
    return make_fill_work(num_experts, cluster.rank_of_slot, node, is_up, room, np.minimum(room, most_received))


def _checked_spare(spare_slots: int, home: Placement) -> int:
    check_integer("spare_slots", spare_slots)
    cluster = home.cluster
    room = np.where(cluster.alive, home.num_experts - cluster.slot_counts, spare_slots)
    rank = int(room.argmin())
    if room[rank] < spare_slots:
        raise ArgumentError(
            f"{spare_slots} spare slots beside {cluster.slot_counts[rank]} on rank {rank} for {home.num_experts} experts",
            "no rank may hold an expert twice",
            f"take at most {room[rank]}" if room[rank] > 0 else "that rank has room for all experts already",
        )
    return spare_slots


def _fees(stop_at: float | None, gain_per_move: float, move_time: MoveTime | None, prefer_near: bool) -> Fees:
    check_number("gain_per_move", gain_per_move, least=0.0)
    if stop_at is not None:
        check_number("stop_at", stop_at, least=1.0)
    if move_time is not None and not isinstance(move_time, MoveTime):
        raise ArgumentError(
            f"move_time is a {type(move_time).__name__}", "it must be a MoveTime", "make one with MoveTime(...)"
        )
    near, far = (0.0, 0.0) if move_time is None else (move_time.tokens(is_near=True), move_time.tokens(is_near=False))
    return Fees(float(gain_per_move), near, far, 0.0 if stop_at is None else float(stop_at), bool(prefer_near))


def _times_to_move(slots: Ints, source: Ints, fees: Fees, cluster: Cluster) -> Floats:
    node, sent, received = np.asarray(cluster.node_of_rank, np.int64), np.empty(cluster.num_ranks), np.empty(cluster.num_ranks)
    return np.array(
        [
            time_of_links(row, come, fees.near, fees.far, cluster.rank_of_slot, node, sent, received)
            for row, come in zip(slots, source, strict=True)
        ]
    )
