"""Traffic on which nothing was chosen, and figures of replays over it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from benchmarks.main_job import GLM, GPT_OSS

import equipoise  # what compiles is loaded when first used
from equipoise.generating import BURSTY, CHANGING_DOMAINS, STEADY_DECODE, TrafficSettings, generate
from equipoise.simulating.results import Difference, PolicyResult

Ints = npt.NDArray[np.int64]

REQUESTS = GPT_OSS.with_name("gptoss20b_requests.npz")


def said(difference: Difference) -> str:
    """Return a difference with its interval, in points of balance."""
    return f"{100 * difference.mean:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f}) points"


def as_result(name: str, balancedness: np.ndarray) -> PolicyResult:
    """Wrap balances window by window, for paired_difference."""
    none = np.zeros(0)
    return PolicyResult(name, 0, balancedness, *[none] * 4, none.astype(np.int64), none, none, none > 0, none, none)


def domains_reordered(seed: int) -> Ints:
    """Return the GLM windows, each once: domains in pieces of one to four windows, shuffled, so that domains come back."""
    rng, trace = np.random.default_rng(seed), equipoise.LoadTrace.read(GLM)
    domain = [label.split("/")[0] for label in trace.labels]
    pieces = []
    for name in dict.fromkeys(domain):
        left = [window for window, its in enumerate(domain) if its == name]
        while left:
            length = int(rng.integers(1, 5))
            pieces.append(left[:length])
            left = left[length:]
    order: list[int] = []
    while pieces:
        others = [piece for piece in pieces if not order or domain[piece[0]] != domain[order[-1]]] or pieces
        piece = others[rng.integers(len(others))]
        pieces.remove(piece)
        order += piece
    return trace.load[order]


def requests_mixed(seed: int) -> Ints:
    """Return 28 windows of 20 gpt-oss requests, none twice, from data sets whose shares wander from window to window."""
    rng = np.random.default_rng(seed)
    with np.load(REQUESTS, allow_pickle=False) as archive:
        load, (_, kind, count) = archive["load"], np.unique(archive["dataset"], return_inverse=True, return_counts=True)
    left = [list(rng.permutation(np.flatnonzero(kind == number))) for number in range(len(count))]
    log_share, windows = np.log(count), []
    for _ in range(28):
        log_share = log_share + rng.normal(0.0, 0.4, len(count))
        picked = []
        for _ in range(20):
            share = np.exp(log_share) * [len(requests) > 0 for requests in left]
            picked.append(left[rng.choice(len(count), p=share / share.sum())].pop())
        windows.append(load[picked].sum(axis=0))
    return np.array(windows)


def generated(settings: TrafficSettings, steps: int, window: int, layers: int, experts: int) -> Callable[[int], Ints]:
    """Return what makes traffic of one of our presets from a seed."""
    sizes = {"num_layers": layers, "num_experts": experts}
    return lambda seed: generate(settings, num_steps=steps, **sizes, seed=seed).windows(window).load


OTHERS: dict[str, tuple[Callable[[int], Ints], int, int]] = {
    "GLM, domains in pieces, shuffled": (domains_reordered, 32, 288),
    "gpt-oss, 20 requests of a changing mix": (requests_mixed, 8, 40),
    "STEADY_DECODE, 4 steps": (generated(STEADY_DECODE, 400, 4, 24, 32), 8, 40),
    "CHANGING_DOMAINS": (generated(CHANGING_DOMAINS, 96, 1, 24, 256), 32, 288),
    "BURSTY, 8 requests": (generated(BURSTY, 800, 8, 24, 32), 8, 40),
}
"""Traffic on which nothing was chosen: what makes it from a seed, ranks, slots."""
