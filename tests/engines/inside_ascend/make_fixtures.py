"""Write an expert map with vllm-ascend's own recorder.

Run as ``python tests/engines/inside_ascend/make_fixtures.py``.
"""

# ruff: noqa: E402, I001 - vllm-ascend must be found before it is imported

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import conftest  # noqa: F401 - puts vllm-ascend where it is imported from
import torch
from vllm_ascend.eplb.adaptor.vllm_adaptor import VllmEplbAdaptor
from vllm_ascend.eplb.core import eplb_utils
from vllm_ascend.eplb.core.eplb_worker import EplbWorker

OUT = Path(__file__).parents[2] / "fixtures" / "engines" / "vllm_ascend"


def main():
    """Three layers: its default map, and two that a policy could have made from it."""
    start = eplb_utils.generate_global_placement(8, 4, 4, 0).long()
    placed = torch.stack([start, start.flip(0), torch.tensor([[0, 1, 6], [2, 0, 4], [4, 5, 0], [7, 3, 1]])])
    maps = object.__new__(EplbWorker).local2global(placed)
    OUT.mkdir(parents=True, exist_ok=True)
    VllmEplbAdaptor._export_tensor_to_file(SimpleNamespace(rank_id=0), maps, str(OUT / "expert_map.json"))
    (OUT / "expected.json").write_text(json.dumps({"num_ranks": 4, "placed": placed.flatten(1).tolist()}))


if __name__ == "__main__":
    main()
