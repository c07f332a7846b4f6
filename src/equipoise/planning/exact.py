"""Proofs by CP-SAT: a better lower bound for one layer, a better placement, or the certificate that there is none.

Why a bound found in integers holds for the real numbers
    Every time that enters a model is divided by a unit and rounded *down*. A placement whose largest rank time is M then has
    no rank above M / unit in the model, so the model's least value, times the unit, is at most the least M; and a bound on
    the former bounds the latter. Rules that cut off placements are relaxed by :data:`_SLACK`, far more than float rounding.
    Placements that the solver finds are never believed: their largest rank time is summed anew in float64.

The search stops by the clock, so its results, unlike those of :func:`equipoise.plan`, need not repeat. They are never worse
than what was given.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from equipoise.errors import MissingExtraError
from equipoise.kernels.types import Floats, Ints

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

_SLACK = 1e-9
_UNITS = 2**30
_OPTIMAL = 1e-8
_EXACT_COUNTS = 6
_ORDERING_EXPERTS = 8
_HALVING_ENDS = 1e-4
_LEAST_SECONDS = 0.05
_ATTEMPTS = 8

Answer = Literal["refuted", "reached", "open"]


@dataclass(frozen=True, eq=False)
class Proof:
    """What is proven of one layer.

    Parameters
    ----------
    bound : float
        No placement has a smaller largest rank time.
    largest : float
        The smallest largest rank time that was reached, by the solver or before.
    expert_of_slot : int64 [slots] or None
        A placement that reaches ``largest``, in rank order, experts rising within a rank; None when the solver found none as
        good as what was known.
    is_optimal : bool
        ``bound`` meets ``largest``, but for one part in 10^8 that rounding to the model's integers leaves open.
    """

    bound: float
    largest: float
    expert_of_slot: Ints | None
    is_optimal: bool


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as the models see it; ``node`` of a rank and ``group`` of an expert are all 0 without a locality rule."""

    load: Floats
    slot_counts: Ints
    inverse_speed: Floats
    node: Ints
    group: Ints

    @property
    def num_slots(self) -> int:
        return int(self.slot_counts.sum())

    @property
    def num_ranks(self) -> int:
        return len(self.slot_counts)

    @property
    def most_replicas(self) -> int:
        """Ranks of the largest node: an expert's replicas stay on one, one a rank."""
        return int(np.bincount(self.node).max())

    @property
    def is_paired(self) -> bool:
        """Two slots on every rank, equal speeds, no locality: partners decide everything."""
        equal_speeds = bool((self.inverse_speed == self.inverse_speed[0]).all())
        return equal_speeds and bool((self.slot_counts == 2).all()) and not self.group.any()

    def largest_time(self, experts_of_rank: list[list[int]]) -> float:
        """Largest rank time of a placement, in float64."""
        count = np.bincount([e for rank in experts_of_rank for e in rank], minlength=len(self.load))
        share = self.load / count
        return max(
            float(share[rank].sum() * inverse) for rank, inverse in zip(experts_of_rank, self.inverse_speed, strict=True)
        )


@dataclass(frozen=True)
class _Choice:
    """Counts from which an expert may choose, and its load per replica with ``most``, the least of them all."""

    fewest: int
    most: int
    share: float

    @property
    def is_exact(self) -> bool:
        return self.fewest == self.most


@dataclass(frozen=True)
class _Clock:
    """When to stop, and with how many threads to search until then."""

    end: float
    num_workers: int

    @property
    def left(self) -> float:
        return self.end - monotonic()

    @property
    def is_over(self) -> bool:
        return self.left < _LEAST_SECONDS

    def part(self, parts: int) -> float:
        """Return the seconds of one of so many equal parts of the time left."""
        return self.left / parts

    def at_most(self, seconds: float) -> _Clock:
        """Return a clock that stops after so many seconds, if this one does not stop before."""
        return replace(self, end=min(self.end, monotonic() + seconds))


def prove_layer(
    load: Floats,
    slot_counts: Ints,
    inverse_speed: Floats,
    *,
    largest: float,
    bound: float,
    node_of_rank: Ints | None = None,
    group_of_expert: Ints | None = None,
    hint: Ints | None = None,
    seconds: float,
    num_workers: int = 4,
) -> Proof:
    """Prove that one layer's placement is the best there is, or find a better one, or at least a better bound.

    Parameters
    ----------
    load : float64 [experts]
        Tokens of each expert.
    slot_counts : int64 [ranks]
        Slots of each rank; all are filled, and no rank holds an expert twice.
    inverse_speed : float64 [ranks]
        Time per token.
    largest, bound : float
        A largest rank time that was reached, and a proven lower bound.
    node_of_rank, group_of_expert : int64 [ranks] and [experts], optional
        Strict locality: each group with all its replicas on one node, equally many groups on each node.
    hint : int64 [slots], optional
        The placement that reached ``largest``, in rank order.
    seconds : float
        How long to search; setting up large models may take longer.
    num_workers : int
        Threads of the solver. It runs other strategies with each, so that four find more than one even on fewer cores.

    Raises
    ------
    MissingExtraError
        Without ortools.
    """
    check_solver()
    node, group = np.zeros(len(slot_counts), np.int64), np.zeros(len(load), np.int64)
    if node_of_rank is not None and group_of_expert is not None:
        node, group = np.unique(node_of_rank, return_inverse=True)[1], np.unique(group_of_expert, return_inverse=True)[1]
    layer = _Layer(load, slot_counts, inverse_speed, node, group)
    clock = _Clock(monotonic() + seconds, num_workers)
    proof = _concluded(Proof(bound, largest, None, is_optimal=False))
    if not proof.is_optimal and layer.is_paired:
        proof = _prove_by_partners(layer, proof, clock)
    if not proof.is_optimal and not clock.is_over:
        proof = _prove_by_ranks(layer, proof, hint if proof.expert_of_slot is None else proof.expert_of_slot, clock)
    return proof


def _concluded(proof: Proof) -> Proof:
    """Say whether bound and largest meet. A bound above what was reached, by more than rounding, is a fault: not hidden."""
    if proof.bound > proof.largest * (1.0 + _OPTIMAL):
        raise AssertionError(
            f"a lower bound of {proof.bound} exceeds {proof.largest}, which was reached: please report this load"
        )
    bound = min(proof.bound, proof.largest)
    return replace(proof, bound=bound, is_optimal=bound >= proof.largest * (1.0 - _OPTIMAL))


def _with_placement(layer: _Layer, proof: Proof, experts_of_rank: list[list[int]]) -> Proof:
    """Take a placement that is strict, and at least as good as the best so far."""
    if any(len(set(rank)) < len(rank) for rank in experts_of_rank):
        return proof
    reached = layer.largest_time(experts_of_rank)
    if reached > proof.largest:
        return proof
    slots = np.array([e for rank in experts_of_rank for e in sorted(rank)], np.int64)
    return replace(proof, largest=reached, expert_of_slot=slots)


def _choices(layer: _Layer, limit: float, num_exact: int) -> list[list[_Choice]] | None:
    """List the counts each expert may have when no rank's time is above ``limit``; None when the slots do not suffice.

    An expert has at least as many replicas as keep one of them within the limit on the fastest rank, and at most as many as
    the others leave. Counts after the first ``num_exact`` are one choice, as light as the largest of them.
    """
    room = limit / float(layer.inverse_speed.min()) * (1.0 + _SLACK)
    fewest = [max(1, ceil(x / room)) for x in layer.load.tolist()]
    spare = layer.num_slots - sum(fewest)
    if spare < 0 or max(fewest) > layer.most_replicas:
        return None
    found = []
    for x, n in zip(layer.load.tolist(), fewest, strict=True):
        most = min(n + spare, layer.most_replicas)
        exact = [_Choice(c, c, x / c) for c in range(n, min(n + num_exact, most + 1))]
        rest = [_Choice(n + num_exact, most, x / most)] if most >= n + num_exact else []
        found.append(exact + rest)
    return found


# --- two slots a rank ---------------------------------------------------------------------------------------------------------


def _prove_by_partners(layer: _Layer, proof: Proof, clock: _Clock) -> Proof:
    """Halve the range between bound and largest from above, then, where limits stayed open, from below.

    For given counts the largest replica with the smallest, the second with the second smallest, and so on is the best pairing
    but for an expert beside itself. So only counts are searched: those for which every replica has a partner.
    """
    share = clock.part(_ATTEMPTS)
    low, high, lowest_open = proof.bound, proof.largest, np.inf
    while high - low > _HALVING_ENDS * high and not clock.is_over:
        limit = 0.5 * (low + high)
        proof, answer = _try_limit(layer, proof, limit, clock.at_most(share))
        if answer == "reached":
            high = min(limit, proof.largest)
        else:
            low = limit
        if answer == "open":
            lowest_open = min(lowest_open, limit)
    low, high = proof.bound, min(lowest_open, high)
    while high - low > _HALVING_ENDS * high and not clock.is_over:
        limit = 0.5 * (low + high)
        proof, answer = _try_limit(layer, proof, limit, clock.at_most(share))
        if answer == "refuted":
            low = limit
        else:
            high = limit
    return _finish_by_partners(layer, proof, clock)


def _finish_by_partners(layer: _Layer, proof: Proof, clock: _Clock) -> Proof:
    """Ask for anything better than the best, again and again, until there is nothing."""
    while not proof.is_optimal and not clock.is_over and proof.largest - proof.bound <= 2 * _HALVING_ENDS * proof.largest:
        before = proof.largest
        proof, answer = _try_limit(layer, proof, before * (1.0 - 0.5 * _OPTIMAL), clock)
        if answer == "open" or (answer == "reached" and proof.largest == before):
            break
    return proof


def _try_limit(layer: _Layer, proof: Proof, limit: float, clock: _Clock) -> tuple[Proof, Answer]:
    """Refute a limit, or reach it (but for experts beside themselves), or leave it open.

    Counts that reach it are looked for among few an expert, which is quick. To refute it all others must be let in: first as
    one choice that is easier to place than each of them, and when that does not refute it, one by one.
    """
    eased = _choices(layer, limit, _EXACT_COUNTS)
    if eased is None:
        return _concluded(replace(proof, bound=max(proof.bound, limit))), "refuted"
    few = [[choice for choice in options if choice.is_exact] for options in eased]
    counts = _counts_with_partners(layer, few, limit, clock.at_most(clock.part(2)))
    if few != eased and not counts:
        counts = _counts_with_partners(layer, eased, limit, clock)
        if counts:
            counts = _counts_with_partners(layer, _choices(layer, limit, layer.num_slots) or [], limit, clock)
    if counts is None:
        return proof, "open"
    if counts:
        return _concluded(_with_placement(layer, proof, _pair(layer, counts))), "reached"
    return _concluded(replace(proof, bound=max(proof.bound, limit))), "refuted"


def _counts_with_partners(layer: _Layer, choices: list[list[_Choice]], limit: float, clock: _Clock) -> list[int] | None:
    """Find counts with a partner for every replica under ``limit``; an empty list when none exist, None when time ran out.

    Replicas above limit - t need partners below t, for every t up to half the limit. Let t rise: each replica is an event,
    where it begins to be light or heavy. Lights may never fall behind the heavies.
    """
    cp_model = _load_cp_model()
    model = cp_model.CpModel()
    limit /= float(layer.inverse_speed[0])
    margin = _SLACK * limit
    replicas = [[_replicas(model, choice) for choice in options] for options in choices]
    events = []
    for options, amounts in zip(choices, replicas, strict=True):
        model.add_exactly_one(taken for taken, _ in amounts)
        for choice, (_, amount) in zip(options, amounts, strict=True):
            if choice.share > 0.5 * limit + margin:
                events.append((limit - choice.share + margin, -1, amount))
            else:
                events.append((choice.share - margin, 1, amount))
    model.add(cp_model.LinearExpr.sum([amount for amounts in replicas for _, amount in amounts]) == layer.num_slots)
    _keep_lights_ahead(model, sorted(events, key=lambda event: (event[0], -event[1])), layer.num_slots)
    solver = _solver(clock)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return []
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [sum(solver.value(amount) for _, amount in amounts) for amounts in replicas]


def _replicas(model: cp_model.CpModel, choice: _Choice) -> tuple[Any, Any]:
    """Return whether a choice is taken, and how many replicas it then gives, as variables."""
    taken = model.new_bool_var("")
    if choice.is_exact:
        return taken, choice.fewest * taken
    amount = model.new_int_var(0, choice.most, "")
    model.add(amount >= choice.fewest * taken)
    model.add(amount <= choice.most * taken)
    return taken, amount


def _keep_lights_ahead(model: cp_model.CpModel, events: list[tuple[float, int, Any]], num_slots: int) -> None:
    """Carry lights minus heavies along the events, never below 0; looked at where the next event is light again."""
    ahead: Any = 0
    terms: list[Any] = []
    for i, (_, sign, amount) in enumerate(events):
        terms.append(sign * amount)
        if sign < 0 and (i + 1 == len(events) or events[i + 1][1] > 0):
            after = model.new_int_var(0, num_slots, "")
            model.add(after == ahead + sum(terms))
            ahead, terms = after, []


def _pair(layer: _Layer, counts: list[int]) -> list[list[int]]:
    """Put the largest replica with the smallest and so on; an expert beside itself changes places where that costs least."""
    share = [x / c for x, c in zip(layer.load.tolist(), counts, strict=True)]
    order = sorted((e for e, c in enumerate(counts) for _ in range(c)), key=lambda e: (-share[e], e))
    half = len(order) // 2
    heavy, light = order[:half], order[half:][::-1]
    for i in range(half):
        if heavy[i] != light[i]:
            continue
        others = [j for j in range(half) if heavy[j] != light[i] and heavy[i] != light[j]]
        costs = [max(share[heavy[i]] + share[light[j]], share[heavy[j]] + share[light[i]]) for j in others]
        if costs:
            j = others[costs.index(min(costs))]
            light[i], light[j] = light[j], light[i]
    return [[a, b] for a, b in zip(heavy, light, strict=True)]


# --- any ranks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _RankModel:
    """The model, and its variables: ``held[e, i, r]`` when expert e stands on rank r and has the counts of its choice i."""

    model: cp_model.CpModel
    choices: list[list[_Choice]]
    chosen: dict[tuple[int, int], Any]
    held: dict[tuple[int, int, int], Any]
    largest: Any
    unit: float


def _prove_by_ranks(layer: _Layer, proof: Proof, hint: Ints | None, clock: _Clock) -> Proof:
    """Minimise the largest rank time over counts and ranks together."""
    choices = _choices(layer, proof.largest, _EXACT_COUNTS)
    if choices is None:
        return _concluded(replace(proof, bound=proof.largest))
    built = _build(layer, choices, proof)
    if hint is not None:
        _give_hint(layer, built, hint)
    solver = _solver(clock)
    cp_model = _load_cp_model()
    status = solver.solve(built.model)
    if status == cp_model.INFEASIBLE:
        return _concluded(replace(proof, bound=proof.largest))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        proof = _with_placement(layer, proof, _read(layer, built, solver))
    if status == cp_model.OPTIMAL or solver.best_objective_bound > 0:
        proven = solver.best_objective_bound * built.unit * (1.0 - 1e-12)
        proof = replace(proof, bound=max(proof.bound, proven))
    return _concluded(proof)


def _build(layer: _Layer, choices: list[list[_Choice]], proof: Proof) -> _RankModel:
    """Write the model down."""
    model = _load_cp_model().CpModel()
    unit = proof.largest / _UNITS
    least = int(proof.bound / unit * (1.0 - 1e-12))
    largest = model.new_int_var(least, _UNITS + 1, "largest")
    built = _RankModel(model, choices, {}, {}, largest, unit)
    for e, options in enumerate(choices):
        for i in range(len(options)):
            built.chosen[e, i] = model.new_bool_var("")
        model.add_exactly_one(built.chosen[e, i] for i in range(len(options)))
    _fill_ranks(layer, built)
    _order_equal_ranks(layer, built)
    if layer.group.any():
        _keep_groups_together(layer, built)
    model.minimize(largest)
    return built


def _fill_ranks(layer: _Layer, built: _RankModel) -> None:
    """Each rank's slots filled, within the largest time; each expert on as many ranks as its choice says."""
    model = built.model
    on_rank: list[list[Any]] = [[] for _ in layer.slot_counts]
    time_on_rank: list[list[Any]] = [[] for _ in layer.slot_counts]
    for e, options in enumerate(built.choices):
        for i, option in enumerate(options):
            replicas = []
            for r, inverse in enumerate(layer.inverse_speed.tolist()):
                units = int(option.share * inverse / built.unit * (1.0 - 1e-12))
                if units > _UNITS + 1:
                    continue
                var = built.held[e, i, r] = model.new_bool_var("")
                replicas.append(var)
                on_rank[r].append(var)
                time_on_rank[r].append(units * var)
            model.add(sum(replicas) >= option.fewest * built.chosen[e, i])
            model.add(sum(replicas) <= option.most * built.chosen[e, i])
    for r, slots in enumerate(layer.slot_counts.tolist()):
        model.add(sum(on_rank[r]) == slots)
        model.add(sum(time_on_rank[r]) <= built.largest)


def _order_equal_ranks(layer: _Layer, built: _RankModel) -> None:
    """Of ranks that could change names, the first holds the more of the heaviest experts: fewer equal placements to visit."""
    for ranks in _equal_ranks(layer):
        key = [
            sum(
                weight * built.held[e, i, r]
                for e, weight in _ordering_weights(layer)
                for i in range(len(built.choices[e]))
                if (e, i, r) in built.held
            )
            for r in ranks
        ]
        for first, second in itertools.pairwise(key):
            built.model.add(first >= second)


def _ordering_weights(layer: _Layer) -> list[tuple[int, int]]:
    heaviest = np.argsort(-layer.load, kind="stable")[:_ORDERING_EXPERTS].tolist()
    return [(e, 1 << (len(heaviest) - 1 - i)) for i, e in enumerate(heaviest)]


def _equal_ranks(layer: _Layer) -> list[list[int]]:
    """Group the ranks that are alike in slots, speed and node."""
    alike: dict[tuple[int, float, int], list[int]] = {}
    for r in range(layer.num_ranks):
        key = (int(layer.slot_counts[r]), float(layer.inverse_speed[r]), int(layer.node[r]))
        alike.setdefault(key, []).append(r)
    return list(alike.values())


def _keep_groups_together(layer: _Layer, built: _RankModel) -> None:
    """Put each group on one node, equally many on each, and an expert only where its group is."""
    model = built.model
    groups, nodes = int(layer.group.max()) + 1, int(layer.node.max()) + 1
    home = [[model.new_bool_var("") for _ in range(nodes)] for _ in range(groups)]
    for of_group in home:
        model.add_exactly_one(of_group)
    for node in range(nodes):
        model.add(sum(of_group[node] for of_group in home) == groups // nodes)
    for (e, _, r), var in built.held.items():
        model.add_implication(var, home[layer.group[e]][layer.node[r]])


def _give_hint(layer: _Layer, built: _RankModel, hint: Ints) -> None:
    """Start the search from a placement, its equal ranks renamed into the order that the model asks for."""
    ends = np.cumsum(layer.slot_counts)[:-1]
    held = [set(part.tolist()) for part in np.split(hint, ends)]
    for ranks in _equal_ranks(layer):
        in_order = sorted((held[r] for r in ranks), key=lambda rank: -sum(w for e, w in _ordering_weights(layer) if e in rank))
        for r, experts in zip(ranks, in_order, strict=True):
            held[r] = experts
    count = np.bincount(hint, minlength=len(layer.load))
    for (e, i), var in built.chosen.items():
        built.model.add_hint(var, built.choices[e][i].fewest <= count[e] <= built.choices[e][i].most)
    for (e, i, r), var in built.held.items():
        has_count = built.choices[e][i].fewest <= count[e] <= built.choices[e][i].most
        built.model.add_hint(var, bool(has_count) and e in held[r])


def _read(layer: _Layer, built: _RankModel, solver: cp_model.CpSolver) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(layer.num_ranks)]
    for (e, _, r), var in built.held.items():
        if solver.value(var):
            found[r].append(e)
    return found


def _solver(clock: _Clock) -> cp_model.CpSolver:
    solver: cp_model.CpSolver = _load_cp_model().CpSolver()
    solver.parameters.max_time_in_seconds = max(clock.left, _LEAST_SECONDS)
    solver.parameters.num_workers = clock.num_workers
    solver.parameters.random_seed = 0
    return solver


def check_solver() -> None:
    """Refuse to go on without ortools.

    Raises
    ------
    MissingExtraError
        With the line that installs it.
    """
    _load_cp_model()


def _load_cp_model() -> Any:
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise MissingExtraError(
            "ortools is not installed", "proofs are made by its CP-SAT solver", 'pip install "equipoise[exact]"'
        ) from error
    return cp_model
