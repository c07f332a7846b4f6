"""What moves buy: balance against the replicas that move away from a placement in use, layer by layer and in total.

One search a budget says what a layer reaches with so many moves. In total the layers climb together: of all next steps the one
that saves most time a move comes first, so that each total is with the layers that gain most from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from equipoise import metrics
from equipoise.budget import MoveBudget
from equipoise.checks import check_choice, check_integer
from equipoise.cluster import Cluster
from equipoise.constraints import Constraints
from equipoise.errors import ArgumentError
from equipoise.kernels.types import Floats, Ints
from equipoise.placement import Placement
from equipoise.planning.continuing import Wanted, make_search, make_split_search, refuse_unsupported
from equipoise.planning.efforts import EFFORTS
from equipoise.planning.improving import Climb, climb, rungs_below
from equipoise.planning.planner import DISPATCHES
from equipoise.planning.problem import make_problem
from equipoise.planning.redundancy import find_knee
from equipoise.trace import LoadTrace


@dataclass(frozen=True, eq=False)
class LayerTradeOff:
    """The Pareto curve of one layer: no other find has as few moves and ends as early.

    Attributes
    ----------
    moves : int64 [points]
        Rising.
    largest : float64 [points]
        Largest rank time, falling.
    ideal : float
        Time of the layer's load lying level.
    knee : int
        In [0, points), by :func:`find_knee_of_moves`.
    """

    moves: Ints
    largest: Floats
    ideal: float
    knee: int

    @property
    def balancedness(self) -> Floats:
        """Of each point, float64 [points]; nan without load."""
        return metrics.layer_balancedness(self.largest, np.full_like(self.largest, self.ideal))


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Pareto curves of moves against balance, made by :func:`trade_off`; in-sample, as the load is the one planned for.

    Attributes
    ----------
    layers : tuple of LayerTradeOff
        Layer by layer.
    moves : int64 [points, layers]
        How each total is shared out between layers; their sums rise from point to point.
    largest : float64 [points, layers]
        Largest rank times; their sums fall.
    ideal : float64 [layers]
        Times of the load lying level over the ranks that are up.
    replicas : int
        Replicas of all layers that ranks which are up have room for: what a share of moves is of.
    knee : int
        In [0, points), by :func:`find_knee_of_moves`.
    """

    layers: tuple[LayerTradeOff, ...]
    moves: Ints
    largest: Floats
    ideal: Floats
    replicas: int
    knee: int

    @property
    def total_moves(self) -> Ints:
        """Moves over all layers, int64 [points]."""
        return np.asarray(self.moves.sum(axis=1), np.int64)

    @property
    def share_moved(self) -> Floats:
        """Moves over replicas, float64 [points]."""
        return np.asarray(self.total_moves / self.replicas, np.float64)

    @property
    def balancedness(self) -> Floats:
        """Of each point (docs/semantics.md, 5), float64 [points]."""
        return np.array([metrics.balancedness(row, self.ideal) for row in self.largest])

    @property
    def worst_layer(self) -> Floats:
        """Balancedness of the worst layer of each point, float64 [points]."""
        return np.array([metrics.worst_layer(row, self.ideal) for row in self.largest])

    def within(self, total: int) -> int:
        """Return the last point with at most ``total`` moves, the first where even that has more."""
        return max(0, int(np.searchsorted(self.total_moves, total, side="right")) - 1)


def trade_off(
    load: npt.ArrayLike | LoadTrace,
    cluster: Cluster,
    previous: Placement,
    *,
    budgets: Sequence[int] | None = None,
    num_groups: int = 1,
    locality: str = "none",
    effort: str = "default",
    dispatch: str = "equal",
    constraints: Constraints | None = None,
    num_threads: int = 1,
) -> TradeOff:
    """Say what each number of moves away from a placement buys, as :func:`equipoise.plan` would spend them.

    Parameters
    ----------
    load : array_like or LoadTrace
        Tokens, [layers, experts]; steps are added up.
    cluster : Cluster
        The ranks now.
    previous : Placement
        The placement in use; it may be of other ranks or slots, and hold duplicates or nothing, as for :func:`equipoise.plan`.
    budgets : sequence of int, optional
        Moves a layer that are searched with, >= 0. Default: those that ``plan`` shares a total out with, so that
        ``budget=MoveBudget(total=...)`` with the total of any point gives its balance.
    num_groups, locality, effort, dispatch, constraints, num_threads
        As for :func:`equipoise.plan`; ``locality`` "none" or "strict".

    Returns
    -------
    TradeOff
        Its first point has the moves that serving every expert takes: none where ``previous`` serves them all as asked.

    Raises
    ------
    ArgumentError
        On an input that breaks a rule.
    NotSupportedError
        Under soft locality.

    Notes
    -----
    One search of all layers a budget; the curve in total adds O(layers * budgets) to them.

    Examples
    --------
    >>> previous = Placement([[0, 1, 2, 3, 0, 2]], Cluster(num_ranks=3, slots_per_rank=2), num_experts=4)
    >>> found = trade_off([[10, 60, 10, 10]], previous.cluster, previous)
    >>> found.total_moves.tolist(), found.balancedness.round(3).tolist()
    ([0, 1], [0.462, 0.857])
    """
    check_choice("effort", effort, tuple(EFFORTS))
    check_choice("dispatch", dispatch, DISPATCHES)
    problem = make_problem(load, cluster, num_groups, locality)
    refuse_unsupported(problem, is_for_several=False, is_optimal_from_nothing=False)
    wanted = Wanted(MoveBudget(), constraints or Constraints(), dispatch, effort, num_threads)
    search = make_search(problem, previous, wanted)
    if dispatch == "optimal":
        search = make_split_search(search, problem.load[np.newaxis][:0])
    found = climb(search, _checked(budgets) if budgets is not None else rungs_below(search.all_moves))
    ideal, room = problem.ideal, problem.everything.slots.size
    moves, largest = _walk(found)
    return TradeOff(
        layers=tuple(_layer(found, x, float(ideal[x]), room) for x in range(problem.num_layers)),
        moves=moves,
        largest=largest,
        ideal=ideal,
        replicas=room * problem.num_layers,
        knee=find_knee_of_moves(largest.sum(axis=1), moves.sum(axis=1), room * problem.num_layers),
    )


def find_knee_of_moves(time: Floats, moves: Ints, replicas: int) -> int:
    """Return the last point up a curve at which moves still pay: where a per cent of the replicas moved buys one of balance.

    :func:`equipoise.planning.redundancy.find_knee` says where slots pay that are held; a replica that is moved is weighed as
    one more that is held, for its rank must receive and place it as well. So it is the largest balance / (replicas + moves),
    which does not depend on how far up the curve was followed, nor on how many points it has between.

    Parameters
    ----------
    time : float64 [points]
        Largest rank times, added up over layers.
    moves : int64 [points]
        Rising.
    replicas : int
        What moves are a share of.

    Examples
    --------
    >>> find_knee_of_moves(np.array([100.0, 80.0, 79.0]), np.array([0, 10, 20]), 100)
    1
    """
    balance = np.divide(time[-1], time, out=np.ones_like(time), where=time > 0)
    return find_knee(balance[:, np.newaxis], replicas + moves)


def _checked(budgets: Sequence[int]) -> list[int]:
    if isinstance(budgets, str) or not isinstance(budgets, Sequence | np.ndarray):
        raise ArgumentError(f"budgets is {budgets!r}", "it must be a list of moves a layer", "give [0, 8, 40]")
    if not len(budgets):
        raise ArgumentError("no budgets to try", "there must be one at least", "name some, such as 0, 8 and 40")
    return sorted({check_integer("a budget", budget, 0) for budget in budgets})


def _walk(found: Climb) -> tuple[Ints, Floats]:
    """Return moves and largest times [points, layers] after each rise, but for points that a later one beats."""
    points = len(found.rises) + 1
    moves, largest = np.tile(found.start.moves, (points, 1)), np.tile(found.start.largest, (points, 1))
    for point, (_, x, rung) in enumerate(found.rises, 1):
        moves[point:, x] = found.rungs[rung].moves[x]
        largest[point:, x] = found.rungs[rung].largest[x]
    total = moves.sum(axis=1)
    fewest_later = np.append(np.minimum.accumulate(total[::-1])[::-1][1:], total.max() + 1)
    is_best = total < fewest_later
    return moves[is_best], largest[is_best]


def _layer(found: Climb, x: int, ideal: float, room: int) -> LayerTradeOff:
    finds = (found.start, *found.rungs)
    moves, largest = (np.array([getattr(find, name)[x] for find in finds]) for name in ("moves", "largest"))
    order = np.lexsort((largest, moves))
    moves, largest = moves[order], largest[order]
    earliest_before = np.append(np.inf, np.minimum.accumulate(largest)[:-1])
    is_best = largest < earliest_before
    moves, largest = moves[is_best], largest[is_best]
    return LayerTradeOff(moves, largest, ideal, find_knee_of_moves(largest, moves, room))
