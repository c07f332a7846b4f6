"""The loads of the race: recorded ones from a folder, and seeded synthetic ones that drift."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.peers.shapes import HEADLINE, STRICT, Shape

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("EQUIPOISE_LOADS", ROOT.parent / "shared" / "data" / "expert-load"))

FEW_GLM = (2, 3, 18, 19, 34, 35)
"""The windows on which the hard shapes were first measured."""
FEW_GPT_OSS = tuple(range(12))

SEED = 20260301
SYNTHETIC_LAYERS = 8
SYNTHETIC_WINDOWS = 5
SCALE_LAYERS = 60
TOKENS_PER_EXPERT = 512
DRIFT = 0.1

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Load:
    """Windows of a load and which of them are planned; what comes after a planned one scores it out of sample.

    Parameters
    ----------
    name : str
        Unique within a shape.
    windows : int64 [windows, layers, experts]
        Tokens.
    planned : tuple of int
        Windows to plan, in rising order.
    is_recorded : bool
        Whether it was measured on a model.
    """

    name: str
    windows: Ints
    planned: tuple[int, ...]
    is_recorded: bool = False

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.windows.shape[1])

    def following(self, window: int) -> Ints | None:
        """Return the load that came after a window, None after the last."""
        return self.windows[window + 1] if window + 1 < len(self.windows) else None

    def shortened(self, planned: int) -> Load:
        """Plan the first few windows only."""
        return replace(self, planned=self.planned[:planned])


def _zipf(exponent: float) -> Callable[[np.random.Generator, int], npt.NDArray[np.float64]]:
    return lambda rng, experts: rng.permutation(np.arange(1, experts + 1) ** -exponent)


POPULARITY: dict[str, Callable[[np.random.Generator, int], npt.NDArray[np.float64]]] = {
    "zipf-0.6": _zipf(0.6),
    "zipf-1.0": _zipf(1.0),
    "zipf-1.2": _zipf(1.2),
    "dirichlet-0.3": lambda rng, experts: rng.dirichlet(np.full(experts, 0.3)),
    "dirichlet-1": lambda rng, experts: rng.dirichlet(np.full(experts, 1.0)),
    "lognormal": lambda rng, experts: rng.lognormal(0.0, 1.0, experts),
}
"""How popular the experts of a layer are, by the name of the synthetic load."""


def synthetic(name: str, experts: int, layers: int = SYNTHETIC_LAYERS, windows: int = SYNTHETIC_WINDOWS) -> Load:
    """Return a load drawn anew for each layer, whose popularity then wanders slowly from window to window.

    Every layer of every window has the same tokens, as behind a router of fixed top-k.
    """
    rng = np.random.default_rng([SEED, experts, list(POPULARITY).index(name)])
    popularity = np.stack([POPULARITY[name](rng, experts) for _ in range(layers)])
    drawn = np.empty((windows, layers, experts), np.int64)
    for window in range(windows):
        popularity = np.maximum(popularity, 1e-9) * np.exp(DRIFT * rng.standard_normal(popularity.shape))
        shares = popularity / popularity.sum(axis=1, keepdims=True)
        drawn[window] = rng.multinomial(TOKENS_PER_EXPERT * experts, shares)
    return Load(name, drawn, tuple(range(windows - 1)))


def _read(*parts: str) -> Ints:
    with np.load(FOLDER.joinpath(*parts), allow_pickle=False) as archive:
        load: npt.NDArray[Any] = archive["load"]
    return np.ascontiguousarray(load, np.int64)


def _glm(shape: Shape) -> Load:
    windows = _read("glm52-reap-saliency", "glm52_6domains.npz")
    planned = tuple(range(len(windows))) if shape in (HEADLINE, STRICT) else FEW_GLM
    return Load("GLM", windows, planned, is_recorded=True)


def _gpt_oss(_: Shape) -> Load:
    steps = _read("gpt-oss-20b-decode", "gptoss20b_decode_steps.npz")
    whole = steps[: len(steps) // 16 * 16]
    return Load("gpt-oss", whole.reshape(-1, 16, *steps.shape[1:]).sum(axis=1), FEW_GPT_OSS, is_recorded=True)


def _by_domain(name: str, file: str) -> Callable[[Shape], Load]:
    def read(_: Shape) -> Load:
        windows = _read("olmoe-routing-analysis", file)
        return Load(name, windows, tuple(range(len(windows))), is_recorded=True)

    return read


RECORDED: dict[int, tuple[str, Callable[[Shape], Load]]] = {
    256: ("GLM", _glm),
    32: ("gpt-oss", _gpt_oss),
    64: ("OLMoE", _by_domain("OLMoE", "olmoe_1b7b_base_6domains.npz")),
    8: ("Mixtral", _by_domain("Mixtral", "mixtral_8x7b_5domains.npz")),
}
"""The recorded load of each expert count."""

NAMES = (*(name for name, _ in RECORDED.values()), *POPULARITY)


def loads_for(shape: Shape, names: tuple[str, ...] = NAMES) -> list[Load]:
    """Return the loads with as many experts as a shape has, recorded ones first.

    Raises
    ------
    FileNotFoundError
        When a recorded load is not in the folder.
    """
    if shape.is_scale:
        return [synthetic("zipf-1.0", shape.experts, SCALE_LAYERS, windows=3)] if "zipf-1.0" in names else []
    recorded, read = RECORDED.get(shape.experts, ("", None))
    found = [read(shape)] if read is not None and recorded in names else []
    return found + [synthetic(name, shape.experts) for name in POPULARITY if name in names]
