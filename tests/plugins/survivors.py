"""One of several gloo ranks, of which the last dies before SGLang's call: ``survivors.py RANK SIZE PORT``; prints answers."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import distributed

from equipoise.plugins import sglang
from equipoise.plugins.settings import Settings

EXPERTS, ROOM, SPARE = 16, 6, 2


def survive(rank: int, size: int, port: int) -> dict[str, list[object]]:
    """Make two calls in each mode, once the last rank is gone."""
    store = distributed.TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    distributed.barrier()
    if rank == size - 1:
        os._exit(0)
    active = torch.tensor([1] * (size - 1) + [0] * (1 + SPARE))
    manager = SimpleNamespace(instance=lambda: SimpleNamespace(active_ranks=active, has_scaled=False))
    sys.modules["sglang.srt.elastic_ep.elastic_ep"] = SimpleNamespace(ElasticEPStateManager=manager)
    return {mode: calls(mode, size) for mode in ("every_rank", "one_rank")}


def calls(mode: str, size: int) -> list[object]:
    """Return the first map of two calls, or the error."""
    answerer = sglang._make_answerer(Settings(mode=mode, compare="plans", wait_seconds=10.0))
    keys = distributed.PrefixStore(mode, distributed.distributed_c10d._get_default_store())
    find_group = answerer.find_group
    answerer.find_group = lambda: replace(find_group(), store=keys)
    sglang._answerer = answerer
    found: list[object] = []
    for number in range(2):
        tokens = torch.from_numpy((np.arange(3 * EXPERTS).reshape(1, 3, EXPERTS) * (7919 + number)) % 1009)
        try:
            maps = sglang.rebalance_experts(tokens, size * ROOM, ROOM, None, 1, "elasticity_aware")
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]
        found.append(maps[0].tolist())
    return found


if __name__ == "__main__":
    print(json.dumps(survive(*map(int, sys.argv[1:4]))), flush=True)
    os._exit(0)
