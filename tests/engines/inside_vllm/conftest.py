"""Puts vLLM's own modules into this process, from its wheel.

Each off the policy's path:

- ``cuda_communicator``: collectives on CUDA devices; ``eplb_state`` imports it for elastic groups, gloo carries them here.
- ``models.interfaces``: every model's layers; ``eplb_state`` takes from it the name of a type for annotations.
- The plug-in's own look at the platform, which is a CPU here.
- ``torch.Event``: times a rearrangement, and orders two threads on a device; CPUs have none.
"""

# ruff: noqa: E402 - vLLM must be found before it is imported
from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import stand_ins
import torch
import wheels

os.environ.update(EQUIPOISE_PLUGIN="1", VLLM_LOGGING_LEVEL="WARNING", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
for folder in (wheels.unpacked("vllm"), wheels.dependencies()):
    sys.path.append(str(folder))
torch.set_num_threads(1)  # ranks are forked
torch.Event = stand_ins.CpuEvent
stand_ins.stand_in("vllm.distributed.device_communicators.cuda_communicator", CudaCommunicator=object)
stand_ins.stand_in("vllm.model_executor.models.interfaces", MixtureOfExperts=object)

import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

# Found by the version of a build for CPUs; the Python files are the same in all builds.
vllm.platforms._current_platform = CpuPlatform()

import equipoise.plugins.vllm

# On a CPU it would stay out, as vLLM refuses to balance there; what stands behind that refusal runs on CPUs all the same.
equipoise.plugins.vllm._balances_nothing = lambda: False
