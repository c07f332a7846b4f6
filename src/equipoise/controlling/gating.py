"""Which layers a new plan is worth its moves in: gains as they will be met, not as they look on the load planned for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equipoise.controlling.evidence import unknown
from equipoise.controlling.summing import mean_of
from equipoise.kernels.types import Flags, Floats

_SURE = 2.0  # standard deviations of a variance, by which layers must differ more than chance lets them


class Outlook(NamedTuple):
    """What is known of each layer; all [layers], losses as parts of the ideal time.

    ``lost`` by the placement in use, mean of ``weight`` windows (0: none since it is used); ``planned`` by the candidate on the
    load it is planned for, ``before`` by the placement in use on the same; ``unforeseen`` by any plan beside that, over
    :func:`~equipoise.controlling.evidence.unknown`; ``in_use``, ``made_from`` windows of this domain that the placement in use
    (0: not made for it, so no telling) and the candidate know; ``loaded`` whether it has load at all.
    """

    lost: Floats
    weight: Floats
    planned: Floats
    before: Floats
    unforeseen: Floats
    in_use: Floats
    made_from: Floats
    loaded: Flags


class Estimate(NamedTuple):
    """Expected gain of each layer as part of its ideal time, and the standard deviation of that estimate, [layers] each."""

    gain: Floats
    deviation: Floats


def expected_loss(known: Outlook) -> Floats:
    """Return what the candidate will lose in each layer: what it loses on the load planned for, and what cannot be foreseen."""
    unforeseen = known.unforeseen * unknown(np.maximum(known.made_from, 1.0))
    expected: Floats = np.sqrt(known.planned * known.planned + unforeseen * unforeseen)
    return expected


def estimate_gains(known: Outlook, variance: float, is_change: bool) -> Estimate:
    """Return what the candidate will gain in each layer.

    A layer's own estimate is what the placement in use lost less what the candidate will: that on the load planned for, and
    what cannot be foreseen. It is mostly noise, so it is shrunk (as Efron and Morris do with means of many groups) towards what
    all layers tell together: what the candidate knows more, plus how much worse than that the placement in use did on average.
    The more layers differ beyond ``variance`` (of one window, one layer), the less is shrunk; at a change of domain
    (``is_change``) all get their mean, for the change is what moved them. No gain exceeds what it is on the load planned for,
    where the candidate knows all.

    >>> three = np.ones(3)
    >>> known = Outlook(0.5 * three, three, 0 * three, 0.5 * three, 0.1 * three, 0 * three, three, three > 0)
    >>> estimate_gains(known, 0.0, False).gain.round(3).tolist()  # 0.5 - 0.1 * sqrt(1 + 1/1)
    [0.359, 0.359, 0.359]
    """
    most = known.before - known.planned
    factor = unknown(np.maximum(known.made_from, 1.0))
    own = np.where(known.weight > 0.0, known.lost - expected_loss(known), most)
    noise = variance / np.maximum(known.weight, 1.0)
    usual = mean_of(known.unforeseen[known.loaded])
    learnt = usual * (unknown(np.maximum(known.in_use, 1.0)) - factor)
    gain, deviation = np.zeros_like(own), np.zeros_like(own)
    layers = known.loaded
    if layers.any():
        base = np.zeros_like(own) if is_change else learnt
        gain[layers], deviation[layers] = _shrunk(own[layers], base[layers], noise[layers], is_change)
    return Estimate(np.where(known.loaded, np.minimum(gain, most), 0.0), deviation)


def _shrunk(own: Floats, base: Floats, noise: Floats, is_one: bool) -> tuple[Floats, Floats]:
    """Shrink estimates towards ``base`` plus their mean distance from it; return them and their standard deviations."""
    apart = own - base
    shift = mean_of(apart)
    away = apart - shift
    others = max(1, apart.size - 1)
    by_chance = mean_of(noise) * (1.0 + _SURE * (2.0 / others) ** 0.5)
    real = max(0.0, mean_of(away * away) * apart.size / others - by_chance)
    if is_one or real == 0.0:
        trust = np.zeros_like(own)
    else:
        trust = real / (real + noise)
    variance = trust * noise + (1.0 - trust) * noise / apart.size
    return base + shift + trust * away, np.sqrt(variance)


def open_layers(
    estimate: Estimate, was_open: Flags, loaded: Flags, lost: float, *, least_gain: float, least_share: float, caution: float
) -> Flags:
    """Return the layers in which the gate is open.

    It opens where the gain lies ``caution`` deviations above the larger of ``least_gain`` and ``least_share`` of what layers
    lose on average, and stays open until the gain falls below half of that.

    >>> gains = Estimate(np.array([0.02, 0.02, 0.006]), np.array([0.0, 0.02, 0.0]))
    >>> some = np.array([False, False, True])
    >>> open_layers(gains, some, some | True, 0.1, least_gain=0.01, least_share=0.1, caution=1.0).tolist()
    [True, False, True]
    """
    least = max(least_gain, least_share * lost)
    opens = estimate.gain - caution * estimate.deviation > least
    stays = was_open & (estimate.gain > 0.5 * least)
    return np.asarray(loaded & (opens | stays))


def in_priority(gain: Floats, moves: Floats, most: int | None) -> tuple[list[int], list[int]]:
    """Return the layers of gain whose moves fit within ``most`` altogether, and those that do not, best gain a move first.

    >>> in_priority(np.array([3.0, 8.0, 1.0]), np.array([1.0, 4.0, 1.0]), 3)
    ([0, 2], [1])
    """
    order = np.argsort(-gain / np.maximum(moves, 1.0), kind="stable").tolist()
    left = np.inf if most is None else float(most)
    fitting, others = [], []
    for layer in order:
        if moves[layer] <= left:
            left -= moves[layer]
            fitting.append(layer)
        else:
            others.append(layer)
    return fitting, others
