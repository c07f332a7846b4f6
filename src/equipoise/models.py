"""Published models: the numbers that placements, files of engines and memory depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from equipoise.checks import check_integer, check_number, suggestion
from equipoise.errors import ArgumentError


@dataclass(frozen=True)
class Model:
    """A Mixture-of-Experts model: which of its layers have experts, how many, and how large they are.

    Parameters
    ----------
    name : str
        In lower case, as published, without the publisher.
    num_layers : int
        All hidden layers of the main model, dense ones too; without those that draft tokens (multi-token prediction).
    moe_layer_ids : tuple of int
        The model's own numbers of the main model's MoE layers, rising.
    num_experts : int
        Routed experts of a layer; shared ones are none of them.
    num_groups : int
        Groups that the router picks experts from; 1 where it has none.
    top_k : int
        Routed experts of a token.
    hidden, intermediate : int
        An expert is three matrices of hidden x intermediate weights.
    bits : float
        Of a weight, with its share of block scales where these are kept beside it.
    source : str
        Where the numbers are published.
    architecture : str
        The class that engines know the model by; "" when unknown.
    num_draft_layers : int
        Layers with experts that draft tokens, numbered on from ``num_layers``; 0 for none, or none known.

    Raises
    ------
    ArgumentError
        When a number is out of its range, or a layer's number is.

    Examples
    --------
    >>> model = find_model("deepseek-v3")
    >>> model.num_moe_layers, model.moe_layer_ids[0], model.expert_bytes
    (58, 3, 44040192.0)
    """

    name: str
    num_layers: int
    moe_layer_ids: tuple[int, ...]
    num_experts: int
    num_groups: int
    top_k: int
    hidden: int
    intermediate: int
    bits: float
    source: str
    architecture: str = ""
    num_draft_layers: int = 0

    def __post_init__(self) -> None:
        for field in ("num_layers", "num_experts", "num_groups", "top_k", "hidden", "intermediate"):
            object.__setattr__(self, field, check_integer(field, getattr(self, field)))
        object.__setattr__(self, "num_draft_layers", check_integer("num_draft_layers", self.num_draft_layers, 0))
        object.__setattr__(self, "bits", check_number("bits", self.bits, above=0.0))
        ids = tuple(check_integer("moe_layer_ids", layer, 0) for layer in self.moe_layer_ids)
        object.__setattr__(self, "moe_layer_ids", ids)
        if not ids or ids != tuple(sorted(set(ids))) or ids[-1] >= self.num_layers:
            raise ArgumentError(
                f"moe_layer_ids is {ids[:4]}{'...' if len(ids) > 4 else ''}",
                f"it must hold rising numbers of the model's {self.num_layers} layers, 0 to {self.num_layers - 1}",
                "number layers as the model does, dense ones counted",
            )
        if self.num_experts % self.num_groups or self.top_k > self.num_experts:
            raise ArgumentError(
                f"{self.num_experts} experts in {self.num_groups} groups, {self.top_k} for a token",
                "groups must be of one size, and a token cannot have more experts than there are",
                "check the numbers against the model's configuration",
            )

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert of one layer."""
        return 3 * self.hidden * self.intermediate * self.bits / 8

    @property
    def num_moe_layers(self) -> int:
        """MoE layers of the main model."""
        return len(self.moe_layer_ids)


def find_model(name: str) -> Model:
    """Return a model by name; upper case and a publisher before a slash do not matter.

    Raises
    ------
    ArgumentError
        When none is called so; the message names the nearest.

    Examples
    --------
    >>> find_model("deepseek-ai/DeepSeek-R1").num_experts
    256
    """
    key = name.rpartition("/")[2].lower()
    if key in MODELS:
        return MODELS[key]
    raise ArgumentError(
        f"model is {name!r}",
        f"it must be one of {', '.join(MODELS)}",
        suggestion(key, MODELS, most=3) or "give the numbers of another model as options",
    )


def _after(num_dense: int, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of a model's MoE layers, where all but the first ``num_dense`` are such."""
    return tuple(range(num_dense, num_layers))


_DEEPSEEK_V2 = Model(
    "deepseek-v2",
    60,
    _after(1, 60),
    160,
    8,
    6,
    5120,
    1536,
    16,
    "deepseek-ai/DeepSeek-V2 config.json; BF16",
    "DeepseekV2ForCausalLM",
)
_DEEPSEEK_V3 = Model(
    "deepseek-v3",
    num_layers=61,
    moe_layer_ids=_after(3, 61),
    num_experts=256,
    num_groups=8,
    top_k=8,
    hidden=7168,
    intermediate=2048,
    bits=8,
    source="arXiv 2412.19437, 4.2; deepseek-ai/DeepSeek-V3 config.json and README_WEIGHTS.md; FP8",
    architecture="DeepseekV3ForCausalLM",
    num_draft_layers=1,
)
_DEEPSEEK_V4_FLASH = Model(
    "deepseek-v4-flash",
    num_layers=43,
    moe_layer_ids=_after(0, 43),
    num_experts=256,
    num_groups=1,
    top_k=6,
    hidden=4096,
    intermediate=2048,
    bits=4.25,
    source="transformers 5.23 DeepseekV4Config; NeMo AutoModel's page of the model; experts in MXFP4",
    architecture="DeepseekV4ForCausalLM",
    num_draft_layers=1,
)
_DEEPSEEK_V4_PRO = replace(
    _DEEPSEEK_V4_FLASH,
    name="deepseek-v4-pro",
    num_layers=61,
    moe_layer_ids=_after(0, 61),
    num_experts=384,
    hidden=7168,
    intermediate=3072,
    source="NeMo AutoModel's page of the model; config.json as FlashInfer's benchmarks cite it; experts in MXFP4",
)
_KIMI_K2 = Model(
    "kimi-k2",
    num_layers=61,
    moe_layer_ids=_after(1, 61),
    num_experts=384,
    num_groups=1,
    top_k=8,
    hidden=7168,
    intermediate=2048,
    bits=8,
    source="arXiv 2507.20534, 2.3; Megatron Bridge's KimiK2Provider; FP8",
    architecture="DeepseekV3ForCausalLM",
)
_GLM_45 = Model(
    "glm-4.5",
    num_layers=92,
    moe_layer_ids=_after(3, 92),
    num_experts=160,
    num_groups=1,
    top_k=8,
    hidden=5120,
    intermediate=1536,
    bits=16,
    source="arXiv 2508.06471, table 1; Megatron Bridge's page of GLM 4.5; BF16",
    architecture="Glm4MoeForCausalLM",
    num_draft_layers=1,
)
_GLM_45_AIR = replace(
    _GLM_45,
    name="glm-4.5-air",
    num_layers=46,
    moe_layer_ids=_after(1, 46),
    num_experts=128,
    hidden=4096,
    intermediate=1408,
)
_GLM_5 = Model(
    "glm-5",
    num_layers=78,
    moe_layer_ids=_after(3, 78),
    num_experts=256,
    num_groups=1,
    top_k=8,
    hidden=6144,
    intermediate=2048,
    bits=16,
    source="GLM-5 technical report, table of architectures; transformers 5.23 GlmMoeDsaConfig; BF16",
    architecture="GlmMoeDsaForCausalLM",
    num_draft_layers=1,
)
_QWEN3_235B = Model(
    "qwen3-235b-a22b",
    num_layers=94,
    moe_layer_ids=_after(0, 94),
    num_experts=128,
    num_groups=1,
    top_k=8,
    hidden=4096,
    intermediate=1536,
    bits=16,
    source="arXiv 2505.09388, table 2; Qwen/Qwen3-235B-A22B config.json; BF16",
    architecture="Qwen3MoeForCausalLM",
)
_QWEN3_30B = replace(
    _QWEN3_235B,
    name="qwen3-30b-a3b",
    num_layers=48,
    moe_layer_ids=_after(0, 48),
    hidden=2048,
    intermediate=768,
    source="arXiv 2505.09388, table 2; transformers 5.23 Qwen3MoeConfig; BF16",
)
_QWEN3_CODER = replace(
    _QWEN3_235B,
    name="qwen3-coder-480b-a35b",
    num_layers=62,
    moe_layer_ids=_after(0, 62),
    num_experts=160,
    hidden=6144,
    intermediate=2560,
    source="Qwen/Qwen3-Coder-480B-A35B-Instruct config.json, as slime's model scripts cite it; BF16",
)
_QWEN3_NEXT = Model(
    "qwen3-next-80b-a3b",
    num_layers=48,
    moe_layer_ids=_after(0, 48),
    num_experts=512,
    num_groups=1,
    top_k=10,
    hidden=2048,
    intermediate=512,
    bits=16,
    source="transformers 5.23 Qwen3NextConfig; Qwen/Qwen3-Next-80B-A3B-Instruct config.json; BF16",
    architecture="Qwen3NextForCausalLM",
)
_GPT_OSS_120B = Model(
    "gpt-oss-120b",
    num_layers=36,
    moe_layer_ids=_after(0, 36),
    num_experts=128,
    num_groups=1,
    top_k=4,
    hidden=2880,
    intermediate=2880,
    bits=4.25,
    source="arXiv 2508.10925, 2; transformers 5.23 GptOssConfig; MXFP4 with its scales, biases left out",
    architecture="GptOssForCausalLM",
)
_GPT_OSS_20B = replace(_GPT_OSS_120B, name="gpt-oss-20b", num_layers=24, moe_layer_ids=_after(0, 24), num_experts=32)
_MIXTRAL = Model(
    "mixtral-8x7b",
    num_layers=32,
    moe_layer_ids=_after(0, 32),
    num_experts=8,
    num_groups=1,
    top_k=2,
    hidden=4096,
    intermediate=14336,
    bits=16,
    source="arXiv 2401.04088, table 1; transformers 5.23 MixtralConfig; BF16",
    architecture="MixtralForCausalLM",
)
_LLAMA4_SCOUT = Model(
    "llama4-scout",
    num_layers=48,
    moe_layer_ids=_after(0, 48),
    num_experts=16,
    num_groups=1,
    top_k=1,
    hidden=5120,
    intermediate=8192,
    bits=16,
    source="transformers 5.23 Llama4TextConfig; BF16",
    architecture="Llama4ForConditionalGeneration",
)
_LLAMA4_MAVERICK = replace(
    _LLAMA4_SCOUT,
    name="llama4-maverick",
    moe_layer_ids=tuple(range(1, 48, 2)),
    num_experts=128,
    source="Llama-4-Maverick-17B-128E config.json, interleave_moe_layer_step 2; BF16",
)
_OLMOE = Model(
    "olmoe-1b-7b",
    num_layers=16,
    moe_layer_ids=_after(0, 16),
    num_experts=64,
    num_groups=1,
    top_k=8,
    hidden=2048,
    intermediate=1024,
    bits=16,
    source="allenai/OLMoE-1B-7B-0924 config.json; BF16",
    architecture="OlmoeForCausalLM",
)
_MINIMAX_M2 = Model(
    "minimax-m2",
    num_layers=62,
    moe_layer_ids=_after(0, 62),
    num_experts=256,
    num_groups=1,
    top_k=8,
    hidden=3072,
    intermediate=1536,
    bits=8,
    source="MiniMaxAI/MiniMax-M2 config.json; FP8",
    architecture="MiniMaxM2ForCausalLM",
)


def _by_name(models: Iterable[Model]) -> dict[str, Model]:
    return {model.name: model for model in models}


MODELS: dict[str, Model] = _by_name(
    [
        _DEEPSEEK_V3,
        replace(_DEEPSEEK_V3, name="deepseek-v3-bf16", bits=16),
        replace(_DEEPSEEK_V3, name="deepseek-r1"),
        replace(_DEEPSEEK_V3, name="deepseek-v3.1"),
        replace(_DEEPSEEK_V3, name="deepseek-v3.2", architecture="DeepseekV32ForCausalLM"),
        _DEEPSEEK_V2,
        _DEEPSEEK_V4_FLASH,
        _DEEPSEEK_V4_PRO,
        _KIMI_K2,
        replace(
            _KIMI_K2,
            name="kimi-k2.5",
            bits=4.5,
            source="arXiv 2602.02276; moonshotai/Kimi-K2.5 config.json; INT4 with a BF16 scale for 32 weights",
            architecture="KimiK25ForConditionalGeneration",
        ),
        _GLM_5,
        replace(_GLM_5, name="glm-5-fp8", bits=8),
        _GLM_45,
        replace(_GLM_45, name="glm-4.5-fp8", bits=8),
        _GLM_45_AIR,
        replace(_GLM_45_AIR, name="glm-4.5-air-fp8", bits=8),
        _QWEN3_235B,
        replace(_QWEN3_235B, name="qwen3-235b-a22b-fp8", bits=8),
        _QWEN3_30B,
        _QWEN3_CODER,
        replace(_QWEN3_CODER, name="qwen3-coder-480b-a35b-fp8", bits=8),
        _QWEN3_NEXT,
        _GPT_OSS_120B,
        _GPT_OSS_20B,
        _MIXTRAL,
        _LLAMA4_SCOUT,
        _LLAMA4_MAVERICK,
        _OLMOE,
        _MINIMAX_M2,
    ]
)
"""Numbers of the published configurations (``num_hidden_layers``, ``first_k_dense_replace``, ``n_routed_experts``, ``n_group``,
``num_experts_per_tok``, ``hidden_size``, ``moe_intermediate_size``), in the precision they are published in unless the name
says another. Scales and biases of FP8 and BF16 experts are left out. Routed weights, added up, come to the parameters that the
publishers state, less what is no expert: a test holds each to that."""
