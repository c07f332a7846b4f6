"""What a policy call is answered with: a pure function of its arguments and the settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.errors import ArgumentError, NotSupportedError
from equipoise.kernels.scoring import add_up_largest, count_received
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.placement import ABSENT, Placement
from equipoise.planning.planner import Plan, plan
from equipoise.planning.problem import even_slots, make_problem
from equipoise.planning.relabelling import relabel
from equipoise.plugins.inheriting import checked_rows, complete_rows, count_replicas, previous_placement
from equipoise.plugins.settings import Settings
from equipoise.tensors import Array


@dataclass(frozen=True, eq=False)
class Call:
    """What an engine asks, in this project's words.

    Parameters
    ----------
    load : array [layers, experts]
        Tokens; all zero before the first step, rows without load for layers without experts.
    num_slots, num_ranks, num_nodes : int
        Of the placement wanted.
    num_groups : int or None
        Groups of experts.
    is_hierarchical : bool
        Whether the engine's own rule keeps groups on nodes here.
    in_use : array [layers, slots in use], optional
        The placement that the engine has now, -1 where a slot is empty; its slots may be more or fewer.
    alive : sequence of bool
        Ranks that are up; empty for all.
    windows : array [windows, layers, experts], optional
        The load again, in the order of time, to forecast from.
    """

    load: Array
    num_slots: int
    num_ranks: int
    num_nodes: int
    num_groups: int | None
    is_hierarchical: bool
    in_use: Array | None = None
    alive: tuple[bool, ...] = ()
    windows: Array | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of the arguments, to find out ranks that answer different calls; windows are history and not part of it."""
        numbers = (self.num_slots, self.num_ranks, self.num_nodes, self.num_groups, self.is_hierarchical, self.alive)
        digest = hashlib.blake2b(repr(numbers).encode(), digest_size=16)
        for array in (self.load, self.in_use):
            if array is not None:
                digest.update(repr((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Decision:
    """The placement wanted, and what is predicted of it.

    Attributes
    ----------
    expert_of_slot : int64 [layers, slots]
        Every slot of a rank that is up is filled; -1 on ranks that are down.
    before, after : float
        Balancedness on the load of the call, in use and wanted; before is nan where there is nothing to go on from, both are
        where there is no load.
    moves : int
        Replicas that ranks must receive, over all layers; -1 where the placement in use is not known.
    """

    expert_of_slot: Ints
    before: float
    after: float
    moves: int


def decide(call: Call, settings: Settings) -> Decision:
    """Answer a call.

    Layers without load keep the placement in use, or get expert ``i % experts`` in slot ``i`` (within each node, where groups
    are kept on nodes).

    Raises
    ------
    ArgumentError, NotSupportedError
        On faults that follow from the arguments, so that every rank finds them.

    Examples
    --------
    >>> import numpy as np
    >>> call = Call(np.array([[90, 30, 20, 20, 10, 10]]), 8, 4, 1, None, False, in_use=np.array([[0, 1, 2, 3, 4, 5, 0, 1]]))
    >>> decision = decide(call, Settings())
    >>> decision.expert_of_slot.tolist(), decision.moves
    ([[0, 4, 0, 3, 0, 5, 2, 1]], 4)
    """
    asked = _Asked(call, settings)
    slots = asked.rows_without_load()
    for layers, max_moves in ((asked.layers_with_load(), settings.max_moves), (asked.layers_to_mend(), 0)):
        if layers.size:
            slots[layers] = asked.plan_rows(layers, max_moves)
    _check_answer(slots, asked)
    return _judged(asked, slots)


class _Asked:
    """A call that has been checked, and what follows from it before anything is planned."""

    def __init__(self, call: Call, settings: Settings) -> None:
        if call.load.ndim != 2 or 0 in call.load.shape:
            raise ArgumentError(
                f"the load has shape {list(call.load.shape)}", "it must be [layers, experts]", "add up the steps first"
            )
        self.load, self.windows, self.settings = call.load, call.windows, settings
        self.num_layers, self.num_experts = call.load.shape
        self.locality = _choose_locality(call, settings)
        has_nodes = self.locality != "none"
        self.num_groups = check_integer("num_groups", call.num_groups) if has_nodes else 1
        nodes = call.num_nodes if has_nodes else 1
        self.cluster = _checked_cluster(
            call.num_slots, call.num_ranks, nodes, call.alive, self.num_experts, self.num_groups, self.locality
        )
        self.is_whole = all(self.cluster.alive)
        self.is_open: Flags = np.asarray(self.cluster.alive)[self.cluster.rank_of_slot]
        self.in_use = None if call.in_use is None else checked_rows(call.in_use, self.num_layers, self.num_experts)
        self.is_idle: Flags = ~np.any(self.load, axis=1)
        self.is_kept = self._kept()

    def rows_without_load(self) -> Ints:
        """Return rows that serve where nothing is planned: those in use, else fixed ones."""
        slots = np.full((self.num_layers, self.cluster.num_slots), ABSENT, np.int64)
        if self.is_idle.any():
            slots[self.is_idle] = self._fixed_row()
            if self.in_use is not None and self.is_kept.any():
                slots[self.is_kept] = np.where(self.is_open, self.in_use[self.is_kept], ABSENT)
        return slots

    def layers_with_load(self) -> Ints:
        """Return the layers to be balanced."""
        return np.flatnonzero(~self.is_idle)

    def layers_to_mend(self) -> Ints:
        """Return the layers without load whose placement in use does not fit: from it as few as need be move."""
        return np.flatnonzero(self.is_idle & ~self.is_kept) if self.in_use is not None else np.zeros(0, np.int64)

    def plan_rows(self, layers: Ints, max_moves: int | None) -> Ints:
        """Return planned rows of some layers, [layers, slots]; those without load as if it were level."""
        load = self.load if self.windows is None else self.windows
        if self.is_idle[layers[0]]:
            load = np.ones(load.shape)
        is_part = layers.size < self.num_layers
        load = load[..., layers, :] if is_part else load
        previous = None if self.in_use is None else self._previous(self.in_use[layers] if is_part else self.in_use)
        for start, most in self._ways(previous, max_moves):
            try:
                found = self._plan(load, start, most)
                break
            except (ArgumentError, NotSupportedError):
                if start is None:
                    raise
        rows: Ints = found.placement.expert_of_slot
        if previous is None:
            return rows
        if start is None:
            rows = relabel(found.placement, previous, within_nodes=self.locality != "none").expert_of_slot
        return self._filled(rows, found.load)

    def _ways(self, previous: Placement | None, max_moves: int | None) -> list[tuple[Placement | None, int | None]]:
        """Return from what to plan, and within how many moves: more where fewer cannot serve every expert, at last afresh."""
        if previous is None or self.locality == "soft":
            return [(None, None)]
        if max_moves is None:
            return [(previous, None), (None, None)]
        return [(previous, max_moves), (previous, None), (None, None)]

    def _plan(self, load: Array, previous: Placement | None, max_moves: int | None) -> Plan:
        is_soft = self.locality == "soft"
        return plan(
            load,
            self.cluster,
            num_groups=self.num_groups,
            locality=self.locality,
            effort=self.settings.effort,
            previous=previous,
            max_moves=max_moves,
            forecast=None if self.windows is None else self.settings.forecast,
            dispatch=self.settings.dispatch,
            constraints=Constraints(home_share=self.settings.home_share) if is_soft else None,
        )

    def _kept(self) -> Flags:
        if self.in_use is None or not self.is_idle.any():
            return np.zeros(self.num_layers, np.bool_)
        is_complete = complete_rows(self.in_use, self.cluster.num_slots, self.num_experts, self.is_open)
        is_kept: Flags = self.is_idle & is_complete
        return is_kept

    def _fixed_row(self) -> Ints:
        """Return experts in rising order, over and over, on the slots of each node that are up: none lies twice on a rank."""
        row = np.full(self.cluster.num_slots, ABSENT, np.int64)
        nodes = self.cluster.num_nodes if self.locality == "strict" else 1
        node = np.asarray(self.cluster.node_of_rank, np.int64)[self.cluster.rank_of_slot] if nodes > 1 else 0
        experts = self.num_experts // nodes
        for n in range(nodes):
            slots = np.flatnonzero(self.is_open & (node == n))
            row[slots] = n * experts + np.arange(slots.size) % experts
        return row

    def _previous(self, rows: Ints) -> Placement | None:
        return previous_placement(rows, self.cluster, self.num_experts, self.num_groups, self.locality == "strict")

    def _filled(self, slots: Ints, load: Floats) -> Ints:
        """Fill slots that a plan leaves empty, as engines know none: with the expert that brings the least load there."""
        is_empty = (slots == ABSENT) & self.is_open
        if not is_empty.any():
            return slots
        slots = slots.copy()
        rank_of_slot, room = self.cluster.rank_of_slot, int(self.cluster.slot_counts[0])
        for x, s in zip(*np.nonzero(is_empty), strict=True):
            first = int(rank_of_slot[s]) * room
            brought = load[x] / (np.bincount(slots[x][slots[x] != ABSENT], minlength=self.num_experts) + 1)
            brought[slots[x, first : first + room][slots[x, first : first + room] != ABSENT]] = np.inf
            if self.locality == "strict":
                brought[~self._is_at_home(slots[x], int(rank_of_slot[s]))] = np.inf
            slots[x, s] = np.argmin(brought)
        return slots

    def _is_at_home(self, row: Ints, rank: int) -> Flags:
        """Tell which experts' groups are on the node of a rank."""
        node = np.asarray(self.cluster.node_of_rank, np.int64)
        there = row[(node[self.cluster.rank_of_slot] == node[rank]) & (row != ABSENT)]
        size = self.num_experts // self.num_groups
        is_at_home: Flags = np.isin(np.arange(self.num_experts) // size, there // size)
        return is_at_home


def _choose_locality(call: Call, settings: Settings) -> str:
    if settings.locality != "auto":
        return settings.locality
    is_whole = all(call.alive)
    return "strict" if call.is_hierarchical and call.num_nodes > 1 and is_whole else "none"


@lru_cache(maxsize=32, typed=True)
def _checked_cluster(
    num_slots: int, num_ranks: int, num_nodes: int, alive: tuple[bool, ...], num_experts: int, num_groups: int, locality: str
) -> Cluster:
    """Return the cluster, once it is known that plans for it can be made, whatever the load."""
    cluster = Cluster(num_ranks, even_slots(num_slots, num_ranks, num_experts), num_nodes, alive=alive)
    make_problem(np.ones((1, num_experts)), cluster, num_groups, locality)
    return cluster


def _check_answer(slots: Ints, asked: _Asked) -> None:
    """Raise where a row could not serve; this would be a fault of the planner, not of the arguments."""
    filled = slots if asked.is_whole else slots[:, asked.is_open]
    if filled.min() < 0 or not count_replicas(slots, asked.num_experts).all():
        raise RuntimeError("a placement was planned in which an expert or a slot is missing; please report this")


def _judged(asked: _Asked, slots: Ints) -> Decision:
    load = asked.load.astype(np.float64)
    after = _balancedness(asked, load, slots)
    if asked.in_use is None:
        return Decision(slots, float("nan"), after, -1)
    before, in_use = float("nan"), asked.in_use
    if in_use.shape == slots.shape:
        before = _balancedness(asked, load, in_use if asked.is_whole else np.where(asked.is_open, in_use, ABSENT))
    return Decision(slots, before, after, _count_moves(slots, asked.in_use, asked))


def _balancedness(asked: _Asked, load: Floats, slots: Ints) -> float:
    """Return the ideal over the largest rank loads, each added up over layers; nan without load, or with an expert lost."""
    largest = add_up_largest(load, slots, asked.cluster.rank_of_slot, asked.cluster.num_ranks)
    return float(asked.load.sum()) / sum(asked.cluster.alive) / largest if largest > 0 else float("nan")


def _count_moves(slots: Ints, in_use: Ints, asked: _Asked) -> int:
    """Count replicas that their ranks did not hold before."""
    rank_of_slot, room = asked.cluster.rank_of_slot, int(asked.cluster.slot_counts[0])
    ranks = max(asked.cluster.num_ranks, -(-in_use.shape[1] // room))
    was_on = np.arange(in_use.shape[1], dtype=np.int64) // room
    return int(count_received(slots, rank_of_slot, in_use, was_on, ranks, asked.num_experts).sum())
