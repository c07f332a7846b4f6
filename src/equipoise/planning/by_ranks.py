"""An exact model of any layer: counts and ranks together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.kernels.types import Ints
from equipoise.planning.solver import (
    EXACT_COUNTS,
    Choice,
    Clock,
    Layer,
    Proof,
    concluded,
    list_choices,
    load_cp_model,
    make_solver,
    with_placement,
)

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

_UNITS = 2**30
_ORDERING_EXPERTS = 8


@dataclass(frozen=True, eq=False)
class _RankModel:
    """The model, and its variables: ``held[e, i, r]`` when expert e stands on rank r and has the counts of its choice i."""

    model: cp_model.CpModel
    choices: list[list[Choice]]
    chosen: dict[tuple[int, int], Any]
    held: dict[tuple[int, int, int], Any]
    largest: Any
    unit: float


def prove_by_ranks(layer: Layer, proof: Proof, hint: Ints | None, clock: Clock) -> Proof:
    """Minimise the largest rank time over counts and ranks together."""
    choices = list_choices(layer, proof.largest, EXACT_COUNTS)
    if choices is None:
        return concluded(replace(proof, bound=proof.largest))
    built = _build(layer, choices, proof)
    if hint is not None:
        _give_hint(layer, built, hint)
    solver = make_solver(clock)
    cp_model = load_cp_model()
    status = solver.solve(built.model)
    if status == cp_model.INFEASIBLE:
        return concluded(replace(proof, bound=proof.largest))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        proof = with_placement(layer, proof, _read(layer, built, solver))
    if status == cp_model.OPTIMAL or solver.best_objective_bound > 0:
        proven = solver.best_objective_bound * built.unit * (1.0 - 1e-12)
        proof = replace(proof, bound=max(proof.bound, proven))
    return concluded(proof)


def _build(layer: Layer, choices: list[list[Choice]], proof: Proof) -> _RankModel:
    """Write the model down."""
    model = load_cp_model().CpModel()
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


def _fill_ranks(layer: Layer, built: _RankModel) -> None:
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


def _order_equal_ranks(layer: Layer, built: _RankModel) -> None:
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


def _ordering_weights(layer: Layer) -> list[tuple[int, int]]:
    heaviest = np.argsort(-layer.load, kind="stable")[:_ORDERING_EXPERTS].tolist()
    return [(e, 1 << (len(heaviest) - 1 - i)) for i, e in enumerate(heaviest)]


def _equal_ranks(layer: Layer) -> list[list[int]]:
    """Group the ranks that are alike in slots, speed and node."""
    alike: dict[tuple[int, float, int], list[int]] = {}
    for r in range(layer.num_ranks):
        key = (int(layer.slot_counts[r]), float(layer.inverse_speed[r]), int(layer.node[r]))
        alike.setdefault(key, []).append(r)
    return list(alike.values())


def _keep_groups_together(layer: Layer, built: _RankModel) -> None:
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


def _give_hint(layer: Layer, built: _RankModel, hint: Ints) -> None:
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


def _read(layer: Layer, built: _RankModel, solver: cp_model.CpSolver) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(layer.num_ranks)]
    for (e, _, r), var in built.held.items():
        if solver.value(var):
            found[r].append(e)
    return found
