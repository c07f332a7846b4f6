"""What TensorRT-LLM does with its load balancer's keys; read in its repository, at the commits named."""

from __future__ import annotations

from collections.abc import Iterator

from equipoise.engines.findings import Finding, error, note, warning
from equipoise.engines.options import Option
from equipoise.engines.setups import Rule, Setup
from equipoise.engines.shared import crowded_ranks, even_slots, fitting_placement, wasted_slots

VERSION = "TensorRT-LLM"
_CONFIG = f"{VERSION}, tensorrt_llm/llmapi/llm_args.py, MoeLoadBalancerConfig"
_BALANCER = f"{VERSION} 1f41a4c7, tensorrt_llm/_torch/moe/fused_moe/moe_load_balancer.py"
_RUNTIME = f"{VERSION} 0d919a4f, cpp/tensorrt_llm/runtime/moeLoadBalancer"

ARCHITECTURES = (
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "DeepseekV4ForCausalLM",
    "GlmMoeDsaForCausalLM",
    "GptOssForCausalLM",
    "KimiK25ForConditionalGeneration",
    "MixtralForCausalLM",
    "Llama4ForConditionalGeneration",
    "NemotronHForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3_5MoeForCausalLM",
    "Qwen3VLMoeForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
)
"""``moe_model_arch_list`` at 1f41a4c7: for other architectures the load balancer is not made, and nothing says so."""
_FIRST = (
    "DeepseekV3ForCausalLM",
    "MixtralForCausalLM",
    "Llama4ForConditionalGeneration",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
)

OPTIONS = (
    Option("num_slots", int, None, least=1),
    Option("layer_updates_per_iter", int, 0, least=0),
    Option("initial_global_assignments", str, None),
    Option("moe_cluster_size", int, 1, least=1),
    Option("num_nextn_predict_layers", int, 0, least=0),
)
REDUNDANCY = "num_slots"
ASSUMED: dict[str, bool] = {}
"""Nothing is taken as set."""


def _even_slots(setup: Setup) -> Iterator[Finding]:
    return even_slots(setup, _CONFIG)


def _crowded_ranks(setup: Setup) -> Iterator[Finding]:
    return crowded_ranks(setup, _CONFIG)


def _listed_model(setup: Setup) -> Iterator[Finding]:
    if setup.model is None or not setup.model.architecture:
        return
    name = setup.model.architecture
    if name not in ARCHITECTURES:
        yield warning(
            f"{setup.model.name} is {name}",
            "its architecture is not in moe_model_arch_list: the load balancer is silently ignored",
            "take it out, and give no redundant slots",
            _BALANCER,
        )
    elif name not in _FIRST:
        yield note(
            f"{setup.model.name} is {name}",
            "older releases list five architectures only, not this one, and silently ignore the load balancer",
            "look for 'Created MoE LoadBalancer' in the log",
            _BALANCER,
        )


def _needs_ranks(setup: Setup) -> Iterator[Finding]:
    if setup.num_ranks == 1:
        yield warning(
            "moe_expert_parallel_size is 1",
            "the load balancer is silently ignored",
            "raise it, or take the load balancer out",
            _BALANCER,
        )


def _smart_router(setup: Setup) -> Iterator[Finding]:
    if setup.number("moe_cluster_size") > 1:
        yield warning(
            f"moe_cluster_size is {setup.options['moe_cluster_size']}",
            "with the smart router the load balancer is silently ignored",
            "take moe_cluster_size 1",
            _BALANCER,
        )


def _nothing_to_do(setup: Setup) -> Iterator[Finding]:
    is_assigned = setup.has_placement or setup.options["initial_global_assignments"] is not None
    if not is_assigned and setup.options["layer_updates_per_iter"] == 0:
        yield warning(
            "layer_updates_per_iter is 0 without initial_global_assignments",
            "experts stay in order for good: nothing is balanced",
            "give assignments (equipoise plan ... --for tensorrt-llm), or updates",
            _CONFIG,
        )


def _online(setup: Setup) -> Iterator[Finding]:
    if setup.number("layer_updates_per_iter") > 0:
        yield note(
            f"layer_updates_per_iter is {setup.options['layer_updates_per_iter']}",
            "experts are replanned without groups, nodes or the placement in use, and all of the model's experts are kept in "
            "each host's shared memory",
            "make /dev/shm large enough for them",
            _RUNTIME,
        )


def _draft_layers(setup: Setup) -> Iterator[Finding]:
    wanted, placement, model = int(setup.number("num_nextn_predict_layers")), setup.placement, setup.model
    if wanted and placement is not None and model is not None and placement.num_layers < model.num_moe_layers + wanted:
        first = model.num_layers
        yield error(
            f"num_nextn_predict_layers is {wanted}",
            f"draft layers are MoE layers too: without {first} to {first + wanted - 1} in initial_global_assignments loading "
            "ends with a KeyError",
            "add them to the file, experts in order will do",
            _CONFIG,
        )


def _placement(setup: Setup) -> Iterator[Finding]:
    yield from fitting_placement(setup, _CONFIG)
    yield from wasted_slots(setup, _CONFIG)


def _locality(setup: Setup) -> Iterator[Finding]:
    if setup.num_nodes > 1 and setup.number("layer_updates_per_iter") > 0:
        yield note("global: experts are spread over all ranks", "its planner knows neither groups nor nodes", "", _RUNTIME)


RULES: tuple[Rule, ...] = (
    _even_slots,
    _crowded_ranks,
    _listed_model,
    _needs_ranks,
    _smart_router,
    _nothing_to_do,
    _online,
    _draft_layers,
    _placement,
    _locality,
)


def is_hierarchical(setup: Setup) -> bool:
    """Whether TensorRT-LLM's own planner keeps groups on nodes: it does not."""
    return False


def interval(setup: Setup) -> int:
    """Return the steps until all layers have had their turn; 1000, a round figure, where none moves."""
    layers, updates = setup.model.num_moe_layers if setup.model else 1, int(setup.number("layer_updates_per_iter"))
    return -(-layers // updates) if updates else 1000
