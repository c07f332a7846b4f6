"""Links between ranks and the bytes of experts: what a schedule's seconds are predicted from."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.checks import check_number


@dataclass(frozen=True)
class Links:
    """How fast ranks send, each in both directions at once.

    Parameters
    ----------
    bandwidth, node_bandwidth : float
        Bytes a second that a rank sends, and receives, within its node, and to and from other nodes; > 0.
    latency, node_latency : float
        Seconds before a round's first byte, within a node and between nodes; > 0.

    Raises
    ------
    ArgumentError
        When one of them is not finite and > 0.

    Examples
    --------
    >>> round(Links(bandwidth=450e9, node_bandwidth=50e9).seconds(44e6, is_near=False), 6)
    0.00089
    """

    bandwidth: float = 450e9
    node_bandwidth: float = 50e9
    latency: float = 5e-6
    node_latency: float = 10e-6

    def __post_init__(self) -> None:
        for name in ("bandwidth", "node_bandwidth", "latency", "node_latency"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), above=0.0))

    def seconds(self, num_bytes: float, is_near: bool) -> float:
        """Return what one transfer takes, in seconds."""
        if is_near:
            return self.latency + num_bytes / self.bandwidth
        return self.node_latency + num_bytes / self.node_bandwidth


LINKS = {
    "h100": Links(bandwidth=450e9, node_bandwidth=50e9),
    "h800": Links(bandwidth=200e9, node_bandwidth=50e9),
    "b200": Links(bandwidth=900e9, node_bandwidth=50e9),
}
"""Nominal, in one direction. H100: NVLink 4, 900e9 bytes a second in both directions together (NVIDIA's data sheet); H800: its
400e9 in both; B200 and GB200: NVLink 5, 1.8e12 in both (NVIDIA's data sheet; on NVL72 a node is the rack, so declare it so).
Between nodes 400 Gb/s InfiniBand a GPU, of which DeepEP's repository (docs/legacy.md) measures 43 to 58e9. For 44 MB, EPIC
(SIGCOMM 2026) measured 92 us on H20 NVLink, 210 us on H800 NVLink and 0.8 to 1.7 ms between nodes. Latencies are our
assumption: small against these."""


@dataclass(frozen=True)
class ExpertShape:
    """The weights of one routed expert: three matrices, hidden x intermediate each; its scales and biases are left out.

    >>> EXPERT_SHAPES["deepseek-v3"].expert_bytes
    44040192.0
    """

    hidden: int
    intermediate: int
    bits: float

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert."""
        return 3 * self.hidden * self.intermediate * self.bits / 8


EXPERT_SHAPES = {
    "deepseek-v3": ExpertShape(7168, 2048, 8),
    "deepseek-v3-bf16": ExpertShape(7168, 2048, 16),
    "kimi-k2": ExpertShape(7168, 2048, 8),
    "glm-5": ExpertShape(6144, 2048, 16),
    "glm-5-fp8": ExpertShape(6144, 2048, 8),
    "glm-4.5": ExpertShape(5120, 1536, 16),
    "glm-4.5-fp8": ExpertShape(5120, 1536, 8),
    "qwen3-235b-a22b": ExpertShape(4096, 1536, 16),
    "qwen3-235b-a22b-fp8": ExpertShape(4096, 1536, 8),
    "gpt-oss-120b": ExpertShape(2880, 2880, 4.25),
}
"""``hidden_size`` and ``moe_intermediate_size`` of the published configurations, in the precision they are published in unless
the name says another: DeepSeek-V3 and R1 (technical report, arXiv 2412.19437, 4.2) and Kimi-K2 in FP8; GLM-4.5, GLM-5 and
Qwen3-235B in BF16, with FP8 versions; gpt-oss-120b in MXFP4 (arXiv 2508.10925), 4.25 bits a parameter with its scales, as the
engines keep it."""
