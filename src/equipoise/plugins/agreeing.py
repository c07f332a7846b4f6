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
        """Give the answer of a call, or why there is none, to all other ranks, once all of them have asked for this call.

        Parameters
        ----------
        number : int
            Of the call, counted from 0.
        digest : str
            Of its arguments; "" where they could not be read.
        found : int64 [layers, slots] or str
            The answer, or why there is none.

        Raises
        ------
        DisagreementError
            Here and on all ranks that wait, when one of them asks another call, or does not ask in time.
        """
        try:
            self._check_asked(number, digest)
        except DisagreementError as error:
            self.store.set(self._key(f"call {number}", 0), json.dumps({"error": str(error)}))
            raise
        self.store.set(self._key(f"call {number}", 0), _packed(found))

    def take_over(self, number: int, digest: str) -> Ints | str:
        """Ask the first rank; return its answer of a call, or why there is none.

        Raises
        ------
        DisagreementError
            When any rank asks another call than the first one has answered, or the first one does not answer in time.
        """
        self.store.set(self._key(f"asked {number}", self.rank), digest)
        key = self._key(f"call {number}", 0)
        answer = self._wait_for(key, f"the first rank's answer to call {number}")
        if self.store.add(f"{key} taken", 1) == self.size - 1:
            self.store.delete_key(key)
            self.store.delete_key(f"{key} taken")
        return _unpacked(answer)

    def _check_asked(self, number: int, digest: str) -> None:
        """Wait for the digests of all other ranks; those that could not be read ("") agree with any."""
        odd = []
        for rank in range(1, self.size):
            key = self._key(f"asked {number}", rank)
            theirs = self._wait_for(key, f"rank {rank} to make call {number}").decode()
            self.store.delete_key(key)
            if digest and theirs not in ("", digest):
                odd.append(str(rank))
        if odd:
            raise DisagreementError(
                f"equipoise: call {number} has other arguments on ranks {', '.join(odd)} than on the first rank, so no plan is "
                "used; ranks have made different numbers of calls, or counted different loads"
            )

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


def _packed(found: Ints | str) -> bytes:
    if isinstance(found, str):
        return json.dumps({"reason": found}).encode()
    rows = np.ascontiguousarray(found, "<i4")
    return json.dumps({"shape": rows.shape}).encode() + b"\n" + rows.tobytes()


def _unpacked(value: bytes) -> Ints | str:
    head, _, body = value.partition(b"\n")
    said = json.loads(head)
    if "error" in said:
        raise DisagreementError(said["error"])
    if "reason" in said:
        return str(said["reason"])
    rows = np.frombuffer(body, "<i4").reshape(said["shape"])
    return rows.astype(np.int64)


def _listed(said: list[str], what: str) -> str:
    return "ranks " + ", ".join(str(rank) for rank, text in enumerate(said) if text == what)
