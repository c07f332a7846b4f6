"""Stand-ins for what the engines import and their policy path does not use, and processes that act as ranks."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import multiprocessing
import sys
import traceback
from types import ModuleType


class _Whatever(type):
    """A class that is called, indexed, joined and decorated with, and does nothing."""

    def __call__(cls, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else cls

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, key):
        return cls

    def __or__(cls, other):
        return cls

    __ror__ = __or__


class Nothing(metaclass=_Whatever):
    """What every name of an empty package is."""


class _EmptyModule(ModuleType):
    __version__ = "0.0.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class EmptyPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages named, and every module in them: all empty."""

    def __init__(self, *names: str):
        self.names = names

    def find_spec(self, name, path, target=None):
        known = name.split(".")[0] in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        return _EmptyModule(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def stand_in(name: str, **attributes: object) -> None:
    """Put a module with these attributes under a name."""
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


class CpuEvent:
    """An event of a device: on the CPU all work is done when it is recorded, so there is nothing to wait for."""

    def __init__(self, *args, **kwargs):
        pass

    def record(self, stream=None):
        pass

    def wait(self, stream=None):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 0.0


def as_ranks(num_ranks: int, work, *args, timeout: float = 90.0) -> list:
    """Run ``work(rank, num_ranks, *args)`` in forked processes joined by gloo; return their answers in rank order.

    Raises
    ------
    AssertionError
        With the traceback, when a rank fails or hangs.
    """
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    port = _free_port()
    ranks = [
        fork.Process(target=_be_a_rank, args=(rank, num_ranks, port, answers, work, args), daemon=True)
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    try:
        found = [answers.get(timeout=timeout) for _ in ranks]
    finally:
        for process in ranks:
            process.join(timeout=5)
            process.kill()
    failed = [answer for _, ok, answer in found if not ok]
    assert not failed, failed[0]
    return [answer for _, _, answer in sorted(found, key=lambda one: one[0])]


def _be_a_rank(rank, num_ranks, port, answers, work, args):
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_ranks)
        answers.put((rank, True, work(rank, num_ranks, *args)))
        dist.barrier()
    except BaseException:
        answers.put((rank, False, f"rank {rank}:\n{traceback.format_exc()}"))


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
