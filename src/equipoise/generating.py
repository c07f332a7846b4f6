"""Made traffic: loads with chosen skew, drift, bursts and changes of domain; and what describes real and made loads alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from equipoise.arrays import frozen
from equipoise.checks import check_integer, check_seed
from equipoise.errors import ArgumentError
from equipoise.streams import LoadStream
from equipoise.trace import LoadTrace

_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]

_BLOCK = 64  # steps drawn at a time: part of what a seed means, so never to be changed
_TINY = 1e-9  # keeps weights above 0 where they have to add up to 1
_LARGEST = 2**48  # so that rounding errors of expected counts stay below a token
_TIMES, _LAYER, _POPULARITY, _WALK_START, _WALK, _BURST, _TOKENS = range(7)


@dataclass(frozen=True)
class TrafficSettings:
    """What made traffic looks like.

    The popularity of an expert is lognormal. Its logarithm has three parts, whose variances add up to the layer's ``skew``
    squared at every step: one that wanders (``drift``), and of the rest one that all domains share (``shared``) and one of the
    domain's own.

    Parameters
    ----------
    tokens : int
        Tokens of text in a step; every layer of a step routes ``tokens * top_k``.
    top_k : int
        Experts that a token picks, all different.
    skew : (float, float)
        Standard deviation of log popularity in the most even and in the most skewed layer; layers lie evenly between, at
        random. 0 is no skew.
    drift : float
        Share of the variance that wanders, 0 to 1.
    drift_steps : float
        Steps after which the wandering part has forgotten 63 % of where it was.
    burst_probability : float
        Chance, at each step, that a burst begins; a new one ends the one before.
    burst_size : float
        Factor on the popularity of the experts hit.
    burst_steps : int
        Length of a burst.
    burst_experts : int
        Experts that a burst hits in each layer, chosen at random for each burst.
    domains : sequence of str
        Names of the domains; the first step is of the first. They become the trace's labels.
    domain_steps : float
        Mean number of steps before the domain changes to another one, chosen evenly; it may come back.
    shared : float
        Share of the variance that does not wander which all domains have in common, 0 to 1.
    noise : float
        Variance of the counts over that of tokens which pick independently. Below 1 where the same requests go on from step to
        step (0: the expected counts, rounded at random), above 1 where a step has few requests, whose tokens pick alike.

    Raises
    ------
    ArgumentError
        On a value out of its range.

    Examples
    --------
    >>> TrafficSettings(tokens=4096, domains=["code", "chat"]).domains
    ('code', 'chat')
    """

    tokens: int = 1024
    top_k: int = 8
    skew: tuple[float, float] = (0.4, 0.8)
    drift: float = 0.1
    drift_steps: float = 100.0
    burst_probability: float = 0.0
    burst_size: float = 4.0
    burst_steps: int = 8
    burst_experts: int = 2
    domains: Sequence[str] = ("all",)
    domain_steps: float = 100.0
    shared: float = 0.5
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("tokens", "top_k", "burst_steps", "burst_experts"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name)))
        for name, least, most in _RANGES:
            object.__setattr__(self, name, _as_number(name, getattr(self, name), least, most))
        object.__setattr__(self, "skew", _as_skew(self.skew))
        object.__setattr__(self, "domains", _as_domains(self.domains))
        if self.tokens * self.top_k > _LARGEST:
            raise ArgumentError(
                f"tokens * top_k is {self.tokens * self.top_k}", f"it must be at most {_LARGEST}", "take fewer tokens"
            )
        if self.noise > 1 and self.noise >= self.tokens * self.top_k:
            raise ArgumentError(
                f"noise is {self.noise:g}", f"it must be below tokens * top_k ({self.tokens * self.top_k})", "take less noise"
            )


_RANGES = (
    ("drift", 0.0, 1.0),
    ("drift_steps", 1e-3, 1e12),
    ("burst_probability", 0.0, 1.0),
    ("burst_size", 1e-6, 1e6),
    ("domain_steps", 1.0, 1e12),
    ("shared", 0.0, 1.0),
    ("noise", 0.0, 1e12),
)


def generate(settings: TrafficSettings, *, num_steps: int, num_layers: int, num_experts: int, seed: int = 0) -> LoadTrace:
    """Make a trace [num_steps, num_layers, num_experts] of whole tokens; labels are the domains.

    Every layer of a step adds up to ``tokens * top_k``, and no expert gets more than ``tokens``. The same settings, seed and
    version of numpy give the same trace; more steps or layers leave those before as they are.

    Raises
    ------
    ArgumentError
        When sizes or seed are out of range, or there are fewer experts than a token picks or a burst hits.

    Examples
    --------
    >>> trace = generate(TrafficSettings(tokens=100, top_k=2), num_steps=3, num_layers=4, num_experts=8)
    >>> trace.load.shape, trace.load[0].sum(axis=1).tolist(), trace.labels
    ((3, 4, 8), [200, 200, 200, 200], ('all', 'all', 'all'))
    """
    stream = generate_stream(settings, num_steps=num_steps, num_layers=num_layers, num_experts=num_experts, seed=seed)
    load = np.empty((num_steps, num_layers, num_experts), np.int64)
    done = 0
    for block in stream.blocks():
        load[done : done + len(block)] = block
        done += len(block)
    return LoadTrace(frozen(load), stream.layer_ids, stream.labels)


def generate_stream(
    settings: TrafficSettings, *, num_steps: int, num_layers: int, num_experts: int, seed: int = 0
) -> LoadStream:
    """Make what :func:`generate` makes, step for step, as a stream that holds few steps at a time.

    >>> stream = generate_stream(TrafficSettings(), num_steps=10**6, num_layers=2, num_experts=16)
    >>> int(next(iter(stream)).sum())
    16384
    """
    for name, size in (("num_steps", num_steps), ("num_layers", num_layers), ("num_experts", num_experts)):
        check_integer(name, size)
    for name in ("top_k", "burst_experts"):
        if getattr(settings, name) > num_experts:
            raise ArgumentError(
                f"{name} is {getattr(settings, name)}",
                f"it must be at most num_experts ({num_experts})",
                "take more experts or change the settings",
            )
    times = _make_times(settings, num_steps, check_seed(seed))
    return LoadStream(
        partial(_make_blocks, settings, times, num_layers, num_experts, seed),
        num_layers,
        num_experts,
        num_steps,
        labels=[settings.domains[domain] for domain in times.domain[:num_steps].tolist()],
    )


@dataclass(frozen=True, eq=False)
class _Times:
    """What happens when: for each step, whole blocks of them, its domain and the step its burst began at (-1: no burst)."""

    num_steps: int
    domain: npt.NDArray[np.int64]
    burst: npt.NDArray[np.int64]


def _make_times(settings: TrafficSettings, num_steps: int, seed: int) -> _Times:
    padded = -(-num_steps // _BLOCK) * _BLOCK
    changes, choices, bursts = _random(seed, 0, _TIMES).random((padded, 3)).T
    others = len(settings.domains) - 1
    jumps = np.where(changes < 1 / settings.domain_steps, 1 + (choices * others).astype(np.int64), 0)
    jumps[0] = 0
    steps = np.arange(padded)
    begun = np.maximum.accumulate(np.where(bursts < settings.burst_probability, steps, -settings.burst_steps))
    return _Times(
        num_steps,
        domain=np.cumsum(jumps if others else 0 * jumps) % (others + 1),
        burst=np.where(steps - begun < settings.burst_steps, begun, -1),
    )


def _make_blocks(settings: TrafficSettings, times: _Times, num_layers: int, num_experts: int, seed: int) -> Iterator[_Counts]:
    layers = [_Layer(settings, num_experts, seed, layer) for layer in range(num_layers)]
    for start in range(0, times.num_steps, _BLOCK):
        block = np.stack([layer.draw(times, start) for layer in layers], axis=1)
        yield frozen(block[: times.num_steps - start])


class _Layer:
    """One layer's popularity as it goes on from block to block."""

    def __init__(self, settings: TrafficSettings, num_experts: int, seed: int, layer: int) -> None:
        self.settings, self.seed, self.layer = settings, seed, layer
        low, high = settings.skew
        self.skew = low + (high - low) * self._random(_LAYER).random()
        common = self._random(_POPULARITY).standard_normal(num_experts)
        own = np.array([self._random(_POPULARITY, 1 + d).standard_normal(num_experts) for d in range(len(settings.domains))])
        self.of_domain = math.sqrt(settings.shared) * common + math.sqrt(1 - settings.shared) * own
        self.walk = self._random(_WALK_START).standard_normal(num_experts)

    def draw(self, times: _Times, start: int) -> _Counts:
        """Draw a block's counts [_BLOCK, experts]: always a whole block, so that a longer trace starts the same."""
        steps = slice(start, start + _BLOCK)
        drift = self.settings.drift
        fixed = self.of_domain[times.domain[steps]]
        log_popularity = self.skew * (math.sqrt(1 - drift) * fixed + math.sqrt(drift) * self._walk_on(start))
        self._add_bursts(log_popularity, times.burst[steps])
        share = _normed(np.exp(log_popularity - log_popularity.max(axis=1, keepdims=True)))
        tokens, top_k = self.settings.tokens, self.settings.top_k
        random = self._random(_TOKENS, start)
        share = _jittered(share, self.settings.noise, tokens * top_k, random)
        return _draw_counts(_picked(share, top_k), self.settings, random)

    def _walk_on(self, start: int) -> _Floats:
        """Go a block on: a random walk drawn back to 0, so that its variance stays 1."""
        kept = math.exp(-1 / self.settings.drift_steps)
        path = math.sqrt(1 - kept**2) * self._random(_WALK, start).standard_normal((_BLOCK, self.walk.size))
        for step in path:
            step += kept * self.walk
            self.walk = step
        return path

    def _add_bursts(self, log_popularity: _Floats, burst: npt.NDArray[np.int64]) -> None:
        for begun in np.unique(burst[burst >= 0]).tolist():
            hit = self._random(_BURST, begun).choice(self.walk.size, self.settings.burst_experts, replace=False)
            log_popularity[np.ix_(burst == begun, hit)] += math.log(self.settings.burst_size)

    def _random(self, purpose: int, number: int = 0) -> np.random.Generator:
        return _random(self.seed, self.layer, purpose, number)


def _random(seed: int, layer: int, purpose: int, number: int = 0) -> np.random.Generator:
    """Return random numbers that depend on nothing but these four."""
    return np.random.Generator(np.random.Philox(key=[seed, layer], counter=[0, 0, number, purpose]))


def _jittered(share: _Floats, noise: float, draws: int, random: np.random.Generator) -> _Floats:
    """Redraw shares from the Dirichlet distribution that makes ``draws`` counts vary ``noise`` times as much as they would."""
    if noise <= 1:
        return share
    strength = (draws - noise) / (noise - 1)
    drawn = random.standard_gamma(strength * share) + 1e-300 * share
    return _normed(drawn)


def _picked(share: _Floats, top_k: int) -> _Floats:
    """Turn shares [steps, experts] into chances of being picked by a token: they add up to ``top_k``, none is above 1."""
    sure = np.zeros(share.shape, bool)
    while True:
        rest = np.where(sure, 0.0, share)
        left = top_k - sure.sum(axis=1, keepdims=True)
        chance = rest * (left / np.maximum(rest.sum(axis=1, keepdims=True), 1e-300))
        if not (chance > 1).any():
            return np.asarray(np.where(sure, 1.0, chance))
        sure |= chance >= 1


def _draw_counts(chance: _Floats, settings: TrafficSettings, random: np.random.Generator) -> _Counts:
    """Draw counts [steps, experts] that add up to tokens * top_k; what exceeds ``tokens`` goes to experts that have fewer."""
    expected = _normed(chance) * (settings.tokens * settings.top_k)
    counts = (max(1 - settings.noise, 0.0) * expected).astype(
        np.int64
    )  # this much of the expected counts is not left to chance
    left = settings.tokens * settings.top_k - counts.sum(axis=1)
    counts += random.multinomial(left, _normed(expected - counts + _TINY * expected))
    while True:
        excess = np.maximum(counts - settings.tokens, 0).sum(axis=1)
        rows = np.flatnonzero(excess)
        if not rows.size:
            return counts
        np.minimum(counts, settings.tokens, out=counts)
        has_room = counts[rows] < settings.tokens
        counts[rows] += random.multinomial(excess[rows], _normed(np.where(has_room, chance[rows] + _TINY, 0.0)))


def _normed(weights: _Floats) -> _Floats:
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class TraceCharacter:
    """What a trace looks like over time, in few figures; shares are of a layer's load.

    ``num_steps``; ``skew``, hottest expert / mean expert of one step, median over layers and steps; ``lasting_skew``, the same
    of all steps added up, median over layers; ``variation``, standard deviation / mean over experts of one step, median over
    layers and steps.

    ``change`` and ``change_95``: median and 95th percentile over steps of the distance from the step before: the sum over
    experts of differences in share, 0 (the same) to 2 (no expert in common), mean over layers. ``sampling``: the median change
    that counts so small would show if every token picked independently and nothing changed. ``jumps``: steps with a change of
    more than twice the median. These four are nan, and jumps 0, where no two successive steps have load.
    """

    num_steps: int
    skew: float
    lasting_skew: float
    variation: float
    change: float
    change_95: float
    sampling: float
    jumps: int


def describe(trace: LoadTrace | LoadStream) -> TraceCharacter:
    """Describe a trace or stream; it is read once, step by step. Layers without load are left out of every figure.

    Examples
    --------
    >>> character = describe(LoadTrace([[[30, 10]], [[10, 30]], [[10, 30]]]))
    >>> character.skew, round(character.lasting_skew, 3), character.change
    (1.5, 1.167, 0.5)
    """
    skews, variations, changes, samplings = [], [], [], []
    total: Any = 0.0
    before, num_steps = None, 0
    for step in trace.load if isinstance(trace, LoadTrace) else trace:
        load = step.astype(np.float64)
        total = total + load
        num_steps += 1
        busy = load[load.any(axis=1)]
        skews.append(_hottest(busy))
        variations.append(busy.std(axis=1) / busy.mean(axis=1))
        if before is not None and (both := before.any(axis=1) & load.any(axis=1)).any():
            changes.append(_change(before[both], load[both]))
            samplings.append(_sampling(before[both], load[both]))
        before = load
    lasting = np.asarray(total)
    change = _median(changes)
    return TraceCharacter(
        num_steps=num_steps,
        skew=_median(np.concatenate(skews)),
        lasting_skew=_median(_hottest(lasting[lasting.any(axis=1)])),
        variation=_median(np.concatenate(variations)),
        change=change,
        change_95=float(np.percentile(changes, 95)) if changes else math.nan,
        sampling=_median(samplings),
        jumps=int((np.array(changes) > 2 * change).sum()),
    )


def _hottest(load: _Floats) -> _Floats:
    return np.asarray(load.max(axis=1) / load.mean(axis=1))


def _change(before: _Floats, load: _Floats) -> float:
    return float(np.abs(_normed(load) - _normed(before)).sum(axis=1).mean())


def _sampling(before: _Floats, load: _Floats) -> float:
    """Mean distance of two independent samples of these sizes from what both have in common (normal approximation)."""
    sizes = before.sum(axis=1, keepdims=True), load.sum(axis=1, keepdims=True)
    share = _normed(before + load)
    variance = share * (1 - share) * (1 / sizes[0] + 1 / sizes[1])
    return float(np.minimum(np.sqrt(variance * 2 / math.pi), 2 * share).sum(axis=1).mean())


def _median(values: Any) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _as_number(name: str, value: object, least: float, most: float) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise ArgumentError(f"{name} is {value!r}", f"it must be a number from {least:g} to {most:g}", "give such a number")
    return float(value)  # type: ignore[arg-type]


def _as_skew(given: object) -> tuple[float, float]:
    if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, str) or len(given) != 2:
        raise ArgumentError(f"skew is {given!r}", "it must be two numbers, lowest and highest", "give (0.5, 0.5) for one skew")
    low, high = (_as_number(f"skew[{i}]", given[i], 0.0, 100.0) for i in range(2))
    if low > high:
        raise ArgumentError(f"skew is {(low, high)}", "the lowest must not be above the highest", "swap them")
    return low, high


def _as_domains(given: object) -> tuple[str, ...]:
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ArgumentError(
            f"domains is {given!r}", "it must be a sequence of different names, none empty", "give one name a domain"
        )
    return names


STEADY_DECODE = TrafficSettings(
    tokens=370, top_k=4, skew=(0.4, 0.9), drift=0.03, drift_steps=100, domains=("decode",), noise=0.5
)
"""A batch that goes on decoding, step by step: made to look like gpt-oss-20b's decode steps (docs/traces.md)."""

CHANGING_DOMAINS = TrafficSettings(
    tokens=23_500,
    top_k=8,
    skew=(0.5, 1.2),
    drift=0.05,
    drift_steps=8,
    domains=("code", "web", "chat", "math", "news", "books"),
    domain_steps=8,
    shared=0.35,
    noise=50,
)
"""Windows of text of one domain after the other: made to look like GLM-5.2's."""

BURSTY = TrafficSettings(
    tokens=300,
    top_k=4,
    skew=(0.6, 1.1),
    drift=0.5,
    drift_steps=4,
    burst_probability=0.03,
    burst_size=30,
    burst_steps=2,
    burst_experts=4,
    domains=("requests",),
    noise=8,
)
"""One request a step, some of them far from the others: made to look like gpt-oss-20b's single requests."""
