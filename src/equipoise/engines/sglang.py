"""What SGLang does with its options for balancing; read in SGLang 0.5.23."""

from __future__ import annotations

from collections.abc import Iterator

from equipoise.engines.findings import Finding, error, note, warning
from equipoise.engines.options import Option
from equipoise.engines.setups import Rule, Setup
from equipoise.engines.shared import crowded_ranks, even_slots, fitting_placement, groups_on_nodes, wasted_slots

VERSION = "SGLang 0.5.23"
_HOOK = f"{VERSION}, srt/arg_groups/parallel_hook.py"
_LOCATION = f"{VERSION}, srt/eplb/expert_location.py"
_DISPATCH = f"{VERSION}, srt/eplb/expert_location_dispatch.py"
_MANAGER = f"{VERSION}, srt/eplb/eplb_manager.py"
_RECORDER = f"{VERSION}, srt/eplb/expert_distribution.py"
_ALGORITHMS = f"{VERSION}, srt/eplb/eplb_algorithms/__init__.py"

_ALGORITHM_NAMES = (
    "deepseek",
    "deepseek_hierarchical",
    "deepseek_vec",
    "deepseek_vec_hierarchical",
    "elasticity_aware",
    "elasticity_aware_hierarchical",
)
_FILE_MODES = ("per_pass", "per_token")
WITHOUT_LOCATIONS = ("MixtralForCausalLM", "OlmoeForCausalLM", "Llama4ForConditionalGeneration")
"""Architectures whose classes tell SGLang nothing of where experts lie, of those in :data:`equipoise.models.MODELS`."""

OPTIONS = (
    Option("enable_eplb", bool, False),
    Option("eplb_algorithm", str, "auto", choices=("auto", *_ALGORITHM_NAMES)),
    Option("eplb_rebalance_num_iterations", int, 1000, least=1),
    Option("eplb_rebalance_layers_per_chunk", int, None, least=1),
    Option("eplb_min_rebalancing_utilization_threshold", float, 1.0, least=0),
    Option("ep_num_redundant_experts", int, 0, least=0),
    Option("ep_dispatch_algorithm", str, None, choices=("static", "dynamic", "fake", "lp")),
    Option("init_expert_location", str, "trivial"),
    Option("expert_distribution_recorder_mode", str, None, choices=("stat", "stat_approx", *_FILE_MODES)),
    Option("expert_distribution_recorder_buffer_size", int, None, least=-1),
    Option("expert_balancedness_report_mode", str, "off", choices=("off", "server_log", "prometheus", "both")),
    Option("moe_a2a_backend", str, "none"),
    Option("elastic_ep_backend", str, None, choices=("none", "mooncake", "nixl")),
    Option("elastic_ep_join_mode", str, None, choices=("scale", "recover")),
    Option("max_ep_size", int, None, least=1),
    Option("pp_size", int, 1, least=1),
)
REDUNDANCY = "ep_num_redundant_experts"
ASSUMED = {"enable_eplb": True}
"""What is taken as set where balancing is asked about and nothing else is said."""


def _is_placed(setup: Setup) -> bool:
    return setup.has_placement or setup.options["init_expert_location"] != "trivial"


def _even_slots(setup: Setup) -> Iterator[Finding]:
    return even_slots(setup, _LOCATION)


def _crowded_ranks(setup: Setup) -> Iterator[Finding]:
    return crowded_ranks(setup, _LOCATION)


def _needs_ranks(setup: Setup) -> Iterator[Finding]:
    if setup.options["enable_eplb"] and setup.num_ranks == 1:
        yield error("enable_eplb on 1 rank", "SGLang asserts that ep_size > 1", "raise --ep-size, or drop --enable-eplb", _HOOK)


def _threshold(setup: Setup) -> Iterator[Finding]:
    threshold = setup.number("eplb_min_rebalancing_utilization_threshold")
    if threshold > 1.0:
        yield error(
            f"eplb_min_rebalancing_utilization_threshold is {threshold:g}", "it is a share", "give one in 0 to 1", _MANAGER
        )
    elif threshold < 1.0 and setup.options["expert_balancedness_report_mode"] == "off":
        yield warning(
            f"eplb_min_rebalancing_utilization_threshold is {threshold:g} with expert_balancedness_report_mode off",
            "balance is measured only where it is reported: the threshold has no effect, and every time is a rebalance",
            "add --expert-balancedness-report-mode server_log",
            _RECORDER,
        )


def _buffer_size(setup: Setup) -> Iterator[Finding]:
    size = setup.options["expert_distribution_recorder_buffer_size"]
    iterations = setup.number("eplb_rebalance_num_iterations")
    if setup.options["enable_eplb"] and size is not None and float(size) > iterations:
        yield error(
            f"expert_distribution_recorder_buffer_size is {size}",
            f"it must not be above eplb_rebalance_num_iterations, {iterations:g}: rows of before the last rebalance would stay",
            "lower it, leave it unset, or rebalance less often",
            _MANAGER,
        )


def _recorder_mode(setup: Setup) -> Iterator[Finding]:
    mode = setup.options["expert_distribution_recorder_mode"]
    if setup.options["enable_eplb"] and mode in _FILE_MODES:
        yield error(
            f"enable_eplb with expert_distribution_recorder_mode {mode}",
            "this mode writes files only: the first rebalance fails on it",
            "leave it unset, which takes stat",
            _RECORDER,
        )


def _replica_choice(setup: Setup) -> Iterator[Finding]:
    chosen, backend = setup.options["ep_dispatch_algorithm"], setup.options["moe_a2a_backend"]
    if backend == "none" and chosen in ("static", "lp"):
        yield error(
            f"ep_dispatch_algorithm is {chosen} with moe_a2a_backend none",
            "without an all-to-all backend all ranks must pick the same replica, and these do not",
            "take dynamic, or an all-to-all backend",
            _HOOK,
        )
    elif chosen is None and (setup.options["enable_eplb"] or _is_placed(setup)):
        taken = "dynamic (a replica at random)" if backend == "none" else "static (each rank always its nearest)"
        yield note(
            f"ep_dispatch_algorithm is unset: {taken} is taken",
            f"moe_a2a_backend is {backend}",
            "simulate with --dispatch " + ("equal" if backend == "none" else "nearest"),
            _HOOK,
        )


def _unused_slots(setup: Setup) -> Iterator[Finding]:
    is_dispatched = setup.options["enable_eplb"] or _is_placed(setup) or setup.options["ep_dispatch_algorithm"] is not None
    if setup.redundant > 0 and not is_dispatched:
        yield warning(
            f"{setup.redundant} redundant experts without enable_eplb and without a placement",
            "experts are not mapped to slots at all then: the redundant ones take memory and get no token",
            "add --enable-eplb or --init-expert-location",
            _DISPATCH,
        )


def _algorithm(setup: Setup) -> Iterator[Finding]:
    name = str(setup.options["eplb_algorithm"])
    if setup.options["enable_eplb"] and name.endswith("_hierarchical") and setup.num_groups % setup.num_nodes:
        yield error(
            f"eplb_algorithm is {name} with {setup.num_groups} groups on {setup.num_nodes} nodes",
            "it asserts that groups are divisible by nodes",
            "take auto, which looks at that",
            _ALGORITHMS,
        )


def _elastic(setup: Setup) -> Iterator[Finding]:
    options = setup.options
    if options["elastic_ep_backend"] in (None, "none"):
        for name in ("elastic_ep_join_mode", "max_ep_size"):
            if options[name] is not None:
                yield error(f"{name} without elastic_ep_backend", "SGLang asserts that there is one", "name a backend", _HOOK)
        return
    if options["enable_eplb"] and not str(options["eplb_algorithm"]).startswith(("auto", "elasticity_aware")):
        yield error(
            f"elastic_ep_backend with eplb_algorithm {options['eplb_algorithm']}",
            "only elasticity_aware plans around ranks that are down",
            "take auto, elasticity_aware or elasticity_aware_hierarchical",
            _HOOK,
        )
    if setup.number("pp_size") > 1:
        yield error(f"elastic_ep_backend with pp_size {options['pp_size']}", "SGLang asserts that it is 1", "take 1", _HOOK)


def _chunks(setup: Setup) -> Iterator[Finding]:
    if setup.options["enable_eplb"] and setup.options["eplb_rebalance_layers_per_chunk"] is None:
        yield note(
            "eplb_rebalance_layers_per_chunk is unset",
            "all layers move between two forward passes, and requests wait for all of it",
            "a number such as 4 spreads the moves over passes",
            _MANAGER,
        )


def _model_without_locations(setup: Setup) -> Iterator[Finding]:
    model = setup.model
    if model is None or model.architecture not in WITHOUT_LOCATIONS:
        return
    found = f"{model.name} is {model.architecture}"
    step = "run it without EPLB, redundant experts and --init-expert-location"
    if setup.options["enable_eplb"]:
        yield error(found, "its class does not say where its experts lie, which recording their load asserts", step, _RECORDER)
    elif _is_placed(setup) or setup.redundant > 0:
        yield warning(found, "its class does not say where its experts lie: a placement is silently ignored", step, _LOCATION)


def _placement(setup: Setup) -> Iterator[Finding]:
    yield from fitting_placement(setup, _LOCATION)
    yield from wasted_slots(setup, _LOCATION)


def _dense_rows(setup: Setup) -> Iterator[Finding]:
    if setup.placement is None or setup.model is None:
        return
    dense = setup.model.num_layers - setup.model.num_moe_layers
    if dense:
        yield note(
            f"{setup.model.name} has {dense} dense layers",
            f"SGLang's file needs a row for each of the {setup.model.num_layers} hidden layers, and only the key "
            "physical_to_logical_map",
            "equipoise convert PLACEMENT FILE --for sglang --model NAME writes it so",
            _LOCATION,
        )


def _locality(setup: Setup) -> Iterator[Finding]:
    if setup.num_nodes == 1 or not setup.options["enable_eplb"]:
        return
    if setup.num_ranks % setup.num_nodes:
        yield error(
            f"{setup.num_ranks} ranks on {setup.num_nodes} nodes",
            "SGLang's planner asserts that ranks are divisible by nodes",
            "run equally many on each",
            f"{VERSION}, srt/eplb/eplb_algorithms/deepseek.py",
        )
    elif is_hierarchical(setup):
        yield note("hierarchical: groups of experts stay on a node", _reason(setup), "", _ALGORITHMS)
    else:
        yield note("global: experts are spread over all ranks, whatever their group", _reason(setup), "", _ALGORITHMS)


def _reason(setup: Setup) -> str:
    if setup.options["eplb_algorithm"] != "auto":
        return f"eplb_algorithm is {setup.options['eplb_algorithm']}"
    return f"eplb_algorithm is auto, and {groups_on_nodes(setup)} (--nnodes)"


RULES: tuple[Rule, ...] = (
    _even_slots,
    _crowded_ranks,
    _needs_ranks,
    _threshold,
    _buffer_size,
    _recorder_mode,
    _replica_choice,
    _unused_slots,
    _algorithm,
    _elastic,
    _chunks,
    _model_without_locations,
    _placement,
    _dense_rows,
    _locality,
)


def is_hierarchical(setup: Setup) -> bool:
    """Whether SGLang's own algorithm keeps groups on nodes."""
    name = str(setup.options["eplb_algorithm"])
    if name != "auto":
        return name.endswith("_hierarchical") and setup.num_nodes > 1
    return setup.num_nodes > 1 and setup.num_groups % setup.num_nodes == 0


def interval(setup: Setup) -> int:
    """Return the steps from one rebalance to the next."""
    return max(1, int(setup.number("eplb_rebalance_num_iterations")))
