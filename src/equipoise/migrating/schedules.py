"""MoveSchedule: which rank copies what, when, as one list that is the same on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from equipoise.arrays import frozen
from equipoise.checks import check_choice, check_integer, check_number
from equipoise.errors import ArgumentError
from equipoise.kernels.sequencing import COMMIT, COPY, LOAD, MOVE, STASH
from equipoise.kernels.types import Flags, Floats, Ints
from equipoise.migrating.links import Links

MODES = ("duplex", "one-peer")
"""``duplex``: in a round each rank sends one expert and receives one, from any two peers. ``one-peer``: it exchanges with a
single peer, all that the two have for each other."""

STEP_KINDS = {MOVE: "move", COPY: "copy", STASH: "stash", COMMIT: "commit", LOAD: "load"}
_FORMAT = "equipoise move schedule"
_VERSION = 1
_COLUMNS = ("layer", "round", "kind", "source", "target", "expert", "buffer")


@dataclass(frozen=True)
class Operation:
    """One thing that one rank does.

    Attributes
    ----------
    layer, round : int
        When. Sends and receives of a round are posted together and waited for; the rest is done one by one behind them. Round
        -1 comes before the first.
    action : str
        "send" the expert in ``place`` to ``peer``; "receive" it from ``peer`` into ``place``, or into ``buffer``; "copy" it
        from ``origin`` to ``place``; "stash" it from ``origin`` in ``buffer``; "commit" it from ``buffer`` to ``place``; "load"
        it from disk into ``place``.
    expert : int
        What is copied.
    place : int
        Slot of the rank, counted from its first; of a stash the one it is for.
    origin, buffer, peer : int
        Another such slot, a buffer of the rank, another rank; -1 for none.
    """

    layer: int
    round: int
    action: str
    expert: int
    place: int
    origin: int = -1
    buffer: int = -1
    peer: int = -1


@dataclass(frozen=True, eq=False)
class MoveSchedule:
    """A list of steps, in the order in which they happen; made by :func:`equipoise.migrating.scheduling.schedule_moves`.

    A rank does its own steps in this order, without waiting for ranks it does not exchange with: what it overwrites only itself
    has read, so no barrier is needed, and as all post rounds in one order no two wait for each other.

    Attributes
    ----------
    num_layers, num_experts : int
        Of both placements.
    slot_counts, node_of_rank : int64 [ranks]
        Slots and node of each rank (:class:`equipoise.migrating.moves.Frame` says where ranks are that go).
    mode : str
        One of ``MODES``.
    staging, chunk : int or None
        Experts that a rank can buffer, and that are on their way in one round; None for no limit.
    leaving : tuple of int
        Ranks down in the new placement that still send.
    layer, round, kind, source, target, expert, buffer : int64 [steps]
        Steps by layer, then round (-1: before the first), moves before others within a round. A "move" (see ``STEP_KINDS``)
        reads slot ``source`` and writes slot ``target``, or ``buffer`` of its rank if that is >= 0; "copy" is the same within a
        rank, "stash" into a buffer; "commit" writes ``target`` from ``buffer``; "load" from disk. -1 for none.
    rounds, bound : int64 [layers]
        Rounds taken, and a lower bound on them for these sources, whatever the staging.

    Raises
    ------
    ArgumentError
        When an array has another shape or a number out of range. Whether the steps are sound is for
        :func:`equipoise.migrating.checking.check_schedule` to say.
    """

    num_layers: int
    num_experts: int
    slot_counts: Ints
    node_of_rank: Ints
    mode: str
    staging: int | None
    chunk: int | None
    leaving: tuple[int, ...]
    layer: Ints
    round: Ints
    kind: Ints
    source: Ints
    target: Ints
    expert: Ints
    buffer: Ints
    rounds: Ints
    bound: Ints

    def __post_init__(self) -> None:
        check_integer("num_layers", self.num_layers, 0)
        check_integer("num_experts", self.num_experts)
        check_choice("mode", self.mode, MODES)
        for name in ("staging", "chunk"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name))
        for name in ("slot_counts", "node_of_rank", *_COLUMNS, "rounds", "bound"):
            object.__setattr__(self, name, _checked_array(name, getattr(self, name)))
        object.__setattr__(self, "leaving", tuple(check_integer("a leaving rank", r, 0) for r in self.leaving))
        self._check_lengths()
        self._check_ranges()

    @property
    def num_ranks(self) -> int:
        """Ranks of both placements."""
        return len(self.slot_counts)

    @cached_property
    def rank_of_slot(self) -> Ints:
        """Rank of each slot, int64 [slots]."""
        return frozen(np.repeat(np.arange(self.num_ranks), self.slot_counts))

    @cached_property
    def receiver(self) -> Ints:
        """Rank that each step writes on, int64 [steps]."""
        return frozen(self.rank_of_slot[self.target])

    @cached_property
    def sender(self) -> Ints:
        """Rank that each step reads from, int64 [steps]; its own but for moves."""
        return frozen(np.where(self.source >= 0, self.rank_of_slot[self.source], self.receiver))

    @property
    def is_move(self) -> Flags:
        """Whether a step takes an expert from one rank to another, bool [steps]."""
        return np.asarray(self.kind == MOVE)

    @property
    def is_staged(self) -> Flags:
        """Whether a step writes into a buffer, bool [steps]."""
        return np.asarray((self.buffer >= 0) & (self.kind != COMMIT))

    @property
    def is_local(self) -> Flags:
        """Whether a step copies from slot to slot, or slot to buffer, of one rank, bool [steps]."""
        return np.isin(self.kind, (COPY, STASH))

    @property
    def is_from_disk(self) -> Flags:
        """Whether a step loads an expert that no rank can send, bool [steps]."""
        return np.asarray(self.kind == LOAD)

    @property
    def added(self) -> Ints:
        """Rounds above the bound, int64 [layers]: what little staging costs, or a mode that cannot reach its bound."""
        return self.rounds - self.bound

    @property
    def moves(self) -> Ints:
        """Experts that go from rank to rank, int64 [layers]."""
        return np.bincount(self.layer[self.is_move], minlength=self.num_layers)

    @property
    def sends(self) -> Ints:
        """Experts that each rank sends, int64 [layers, ranks]."""
        return self._count(self.sender)

    @property
    def receives(self) -> Ints:
        """Experts that each rank receives, int64 [layers, ranks]."""
        return self._count(self.receiver)

    @property
    def most_staged(self) -> Ints:
        """Buffers that each rank needs, int64 [ranks]."""
        most = np.zeros(self.num_ranks, np.int64)
        np.maximum.at(most, self.receiver, self.buffer + 1)
        return most

    @property
    def lost_experts(self) -> tuple[tuple[int, int], ...]:
        """Pairs (layer, expert) that no rank can send, so that they come from disk."""
        pairs = zip(self.layer[self.is_from_disk].tolist(), self.expert[self.is_from_disk].tolist(), strict=True)
        return tuple(sorted(set(pairs)))

    def layer_seconds(self, links: Links, expert_bytes: float) -> Floats:
        """Return the predicted seconds of each layer, float64 [layers]: its rounds, each as long as its slowest transfer.

        What a rank sends one peer in a round goes as one message. Local copies and loads from disk are not counted.
        """
        size = check_number("expert_bytes", expert_bytes, above=0.0)
        if not isinstance(links, Links):
            raise ArgumentError(f"links is a {type(links).__name__}", "it must be a Links", "make one with Links(...)")
        moves = self.is_move
        first_round = np.cumsum(self.rounds) - self.rounds
        when = first_round[self.layer[moves]] + self.round[moves]
        sender, receiver = self.sender[moves], self.receiver[moves]
        message, which = np.unique(when * self.num_ranks + sender, return_inverse=True)
        count = np.bincount(which.ravel(), minlength=len(message))
        is_near = np.zeros(len(message), np.bool_)
        is_near[which.ravel()] = self.node_of_rank[sender] == self.node_of_rank[receiver]
        bandwidth = np.where(is_near, links.bandwidth, links.node_bandwidth)
        latency = np.where(is_near, links.latency, links.node_latency)
        longest = np.zeros(int(self.rounds.sum()))
        np.maximum.at(longest, message // self.num_ranks, latency + count * size / bandwidth)
        layer_of_round = np.repeat(np.arange(self.num_layers), self.rounds)
        return np.bincount(layer_of_round, longest, minlength=self.num_layers).astype(np.float64)

    def seconds(self, links: Links, expert_bytes: float) -> float:
        """Return the predicted seconds of all layers, one after the other."""
        return float(self.layer_seconds(links, expert_bytes).sum())

    def sent_bytes(self, expert_bytes: float) -> Floats:
        """Return the bytes that each rank sends, float64 [ranks]."""
        return np.asarray(self.sends.sum(axis=0) * check_number("expert_bytes", expert_bytes, above=0.0))

    def received_bytes(self, expert_bytes: float) -> Floats:
        """Return the bytes that each rank receives, float64 [ranks]."""
        return np.asarray(self.receives.sum(axis=0) * check_number("expert_bytes", expert_bytes, above=0.0))

    def operations(self, rank: int) -> Iterator[Operation]:
        """Yield what one rank does, in order.

        Raises
        ------
        ArgumentError
            When there is no such rank.
        """
        if check_integer("rank", rank, 0) >= self.num_ranks:
            raise ArgumentError(f"rank is {rank}", f"ranks are 0..{self.num_ranks - 1}", "check the rank's number")
        return self._operations(rank)

    def _operations(self, rank: int) -> Iterator[Operation]:
        begin = int(self.slot_counts[:rank].sum())
        for i in np.flatnonzero((self.sender == rank) | (self.receiver == rank)).tolist():
            layer, now, kind, source, target, expert, buffer = (int(getattr(self, name)[i]) for name in _COLUMNS)
            place, origin, when = target - begin, source - begin if source >= 0 else -1, (layer, now)
            if kind != MOVE:
                yield Operation(*when, STEP_KINDS[kind], expert, place, origin, buffer)
            elif self.sender[i] == rank:
                yield Operation(*when, "send", expert, origin, peer=int(self.receiver[i]))
            else:
                yield Operation(*when, "receive", expert, place, buffer=buffer, peer=int(self.sender[i]))

    def as_dict(self) -> dict[str, Any]:
        """Return the schedule as numbers, strings and lists, to be written as JSON; :meth:`from_dict` reads it."""
        given: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        for field in fields(self):
            value = getattr(self, field.name)
            given[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        given["leaving"] = list(self.leaving)
        return given

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> MoveSchedule:
        """Return the schedule that :meth:`as_dict` told.

        Raises
        ------
        ArgumentError
            When it is of another format or version, lacks a part, or holds what no schedule does.
        """
        next_step = "pass what MoveSchedule.as_dict() returned"
        if not isinstance(given, dict) or given.get("format") != _FORMAT:
            raise ArgumentError("what is given is no move schedule", f"its format must be {_FORMAT!r}", next_step)
        if given.get("version") != _VERSION:
            raise ArgumentError(
                f"a move schedule of version {given.get('version')!r}", f"this equipoise reads version {_VERSION}", next_step
            )
        names = [field.name for field in fields(cls)]
        wrong = sorted({"format", "version", *names} ^ set(given))
        if wrong:
            raise ArgumentError(
                f"a move schedule lacks or has beside its own {wrong[0]!r}", "it has one of each part", next_step
            )
        if not isinstance(given["leaving"], list):
            raise ArgumentError(f"leaving is {given['leaving']!r}", "it must be a list of ranks", next_step)
        return cls(**{name: given[name] for name in names})

    def _count(self, rank: Ints) -> Ints:
        moves = self.is_move
        key = self.layer[moves] * self.num_ranks + rank[moves]
        return np.bincount(key, minlength=self.num_layers * self.num_ranks).reshape(self.num_layers, self.num_ranks)

    def _check_lengths(self) -> None:
        for names, length, what in (
            (("node_of_rank",), len(self.slot_counts), "rank"),
            (_COLUMNS, len(self.layer), "step"),
            (("rounds", "bound"), self.num_layers, "layer"),
        ):
            for name in names:
                if len(getattr(self, name)) != length:
                    raise ArgumentError(
                        f"{name} has {len(getattr(self, name))} entries",
                        f"it needs one a {what} ({length})",
                        "pass a whole list",
                    )

    def _check_ranges(self) -> None:
        slots = int(self.slot_counts.sum())
        for name, least, end in (
            ("slot_counts", 0, 2**31),
            ("node_of_rank", 0, 2**31),
            ("rounds", 0, 2**31),
            ("bound", 0, 2**31),
            ("layer", 0, self.num_layers),
            ("round", -1, 2**31),
            ("kind", 0, len(STEP_KINDS)),
            ("source", -1, slots),
            ("target", 0, slots),
            ("expert", 0, self.num_experts),
            ("buffer", -1, 2**31),
        ):
            values = getattr(self, name)
            outside = np.flatnonzero((values < least) | (values >= end))
            if outside.size:
                i = int(outside[0])
                raise ArgumentError(f"{name}[{i}] is {values[i]}", f"it must lie in {least}..{end - 1}", "check the schedule")
        late = np.flatnonzero(self.round >= self.rounds[self.layer])
        if late.size:
            i = int(late[0])
            rule = f"layer {self.layer[i]} has {self.rounds[self.layer[i]]} rounds"
            raise ArgumentError(f"round[{i}] is {self.round[i]}", rule, "check the schedule")


def check_schedule_type(given: object) -> None:
    """Refuse what is no schedule, and name it."""
    if not isinstance(given, MoveSchedule):
        found = f"schedule is a {type(given).__name__}"
        raise ArgumentError(found, "it must be a MoveSchedule", "pass what schedule_moves() returned")


def _checked_array(name: str, given: object) -> Ints:
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ArgumentError(
            f"{name} has shape {list(array.shape)} of {array.dtype}", "it must be a list of integers", "check it"
        )
    return frozen(array.astype(np.int64))
