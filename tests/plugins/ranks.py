"""One of several gloo ranks that answer policy calls: ``ranks.py RANK SIZE PORT``; prints what became of it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import replace

import numpy as np
import torch
from torch import distributed

from equipoise.plugins import answering, vllm
from equipoise.plugins.agreeing import world
from equipoise.plugins.answering import Answerer
from equipoise.plugins.settings import Settings

EXPERTS, SLOTS = 16, 20


class Stock:
    """The engine's own policy: experts in reverse order."""

    @staticmethod
    def rebalance_experts(weight, num_replicas, *_):
        return torch.arange(num_replicas).flip(0).remainder(EXPERTS).expand(weight.shape[0], -1).contiguous()


class Rank:
    """Makes calls, and breaks what a scenario says."""

    def __init__(self, rank: int, size: int, port: int) -> None:
        self.rank = rank
        self.store = distributed.TCPStore("127.0.0.1", port, is_master=False)
        distributed.init_process_group("gloo", store=self.store, rank=rank, world_size=size)
        self.lines: list[str] = []

    def begin(self, scenario: str, **settings) -> None:
        """Start as a new engine would, with keys of its own in the store."""
        keys = distributed.PrefixStore(scenario, distributed.distributed_c10d._get_default_store())
        chosen = Settings(**{"wait_seconds": 20.0, **settings})
        log = logging.getLogger(scenario)
        log.addHandler(_Lines(self.lines))
        log.setLevel(logging.INFO)
        vllm.Policy.answerer = Answerer(chosen, "vllm", log, lambda: replace(world(chosen.wait_seconds), store=keys))
        vllm.Policy.stock = Stock
        self.keys = keys

    def call(self, number: int = 0, slots: int = SLOTS) -> str:
        """Make one call; return the hash of the answer, ``stock``, or the error."""
        load = torch.from_numpy((np.arange(3 * EXPERTS).reshape(3, EXPERTS) * (7919 + number)) % 1009)
        in_use = torch.arange(SLOTS).remainder(EXPERTS).expand(3, -1)
        try:
            found = vllm.Policy.rebalance_experts(load, slots, 1, 1, 4, in_use)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if torch.equal(found, Stock.rebalance_experts(load, slots)):
            return "stock"
        return f"plan {found.tolist()}"

    def scenarios(self) -> dict[str, list[str]]:
        """Go through all scenarios, in the same order on every rank."""
        found = {}
        for mode in ("every_rank", "one_rank"):
            for compare in ("settings", "plans"):
                name = f"{mode} {compare}"
                self.begin(name, mode=mode, compare=compare)
                found[name] = [self.call(number) for number in range(4)]
                found[f"{name} arguments"] = [self.call(slots=number) for number in (21, 18)]
                found[f"{name} fault"] = [self.with_fault({"every_rank": 2, "one_rank": 0}[mode], self.call)]
                found[f"{name} left"] = [str(self.keys_left())]
        self.begin("unequal settings", effort="fast" if self.rank == 1 else "default")
        found["unequal settings"] = [self.call(), self.call()]
        self.begin("unequal, one rank", mode="one_rank", max_moves=None if self.rank else 4)
        found["unequal, one rank"] = [self.call()]
        self.begin("beside collectives", mode="one_rank")
        found["beside collectives"] = self.beside_collectives()
        self.begin("out of step", mode="one_rank")
        found["out of step"] = [self.call(7 if self.rank == 3 else 0)]
        self.begin("silent", wait_seconds=1.0)
        found["silent"] = [self.call()] if self.rank < 3 else []
        found["log"] = self.lines
        return found

    def with_fault(self, rank: int, call) -> str:
        """Make planning fail on one rank for the time of a call."""
        sound = answering.decide
        if self.rank == rank:
            answering.decide = _fail
        try:
            return call()
        finally:
            answering.decide = sound

    def keys_left(self) -> bool:
        """Tell whether answers handed over stay in the store, once all have taken them."""
        distributed.barrier()
        name = world(1.0).name
        return any(self.keys.check([f"equipoise/{name}/call {number}/0"]) for number in range(7))

    def beside_collectives(self) -> list[str]:
        """Call from a background thread, while this one uses the group."""
        found: list[str] = []
        worker = threading.Thread(target=lambda: found.extend(self.call(number) for number in range(3)))
        worker.start()
        for number in range(50):
            total = torch.tensor([number])
            distributed.all_reduce(total)
            assert total.item() == 4 * number
        worker.join()
        return found


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _fail(*_):
    raise MemoryError("injected")


if __name__ == "__main__":
    rank = Rank(*map(int, sys.argv[1:4]))
    print(json.dumps(rank.scenarios()), flush=True)
    distributed.barrier()
    distributed.destroy_process_group()
