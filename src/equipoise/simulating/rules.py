"""How engines choose the replica of a token, by name (docs/semantics.md, 13)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from equipoise.checks import check_choice
from equipoise.kernels.dispatch import pin_sources, split_by_hash, split_by_shares, split_evenly, split_in_turn
from equipoise.kernels.types import Floats
from equipoise.placement import Placement

Split = Callable[[Floats], Floats]
"""From a window's load [layers, experts] to the tokens of each slot [layers, slots]."""


def _equal(placement: Placement, seed: int) -> Split:
    expert = placement.expert_of_slot
    return lambda load: split_evenly(expert, load)


def _hash(placement: Placement, seed: int) -> Split:
    expert = placement.expert_of_slot
    return lambda load: split_by_hash(expert, load, seed)


def _round_robin(placement: Placement, seed: int) -> Split:
    expert, sources = placement.expert_of_slot, sum(placement.cluster.alive)
    return lambda load: split_in_turn(expert, load, sources)


def _nearest(placement: Placement, seed: int) -> Split:
    cluster, expert = placement.cluster, placement.expert_of_slot
    node_of_rank, alive = np.asarray(cluster.node_of_rank), np.asarray(cluster.alive)
    shares = pin_sources(expert, placement.num_experts, cluster.rank_of_slot, node_of_rank, alive, seed)
    return lambda load: split_by_shares(expert, shares, load)


RULES: dict[str, Callable[[Placement, int], Split]] = {
    "equal": _equal,
    "hash": _hash,
    "round_robin": _round_robin,
    "nearest": _nearest,
}
"""``equal``: tokens over replicas evenly (vLLM's and SGLang's ``dynamic`` on average). ``hash``: each token by a hash of its
number (vLLM, token by token). ``round_robin``: each rank deals its tokens over the replicas in turn (TensorRT-LLM).
``nearest``: each rank always uses one replica, its own, else one on its node, else any (in the manner of SGLang's ``static``
and vllm-ascend; engines differ in which of several equally near ones they take, here they are spread evenly); every rank is
taken to have as many tokens of an expert."""


def make_split(rule: str, placement: Placement, seed: int = 0) -> Split:
    """Return how ``rule`` splits loads over the slots of ``placement``.

    >>> from equipoise.cluster import Cluster
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)
    >>> make_split("equal", placement)(np.array([[6.0, 1.0, 4.0]])).tolist()
    [[3.0, 1.0, 3.0, 4.0]]
    """
    check_choice("dispatch", rule, tuple(RULES))
    return RULES[rule](placement, seed)
