"""Ranks that must agree: they tell one another hashes and plans over the process group's key-value store.

Policy calls come from background threads while the main thread uses the group, so there are no collectives here; and the store
is asked again and again instead of waited for, because waiting would keep it from the main thread.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from equipoise.kernels.types import Ints

_SHORTEST, _LONGEST = 0.0005, 0.02


class DisagreementError(RuntimeError):
    """Ranks do not agree, or one of them does not answer: to go on would hang the engine."""


class Store(Protocol):
    """What is used of ``torch.distributed``'s stores."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""

    def get(self, key: str) -> bytes:
        """Return a value that is there."""

    def check(self, keys: list[str]) -> bool:
        """Tell whether values are there."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it."""

    def delete_key(self, key: str) -> bool:
        """Forget a value."""


@dataclass(frozen=True, eq=False)
class Group:
    """The ranks that answer the same calls, as one of them sees it.

    Parameters
    ----------
    store : Store
        Shared by all of them.
    rank, size : int
        This rank among them, and how many they are.
    name : str
        Equal on all of them, and on no other group of this store.
    wait_seconds : float
        How long to wait for another rank.
    """

    store: Store
    rank: int
    size: int
    name: str
    wait_seconds: float

    def compare(self, topic: str, mine: str) -> None:
        """Raise on every rank unless all say the same on a topic.

        Raises
        ------
        DisagreementError
            Naming the ranks that differ, or the one that did not say anything in time.
        """
        self.store.set(self._key(topic, self.rank), mine)
        said = [self._wait_for(self._key(topic, rank), f"rank {rank} on {topic}").decode() for rank in range(self.size)]
        if len(set(said)) > 1:
            sides = "; ".join(f"{_listed(said, what)} say {what[:200]}" for what in dict.fromkeys(said))
            raise DisagreementError(
                f"equipoise: ranks do not agree on {topic}, so no plan is used: {sides}; give all of them the same "
                "settings and versions"
            )

    def forget(self, topic: str) -> None:
        """Remove what this rank said on a topic that all ranks are done with."""
        self.store.delete_key(self._key(topic, self.rank))

    def hand_over(self, number: int, digest: str, found: Ints | str) -> None:
        """Give the answer of a call, or why there is none, to all other ranks."""
        self.store.set(self._key(f"call {number}", 0), _packed(digest, found))

    def take_over(self, number: int, digest: str | None) -> Ints | str:
        """Return the first rank's answer of a call, or why there is none.

        Raises
        ------
        DisagreementError
            When the first rank answered another call than the one of ``digest``, or does not answer in time.
        """
        key = self._key(f"call {number}", 0)
        theirs, found = _unpacked(self._wait_for(key, f"the first rank's answer to call {number}"))
        if self.store.add(f"{key} taken", 1) == self.size - 1:
            self.store.delete_key(key)
            self.store.delete_key(f"{key} taken")
        if digest is not None and theirs not in ("", digest):
            raise DisagreementError(
                f"equipoise: call {number} has other arguments on rank {self.rank} than on the first rank, so its plan is not "
                "used; ranks have made different numbers of calls, or counted different loads"
            )
        return found

    def _key(self, topic: str, rank: int) -> str:
        return f"equipoise/{self.name}/{topic}/{rank}"

    def _wait_for(self, key: str, what: str) -> bytes:
        last, pause = time.monotonic() + self.wait_seconds, _SHORTEST
        while not self.store.check([key]):
            if time.monotonic() > last:
                raise DisagreementError(
                    f"equipoise: waited {self.wait_seconds:g} s for {what}; is the plug-in turned on and loaded on all ranks, "
                    "and is that rank alive?"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        return bytes(self.store.get(key))


def world(wait_seconds: float, ranks: Iterable[int] | None = None) -> Group | None:
    """Return the process group of all ranks, or of some of them; None where torch has no process group at hand."""
    try:
        from torch import distributed
        from torch.distributed.distributed_c10d import _get_default_store
    except ImportError:
        return None
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    members = list(range(distributed.get_world_size()) if ranks is None else ranks)
    me = distributed.get_rank()
    if me not in members or members[-1] >= distributed.get_world_size():
        return None
    name = hashlib.sha256(repr(members).encode()).hexdigest()[:12]
    return Group(_get_default_store(), members.index(me), len(members), name, wait_seconds)


def global_rank() -> int | None:
    """Return the rank of this process among all; None where torch has no process group at hand."""
    group = world(0.0)
    return None if group is None else group.rank


def _packed(digest: str, found: Ints | str) -> bytes:
    if isinstance(found, str):
        return json.dumps({"digest": digest, "reason": found}).encode()
    rows = np.ascontiguousarray(found, "<i4")
    return json.dumps({"digest": digest, "shape": rows.shape}).encode() + b"\n" + rows.tobytes()


def _unpacked(value: bytes) -> tuple[str, Ints | str]:
    head, _, body = value.partition(b"\n")
    said = json.loads(head)
    if "reason" in said:
        return said["digest"], said["reason"]
    rows = np.frombuffer(body, "<i4").reshape(said["shape"])
    return said["digest"], rows.astype(np.int64)


def _listed(said: list[str], what: str) -> str:
    return "ranks " + ", ".join(str(rank) for rank, text in enumerate(said) if text == what)
