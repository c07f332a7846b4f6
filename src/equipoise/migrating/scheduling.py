"""schedule_moves(): from two placements to rounds in which no rank waits for another one's buffer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from equipoise.checks import check_choice, check_integer
from equipoise.kernels.edging import colour_pairs, colour_transfers
from equipoise.kernels.sequencing import DUPLEX, MOVE, ONE_PEER, Copies, sequence
from equipoise.kernels.types import Ints
from equipoise.migrating.moves import CopyList, Frame, list_copies, make_frame
from equipoise.migrating.schedules import MODES, MoveSchedule
from equipoise.migrating.sourcing import choose_source_slots
from equipoise.placement import Placement


def schedule_moves(
    old: Placement,
    new: Placement,
    *,
    mode: str = "duplex",
    staging: int | None = None,
    chunk: int | None = None,
    leaving: Sequence[int] = (),
) -> MoveSchedule:
    """Say which rank copies what, in which order, to get from an old placement to a new one, layer by layer.

    Parameters
    ----------
    old, new : Placement
        Of the same experts and layers. Ranks keep their numbers; some may be added, removed, down, or have more or fewer slots.
        ``old`` may hold experts twice on a rank, and empty slots. Nodes are those of ``new``; a removed rank counts to where
        ``new`` has the first rank of its old node, and if it has none, to a node of its own with the others of that node.
    mode : str
        "duplex": in a round each rank sends at most one expert and receives at most one. "one-peer": it exchanges with a single
        peer, all that both have for each other.
    staging : int, optional
        Experts that a rank can buffer, >= 1. Default: as many as it receives.
    chunk : int, optional
        Experts on their way in one round, over all ranks, >= 1. Default: no limit.
    leaving : sequence of int
        Ranks that are down in ``new`` but still send what they hold.

    Returns
    -------
    MoveSchedule
        The same on every rank and machine.

    Raises
    ------
    ArgumentError
        When the placements do not belong together, or an argument is out of range.

    Notes
    -----
    Sources are chosen so that the largest number of sends or receives of any rank is least, and then within nodes. "duplex"
    without limit on staging takes exactly that many rounds in every layer (or, if more, moves / ``chunk``). "one-peer" takes at
    most one round more than the most peers a rank has, and mostly none more. Where ``staging`` is too small for such a
    colouring, or with ``chunk`` in "one-peer", rounds are made one by one of the copies that are ready, and may be more than
    the bound; with staging >= 1 there always is such a round (:mod:`equipoise.kernels.sequencing` has the proof).

    Examples
    --------
    >>> from equipoise import Cluster
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=1)
    >>> swap = schedule_moves(Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2), staging=1)
    >>> swap.rounds.tolist(), [(o.action, o.peer) for o in swap.operations(0)]
    ([1], [('receive', 1), ('send', 1), ('commit', -1)])
    """
    check_choice("mode", mode, MODES)
    if staging is not None:
        staging = check_integer("staging", staging)
    if chunk is not None:
        chunk = check_integer("chunk", chunk)
    frame = make_frame(old, new, leaving)
    copies = list_copies(frame)
    source = choose_source_slots(frame, copies)
    rows = [_schedule_layer(row, frame, mode, staging, chunk) for row in _by_layer(frame, copies, source)]
    return _joined(rows, frame, copies, source, mode, staging, chunk)


class _Row(NamedTuple):
    """One layer's schedule; ``steps`` [steps, 4] hold kind, round, copy of the layer and buffer."""

    steps: Ints
    rounds: int
    bound: int


def _by_layer(frame: Frame, copies: CopyList, source: Ints) -> list[Copies]:
    rank_of_slot = frame.rank_of_slot
    sender = np.where(source >= 0, rank_of_slot[source], -1)
    receiver = rank_of_slot[copies.target]
    ends = np.searchsorted(copies.layer, np.arange(len(frame.held) + 1))
    columns = (copies.kind, source, copies.target, sender, receiver)
    return [Copies(*(column[begin:end] for column in columns)) for begin, end in pairwise(ends)]


def _schedule_layer(copies: Copies, frame: Frame, mode: str, staging: int | None, chunk: int | None) -> _Row:
    steps = np.empty((2 * len(copies.kind), 4), np.int64)
    is_move = copies.kind == MOVE
    sender, receiver = copies.sender[is_move], copies.receiver[is_move]
    most = len(sender) if chunk is None else chunk
    receives = int(np.bincount(receiver, minlength=1).max())
    buffers = max(receives, 1) if staging is None else staging
    bound, colour = (_colour_duplex if mode == "duplex" else _colour_one_peer)(sender, receiver, frame.num_ranks, most)
    num_slots, rule = frame.held.shape[1], DUPLEX if mode == "duplex" else ONE_PEER
    rounds = -1
    if len(colour) == len(sender):
        given = np.full(len(is_move), -1, np.int64)
        given[is_move] = colour
        rounds = sequence(copies, num_slots, frame.num_ranks, buffers, rule, most, given, steps)
    if rounds < 0:
        rounds = sequence(copies, num_slots, frame.num_ranks, buffers, rule, most, np.empty(0, np.int64), steps)
    return _Row(steps[steps[:, 0] >= 0], rounds, bound)


def _colour_duplex(sender: Ints, receiver: Ints, num_ranks: int, most: int) -> tuple[int, Ints]:
    """Return a lower bound on rounds and a round for each move that together reach it."""
    colour = np.empty(len(sender), np.int64)
    if len(sender) == 0:
        return 0, colour
    bound = max(int(np.bincount(sender).max()), int(np.bincount(receiver).max()), -(-len(sender) // most))
    colour_transfers(sender, receiver, num_ranks, bound, most, colour)
    return bound, colour


def _colour_one_peer(sender: Ints, receiver: Ints, num_ranks: int, most: int) -> tuple[int, Ints]:
    """Return a lower bound on rounds and a round for each move, the same for all of a pair; none where ``most`` forbids that.

    The bound: the most peers a rank has; pairs over the pairs that ranks with peers can form at once; moves over ``most``.
    """
    if len(sender) == 0:
        return 0, np.empty(0, np.int64)
    pair, which = np.unique(np.minimum(sender, receiver) * num_ranks + np.maximum(sender, receiver), return_inverse=True)
    one, other = np.divmod(pair, num_ranks)
    peers = np.bincount(np.concatenate([one, other]))
    at_once = int((peers > 0).sum()) // 2
    bound = max(int(peers.max()), -(-len(pair) // at_once))
    if most < len(sender):
        return max(bound, -(-len(sender) // most)), np.empty(0, np.int64)
    return bound, _colour_pairs(one, other, peers[one] + peers[other], num_ranks, bound)[which.ravel()]


def _colour_pairs(one: Ints, other: Ints, busy: Ints, num_ranks: int, bound: int) -> Ints:
    """Return a round for each pair, ``bound`` rounds in all, or one more where neither order of pairs leads to that."""
    busiest_first = np.argsort(-busy, kind="stable")
    as_numbered = np.arange(len(one))
    colour = np.empty(len(one), np.int64)
    for order, rounds in ((busiest_first, bound), (as_numbered, bound), (as_numbered, bound + 1)):
        if colour_pairs(one[order], other[order], num_ranks, rounds, colour):
            break
    found = np.empty_like(colour)
    found[order] = colour
    return found


def _joined(
    rows: list[_Row],
    frame: Frame,
    copies: CopyList,
    source: Ints,
    mode: str,
    staging: int | None,
    chunk: int | None,
) -> MoveSchedule:
    counts = [len(row.steps) for row in rows]
    steps = np.concatenate([row.steps for row in rows]) if rows else np.empty((0, 4), np.int64)
    layer = np.repeat(np.arange(len(rows)), counts)
    first = np.searchsorted(copies.layer, np.arange(len(rows)))
    copy = first[layer] + steps[:, 2]
    kind = steps[:, 0]
    from_slot = np.isin(kind, (0, 1, 2))
    return MoveSchedule(
        num_layers=len(rows),
        num_experts=frame.num_experts,
        slot_counts=frame.slot_counts,
        node_of_rank=frame.node_of_rank,
        mode=mode,
        staging=staging,
        chunk=chunk,
        leaving=frame.leaving,
        layer=layer,
        round=steps[:, 1],
        kind=kind,
        source=np.where(from_slot, source[copy], -1),
        target=copies.target[copy],
        expert=copies.expert[copy],
        buffer=steps[:, 3],
        rounds=np.array([row.rounds for row in rows], np.int64),
        bound=np.array([row.bound for row in rows], np.int64),
    )
