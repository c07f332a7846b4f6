"""Links between ranks: what a schedule's seconds are predicted from, with the bytes of an expert."""

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
