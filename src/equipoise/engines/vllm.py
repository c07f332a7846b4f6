"""What vLLM does with its options for balancing; read in vLLM 0.33.0."""

from __future__ import annotations

from collections.abc import Iterator

from equipoise.engines.findings import Finding, error, note, warning
from equipoise.engines.options import Option
from equipoise.engines.setups import Rule, Setup
from equipoise.engines.shared import crowded_ranks, even_slots, fitting_placement, groups_on_nodes, wasted_slots

VERSION = "vLLM 0.33.0"
_CONFIG = f"{VERSION}, vllm/config/parallel.py"
_STATE = f"{VERSION}, vllm/distributed/eplb/eplb_state.py"
_POLICY = f"{VERSION}, vllm/distributed/eplb/policy/default.py"
_LAYER = f"{VERSION}, vllm/model_executor/layers/fused_moe/layer.py"
_MAP = f"{VERSION}, vllm/model_executor/layers/fused_moe/expert_map_manager.py"
_RUNNER = f"{VERSION}, vllm/v1/worker/gpu_model_runner.py"

_MOST_REDUNDANT = 1023
_NCCL = ("torch_nccl", "pynccl")
WITHOUT_EPLB = ("GptOssForCausalLM", "MiniMaxM2ForCausalLM", "OlmoeForCausalLM")
"""Architectures whose classes have no part in EPLB, of those in :data:`equipoise.models.MODELS`."""

OPTIONS = (
    Option("enable_eplb", bool, False),
    Option("enable_expert_parallel", bool, False),
    Option("window_size", int, 1000, least=1),
    Option("step_interval", int, 3000, least=1),
    Option("num_redundant_experts", int, 0, least=0),
    Option("log_balancedness", bool, False),
    Option("log_balancedness_interval", int, 1, least=1),
    Option("use_async", bool, True),
    Option("policy", str, "default"),
    Option("communicator", str, None, choices=("torch_nccl", "torch_gloo", "torch_xccl", "nixl", "pynccl")),
    Option("enable_migration_batching", bool, False),
    Option("tensor_parallel_size", int, None, least=1),
    Option("prefill_context_parallel_size", int, None, least=1),
    Option("data_parallel_size", int, None, least=1),
    Option("pipeline_parallel_size", int, 1, least=1),
    Option("enable_elastic_ep", bool, False),
    Option("elastic_ep_max_dp_size", int, None, least=1),
    Option("data_parallel_hybrid_lb", bool, False),
    Option("expert_placement_strategy", str, "linear", choices=("linear", "round_robin")),
)
REDUNDANCY = "num_redundant_experts"
ASSUMED = {"enable_eplb": True, "enable_expert_parallel": True}
"""What is taken as set where balancing is asked about and nothing else is said."""


def _even_slots(setup: Setup) -> Iterator[Finding]:
    return even_slots(setup, _LAYER)


def _crowded_ranks(setup: Setup) -> Iterator[Finding]:
    return crowded_ranks(setup, _STATE)


def _most_redundant(setup: Setup) -> Iterator[Finding]:
    if setup.redundant > _MOST_REDUNDANT:
        yield error(
            f"{setup.redundant} redundant experts",
            f"vLLM's table of replicas has room for {_MOST_REDUNDANT}",
            f"take at most {_MOST_REDUNDANT}",
            _STATE,
        )


def _needs_eplb(setup: Setup) -> Iterator[Finding]:
    if setup.redundant > 0 and not setup.options["enable_eplb"]:
        yield error(
            f"num_redundant_experts is {setup.redundant} without enable_eplb",
            "vLLM refuses redundant experts where nothing balances them",
            "add --enable-eplb, or drop the redundant experts",
            _CONFIG,
        )


def _needs_expert_parallel(setup: Setup) -> Iterator[Finding]:
    if setup.options["enable_eplb"] and not setup.options["enable_expert_parallel"]:
        yield error(
            "enable_eplb without enable_expert_parallel",
            "vLLM balances experts only where ranks hold whole experts",
            "add --enable-expert-parallel",
            _CONFIG,
        )


def _needs_ranks(setup: Setup) -> Iterator[Finding]:
    if setup.options["enable_eplb"] and setup.num_ranks == 1:
        yield error(
            "enable_eplb on 1 rank",
            "tensor, prefill-context or data parallelism must be above 1 for EPLB",
            "drop --enable-eplb, or run on several GPUs",
            _CONFIG,
        )


def _ranks_of_sizes(setup: Setup) -> Iterator[Finding]:
    names = ("tensor_parallel_size", "prefill_context_parallel_size", "data_parallel_size")
    sizes = [int(setup.number(name)) or 1 for name in names]
    product = sizes[0] * sizes[1] * sizes[2]
    if setup.given.intersection(names) and product != setup.num_ranks:
        yield error(
            f"TP {sizes[0]} x PCP {sizes[1]} x DP {sizes[2]} is {product}, not {setup.num_ranks}",
            "vLLM's expert-parallel group spans TP x PCP x DP ranks",
            f"check for {product} ranks, or change the sizes",
            _CONFIG,
        )


def _known_policy(setup: Setup) -> Iterator[Finding]:
    if setup.options["policy"] != "default":
        yield error(
            f"policy is {setup.options['policy']}",
            "vLLM knows one policy, default",
            "leave it; the plug-in puts another planner in its place",
            _CONFIG,
        )


def _async_policy(setup: Setup) -> Iterator[Finding]:
    if setup.options["use_async"] and setup.options["policy"] != "default":
        yield error(
            f"use_async with policy {setup.options['policy']}",
            "vLLM moves in the background under its default policy only",
            "add --eplb-config.use_async=false, or leave the policy",
            _CONFIG,
        )


def _async_communicator(setup: Setup) -> Iterator[Finding]:
    if setup.options["use_async"] and setup.options["communicator"] in _NCCL:
        yield error(
            f"use_async with communicator {setup.options['communicator']}",
            "NCCL on a second stream conflicts with collectives; vLLM refuses it",
            "take torch_gloo or nixl, leave it unset, or add --eplb-config.use_async=false",
            _CONFIG,
        )


def _idle_batching(setup: Setup) -> Iterator[Finding]:
    if setup.options["enable_migration_batching"] and not setup.options["use_async"]:
        yield warning(
            "enable_migration_batching without use_async",
            "it has no effect: only moves in the background are batched",
            "drop it",
            _CONFIG,
        )


def _idle_log_interval(setup: Setup) -> Iterator[Finding]:
    if "log_balancedness_interval" in setup.given and not setup.options["log_balancedness"]:
        yield warning(
            "log_balancedness_interval without log_balancedness",
            "nothing is logged",
            "add --eplb-config.log_balancedness",
            _STATE,
        )


def _round_robin(setup: Setup) -> Iterator[Finding]:
    if setup.options["expert_placement_strategy"] == "round_robin" and (setup.options["enable_eplb"] or setup.redundant > 0):
        yield warning(
            "expert_placement_strategy is round_robin",
            "with EPLB or redundant experts vLLM falls back to linear",
            "drop it; EPLB rearranges experts anyway",
            _MAP,
        )


def _elastic(setup: Setup) -> Iterator[Finding]:
    options = setup.options
    if not options["enable_elastic_ep"]:
        if "elastic_ep_max_dp_size" in setup.given:
            yield warning(
                "elastic_ep_max_dp_size without enable_elastic_ep", "it is ignored", "add --enable-elastic-ep", _CONFIG
            )
        return
    if not options["enable_eplb"]:
        yield error("enable_elastic_ep without enable_eplb", "vLLM refuses it", "add --enable-eplb", _CONFIG)
    if setup.number("pipeline_parallel_size") > 1:
        yield error(
            f"enable_elastic_ep with pipeline_parallel_size {setup.options['pipeline_parallel_size']}",
            "elastic expert parallelism takes no pipeline stages",
            "take pipeline_parallel_size 1",
            _CONFIG,
        )
    if options["data_parallel_hybrid_lb"]:
        yield error(
            "enable_elastic_ep with data_parallel_hybrid_lb", "vLLM refuses it", "take external load balancing", _CONFIG
        )
    if options["use_async"]:
        yield warning(
            "enable_elastic_ep with use_async",
            "vLLM refuses it where NIXL is not installed",
            "install NIXL, or add --eplb-config.use_async=false",
            _CONFIG,
        )
    if 0 < setup.number("elastic_ep_max_dp_size") < setup.number("data_parallel_size"):
        yield error(
            f"elastic_ep_max_dp_size is {options['elastic_ep_max_dp_size']}",
            f"it must be at least data_parallel_size, {options['data_parallel_size']}",
            "raise it",
            _CONFIG,
        )


def _unbalanced_model(setup: Setup) -> Iterator[Finding]:
    if setup.model is not None and setup.model.architecture in WITHOUT_EPLB and setup.options["enable_eplb"]:
        yield warning(
            f"{setup.model.name} is {setup.model.architecture}",
            "its class has no part in EPLB: vLLM registers nothing to balance, and no expert is ever moved",
            "run it without --enable-eplb and redundant experts",
            _RUNNER,
        )


def _placement_at_start(setup: Setup) -> Iterator[Finding]:
    if setup.has_placement:
        yield warning(
            "a placement to start from",
            "vLLM 0.33.0 has no option that loads one; it starts from experts in order (open: vllm#41141, vllm#53022)",
            "let the plug-in plan, or build vLLM with one of these",
            _STATE,
        )


def _placement(setup: Setup) -> Iterator[Finding]:
    yield from fitting_placement(setup, _STATE)
    yield from wasted_slots(setup, _STATE)


def _locality(setup: Setup) -> Iterator[Finding]:
    if setup.num_nodes == 1:
        return
    if setup.num_ranks % setup.num_nodes:
        rule = f"{setup.num_ranks} ranks are not divisible by {setup.num_nodes} nodes, so vLLM takes them for one"
        yield warning(
            "experts are spread over all ranks", f"{rule}, with one line in the log", "run equally many on each", _STATE
        )
    elif setup.num_groups % setup.num_nodes == 0:
        yield note(
            "hierarchical: groups of experts stay on a node",
            groups_on_nodes(setup),
            "",
            _POLICY,
        )
    else:
        yield note(
            "global: experts are spread over all ranks, whatever their group",
            f"{groups_on_nodes(setup)}; nodes are hosts, as vLLM finds them",
            "",
            _POLICY,
        )


RULES: tuple[Rule, ...] = (
    _even_slots,
    _crowded_ranks,
    _most_redundant,
    _needs_eplb,
    _needs_expert_parallel,
    _needs_ranks,
    _ranks_of_sizes,
    _known_policy,
    _async_policy,
    _async_communicator,
    _idle_batching,
    _idle_log_interval,
    _round_robin,
    _elastic,
    _unbalanced_model,
    _placement_at_start,
    _placement,
    _locality,
)


def is_hierarchical(setup: Setup) -> bool:
    """Whether vLLM's own policy keeps groups on nodes."""
    return setup.num_nodes > 1 and setup.num_ranks % setup.num_nodes == 0 and setup.num_groups % setup.num_nodes == 0


def interval(setup: Setup) -> int:
    """Return the steps from one rebalance to the next."""
    return max(1, int(setup.number("step_interval")))
