"""A tiny model as vLLM's EPLB sees one, its ranks, and the rule its weights must obey afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from vllm.config.parallel import EPLBConfig
from vllm.distributed import parallel_state
from vllm.distributed.eplb.eplb_state import EplbState

STEPS = 4
CONFIG = SimpleNamespace(model="tiny", compute_hash=lambda: "tiny")


class Model:
    """Weights tell whose they are: expert number + 1000 * layer, in two tensors of different width."""

    def __init__(self, rank, num_ranks, layers, experts, redundant, groups=1):
        self.num_moe_layers, self.num_expert_groups = layers, groups
        self.num_logical_experts = self.num_routed_experts = experts
        self.num_redundant_experts = redundant
        self.num_physical_experts = experts + redundant
        self.num_local_physical_experts = self.num_physical_experts // num_ranks
        self.moe_layers = []
        held = EplbState.build_initial_global_physical_to_logical_map(experts, redundant)
        mine = held[rank * self.num_local_physical_experts : (rank + 1) * self.num_local_physical_experts]
        self.expert_weights = [[tagged(layer, mine, 3), tagged(layer, mine, 5)] for layer in range(layers)]

    def set_eplb_state(self, *tensors):
        """Take the maps that vLLM hands to layers; these have no router."""


def tagged(layer, experts, width):
    """Return weights that tell whose they are."""
    return torch.tensor([[1000.0 * layer + expert] * width for expert in experts])


def groups(rank, num_ranks, nodes=1):
    """Make vLLM's expert-parallel groups, the main thread's and the worker's, as vLLM makes them; all hosts are this one."""
    ranks = [list(range(num_ranks))]
    for name in ("_EP", "_EPLB"):
        made = parallel_state.GroupCoordinator(ranks, rank, "gloo", use_device_communicator=False, group_name=name)
        setattr(parallel_state, name, made)
    parallel_state._NODE_COUNT = nodes


def state(model, *, use_async=False, batching=False, elastic=False):
    """Return vLLM's own state for the model; its communicator sends CPU tensors through gloo."""
    config = EPLBConfig(window_size=STEPS, step_interval=8, use_async=use_async, enable_migration_batching=batching)
    config.communicator = "torch_nccl"  # the backend that sends tensors as they are; asked for after the check for CUDA
    parallel = SimpleNamespace(eplb_config=config, enable_elastic_ep=elastic, num_ubatches=0)
    made = EplbState(parallel, torch.device("cpu"))
    made.add_model(model, CONFIG, "tiny")
    return made


def record(state, load):
    """Leave in vLLM's window what its router would have counted on this rank: the load, split evenly over replicas."""
    held = state.model_states["tiny"]
    per_replica = torch.as_tensor(load) // held.logical_replica_count
    held.expert_load_window[:] = torch.gather(per_replica, 1, held.physical_to_logical_map).int()


def misplaced(state, rank):
    """Return slots of this rank whose weights are not those of the expert that vLLM's map says they are."""
    held = state.model_states["tiny"]
    model = held.model
    first = rank * model.num_local_physical_experts
    wrong = []
    for layer, weights in enumerate(model.expert_weights):
        mine = held.physical_to_logical_map[layer, first : first + model.num_local_physical_experts].tolist()
        wrong += [
            (layer, slot, expert, tensor[slot].tolist())
            for tensor in weights
            for slot, expert in enumerate(mine)
            if expert >= 0 and not (tensor[slot] == 1000.0 * layer + expert).all()
        ]
    return wrong


def skewed(layers, experts, seed=0):
    """Return a load that no start-up map balances: whole numbers, another expert hot in each layer."""
    generator = torch.Generator().manual_seed(seed)
    load = torch.randint(1, 60, (layers, experts), generator=generator)
    for layer in range(layers):
        load[layer, (5 * layer + seed) % experts] = 900
    return load * 12
