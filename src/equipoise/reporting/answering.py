"""The answer in one sentence, from what was found."""

from __future__ import annotations

from equipoise.reporting.report import Answer, Balance, Figure, PlacementBalance, PolicyLine, Timeline


def answer(balance: Balance, timeline: Timeline | None, ranks: int, locality: str) -> Answer:
    """Say what the load loses now, what the placement makes of it, and what to expect of windows not yet seen."""
    before, after = balance.placements[0], balance.placements[-1]
    figures = [_about(before, "before"), _about(after, "after"), _about_bound(balance.bound, locality)]
    upcoming = () if timeline is None else _upcoming(timeline)
    figures.extend(upcoming)
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


def _ending(upcoming: tuple[Figure, ...]) -> str:
    if not upcoming:
        return "; what holds on the next window this load cannot tell"
    words = {"next": "on the next window expect", "optimal": "with optimal dispatch"}
    return "; " + ", ".join(f"{words[figure.key]} {share(figure.value)}" for figure in upcoming)


def _about(placement: PlacementBalance, key: str) -> Figure:
    when = "the load it was planned for" if placement.scored == "in-sample" else "this load"
    meaning = f"useful share of GPU time with {placement.name}, on {when}: mean over largest rank time, all layers"
    return Figure(key, placement.balancedness, meaning, placement.scored)


def _about_bound(bound: float, locality: str) -> Figure:
    where = "in these slots, every group on one node" if locality == "strict" else "in these slots"
    meaning = f"proven limit: no placement of whole replicas {where}, without an expert twice on a rank, does better"
    return Figure("bound", bound, meaning, "bound")


def _upcoming(timeline: Timeline) -> tuple[Figure, ...]:
    """Return what the best policy reached on windows that it had not seen: with its split as planned, and with optimal ones."""
    planned = [line for line in timeline.policies if not line.is_fixed and not line.failure and line.mean == line.mean]
    split = [line for line in planned if is_optimal(line, timeline)]
    usual = [line for line in planned if line not in split]
    found = []
    for key, lines, how in (("next", usual, ""), ("optimal", split, ", every window split optimally over the replicas")):
        if lines:
            best = max(lines, key=lambda line: line.mean)
            meaning = f"mean over windows that {best.name} had not seen when it planned{how}; the best of the policies replayed"
            found.append(Figure(key, best.mean, meaning, "next-window"))
    return tuple(found)


def is_optimal(line: PolicyLine, timeline: Timeline) -> bool:
    """Say whether a policy's windows were split optimally, by its own setting or by that of the replay."""
    settings = line.name.split(",")
    own = next((part.partition("=")[2] for part in settings if part.startswith("dispatch=")), timeline.dispatch)
    return own == "optimal" or own.startswith("batch:")
