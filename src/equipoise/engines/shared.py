"""Rules that engines share, and numbers near an illegal choice that are legal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from equipoise.engines.findings import Finding, error, warning
from equipoise.engines.setups import Setup
from equipoise.placement import ABSENT, Placement


def legal_redundancy(num_experts: int, num_ranks: int, redundant: int) -> list[int]:
    """Return the nearest numbers of redundant slots, below and above, that give every rank equally many.

    >>> legal_redundancy(256, 48, 30)
    [32]
    >>> legal_redundancy(256, 32, 30)
    [0, 32]
    """
    above = max(redundant, 0) + (-(num_experts + max(redundant, 0))) % num_ranks
    below = above - num_ranks
    return [number for number in (below, above) if number >= 0]


def legal_ranks(num_slots: int, num_ranks: int) -> list[int]:
    """Return the nearest numbers of ranks, from half to twice as many, that divide the slots: below and above, or either.

    >>> legal_ranks(288, 31), legal_ranks(286, 32)
    ([24, 32], [26])
    """
    divisors = [number for number in range(-(-num_ranks // 2), 2 * num_ranks + 1) if num_slots % number == 0]
    below, above = [d for d in divisors if d <= num_ranks], [d for d in divisors if d >= num_ranks]
    return sorted({*below[-1:], *above[:1]})


def even_slots(setup: Setup, source: str) -> Iterator[Finding]:
    """Find slots that do not spread evenly over ranks, and too few of them."""
    if not setup.is_redundancy_known:
        return
    if setup.redundant < 0:
        yield error(
            f"{setup.redundant} redundant experts",
            f"there must be slots for all {setup.num_experts} experts",
            f"take {' or '.join(map(str, legal_redundancy(setup.num_experts, setup.num_ranks, 0)))} redundant",
            source,
        )
        return
    if setup.num_slots % setup.num_ranks == 0:
        return
    redundant = legal_redundancy(setup.num_experts, setup.num_ranks, setup.redundant)
    ranks = legal_ranks(setup.num_slots, setup.num_ranks)
    other = f", or {' or '.join(map(str, ranks))} ranks" if ranks else ""
    yield error(
        f"{setup.num_experts} experts and {setup.redundant} redundant make {setup.num_slots} slots on {setup.num_ranks} ranks",
        "slots must be divisible by ranks",
        f"take {' or '.join(map(str, redundant))} redundant{other}",
        source,
    )


def crowded_ranks(setup: Setup, source: str) -> Iterator[Finding]:
    """Find ranks with more slots than there are experts: they would hold one twice."""
    per_rank = -(-setup.num_slots // setup.num_ranks)
    if setup.is_redundancy_known and setup.redundant >= 0 and per_rank > setup.num_experts:
        yield warning(
            f"{per_rank} slots a rank for {setup.num_experts} experts",
            "a rank then holds an expert twice, which wastes the slot",
            f"take at most {setup.num_experts * (setup.num_ranks - 1)} redundant",
            source,
        )


def fitting_placement(setup: Setup, source: str) -> Iterator[Finding]:
    """Find a placement that is for another model, or other ranks, or that lacks experts."""
    placement = setup.placement
    if placement is None:
        return
    yield from _of_the_model(setup, placement, source)
    if setup.num_ranks != placement.cluster.num_ranks:
        yield error(
            f"the placement is for {placement.cluster.num_ranks} ranks, the engine runs {setup.num_ranks}",
            "a placement is for a number of ranks",
            "plan anew for the ranks in use",
            source,
        )
    if len(set(placement.cluster.slot_counts.tolist())) > 1:
        yield error(
            f"ranks have {int(placement.cluster.slot_counts.min())} to {int(placement.cluster.slot_counts.max())} slots",
            "every rank must have equally many",
            "plan with slots that are divisible by ranks",
            source,
        )
    yield from _filled(placement, source)


def _of_the_model(setup: Setup, placement: Placement, source: str) -> Iterator[Finding]:
    model = setup.model
    if model is None:
        return
    if placement.num_experts != model.num_experts:
        yield error(
            f"the placement is for {placement.num_experts} experts, {model.name} has {model.num_experts}",
            "a placement is for one model",
            "plan on a load of this model",
            source,
        )
    if placement.num_layers not in (model.num_moe_layers, model.num_moe_layers + model.num_draft_layers):
        yield error(
            f"the placement has {placement.num_layers} MoE layers, {model.name} has {model.num_moe_layers}",
            "every MoE layer needs its row",
            "plan on a load of all layers of this model",
            source,
        )


def _filled(placement: Placement, source: str) -> Iterator[Finding]:
    if placement.lost_experts:
        layer, expert = placement.lost_experts[0]
        yield error(
            f"layer {layer}: expert {expert} has no slot ({len(placement.lost_experts)} such)",
            "tokens for it go nowhere",
            "plan anew: every expert needs a slot in every layer",
            source,
        )
    if (placement.expert_of_slot == ABSENT).any():
        layer, slot = (int(i) for i in np.argwhere(placement.expert_of_slot == ABSENT)[0])
        yield error(
            f"layer {layer}: slot {slot} is empty",
            "the engine's file has no word for an empty slot",
            "plan for ranks that are all up",
            source,
        )


def first_duplicate(placement: Placement) -> tuple[int, int, int, int] | None:
    """Return layer, rank and expert of the first expert that a rank holds twice, and how many slots are wasted so."""
    count = int(placement.duplicates.sum())
    if not count:
        return None
    layer = int(np.flatnonzero(placement.duplicates)[0])
    expert, rank = placement.expert_of_slot[layer], placement.cluster.rank_of_slot
    for slot in np.flatnonzero(expert != ABSENT):
        twins = np.flatnonzero((rank == rank[slot]) & (expert == expert[slot]))
        if len(twins) > 1:
            return layer, int(rank[slot]), int(expert[slot]), count
    return None


def wasted_slots(setup: Setup, source: str) -> Iterator[Finding]:
    """Find experts twice on a rank, where the engine allows it."""
    found = None if setup.placement is None else first_duplicate(setup.placement)
    if found is not None:
        layer, rank, expert, count = found
        yield warning(
            f"layer {layer}: rank {rank} holds expert {expert} twice ({count} such)",
            "the engine allows it, but the second slot balances nothing that the first does not",
            "plan anew; equipoise never places one so",
            source,
        )


def groups_on_nodes(setup: Setup) -> str:
    """Say whether groups are divisible by nodes, on which vLLM's and SGLang's policies turn.

    >>> groups_on_nodes(Setup("vllm", 32, 256, num_nodes=4, num_groups=8))
    '8 groups are divisible by 4 nodes'
    """
    are = "are" if setup.num_groups > 1 else "is"
    divisible = "divisible" if setup.num_groups % setup.num_nodes == 0 else "not divisible"
    return f"{setup.num_groups} group{'s' if setup.num_groups > 1 else ''} {are} {divisible} by {setup.num_nodes} nodes"
