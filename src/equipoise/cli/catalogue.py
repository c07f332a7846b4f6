"""The commands: what each is for, in one line, and which function runs it. Nothing of them is loaded to list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A command: its line in the list of all, and where its function is."""

    name: str
    line: str
    module: str
    function: str

    @classmethod
    def of(cls, name: str, line: str, function: str = "") -> Entry:
        """Make one whose module bears its name, and by default its function too."""
        return cls(name, line, f"equipoise.cli.{name}", function or name)


GROUPS: dict[str, tuple[Entry, ...]] = {
    "From a load to a placement, in this order": (
        Entry.of("inspect", "What a load holds: size, skew, hottest experts, what seems wrong."),
        Entry.of("plan", "A placement for a load; without --slots, how many slots pay."),
        Entry.of("compare", "Planners, slots or locality side by side; where balance is lost."),
        Entry.of("simulate", "What policies reach on windows they have not seen."),
        Entry.of("report", "All of it on one page, for the browser."),
    ),
    "For the engine that serves": (
        Entry.of("convert", "A placement file of one program as another's."),
        Entry.of("check", "What an engine would refuse or ignore, and whether it pays.", "check_command"),
        Entry.of("metrics", "The engines' own figures of balance, for any placement."),
        Entry.of("schedule", "Who sends what to whom, from one placement to the next."),
        Entry.of("dispatch", "How a batch's tokens are split over the replicas."),
        Entry.of("warmup", "Compile now, once a machine, so that no first call has to."),
    ),
    "For research": (Entry.of("score", "Programs that place experts, run apart, checked and ranked."),),
}
"""Commands by what they are for, in the order of ``equipoise --help``."""

COMMANDS: dict[str, Entry] = {entry.name: entry for entries in GROUPS.values() for entry in entries}

CURVE = "curve"
"""What ``compare --locality`` without a value asks for."""
