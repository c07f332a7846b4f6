"""Whole tokens from shares: what each source sends to each slot, token by token, with nothing agreed at run time.

A source is a rank whose tokens are routed. Shares of an expert's slots add up to 1, counts stay below 2**40: so what rounding
leaves undecided is always less than half a token, and totals come out exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.kernels.compiling import kernel, part
from equipoise.kernels.types import Floats, Ints

_NONE = -1
_ROOT = -2
_WHOLE, _OPEN, _TAKEN = 0, 1, 2
_GOLDEN = 0x9E3779B9
_MASK = 0xFFFFFFFF
_UNIT = 2.0**-32


class SlotLists(NamedTuple):
    """Scratch of one thread: the slots of each expert of one layer; made by :func:`make_slot_lists`."""

    first: Ints  # [experts + 1] where an expert's slots begin in ``slot``
    slot: Ints  # [slots] slots by expert, rising
    at: Ints  # [experts] a place in ``slot``


@kernel
def make_slot_lists(num_experts: int, num_slots: int) -> SlotLists:
    """Make the scratch that :func:`list_slots` fills."""
    return SlotLists(np.empty(num_experts + 1, np.int64), np.empty(num_slots, np.int64), np.empty(num_experts, np.int64))


@kernel
def list_slots(expert: Ints, lists: SlotLists) -> None:
    """List the slots of each expert of one layer: those of e are slot[first[e] : first[e + 1]]."""
    first, slot, at = lists.first, lists.slot, lists.at
    for e in range(first.shape[0]):
        first[e] = 0
    for s in range(expert.shape[0]):
        if expert[s] >= 0:
            first[expert[s] + 1] += 1
    for e in range(at.shape[0]):
        first[e + 1] += first[e]
        at[e] = first[e]
    for s in range(expert.shape[0]):
        if expert[s] >= 0:
            slot[at[expert[s]]] = s
            at[expert[s]] += 1


@kernel
def reverse_bits(number: int) -> int:
    """Return the 32 bits of ``number`` from the other end; over 2**32 that is the van der Corput sequence."""
    turned = 0
    for _ in range(32):
        turned = (turned << 1) | (number & 1)
        number >>= 1
    return turned


@kernel
def offset_of(source: int, expert: int) -> float:
    """Return where a source begins to round an expert's tokens: a multiple of 2**-32 in [0, 1).

    Over sources it is the van der Corput sequence, so that any 2**m in a row are spread evenly. Each expert shifts it by the
    golden ratio: one source's tokens of many experts would else all go to first replicas, or all to last ones.
    """
    return ((reverse_bits(source) + expert * _GOLDEN) & _MASK) * _UNIT


@kernel
def apportion_rows(expert_of_slot: Ints, shares: Floats, counts: Ints, source: int, lists: SlotLists, tokens: Ints) -> None:
    """Apportion a source's counts [layers, experts] by shares [layers, slots]: whole ``tokens`` [layers, slots]."""
    for x in range(expert_of_slot.shape[0]):
        list_slots(expert_of_slot[x], lists)
        apportion_row(shares[x], counts[x], source, lists, tokens[x])


@kernel
def apportion_row(shares: Floats, counts: Ints, source: int, lists: SlotLists, tokens: Ints) -> None:
    """Apportion one layer's counts [experts] over the slots listed."""
    for s in range(tokens.shape[0]):
        tokens[s] = 0
    for e in range(counts.shape[0]):
        if counts[e] > 0:
            slots = lists.slot[lists.first[e] : lists.first[e + 1]]
            _round_systematically(counts[e], slots, shares, offset_of(source, e), tokens)


@part
def _round_systematically(count: int, slots: Ints, shares: Floats, offset: float, tokens: Ints) -> None:
    """Give slot k floor(c_k + offset) - floor(c_(k-1) + offset) tokens, c being cumulative sums of count * share.

    Only parts of tokens are added up, and how many slots round up is known beforehand, so rounding cannot change a total, give
    a token to a share of 0, or move a slot by a whole token.
    """
    left, waiting = count, 0
    for s in slots:
        own = count * shares[s]
        tokens[s] = int(np.floor(own))
        left -= tokens[s]
        waiting += own > tokens[s]
    reach, given = offset, 0
    for s in slots:
        rest = count * shares[s] - tokens[s]
        if rest > 0.0:
            reach += rest
            if left - given == waiting or (given < left and np.floor(reach) > given):
                tokens[s] += 1
                given += 1
            waiting -= 1


@kernel
def choose_slots_into(
    topk: Ints, expert: Ints, shares: Floats, source: int, lists: SlotLists, count: Ints, left: Ints, out: Ints
) -> None:
    """Choose the slot of each of a source's tokens in one layer: ``topk`` and ``out`` [tokens, k], -1 stays -1.

    ``expert`` and ``shares`` are the layer's rows [slots]; ``count`` [experts] and ``left`` [slots] are scratch.
    """
    for e in range(count.shape[0]):
        count[e] = 0
    for t in range(topk.shape[0]):
        for k in range(topk.shape[1]):
            if topk[t, k] >= 0:
                count[topk[t, k]] += 1
    list_slots(expert, lists)
    apportion_row(shares, count, source, lists, left)
    deal_tokens(topk, lists, left, out)


@kernel
def deal_tokens(topk: Ints, lists: SlotLists, left: Ints, out: Ints) -> None:
    """Give each expert's tokens, in order, to its first slot that has some ``left`` [slots], which is used up."""
    slot, at = lists.slot, lists.at
    for e in range(at.shape[0]):
        at[e] = lists.first[e]
    for t in range(topk.shape[0]):
        for k in range(topk.shape[1]):
            e = topk[t, k]
            if e < 0:
                out[t, k] = _NONE
                continue
            while left[slot[at[e]]] == 0:
                at[e] += 1
            out[t, k] = slot[at[e]]
            left[slot[at[e]]] -= 1


@kernel
def round_rows(expert_of_slot: Ints, load: Floats, tokens: Floats, whole: Ints, lists: SlotLists) -> None:
    """Round ``tokens`` [layers, slots] to ``whole`` ones by largest remainder, ties to the lower slot.

    An expert's add up to its ``load`` [layers, experts], a whole number, which ``tokens`` must miss by less than half a token.
    """
    for x in range(expert_of_slot.shape[0]):
        list_slots(expert_of_slot[x], lists)
        for s in range(expert_of_slot.shape[1]):
            whole[x, s] = 0
        for e in range(load.shape[1]):
            slots = lists.slot[lists.first[e] : lists.first[e + 1]]
            if slots.shape[0] > 0:
                _round_by_remainder(int(load[x, e]), slots, tokens[x], whole[x])


@part
def _round_by_remainder(total: int, slots: Ints, tokens: Floats, whole: Ints) -> None:
    for s in slots:
        whole[s] = int(np.floor(tokens[s]))
        total -= whole[s]
    for _ in range(total):
        best = slots[0]
        for s in slots:
            if tokens[s] - whole[s] > tokens[best] - whole[best]:
                best = s
        whole[best] += 1


class Needs(NamedTuple):
    """One expert's entries [sources, replicas] that are not whole, and what is still to be handed out over them."""

    state: Ints  # [sources, replicas] whole, open (rounded down so far) or taken (rounded up)
    of_source: Ints  # [sources] tokens still to be placed
    of_slot: Ints  # [replicas] tokens still to come
    came_from: Ints  # [sources] replica by which a way reaches a source
    came_by: Ints  # [replicas] source by which a way reaches a replica
    queue: Ints  # [sources]


@kernel
def apportion_rows_exactly(expert_of_slot: Ints, slot_tokens: Ints, counts: Ints, tokens: Ints) -> None:
    """Apportion all sources' counts [sources, layers, experts] to ``tokens`` [sources, layers, slots], which begin at 0.

    Sums over an expert's slots are the counts, sums over sources ``slot_tokens`` [layers, slots], and each entry is its
    proportional part, rounded down or up: controlled rounding, a transportation problem whose integral solutions exist.
    """
    num_sources, num_slots = tokens.shape[0], tokens.shape[2]
    lists = make_slot_lists(counts.shape[2], num_slots)
    needs = Needs(
        np.empty((num_sources, num_slots), np.int64),
        np.empty(num_sources, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_sources, np.int64),
        np.empty(num_slots, np.int64),
        np.empty(num_sources, np.int64),
    )
    for x in range(expert_of_slot.shape[0]):
        list_slots(expert_of_slot[x], lists)
        for e in range(counts.shape[2]):
            slots = lists.slot[lists.first[e] : lists.first[e + 1]]
            total = 0
            for s in slots:
                total += slot_tokens[x, s]
            if total > 0:
                _round_all_down(counts[:, x, e], slot_tokens[x], slots, total, needs, tokens[:, x])
                _hand_out(slots.shape[0], needs)
                _hand_out_rest(slots.shape[0], needs)
                _add_taken(slots, needs, tokens[:, x])


@kernel
def _round_all_down(counts: Ints, slot_tokens: Ints, slots: Ints, total: int, needs: Needs, tokens: Ints) -> None:
    for j in range(slots.shape[0]):
        needs.of_slot[j] = slot_tokens[slots[j]]
    for i in range(counts.shape[0]):
        needs.of_source[i] = counts[i]
        for j in range(slots.shape[0]):
            product = counts[i] * slot_tokens[slots[j]]
            below = product // total
            tokens[i, slots[j]] = below
            needs.of_source[i] -= below
            needs.of_slot[j] -= below
            needs.state[i, j] = _OPEN if product > below * total else _WHOLE


@kernel
def _hand_out(replicas: int, needs: Needs) -> None:
    """Place each source's tokens where most are still to come, as far as that goes."""
    state, of_source, of_slot = needs.state, needs.of_source, needs.of_slot
    for i in range(of_source.shape[0]):
        while of_source[i] > 0:
            best = _NONE
            for j in range(replicas):
                if state[i, j] == _OPEN and of_slot[j] > 0 and (best < 0 or of_slot[j] > of_slot[best]):
                    best = j
            if best < 0:
                break
            state[i, best] = _TAKEN
            of_source[i] -= 1
            of_slot[best] -= 1


@kernel
def _hand_out_rest(replicas: int, needs: Needs) -> None:
    """Place what is left along shortest ways on which other sources make room; there always is one."""
    for i in range(needs.of_source.shape[0]):
        while needs.of_source[i] > 0:
            end = _find_way(i, replicas, needs)
            _shift(i, end, needs)


@kernel
def _find_way(start: int, replicas: int, needs: Needs) -> int:
    """Return the first replica with tokens still to come on a way from a source, and leave the way in ``came_*``."""
    state, came_from, came_by, queue = needs.state, needs.came_from, needs.came_by, needs.queue
    num_sources = needs.of_source.shape[0]
    for i in range(num_sources):
        came_from[i] = _NONE
    for j in range(replicas):
        came_by[j] = _NONE
    came_from[start] = _ROOT
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        i = queue[head]
        head += 1
        for j in range(replicas):
            if state[i, j] != _OPEN or came_by[j] != _NONE:
                continue
            came_by[j] = i
            if needs.of_slot[j] > 0:
                return j
            for other in range(num_sources):
                if state[other, j] == _TAKEN and came_from[other] == _NONE:
                    came_from[other] = j
                    queue[tail] = other
                    tail += 1
    return _NONE


@kernel
def _shift(start: int, end: int, needs: Needs) -> None:
    """Round up on the way where it was down, and down where it was up."""
    needs.of_source[start] -= 1
    needs.of_slot[end] -= 1
    j = end
    while j >= 0:
        i = needs.came_by[j]
        needs.state[i, j] = _TAKEN
        j = needs.came_from[i]
        if j >= 0:
            needs.state[i, j] = _OPEN


@kernel
def _add_taken(slots: Ints, needs: Needs, tokens: Ints) -> None:
    for i in range(tokens.shape[0]):
        for j in range(slots.shape[0]):
            if needs.state[i, j] == _TAKEN:
                tokens[i, slots[j]] += 1


@kernel
def fix_sources(
    expert_of_slot: Ints, shares: Floats, weight: Floats, order: Ints, rank_of_slot: Ints, node_of_rank: Ints, table: Ints
) -> None:
    """Write to ``table`` [ranks, layers, experts] the slot that each source rank always uses.

    ``weight`` [layers, experts, ranks] is what a source has of an expert, ``order`` [layers, experts, sources] the sources from
    heavy to light. Nothing is written for other ranks and for experts without a slot.
    """
    num_slots = expert_of_slot.shape[1]
    lists = make_slot_lists(table.shape[2], num_slots)
    owed = np.empty(num_slots, np.float64)
    near = np.empty(num_slots, np.int64)
    quota = np.empty(num_slots, np.int64)
    picked = np.empty(table.shape[0], np.int64)
    for x in range(expert_of_slot.shape[0]):
        list_slots(expert_of_slot[x], lists)
        for e in range(table.shape[2]):
            slots = lists.slot[lists.first[e] : lists.first[e + 1]]
            if slots.shape[0] == 0:
                continue
            _owe(slots, shares[x], weight[x, e], order[x, e], owed)
            start = 0
            while start < order.shape[2]:
                alike = _alike(weight[x, e], order[x, e], start)
                size = weight[x, e, alike[0]]
                if size == 0.0:
                    size = 1.0
                    for s in slots:
                        owed[s] = shares[x, s] * alike.shape[0]
                _count_near(alike, slots, rank_of_slot, node_of_rank, near)
                _set_quota(alike.shape[0], size, slots, e % slots.shape[0], shares[x], near, owed, quota)
                _pick_nearest(alike, slots, rank_of_slot, node_of_rank, quota, picked)
                start += alike.shape[0]
            for r in order[x, e]:
                table[r, x, e] = picked[r]


@kernel
def _owe(slots: Ints, shares: Floats, weight: Floats, order: Ints, owed: Floats) -> None:
    total = 0.0
    for r in order:
        total += weight[r]
    for s in slots:
        owed[s] = shares[s] * total


@kernel
def _alike(weight: Floats, order: Ints, start: int) -> Ints:
    """Return the sources from ``start`` on that weigh the same."""
    end = start + 1
    while end < order.shape[0] and weight[order[end]] == weight[order[start]]:
        end += 1
    return order[start:end]


@kernel
def _count_near(sources: Ints, slots: Ints, rank_of_slot: Ints, node_of_rank: Ints, near: Ints) -> None:
    """Count the sources on each slot's node; one on its own rank counts more than all others."""
    for s in slots:
        near[s] = 0
        for r in sources:
            if r == rank_of_slot[s]:
                near[s] += sources.shape[0] + 1
            elif node_of_rank[r] == node_of_rank[rank_of_slot[s]]:
                near[s] += 1


@kernel
def _set_quota(
    sources: int, size: float, slots: Ints, turn: int, shares: Floats, near: Ints, owed: Floats, quota: Ints
) -> None:
    """Count the sources of one size for each slot: one by one to the slot owed most, then nearest, then next in turn."""
    for s in slots:
        quota[s] = 0
    for _ in range(sources):
        best = _NONE
        for i in range(slots.shape[0]):
            s = slots[(turn + i) % slots.shape[0]]
            if shares[s] > 0.0 and (best < 0 or owed[s] > owed[best] or (owed[s] == owed[best] and near[s] > near[best])):
                best = s
        quota[best] += 1
        owed[best] -= size


@kernel
def _pick_nearest(sources: Ints, slots: Ints, rank_of_slot: Ints, node_of_rank: Ints, quota: Ints, picked: Ints) -> None:
    """Let each source pick a slot that has ``quota`` left: own rank's first, then its node's, then any."""
    for r in sources:
        picked[r] = _NONE
    for tier in range(3):
        for r in sources:
            if picked[r] != _NONE:
                continue
            best = _NONE
            for s in slots:
                if quota[s] > 0 and _is_near(tier, r, rank_of_slot[s], node_of_rank) and (best < 0 or quota[s] > quota[best]):
                    best = s
            if best >= 0:
                picked[r] = best
                quota[best] -= 1


@part
def _is_near(tier: int, rank: int, other: int, node_of_rank: Ints) -> bool:
    if tier == 0:
        return rank == other
    return tier == 2 or node_of_rank[rank] == node_of_rank[other]
