"""What options describe in text: clusters, lists of numbers, sizes in bytes."""

from __future__ import annotations

import math
import re

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.models import find_model
from equipoise.planning.problem import spread_slots


def make_cluster(ranks: int, slots: int, nodes: int, speeds: str = "", down: str = "") -> Cluster:
    """Return ``ranks`` with ``slots`` spread over them, of the speeds and without the ranks named."""
    return Cluster(ranks, spread_slots(slots, ranks), nodes, rank_speeds=numbers("--speeds", speeds), alive=_alive(down, ranks))


def needed_cluster(
    ranks: int | None, slots: int | None, nodes: int | None, speeds: str | None = None, down: str | None = None, *, instead: str
) -> Cluster:
    """Return the cluster of options that may be left out for something else; refuse where that is not given either."""
    if ranks is None or slots is None:
        option = "--ranks" if ranks is None else "--slots"
        raise ArgumentError(f"Missing option '{option}'", "a plan is for ranks with slots", f"give it, or {instead}")
    return make_cluster(ranks, slots, nodes or 1, speeds or "", down or "")


def change_cluster(
    before: Cluster, ranks: int | None, slots: int | None, nodes: int | None, speeds: str | None, down: str | None
) -> Cluster:
    """Return the cluster that options describe, as ``before`` where they are None; refuse what cannot be told so."""
    number = before.num_ranks if ranks is None else ranks
    is_same = number == before.num_ranks
    alive = [*before.alive, *[True] * number][:number] if down is None else _alive(down, number)
    if slots is None and not is_same and not isinstance(before.slots_per_rank, int):
        raise _untold(before, number, "slots that differ between ranks", "--slots")
    if nodes is None and not is_same and before.num_nodes > 1:
        raise _untold(before, number, f"{before.num_nodes} nodes", "--nodes")
    if speeds is None and not is_same and len(set(before.rank_speeds)) > 1:
        raise _untold(before, number, "speeds that differ", "--speeds")
    return Cluster(
        number,
        before.slots_per_rank if slots is None else spread_slots(slots, number),
        before.num_nodes if nodes is None else nodes,
        node_of_rank=before.node_of_rank if nodes is None and is_same else (),
        rank_speeds=numbers("--speeds", speeds) if speeds is not None else before.rank_speeds if is_same else (),
        alive=alive,
    )


def _untold(before: Cluster, ranks: int, what: str, option: str) -> ArgumentError:
    return ArgumentError(
        f"{ranks} ranks after {before.num_ranks} with {what}", "these do not say what other ranks have", f"add {option}"
    )


def _alive(down: str, ranks: int) -> list[bool]:
    dead = [] if down.strip() == "none" else [_rank(number, ranks) for number in whole_numbers("--down", down)]
    return [rank not in dead for rank in range(ranks)]


def numbers(option: str, text: str) -> list[float]:
    """Read numbers with commas between."""
    try:
        return [float(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise ArgumentError(f"{option} is {text!r}", "it must be numbers with commas between", "try 0.1,0.2") from error


def whole_numbers(option: str, text: str) -> list[int]:
    """Read whole numbers with commas between."""
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise ArgumentError(f"{option} is {text!r}", "it must be whole numbers with commas between", "try 0,3") from error


def counts(option: str, text: str) -> list[int]:
    """Read whole numbers >= 1 with commas between: each once, rising."""
    given = [number.strip() for number in text.split(",") if number.strip()]
    if not given or not all(number.isdecimal() and int(number) > 0 for number in given):
        raise ArgumentError(
            f"{option} is {text!r}", "it must be whole numbers >= 1 with commas between", "try 288 or 256,288,320"
        )
    return sorted({int(number) for number in given})


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def byte_size(option: str, text: str, *, allows_none: bool = False) -> float:
    """Read a size in bytes: 44e6, 44MB or 42MiB; 0 only where that is allowed."""
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    try:
        size = float(found[1]) * _UNITS[(found[2] or "").upper()] if found else math.nan
    except ValueError:
        size = math.nan
    if not (0 < size < math.inf or (allows_none and size == 0)):
        raise ArgumentError(f"{option} is {text!r}", "it must be a size > 0", "try 44MB, 42MiB or 44e6")
    return size


def memory_of_expert(text: str | None, model: str | None) -> float | None:
    """Return the bytes of one expert of one layer: as said, or the model's; None where neither is known."""
    if text is not None:
        return byte_size("--expert-bytes", text)
    return None if model is None else find_model(model).expert_bytes


def _rank(number: int, ranks: int) -> int:
    if not 0 <= number < ranks:
        raise ArgumentError(f"--down names rank {number}", f"ranks are counted 0 to {ranks - 1}", "name one of these")
    return number
