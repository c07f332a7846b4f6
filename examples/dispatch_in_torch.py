"""Split a batch's tokens over replicas inside an MoE layer: the same output, and a slowest rank that has less to do.

    pip install equipoise torch
    python examples/dispatch_in_torch.py

A small layer on the CPU: 16 experts, top-2, 4 ranks. A batch's tokens have a topic in common, so some experts are hot, and the
topic drifts. Replicas are placed for an earlier batch and copied once. For the batch at hand the experts that the router picked
are counted, :func:`dispatch` splits them over the replicas, and every token is served by the slot chosen for it: gathered slot
by slot, computed with the slot's own copy of the weights, and added up. Whatever the split, the output is that of the layer
without ranks; the table shows what the slowest rank had to do. :func:`plan_batch` goes further and fills one spare slot a rank
for the batch itself.

In an engine each rank does its own part: it knows its own tokens, and the shares come from loads that all ranks have.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from equipoise import Cluster, Placement, dispatch, plan, plan_batch
from equipoise.dispatching.tokens import choose_slots

EXPERTS, TOP_K, HIDDEN, INNER = 16, 2, 32, 64
TOKENS, RANKS, SLOTS_PER_RANK = 4096, 4, 5


class MoELayer:
    """Gate and experts, each expert two matrices with a GELU between them."""

    def __init__(self) -> None:
        self.gate = torch.randn(HIDDEN, EXPERTS) / HIDDEN**0.5
        self.up = torch.randn(EXPERTS, HIDDEN, INNER) / HIDDEN**0.5
        self.down = torch.randn(EXPERTS, INNER, HIDDEN) / INNER**0.5

    def route(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the experts that each token goes to and their weights, [tokens, k] each."""
        probability = torch.softmax(tokens @ self.gate, dim=1)
        weights, topk_ids = probability.topk(TOP_K, dim=1)
        return topk_ids, weights / weights.sum(dim=1, keepdim=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the layer on one device, expert by expert."""
        topk_ids, weights = self.route(tokens)
        output = torch.zeros_like(tokens)
        for expert in range(EXPERTS):
            row, nth = torch.nonzero(topk_ids == expert, as_tuple=True)
            found = functional.gelu(tokens[row] @ self.up[expert]) @ self.down[expert]
            output.index_add_(0, row, found * weights[row, nth, None])
        return output


def count_load(topk_ids: torch.Tensor) -> torch.Tensor:
    """Count each expert's tokens, [1 layer, experts]."""
    return torch.bincount(topk_ids.flatten(), minlength=EXPERTS)[None]


class Slots:
    """Every slot's own copy of its expert's weights, as ranks hold them."""

    def __init__(self, layer: MoELayer, placement: Placement) -> None:
        self.placement = placement
        expert = torch.tensor(placement.expert_of_slot[0]).clamp(min=0)  # an empty slot gets weights that nobody asks for
        self.up, self.down = layer.up[expert].clone(), layer.down[expert].clone()

    def forward(self, tokens: torch.Tensor, topk_ids: torch.Tensor, weights: torch.Tensor, shares: object) -> tuple:
        """Compute the layer over slots; return its output and the tokens that each rank computed."""
        slots = torch.empty_like(topk_ids)
        sources = torch.arange(len(tokens)).chunk(RANKS)  # each rank routes its own part of the batch
        for source, rows in enumerate(sources):
            slots[rows] = choose_slots(topk_ids[rows], shares, self.placement, layer=0, source=source)
        output, on_rank = torch.zeros_like(tokens), [0] * RANKS
        for slot, rank in enumerate(self.placement.cluster.rank_of_slot):
            row, nth = torch.nonzero(slots == slot, as_tuple=True)
            found = functional.gelu(tokens[row] @ self.up[slot]) @ self.down[slot]
            output.index_add_(0, row, found * weights[row, nth, None])
            on_rank[rank] += len(row)
        return output, on_rank


def main() -> None:
    """Serve one batch in four ways; check that outputs are the same, and print what the slowest rank had to do."""
    torch.manual_seed(0)
    layer = MoELayer()
    topic, drift = torch.randn(2, HIDDEN)
    earlier, tokens = torch.randn(TOKENS, HIDDEN) + topic, torch.randn(TOKENS, HIDDEN) + topic + 0.5 * drift
    topk_ids, weights = layer.route(tokens)
    load, expected = count_load(topk_ids), layer.forward(tokens)

    seen = count_load(layer.route(earlier)[0])
    home = plan(seen, Cluster(RANKS, EXPERTS // RANKS)).placement
    placement = plan(seen, Cluster(RANKS, SLOTS_PER_RANK)).placement
    even = 1.0 / placement.replica_count[0, placement.expert_of_slot[0]][None]
    batch = plan_batch(load, home, spare_slots=1)
    ways = {
        "no replicas": (home, dispatch(load, home).shares),
        "replicas, equal split": (placement, even),
        "replicas, dispatch": (placement, dispatch(load, placement).shares),
        f"plan_batch, {int(batch.moves[0])} moves": (batch.placement, batch.shares),
    }
    print(f"{'':24}{'slowest rank':>14}{'balancedness':>14}")
    for name, (where, shares) in ways.items():
        output, on_rank = Slots(layer, where).forward(tokens, topk_ids, weights, shares)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        assert sum(on_rank) == TOKENS * TOP_K  # no token is dropped
        print(f"{name:24}{max(on_rank):>14}{sum(on_rank) / RANKS / max(on_rank):>14.4f}")


if __name__ == "__main__":
    main()
