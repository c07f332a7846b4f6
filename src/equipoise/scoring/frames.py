"""Messages between the scorer and a program's process: a small JSON head and raw bytes, each length known beforehand.

Nothing is ever unpickled: what comes from a program is read as numbers of a size that was agreed on, or refused.
"""

from __future__ import annotations

import json
import struct
from typing import Any

_LENGTHS = struct.Struct(">4sII")
_MARK = b"eqp1"
LONGEST_HEAD = 1 << 16


class GarbledError(Exception):
    """What came is no message."""


def pack(kind: str, body: bytes = b"", **head: Any) -> bytes:
    """Return a message as bytes."""
    text = json.dumps({**head, "kind": kind}).encode()
    return _LENGTHS.pack(_MARK, len(text), len(body)) + text + body


class Unpacker:
    """Puts messages together from the bytes that come; bodies above ``longest_body`` bytes are refused.

    >>> unpacker = Unpacker(10)
    >>> unpacker.feed(pack("done"))
    [({'kind': 'done'}, b'')]
    """

    def __init__(self, longest_body: int) -> None:
        self._longest_body = longest_body
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """Take in bytes and return the messages that are whole by now.

        Raises
        ------
        GarbledError
            When a length, the mark or the head is not as agreed.
        """
        self._held += data
        whole = []
        while len(self._held) >= _LENGTHS.size:
            mark, head, body = _LENGTHS.unpack_from(self._held)
            if mark != _MARK or head > LONGEST_HEAD or body > self._longest_body:
                raise GarbledError(f"{bytes(self._held[:12])!r} begins no message")
            end = _LENGTHS.size + head + body
            if len(self._held) < end:
                break
            start = _LENGTHS.size + head
            whole.append((_head(bytes(self._held[_LENGTHS.size : start])), bytes(self._held[start:end])))
            del self._held[:end]
        return whole


def _head(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GarbledError("a message's head is no JSON") from error
    if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
        raise GarbledError("a message's head names no kind")
    return head
