"""Dispatcher and BatchDispatcher: the same splits as dispatch() and plan_batch(), inside an engine's step.

Everything is allocated when one is made, and its kernels compiled: a step takes the time of its kernel and a few microseconds,
lets go of the interpreter lock and writes into the same arrays as the step before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from equipoise.checks import check_integer
from equipoise.cluster import Cluster
from equipoise.dispatching.batches import MoveTime, batch_setting, checked_held
from equipoise.dispatching.splitting import LONGEST, check_placement, checked_load, split_work
from equipoise.errors import ArgumentError
from equipoise.kernels.stepping import Step, fill_step, split_step
from equipoise.kernels.types import Flags, Floats
from equipoise.placement import Placement

_MARGIN = 1.0 + 1e-9  # sums in another order: what a kernel refuses, checked_load() must refuse too


class _Steps(ABC):
    """Arrays of one step, and the ways to take one; ``placement`` is what holds experts in every step."""

    def __init__(self, placement: Placement, cluster: Cluster) -> None:
        self._placement = placement
        self.cluster = cluster
        layers, experts = placement.num_layers, placement.num_experts
        self.tokens: Floats = np.zeros((layers, cluster.num_slots))
        self.shares: Floats = np.zeros((layers, cluster.num_slots))
        self.rank_load: Floats = np.zeros((layers, cluster.num_ranks))
        self.largest: Floats = np.zeros(layers)
        self.bound: Floats = np.zeros(layers)
        self.tight: Flags = np.zeros((layers, cluster.num_ranks), np.bool_)
        self._load: Floats = np.zeros((layers, experts))
        load = self._load.view()
        load.setflags(write=False)
        self._step = Step(
            load,
            placement.replica_count,
            LONGEST * min(1.0, *placement.cluster.rank_speeds) * _MARGIN,
            self.tokens,
            self.shares,
            self.rank_load,
            self.largest,
            self.bound,
            self.tight,
            np.zeros(experts, np.int64),
        )

    def step(self, load: Floats) -> None:
        """Serve one batch, all layers.

        Parameters
        ----------
        load : float64 [layers, experts]
            Tokens of the batch. It is copied first, so it may be written again while the step runs.

        Raises
        ------
        ArgumentError
            On anything but such an array, and on a load that is negative, not finite or too large.
        InvalidPlacementError
            When an expert with load has no slot: no token is ever dropped.
        """
        _check("load", load, self._load.shape)
        np.copyto(self._load, load)
        self._serve(0, len(self._load))

    def step_layer(self, layer: int, load: Floats) -> None:
        """Serve one layer of a batch, float64 [experts]; rows of other layers stay. Raises as :meth:`step` does."""
        if check_integer("layer", layer, 0) >= len(self._load):
            count = len(self._load)
            raise ArgumentError(f"layer is {layer}", f"there are {count} layers", f"take one of 0..{count - 1}")
        _check("load", load, self._load.shape[1:])
        np.copyto(self._load[layer], load)
        self._serve(layer, layer + 1)

    def _serve(self, begin: int, end: int) -> None:
        if not self._run(begin, end):
            found = np.zeros_like(self._load)
            found[begin:end] = self._load[begin:end]
            checked_load(found, self._placement)
            raise AssertionError("a load was refused that nothing is wrong with")

    @abstractmethod
    def _run(self, begin: int, end: int) -> bool:
        """Serve layers from ``begin`` to before ``end``; False, with nothing written, where one cannot be served in full."""


class Dispatcher(_Steps):
    """:func:`equipoise.dispatching.splitting.dispatch` for one batch after another, over one placement.

    A step that is refused writes nothing: what the last good one wrote stays. Arrays are written by the next step, so copy
    what is to be kept. One thread at a time may use it; threads with one each run side by side.

    Parameters
    ----------
    placement : Placement
        Any; a load is refused where an expert has tokens and no slot.

    Attributes
    ----------
    shares, tokens : float64 [layers, slots]
        As of :class:`equipoise.dispatching.splitting.Dispatch`, byte for byte; of a batch without load until the first step.
    rank_load : float64 [layers, ranks]
        Tokens of each rank.
    largest, bound : float64 [layers]
        Largest rank time, and the time before which no split ends.
    tight : bool [layers, ranks]
        The proof.
    cluster : Cluster
        Whose slots and ranks these are.

    Notes
    -----
    A step looks first, in the kernel and at 1 % of its time, whether all can be served; only what is refused is looked at by
    Python, to say what it is. No memory is asked for but numba's few bytes for each array that it is handed.

    Examples
    --------
    >>> placement = Placement([[0, 1, 0, 2]], Cluster(num_ranks=2, slots_per_rank=2), num_experts=3)
    >>> dispatcher = Dispatcher(placement)
    >>> dispatcher.step(np.array([[6.0, 1.0, 4.0]]))
    >>> dispatcher.shares.round(3).tolist(), dispatcher.rank_load.tolist()
    ([[0.75, 1.0, 0.25, 1.0]], [[5.5, 5.5]])
    """

    def __init__(self, placement: Placement) -> None:
        check_placement(placement)
        super().__init__(placement, placement.cluster)
        self._slots = placement.expert_of_slot.copy()
        self._slots.setflags(write=False)
        self._work = split_work(placement.cluster, placement.num_experts)
        self._serve(0, placement.num_layers)

    def _run(self, begin: int, end: int) -> bool:
        return split_step(begin, end, self._slots, self._work, self._step)


class BatchDispatcher(_Steps):
    """:func:`equipoise.dispatching.batches.plan_batch` for one batch after another: spare slots keep what they hold.

    Used as :class:`Dispatcher` is. Each step starts from what slots hold after the last one that was not refused, as
    plan_batch() does with ``held``.

    Parameters
    ----------
    home : Placement
        What stays.
    spare_slots, stop_at, gain_per_move, max_received, move_time, prefer_near, held
        As of plan_batch(); ``held`` is what slots hold before the first step.

    Attributes
    ----------
    expert_of_slot : int64 [layers, slots]
        What slots hold after the step: home experts, then each rank's spare slots; -1 where one is not used.
    source : int64 [layers, slots]
        Rank that a slot's replica must be copied from, -1 where nothing moves.
    moves : int64 [layers]
        Replicas that ranks must receive.
    shares, tokens, rank_load, largest, bound, tight
        As of :class:`Dispatcher`; ``bound`` is for any filling of the spare slots.
    cluster : Cluster
        With the spare slots.

    Examples
    --------
    >>> home = Placement([[0, 1, 2, 3]], Cluster(num_ranks=4, slots_per_rank=1), num_experts=4)
    >>> dispatcher = BatchDispatcher(home)
    >>> for _ in range(2):
    ...     dispatcher.step(np.array([[10.0, 4.0, 1.0, 1.0]]))
    ...     print(dispatcher.rank_load.tolist(), dispatcher.expert_of_slot.tolist(), dispatcher.moves.tolist())
    [[4.0, 4.0, 4.0, 4.0]] [[0, -1, 1, -1, 2, 0, 3, 0]] [2]
    [[4.0, 4.0, 4.0, 4.0]] [[0, -1, 1, -1, 2, 0, 3, 0]] [0]
    """

    def __init__(
        self,
        home: Placement,
        spare_slots: int = 1,
        *,
        stop_at: float | None = None,
        gain_per_move: float = 0.0005,
        max_received: int | None = None,
        move_time: MoveTime | None = None,
        prefer_near: bool = False,
        held: Placement | None = None,
    ) -> None:
        check_placement(home)
        setting = batch_setting(home, spare_slots, stop_at, gain_per_move, max_received, move_time, prefer_near)
        super().__init__(home, setting.cluster)
        self._setting = setting
        self.expert_of_slot = (setting.at_home if held is None else checked_held(held, home, setting)).copy()
        self.source = np.full_like(self.expert_of_slot, -1)
        self.moves = np.zeros(home.num_layers, np.int64)
        self._held = self.expert_of_slot.copy()
        self._held_for_kernel = self._held.view()
        self._held_for_kernel.setflags(write=False)
        self._serve(0, home.num_layers)

    def forget(self) -> None:
        """Let the next step start from empty spare slots; what the last one wrote stays until then."""
        np.copyto(self._held, self._setting.at_home)

    def _run(self, begin: int, end: int) -> bool:
        _, home, fees, fill, work = self._setting
        slots = self.expert_of_slot
        if not fill_step(begin, end, home, self._held_for_kernel, fees, fill, work, slots, self.source, self.moves, self._step):
            return False
        np.copyto(self._held[begin:end], slots[begin:end])
        return True


def _check(name: str, given: object, shape: tuple[int, ...]) -> None:
    if isinstance(given, np.ndarray) and given.dtype == np.float64 and given.shape == shape:
        return
    what = f"of dtype {given.dtype} and shape {list(given.shape)}" if isinstance(given, np.ndarray) else type(given).__name__
    raise ArgumentError(f"{name} is {what}", f"it must be a float64 array {list(shape)}", "convert it before the step")
