"""A tiny model as SGLang's EPLB sees one: 4 hidden layers, the first of them dense, 8 experts in 12 slots."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from sglang.srt.eplb import expert_location
from sglang.srt.eplb.expert_location import ExpertLocationMetadata, ModelConfigForExpertLocation
from sglang.srt.runtime_context import get_context, get_parallel, get_resources

LAYERS, DENSE, EXPERTS, SLOTS, TOP_K = 4, 1, 8, 12, 2
MOE = range(DENSE, LAYERS)
CONFIG = SimpleNamespace()


@contextmanager
def serving(rank=0, num_ranks=2, *, num_groups=None, nodes=1, experts=EXPERTS, slots=SLOTS, **arguments):
    """Publish SGLang's own server arguments, on the CPU; the model is one of ours."""
    model = ModelConfigForExpertLocation(LAYERS, experts, num_groups)
    stock = expert_location.ModelConfigForExpertLocation.from_model_config
    expert_location.ModelConfigForExpertLocation.from_model_config = staticmethod(lambda _: model)
    given = {"device": "cpu", "ep_size": num_ranks, "tp_size": num_ranks, "nnodes": nodes, "trust_remote_code": False}
    redundant = {"ep_num_redundant_experts": slots - experts}
    resources = get_resources()
    before = resources.expert_location_metadata
    with (
        get_context().override_server_args(**{**given, **redundant, **arguments}),
        get_parallel().override(tp_rank=rank),
    ):
        try:
            yield
        finally:
            expert_location.ModelConfigForExpertLocation.from_model_config = stock
            resources.expert_location_metadata = before


def location(rows, rank=0):
    """Return SGLang's metadata for these rows [hidden layers, slots]."""
    return ExpertLocationMetadata.init_by_mapping(CONFIG, rows, moe_ep_rank=rank)


def weights(rows, rank, num_ranks):
    """Return tensors that tell whose they are: expert number + 1000 * layer."""
    mine = torch.as_tensor(rows).reshape(LAYERS, num_ranks, -1)[:, rank]
    return {layer: [(1000.0 * layer + mine[layer, :, None]) * torch.ones(1, width) for width in (3, 5)] for layer in MOE}


def misplaced(weights, rows, rank, num_ranks):
    """Return slots whose weights are not those of the expert that the map says they are."""
    expected = weights_of = globals()["weights"](rows, rank, num_ranks)
    return [
        (layer, weights[layer][i].tolist(), weights_of[layer][i].tolist())
        for layer in MOE
        for i in range(2)
        if not torch.equal(weights[layer][i], expected[layer][i])
    ]


def counts(steps=6, seed=0, experts=EXPERTS):
    """Return tokens [steps, hidden layers, experts], int32, zero in dense layers, another expert hot in each layer."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 60, (steps, LAYERS, experts), generator=generator, dtype=torch.int32)
    for layer in range(LAYERS):
        tokens[:, layer, (3 * layer + seed) % experts] = 700
    tokens[:, :DENSE] = 0
    return tokens
