"""Strategies: an old and a new placement, as tangled as they come."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from equipoise import Cluster, Placement


@st.composite
def clusters(draw, max_ranks=5, max_slots=3, with_down=True):
    """Draw a cluster of unequal ranks, some of them down."""
    ranks = draw(st.integers(1, max_ranks))
    nodes = draw(st.integers(1, min(3, ranks)))
    slots = draw(st.one_of(st.integers(1, max_slots), st.lists(st.integers(1, max_slots), min_size=ranks, max_size=ranks)))
    node = [*range(nodes), *(draw(st.integers(0, nodes - 1)) for _ in range(ranks - nodes))]
    alive = [True] * ranks
    if with_down and draw(st.booleans()):
        alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    return Cluster(ranks, slots, nodes, node_of_rank=node, alive=alive)


def _row(draw, cluster, num_experts):
    is_up = np.repeat(cluster.alive, cluster.slot_counts)
    return [draw(st.integers(-1, num_experts - 1)) if up else -1 for up in is_up]


@st.composite
def changes(draw, max_layers=2, max_experts=8, same_cluster=None, with_down=True):
    """Draw (old, new): any experts in any slots, twice on a rank, none; ranks added, removed, down, larger, smaller."""
    experts, layers = draw(st.integers(1, max_experts)), draw(st.integers(1, max_layers))
    before = draw(clusters(with_down=with_down))
    is_same = draw(st.booleans()) if same_cluster is None else same_cluster
    after = before if is_same else draw(clusters(with_down=with_down))
    old = Placement([_row(draw, before, experts) for _ in range(layers)], before, experts)
    return old, Placement([_row(draw, after, experts) for _ in range(layers)], after, experts)


@st.composite
def shuffles(draw, max_layers=2, max_ranks=4, max_slots=3):
    """Draw (old, new) on full slots, new a permutation of old's slots: nothing but cycles, through and within ranks."""
    ranks, slots = draw(st.integers(1, max_ranks)), draw(st.integers(1, max_slots))
    cluster = Cluster(ranks, slots)
    size = cluster.num_slots
    layers = draw(st.integers(1, max_layers))
    old = [list(range(size))] * layers
    new = [draw(st.permutations(range(size))) for _ in range(layers)]
    return Placement(old, cluster, size), Placement(new, cluster, size)


def random_change(seed, layers=3, ranks=8, slots=4, nodes=2, experts=24):
    """Return (old, new), strict: every expert has a slot, and no rank has one twice."""
    rng = np.random.default_rng(seed)
    cluster = Cluster(ranks, slots, nodes)
    return tuple(
        Placement([_strict_row(rng, ranks, slots, experts) for _ in range(layers)], cluster, experts) for _ in range(2)
    )


def _strict_row(rng, ranks, slots, experts):
    while True:
        extra = rng.choice(experts, ranks * slots - experts)
        row = rng.permutation(np.concatenate([np.arange(experts), extra])).reshape(ranks, slots)
        if all(len(set(held.tolist())) == slots for held in row):
            return row.ravel()


RULES = st.fixed_dictionaries(
    {"mode": st.sampled_from(["duplex", "one-peer"])},
    optional={"staging": st.sampled_from([1, 1, 2, 3]), "chunk": st.sampled_from([1, 2, 5])},
)


class Run:
    """Ranks that do their own operations, each at its own pace: a round is finished once all its peers have begun it.

    A rank that has begun a round has WRITING in the slots into which it receives, until it has finished.
    """

    WRITING = -2

    def __init__(self, schedule, old):
        self.schedule = schedule
        self.stages = [(x, now) for x, rounds in enumerate(schedule.rounds.tolist()) for now in range(-1, rounds)]
        self.operations = [{} for _ in range(schedule.num_ranks)]
        for rank, mine in enumerate(self.operations):
            for operation in schedule.operations(rank):
                mine.setdefault((operation.layer, operation.round), []).append(operation)
        self.slots = [self._held_at_first(rank, old) for rank in range(schedule.num_ranks)]
        self.buffers = [{} for _ in range(schedule.num_ranks)]
        self.position = [0] * schedule.num_ranks
        self.begun = [False] * schedule.num_ranks
        for rank in range(schedule.num_ranks):
            self.finish(rank)

    def _held_at_first(self, rank, old):
        """Experts by (layer, place) of one rank, ABSENT where there is none."""
        size = int(self.schedule.slot_counts[rank])
        held = {(x, place): -1 for x in range(old.num_layers) for place in range(size)}
        if rank < old.cluster.num_ranks and old.cluster.alive[rank]:
            for x in range(old.num_layers):
                mine = old.expert_of_slot[x][old.cluster.rank_of_slot == rank].tolist()
                held.update({(x, place): expert for place, expert in enumerate(mine)})
        return held

    def next_operations(self, rank):
        """What a rank does in the stage it is at."""
        if self.position[rank] == len(self.stages):
            return []
        return self.operations[rank].get(self.stages[self.position[rank]], [])

    def next_targets(self, rank):
        """Slots (layer, place) into which the rank receives in the stage it is at."""
        return {(o.layer, o.place) for o in self.next_operations(rank) if o.action == "receive" and o.buffer < 0}

    def can_finish(self, rank):
        """Whether all peers of the rank's stage have begun it."""
        here = self.position[rank]
        peers = [o.peer for o in self.next_operations(rank) if o.peer >= 0]
        return here < len(self.stages) and all((self.position[p], self.begun[p]) >= (here, True) for p in peers)

    def begin(self, rank):
        """Post the sends and receives of the rank's stage."""
        self.begun[rank] = self.position[rank] < len(self.stages)
        for place in self.next_targets(rank):
            self.slots[rank][place] = self.WRITING

    def finish(self, rank):
        """Do the rank's stage."""
        slots, buffers = self.slots[rank], self.buffers[rank]
        if self.position[rank] == len(self.stages):
            return
        self.begin(rank)
        for o in self.next_operations(rank):
            if o.action == "send":
                assert slots[o.layer, o.place] == o.expert
        for o in self.next_operations(rank):
            if o.action == "receive" and o.buffer >= 0:
                assert buffers.setdefault((o.layer, o.buffer), o.expert) == o.expert
            elif o.action in ("receive", "load"):
                slots[o.layer, o.place] = o.expert
            elif o.action == "copy":
                slots[o.layer, o.place] = slots[o.layer, o.origin]
            elif o.action == "stash":
                buffers[o.layer, o.buffer] = slots[o.layer, o.origin]
            elif o.action == "commit":
                slots[o.layer, o.place] = buffers.pop((o.layer, o.buffer))
        self.position[rank] += 1
        self.begun[rank] = False

    def done(self, rank):
        """Progress as recover() takes it: the layer a rank is at, and its rounds that are finished."""
        position = self.position[rank]
        if position == len(self.stages):
            return len(self.schedule.rounds), 0
        layer, _ = self.stages[position - 1]
        return layer, self.stages[position - 1][1] + 1
