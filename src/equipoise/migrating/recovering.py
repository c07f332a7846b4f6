"""recover(): ranks die in the middle of a schedule; what is where, what is lost, and how to go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Flags, Ints
from equipoise.migrating.moves import Frame, check_ranks, make_frame
from equipoise.migrating.schedules import MoveSchedule, check_schedule_type
from equipoise.migrating.scheduling import schedule_moves
from equipoise.placement import ABSENT, Placement

Buffers = dict[tuple[int, int, int], int]
"""The expert in each buffer in use, by layer, rank and buffer."""


@dataclass(frozen=True, eq=False)
class Recovery:
    """Where a schedule that was cut short has left things, and how to go on.

    Attributes
    ----------
    state : Placement
        What each slot holds now; ABSENT on ranks that are down, and where an expert may have been on its way into the slot.
        Where a buffer holds the only replica of an expert, the rank has such places more than before, behind its slots.
    target : Placement
        Where ``schedule`` leads: the placement asked for, ABSENT on ranks that are down.
    schedule : MoveSchedule
        From ``state`` to ``target``; buffers that are places of ``state`` stay taken until its layer is done, beside its
        staging.
    lost_experts : tuple of (int, int)
        Pairs (layer, expert) of which no replica is left on any rank: those that ``target`` has are loaded from disk.
    homeless_experts : tuple of (int, int)
        Pairs (layer, expert) for which ``target`` has no slot: they were on dead ranks alone. Plan anew for them.
    """

    state: Placement
    target: Placement
    schedule: MoveSchedule
    lost_experts: tuple[tuple[int, int], ...]
    homeless_experts: tuple[tuple[int, int], ...]


def recover(
    schedule: MoveSchedule,
    old: Placement,
    new: Placement,
    done: tuple[int, int] | Sequence[tuple[int, int]],
    dead_ranks: Iterable[int],
    *,
    begun: bool | Sequence[bool] = True,
    back: bool = False,
) -> Recovery:
    """Say what ranks hold after others died in the middle of a schedule, and schedule the rest.

    Parameters
    ----------
    schedule : MoveSchedule
        What was being done, from ``old`` to ``new``.
    old, new : Placement
        The placements it was made for.
    done : (int, int) or sequence of (int, int)
        How far all ranks came, or each: the layer it was at, and how many rounds of it the rank has finished, with what it does
        by itself behind them (0: what comes before the first round). That needs nobody, so a rank that was at it ends it
        before it tells. Rounds it has no part in count as finished once it is past them. (layers, 0) is the end. That of dead
        ranks does not matter.
    dead_ranks : iterable of int
        Ranks that are gone with all they held. May be empty: then the rest is scheduled.
    begun : bool or sequence of bool
        Whether all ranks, or each, had begun the round behind those: what it receives there, but into buffers, counts as half
        written, and what was in the slot as gone. False says that the rank has sent nothing of it and let nothing be written.
        Where ranks do not know, leave it True: no expert is taken for held that is not, but some may count as lost in vain.
    back : bool
        Go back to ``old`` instead of on to ``new``.

    Returns
    -------
    Recovery
        Its schedule is a pure function of the arguments, so each rank can work it out once all know how far each came.

    Raises
    ------
    ArgumentError
        When the placements are not those of the schedule, a rank or progress is out of range, a rank has received what its
        sender cannot have sent, no rank is left, or an argument is of another kind.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=3, slots_per_rank=2)
    >>> old, new = Placement([[0, 1, 2, 3, 0, 2]], cluster, 4), Placement([[2, 1, 0, 3, 0, 1]], cluster, 4)
    >>> found = recover(schedule_moves(old, new), old, new, done=(0, 0), dead_ranks=[0])
    >>> found.state.expert_of_slot.tolist(), found.lost_experts, found.target.expert_of_slot.tolist()
    ([[-1, -1, 2, 3, 0, -1]], ((0, 1),), [[-1, -1, 0, 3, 0, 1]])

    Rank 2 knows that it had not begun, so its slots are as they were:

    >>> found = recover(schedule_moves(old, new), old, new, done=(0, 0), dead_ranks=[0], begun=False)
    >>> found.state.expert_of_slot.tolist(), found.lost_experts
    ([[-1, -1, 2, 3, 0, 2]], ((0, 1),))
    """
    check_schedule_type(schedule)
    frame = make_frame(old, new, schedule.leaving)
    _check_fits(schedule, frame)
    dead = np.zeros(frame.num_ranks, np.bool_)
    dead[list(check_ranks("dead_ranks", "a dead rank", dead_ranks, frame.num_ranks))] = True
    progress = _checked_progress(done, begun, schedule, dead)
    gone = _gone(old.cluster, new.cluster, schedule.leaving, dead)
    target = _without(old if back else new, gone)
    held, buffers = _state(schedule, frame, progress, gone)
    cluster = _cluster_of_both(old.cluster, new.cluster, frame, gone)
    state = _state_placement(held, _only_replicas(held, buffers), cluster, frame.num_experts)
    rest = schedule_moves(
        state,
        target,
        mode=schedule.mode,
        staging=schedule.staging,
        chunk=schedule.chunk,
        leaving=_still_leaving(state.cluster, target.cluster),
    )
    return Recovery(state, target, rest, state.lost_experts, target.lost_experts)


def _check_fits(schedule: MoveSchedule, frame: Frame) -> None:
    is_same = (
        (schedule.num_layers, schedule.num_experts) == (len(frame.held), frame.num_experts)
        and schedule.slot_counts.tolist() == frame.slot_counts.tolist()
    )  # fmt: skip
    if not is_same:
        raise ArgumentError(
            f"the schedule has {schedule.num_layers} layers on {schedule.slot_counts.tolist()} slots",
            f"the placements have {len(frame.held)} on {frame.slot_counts.tolist()}",
            "pass the placements that it was made for",
        )


class _Progress(NamedTuple):
    """How far each rank came, or the rank of each step: its layer, rounds finished there, and whether the next was begun."""

    layer: Ints
    rounds: Ints
    begun: Flags

    def of(self, rank: Ints) -> _Progress:
        """Return the progress of these ranks."""
        return _Progress(self.layer[rank], self.rounds[rank], self.begun[rank])

    def is_finished(self, schedule: MoveSchedule) -> Flags:
        """Tell of each step whether ranks of this progress have done it for sure."""
        return np.asarray((self.layer > schedule.layer) | ((self.layer == schedule.layer) & (self.rounds > schedule.round)))

    def is_begun(self, schedule: MoveSchedule) -> Flags:
        """Tell of each step whether ranks of this progress may have done a part of it, but not all."""
        return np.asarray((self.layer == schedule.layer) & (self.rounds == schedule.round) & self.begun)


def _checked_progress(
    done: tuple[int, int] | Sequence[tuple[int, int]], begun: bool | Sequence[bool], schedule: MoveSchedule, dead: Flags
) -> _Progress:
    """Return how far each rank came; refuse what cannot be."""
    given = _checked_done(done, schedule, dead)
    progress = _Progress(given[:, 0], given[:, 1], _checked_begun(begun, schedule.num_ranks))
    _check_possible(progress, schedule, dead)
    return progress


def _checked_begun(begun: bool | Sequence[bool], num_ranks: int) -> Flags:
    try:
        given = np.asarray(begun)
    except ValueError:
        given = np.empty(0)
    if given.dtype != np.bool_ or given.shape not in ((), (num_ranks,)):
        raise ArgumentError(f"begun is {begun!r}", f"it is True or False, for all or one a rank ({num_ranks})", "give bools")
    return np.broadcast_to(given, num_ranks)


def _checked_done(done: tuple[int, int] | Sequence[tuple[int, int]], schedule: MoveSchedule, dead: Flags) -> Ints:
    """Return layer and rounds finished there, [ranks, 2]."""
    try:
        given = np.asarray(done)
    except ValueError:
        given = np.empty(0)
    if given.shape == (2,):
        given = np.tile(given, (schedule.num_ranks, 1))
    if given.shape != (schedule.num_ranks, 2) or given.dtype.kind not in "iu":
        raise ArgumentError(
            f"done is {done!r}", f"it is (layer, rounds), for all or one a rank ({schedule.num_ranks})", "give whole numbers"
        )
    rounds = np.append(schedule.rounds, 0)
    for rank, (layer, count) in enumerate(given.tolist()):
        if not dead[rank] and not (0 <= layer <= schedule.num_layers and 0 <= count <= rounds[layer]):
            raise ArgumentError(
                f"rank {rank} has done {count} rounds of layer {layer}",
                f"there are {schedule.num_layers} layers"
                + (f", that one of {rounds[layer]} rounds" if 0 <= layer <= schedule.num_layers else ""),
                "give the layer a rank was at and the rounds it has finished there",
            )
    return given.astype(np.int64)


def _check_possible(progress: _Progress, schedule: MoveSchedule, dead: Flags) -> None:
    """Refuse that a rank has finished a round that a peer which sends to it then has not begun."""
    received = schedule.is_move & ~dead[schedule.receiver] & ~dead[schedule.sender]
    received &= progress.of(schedule.receiver).is_finished(schedule)
    sender = progress.of(schedule.sender)
    wrong = np.flatnonzero(received & ~sender.is_finished(schedule) & ~sender.is_begun(schedule))
    if wrong.size:
        i = int(wrong[0])
        raise ArgumentError(
            f"rank {schedule.receiver[i]} has finished round {schedule.round[i]} of layer {schedule.layer[i]}",
            f"rank {schedule.sender[i]}, which sends to it then, has not come that far",
            "give the progress of all ranks at one moment",
        )


def _state(schedule: MoveSchedule, frame: Frame, progress: _Progress, gone: Flags) -> tuple[Ints, Buffers]:
    """Return what each slot holds, [layers, slots], and each buffer that is in use."""
    held = frame.held.copy()
    buffers: Buffers = {}
    rank, receiver = schedule.receiver, progress.of(schedule.receiver)
    for i in np.flatnonzero(receiver.is_finished(schedule) & ~gone[rank]).tolist():
        layer, target, expert = int(schedule.layer[i]), schedule.target[i], int(schedule.expert[i])
        where = (layer, int(rank[i]), int(schedule.buffer[i]))
        if schedule.is_staged[i]:
            buffers[where] = expert
            continue
        buffers.pop(where, None)
        held[layer, target] = expert
    half_written = schedule.is_move & receiver.is_begun(schedule) & (schedule.buffer < 0)
    held[schedule.layer[half_written], schedule.target[half_written]] = ABSENT
    held[:, gone[frame.rank_of_slot]] = ABSENT
    return held, buffers


def _only_replicas(held: Ints, buffers: Buffers) -> list[tuple[int, int, int]]:
    """List the buffers that hold what no slot does, as (layer, rank, expert), one an expert."""
    found: dict[tuple[int, int], int] = {}
    for (layer, rank, _), expert in sorted(buffers.items()):
        if not (held[layer] == expert).any():
            found.setdefault((layer, expert), rank)
    return [(layer, rank, expert) for (layer, expert), rank in sorted(found.items())]


def _state_placement(held: Ints, rescued: list[tuple[int, int, int]], cluster: Cluster, num_experts: int) -> Placement:
    """Return ``held`` as a placement, with places for ``rescued`` behind the slots of their ranks."""
    places = np.zeros((len(held), cluster.num_ranks), np.int64)
    own = cluster.slot_counts
    for layer, rank, _ in rescued:
        places[layer, rank] += 1
    counts = own + places.max(axis=0, initial=0)
    begin = np.cumsum(counts) - counts
    slots = np.full((len(held), int(counts.sum())), ABSENT, np.int64)
    slots[:, np.arange(cluster.num_slots) + np.repeat(begin - (np.cumsum(own) - own), own)] = held
    for layer, rank, expert in reversed(rescued):
        places[layer, rank] -= 1
        slots[layer, begin[rank] + own[rank] + places[layer, rank]] = expert
    return Placement(slots, replace(cluster, slots_per_rank=counts.tolist()), num_experts)


def _cluster_of_both(old: Cluster, new: Cluster, frame: Frame, gone: Flags) -> Cluster:
    """Return the ranks of both clusters, those that are gone marked as down."""
    speeds = np.ones(frame.num_ranks)
    for cluster in (old, new):
        speeds[: cluster.num_ranks] = cluster.rank_speeds
    return Cluster(
        frame.num_ranks,
        frame.slot_counts.tolist(),
        int(frame.node_of_rank.max()) + 1,
        node_of_rank=frame.node_of_rank.tolist(),
        rank_speeds=speeds.tolist(),
        alive=(~gone).tolist(),
    )


def _gone(old: Cluster, new: Cluster, leaving: Sequence[int], dead: Flags) -> Flags:
    """Return which ranks hold nothing any more: the dead, and those that were down before, [ranks]."""
    was_up, is_up = np.zeros(len(dead), np.bool_), np.zeros(len(dead), np.bool_)
    was_up[: old.num_ranks], is_up[: new.num_ranks] = old.alive, new.alive
    stays_away = np.arange(len(dead)) >= new.num_ranks
    stays_away[list(leaving)] = True
    return np.asarray(dead | ~(is_up | (was_up & stays_away)))


def _without(placement: Placement, gone: Flags) -> Placement:
    """Return a placement without the ranks that are gone."""
    cluster = placement.cluster
    is_up = np.asarray(cluster.alive) & ~gone[: cluster.num_ranks]
    if not is_up.any():
        raise ArgumentError("dead_ranks leaves no rank", "at least one must be up", "start anew from disk")
    slots = np.where(is_up[cluster.rank_of_slot], placement.expert_of_slot, ABSENT)
    return Placement(slots, replace(cluster, alive=is_up.tolist()), placement.num_experts)


def _still_leaving(state: Cluster, target: Cluster) -> list[int]:
    """List the ranks that are up now and down in the end."""
    return [rank for rank in range(target.num_ranks) if state.alive[rank] and not target.alive[rank]]
