"""The engines' own figures of balance, by name, from the tokens of each rank.

Every figure is computed from ``rank_load``, float64 [steps, layers, ranks]: tokens that each rank got, in order of time. A step
is one forward pass where the load was recorded pass by pass; where it is a window of many, figures that engines take of each
pass come out better than the engine would print them, since windows hide bursts.

:func:`rank_loads` makes ``rank_load`` from a load of experts and a placement, replicas served evenly; engines count what ranks
really got.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.checks import check_integer
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats
from equipoise.placement import ABSENT, Placement
from equipoise.trace import LoadTrace

_SGLANG_EPSILON = 1e-5
SGLANG_WINDOWS = (10, 100, 1000)
"""Passes over which SGLang averages its figure."""


def rank_loads(trace: LoadTrace, placement: Placement) -> Floats:
    """Return the tokens of each rank that is up, replicas served evenly: float64 [steps, layers, ranks].

    Takes O(steps x layers x slots) time, and O(steps x slots) memory beside the result.

    Raises
    ------
    ArgumentError
        When load and placement are of different layers or experts.

    Examples
    --------
    >>> from equipoise import Cluster
    >>> rank_loads(LoadTrace([[[6, 1, 4]]]), Placement([[0, 1, 0, 2]], Cluster(2, 2), 3)).tolist()
    [[[4.0, 7.0]]]
    """
    if (trace.num_layers, trace.num_experts) != (placement.num_layers, placement.num_experts):
        raise ArgumentError(
            f"load has {trace.num_layers} layers of {trace.num_experts} experts",
            f"this placement has {placement.num_layers} of {placement.num_experts}",
            "pass the load of the model it was planned for",
        )
    cluster = placement.cluster
    loads = np.zeros((trace.num_steps, trace.num_layers, cluster.num_ranks))
    for layer, expert in enumerate(placement.expert_of_slot):
        filled = np.flatnonzero(expert != ABSENT)
        ranks, first = np.unique(cluster.rank_of_slot[filled], return_index=True)
        if not filled.size:
            continue
        per_replica = trace.load[:, layer] / np.maximum(placement.replica_count[layer], 1)
        loads[:, layer, ranks] = np.add.reduceat(per_replica[:, expert[filled]], first, axis=1)
    return loads[:, :, np.flatnonzero(cluster.alive)]


def vllm(rank_load: npt.ArrayLike) -> float:
    """Return vLLM's ``balancedness``: sum over layers of the mean rank / sum of the largest, of each step; the mean over steps.

    1 is perfect; a step without any load counts 0, as vLLM prints it. Being a ratio of sums it hides a bad layer that is light.

    >>> vllm([[[4, 2], [2, 2]]])  # (3 + 2) / (4 + 2)
    0.8333333333333334
    """
    load = _checked(rank_load)
    mean, largest = load.mean(axis=2).sum(axis=1), load.max(axis=2).sum(axis=1)
    return float(np.divide(mean, largest, out=np.zeros_like(mean), where=largest > 0).mean())


def vllm_rocm(rank_load: npt.ArrayLike) -> float:
    """Return what vLLM's gate on ROCm weighs: largest / mean of the ranks' load, summed over steps and layers; 1 is perfect.

    It keeps the old placement where a new one lowers this by less than 5 %. Ranks that are busy in different layers cancel out.

    >>> vllm_rocm([[[4, 2], [2, 4]]])
    1.0
    """
    total = _checked(rank_load).sum(axis=(0, 1))
    return float(total.max() / total.mean()) if total.any() else 1.0


def sglang(rank_load: npt.ArrayLike, window: int | None = None, num_dense_layers: int = 0) -> float:
    """Return SGLang's ``eplb_balancedness``: mean over layers of (mean + 1e-5) / (largest + 1e-5), the mean over steps.

    1 is perfect. SGLang counts all hidden layers: dense ones have no load and count 1 each, as does any layer without load.

    Parameters
    ----------
    rank_load : [steps, layers, ranks]
        Tokens of each rank.
    window : int, optional
        Only the last so many steps, fewer where there are no more; SGLang keeps 10, 100 and 1000.
    num_dense_layers : int
        Layers of the model without experts that ``rank_load`` leaves out.

    Examples
    --------
    >>> round(sglang([[[4, 2], [2, 2]]]), 5), round(sglang([[[4, 2], [2, 2]]], num_dense_layers=2), 5)  # 1.75 / 2, 3.75 / 4
    (0.875, 0.9375)
    """
    load = _checked(rank_load)
    recent = load if window is None else load[-check_integer("window", window) :]
    shares = (recent.mean(axis=2) + _SGLANG_EPSILON) / (recent.max(axis=2) + _SGLANG_EPSILON)
    dense = check_integer("num_dense_layers", num_dense_layers, 0)
    return float(((shares.sum(axis=1) + dense) / (shares.shape[1] + dense)).mean())


def tensorrt_llm(rank_load: npt.ArrayLike) -> float:
    """Return TensorRT-LLM's ``imbalance-ratio``: of each layer the mean over steps of largest / mean - 1; the mean over layers.

    0 is perfect. Steps in which a layer has no load are left out, where TensorRT-LLM's script would print nan.

    >>> tensorrt_llm([[[4, 2], [2, 2]]])  # (1/3 + 0) / 2
    0.16666666666666663
    """
    ratio = _excess(_checked(rank_load)) - 1.0
    layers = [column[~np.isnan(column)] for column in ratio.T]
    means = [float(column.mean()) for column in layers if column.size]
    return sum(means) / len(means) if means else 0.0


def vllm_ascend(rank_load: npt.ArrayLike, *, largest: bool = False) -> float:
    """Return vllm-ascend's hotness imbalance: of each layer's load over all steps largest / mean; the mean over layers.

    Or, with ``largest``, that of the worst layer. 1 is perfect. Layers without load are left out.

    >>> vllm_ascend([[[4, 2], [2, 2]]]), vllm_ascend([[[4, 2], [2, 2]]], largest=True)
    (1.1666666666666665, 1.3333333333333333)
    """
    found = _excess(_checked(rank_load).sum(axis=0))
    busy = found[~np.isnan(found)]
    if not busy.size:
        return 1.0
    return float(busy.max() if largest else busy.mean())


def equipoise(rank_load: npt.ArrayLike) -> float:
    """Return our balancedness (docs/semantics.md, 5) of the load over all steps: sum of means / sum of largest; 1 is perfect.

    >>> equipoise([[[4, 2], [2, 2]]])
    0.8333333333333334
    """
    load = _checked(rank_load).sum(axis=0)
    return metrics.balancedness(load.max(axis=1), load.mean(axis=1))


@dataclass(frozen=True)
class Formula:
    """An engine's figure: ``compute`` [steps, layers, ranks], ``perfect`` its best value, ``says`` what it is in words."""

    name: str
    perfect: float
    says: str
    compute: Callable[[Floats], float]


def formulas(num_dense_layers: int = 0) -> dict[str, Formula]:
    """Return every formula by name; ``num_dense_layers`` of the model count in SGLang's.

    >>> sorted(formulas())[:3]
    ['equipoise', 'sglang', 'sglang-10']
    """
    of_passes = "mean over layers of mean/max rank, mean over"
    listed = [
        Formula("equipoise", 1.0, "sum over layers of mean / sum of max rank, all steps added up", equipoise),
        Formula("vllm", 1.0, "sum over layers of mean / sum of max rank, mean over steps", vllm),
        Formula("vllm-rocm", 1.0, "max/mean rank of the load over all layers and steps", vllm_rocm),
        Formula("sglang", 1.0, f"{of_passes} steps", partial(sglang, num_dense_layers=num_dense_layers)),
        *(
            Formula(
                f"sglang-{window}",
                1.0,
                f"{of_passes} the last {window} steps",
                partial(sglang, window=window, num_dense_layers=num_dense_layers),
            )
            for window in SGLANG_WINDOWS
        ),
        Formula("tensorrt-llm", 0.0, "max/mean rank - 1, mean over steps, then over layers", tensorrt_llm),
        Formula("vllm-ascend", 1.0, "max/mean rank, all steps added up, mean over layers", vllm_ascend),
        Formula("vllm-ascend-max", 1.0, "max/mean rank, all steps added up, worst layer", partial(vllm_ascend, largest=True)),
    ]
    return {formula.name: formula for formula in listed}


def _checked(rank_load: npt.ArrayLike) -> Floats:
    load = np.asarray(rank_load, np.float64)
    if load.ndim != 3 or not load.size:
        raise ArgumentError(
            f"rank_load has shape {list(load.shape)}", "it must be [steps, layers, ranks], none of them 0", "use rank_loads()"
        )
    return load


def _excess(load: Floats) -> Floats:
    """Return largest / mean over the last axis; nan where there is no load."""
    mean = load.mean(axis=-1)
    found: Floats = np.divide(load.max(axis=-1), mean, out=np.full(mean.shape, np.nan), where=mean > 0)
    return found
