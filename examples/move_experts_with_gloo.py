"""Move experts between processes by a schedule, weights and scales; lose a rank half-way, and go on without it.

    pip install equipoise torch
    python examples/move_experts_with_gloo.py
    python examples/move_experts_with_gloo.py --kill 3 --after 1 0

Four ranks, each a process, hold the slots of a small quantised MoE model: int8 weights, and a scale for every row. The load has
drifted, and a new placement is planned within four moves a layer. Every rank makes the schedule for itself; before the first
byte is sent all compare its digest, as ranks with different lists would wait for each other, or take one expert for another. A
layer is moved round by round with isend and irecv over gloo; what must not be overwritten yet is kept apart in buffers.

An expert is all its tensors. Engines have moved weights and left the scales behind, so here everything that has a slot moves in
one loop, and with it a tag: layer, expert, and a checksum of weights and scales. Afterwards each rank looks whether its slots
hold what the placement says, and the output for a batch of tokens is compared to that of the plain layer.

With ``--kill`` a rank dies in the middle. The others notice, say where they are, write down what they hold, and end.
:func:`recover` says what is where, what is lost, and how to go on; new processes do so. Experts that were to be on the dead
rank alone then have no slot: a second plan, for the ranks that are left, gives them one, and they come from the checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional

from equipoise import ABSENT, Cluster, MoveBudget, Placement, plan
from equipoise.migrating.checking import check_schedule
from equipoise.migrating.links import LINKS
from equipoise.migrating.recovering import recover
from equipoise.migrating.schedules import MoveSchedule, Operation
from equipoise.migrating.scheduling import schedule_moves
from equipoise.models import MODELS

LAYERS, EXPERTS, TOP_K, HIDDEN, INNER, TOKENS = 4, 16, 2, 32, 64, 512
RANKS, SLOTS, MOVES = 4, 6, 4  # slots of a rank, moves a layer
WEIGHTS = ("up", "up_scale", "down", "down_scale")
PATIENCE = 20.0  # seconds that a rank waits for another one that says nothing; one that dies is noticed at once
STOPPED = 3  # exit status of a rank that another one left alone

Tensors = dict[str, torch.Tensor]


class RankLostError(Exception):
    """Another rank does not answer any more."""


def make_experts() -> Tensors:
    """Return the checkpoint, [layers, experts, ...] each: int8 weights, a scale a row, and a tag."""
    found: Tensors = {}
    for name, rows, columns in (("up", INNER, HIDDEN), ("down", HIDDEN, INNER)):
        weights = torch.randn(LAYERS, EXPERTS, rows, columns) / columns**0.5
        scale = weights.abs().amax(dim=-1, keepdim=True) / 127
        found[name], found[f"{name}_scale"] = (weights / scale).round().to(torch.int8), scale
    tags = [(*place, checksum(found, place)) for place in np.ndindex(LAYERS, EXPERTS)]
    return found | {"tag": torch.tensor(tags).reshape(LAYERS, EXPERTS, 3)}


def checksum(tensors: Tensors, place: tuple[int, ...]) -> int:
    """Return a checksum of all that the expert at a place computes with."""
    found = 0
    for name in WEIGHTS:
        found = zlib.crc32(tensors[name][place].numpy(), found)
    return found


def compute(tensors: Tensors, place: tuple[int, ...], tokens: torch.Tensor) -> torch.Tensor:
    """Return the output of the expert at a place."""
    up, up_scale, down, down_scale = (tensors[name][place] for name in WEIGHTS)
    return functional.gelu(tokens @ (up * up_scale).T) @ (down * down_scale).T


def make_batch(experts: Tensors, gate: torch.Tensor, tokens: torch.Tensor) -> Tensors:
    """Return tokens, where they go in each layer, the load, and what each layer makes of them, computed expert by expert."""
    weights, topk_ids = torch.softmax(tokens @ gate, dim=-1).topk(TOP_K)  # [layers, tokens, k]
    load, output = torch.zeros(LAYERS, EXPERTS, dtype=torch.int64), torch.zeros(LAYERS, TOKENS, HIDDEN)
    for layer, expert in np.ndindex(LAYERS, EXPERTS):
        row, nth = torch.nonzero(topk_ids[layer] == expert, as_tuple=True)
        load[layer, expert] = len(row)
        output[layer].index_add_(0, row, compute(experts, (layer, expert), tokens[row]) * weights[layer, row, nth, None])
    return {"tokens": tokens, "topk_ids": topk_ids, "weights": weights, "load": load, "output": output}


def write(path: Path, tensors: Tensors) -> None:
    """Write tensors to a file of plain numbers."""
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})


def read(path: Path) -> Tensors:
    """Read tensors back; a file with anything but numbers is refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def digest(schedule: MoveSchedule) -> bytes:
    """Return 32 bytes that are the same only for the same schedule."""
    return hashlib.sha256(json.dumps(schedule.as_dict(), sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class Job:
    """What ranks are started with: placements to go through one by one, and a folder of tensors.

    Those that ``resume`` start from what their forerunners wrote. Rank ``dying`` dies when it has done all that comes up to a
    layer and round, ``after``.
    """

    folder: Path
    ranks: list[int]
    placements: list[Placement]
    resume: bool = False
    dying: int | None = None
    after: tuple[int, int] = (0, 0)


class Rank:
    """One rank: its slots in every layer, buffers for one layer, and how far it has come."""

    def __init__(self, number: int, job: Job) -> None:
        self.number, self.job, self.at = number, job, (0, 0)
        self.checkpoint, self.batch = read(job.folder / "checkpoint.npz"), read(job.folder / "batch.npz")
        places = self._own(job.placements[0]).shape[1]
        self.slots = {name: part.new_zeros(LAYERS, places, *part.shape[2:]) for name, part in self.checkpoint.items()}
        self.buffers: Tensors = {}
        self._fill(job.placements[0])

    def follow(self) -> None:
        """Go through the placements, and look at each whether all is as it should be."""
        self.check(self.job.placements[0])
        for old, new in pairwise(self.job.placements):
            schedule = schedule_moves(old, new)
            self._agree(schedule)
            began = perf_counter()
            self.apply(schedule)
            seconds = perf_counter() - began
            served = self.check(new)
            if self.number == self.job.ranks[0]:
                tags = (new.expert_of_slot != ABSENT).sum()
                print(f"  done by {len(self.job.ranks)} ranks in {1e3 * seconds:.0f} ms: {tags} tags", end=" ")
                print(f"are right, outputs those of the plain layer for {100 * served:.1f} % of tokens", flush=True)

    def apply(self, schedule: MoveSchedule) -> None:
        """Do this rank's part of a schedule, in its order."""
        count = int(schedule.most_staged[self.number])
        self.buffers = {name: part.new_zeros(count, *part.shape[2:]) for name, part in self.slots.items()}
        for (layer, now), group in groupby(schedule.operations(self.number), key=lambda o: (o.layer, o.round)):
            if (layer, now) > self.job.after:
                self._die_if_told()
            operations = list(group)
            self.at = (layer, max(now, 0))
            self._exchange([o for o in operations if o.peer >= 0])
            for operation in operations:
                self._do_locally(operation)
            self.at = (layer, now + 1)
        self._die_if_told()
        self.at = (LAYERS, 0)
        with self._reaching("another rank"):
            dist.barrier()

    def _exchange(self, operations: list[Operation]) -> None:
        """Send and receive the experts of a round, every tensor of each."""
        works = []
        for o in operations:
            call = dist.isend if o.action == "send" else dist.irecv
            for name, slots in self.slots.items():
                tensor = slots[o.layer, o.place] if o.buffer < 0 else self.buffers[name][o.buffer]
                with self._reaching(f"rank {o.peer}"):
                    works.append((o.peer, call(tensor, self.job.ranks.index(o.peer))))
        for peer, work in works:
            with self._reaching(f"rank {peer}"):
                work.wait()

    def _do_locally(self, o: Operation) -> None:
        for name, slots in self.slots.items():
            if o.action == "copy":
                slots[o.layer, o.place] = slots[o.layer, o.origin]
            elif o.action == "stash":
                self.buffers[name][o.buffer] = slots[o.layer, o.origin]
            elif o.action == "commit":
                slots[o.layer, o.place] = self.buffers[name][o.buffer]
            elif o.action == "load":
                slots[o.layer, o.place] = self.checkpoint[name][o.layer, o.expert]

    @contextmanager
    def _reaching(self, peer: str) -> Iterator[None]:
        """Say where this rank was when it could not reach another."""
        try:
            yield
        except RuntimeError as error:
            layer, now = self.at
            where = f"in layer {layer}, round {now}" if layer < LAYERS else "done with all its moves"
            words = str(error).split("] ", 1)[-1].split(". ")[0]
            raise RankLostError(f"rank {self.number}, {where}, lost {peer}: {words}") from error

    def _die_if_told(self) -> None:
        if self.number == self.job.dying:
            os.kill(os.getpid(), signal.SIGKILL)

    def _agree(self, schedule: MoveSchedule) -> None:
        """Stop all ranks unless all have made the same schedule."""
        mine = torch.frombuffer(bytearray(digest(schedule)), dtype=torch.uint8)
        each = [torch.empty_like(mine) for _ in self.job.ranks]
        dist.all_gather(each, mine)
        others = [rank for rank, other in zip(self.job.ranks, each, strict=True) if not torch.equal(other, each[0])]
        if others:
            sys.exit(f"rank {self.number} sends nothing: ranks {others} have another schedule than rank {self.job.ranks[0]}")

    def check(self, placement: Placement) -> float:
        """Stop all ranks unless tags and outputs are right; return the part of tokens that found all their experts."""
        wrong = self._wrong_slots(placement)
        count = torch.tensor(len(wrong))
        dist.all_reduce(count)
        if count:
            sys.exit("\n".join([*wrong, f"rank {self.number} stops: {count} slots are wrong"]))
        output, is_served = self._serve(placement)
        if not torch.allclose(output[is_served], self.batch["output"][is_served], rtol=1e-4, atol=1e-5):
            sys.exit(f"rank {self.number} stops: outputs are not those of the plain layer")
        return float(is_served.double().mean())

    def _wrong_slots(self, placement: Placement) -> list[str]:
        wrong = []
        for (layer, place), expert in np.ndenumerate(self._own(placement)):
            tag, found = self.slots["tag"][layer, place].tolist(), checksum(self.slots, (layer, place))
            if expert != ABSENT and tag != [layer, expert, found]:
                what = f"layer {tag[0]}, expert {tag[1]}" + ("" if tag[2] == found else " with other weights or scales")
                wrong.append(f"rank {self.number}: layer {layer}, its slot {place} holds {what}; it must be expert {expert}")
        return wrong

    def _serve(self, placement: Placement) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output that ranks compute together, and which tokens found all their experts, by layer and token.

        Replicas take turns. A part [layer, token, k] is not zero on one rank at most, so the sum over ranks is exact.
        """
        tokens, topk_ids, weights = (self.batch[name] for name in ("tokens", "topk_ids", "weights"))
        layer, row = torch.arange(LAYERS)[:, None, None], torch.arange(TOKENS)[:, None]
        turn = row % torch.tensor(placement.replica_count)[layer, topk_ids].clamp(min=1)
        slot = torch.tensor(placement.slots_of_expert)[layer, topk_ids, turn]
        begin = int(placement.cluster.slot_counts[: self.number].sum())
        parts = torch.zeros(*topk_ids.shape, HIDDEN)
        for x, place in np.ndindex(self._own(placement).shape):
            mine = slot[x] == begin + place
            parts[x][mine] = compute(self.slots, (x, place), tokens[torch.nonzero(mine)[:, 0]])
        dist.all_reduce(parts)
        return (parts * weights[..., None]).sum(dim=2), (slot != ABSENT).all(dim=2)

    def _own(self, placement: Placement) -> np.ndarray:
        """Return the experts of this rank's slots, [layers, places]."""
        return placement.expert_of_slot[:, placement.cluster.rank_of_slot == self.number]

    def _fill(self, placement: Placement) -> None:
        """Fill slots from the checkpoint, or from what the forerunner held in slots and, for places behind them, in buffers."""
        before = read(self.job.folder / f"rank-{self.number}.npz") if self.job.resume else {}
        for (layer, place), expert in np.ndenumerate(self._own(placement)):
            if expert == ABSENT:
                continue
            prefix, source, at = "", self.checkpoint, (layer, expert)
            if before:
                source, at = before, (layer, place)
            if before and place >= before["tag"].shape[1]:
                prefix, at = "buffer ", before["buffer tag"][:, :2].tolist().index([layer, expert])
            for name, slots in self.slots.items():
                slots[layer, place] = source[prefix + name][at]

    def save(self) -> None:
        """Write down what this rank holds, and how far it came."""
        buffers = {f"buffer {name}": part for name, part in self.buffers.items()}
        write(self.job.folder / f"rank-{self.number}.npz", self.slots | buffers | {"at": torch.tensor(self.at)})


def run_rank(number: int, job: Job) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    meeting, size = f"file://{job.folder}/meeting-of-{len(job.ranks)}", len(job.ranks)
    dist.init_process_group("gloo", meeting, timedelta(seconds=PATIENCE), rank=job.ranks.index(number), world_size=size)
    rank = Rank(number, job)
    try:
        rank.follow()
    except RankLostError as error:
        rank.save()
        print(f"  {error}", flush=True)
        sys.exit(STOPPED)
    dist.destroy_process_group()


def start(job: Job) -> list[int | None]:
    """Start a process for each rank, wait until all have ended, and return their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "equipoise.migrating.scheduling"])
    processes = [context.Process(target=run_rank, args=(rank, job)) for rank in job.ranks]
    for process in processes:
        process.start()
    end = monotonic() + 2 * PATIENCE
    for process in processes:
        process.join(max(0.0, end - monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def describe(schedule: MoveSchedule, old: Placement, new: Placement) -> None:
    """Prove a schedule, and print what it does, and what it would take with real experts."""
    check_schedule(schedule, old, new)
    moves, rounds, loads = schedule.moves.sum(), schedule.rounds.sum(), schedule.is_from_disk.sum()
    print(f"schedule {digest(schedule).hex()[:8]}, proven sound: {moves} moves in {rounds} rounds, {loads} loads from disk")
    size, links = MODELS["deepseek-v3"].expert_bytes, LINKS["h100"]
    most, seconds = schedule.received_bytes(size).max(), schedule.layer_seconds(links, size)
    print(
        f"  DeepSeek-V3's experts on H100s: {most / 1e6:.0f} MB for the rank with most, {1e3 * seconds.sum():.2f} ms,", end=" "
    )
    print(f"{1e3 * seconds.max():.2f} ms in the longest layer", flush=True)


def go_on(job: Job, load: np.ndarray) -> list[int | None]:
    """Let the ranks that are left finish, then go to a plan made for them."""
    old, new = job.placements
    saved = {rank: read(path) for rank in job.ranks if (path := job.folder / f"rank-{rank}.npz").exists()}
    dead = [rank for rank in job.ranks if rank not in saved]
    done = [tuple(saved[rank]["at"].tolist()) if rank in saved else (0, 0) for rank in job.ranks]
    found = recover(schedule_moves(old, new), old, new, done, dead)
    print(f"ranks {dead} are dead; experts (layer, expert) without a replica: {list(found.lost_experts)}")
    print(f"experts left in buffers alone: {found.state.cluster.num_slots - old.cluster.num_slots}")
    print(f"experts without a slot after the rest of the moves: {list(found.homeless_experts)}; the rest:")
    describe(found.schedule, found.state, found.target)
    budget = MoveBudget(per_layer=max(MOVES, SLOTS * len(dead)))  # so many experts may have been on dead ranks alone
    replanned = plan(load, found.target.cluster, previous=found.target, budget=budget).placement
    print("then a plan for the ranks that are left, with a slot for every expert:")
    describe(schedule_moves(found.target, replanned), found.target, replanned)
    placements = [found.state, found.target, replanned]
    return start(replace(job, ranks=list(saved), placements=placements, resume=True, dying=None))


def main() -> int:
    """Plan, move, look, and go on where a rank dies; return the exit status."""
    parser = argparse.ArgumentParser(description="Move experts between four processes by a schedule.")
    parser.add_argument("--kill", type=int, choices=range(RANKS), help="a rank that dies in the middle")
    parser.add_argument("--after", type=int, nargs=2, default=(1, 0), metavar=("LAYER", "ROUND"), help="what it still does")
    options = parser.parse_args()
    torch.manual_seed(19)  # one of those where the death of rank 3 shows all that can happen
    experts, gate = make_experts(), torch.randn(LAYERS, HIDDEN, EXPERTS) / HIDDEN**0.5
    topic, drift = torch.randn(2, HIDDEN)
    earlier, batch = (make_batch(experts, gate, torch.randn(TOKENS, HIDDEN) + mean) for mean in (topic, topic + 0.7 * drift))
    cluster, load = Cluster(RANKS, SLOTS, num_nodes=2), batch["load"].numpy()
    old = plan(earlier["load"].numpy(), cluster).placement
    new = plan(load, cluster, previous=old, budget=MoveBudget(per_layer=MOVES)).placement
    print(f"balancedness {old.balancedness(load):.3f} as placed, {new.balancedness(load):.3f} planned")
    describe(schedule_moves(old, new), old, new)
    with TemporaryDirectory() as folder:
        write(Path(folder) / "checkpoint.npz", experts)
        write(Path(folder) / "batch.npz", batch)
        ranks, after = list(range(RANKS)), tuple(options.after)
        job = Job(Path(folder), ranks, [old, new], dying=options.kill, after=after)
        codes = start(job)
        if STOPPED in codes:
            codes = go_on(job, load)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
