"""The cluster that a command's options describe."""

from __future__ import annotations

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError
from equipoise.planning.problem import spread_slots


def make_cluster(ranks: int, slots: int, nodes: int, speeds: str = "", down: str = "") -> Cluster:
    """Return ``ranks`` with ``slots`` spread over them, of the speeds and without the ranks named."""
    dead = [_rank(number, ranks) for number in whole_numbers("--down", down)]
    return Cluster(
        ranks,
        spread_slots(slots, ranks),
        nodes,
        rank_speeds=numbers("--speeds", speeds),
        alive=[rank not in dead for rank in range(ranks)],
    )


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


def _rank(number: int, ranks: int) -> int:
    if not 0 <= number < ranks:
        raise ArgumentError(f"--down names rank {number}", f"ranks are counted 0 to {ranks - 1}", "name one of these")
    return number
