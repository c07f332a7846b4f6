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
    return _over_loaded_layers(largest, ideal, 0.0)


def fifth_percentile(largest: FloatArray, ideal: FloatArray) -> float:
    """Return the 5th percentile of balancedness over the layers that have load, interpolated linearly."""
    return _over_loaded_layers(largest, ideal, 5.0)


def _over_loaded_layers(largest: FloatArray, ideal: FloatArray, percent: float) -> float:
    values = layer_balancedness(largest, ideal)
    values = values[~np.isnan(values)]
    return float(np.percentile(values, percent)) if values.size else 1.0
