"""What the ranks do in one layer, step by step: copies between ranks in rounds, and what each rank does by itself in between.

A slot may be overwritten when all copies that read what it held are done; until then what it shall hold waits in a buffer. A
copy is *ready* when its slot may be overwritten or its rank has a free buffer. One always is: each slot gets one copy, so if
every slot that still waits for one is read by another waiting copy, each is read by exactly one, and no other slot is read at
all. Then no buffer waits for its slot, all are free, and as every rank has one, every waiting copy is ready. So rounds of ready
copies, chosen in any way, come to an end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Flags, Ints

MOVE, COPY, STASH, COMMIT, LOAD, REPEAT = range(6)
"""Slot or buffer of a rank from a slot of another; slot from a slot of its rank; buffer from such a slot; slot from buffer;
slot from disk; slot from what another slot of its rank was just given (a step of kind COPY once it is listed)."""

DUPLEX, ONE_PEER = range(2)

_NONE = -1
_WAITING, _STAGED, _DONE = range(3)


class Copies(NamedTuple):
    """The copies of one layer, each [copies]."""

    kind: Ints  # MOVE, COPY, LOAD or REPEAT
    source: Ints  # slot, -1 from disk
    target: Ints  # slot
    sender: Ints  # rank, -1 from disk
    receiver: Ints  # rank


class _State(NamedTuple):
    status: Ints  # [copies]
    buffer: Ints  # [copies]
    reads: Ints  # [slots] waiting copies that read what a slot held
    is_taken: Flags  # [ranks, buffers]
    num_taken: Ints  # [ranks]
    steps: Ints  # [steps, 4] kind, round, copy, buffer
    num_steps: Ints  # [1]


@kernel
def sequence(
    copies: Copies, num_slots: int, num_ranks: int, buffers: int, rule: int, most: int, given: Ints, steps: Ints
) -> int:
    """List what one layer takes; return its rounds, or -1 where the rounds given need more buffers.

    ``given`` [copies] holds the round of each MOVE, or is empty for rounds of ready copies, those of the busiest ranks first,
    at most ``most`` in a round. Every rank has ``buffers`` >= 1. ``steps`` [2 * copies, 4] gets the kind, round, copy and
    buffer (-1 for none) of each step, in order, and kind -1 behind the last; steps of round -1 come before the first round.
    Within a round moves stand first: they happen at once.
    """
    count = copies.kind.shape[0]
    state = _State(
        np.zeros(count, np.int64),
        np.full(count, _NONE, np.int64),
        np.zeros(num_slots, np.int64),
        np.zeros((num_ranks, buffers), np.bool_),
        np.zeros(num_ranks, np.int64),
        steps,
        np.zeros(1, np.int64),
    )
    steps[:] = _NONE
    left = 0
    for c in range(count):
        left += copies.kind[c] == MOVE
        if copies.kind[c] == MOVE or copies.kind[c] == COPY:
            state.reads[copies.source[c]] += 1
    _settle(copies, state, -1)
    now = np.empty(count, np.bool_)
    choice = _make_choice(copies, num_ranks, num_slots)
    done = 0
    while left > 0:
        if given.shape[0] > 0:
            now[:] = given == done
        elif rule == DUPLEX:
            _choose_duplex(copies, state, choice, buffers, most, now)
        else:
            _choose_peers(copies, state, choice, buffers, most, now)
        moved = _exchange(copies, state, done, now)
        if moved < 0:
            return -1
        left -= moved
        _settle(copies, state, done)
        done += 1
    for kind in (LOAD, REPEAT):
        for c in range(count):
            if copies.kind[c] == kind:
                _step(state, LOAD if kind == LOAD else COPY, done - 1, c)
    return done


@kernel
def _step(state: _State, kind: int, done: int, c: int) -> None:
    row = state.steps[state.num_steps[0]]
    row[0], row[1], row[2], row[3] = kind, done, c, state.buffer[c]
    state.num_steps[0] += 1


@kernel
def _take_buffer(copies: Copies, state: _State, c: int) -> bool:
    rank = copies.receiver[c]
    for b in range(state.is_taken.shape[1]):
        if not state.is_taken[rank, b]:
            state.is_taken[rank, b] = True
            state.num_taken[rank] += 1
            state.buffer[c] = b
            state.status[c] = _STAGED
            return True
    return False


@kernel
def _exchange(copies: Copies, state: _State, done: int, now: Flags) -> int:
    """Make the moves of one round at once; return how many, or -1 where a buffer is missing."""
    moved = 0
    for c in range(now.shape[0]):
        if not now[c] or copies.kind[c] != MOVE:
            continue
        moved += 1
        if state.reads[copies.target[c]] == 0:
            state.status[c] = _DONE
        elif not _take_buffer(copies, state, c):
            return -1
        _step(state, MOVE, done, c)
    for c in range(now.shape[0]):
        if now[c] and copies.kind[c] == MOVE:
            state.reads[copies.source[c]] -= 1
    return moved


@kernel
def _settle(copies: Copies, state: _State, done: int) -> None:
    """Do all that ranks can do by themselves: empty buffers into slots nobody reads any more, and copy between own slots."""
    while True:
        is_settled = True
        for c in range(copies.kind.shape[0]):
            if state.status[c] == _DONE or state.reads[copies.target[c]] > 0:
                continue
            if state.status[c] == _STAGED:
                _step(state, COMMIT, done, c)
                state.is_taken[copies.receiver[c], state.buffer[c]] = False
                state.num_taken[copies.receiver[c]] -= 1
            elif copies.kind[c] == COPY:
                _step(state, COPY, done, c)
                state.reads[copies.source[c]] -= 1
            else:
                continue
            state.status[c] = _DONE
            is_settled = False
        if is_settled and not _break_cycle(copies, state, done):
            return


@kernel
def _break_cycle(copies: Copies, state: _State, done: int) -> bool:
    """Stash one copy of a cycle of own slots that nobody else reads; return whether there was one and a buffer for it."""
    for c in range(copies.kind.shape[0]):
        is_open = copies.kind[c] == COPY and state.status[c] == _WAITING
        if is_open and _closes(copies, state, c) and _take_buffer(copies, state, c):
            _step(state, STASH, done, c)
            state.reads[copies.source[c]] -= 1
            return True
    return False


@kernel
def _closes(copies: Copies, state: _State, first: int) -> bool:
    """Tell whether a copy is on a cycle of copies within its rank whose slots have no other readers."""
    c = first
    for _ in range(copies.kind.shape[0]):
        if state.reads[copies.target[c]] != 1:
            return False
        reader = _NONE
        for d in range(copies.kind.shape[0]):
            if copies.kind[d] == COPY and state.status[d] == _WAITING and copies.source[d] == copies.target[c]:
                reader = d
        if reader == _NONE or reader == first:
            return reader == first
        c = reader
    return False


class _Choice(NamedTuple):
    by_sender: Ints  # [moves] sorted by sender
    first_sent: Ints  # [ranks + 1]
    by_receiver: Ints
    first_received: Ints
    sends: Ints  # [ranks] waiting moves
    receives: Ints
    order: Ints  # [ranks]
    sent: Ints  # [ranks] the move a rank sends in this round, -1 for none
    received: Ints
    via: Ints
    queue: Ints
    ready: Ints  # [copies] 0 not, 1 into a buffer, 2 into its slot, 2 more where a buffer waits for what it reads
    is_held: Flags  # [slots]


@kernel
def _make_choice(copies: Copies, num_ranks: int, num_slots: int) -> _Choice:
    by_sender, first_sent = _group(copies.kind, copies.sender, num_ranks)
    by_receiver, first_received = _group(copies.kind, copies.receiver, num_ranks)
    return _Choice(
        by_sender,
        first_sent,
        by_receiver,
        first_received,
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.arange(num_ranks),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(num_ranks, np.int64),
        np.empty(copies.kind.shape[0], np.int64),
        np.empty(num_slots, np.bool_),
    )


@kernel
def _group(kind: Ints, rank: Ints, num_ranks: int) -> tuple[Ints, Ints]:
    """Return the moves sorted by rank, and where each rank's begin."""
    first = np.zeros(num_ranks + 1, np.int64)
    for c in range(kind.shape[0]):
        if kind[c] == MOVE:
            first[rank[c] + 1] += 1
    for r in range(num_ranks):
        first[r + 1] += first[r]
    place, moves = first.copy(), np.empty(first[num_ranks], np.int64)
    for c in range(kind.shape[0]):
        if kind[c] == MOVE:
            moves[place[rank[c]]] = c
            place[rank[c]] += 1
    return moves, first


@kernel
def _survey(copies: Copies, state: _State, choice: _Choice, buffers: int) -> None:
    """Note which moves are ready, and what each rank has left to do."""
    choice.sends[:] = 0
    choice.receives[:] = 0
    choice.sent[:] = _NONE
    choice.received[:] = _NONE
    choice.is_held[:] = False
    for c in range(copies.kind.shape[0]):
        if state.status[c] == _STAGED:
            choice.is_held[copies.target[c]] = True
    for c in range(copies.kind.shape[0]):
        choice.ready[c] = 0
        if copies.kind[c] == MOVE and state.status[c] == _WAITING:
            choice.sends[copies.sender[c]] += 1
            choice.receives[copies.receiver[c]] += 1
            if state.reads[copies.target[c]] == 0:
                choice.ready[c] = 2
            elif state.num_taken[copies.receiver[c]] < buffers:
                choice.ready[c] = 1
            if choice.ready[c] > 0 and choice.is_held[copies.source[c]]:
                choice.ready[c] += 2


@kernel
def _sort_busiest_first(order: Ints, left: Ints) -> None:
    for i in range(order.shape[0]):
        order[i] = i
        j = i
        while j > 0 and left[order[j - 1]] < left[i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@kernel
def _choose_duplex(copies: Copies, state: _State, choice: _Choice, buffers: int, most: int, now: Flags) -> None:
    """Match senders with receivers over ready moves: busiest senders first, then, leaving none of those out, receivers."""
    _survey(copies, state, choice, buffers)
    _sort_busiest_first(choice.order, choice.sends)
    for r in choice.order:
        if choice.sends[r] > 0:
            _match_sender(r, copies, choice)
    _sort_busiest_first(choice.order, choice.receives)
    for r in choice.order:
        if choice.receives[r] > 0 and choice.received[r] == _NONE:
            _match_receiver(r, copies, choice)
    now[:] = False
    chosen = 0
    for r in choice.order:
        if choice.received[r] != _NONE and chosen < most:
            now[choice.received[r]] = True
            chosen += 1


@kernel
def _match_sender(root: int, copies: Copies, choice: _Choice) -> None:
    """Find a shortest augmenting path from a sender, over moves into slots rather than into buffers."""
    via, queue = choice.via, choice.queue
    via[:] = _NONE
    queue[0] = root
    head, tail = 0, 1
    while head < tail:
        r = queue[head]
        head += 1
        for wanted in (4, 3, 2, 1):
            for c in choice.by_sender[choice.first_sent[r] : choice.first_sent[r + 1]]:
                receiver = copies.receiver[c]
                if choice.ready[c] != wanted or via[receiver] != _NONE:
                    continue
                via[receiver] = c
                if choice.received[receiver] == _NONE:
                    while True:
                        c = via[receiver]
                        before = choice.sent[copies.sender[c]]
                        choice.sent[copies.sender[c]] = c
                        choice.received[receiver] = c
                        if copies.sender[c] == root:
                            return
                        receiver = copies.receiver[before]
                queue[tail] = copies.sender[choice.received[receiver]]
                tail += 1


@kernel
def _match_receiver(root: int, copies: Copies, choice: _Choice) -> None:
    """Find a path from a receiver to a sender without a move, or to a receiver with less to do, whose place it takes."""
    via, queue = choice.via, choice.queue
    via[:] = _NONE
    queue[0] = root
    head, tail = 0, 1
    while head < tail:
        r = queue[head]
        head += 1
        for wanted in (4, 3, 2, 1):
            for c in choice.by_receiver[choice.first_received[r] : choice.first_received[r + 1]]:
                sender = copies.sender[c]
                if choice.ready[c] != wanted or via[sender] != _NONE:
                    continue
                via[sender] = c
                held = choice.sent[sender]
                if held == _NONE or choice.receives[copies.receiver[held]] < choice.receives[root]:
                    if held != _NONE:
                        choice.received[copies.receiver[held]] = _NONE
                    while True:
                        c = via[sender]
                        before = choice.received[copies.receiver[c]]
                        choice.received[copies.receiver[c]] = c
                        choice.sent[sender] = c
                        if copies.receiver[c] == root:
                            return
                        sender = copies.sender[before]
                queue[tail] = copies.receiver[held]
                tail += 1


@kernel
def _choose_peers(copies: Copies, state: _State, choice: _Choice, buffers: int, most: int, now: Flags) -> None:
    """Pair ranks, the busiest first, each with the busiest peer it has a ready move with; a pair makes all that are ready."""
    _survey(copies, state, choice, buffers)
    left = choice.sends + choice.receives
    _sort_busiest_first(choice.order, left)
    peer = choice.via
    peer[:] = _NONE
    now[:] = False
    chosen = 0
    for r in choice.order:
        if peer[r] != _NONE or chosen == most:
            continue
        best = _NONE
        for c in range(copies.kind.shape[0]):
            if choice.ready[c] > 0 and (copies.sender[c] == r or copies.receiver[c] == r):
                other = copies.sender[c] + copies.receiver[c] - r
                if peer[other] == _NONE and (
                    best == _NONE or left[other] > left[best] or (left[other] == left[best] and other < best)
                ):
                    best = other
        if best == _NONE:
            continue
        peer[r], peer[best] = best, r
        chosen += _open_pair(r, best, copies, state, choice, buffers, most - chosen, now)


@kernel
def _open_pair(
    one: int, other: int, copies: Copies, state: _State, choice: _Choice, buffers: int, most: int, now: Flags
) -> int:
    """Mark the ready moves of a pair that its buffers allow; return how many."""
    room_of_one, room_of_other = buffers - state.num_taken[one], buffers - state.num_taken[other]
    chosen = 0
    for wanted in (4, 2, 3, 1):
        for c in range(copies.kind.shape[0]):
            is_ours = (copies.sender[c] == one and copies.receiver[c] == other) or (
                copies.sender[c] == other and copies.receiver[c] == one
            )
            if choice.ready[c] != wanted or not is_ours or chosen == most:
                continue
            if wanted % 2 == 1 and copies.receiver[c] == one:
                if room_of_one == 0:
                    continue
                room_of_one -= 1
            elif wanted % 2 == 1:
                if room_of_other == 0:
                    continue
                room_of_other -= 1
            now[c] = True
            chosen += 1
    return chosen
