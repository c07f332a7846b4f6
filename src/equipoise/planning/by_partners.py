"""An exact model of layers with two slots a rank: partners decide everything, so only counts are searched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from equipoise.planning.solver import (
    EXACT_COUNTS,
    OPTIMAL,
    SLACK,
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

_HALVING_ENDS = 1e-4
_ATTEMPTS = 8

Answer = Literal["refuted", "reached", "open"]


def prove_by_partners(layer: Layer, proof: Proof, clock: Clock) -> Proof:
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


def _finish_by_partners(layer: Layer, proof: Proof, clock: Clock) -> Proof:
    """Ask for anything better than the best, again and again, until there is nothing."""
    while not proof.is_optimal and not clock.is_over and proof.largest - proof.bound <= 2 * _HALVING_ENDS * proof.largest:
        before = proof.largest
        proof, answer = _try_limit(layer, proof, before * (1.0 - 0.5 * OPTIMAL), clock)
        if answer == "open" or (answer == "reached" and proof.largest == before):
            break
    return proof


def _try_limit(layer: Layer, proof: Proof, limit: float, clock: Clock) -> tuple[Proof, Answer]:
    """Refute a limit, or reach it (but for experts beside themselves), or leave it open.

    Counts that reach it are looked for among few an expert, which is quick. To refute it all others must be let in: first as
    one choice that is easier to place than each of them, and when that does not refute it, one by one.
    """
    eased = list_choices(layer, limit, EXACT_COUNTS)
    if eased is None:
        return concluded(replace(proof, bound=max(proof.bound, limit))), "refuted"
    few = [[choice for choice in options if choice.is_exact] for options in eased]
    counts = _counts_with_partners(layer, few, limit, clock.at_most(clock.part(2)))
    if few != eased and not counts:
        counts = _counts_with_partners(layer, eased, limit, clock)
        if counts:
            counts = _counts_with_partners(layer, list_choices(layer, limit, layer.num_slots) or [], limit, clock)
    if counts is None:
        return proof, "open"
    if counts:
        return concluded(with_placement(layer, proof, _pair(layer, counts))), "reached"
    return concluded(replace(proof, bound=max(proof.bound, limit))), "refuted"


def _counts_with_partners(layer: Layer, choices: list[list[Choice]], limit: float, clock: Clock) -> list[int] | None:
    """Find counts with a partner for every replica under ``limit``; an empty list when none exist, None when time ran out.

    Replicas above limit - t need partners below t, for every t up to half the limit. Let t rise: each replica is an event,
    where it begins to be light or heavy. Lights may never fall behind the heavies.
    """
    cp_model = load_cp_model()
    model = cp_model.CpModel()
    limit /= float(layer.inverse_speed[0])
    margin = SLACK * limit
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
    solver = make_solver(clock)
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return []
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return [sum(solver.value(amount) for _, amount in amounts) for amounts in replicas]


def _replicas(model: cp_model.CpModel, choice: Choice) -> tuple[Any, Any]:
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


def _pair(layer: Layer, counts: list[int]) -> list[list[int]]:
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
