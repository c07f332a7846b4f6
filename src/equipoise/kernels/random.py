"""Counter-based random numbers: the n-th draw of a key is a pure function of both.

SplitMix64 in counter mode (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, section 3). A key
is made from the seed and the *content* of a row, never its index, so layers may be planned in any order, by any thread.
"""

from __future__ import annotations

import numpy as np

from equipoise.kernels.compiling import kernel
from equipoise.kernels.types import Floats

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_UNIT = 2.0**-53


@kernel
def mix(bits: np.uint64) -> np.uint64:
    """Scramble 64 bits; a bijection."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


@kernel
def draw(key: np.uint64, counter: int) -> np.uint64:
    """Return draw number ``counter`` of ``key``: 64 random bits."""
    return mix(key + np.uint64(counter + 1) * _GAMMA)


@kernel
def uniform(key: np.uint64, counter: int) -> float:
    """Return draw number ``counter`` of ``key`` as a float64 in [0, 1)."""
    return np.float64(draw(key, counter) >> np.uint64(11)) * _UNIT


@kernel
def below(key: np.uint64, counter: int, limit: int) -> np.int64:
    """Return draw number ``counter`` of ``key`` as an integer in [0, limit), limit < 2**31."""
    return np.int64(((draw(key, counter) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@kernel
def key_of(seed: int, value: Floats) -> np.uint64:
    """Return the key of ``seed`` (a 64-bit integer) and the bits of every number in ``value`` [n]."""
    bits = value.view(np.uint64)
    key = mix(np.uint64(seed) + _GAMMA)
    for i in range(bits.shape[0]):
        key = mix(key ^ bits[i]) + _GAMMA
    return key
