"""Loads as shares of their layer, and how far shares lie apart; sums in fixed order, the same on any machine."""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats


@kernel
def to_shares(load: Floats) -> tuple[Floats, Floats]:
    """Return each expert's share of its layer's load [layers, experts], 0 in layers without, and the totals [layers]."""
    num_layers, num_experts = load.shape
    share = np.zeros((num_layers, num_experts), np.float64)
    total = np.zeros(num_layers, np.float64)
    for x in range(num_layers):
        for e in range(num_experts):
            total[x] += load[x, e]
        if total[x] > 0.0:
            for e in range(num_experts):
                share[x, e] = load[x, e] / total[x]
    return share, total


@kernel
def mean_distance(share: Floats, other: Floats) -> float:
    """Return the mean over layers, those without load left out, of the sum of absolute differences; in [0, 2]."""
    total = 0.0
    layers = 0
    for x in range(share.shape[0]):
        apart = 0.0
        mass = 0.0
        rest = 0.0
        for e in range(share.shape[1]):
            apart += abs(share[x, e] - other[x, e])
            mass += share[x, e]
            rest += other[x, e]
        if mass > 0.0 and rest > 0.0:
            total += apart
            layers += 1
    return total / layers if layers > 0 else 0.0


@kernel
def sampling_distance(share: Floats, total: Floats, other_total: Floats) -> float:
    """Return about how far apart two draws from ``share`` lie by chance alone, in the measure of mean_distance.

    The draws have ``total`` and ``other_total`` [layers] tokens; a difference of two counts spreads normally, with a mean
    absolute value of sqrt(2 / pi) standard deviations.
    """
    apart = 0.0
    layers = 0
    for x in range(share.shape[0]):
        if total[x] > 0.0 and other_total[x] > 0.0:
            variance = 1.0 / total[x] + 1.0 / other_total[x]
            layers += 1
            for e in range(share.shape[1]):
                apart += np.sqrt(0.6366197723675814 * share[x, e] * variance)
    return apart / layers if layers > 0 else 0.0


@kernel
def learn(mean: Floats, spread: Floats, weight: Floats, share: Floats, total: Floats, keep: float) -> None:
    """Let exponentially weighted means and sums of squared deviations [layers, experts] take in a window, in place.

    What was known counts ``keep`` of what it did; ``weight`` [layers] is the sum of weights. Layers without load learn
    nothing. (West, "Updating mean and variance estimates: an improved method", CACM 1979.)
    """
    for x in range(mean.shape[0]):
        if total[x] <= 0.0:
            continue
        weight[x] = keep * weight[x] + 1.0
        for e in range(mean.shape[1]):
            away = share[x, e] - mean[x, e]
            mean[x, e] = share[x, e] if weight[x] == 1.0 else mean[x, e] + away / weight[x]
            spread[x, e] = max(0.0, keep * spread[x, e] + away * (share[x, e] - mean[x, e]))
