"""A plan is a pure function of load, cluster, parameters and seed: any thread, process, layer order, CPU (semantics 8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest

import golden
from equipoise import Cluster, plan, rebalance_experts

EXPECTED = json.loads((Path(__file__).parents[1] / "golden.json").read_text())


def test_golden_hashes():
    """Plans are those of the last deliberate change; `python tests/golden.py --write` records a new one."""
    assert golden.hashes() == EXPECTED


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_change_nothing(skewed, threads):
    """Any number of threads, more than layers too, gives the same bytes and figures."""
    strict = {"num_groups": 8, "locality": "strict"}
    two = Cluster(40, 2), {"effort": "best"}
    for cluster, options in ((Cluster(8, 9), {}), (Cluster(8, 9, 4), strict), (Cluster(8, 9), {"effort": "fast"}), two):
        one = plan(skewed, cluster, **options)
        many = plan(skewed, cluster, num_threads=threads, **options)
        assert one.placement.expert_of_slot.tobytes() == many.placement.expert_of_slot.tobytes()
        assert one.bound.tobytes() == many.bound.tobytes()
        assert one.largest.tobytes() == many.largest.tobytes()


def test_layers_are_planned_by_content_not_by_place(skewed):
    """Shuffled layers give the same rows, shuffled."""
    order = [3, 1, 5, 0, 4, 2]
    straight = plan(skewed, Cluster(8, 9)).placement.expert_of_slot
    assert np.array_equal(plan(skewed[order], Cluster(8, 9)).placement.expert_of_slot, straight[order])
    calls = [rebalance_experts(load, 72, 8, 4, 8)[0] for load in (skewed, skewed[order])]
    assert np.array_equal(calls[1], calls[0][order])


class Process:
    """The golden plans in a process of its own, started at once and waited for when asked."""

    def __init__(self, folder, *arguments, **environment):
        command = [sys.executable, "-W", "error", str(Path(golden.__file__)), *arguments]
        env = {**os.environ, "PYTHONHASHSEED": "random", **environment}
        self.running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=folder)

    def answer(self):
        """Wait, and return what it printed."""
        out, _ = self.running.communicate(timeout=300)
        assert self.running.returncode == 0
        return json.loads(out)


@pytest.mark.compiled
def test_another_process_gives_the_same(tmp_path):
    """Nothing depends on the process."""
    assert Process(tmp_path).answer() == EXPECTED


@pytest.mark.machines
@pytest.mark.compiled
def test_a_generic_cpu_gives_the_same(tmp_path):
    """Kernels compiled without this CPU's vector units and fused multiply-add give the same plans."""
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert Process(tmp_path, **generic).answer() == EXPECTED


@pytest.mark.compiled
def test_numpy_without_vector_units_gives_the_same(tmp_path):
    """Numpy's own choice of instructions, which orders ties in its default sort, changes nothing."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    present = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not present:
        pytest.skip("this numpy dispatches on no feature of this CPU")
    assert Process(tmp_path, NPY_DISABLE_CPU_FEATURES=" ".join(present)).answer() == EXPECTED


@pytest.mark.slow
@pytest.mark.compiled
def test_nothing_is_left_to_compile(tmp_path):
    """After `equipoise warmup`, whatever is asked for."""
    assert Process(tmp_path, "--compiled").answer()["left"] == []


@pytest.mark.machines
@pytest.mark.compiled
def test_kernels_compiled_anew(tmp_path):
    """Warming up leaves nothing to compile, whatever is asked for, and the next process finds every kernel on disk.

    None holds a fused multiply-add: these round once instead of twice, so results would differ from machine to machine.
    """
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (Process(tmp_path, what, **cache).answer() for what in ("--assembly", "--compiled"))
    assert first["warming"] > 0
    assert first["left"] == []
    assert (second["warming"], second["left"]) == (0, [])
    assert first["kernels"] > 10
    assert first["instructions"] > 1000
    assert first["fused"] == []
    if llvmlite.binding.get_host_cpu_features().get("fma"):
        assert first["control"], "a fused kernel is not recognised, so this test could not fail"
