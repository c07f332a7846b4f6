"""The answer in one sentence, from what was found."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.reporting.report import Answer, Balance, Figure, PlacementBalance, PolicyLine, Timeline


def answer(balance: Balance, timeline: Timeline | None, ranks: int, locality: str) -> Answer:
    """Say what the load loses now, what the placement makes of it, and what to expect of windows not yet seen."""
    before, after = balance.placements[0], balance.placements[-1]
    figures = [_about(before, "before"), _about(after, "after"), _about_bound(balance.bound, locality)]
    upcoming = () if timeline is None else _upcoming(timeline)
    figures.extend(figure for _, figure in upcoming)
    figures.extend(() if timeline is None else _kept(after, timeline))
    now = (
        f"The slowest of {ranks} ranks sets the pace: with {before.name} {share(before.balancedness)} of GPU time is useful, "
        f"with {after.name} {share(after.balancedness)}"
        f"{' of the load it was planned for' if after.scored == 'in-sample' else ''}, "
        f"and no placement {'of this locality' if locality == 'strict' else 'in these slots'} exceeds {share(balance.bound)}"
    )
    return Answer(f"{now}{_ending(upcoming)}.", tuple(figures))


def share(value: float) -> str:
    """Format a share of GPU time for people, as the page shows it."""
    return "-" if value != value else f"{100 * value:.2f}\u00a0%"


def _ending(upcoming: Sequence[tuple[PolicyLine, Figure]]) -> str:
    """Say what to expect; policies plan anew, so these are no promise of the placement above."""
    if not upcoming:
        return "; what holds on the next window this load cannot tell"
    found = []
    for line, figure in upcoming:
        how = "with optimal dispatch " if figure.key == "optimal" else ""
        found.append(f"{how}{share(figure.value)} ({line.name}, {line.moves_in_all:,} moves in all)")
    return f"; planned anew before each window, expect on the next {', '.join(found)}"


def _about(placement: PlacementBalance, key: str) -> Figure:
    when = "the load it was planned for" if placement.scored == "in-sample" else "this load"
    meaning = f"useful share of GPU time with {placement.name}, on {when}: mean over largest rank time, all layers"
    return Figure(key, placement.balancedness, meaning, placement.scored)


def _about_bound(bound: float, locality: str) -> Figure:
    where = "in these slots, every group on one node" if locality == "strict" else "in these slots"
    meaning = f"proven limit: no placement of whole replicas {where}, without an expert twice on a rank, does better"
    return Figure("bound", bound, meaning, "bound")


def _kept(after: PlacementBalance, timeline: Timeline) -> list[Figure]:
    """Return what the placement itself reaches window by window, where it was replayed."""
    planned = after.scored == "in-sample"
    told = "which it was planned on" if planned else "whether it was planned on them is not known"
    meaning = f"mean over windows with {after.name} kept as it is, without moves; {told}"
    lines = [line for line in timeline.policies if line.is_fixed and line.name == after.name and line.mean == line.mean]
    return [Figure("kept", line.mean, meaning, after.scored) for line in lines if not line.failure]


def _upcoming(timeline: Timeline) -> tuple[tuple[PolicyLine, Figure], ...]:
    """Return what the best policy reached on windows that it had not seen: with its split as planned, and with optimal ones."""
    planned = [line for line in timeline.policies if not line.is_fixed and not line.failure and line.mean == line.mean]
    split = [line for line in planned if is_optimal(line, timeline)]
    usual = [line for line in planned if line not in split]
    found = []
    for key, lines, how in (("next", usual, ""), ("optimal", split, ", every window split optimally over the replicas")):
        if lines:
            best = max(lines, key=lambda line: line.mean)
            meaning = (
                f"mean over windows that {best.name}, planned anew before each with {best.moves_in_all:,} moves in all, had "
                f"not seen{how}; the best of the policies replayed"
            )
            found.append((best, Figure(key, best.mean, meaning, "next-window")))
    return tuple(found)


def is_optimal(line: PolicyLine, timeline: Timeline) -> bool:
    """Say whether a policy's windows were split optimally, by its own setting or by that of the replay."""
    settings = line.name.split(",")
    own = next((part.partition("=")[2] for part in settings if part.startswith("dispatch=")), timeline.dispatch)
    return own == "optimal" or own.startswith("batch:")
