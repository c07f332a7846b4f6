"""Balancedness from rank times, over all layers and layer by layer (docs/semantics.md, 5).

All take ``largest`` and ``ideal``, [layers] each: the largest rank time of a layer and the time its load would take if it
lay level. Layers without load count nothing; a load of nothing at all is balanced (1.0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def balancedness(largest: FloatArray, ideal: FloatArray) -> float:
    """Return the share of the slowest ranks' time that is useful: sum of ideal / sum of largest.

    >>> balancedness(np.array([4.0, 6.0]), np.array([4.0, 4.0]))
    0.8
    """
    total = float(largest.sum())
    return float(ideal.sum()) / total if total != 0 else 1.0


def layer_balancedness(largest: FloatArray, ideal: FloatArray) -> FloatArray:
    """Return ideal / largest of each layer, [layers]; nan where a layer has no load."""
    shares: FloatArray = np.divide(ideal, largest, out=np.full(largest.shape, np.nan), where=largest > 0)
    return shares


def worst_layer(largest: FloatArray, ideal: FloatArray) -> float:
    """Return the balancedness of the worst layer that has load."""
    return _quantile(layer_balancedness(largest, ideal), 0.0)


def fifth_percentile(largest: FloatArray, ideal: FloatArray) -> float:
    """Return the 5th percentile of balancedness over the layers that have load, interpolated linearly."""
    return _quantile(layer_balancedness(largest, ideal), 0.05)


def _quantile(values: FloatArray, level: float) -> float:
    """Interpolate linearly between the two nearest of the values that are not nan; 1 without any.

    As numpy's percentile, at a tenth of its time: a replay asks for two a window.
    """
    ranked = np.sort(values[~np.isnan(values)])
    if not ranked.size:
        return 1.0
    position = level * (ranked.size - 1)
    below = int(position)
    above = min(below + 1, ranked.size - 1)
    return float(ranked[below] + (position - below) * (ranked[above] - ranked[below]))
