"""Plans whose bytes are recorded: prints their hashes; `--write` records, `--compiled` and `--assembly` say what compiles."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
import sys
from pathlib import Path

import numba
import numpy as np
from numba.core import event

import equipoise.kernels
from equipoise import (
    Cluster,
    Constraints,
    LoadTrace,
    MoveBudget,
    RankCost,
    balanced_packing,
    dispatch,
    explain,
    plan,
    plan_batch,
    rebalance_experts,
    relabel,
    simulate,
)
from equipoise.migrating.scheduling import schedule_moves
from equipoise.planning.published import CONSTRUCTORS, REFINERS
from equipoise.simulating.rules import BATCH, SPLITS
from equipoise.simulating.warming import warm_up

FILE = Path(__file__).with_name("golden.json")
FUSED = re.compile(r"\bv?fn?m(?:add|sub|la|ls)\w*", re.IGNORECASE)


def synthetic(layers: int, experts: int, power: int, step: int) -> np.ndarray:
    """Return loads made with integers alone, so that they are the same everywhere: uneven, with many ties in layer 0."""
    place = (np.arange(layers)[:, np.newaxis] * 7919 + np.arange(experts) * step) % 1009
    load = place**power + 1
    load[0] = place[0] % 5
    return load


def hashes() -> dict[str, str]:
    """Return a hash of every recorded plan."""
    trace = LoadTrace.example()
    small, large = synthetic(6, 64, 2, 331), synthetic(4, 256, 3, 577)
    strict = {"num_groups": 8, "locality": "strict"}
    arrays = {
        "example none": plan(trace, Cluster(8, 5)).placement.expert_of_slot,
        "example strict": plan(trace, Cluster(8, 5, 4), **strict).placement.expert_of_slot,
        "small none": plan(small, Cluster(8, 9)).placement.expert_of_slot,
        "small no spare": plan(small, Cluster(8, 8)).placement.expert_of_slot,
        "large none": plan(large, Cluster(32, 9)).placement.expert_of_slot,
        "large strict": plan(large, Cluster(32, 9, 4), **strict).placement.expert_of_slot,
        "large shares": plan(large / 7.0, Cluster(16, 20)).placement.expert_of_slot,
        "fast": plan(large, Cluster(32, 9), effort="fast").placement.expert_of_slot,
        "best": plan(small, Cluster(16, 5), effort="best").placement.expert_of_slot,
        "two slots, default": plan(small, Cluster(36, 2)).placement.expert_of_slot,
        "two slots, best": plan(small, Cluster(36, 2), effort="best").placement.expert_of_slot,
        "toy": plan([[600, 560, 120, 120, 20, 10, 10, 10]], Cluster(8, 2)).placement.expert_of_slot,
        "unequal": plan(small, Cluster(8, (9, 10) * 4, rank_speeds=[1, 2] * 4)).placement.expert_of_slot,
        "down": plan(small, Cluster(8, 10, alive=[True] * 7 + [False])).placement.expert_of_slot,
        "soft": plan(
            small, Cluster(8, 9, 4), num_groups=8, locality="soft", constraints=Constraints(home_share=0.95)
        ).placement.expert_of_slot,
        "active": plan(small // 4000, Cluster(8, 9), cost=RankCost(per_active=2.0)).placement.expert_of_slot,
        "zero": plan(np.zeros((2, 16)), Cluster(4, 6)).placement.expert_of_slot,
        "auto": plan(trace, Cluster(8, 5), forecast="auto").placement.expert_of_slot,
        "robust": plan(trace, Cluster(8, 5), forecast="robust:8").placement.expert_of_slot,
        "several, strict": plan(
            trace.last(4), Cluster(8, 6, 4), forecast="steps", **strict, effort="best"
        ).placement.expert_of_slot,
        "drop-in": rebalance_experts(large, 288, 8, 4, 32)[0],
        **batches(trace, large),
        **continued(trace, large),
    }
    for refine in (None, "swap", "reconstruct"):
        for constructor in ("shuffle", "ensemble"):
            packs = balanced_packing(small, 8, constructor=constructor, candidates=24, refine=refine, noise=0.2, seed=3)
            arrays[f"{constructor}, {refine}"] = packs[0]
    return {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16] for name, array in arrays.items()}


def batches(trace: LoadTrace, large: np.ndarray) -> dict[str, np.ndarray]:
    """Return plans for dispatch, and tokens and replicas of batches that they do not know."""
    uneven = Cluster(32, 9, rank_speeds=[1, 2] * 16)
    seen = plan(trace.load[:-1], Cluster(8, 5), forecast="auto", dispatch="optimal").placement
    ours, other = plan(large, Cluster(32, 9), dispatch="optimal").placement, plan(large, uneven, dispatch="optimal").placement
    unseen = np.ascontiguousarray(large[:, ::-1])
    home = plan(large, Cluster(32, 8, 4)).placement
    one, two = plan_batch(unseen, home), plan_batch(unseen, home, 2, gain_per_move=0.003)
    held = plan_batch(large, home, held=one.placement)
    return {
        "planned for dispatch": ours.expert_of_slot,
        "planned for dispatch, unequal": other.expert_of_slot,
        "planned for dispatch, windows": seen.expert_of_slot,
        "dispatch": dispatch(unseen, ours).tokens,
        "dispatch, unequal": dispatch(unseen, other).tokens,
        "dispatch, example": dispatch(trace.load[-1], seen).tokens,
        "batch": np.stack([one.placement.expert_of_slot, one.source, one.tokens]),
        "batch, two spare": np.stack([two.placement.expert_of_slot, two.source, two.tokens]),
        "batch, held": np.stack([held.placement.expert_of_slot, held.source, held.tokens]),
    }


def continued(trace: LoadTrace, large: np.ndarray) -> dict[str, np.ndarray]:
    """Return plans made from the placement before, and the steps of a schedule."""
    cluster = Cluster(32, 9, 4)
    in_use, unlike = plan(large, cluster).placement, np.ascontiguousarray(large[:, ::-1])
    few = plan(unlike, cluster, previous=in_use, max_moves=8)
    total = plan(unlike, cluster, previous=in_use, budget=MoveBudget(total=40, gain_per_move=0.001))
    free = plan(unlike, cluster).placement
    fewer = Cluster(32, 9, 4, alive=[True] * 31 + [False])
    steps = schedule_moves(in_use, few.placement, staging=2)
    old = plan(trace.load[0], Cluster(8, 5)).placement
    seen = plan(trace, old.cluster, previous=old, forecast="auto", dispatch="optimal")
    twice = plan(large, cluster, constraints=Constraints(min_replicas=2, hottest=0.05, spread="nodes"))
    return {
        "from before, 8 moves": few.placement.expert_of_slot,
        "from before, 40 in all": total.placement.expert_of_slot,
        "from before, a rank down": plan(large, fewer, previous=in_use).placement.expert_of_slot,
        "from before, for dispatch": seen.placement.expert_of_slot,
        "relabelled": relabel(free, in_use).expert_of_slot,
        "least replicas": twice.placement.expert_of_slot,
        "schedule": np.stack([steps.layer, steps.round, steps.source, steps.target]),
    }


def replays() -> None:
    """Replay under every dispatch rule, with every kind of forecast; explain; pack in every way."""
    load = synthetic(2, 64, 2, 331).reshape(4, 2, 16)
    policies = ["last", "mean:2", "auto", "robust:2", "last,planner=lpt", "last,groups=4,locality=strict"]
    simulate(load, Cluster(4, 5, 2), ["auto,planned_for=optimal", "robust:2,planned_for=optimal"], dispatch="optimal")
    for rule in (*SPLITS, f"{BATCH}:1"):
        simulate(load, Cluster(4, 5, 2), policies, dispatch=rule)
    simulate(load, Cluster(4, 5, 2), ["last,moves=4", "auto,gain=0.01,planned_for=optimal,dispatch=optimal", "controller"])
    explain(load, Cluster(4, 5, 2), policies, levels=["rank", "slot"])
    for constructor in CONSTRUCTORS:
        for refine in (None, *REFINERS):
            balanced_packing(load[0], 8, constructor=constructor, refine=refine, candidates=5)


def compiled() -> dict[str, object]:
    """Warm up, plan and replay; return how much was compiled when, and what was left to compile after warming up."""
    with event.install_recorder("numba:compile") as warming:
        warm_up(everything=True)
    with event.install_recorder("numba:compile") as working:
        hashes()
        replays()
    left = sorted({entry.data["dispatcher"].py_func.__name__ for _, entry in working.buffer})
    return {"warming": len(warming.buffer), "left": left}


def fused_instructions() -> dict[str, object]:
    """Return what the compiled kernels hold of fused multiply-adds, and how much was looked at."""
    kernels, instructions, fused = 0, 0, set()
    for module in pkgutil.iter_modules(equipoise.kernels.__path__, "equipoise.kernels."):
        for function in vars(importlib.import_module(module.name)).values():
            for assembly in getattr(function, "inspect_asm", dict)().values():
                kernels += 1
                instructions += assembly.count("\n")
                fused.update(FUSED.findall(assembly))
    control = numba.njit(fastmath=True)(lambda x: x[0] * x[1] + x[2])
    control(np.ones(3))
    found = FUSED.findall("".join(control.inspect_asm().values()))
    return {"kernels": kernels, "instructions": instructions, "fused": sorted(fused), "control": found}


if __name__ == "__main__":
    if "--assembly" in sys.argv:
        print(json.dumps({**compiled(), **fused_instructions()}))
    elif "--compiled" in sys.argv:
        print(json.dumps(compiled()))
    elif "--write" in sys.argv:
        FILE.write_text(json.dumps(hashes(), indent=2) + "\n")
    else:
        print(json.dumps(hashes()))
