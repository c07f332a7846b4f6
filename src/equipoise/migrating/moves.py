"""What must be copied to get from one placement to another, slot by slot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.sequencing import COPY, LOAD, MOVE, REPEAT
from equipoise.kernels.types import Flags, Ints
from equipoise.placement import ABSENT, Placement


@dataclass(frozen=True, eq=False)
class Frame:
    """The ranks and slots of an old and a new placement together; slot numbers of schedules count these slots.

    Both number alike where they have equally many slots on every rank. Else a slot is found by its rank and its place there.

    Attributes
    ----------
    slot_counts : int64 [ranks]
        Slots of each rank, the more of both.
    node_of_rank : int64 [ranks]
        Node of each rank, by the new cluster where it has the rank. A rank that only the old one has is where the new one has
        the first rank of its old node, so nodes that both number alike stay as they are; ranks of an old node of which the new
        cluster has none share a node of their own, with a number behind the new ones. All of 0..most are used.
    held : int64 [layers, slots]
        Expert that can be read from each slot; ABSENT on ranks that cannot send.
    wanted : int64 [layers, slots]
        Expert that each slot must hold in the end; ABSENT where it does not matter.
    num_experts : int
        Experts of each layer.
    leaving : tuple of int
        Ranks down in the new placement that still send.
    """

    slot_counts: Ints
    node_of_rank: Ints
    held: Ints
    wanted: Ints
    num_experts: int
    leaving: tuple[int, ...]

    @property
    def num_ranks(self) -> int:
        """Ranks of both clusters."""
        return len(self.slot_counts)

    @property
    def rank_of_slot(self) -> Ints:
        """Rank of each slot, [slots]."""
        return np.repeat(np.arange(self.num_ranks), self.slot_counts)


@dataclass(frozen=True, eq=False)
class CopyList:
    """The copies that a new placement needs, by layer and target slot; all arrays int64 [copies].

    Attributes
    ----------
    layer, target, expert : int64 [copies]
        Which slot must get which expert.
    kind : int64 [copies]
        MOVE from another rank, COPY from another slot of the rank, LOAD from disk (no rank that can send holds the expert),
        REPEAT of what another slot of the rank is given.
    source : int64 [copies]
        Slot of the same rank that is copied; -1 for moves and loads.
    first_slot : int64 [layers, ranks, experts]
        Slot from which a rank can send an expert, one that keeps it if there is one; -1 where it holds none.
    """

    layer: Ints
    target: Ints
    expert: Ints
    kind: Ints
    source: Ints
    first_slot: Ints

    @property
    def holds(self) -> Flags:
        """Whether a rank can send an expert, [layers, ranks, experts]."""
        return self.first_slot >= 0


def make_frame(old: Placement, new: Placement, leaving: Iterable[int] = ()) -> Frame:
    """Lay an old and a new placement over each other.

    Ranks keep their numbers: the larger cluster's further ranks were added, or are removed. A rank can send what it holds in
    the old placement if it is up there, and up in the new one, or not in it, or among ``leaving``.

    Raises
    ------
    ArgumentError
        When the placements have other experts or layers, the new one uses a rank that is down, or a rank cannot leave.
    """
    check_placements(old, new)
    _check_alike(old, new)
    num_ranks = max(old.cluster.num_ranks, new.cluster.num_ranks)
    ranks_leaving = _checked_leaving(old, new, leaving, num_ranks)
    counts = np.zeros(num_ranks, np.int64)
    node = _node_of_rank(old.cluster, new.cluster)
    for cluster in (old.cluster, new.cluster):
        here = slice(cluster.num_ranks)
        counts[here] = np.maximum(counts[here], cluster.slot_counts)
    held, wanted = _spread(old, counts), _spread(new, counts)
    can_send = np.zeros(num_ranks, np.bool_)
    can_send[: old.cluster.num_ranks] = old.cluster.alive
    can_send[: new.cluster.num_ranks] &= np.asarray(new.cluster.alive) | np.isin(
        np.arange(new.cluster.num_ranks), ranks_leaving
    )
    held[:, np.repeat(~can_send, counts)] = ABSENT
    for array in (counts, node, held, wanted):
        array.setflags(write=False)
    return Frame(counts, node, held, wanted, new.num_experts, ranks_leaving)


def list_copies(frame: Frame) -> CopyList:
    """List what each slot must get; a slot that holds its expert already needs nothing.

    Examples
    --------
    >>> from equipoise import Cluster
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2)
    >>> old, new = Placement([[0, 1, 2, 0]], cluster, 3), Placement([[1, 2, 2, 0]], cluster, 3)
    >>> copies = list_copies(make_frame(old, new))
    >>> copies.target.tolist(), copies.kind.tolist(), copies.source.tolist()  # slot 0 from its neighbour, 1 from the other rank
    ([0, 1], [1, 0], [1, -1])
    """
    held, wanted, ranks = frame.held, frame.wanted, frame.rank_of_slot
    layer, target = (np.ascontiguousarray(index) for index in np.nonzero((wanted != ABSENT) & (wanted != held)))
    expert, rank = wanted[layer, target], ranks[target]
    first_slot = _first_slots(frame)
    source = first_slot[layer, rank, expert]
    kind = np.where(source >= 0, COPY, MOVE)
    is_held = np.asarray((first_slot >= 0).any(axis=1))
    kind[~is_held[layer, expert]] = LOAD
    key = (layer * frame.num_ranks + rank) * frame.num_experts + expert
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    again = (source < 0) & (first[which.ravel()] != np.arange(len(key)))
    kind[again] = REPEAT
    source = np.where(again, target[first[which.ravel()]], source)
    return CopyList(layer, target, expert, kind, source, first_slot)


def check_placements(old: object, new: object) -> None:
    """Refuse what is no placement, and name it."""
    for name, given in (("old", old), ("new", new)):
        if not isinstance(given, Placement):
            raise ArgumentError(f"{name} is a {type(given).__name__}", "it must be a Placement", "make one with Placement(...)")


def check_ranks(name: str, what: str, given: Iterable[int], num_ranks: int) -> tuple[int, ...]:
    """Return the ranks of a list, each once, in their order; refuse what is no list, or names a rank that there is not.

    >>> check_ranks("leaving", "a leaving rank", [3, 0, 3], num_ranks=4)
    (0, 3)
    """
    try:
        ranks = sorted({check_integer(what, rank, 0) for rank in given})
    except TypeError:
        raise ArgumentError(f"{name} is {given!r}", "it must be a list of ranks", "give one, such as [0]") from None
    if ranks and ranks[-1] >= num_ranks:
        raise ArgumentError(f"{name} names rank {ranks[-1]}", f"ranks are 0..{num_ranks - 1}", "check the rank's number")
    return tuple(ranks)


def _node_of_rank(old: Cluster, new: Cluster) -> Ints:
    """Return the node of each rank of both clusters, as :class:`Frame` has it."""
    node = list(new.node_of_rank)
    node_now: dict[int, int] = {}
    for rank, node_before in enumerate(old.node_of_rank):
        if node_before not in node_now:
            node_now[node_before] = node[rank] if rank < new.num_ranks else max(node) + 1
        if rank >= new.num_ranks:
            node.append(node_now[node_before])
    return np.array(node, np.int64)


def _first_slots(frame: Frame) -> Ints:
    """Return the slot from which each rank sends each expert: the lowest that keeps it, else the lowest, else -1."""
    num_layers = len(frame.held)
    found = np.full((num_layers, frame.num_ranks, frame.num_experts), -1, np.int64)
    keeps = frame.held == frame.wanted
    for is_sought in (~keeps, keeps):
        layer, slot = np.nonzero(is_sought & (frame.held != ABSENT))
        layer, slot = layer[::-1], slot[::-1]
        found[layer, frame.rank_of_slot[slot], frame.held[layer, slot]] = slot
    return found


def _spread(placement: Placement, counts: Ints) -> Ints:
    """Return experts by slots of a frame, ABSENT in slots the placement has not."""
    own = placement.cluster.slot_counts
    begin = (np.cumsum(counts) - counts)[: len(own)]
    place = np.arange(placement.cluster.num_slots) - np.repeat(np.cumsum(own) - own, own)
    slots = np.full((placement.num_layers, int(counts.sum())), ABSENT, np.int64)
    slots[:, np.repeat(begin, own) + place] = placement.expert_of_slot
    return slots


def _check_alike(old: Placement, new: Placement) -> None:
    if (old.num_layers, old.num_experts) != (new.num_layers, new.num_experts):
        raise ArgumentError(
            f"old has {old.num_layers} layers of {old.num_experts} experts",
            f"new has {new.num_layers} of {new.num_experts}",
            "pass two placements of one model",
        )
    is_down = ~np.asarray(new.cluster.alive)[new.cluster.rank_of_slot]
    used = np.argwhere((new.expert_of_slot != ABSENT) & is_down)
    if used.size:
        layer, slot = (int(i) for i in used[0])
        raise ArgumentError(
            f"new has expert {new.expert_of_slot[layer, slot]} in layer {layer}, slot {slot}",
            f"rank {new.cluster.rank_of_slot[slot]} is down, and slots of such hold -1",
            "plan for the ranks that are up",
        )


def _checked_leaving(old: Placement, new: Placement, leaving: Iterable[int], num_ranks: int) -> tuple[int, ...]:
    ranks = check_ranks("leaving", "a leaving rank", leaving, num_ranks)
    for rank in ranks:
        if rank >= old.cluster.num_ranks or not old.cluster.alive[rank]:
            raise ArgumentError(f"leaving names rank {rank}", "it is not up in the old placement", "leave it out")
        if rank < new.cluster.num_ranks and new.cluster.alive[rank]:
            raise ArgumentError(
                f"leaving names rank {rank}", "it is up in the new placement", "mark it down in the new cluster's alive"
            )
    return ranks
