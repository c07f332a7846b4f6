"""What vllm-ascend does with its eplb_config; read in vllm-ascend 0.23.0."""

from __future__ import annotations

from collections.abc import Iterator

from equipoise.engines.findings import Finding, error, note, warning
from equipoise.engines.options import Option
from equipoise.engines.setups import Rule, Setup
from equipoise.engines.shared import crowded_ranks, even_slots, first_duplicate, fitting_placement

VERSION = "vllm-ascend 0.23.0"
_CONFIG = f"{VERSION}, vllm_ascend/ascend_config.py"
_UTILS = f"{VERSION}, vllm_ascend/eplb/core/eplb_utils.py"
_POLICIES = f"{VERSION}, vllm_ascend/eplb/core/policy/policy_factory.py"

_RANDOM, _SWIFT = 0, 2

OPTIONS = (
    Option("dynamic_eplb", bool, False),
    Option("expert_map_path", str, None),
    Option("expert_map_record_path", str, None),
    Option("expert_heat_collection_interval", int, 600, least=0),
    Option("algorithm_execution_interval", int, 50, least=0),
    Option("num_redundant_experts", int, 0, least=0),
    Option("eplb_policy_type", int, _SWIFT, least=0),
    Option("eplb_heat_collection_stage", str, "all", choices=("all", "prefill", "decode")),
    Option("DYNAMIC_EPLB", bool, False),
    Option("EXPERT_MAP_RECORD", bool, False),
)
"""``eplb_config``, and last the two environment variables."""
REDUNDANCY = "num_redundant_experts"
ASSUMED = {"dynamic_eplb": True, "DYNAMIC_EPLB": True}
"""What is taken as set where balancing is asked about and nothing else is said."""


def _is_dynamic(setup: Setup) -> bool:
    return bool(setup.options["dynamic_eplb"]) or setup.options["expert_map_record_path"] is not None


def _is_mapped(setup: Setup) -> bool:
    return setup.has_placement or setup.options["expert_map_path"] is not None


def _even_slots(setup: Setup) -> Iterator[Finding]:
    return even_slots(setup, _UTILS)


def _crowded_ranks(setup: Setup) -> Iterator[Finding]:
    return crowded_ranks(setup, _UTILS)


def _needs_ranks(setup: Setup) -> Iterator[Finding]:
    if _is_dynamic(setup) and setup.num_ranks == 1:
        yield error("dynamic_eplb on 1 rank", "it asserts that experts are parallel", "run on several devices", _UTILS)


def _needs_environment(setup: Setup) -> Iterator[Finding]:
    if _is_dynamic(setup) and not (setup.options["DYNAMIC_EPLB"] or setup.options["EXPERT_MAP_RECORD"]):
        yield error(
            "dynamic_eplb without the environment variable",
            "it asserts that DYNAMIC_EPLB, or EXPERT_MAP_RECORD, is set to true",
            "start it with DYNAMIC_EPLB=true",
            _CONFIG,
        )


def _unused_redundancy(setup: Setup) -> Iterator[Finding]:
    if setup.number("num_redundant_experts") > 0 and not _is_dynamic(setup) and not _is_mapped(setup):
        yield warning(
            f"num_redundant_experts is {setup.options['num_redundant_experts']} without dynamic_eplb and without a map",
            "it is silently taken as 0",
            "add dynamic_eplb or expert_map_path",
            _UTILS,
        )


def _file_names(setup: Setup) -> Iterator[Finding]:
    for name in ("expert_map_path", "expert_map_record_path"):
        path = setup.options[name]
        if path is not None and not str(path).endswith(".json"):
            yield error(f"{name} is {path}", "it must end with .json", "name it so", _CONFIG)


def _record_path(setup: Setup) -> Iterator[Finding]:
    if setup.options["expert_map_record_path"] is not None and not setup.options["dynamic_eplb"]:
        yield note("expert_map_record_path is given", "it turns dynamic_eplb on", "", _CONFIG)


def _policy(setup: Setup) -> Iterator[Finding]:
    policy = int(setup.number("eplb_policy_type"))
    if policy > 3:
        yield error(f"eplb_policy_type is {policy}", "it must be 0, 1, 2 or 3", "take 2, its default", _CONFIG)
    elif policy == _RANDOM and _is_dynamic(setup):
        yield warning(
            "eplb_policy_type is 0", "this policy shuffles at random; it is for tests", "take 2, its default", _POLICIES
        )
    elif policy == _SWIFT and _is_dynamic(setup) and setup.redundant > setup.num_ranks:
        yield warning(
            f"{setup.redundant} redundant experts on {setup.num_ranks} devices with eplb_policy_type 2",
            "this policy places at most one redundant expert on a device",
            f"take at most {setup.num_ranks}, or eplb_policy_type 1 or 3",
            _POLICIES,
        )


def _map_wins(setup: Setup) -> Iterator[Finding]:
    given = setup.options["num_redundant_experts"]
    if setup.placement is not None and "num_redundant_experts" in setup.given and given != setup.redundant:
        yield warning(
            f"num_redundant_experts is {given}, the map holds {setup.redundant}",
            "the map's count is taken",
            "drop the option",
            _UTILS,
        )


def _duplicates(setup: Setup) -> Iterator[Finding]:
    found = None if setup.placement is None else first_duplicate(setup.placement)
    if found is not None:
        layer, rank, expert, count = found
        yield error(
            f"layer {layer}: device {rank} holds expert {expert} twice ({count} such)",
            "the map has one place for an expert on a device: it breaks, or a layer is refused",
            "plan anew; equipoise never places one so",
            _UTILS,
        )


def _placement(setup: Setup) -> Iterator[Finding]:
    return fitting_placement(setup, _UTILS)


RULES: tuple[Rule, ...] = (
    _even_slots,
    _crowded_ranks,
    _needs_ranks,
    _needs_environment,
    _unused_redundancy,
    _file_names,
    _record_path,
    _policy,
    _map_wins,
    _duplicates,
    _placement,
)


def is_hierarchical(setup: Setup) -> bool:
    """Whether its planners keep groups on nodes: their default does not look at groups."""
    return False


def interval(setup: Setup) -> int:
    """Return the steps from one rebalance to the next: two intervals, and one step a layer that moves."""
    layers = 0 if setup.model is None else setup.model.num_moe_layers
    waits = setup.number("expert_heat_collection_interval") + setup.number("algorithm_execution_interval")
    return max(1, int(waits) + layers)
