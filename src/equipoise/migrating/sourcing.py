"""Which slot each move is read from."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.sequencing import MOVE
from equipoise.kernels.sourcing import choose_sources
from equipoise.kernels.types import Ints
from equipoise.migrating.moves import CopyList, Frame


def choose_source_slots(frame: Frame, copies: CopyList) -> Ints:
    """Return the source slot of each copy, int64 [copies]; -1 from disk.

    In each layer the largest number of sends or receives of any rank is least, and at that number as many moves as possible
    stay within a node; both exactly (:func:`equipoise.kernels.sourcing.choose_sources`).
    """
    source, rank_of_slot = copies.source.copy(), frame.rank_of_slot
    is_move = copies.kind == MOVE
    where = np.flatnonzero(is_move)
    begin = np.searchsorted(copies.layer[where], np.arange(len(frame.held) + 1))
    holds, node = copies.holds, np.array(frame.node_of_rank)  # writable, which is what kernels are compiled for
    for layer in range(len(frame.held)):
        moves = where[begin[layer] : begin[layer + 1]]
        if len(moves) == 0:
            continue
        expert, receiver = copies.expert[moves], rank_of_slot[copies.target[moves]]
        sender = np.empty(len(moves), np.int64)
        least = int(np.bincount(receiver).max())
        choose_sources(expert, receiver, holds[layer], node, least, sender)
        source[moves] = copies.first_slot[layer, sender, expert]
    return source
