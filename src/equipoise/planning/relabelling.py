"""Relabelling: ranks and slots of a new placement are renamed so that as much as possible stays where it is.

Which of several equal ranks holds what is nothing to balance and everything to moves: a planner that does not look at the
placement before it makes nearly all ranks receive nearly all they hold.
"""

from __future__ import annotations

import numpy as np

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.kernels.overlapping import add_overlaps, settle_rows
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import Placement


def relabel(placement: Placement, previous: Placement, *, within_nodes: bool = False) -> Placement:
    """Rename ranks and slots so that ranks receive the fewest replicas that they did not hold in ``previous``.

    Balance stays: what a rank holds goes to a rank of the same speed and number of slots, and stays among ranks that are up,
    or among those that are down. Of renamings that keep equally many pairs of rank and expert, one is taken that renames the
    fewest ranks. An expert that stays on its rank keeps its slot; others fill the remaining slots, both in rising order.

    Parameters
    ----------
    placement : Placement
        The new one; any, strict or not.
    previous : Placement
        What ranks hold now; any, of the same layers and experts. Rank i is rank i of ``placement``, the n-th slot of a rank its
        n-th slot, so its ranks may be more or fewer, with other numbers of slots.
    within_nodes : bool
        Whether ranks that share a node go on sharing one, as a locality rule wants it. What a node holds then goes as a whole
        to a node whose ranks have the same speeds and numbers of slots, or to other ranks of its node.

    Returns
    -------
    Placement
        On the cluster of ``placement``.

    Raises
    ------
    ArgumentError
        When layers or experts differ.

    Notes
    -----
    Optimal: an assignment a layer, by scipy; with ``within_nodes`` one of nodes, on those of the ranks inside. All numbers are
    integers, so no CPU rounds otherwise; which of several best assignments it is, is up to scipy's version. O(slots * replicas
    of an expert + ranks^3) a layer at worst, in practice about ranks^2.

    Examples
    --------
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=2)
    >>> now, new = Placement([[0, 1, 2, 3]], cluster, 4), Placement([[3, 2, 1, 0]], cluster, 4)
    >>> new.moves_from(now).tolist()
    [4]
    >>> relabel(new, now).expert_of_slot.tolist()
    [[0, 1, 2, 3]]
    """
    for name, given in (("placement", placement), ("previous", previous)):
        if not isinstance(given, Placement):
            raise ArgumentError(f"{name} is a {type(given).__name__}", "it must be a Placement", "make one with Placement(...)")
    if (previous.num_layers, previous.num_experts) != (placement.num_layers, placement.num_experts):
        raise ArgumentError(
            f"previous has {previous.num_layers} layers of {previous.num_experts} experts",
            f"it must have {placement.num_layers} of {placement.num_experts}",
            "pass the placement of the same model",
        )
    slots = relabel_slots(
        placement.expert_of_slot, previous.expert_of_slot, placement.cluster, previous.cluster, within_nodes=within_nodes
    )
    return Placement(slots, placement.cluster, placement.num_experts)


def relabel_slots(
    expert_of_slot: Ints, previous_slots: Ints, cluster: Cluster, previous_cluster: Cluster, within_nodes: bool = False
) -> Ints:
    """Do as :func:`relabel`, on ``expert_of_slot`` [layers, slots] of ``cluster``, and return an array of the same shape."""
    new_rank = rename_ranks(expert_of_slot, previous_slots, cluster, previous_cluster, within_nodes=within_nodes)
    return settle_slots(expert_of_slot, new_rank, previous_slots, cluster, previous_cluster)


def rename_ranks(
    expert_of_slot: Ints, previous_slots: Ints, cluster: Cluster, previous_cluster: Cluster, within_nodes: bool = False
) -> Ints:
    """Return the rank that takes over what each rank holds, int64 [layers, ranks]; arguments as of :func:`relabel_slots`."""
    kind = _kind_of_rank(cluster)
    names_kept = np.where(kind[:, np.newaxis] == kind, np.eye(cluster.num_ranks), -np.inf)
    a_pair = cluster.num_ranks + 1.0  # worth more than all names
    num_experts = 1 + max(int(expert_of_slot.max(initial=0)), int(previous_slots.max(initial=0)))
    rank_of_slot, previous_rank_of_slot = _own(cluster.rank_of_slot), _own(previous_cluster.rank_of_slot)
    assign = _Nodes(cluster, kind).assign if within_nodes and cluster.num_nodes > 1 else lambda value: _assign(value)[0]
    new_rank = np.empty((len(expert_of_slot), cluster.num_ranks), np.int64)
    for x, (row, previous_row) in enumerate(zip(_own(expert_of_slot), _own(previous_slots), strict=True)):
        value = names_kept.copy()
        add_overlaps(row, rank_of_slot, previous_row, previous_rank_of_slot, num_experts, a_pair, value)
        new_rank[x] = assign(value)
    return new_rank


def settle_slots(
    expert_of_slot: Ints, new_rank: Ints, previous_slots: Ints, cluster: Cluster, previous_cluster: Cluster
) -> Ints:
    """Give what ranks hold to their ``new_rank`` [layers, ranks], experts that stay in the slots they had.

    With each rank its own new rank, only slots within ranks are ordered.
    """
    settled = np.empty(expert_of_slot.shape, np.int64)
    settle_rows(
        _own(expert_of_slot), _starts(cluster), _own(new_rank), _own(previous_slots), _starts(previous_cluster), settled
    )
    return settled


class _Nodes:
    """Nodes whose contents can change places: those with ranks of the same kinds."""

    def __init__(self, cluster: Cluster, kind: Ints) -> None:
        self.node_of_rank = np.asarray(cluster.node_of_rank, np.int64)
        self.ranks = [np.flatnonzero(self.node_of_rank == node) for node in range(cluster.num_nodes)]
        make_up = [sorted(kind[ranks].tolist()) for ranks in self.ranks]
        self.is_alike: Flags = np.array([[one == other for other in make_up] for one in make_up])
        self.order = np.argsort(self.node_of_rank, kind="stable")
        self.start = np.concatenate(([0], np.cumsum([len(ranks) for ranks in self.ranks])[:-1]))

    def assign(self, value: Floats) -> Ints:
        """Return the new rank of each rank for ``value`` [ranks, ranks].

        What a pair of nodes is worth takes an assignment of its own, so it is found out only for pairs that the best
        assignment of nodes wants, on a bound for the others.
        """
        worth = self._most(value)
        inside: dict[tuple[int, int], Ints] = {}
        while True:
            wanted = list(enumerate(_assign(worth)[0].tolist()))
            unknown = [pair for pair in wanted if pair not in inside]
            if not unknown:
                break
            for one, other in unknown:
                inside[one, other], worth[one, other] = _assign(value[np.ix_(self.ranks[one], self.ranks[other])])
        new_rank = np.empty(len(value), np.int64)
        for one, other in wanted:
            new_rank[self.ranks[one]] = self.ranks[other][inside[one, other]]
        return new_rank

    def _most(self, value: Floats) -> Floats:
        """Return what each node can be worth at most on each node [nodes, nodes]: each rank on its best, or filled by it."""
        sorted_by_node = value[np.ix_(self.order, self.order)]
        best_of_row = np.maximum.reduceat(sorted_by_node, self.start, axis=1)
        best_of_column = np.maximum.reduceat(sorted_by_node, self.start, axis=0)
        by_row = np.add.reduceat(best_of_row, self.start, axis=0)
        by_column = np.add.reduceat(best_of_column, self.start, axis=1)
        return np.where(self.is_alike, np.minimum(by_row, by_column), -np.inf)


def _assign(value: Floats) -> tuple[Ints, float]:
    """Return the column of each row that makes the sum of ``value`` [n, n] largest, and that sum."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped, unused-ignore]

    row, column = linear_sum_assignment(value, maximize=True)
    return column, float(value[row, column].sum())


def _kind_of_rank(cluster: Cluster) -> Ints:
    """Return a number a rank [ranks]; those with equal ones can change places."""
    makes = list(zip(cluster.alive, cluster.rank_speeds, cluster.slot_counts.tolist(), strict=True))
    number = {make: n for n, make in enumerate(dict.fromkeys(makes))}
    return np.array([number[make] for make in makes], np.int64)


def _starts(cluster: Cluster) -> Ints:
    """First slot of each rank, and the end, [ranks + 1]."""
    return np.concatenate(([0], np.cumsum(cluster.slot_counts))).astype(np.int64)


def _own(array: Ints) -> Ints:
    """Copy, so that kernels see one kind of array: placements are read-only, and that compiles anew."""
    return np.array(array, np.int64, order="C")
