"""Puts vllm-ascend's own modules into this process, from its wheel, with vLLM's beside them.

Stand-ins, each off the path of its maps:

- ``torch.Tensor.npu``: its devices; a map that would go to one stays where it is.
- ``policy_factory``: its own policies, which import its devices.
- ``fused_moe.expert_map_manager``: vLLM's rule without balancing.
- ``vllm_ascend.ascend_config``, ``quantization``: options and weights' formats, which the adaptor reads when it moves weights.
- ``vllm_ascend.distributed.parallel_state``: its groups of devices.
- vLLM's two, as in inside_vllm.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).parents[1]))

import stand_ins
import torch
import wheels

os.environ.update(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
for folder in (wheels.unpacked("vllm-ascend"), wheels.unpacked("vllm"), wheels.dependencies()):
    sys.path.append(str(folder))
KINDS = ("NONE", "W8A8", "W4A8", "W4A8MXFP", "MXFP4", "MXFP8")
torch.Tensor.npu = lambda self: self
stand_ins.stand_in("vllm_ascend.eplb.core.policy.policy_factory", PolicyFactory=None)
stand_ins.stand_in("vllm.model_executor.layers.fused_moe", __path__=[])
stand_ins.stand_in("vllm.model_executor.layers.fused_moe.expert_map_manager", determine_expert_map=None)
stand_ins.stand_in("vllm_ascend.ascend_config", get_ascend_config=None)
stand_ins.stand_in("vllm_ascend.quantization", __path__=[])
stand_ins.stand_in("vllm_ascend.quantization.quant_type", QuantType=SimpleNamespace(**{name: name for name in KINDS}))
stand_ins.stand_in("vllm_ascend.distributed", __path__=[])
stand_ins.stand_in("vllm_ascend.distributed.parallel_state", get_dynamic_eplb_group=None)
stand_ins.stand_in("vllm.distributed.device_communicators.cuda_communicator", CudaCommunicator=object)
