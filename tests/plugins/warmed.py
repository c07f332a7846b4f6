"""Warms up as a plug-in does, answers calls of many kinds, and prints what it compiled; its argument are settings, as JSON."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from itertools import product

import numpy as np
from numba.core import event

import equipoise.kernels
from equipoise.plugins.deciding import Call, decide
from equipoise.plugins.settings import Settings
from equipoise.plugins.warming import warm_up


def calls(settings: Settings):
    """Return calls that engines make: with and without load, of other widths, with empty slots, on one rank or two slots."""
    tokens = (np.arange(3 * 32).reshape(3, 32) * 7919) % 1009
    load = {"counted": tokens, "weighed": tokens / 7.0, "none": tokens * 0, "dense": tokens * np.array([[0], [1], [1]])}
    has_nodes = settings.locality in ("soft", "strict")
    shapes = (
        [(40, 8, 4, 8), (32, 8, 4, 4)]
        if has_nodes
        else [(40, 8, 4, 8), (32, 8, 1, 1), (32, 1, 1, 1), (40, 20, 1, 1), (64, 2, 1, 1)]
    )
    for tokens, (slots, ranks, nodes, groups) in product(load.values(), shapes):
        windows = None
        if settings.forecast is not None and tokens.any():
            windows = np.stack([tokens, tokens[:, ::-1], tokens])
        first = np.tile(np.arange(slots) % 32, (3, 1))
        missing = np.where(np.arange(slots) < 32, first, -1)
        wider = np.pad(first, ((0, 0), (0, slots // ranks)), constant_values=-1)
        for in_use, is_hierarchical in product((None, first, missing, wider), (False, True)):
            yield Call(tokens, slots, ranks, nodes, groups, is_hierarchical, in_use, windows=windows)
        if not has_nodes and ranks == 8 and slots == 40:
            yield Call(tokens, slots, ranks, nodes, groups, False, first, (True,) * 7 + (False,), windows)


def signatures() -> set[str]:
    """Return what kernels were called with so far: each needs compiling once a machine, and loading once a process."""
    found = set()
    for module in pkgutil.iter_modules(equipoise.kernels.__path__, "equipoise.kernels."):
        for name, function in vars(importlib.import_module(module.name)).items():
            found.update(f"{name}{signature}" for signature in getattr(function, "signatures", ()))
    return found


def main() -> None:
    """Print how many kernels were compiled while warming up, and which were first needed after it."""
    settings = Settings(**json.loads(sys.argv[1]))
    with event.install_recorder("numba:compile") as warming:
        warm_up(settings)
    known = signatures()
    for call in calls(settings):
        decide(call, settings)
    print(json.dumps({"warming": len(warming.buffer), "known": len(known), "left": sorted(signatures() - known)}))


if __name__ == "__main__":
    main()
