"""Every rule of every engine: a setup in which it speaks, and one in which it is silent."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from equipoise import Cluster, Placement
from equipoise.engines import sglang, tensorrt_llm, vllm, vllm_ascend
from equipoise.engines.checking import ENGINES, check, make_setup
from equipoise.engines.findings import LEVELS, Finding
from equipoise.engines.options import Option, parse_options
from equipoise.engines.shared import legal_ranks, legal_redundancy
from equipoise.errors import ArgumentError
from equipoise.models import MODELS, Model, find_model

TINY = Model("tiny", 4, (1, 3), 8, 4, 2, 16, 8, 16, "a test", "DeepseekV3ForCausalLM", 1)


def placed(*rows, experts=8, ranks=4, **cluster):
    """A placement of rows of slots."""
    return Placement(rows, Cluster(ranks, cluster.pop("slots", len(rows[0]) // ranks), **cluster), experts)


ROW = [0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 0]
TWICE = [0, 1, 1, *ROW[3:8], 2, 2, 3, 0]


@dataclass(frozen=True)
class Case:
    """A setup, and what one rule says of it."""

    engine: str
    rule: object
    level: str
    words: str
    options: tuple[str, ...] = ()
    setup: dict = field(default_factory=dict)


def case(engine, rule, level, words, *options, **setup):
    """Make a case."""
    return Case(engine, rule, level, words, options, setup)


GPT_OSS, OLMOE = find_model("gpt-oss-120b"), find_model("olmoe-1b-7b")
ELASTIC = ("enable_elastic_ep=true", "use_async=false")

CASES = [
    case("vllm", vllm._even_slots, "error", "take 4 or 8 redundant, or 2 or 7 ranks", num_ranks=4, redundant=6, num_experts=8),
    case("vllm", vllm._even_slots, "error", "slots must be divisible by ranks", redundant=5),
    case("vllm", vllm._even_slots, "error", "slots for all 8 experts", redundant=-4),
    case("vllm", vllm._crowded_ranks, "warning", "take at most 24 redundant", redundant=28),
    case("vllm", vllm._most_redundant, "error", "room for 1023", redundant=1024, num_experts=2048, model=None),
    case("vllm", vllm._needs_eplb, "error", "num_redundant_experts is 4 without enable_eplb", "enable_eplb=false"),
    case("vllm", vllm._needs_expert_parallel, "error", "add --enable-expert-parallel", "enable_expert_parallel=false"),
    case("vllm", vllm._needs_ranks, "error", "enable_eplb on 1 rank", num_ranks=1, redundant=0),
    case(
        "vllm",
        vllm._ranks_of_sizes,
        "error",
        "TP 2 x PCP 1 x DP 4 is 8, not 4",
        "tensor_parallel_size=2",
        "data_parallel_size=4",
    ),
    case("vllm", vllm._known_policy, "error", "vLLM knows one policy", "policy=flash"),
    case("vllm", vllm._async_policy, "error", "use_async with policy flash", "policy=flash"),
    case("vllm", vllm._async_communicator, "error", "communicator pynccl", "communicator=pynccl"),
    case("vllm", vllm._async_communicator, "error", "communicator torch_nccl", "--eplb-config.communicator=torch_nccl"),
    case("vllm", vllm._idle_batching, "warning", "has no effect", "enable_migration_batching=1", "use_async=0"),
    case("vllm", vllm._idle_log_interval, "warning", "nothing is logged", "log_balancedness_interval=5"),
    case("vllm", vllm._round_robin, "warning", "falls back to linear", "expert_placement_strategy=round_robin"),
    case("vllm", vllm._elastic, "error", "without enable_eplb", *ELASTIC, "enable_eplb=false"),
    case("vllm", vllm._elastic, "error", "pipeline_parallel_size 2", *ELASTIC, "pipeline_parallel_size=2"),
    case("vllm", vllm._elastic, "error", "data_parallel_hybrid_lb", *ELASTIC, "data_parallel_hybrid_lb=true"),
    case("vllm", vllm._elastic, "warning", "NIXL", "enable_elastic_ep=true"),
    case(
        "vllm",
        vllm._elastic,
        "error",
        "at least data_parallel_size, 4",
        *ELASTIC,
        "elastic_ep_max_dp_size=2",
        "data_parallel_size=4",
    ),
    case("vllm", vllm._elastic, "warning", "it is ignored", "elastic_ep_max_dp_size=8"),
    case("vllm", vllm._unbalanced_model, "warning", "no expert is ever moved", model=GPT_OSS, redundant=0),
    case("vllm", vllm._placement_at_start, "warning", "no option that loads one", placement=placed(ROW, ROW)),
    case("vllm", vllm._placement, "warning", "layer 0: rank 0 holds expert 1 twice (1 such)", placement=placed(TWICE, ROW)),
    case("vllm", vllm._placement, "error", "2 experts, tiny has 8", placement=placed([0, 1], [0, 1], experts=2, ranks=2)),
    case("vllm", vllm._placement, "error", "1 MoE layers, tiny has 2", placement=placed(ROW)),
    case("vllm", vllm._placement, "error", "is for 4 ranks, the engine runs 2", placement=placed(ROW, ROW), num_ranks=2),
    case("vllm", vllm._placement, "error", "ranks have 2 to 4 slots", placement=placed(ROW, ROW, slots=[2, 4, 2, 4])),
    case("vllm", vllm._placement, "error", "expert 7 has no slot", placement=placed([*ROW[:7], 1, *ROW[8:]], ROW)),
    case("vllm", vllm._placement, "error", "slot 11 is empty", placement=placed([*ROW[:11], -1], ROW)),
    case("vllm", vllm._locality, "note", "hierarchical", num_nodes=2),
    case("vllm", vllm._locality, "note", "4 groups are not divisible by 3 nodes", num_nodes=3, num_ranks=6),
    case("vllm", vllm._locality, "note", "1 group is not divisible by 2 nodes", num_nodes=2, num_groups=1),
    case("vllm", vllm._locality, "warning", "takes them for one", num_nodes=3),
    case("sglang", sglang._even_slots, "error", "slots must be divisible by ranks", redundant=5),
    case("sglang", sglang._crowded_ranks, "warning", "take at most 24 redundant", redundant=28),
    case("sglang", sglang._needs_ranks, "error", "ep_size > 1", num_ranks=1),
    case("sglang", sglang._threshold, "warning", "has no effect", "eplb_min_rebalancing_utilization_threshold=0.9"),
    case("sglang", sglang._threshold, "error", "it is a share", "eplb_min_rebalancing_utilization_threshold=90"),
    case("sglang", sglang._buffer_size, "error", "must not be above", "expert_distribution_recorder_buffer_size=2000"),
    case("sglang", sglang._recorder_mode, "error", "writes files only", "expert_distribution_recorder_mode=per_pass"),
    case("sglang", sglang._replica_choice, "error", "pick the same replica", "ep_dispatch_algorithm=static"),
    case("sglang", sglang._replica_choice, "error", "ep_dispatch_algorithm is lp", "ep_dispatch_algorithm=lp"),
    case("sglang", sglang._replica_choice, "note", "dynamic (a replica at random)"),
    case("sglang", sglang._replica_choice, "note", "static (each rank", "moe_a2a_backend=deepep"),
    case("sglang", sglang._unused_slots, "warning", "get no token", "enable_eplb=false"),
    case(
        "sglang",
        sglang._algorithm,
        "error",
        "groups are divisible",
        "eplb_algorithm=deepseek_hierarchical",
        num_nodes=3,
        num_ranks=6,
    ),
    case("sglang", sglang._elastic, "error", "max_ep_size without", "max_ep_size=64"),
    case("sglang", sglang._elastic, "error", "elastic_ep_join_mode without", "elastic_ep_join_mode=scale"),
    case("sglang", sglang._elastic, "error", "only elasticity_aware", "elastic_ep_backend=nixl", "eplb_algorithm=deepseek"),
    case("sglang", sglang._elastic, "error", "pp_size 2", "elastic_ep_backend=nixl", "pp_size=2"),
    case("sglang", sglang._chunks, "note", "all layers move between two forward passes"),
    case("sglang", sglang._model_without_locations, "error", "recording their load asserts", model=OLMOE, redundant=0),
    case("sglang", sglang._model_without_locations, "warning", "silently ignored", "enable_eplb=false", model=OLMOE),
    case("sglang", sglang._placement, "warning", "holds expert 1 twice", placement=placed(TWICE, ROW)),
    case("sglang", sglang._placement, "error", "1 MoE layers, tiny has 2", placement=placed(ROW)),
    case("sglang", sglang._dense_rows, "note", "each of the 4 hidden layers", placement=placed(ROW, ROW)),
    case("sglang", sglang._locality, "note", "4 groups are divisible by 2 nodes (--nnodes)", num_nodes=2),
    case("sglang", sglang._locality, "note", "eplb_algorithm is deepseek", "eplb_algorithm=deepseek", num_nodes=2),
    case("sglang", sglang._locality, "error", "ranks are divisible by nodes", num_nodes=3),
    case("tensorrt-llm", tensorrt_llm._even_slots, "error", "slots must be divisible by ranks", redundant=5),
    case("tensorrt-llm", tensorrt_llm._even_slots, "error", "slots must be divisible", "num_slots=13", redundant=None),
    case("tensorrt-llm", tensorrt_llm._crowded_ranks, "warning", "take at most 24 redundant", redundant=28),
    case("tensorrt-llm", tensorrt_llm._listed_model, "warning", "silently ignored", model=OLMOE, redundant=0),
    case("tensorrt-llm", tensorrt_llm._listed_model, "note", "older releases", model=GPT_OSS, redundant=0),
    case("tensorrt-llm", tensorrt_llm._needs_ranks, "warning", "silently ignored", num_ranks=1),
    case("tensorrt-llm", tensorrt_llm._smart_router, "warning", "smart router", "moe_cluster_size=2"),
    case("tensorrt-llm", tensorrt_llm._nothing_to_do, "warning", "nothing is balanced"),
    case("tensorrt-llm", tensorrt_llm._online, "note", "shared memory", "layer_updates_per_iter=2"),
    case(
        "tensorrt-llm",
        tensorrt_llm._draft_layers,
        "error",
        "without 4 to 4",
        "num_nextn_predict_layers=1",
        placement=placed(ROW, ROW),
    ),
    case("tensorrt-llm", tensorrt_llm._placement, "warning", "twice", placement=placed(TWICE, ROW)),
    case("tensorrt-llm", tensorrt_llm._placement, "error", "1 MoE layers", placement=placed(ROW)),
    case("tensorrt-llm", tensorrt_llm._locality, "note", "neither groups nor nodes", "layer_updates_per_iter=2", num_nodes=2),
    case("vllm-ascend", vllm_ascend._even_slots, "error", "slots must be divisible by ranks", redundant=5),
    case("vllm-ascend", vllm_ascend._crowded_ranks, "warning", "take at most 24 redundant", redundant=28),
    case("vllm-ascend", vllm_ascend._needs_ranks, "error", "asserts that experts are parallel", num_ranks=1),
    case("vllm-ascend", vllm_ascend._needs_environment, "error", "DYNAMIC_EPLB=true", "DYNAMIC_EPLB=false"),
    case(
        "vllm-ascend",
        vllm_ascend._unused_redundancy,
        "warning",
        "silently taken as 0",
        "dynamic_eplb=false",
        "num_redundant_experts=4",
    ),
    case("vllm-ascend", vllm_ascend._file_names, "error", "must end with .json", "expert_map_path=map.yaml"),
    case(
        "vllm-ascend",
        vllm_ascend._record_path,
        "note",
        "turns dynamic_eplb on",
        "expert_map_record_path=r.json",
        "dynamic_eplb=0",
    ),
    case("vllm-ascend", vllm_ascend._policy, "error", "must be 0, 1, 2 or 3", "eplb_policy_type=4"),
    case("vllm-ascend", vllm_ascend._policy, "warning", "at random", "eplb_policy_type=0"),
    case("vllm-ascend", vllm_ascend._policy, "warning", "at most one redundant", redundant=8),
    case(
        "vllm-ascend",
        vllm_ascend._map_wins,
        "warning",
        "the map holds 4",
        "num_redundant_experts=8",
        placement=placed(ROW, ROW),
        redundant=None,
    ),
    case(
        "vllm-ascend", vllm_ascend._duplicates, "error", "device 0 holds expert 1 twice (1 such)", placement=placed(TWICE, ROW)
    ),
    case("vllm-ascend", vllm_ascend._placement, "error", "1 MoE layers", placement=placed(ROW)),
]

BASE = {"num_ranks": 4, "redundant": 4, "model": TINY}
GOOD = {
    "vllm": (),
    "sglang": ("eplb_rebalance_layers_per_chunk=4", "ep_dispatch_algorithm=dynamic"),
    "tensorrt-llm": ("initial_global_assignments=given",),
    "vllm-ascend": (),
}


def setup_of(found):
    """Return a case's setup: the good one with what the case changes."""
    named = found.setup.get("placement")
    base = BASE if named is None else {**BASE, "num_ranks": named.cluster.num_ranks, "redundant": None}
    if "num_experts" in found.setup:
        base = {**base, "model": None}
    return make_setup(found.engine, **{**base, **found.setup, "options": found.options})


@pytest.mark.parametrize("found", CASES, ids=lambda found: f"{found.engine}{found.rule.__name__}-{found.level}")
def test_a_rule_speaks(found):
    """It says what was found, the rule and the next step; and the whole check has it too."""
    setup = setup_of(found)
    said = [each for each in found.rule(setup) if each.level == found.level and found.words in str(each)]
    assert len(said) == 1, [str(each) for each in found.rule(setup)]
    assert said[0] in check(setup).findings
    assert said[0].source
    assert said[0].next_step or said[0].level == "note"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_rule_is_seen_to_speak_and_to_be_silent(engine):
    """None is missing from the cases, and in a good setup none says a word."""
    rules = ENGINES[engine].rules
    assert {found.rule for found in CASES if found.engine == engine} == set(rules)
    good = make_setup(engine, **BASE, options=GOOD[engine])
    assert [str(each) for rule in rules for each in rule(good)] == []
    with_placement = make_setup(engine, model=TINY, options=GOOD[engine], placement=placed(ROW, ROW))
    assert check(with_placement).count("error") == 0


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (
            "vllm",
            ("tensor_parallel_size=2", "data_parallel_size=2", "communicator=nixl", "log_balancedness=true", "window_size=1"),
        ),
        ("vllm", ("communicator=pynccl", "use_async=false", "enable_migration_batching=false")),
        ("vllm", (*ELASTIC, "elastic_ep_max_dp_size=8", "data_parallel_size=4")),
        ("sglang", ("eplb_min_rebalancing_utilization_threshold=0.9", "expert_balancedness_report_mode=server_log")),
        ("sglang", ("expert_distribution_recorder_buffer_size=-1", "ep_dispatch_algorithm=lp", "moe_a2a_backend=deepep")),
        ("sglang", ("elastic_ep_backend=mooncake", "eplb_algorithm=auto", "max_ep_size=8")),
        ("tensorrt-llm", ("num_slots=12", "layer_updates_per_iter=1")),
        ("vllm-ascend", ("expert_map_record_path=r.json", "eplb_policy_type=3", "eplb_heat_collection_stage=decode")),
    ],
)
def test_near_misses(engine, options):
    """What stands close to a bad choice and is legal: no error and no warning."""
    found = check(make_setup(engine, **BASE, options=options))
    assert [str(each) for each in found.findings if each.level != "note"] == []


@pytest.mark.parametrize("experts", [1, 7, 8, 60])
@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize("redundant", [-3, 0, 1, 5, 17])
def test_legal_numbers_are_legal_and_nearest(experts, ranks, redundant):
    """Every number proposed fits, and none nearer does."""
    wanted = max(redundant, 0)
    fits = [number for number in range(200) if (experts + number) % ranks == 0]
    assert legal_redundancy(experts, ranks, redundant)[-1] == min(number for number in fits if number >= wanted)
    assert set(legal_redundancy(experts, ranks, redundant)) <= set(fits)
    below = [number for number in fits if number < legal_redundancy(experts, ranks, redundant)[-1]]
    assert legal_redundancy(experts, ranks, redundant)[:-1] == below[-1:]
    slots = experts + wanted
    divisors = [number for number in range(1, 200) if slots % number == 0]
    for number in legal_ranks(slots, ranks):
        assert number in divisors
        assert not [d for d in divisors if min(number, ranks) < d < max(number, ranks)]


def test_options_that_the_engine_would_refuse():
    """Unknown names with the nearest known one, and values out of range, are errors; what is no name=value is bad input."""
    found = check(make_setup("vllm", **BASE, options=("windowsize=5", "step_interval=0", "use_async=maybe", "communicator=x")))
    said = [str(each) for each in found.findings if each.level == "error"]
    assert [
        word in text for word, text in zip(("did you mean window_size?", ">= 1", "true or false", "one of"), said, strict=True)
    ]
    assert all(said)
    assert "known are" in str(check(make_setup("vllm-ascend", **BASE, options=("zzz=1",))).findings[0])
    with pytest.raises(ArgumentError, match="must be name=value"):
        make_setup("vllm", **BASE, options=("use_async",))
    values, refused = parse_options((Option("size", float, None), Option("path", str, "x")), ["size=none", "path=none"], "x")
    assert (values, refused) == ({"size": None, "path": "none"}, [])
    assert parse_options((Option("size", float),), ["size=nine"], "x")[1][0].rule == "it must be a number"


def test_what_is_said_twice_must_agree():
    """Redundancy by an option of the engine's, and by an argument."""
    assert make_setup("vllm", num_ranks=4, model=TINY, options=("num_redundant_experts=8",)).redundant == 8
    assert make_setup("tensorrt-llm", num_ranks=4, model=TINY, options=("num_slots=16",)).redundant == 8
    with pytest.raises(ArgumentError, match="they must agree"):
        make_setup("sglang", **BASE, options=("ep_num_redundant_experts=8",))
    with pytest.raises(ArgumentError, match="number of ranks is not said"):
        make_setup("vllm", model=TINY)
    with pytest.raises(ArgumentError, match="number of experts is not said"):
        make_setup("vllm", num_ranks=2)
    with pytest.raises(ArgumentError, match="engine is 'x'"):
        make_setup("x", **BASE)


def test_from_a_placement_follows_what_it_says():
    """Ranks, nodes, experts and redundancy."""
    setup = make_setup("sglang", placement=placed(ROW, ROW, num_nodes=2))
    assert (setup.num_ranks, setup.num_nodes, setup.num_experts, setup.redundant) == (4, 2, 8, 4)
    assert setup.options["enable_eplb"] is False


@pytest.mark.parametrize(
    ("engine", "nodes", "options", "expected"),
    [
        ("vllm", 2, (), True),
        ("vllm", 1, (), False),
        ("vllm", 3, (), False),
        ("sglang", 2, (), True),
        ("sglang", 2, ("eplb_algorithm=deepseek",), False),
        ("sglang", 2, ("eplb_algorithm=deepseek_vec_hierarchical",), True),
        ("tensorrt-llm", 2, (), False),
        ("vllm-ascend", 2, (), False),
    ],
)
def test_which_engines_keep_groups_on_nodes(engine, nodes, options, expected):
    """Hierarchical where groups are divisible by nodes, and nowhere else."""
    assert ENGINES[engine].is_hierarchical(make_setup(engine, **BASE, num_nodes=nodes, options=options)) is expected


@pytest.mark.parametrize(
    ("engine", "options", "steps"),
    [
        ("vllm", ("step_interval=50",), 50),
        ("sglang", (), 1000),
        ("tensorrt-llm", ("layer_updates_per_iter=1",), 2),
        ("tensorrt-llm", (), 1000),
        ("vllm-ascend", (), 652),
    ],
)
def test_steps_between_rebalances(engine, options, steps):
    """As options say, else the engine's default."""
    assert ENGINES[engine].interval(make_setup(engine, **BASE, options=options)) == steps


def test_memory():
    """By hand: 12 slots of 8 experts on 4 ranks, 2 layers, experts of 3 x 16 x 8 weights of 2 bytes."""
    size = 3 * 16 * 8 * 2
    found = check(make_setup("vllm", **BASE)).memory
    assert (found.experts, found.redundant, found.staging, found.host) == (3 * 2 * size, 2 * size, 3 * size, 0)
    assert check(make_setup("vllm", **BASE, options=("enable_eplb=false",))).memory.staging == 0
    online = check(make_setup("tensorrt-llm", **BASE, options=("layer_updates_per_iter=1",))).memory
    assert (online.staging, online.host) == (0, 8 * 2 * size)
    assert check(make_setup("tensorrt-llm", **BASE)).memory.host == 0
    assert check(make_setup("vllm", num_ranks=4, redundant=5, model=TINY)).memory is None
    assert check(make_setup("vllm", num_ranks=4, redundant=4, num_experts=8)).memory is None


def test_findings_are_ranked():
    """Errors first, then warnings, then notes, whichever rule comes first."""
    options = ("log_balancedness_interval=2", *ELASTIC, "pipeline_parallel_size=2")
    found = check(make_setup("vllm", **BASE, num_nodes=2, options=options))
    levels = [LEVELS.index(each.level) for each in found.findings]
    assert levels == sorted(levels)
    assert set(levels) == {0, 1, 2}
    with pytest.raises(ArgumentError, match="level is 'fatal'"):
        Finding("fatal", "x", "y")


def test_lists_of_architectures_name_known_models():
    """Each architecture said to be left out is that of a model with a name here."""
    known = {model.architecture for model in MODELS.values()}
    assert set(vllm.WITHOUT_EPLB) < known
    assert set(sglang.WITHOUT_LOCATIONS) < known
    assert set(tensorrt_llm._FIRST) < set(tensorrt_llm.ARCHITECTURES)
