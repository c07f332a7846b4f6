"""Edge colourings: rounds in which no rank does two things at once.

Full duplex is a bipartite multigraph of senders and receivers: as many colours as its largest degree are enough (Koenig 1916),
and with any number from there on the colours can be used equally often (de Werra 1971). One peer at a time is a graph of ranks:
its largest degree, or one more, is enough (Vizing 1964, by the fans of Misra and Gries, IPL 41, 1992).
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Flags, Ints

_NONE = -1


@kernel
def colour_transfers(sender: Ints, receiver: Ints, num_ranks: int, num_colours: int, most: int, colour: Ints) -> None:
    """Colour edges from senders to receivers [edges] with ``num_colours``, each used at most ``most`` times.

    No two edges of a sender, nor of a receiver, get the same colour. ``num_colours`` must be at least the largest degree and
    ``num_colours`` * ``most`` the edges. O(edges * ranks).
    """
    out = np.full((num_ranks, num_colours), _NONE, np.int64)
    into = np.full((num_ranks, num_colours), _NONE, np.int64)
    path = np.empty(sender.shape[0], np.int64)
    for i in range(sender.shape[0]):
        a, b = _free(out[sender[i]], 0), _free(into[receiver[i]], 0)
        if a != b:
            length = _walk(into[receiver[i], a], False, a, b, sender, receiver, out, into, path)
            _flip(path[:length], a, b, sender, receiver, out, into, colour)
        colour[i] = a
        out[sender[i], a] = i
        into[receiver[i], a] = i
    _even_out(sender, receiver, most, out, into, path, colour)


@kernel
def _free(edges: Ints, start: int) -> int:
    for c in range(start, edges.shape[0]):
        if edges[c] == _NONE:
            return c
    return _NONE


@kernel
def _walk(
    first: int, from_sender: bool, a: int, b: int, sender: Ints, receiver: Ints, out: Ints, into: Ints, path: Ints
) -> int:
    """Follow edges of colours ``a``, ``b``, ``a``... from an end of ``first`` into ``path``; return how many."""
    length, i, at_receiver, wanted = 0, first, from_sender, b
    while i != _NONE:
        path[length] = i
        length += 1
        i = into[receiver[i], wanted] if at_receiver else out[sender[i], wanted]
        at_receiver = not at_receiver
        wanted = a + b - wanted
    return length


@kernel
def _flip(path: Ints, a: int, b: int, sender: Ints, receiver: Ints, out: Ints, into: Ints, colour: Ints) -> None:
    for i in path:
        out[sender[i], colour[i]] = _NONE
        into[receiver[i], colour[i]] = _NONE
    for i in path:
        colour[i] = a + b - colour[i]
        out[sender[i], colour[i]] = i
        into[receiver[i], colour[i]] = i


@kernel
def _even_out(sender: Ints, receiver: Ints, most: int, out: Ints, into: Ints, path: Ints, colour: Ints) -> None:
    """Give edges of colours used too often to those used least, along paths that begin and end with the former."""
    used = np.zeros(out.shape[1], np.int64)
    for c in colour:
        used[c] += 1
    while used.shape[0] > 0 and used.max() > most:
        a, b = int(used.argmax()), int(used.argmin())
        for i in range(sender.shape[0]):
            if colour[i] == a and out[sender[i], b] == _NONE:
                length = _walk(i, True, a, b, sender, receiver, out, into, path)
                if length % 2 == 1:
                    _flip(path[:length], a, b, sender, receiver, out, into, colour)
                    used[a] -= 1
                    used[b] += 1
                    break


@kernel
def colour_pairs(one: Ints, other: Ints, num_ranks: int, num_colours: int, colour: Ints) -> bool:
    """Colour the edges of a graph of ranks without loops or parallel edges; return whether ``num_colours`` did.

    Always so with one more than the largest degree; with as many as the largest degree nearly always where a colouring exists.
    """
    edge = np.full((num_ranks, num_colours), _NONE, np.int64)
    fan, in_fan = np.empty(num_ranks, np.int64), np.empty(num_ranks, np.bool_)
    path = np.empty(one.shape[0], np.int64)
    colour[:] = _NONE
    for i in range(one.shape[0]):
        if _colour_by_chain(i, one, other, edge, path, colour):
            continue
        if _colour_by_fan(i, one[i], one, other, edge, fan, in_fan, path, colour):
            continue
        if not _colour_by_fan(i, other[i], one, other, edge, fan, in_fan, path, colour):
            return False
    return True


@kernel
def _colour_by_chain(i: int, one: Ints, other: Ints, edge: Ints, path: Ints, colour: Ints) -> bool:
    """Colour edge ``i`` by a colour that both ends lack, or one lacks and the other does after a chain is flipped."""
    u, v = one[i], other[i]
    for c in range(edge.shape[1]):
        if edge[u, c] == _NONE and edge[v, c] == _NONE:
            _paint(i, c, one, other, edge, colour)
            return True
    for a in range(edge.shape[1]):
        if edge[u, a] != _NONE:
            continue
        for b in range(edge.shape[1]):
            if edge[v, b] != _NONE:
                continue
            length, end = _chain(v, a, b, one, other, edge, path)
            if end != u:
                _flip_chain(path[:length], a, b, one, other, edge, colour)
                _paint(i, a, one, other, edge, colour)
                return True
    return False


@kernel
def _paint(i: int, c: int, one: Ints, other: Ints, edge: Ints, colour: Ints) -> None:
    colour[i] = c
    edge[one[i], c] = i
    edge[other[i], c] = i


@kernel
def _chain(start: int, a: int, b: int, one: Ints, other: Ints, edge: Ints, path: Ints) -> tuple[int, int]:
    """Follow colours ``a``, ``b``, ``a``... from a rank that lacks ``b`` into ``path``; return how many edges, and the end."""
    length, rank, wanted = 0, start, a
    while edge[rank, wanted] != _NONE:
        i = edge[rank, wanted]
        path[length] = i
        length += 1
        rank = one[i] + other[i] - rank
        wanted = a + b - wanted
    return length, rank


@kernel
def _flip_chain(path: Ints, a: int, b: int, one: Ints, other: Ints, edge: Ints, colour: Ints) -> None:
    for i in path:
        edge[one[i], colour[i]] = _NONE
        edge[other[i], colour[i]] = _NONE
    for i in path:
        _paint(i, a + b - colour[i], one, other, edge, colour)


@kernel
def _colour_by_fan(
    i: int, u: int, one: Ints, other: Ints, edge: Ints, fan: Ints, in_fan: Flags, path: Ints, colour: Ints
) -> bool:
    """Colour edge ``i`` by turning the colours of a fan of edges around ``u``; tell whether that was possible."""
    size = _spread_fan(i, u, one, other, edge, fan, in_fan, colour)
    tip = one[fan[size - 1]] + other[fan[size - 1]] - u
    a, b = _free(edge[u], 0), _free(edge[tip], 0)
    if b == _NONE:
        return False
    length, _ = _chain(u, b, a, one, other, edge, path)
    _flip_chain(path[:length], a, b, one, other, edge, colour)
    for k in range(size):
        rank = one[fan[k]] + other[fan[k]] - u
        if edge[rank, b] == _NONE:
            _turn_fan(fan[: k + 1], b, one, other, edge, colour)
            return True
        if k + 1 < size and edge[rank, colour[fan[k + 1]]] != _NONE:
            return False
    return False


@kernel
def _spread_fan(i: int, u: int, one: Ints, other: Ints, edge: Ints, fan: Ints, in_fan: Flags, colour: Ints) -> int:
    """List edges around ``u`` from ``i`` on, each of a colour that the far end of the one before lacks; return how many."""
    in_fan[:] = False
    fan[0] = i
    size = 1
    while True:
        tip = one[fan[size - 1]] + other[fan[size - 1]] - u
        in_fan[tip] = True
        is_longer = False
        for c in range(edge.shape[1]):
            j = edge[u, c]
            if j != _NONE and edge[tip, c] == _NONE and not in_fan[one[j] + other[j] - u]:
                fan[size] = j
                size += 1
                is_longer = True
                break
        if not is_longer:
            return size


@kernel
def _turn_fan(fan: Ints, last: int, one: Ints, other: Ints, edge: Ints, colour: Ints) -> None:
    """Give each edge its successor's colour, and the last one ``last``."""
    for k in range(1, fan.shape[0]):
        edge[one[fan[k]], colour[fan[k]]] = _NONE
        edge[other[fan[k]], colour[fan[k]]] = _NONE
    for k in range(fan.shape[0]):
        _paint(fan[k], colour[fan[k + 1]] if k + 1 < fan.shape[0] else last, one, other, edge, colour)
