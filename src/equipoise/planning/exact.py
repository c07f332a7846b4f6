"""Proofs by CP-SAT: a better lower bound for one layer, a better placement, or the certificate that there is none.

The search stops by the clock, so its results, unlike those of :func:`equipoise.plan`, need not repeat. They are never worse
than what was given.
"""

from __future__ import annotations

from time import monotonic

import numpy as np

from equipoise.kernels.types import Floats, Ints
from equipoise.planning.by_partners import prove_by_partners
from equipoise.planning.by_ranks import prove_by_ranks
from equipoise.planning.solver import Clock, Layer, Proof, check_solver, concluded


def prove_layer(
    load: Floats,
    slot_counts: Ints,
    inverse_speed: Floats,
    *,
    largest: float,
    bound: float,
    node_of_rank: Ints | None = None,
    group_of_expert: Ints | None = None,
    hint: Ints | None = None,
    seconds: float,
    num_workers: int = 4,
) -> Proof:
    """Prove that one layer's placement is the best there is, or find a better one, or at least a better bound.

    Parameters
    ----------
    load : float64 [experts]
        Tokens of each expert.
    slot_counts : int64 [ranks]
        Slots of each rank; all are filled, and no rank holds an expert twice.
    inverse_speed : float64 [ranks]
        Time per token.
    largest, bound : float
        A largest rank time that was reached, and a proven lower bound.
    node_of_rank, group_of_expert : int64 [ranks] and [experts], optional
        Strict locality: each group with all its replicas on one node, equally many groups on each node.
    hint : int64 [slots], optional
        The placement that reached ``largest``, in rank order.
    seconds : float
        How long to search; setting up large models may take longer.
    num_workers : int
        Threads of the solver. It runs other strategies with each, so that four find more than one even on fewer cores.

    Raises
    ------
    MissingExtraError
        Without ortools.
    """
    check_solver()
    node, group = np.zeros(len(slot_counts), np.int64), np.zeros(len(load), np.int64)
    if node_of_rank is not None and group_of_expert is not None:
        node, group = np.unique(node_of_rank, return_inverse=True)[1], np.unique(group_of_expert, return_inverse=True)[1]
    layer = Layer(load, slot_counts, inverse_speed, node, group)
    clock = Clock(monotonic() + seconds, num_workers)
    proof = concluded(Proof(bound, largest, None, is_optimal=False))
    if not proof.is_optimal and layer.is_paired:
        proof = prove_by_partners(layer, proof, clock)
    if not proof.is_optimal and not clock.is_over:
        proof = prove_by_ranks(layer, proof, hint if proof.expert_of_slot is None else proof.expert_of_slot, clock)
    return proof
