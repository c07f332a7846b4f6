"""Puts SGLang's own modules into this process, from its wheel.

Stand-ins, each off the path of balancing and recording:

- ``triton``, ``tvm_ffi``: kernels on devices; SGLang imports them to compile what never runs here.
- ``torchvision``, ``xgrammar``, ``openai_harmony``, ``IPython``: images, grammars, chat and notebooks.
- ``include`` and ``csrc`` under ``kernels/jit``: its wheel has sources there; SGLang asks at import whether they are.
- ``moe_ep_setup``: solvers of the LP dispatch; the manager imports it for them before it moves.
- ``torch.cpu.empty_cache``: frees a device's memory before a first dump or move; CPUs have no such cache.

``torch.compile`` is off, as it wants the real triton.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(EQUIPOISE_PLUGIN="1", SGLANG_USE_CPU_ENGINE="1", TORCHDYNAMO_DISABLE="1", HF_HUB_OFFLINE="1")
sys.path.append(str(Path(__file__).parents[1]))

import stand_ins
import torch
import wheels

for folder in (wheels.unpacked("sglang"), wheels.dependencies()):
    sys.path.append(str(folder))
for name in ("include", "csrc"):
    (wheels.unpacked("sglang") / "sglang/kernels/jit" / name).mkdir(exist_ok=True)
torch.set_num_threads(1)  # ranks are forked
torch.cpu.empty_cache = lambda: None
sys.meta_path.insert(0, stand_ins.EmptyPackages("triton", "tvm_ffi", "torchvision", "xgrammar", "openai_harmony", "IPython"))
stand_ins.stand_in("sglang.srt.model_executor.model_runner_components.moe_ep_setup", init_lplb_solvers=None)
