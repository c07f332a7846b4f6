"""check_schedule(): replay a schedule slot by slot, and say the first thing that is wrong with it.

Written from what a schedule promises, not from how one is made: it holds what every slot and buffer holds, does the steps one
after the other, and looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from equipoise.errors import EquipoiseError
from equipoise.migrating.moves import check_placements
from equipoise.migrating.schedules import STEP_KINDS, MoveSchedule, check_schedule_type
from equipoise.placement import ABSENT, Placement


class InvalidScheduleError(EquipoiseError, ValueError):
    """A move schedule does not do what it should."""


class _Step(NamedTuple):
    layer: int
    round: int
    kind: str
    source: int
    target: int
    expert: int
    buffer: int


def check_schedule(schedule: MoveSchedule, old: Placement, new: Placement) -> None:
    """Prove that a schedule leads from ``old`` to ``new``, or say what is wrong first.

    Proven are, for any contents of the slots: each step reads a slot, or buffer, that holds its expert when it does; what is
    written in a round is not read in the same round, nor was it still needed; in no round a rank does more than the mode
    allows, nor are more experts on their way than ``chunk``; no rank buffers more than ``staging``; ranks that are down do
    nothing; only what no rank can send comes from disk; and in the end each slot holds what ``new`` says, and no buffer holds
    anything.

    Raises
    ------
    InvalidScheduleError
        With layer, round, slot and what it held.
    ArgumentError
        When what is given is no schedule, or no placement.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from equipoise import Cluster
    >>> from equipoise.migrating.scheduling import schedule_moves
    >>> cluster = Cluster(num_ranks=2, slots_per_rank=1)
    >>> old, new = Placement([[0, 1]], cluster, 2), Placement([[1, 0]], cluster, 2)
    >>> check_schedule(schedule_moves(old, new), old, new)
    >>> try:
    ...     check_schedule(replace(schedule_moves(old, new), expert=[0, 0, 0, 0]), old, new)
    ... except InvalidScheduleError as error:
    ...     print(error.found)
    layer 0, round 0: the move to slot 0 reads slot 1, which holds expert 1
    """
    check_schedule_type(schedule)
    check_placements(old, new)
    geometry = _Geometry(schedule, old, new)
    by_layer: list[list[_Step]] = [[] for _ in range(schedule.num_layers)]
    last = 0
    for step in _steps(schedule):
        if step.layer < last:
            raise _error(f"layer {step.layer} comes behind layer {last}", "one layer is committed at a time")
        last = step.layer
        by_layer[step.layer].append(step)
    for layer in range(schedule.num_layers):
        _Replay(schedule, geometry, layer).run(by_layer[layer])


def _steps(schedule: MoveSchedule) -> list[_Step]:
    columns = [getattr(schedule, name).tolist() for name in _Step._fields]
    return [_Step(*row)._replace(kind=STEP_KINDS[row[2]]) for row in zip(*columns, strict=True)]


@dataclass
class _Geometry:
    """Where slots of the schedule are in both placements, worked out rank by rank."""

    schedule: MoveSchedule
    old: Placement
    new: Placement
    rank: list[int] = field(init=False)
    can_send: list[bool] = field(init=False)
    is_up: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        shapes = [(p.num_layers, p.num_experts) for p in (self.old, self.new)]
        if shapes != [(self.schedule.num_layers, self.schedule.num_experts)] * 2:
            raise _error(
                f"the placements have {shapes[0][0]} and {shapes[1][0]} layers of {shapes[0][1]} and {shapes[1][1]} experts",
                f"the schedule has {self.schedule.num_layers} of {self.schedule.num_experts}",
            )
        counts = self.schedule.slot_counts.tolist()
        needed = [0] * max(self.old.cluster.num_ranks, self.new.cluster.num_ranks)
        for cluster in (self.old.cluster, self.new.cluster):
            for r, n in enumerate(cluster.slot_counts.tolist()):
                needed[r] = max(needed[r], n)
        if counts != needed:
            raise _error(f"the schedule's ranks have {counts} slots", f"those of both placements have {needed}")
        self.rank = [r for r, n in enumerate(counts) for _ in range(n)]
        was_up, is_up = list(self.old.cluster.alive), list(self.new.cluster.alive)
        self.is_up = [r < len(is_up) and is_up[r] for r in range(len(counts))]
        self.can_send = [
            r < len(was_up) and was_up[r] and (r >= len(is_up) or is_up[r] or r in self.schedule.leaving)
            for r in range(len(counts))
        ]

    def contents(self, placement: Placement, layer: int) -> dict[int, int]:
        """Return the expert of each filled slot."""
        found: dict[int, int] = {}
        row = iter(placement.expert_of_slot[layer].tolist())
        begin = 0
        for r, n in enumerate(self.schedule.slot_counts.tolist()):
            if r < placement.cluster.num_ranks:
                for place in range(int(placement.cluster.slot_counts[r])):
                    expert = next(row)
                    if expert != ABSENT:
                        found[begin + place] = expert
            begin += n
        return found


class _Replay:
    """What the slots and buffers of one layer hold while its steps are done."""

    def __init__(self, schedule: MoveSchedule, geometry: _Geometry, layer: int) -> None:
        self.schedule, self.layer = schedule, layer
        self.rank, self.is_up, self.can_send = geometry.rank, geometry.is_up, geometry.can_send
        self.held = {s: e for s, e in geometry.contents(geometry.old, layer).items() if self.can_send[self.rank[s]]}
        self.wanted = geometry.contents(geometry.new, layer)
        self.at_start = set(self.held.values())
        self.buffers: dict[tuple[int, int], int] = {}

    def run(self, steps: list[_Step]) -> None:
        """Do all steps of the layer."""
        last = -1
        for now, group in groupby(steps, key=lambda step: step.round):
            if now < last:
                raise _error(f"layer {self.layer}, round {now} comes behind round {last}", "rounds follow one another")
            last = now
            in_order = list(group)
            moves = [step for step in in_order if step.kind == "move"]
            if in_order[: len(moves)] != moves:
                raise _error(f"layer {self.layer}, round {now}: a move behind a local step", "the moves of a round come first")
            self._exchange(now, moves)
            for step in in_order[len(moves) :]:
                self._do_locally(step)
        self._check_end()

    def _exchange(self, now: int, moves: list[_Step]) -> None:
        """Do the moves of a round at once: all read before any writes, and none writes what another reads."""
        if now < 0 and moves:
            raise _error(f"{self._place(moves[0])} comes before the first round", "moves are made in rounds 0, 1, ...")
        self._check_mode(now, moves)
        read = {step.source for step in moves}
        written: set[int] = set()
        for step in moves:
            self._check_ranks(step)
            self._check_source(step)
        for step in moves:
            if step.buffer >= 0:
                self._fill_buffer(step)
                continue
            if step.target in read:
                raise _error(f"{self._place(step)} overwrites a slot that is read in this round", "it must be read before")
            if step.target in written:
                raise _error(f"{self._place(step)} writes a slot that another move writes", "a slot gets one expert")
            written.add(step.target)
            self.held[step.target] = step.expert

    def _check_mode(self, now: int, moves: list[_Step]) -> None:
        where = f"layer {self.layer}, round {now}"
        if self.schedule.chunk is not None and len(moves) > self.schedule.chunk:
            raise _error(f"{where}: {len(moves)} experts are on their way", f"at most {self.schedule.chunk} may be")
        sent: dict[int, int] = {}
        received: dict[int, int] = {}
        peers: dict[int, set[int]] = {}
        for step in moves:
            sender, receiver = self.rank[step.source], self.rank[step.target]
            if sender == receiver:
                raise _error(f"{self._place(step)} reads slot {step.source} of its own rank", "a move goes to another rank")
            sent[sender] = sent.get(sender, 0) + 1
            received[receiver] = received.get(receiver, 0) + 1
            peers.setdefault(sender, set()).add(receiver)
            peers.setdefault(receiver, set()).add(sender)
        if self.schedule.mode == "one-peer":
            for rank, others in sorted(peers.items()):
                if len(others) > 1:
                    raise _error(f"{where}: rank {rank} exchanges with ranks {sorted(others)}", "it may with one")
            return
        for done, counts in (("sends", sent), ("receives", received)):
            for rank, count in sorted(counts.items()):
                if count > 1:
                    raise _error(f"{where}: rank {rank} {done} {count} experts", "one is allowed in a round")

    def _do_locally(self, step: _Step) -> None:
        self._check_ranks(step)
        if step.kind == "load":
            if step.expert in self.at_start:
                raise _error(f"{self._place(step)} loads expert {step.expert} from disk", "a rank that is up holds it")
            self.held[step.target] = step.expert
        elif step.kind == "commit":
            found = self.buffers.pop((self.rank[step.target], step.buffer), ABSENT)
            if found != step.expert:
                raise _error(
                    f"{self._place(step)} reads buffer {step.buffer}, which holds {_name(found)}",
                    f"it must hold expert {step.expert}",
                )
            self.held[step.target] = step.expert
        else:
            self._check_source(step)
            if self.rank[step.source] != self.rank[step.target]:
                raise _error(f"{self._place(step)} reads slot {step.source} of another rank", "only moves go between ranks")
            if step.kind == "stash":
                self._fill_buffer(step)
            else:
                self.held[step.target] = step.expert

    def _fill_buffer(self, step: _Step) -> None:
        rank = self.rank[step.target]
        if step.buffer < 0:
            raise _error(f"{self._place(step)} names no buffer", "a stash needs one")
        if (rank, step.buffer) in self.buffers:
            held = self.buffers[rank, step.buffer]
            raise _error(f"{self._place(step)} overwrites buffer {step.buffer}, which holds {_name(held)}", "commit that first")
        self.buffers[rank, step.buffer] = step.expert
        used = sum(r == rank for r, _ in self.buffers)
        staging = self.schedule.staging
        if staging is not None and (used > staging or step.buffer >= staging):
            raise _error(f"{self._place(step)} takes rank {rank}'s buffer {step.buffer} ({used} in use)", f"it has {staging}")

    def _check_source(self, step: _Step) -> None:
        found = self.held.get(step.source, ABSENT)
        if found != step.expert:
            raise _error(
                f"{self._place(step)} reads slot {step.source}, which holds {_name(found)}",
                f"it must hold expert {step.expert}",
            )

    def _check_ranks(self, step: _Step) -> None:
        if not self.is_up[self.rank[step.target]]:
            raise _error(
                f"{self._place(step)} is on rank {self.rank[step.target]}", "that rank is down, or not in the new cluster"
            )
        if step.kind == "move" and not self.can_send[self.rank[step.source]]:
            raise _error(f"{self._place(step)} comes from rank {self.rank[step.source]}", "that rank is down, or was not there")

    def _check_end(self) -> None:
        for slot, expert in sorted(self.wanted.items()):
            found = self.held.get(slot, ABSENT)
            if found != expert:
                raise _error(
                    f"layer {self.layer}, slot {slot} holds {_name(found)} in the end",
                    f"the new placement has expert {expert} there",
                )
        for (rank, buffer), expert in sorted(self.buffers.items()):
            raise _error(
                f"layer {self.layer}, rank {rank}: buffer {buffer} holds {_name(expert)} in the end", "it must be committed"
            )

    def _place(self, step: _Step) -> str:
        return f"layer {step.layer}, round {step.round}: the {step.kind} to slot {step.target}"


def _name(expert: int) -> str:
    return "nothing" if expert == ABSENT else f"expert {expert}"


def _error(found: str, rule: str) -> InvalidScheduleError:
    return InvalidScheduleError(found, rule, "do not apply this schedule")
