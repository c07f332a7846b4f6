"""The peers' planner modules, imported unchanged; stand-ins only for what they import and do not use while planning.

Called in a process of its own for each rival: stand-ins take the names of whole packages.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal


def stand_in(name: str, folder: Path | None = None, **attributes: object) -> ModuleType:
    """Put an empty package under a name: its modules come from ``folder``, its attributes are the ones given."""
    module = ModuleType(name)
    module.__path__ = [] if folder is None else [str(folder.joinpath(*name.split(".")))]
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    sys.modules[name] = module
    return module


def sglang(folder: Path) -> Any:
    """Return SGLang's ``eplb_algorithms``."""
    for name in ("sglang", "sglang.srt", "sglang.srt.eplb"):
        stand_in(name, folder)
    return importlib.import_module("sglang.srt.eplb.eplb_algorithms")


def vllm(folder: Path) -> Any:
    """Return vLLM's default policy, a class with ``rebalance_experts``."""
    for name in ("vllm", "vllm.distributed", "vllm.distributed.eplb"):
        stand_in(name, folder)
    stand_in("vllm.config")
    stand_in("vllm.config.parallel", EPLBPolicyOption=Literal["default"])
    return importlib.import_module("vllm.distributed.eplb.policy").EPLB_POLICIES["default"]


def vllm_ascend(folder: Path, module: str) -> Any:
    """Return a module of vllm-ascend's policies; without its devices, and without a process group."""
    for name in ("vllm_ascend", "vllm_ascend.eplb", "vllm_ascend.eplb.core"):
        stand_in(name, folder)
    stand_in("vllm")
    stand_in("vllm.logger", logger=logging.getLogger("peers.vllm_ascend"))
    stand_in("vllm_ascend.distributed")
    stand_in("vllm_ascend.distributed.parallel_state", get_dynamic_eplb_group=_no_group)
    stand_in("torch_npu")
    return importlib.import_module(f"vllm_ascend.eplb.core.policy.{module}")


def pretend_devices(per_host: int) -> None:
    """Let torch say how many of vllm-ascend's devices a host has."""
    import torch

    torch.npu = SimpleNamespace(device_count=lambda: per_host)  # type: ignore[attr-defined]


def _no_group() -> Any:
    raise RuntimeError("no process group here")
