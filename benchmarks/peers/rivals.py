"""The rivals: who runs, and how each is called with its best settings.

A *maker* runs in the rival's own process and returns its *caller*; a caller gets everything ready for one load outside the
timed path and returns the timed call and what turns its result into ``expert_of_slot``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.peers import loading, tensorrt
from benchmarks.peers.shapes import Shape

Ints = npt.NDArray[np.int64]
Prepared = tuple[Callable[[], Any], Callable[[Any], Ints]]
Caller = Callable[[Ints, Shape, Ints], Prepared]
"""(load [layers, experts], shape, previous expert_of_slot) -> (the timed call, its result as expert_of_slot)."""

OURS = "equipoise "
DEFAULT = OURS + "default"


@dataclass(frozen=True)
class Rival:
    """Who runs.

    Parameters
    ----------
    name : str
        As printed.
    make : callable
        Folder with the peer's files (None for ours) -> caller.
    distribution : str, optional
        Of the wheel it comes from.
    keeps_groups : bool
        Whether it has the group rule; others are refused where that is asked for.
    is_timed : bool
        Twins are not.
    is_slow : bool
        Whether it plans only a few layers where shapes are large.
    needs_bounds_checks : bool
        Whether numba checks every index, in a compile cache of its own.
    """

    name: str
    make: Callable[[Path | None], Caller]
    distribution: str | None = None
    keeps_groups: bool = True
    is_timed: bool = True
    is_slow: bool = True
    needs_bounds_checks: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is an effort of our own."""
        return self.name.startswith(OURS)


def initial_placement(shape: Shape, layers: int) -> Ints:
    """Return what engines start from: experts in order, then the first ones again."""
    return np.tile(np.arange(shape.slots, dtype=np.int64) % shape.experts, (layers, 1))


def ours(effort: str) -> Rival:
    """Return one of our efforts."""
    return Rival(OURS + effort, EffortMaker(effort), is_slow=False)


@dataclass(frozen=True)
class EffortMaker:
    """Makes the caller of an effort: the whole of ``plan()``, bound included, one thread."""

    effort: str

    def __call__(self, _: Path | None) -> Caller:
        """Return the caller."""
        from equipoise import plan

        def caller(load: Ints, shape: Shape, _: Ints) -> Prepared:
            cluster = shape.cluster()
            locality = "strict" if shape.is_strict else "none"
            options = {"num_groups": shape.groups, "locality": locality, "effort": self.effort, "num_threads": 1}
            return lambda: plan(load, cluster, **options), lambda result: result.placement.expert_of_slot

        return caller


def vllm(folder: Path | None) -> Caller:
    """Call vLLM's policy, without the old placement: that only reorders slots within ranks, and takes time."""
    import torch

    policy = loading.vllm(_given(folder))

    def caller(load: Ints, shape: Shape, _: Ints) -> Prepared:
        weight = torch.from_numpy(load.copy())
        given = weight, shape.slots, shape.groups, shape.nodes, shape.ranks
        return lambda: policy.rebalance_experts(*given), lambda result: result.numpy()

    return caller


@dataclass(frozen=True)
class SglangMaker:
    """Makes the caller of one of SGLang's algorithms, hierarchical where groups stay whole."""

    algorithm: str

    def __call__(self, folder: Path | None) -> Caller:
        """Return the caller."""
        import torch

        algorithms = loading.sglang(_given(folder))

        def caller(load: Ints, shape: Shape, _: Ints) -> Prepared:
            steps = torch.from_numpy(load[np.newaxis].copy())
            name = self.algorithm + ("_hierarchical" if shape.is_strict else "")
            given = steps, shape.slots, shape.slots_per_rank, shape.groups, shape.nodes, algorithms.EplbAlgorithm[name]
            return lambda: algorithms.rebalance_experts(*given), lambda result: result[0].numpy()

        return caller


def elasticity_aware(folder: Path | None) -> Caller:
    """Call SGLang's planner for elastic ranks, all of them up: its entry point would ask an engine for the mask."""
    import torch

    planner = loading.sglang(_given(folder)).elasticity_aware

    def caller(load: Ints, shape: Shape, _: Ints) -> Prepared:
        up = torch.ones(shape.ranks, dtype=torch.int32)
        given = torch.from_numpy(load.copy()), shape.slots, shape.groups, shape.nodes, shape.ranks, shape.is_strict, up
        return lambda: planner.rebalance_experts(*given), lambda result: result[0].numpy()

    return caller


@dataclass(frozen=True)
class AscendMaker:
    """Makes the caller of one of vllm-ascend's policies, which start from the placement in force.

    A load may have several windows, [windows, layers, experts]: FlashLB takes them as the stages of one call, all counted under
    the placement in force. ``keeps_policy`` leaves its object alive between calls, as an engine's worker does, which lets it
    keep a layer as it is; its notes have room for as many stages as its first call had, so other shapes get another object.
    """

    module: str
    policy: str
    keeps_policy: bool = False

    def __call__(self, folder: Path | None) -> Caller:
        """Return the caller."""
        import torch

        make = getattr(loading.vllm_ascend(_given(folder), self.module), self.policy)
        kept: dict[tuple[int, ...], Any] = {}

        def caller(load: Ints, shape: Shape, previous: Ints) -> Prepared:
            loading.pretend_devices(shape.ranks)
            folded = *load.shape[:-1], shape.ranks, shape.slots_per_rank
            table = torch.from_numpy(previous.reshape(folded[-3:]).copy())
            counted = slot_load(load, previous) if load.ndim == 2 else np.stack([slot_load(one, previous) for one in load])
            workload = torch.from_numpy(counted.reshape(folded))
            policy = kept.get(load.shape) or make()  # a fresh one: FlashLB's history would let it keep a layer as it is
            if self.keeps_policy:
                kept.clear()
                kept[load.shape] = policy
            flat = load.shape[-2], shape.slots
            return lambda: policy.rebalance_experts(table, workload), lambda found: np.asarray(found[2]).reshape(flat)

        return caller


def slot_load(load: Ints, expert_of_slot: Ints) -> Ints:
    """Return what each slot would have counted: its expert's tokens split evenly, the rest to its first replicas."""
    tokens = np.take_along_axis(load, expert_of_slot, axis=1)
    same = expert_of_slot[:, :, np.newaxis] == expert_of_slot[:, np.newaxis, :]
    replicas = same.sum(axis=2)
    nth = np.tril(same, -1).sum(axis=2)
    return np.ascontiguousarray(tokens // replicas + (nth < tokens % replicas))


def tensorrt_twin(_: Path | None) -> Caller:
    """Call the twin of TensorRT-LLM's rule."""
    return lambda load, shape, _: (lambda: tensorrt.place(load, shape.slots, shape.ranks), lambda result: result)


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("this rival needs the files of its wheel")
    return folder


PEERS = (
    Rival("vLLM default", vllm, "vllm", is_slow=False),
    Rival("SGLang deepseek", SglangMaker("deepseek"), "sglang"),
    Rival("SGLang deepseek_vec", SglangMaker("deepseek_vec"), "sglang"),
    Rival("SGLang elasticity_aware", elasticity_aware, "sglang"),
    Rival("vllm-ascend default", AscendMaker("policy_default_eplb", "DefaultEplb"), "vllm-ascend", keeps_groups=False),
    Rival("SwiftBalancer", AscendMaker("policy_swift_balancer", "SwiftBalanceEplb"), "vllm-ascend", keeps_groups=False),
    Rival("FlashLB", AscendMaker("policy_flashlb", "FlashLB"), "vllm-ascend", keeps_groups=False, needs_bounds_checks=True),
    Rival("TensorRT-LLM twin", tensorrt_twin, keeps_groups=False, is_timed=False),
)


def all_rivals() -> tuple[Rival, ...]:
    """Return our efforts, as many as this version has, then the peers."""
    from equipoise.planning.planner import EFFORTS

    return (*(ours(effort) for effort in EFFORTS), *PEERS)
