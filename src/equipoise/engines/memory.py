"""Memory that redundant experts cost on each rank, and what moving them needs beside it."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.engines.setups import Setup

_MOVING = {
    "vllm": "enable_eplb",
    "sglang": "enable_eplb",
    "vllm-ascend": "dynamic_eplb",
    "tensorrt-llm": "layer_updates_per_iter",
}
"""The option by which each engine moves experts while it serves."""


@dataclass(frozen=True)
class Memory:
    """Bytes, over the main model's MoE layers; routed experts only.

    Parameters
    ----------
    experts : float
        Of all slots of a rank, all layers.
    redundant : float
        Of its redundant slots among them.
    staging : float
        That a rank keeps on its device for experts on their way.
    host : float
        That each host keeps in shared memory.
    """

    experts: float
    redundant: float
    staging: float = 0.0
    host: float = 0.0


def memory_of(setup: Setup) -> Memory | None:
    """Return what a setup's experts take, None where the model is not known or slots do not spread evenly.

    vLLM, SGLang and vllm-ascend keep one layer's experts of a rank as a buffer where they move experts at all; TensorRT-LLM
    keeps all experts of the model in each host's memory where it updates layers.

    Examples
    --------
    >>> from equipoise.models import find_model
    >>> setup = Setup("vllm", 32, 256, 32, model=find_model("deepseek-v3"), options={"enable_eplb": True})
    >>> found = memory_of(setup)
    >>> round(found.redundant / 1e9, 2), round(found.staging / 1e9, 2)
    (2.55, 0.4)
    """
    model = setup.model
    if model is None or not setup.is_even:
        return None
    of_layer = setup.num_slots // setup.num_ranks * model.expert_bytes
    is_moving, on_host = bool(setup.options[_MOVING[setup.engine]]), setup.engine == "tensorrt-llm"
    return Memory(
        experts=of_layer * model.num_moe_layers,
        redundant=setup.redundant / setup.num_ranks * model.expert_bytes * model.num_moe_layers,
        staging=of_layer if is_moving and not on_host else 0.0,
        host=model.expert_bytes * setup.num_experts * model.num_moe_layers if is_moving and on_host else 0.0,
    )
