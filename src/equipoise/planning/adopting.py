"""A placement taken over by a cluster that may be another: what still stands, what is lost, and what must be placed again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.types import Flags, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.planning.problem import Problem

GONE = -1

_UNSEEN = -2


@dataclass(frozen=True, eq=False)
class Adopted:
    """A previous placement on the slots of the ranks that are up now.

    ``start`` [layers, slots]: strict, every expert with as many replicas as it needs where there is room, as much as possible
    where it was; ABSENT where duplicates were, or nothing. ``held`` [layers, slots before]: what ranks had; ``rank_held``
    [slots before]: those ranks, counted among the ranks that are up, ``GONE`` for others.
    """

    start: Ints
    held: Ints
    rank_held: Ints


def adopt(previous: Placement, problem: Problem, least: Ints, spread: int) -> Adopted:
    """Take over ``previous``; rank i stays rank i, and a rank's slots keep their places.

    Experts without a replica on the ranks that are up, and those with fewer than ``least`` [layers, experts] replicas, or on
    fewer than ``spread`` nodes where they need several, get slots: where they were before if they can, then empty ones, then
    those of experts that can spare one; where all these lie wrong, as few others as possible change their ranks for it.

    Raises
    ------
    ArgumentError
        When ``previous`` is no placement of this model, or has no room for all replicas asked for.
    NotSupportedError
        Under strict locality, when a group is on several nodes.
    """
    _check(previous, problem)
    domain, cluster = problem.everything, problem.cluster
    renumbered = np.full(max(cluster.num_ranks, previous.cluster.num_ranks), GONE, np.int64)
    renumbered[domain.ranks] = np.arange(domain.ranks.size)
    rank_held = renumbered[previous.cluster.rank_of_slot]
    start = _laid_out(previous, problem, rank_held)
    held: Ints = np.ascontiguousarray(previous.expert_of_slot)
    adopted = Adopted(start, held, rank_held)
    mender = _Mender(problem, adopted, spread)
    for x in np.flatnonzero(mender.is_open(least)):
        mender.mend(int(x), least[x])
    return adopted


def region_of_rank(problem: Problem) -> Ints:
    """Return within which sets of the ranks that are up experts may move: nodes under strict locality, else all."""
    node = np.asarray(problem.cluster.node_of_rank, np.int64)[problem.everything.ranks]
    return node if problem.locality == "strict" else np.zeros_like(node)


def _check(previous: Placement, problem: Problem) -> None:
    if not isinstance(previous, Placement):
        raise ArgumentError(
            f"previous is a {type(previous).__name__}", "it must be a Placement", "make one with Placement(...)"
        )
    if (previous.num_layers, previous.num_experts) != (problem.num_layers, problem.num_experts):
        raise ArgumentError(
            f"previous has {previous.num_layers} layers of {previous.num_experts} experts",
            f"the load has {problem.num_layers} of {problem.num_experts}",
            "pass the placement of the same model",
        )


def _laid_out(previous: Placement, problem: Problem, rank_held: Ints) -> Ints:
    """Lay previous rows out on the slots of the ranks that are up: strict, but for experts without a slot."""
    domain = problem.everything
    begin = np.cumsum(domain.room) - domain.room
    counts = previous.cluster.slot_counts
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    fits = (rank_held != GONE) & (place < domain.room[np.maximum(rank_held, 0)])
    start = np.full((problem.num_layers, domain.slots.size), ABSENT, np.int64)
    start[:, (begin[np.maximum(rank_held, 0)] + place)[fits]] = previous.expert_of_slot[:, fits]
    rank = np.repeat(np.arange(domain.ranks.size), domain.room)
    _drop_duplicates(start, rank, problem.num_experts)
    return start


def _drop_duplicates(start: Ints, rank: Ints, num_experts: int) -> None:
    """Empty every slot whose expert an earlier slot of its rank holds."""
    key = np.where(start == ABSENT, -1 - np.arange(rank.size), rank * num_experts + start)
    in_order = np.sort(key, axis=1)
    for x in np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1)):
        _, first = np.unique(key[x], return_index=True)
        again = np.ones(rank.size, np.bool_)
        again[first] = False
        start[x, again] = ABSENT


class _Mender:
    """Gives slots to experts that lack them, layer by layer, in the rows of what was adopted."""

    def __init__(self, problem: Problem, adopted: Adopted, spread: int) -> None:
        domain = problem.everything
        self.rank = np.repeat(np.arange(domain.ranks.size), domain.room)
        self.node = np.asarray(problem.cluster.node_of_rank, np.int64)[domain.ranks]
        self.speed, self.spread = domain.speed, spread
        self.region, self.problem, self.adopted = region_of_rank(problem), problem, adopted
        self.home = self._homes() if problem.locality == "strict" else None

    def is_open(self, least: Ints) -> Flags:
        """Tell which layers have experts that lack replicas, or nodes."""
        start, (layers, experts) = self.adopted.start, least.shape
        layer, slot = np.nonzero(start != ABSENT)
        pair = layer * experts + start[layer, slot]
        count = np.bincount(pair, minlength=layers * experts).reshape(layers, experts)
        lacks: Flags = count < least
        if self.spread > 1:
            num_nodes = self.problem.cluster.num_nodes
            met = np.bincount(pair * num_nodes + self.node[self.rank[slot]], minlength=layers * experts * num_nodes)
            nodes = (met.reshape(layers, experts, num_nodes) > 0).sum(axis=2)
            lacks |= (least > 1) & (nodes < self.spread)
        is_open: Flags = lacks.max(axis=1)
        return is_open

    def mend(self, x: int, least: Ints) -> None:
        """Give every expert of a layer its replicas, those without any first, then by falling load."""
        row, load = self.adopted.start[x], self.problem.load[x]
        order = np.argsort(-load, kind="stable")
        count = np.bincount(row[row != ABSENT], minlength=load.size)
        for wanted in range(1, int(least.max()) + 1):
            for e in order[least[order] >= wanted].tolist():
                while count[e] < wanted or self._nodes(row, e) < min(wanted, self.spread):
                    row[self._free_slot(x, row, least, count, e)] = e
                    count[e] += 1

    def _free_slot(self, x: int, row: Ints, least: Ints, count: Ints, e: int) -> int:
        """Empty a slot for one more replica of ``e``: where it was, or on the rank that then ends soonest."""
        is_open = self._ranks_open(row, least, e)
        if self.home is not None:
            is_open &= self.region == self.home[x, e * self.problem.num_groups // least.size]
        is_spare = self._spare(row, least, count)
        choices = np.flatnonzero(is_spare & is_open[self.rank])
        if choices.size == 0:
            return self._make_way(x, row, least, count, e, is_open, is_spare)
        load, rank = self.problem.load[x], self.rank[choices]
        share = np.where(row == ABSENT, 0.0, load[row] / np.maximum(count[row], 1))
        then = (np.bincount(self.rank, share, minlength=self.speed.size)[rank] - share[choices]) / self.speed[rank]
        was_there = np.isin(rank, self.adopted.rank_held[self.adopted.held[x] == e])
        s = int(choices[np.lexsort((choices, then, row[choices] != ABSENT, ~was_there))[0]])
        self._empty(row, count, s)
        return s

    def _make_way(self, x: int, row: Ints, least: Ints, count: Ints, e: int, is_open: Flags, is_spare: Flags) -> int:
        """Empty a slot of an open rank by passing experts on from rank to rank, along the shortest way to a spare slot."""
        passed_on = np.where(is_open, GONE, _UNSEEN)
        queue = np.flatnonzero(is_open).tolist()
        for r in queue:
            own = np.flatnonzero(self.rank == r)
            if is_spare[own].any():
                s = int(own[is_spare[own]][0])
                self._empty(row, count, s)
                while (giver := int(passed_on[self.rank[s]])) != GONE:
                    row[s], row[giver], s = row[giver], ABSENT, giver
                return s
            for s in own.tolist():
                takers = self._ranks_open(row, least, int(row[s]), s) & (self.region == self.region[r])
                reached = np.flatnonzero(takers & (passed_on == _UNSEEN))
                passed_on[reached] = s
                queue += reached.tolist()
        raise ArgumentError(
            f"layer {x}: expert {e} finds no slot beside the others' replicas, {int(least.sum())} on {row.size} slots",
            "every expert needs its replicas, on ranks (and nodes, where asked) of their own",
            "take more slots, or ask for fewer replicas",
        )

    def _ranks_open(self, row: Ints, least: Ints, e: int, leaving: int = GONE) -> Flags:
        """Tell which ranks may take a replica of ``e``, by what they hold and the nodes that it still has to reach."""
        slots = np.flatnonzero(row == e)
        is_open = np.ones(self.speed.size, np.bool_)
        is_open[self.rank[slots]] = False
        if self.spread > 1 and least[e] > 1:
            nodes = np.unique(self.node[self.rank[slots[slots != leaving]]])
            if nodes.size < self.spread:
                is_open &= ~np.isin(self.node, nodes)
        return is_open

    def _spare(self, row: Ints, least: Ints, count: Ints) -> Flags:
        """Tell which slots are empty, or hold what has, or gets on other nodes, replicas enough without them."""
        is_empty, needed, node = row == ABSENT, least, self.node[self.rank]
        is_needed = np.zeros(row.size, np.bool_)
        if self.spread > 1:
            met = np.zeros((least.size, self.problem.cluster.num_nodes), np.int64)
            np.add.at(met, (row[~is_empty], node[~is_empty]), 1)
            nodes = (met > 0).sum(axis=1)
            needed = np.where(least > 1, least - np.maximum(self.spread - nodes, 0), least)
            is_needed = (least[row] > 1) & (nodes[row] <= self.spread) & (met[row, node] == 1)
        is_spare: Flags = np.logical_or(is_empty, (count[row] > needed[row]) & ~is_needed)
        return is_spare

    def _nodes(self, row: Ints, e: int) -> int:
        """Count the nodes that hold an expert."""
        return int(np.unique(self.node[self.rank[row == e]]).size) if self.spread > 1 else 1

    def _empty(self, row: Ints, count: Ints, s: int) -> None:
        if row[s] != ABSENT:
            count[row[s]] -= 1
        row[s] = ABSENT

    def _homes(self) -> Ints:
        """Return the node of each group, [layers, groups]: the one where it is, else the one with fewest groups."""
        start, groups, experts = self.adopted.start, self.problem.num_groups, self.problem.num_experts
        layer, slot = np.nonzero(start != ABSENT)
        group, node = start[layer, slot] * groups // experts, self.region[self.rank[slot]]
        home = np.full((len(start), groups), GONE, np.int64)
        home[layer, group] = node
        wrong = np.flatnonzero(home[layer, group] != node)
        if wrong.size:
            x, g = layer[wrong[0]], group[wrong[0]]
            raise NotSupportedError(
                f"previous has group {g} of layer {x} on nodes {sorted({int(node[wrong[0]]), int(home[x, g])})}",
                "with strict locality each group stays on the node where it is",
                "take locality none, or plan without previous",
            )
        for x, g in np.argwhere(home == GONE):
            home[x, g] = np.bincount(home[x, home[x] != GONE], minlength=self.problem.cluster.num_nodes).argmin()
        return home
