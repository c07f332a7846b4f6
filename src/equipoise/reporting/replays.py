"""Over time: policies and placements on windows that they had not seen, and where each policy loses balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from equipoise.cluster import Cluster
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.reporting.asked import Asked, NamedPlacement, Omissions
from equipoise.reporting.report import DomainChange, Losses, LossTerm, PolicyLine, Timeline, numbers
from equipoise.reporting.shrinking import shrink_line
from equipoise.simulating.explaining import MEANINGS, Chain, explain
from equipoise.simulating.fingerprints import fingerprint_windows
from equipoise.simulating.naming import make_policy
from equipoise.simulating.policies import FixedPolicy, PlannedPolicy, Policy, check_fits
from equipoise.simulating.replaying import simulate
from equipoise.simulating.results import PolicyResult, Simulation, paired_difference
from equipoise.trace import LoadTrace

MOST_EXPLAINED = 200
"""Windows that losses are taken apart on, the last ones: each takes a plan and two bounds more than its replay."""


def check_simulation(simulation: Simulation, trace: LoadTrace, cluster: Cluster) -> None:
    """Refuse a simulation of other windows, ranks, slots, layers or loads than these, and name the first that differs.

    Of files written before slots and fingerprints were kept, what they have is compared.

    Raises
    ------
    ArgumentError
        On a mismatch, and where no policy of it went all the way.
    """
    whole = [result for result in simulation.policies if not result.failure]
    if not whole:
        raise ArgumentError("the simulation has no policy that went all the way", "one at least must have", "simulate again")
    _same(simulation.num_windows, trace.num_steps - 1, "scored windows", "the load has that many after its first:")
    _same(simulation.num_ranks, cluster.num_ranks, "ranks", "the placement has")
    slots = {simulation.num_slots, *(result.num_slots for result in whole)}
    if cluster.num_slots not in slots:
        _same(simulation.num_slots or whole[0].num_slots, cluster.num_slots, "slots", "the placement has")
    speeds = np.asarray(cluster.rank_speeds)[np.asarray(cluster.alive)]
    ideal = trace.load[1:].sum(axis=(0, 2), dtype=np.float64) / float(speeds.sum())
    for result in whole:
        _same(result.ideal_by_layer.size, trace.num_layers, "layers", "the load has")
        _same(result.balancedness.size, simulation.num_windows, f"windows of {result.name}", "it says it scored")
        far = np.flatnonzero(np.abs(result.ideal_by_layer - ideal) > 1e-6 * np.maximum(ideal, 1.0))
        if far.size:
            layer = int(far[0])
            raise ArgumentError(
                f"the simulation met {result.ideal_by_layer[layer]:,.10g} tokens a rank in layer {trace.layer_ids[layer]}",
                f"this load has {ideal[layer]:,.10g} there, so it is of another trace, or of other windows or speeds",
                "simulate this load with the same --window, or leave --simulation out",
            )
    if simulation.fingerprint and simulation.fingerprint != (own := fingerprint_windows(trace.load)):
        raise ArgumentError(
            f"the simulation met windows with the fingerprint {simulation.fingerprint}",
            f"those of this load have {own}: layers add up to the same, but experts or the order of windows differ",
            "simulate this load with the same --window, or leave --simulation out",
        )


def _same(found: int, expected: int, what: str, rule: str) -> None:
    if found != expected:
        raise ArgumentError(
            f"the simulation has {found} {what}",
            f"{rule} {expected}",
            "simulate this load with the same --window, --ranks and --slots, or leave --simulation out",
        )


def replay(
    trace: LoadTrace,
    named: Sequence[NamedPlacement],
    asked: Asked,
    simulation: Simulation | None,
    omissions: Omissions,
    progress: Callable[[], object],
) -> tuple[Timeline | None, tuple[Losses, ...]]:
    """Return balance window by window, and each policy's chain of losses; none of it where the load has no next window."""
    if not has_windows(trace):
        omissions.append(("over time", _why_no_windows(trace)))
        omissions.append(("where balance is lost", _why_no_windows(trace)))
        return None, ()
    cluster = named[-1].placement.cluster
    planned = _policies(asked)
    if simulation is None:
        replayed = [*planned, *_kept(trace, cluster, named, omissions)]
        simulation = simulate(trace, cluster, replayed, dispatch=asked.dispatch, seed=asked.seed, progress=progress)
    else:
        planned = _replayed(simulation, planned, omissions)
    names = {one.name for one in planned}
    losses = _losses(trace, cluster, planned, simulation, asked, omissions, progress)
    return _timeline(trace, simulation, names), losses


def what_was_not_compared(simulation: Simulation | None) -> tuple[str, ...]:
    """Say what a simulation's file is too old to tell."""
    if simulation is None or simulation.fingerprint:
        return ()
    return (
        "the simulation's file is too old to hold a fingerprint: windows, ranks, slots and tokens a layer were compared, but "
        "not experts and the order of windows; simulate again to be sure",
    )


def has_windows(trace: LoadTrace) -> bool:
    """Say whether there is a next window to score plans on."""
    return trace.num_steps > 1 and trace.is_in_order


def _why_no_windows(trace: LoadTrace) -> str:
    if trace.num_steps < 2:
        return "the load is one window; what holds on the next one takes two or more, recorded one after the other"
    return "its steps may not follow one another in time (docs/semantics.md, 21); if you know that they do, add --in-order"


def _kept(trace: LoadTrace, cluster: Cluster, named: Sequence[NamedPlacement], omissions: Omissions) -> list[FixedPolicy]:
    """Return the placements as policies that never plan, those that serve this load on these ranks."""
    found = []
    for one in named:
        try:
            check_fits(one.placement, cluster, trace.num_layers, trace.num_experts)
        except EquipoiseError as error:
            omissions.append((f"{one.name} over time", str(error)))
        else:
            found.append(FixedPolicy(one.placement, one.name))
    return found


def _policies(asked: Asked) -> list[Policy]:
    """Return what is replayed; rules of locality are the plan's, where policies can keep to them."""
    kept = {"num_groups": asked.num_groups, "locality": "strict" if asked.locality == "strict" else "none"}
    return [make_policy(policy, **kept) if isinstance(policy, str) else policy for policy in asked.policies]


def _replayed(simulation: Simulation, planned: list[Policy], omissions: Omissions) -> list[Policy]:
    """Return the simulation's own policies, as far as their names tell how they plan."""
    found: list[Policy] = []
    for result in simulation.policies:
        known = next((policy for policy in planned if policy.name == result.name), None)
        try:
            found.append(known or make_policy(result.name))
        except EquipoiseError:
            omissions.append((f"where {result.name} loses balance", "its name in the simulation does not tell how it plans"))
    return found


def _timeline(trace: LoadTrace, simulation: Simulation, planned: set[str]) -> Timeline:
    lines = tuple(_policy_line(result, simulation.policies[0], result.name not in planned) for result in simulation.policies)
    each = shrink_line(np.zeros(simulation.num_windows))[1]
    return Timeline(
        windows=tuple(range(1, trace.num_steps, each)),
        each=each,
        dispatch=simulation.dispatch,
        policies=lines,
        changes=_changes(trace),
    )


def _policy_line(result: PolicyResult, first: PolicyResult, is_fixed: bool) -> PolicyLine:
    gain = paired_difference(result, first)
    return PolicyLine(
        name=result.name,
        slots=result.num_slots,
        is_fixed=is_fixed,
        mean=result.mean_balancedness,
        standard_error=result.standard_error,
        fifth_percentile=result.mean_fifth_percentile,
        worst_layer=result.mean_worst_layer,
        moves_per_window=float(result.moves.mean()) if result.moves.size else 0.0,
        moves_in_all=int(result.moves.sum()),
        gain=gain.mean,
        gain_low=gain.low,
        gain_high=gain.high,
        balancedness=numbers(shrink_line(result.balancedness)[0]),
        moves=numbers(shrink_line(result.moves.astype(np.float64))[0]),
        failure=result.failure,
    )


def domain_of(label: str) -> str:
    """Return a label without what stands after its last slash, where recorders number the windows of a domain.

    >>> domain_of("code/07"), domain_of("chat")
    ('code', 'chat')
    """
    domain, slash, _ = label.rpartition("/")
    return domain if slash and domain else label


def _changes(trace: LoadTrace) -> tuple[DomainChange, ...]:
    if trace.labels is None:
        return ()
    domains = [domain_of(label) for label in trace.labels]
    found = [DomainChange(0, domains[0])]
    found += [DomainChange(w + 1, now) for w, (past, now) in enumerate(pairwise(domains)) if now != past]
    return tuple(found)


def _losses(
    trace: LoadTrace,
    cluster: Cluster,
    planned: Sequence[Policy],
    simulation: Simulation,
    asked: Asked,
    omissions: Omissions,
    progress: Callable[[], object],
) -> tuple[Losses, ...]:
    stopped = {result.name for result in simulation.policies if result.failure}
    explained = [one for one in planned if isinstance(one, PlannedPolicy) and one.name not in stopped]
    if not explained:
        omissions.append(("where balance is lost", "no policy that plans went all the way"))
        return ()
    recent = trace.last(min(trace.num_steps, MOST_EXPLAINED))
    try:
        chains = explain(recent, cluster, explained, dispatch=simulation.dispatch, seed=asked.seed, progress=progress)
    except EquipoiseError as error:
        omissions.append(("where balance is lost", str(error)))
        return ()
    return tuple(_loss(chain) for chain in chains)


def _loss(chain: Chain) -> Losses:
    reached, total = chain.balancedness, chain.total
    return Losses(
        policy=chain.policy,
        slots=chain.num_slots,
        dispatch=chain.dispatch,
        windows=int(chain.tokens.shape[1]),
        total=total,
        terms=tuple(
            LossTerm(term, MEANINGS[term], tokens, tokens / total if total > 0 else 0.0, reached[term])
            for term, tokens in chain.terms.items()
        ),
    )
