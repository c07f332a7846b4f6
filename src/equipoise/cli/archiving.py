"""What ``equipoise score`` keeps of programs and their scores, and how it shows them again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equipoise.cli.output import out, print_json, table
from equipoise.errors import ArgumentError
from equipoise.scoring.archive import Archive, Entry, Problem, Scoring
from equipoise.scoring.judging import ProgramScore
from equipoise.scoring.programs import Program, find_program
from equipoise.scoring.proposals import Proposal, apply_proposal, read_proposal
from equipoise.scoring.protocols import PROTOCOLS, PublicScore
from equipoise.scoring.replayed import difference
from equipoise.scoring.setups import Setup
from equipoise.scoring.verdicts import one_line
from equipoise.trace import LoadTrace

_SHOWN = 6
_LONGEST = 14
_HEADERS = {"equipoise": "equi-\npoise"}


class Patch:
    """A program, a proposal, and the program that the proposal makes of it.

    Raises
    ------
    ArgumentError
        When the proposal does not fit, or there is not one file to change.
    FileError
        When a file cannot be read.
    """

    def __init__(self, programs: Sequence[str], path: str) -> None:
        if len(programs) != 1:
            raise ArgumentError(
                f"--patch with {len(programs)} programs", "a proposal changes one program", "name that one only"
            )
        self.before = find_program(programs[0])
        if self.before.is_builtin:
            raise ArgumentError(f"--patch with {programs[0]}", "a proposal changes a file", "name a Python file")
        self.proposal: Proposal
        self.proposal, self.text = read_proposal(path)
        after = apply_proposal(self.proposal, self.before.text, programs[0])
        self.after = Program(f"{Path(self.before.name).name} + {self.proposal.name}", after)

    def as_dict(self) -> dict[str, Any]:
        """Return what the proposal is, and the ids of both programs."""
        return {
            "name": self.proposal.name,
            "description": self.proposal.description,
            "blocks": len(self.proposal.blocks),
            "before": self.before.sha256,
            "after": self.after.sha256,
        }

    def show(self, found: Sequence[ProgramScore], protocols: Sequence[str]) -> None:
        """Print both programs' scores side by side."""
        before, after = found
        rows = [[name, *_side_by_side(before, after, name)] for name in protocols]
        columns = ["protocol", "score before", "score after", "change", "change of balance, paired"]
        table(f"What {self.proposal.name} changes", columns, rows)


def archived(
    found: Sequence[ProgramScore], names: Mapping[str, str], windows: LoadTrace, setup: Setup, patch: Patch | None
) -> list[Scoring]:
    """Return what the archive keeps of scored programs, by the names that tables give them."""
    problem = Problem.of(windows, asdict(setup))
    scorings = []
    for score in found:
        held = score.as_dict()
        origin: dict[str, Any] = {"name": names[score.program.name]}
        if patch is not None and score.program == patch.after:
            proposal = patch.proposal
            origin = {
                "name": proposal.name,
                "description": proposal.description,
                "parent": patch.before,
                "proposal": patch.text,
            }
        scorings.append(Scoring(score.program, problem, held["verdict"], held["scores"], **origin))
    return scorings


def look(archive: Archive, *, show: str | None, best: bool, protocol: str | None, json: bool) -> None:
    """Print one program where ``show`` is the start of its id, the best ones where ``best``, otherwise everything."""
    if show is not None:
        _show_program(archive, show, json=json)
    elif best:
        _show_best(archive, protocol, json=json)
    else:
        _show_history(archive, json=json)


def _show_history(archive: Archive, *, json: bool) -> None:
    entries = archive.history()
    if json:
        print_json({"archive": str(archive.path), "history": [entry.as_dict() for entry in entries]})
    elif entries:
        _show_entries(f"{archive.path}, the newest last", entries)
    else:
        out.print(f"{archive.path} holds no program yet", soft_wrap=True)


def _show_program(archive: Archive, start_of_id: str, *, json: bool) -> None:
    text, entries = archive.show(start_of_id)
    whole = next(entry.id if entry.id.startswith(start_of_id.lower()) else entry.parent for entry in entries)
    own, children = ([entry for entry in entries if (entry.id == whole) is is_own] for is_own in (True, False))
    if json:
        content = {"id": whole, "text": text, "scorings": own, "children": children}
        print_json({"archive": str(archive.path), **{key: _as_plain(value) for key, value in content.items()}})
        return
    out.print(f"program {whole}", soft_wrap=True)
    for entry in {(entry.parent, entry.proposal): entry for entry in own if entry.parent}.values():
        what = f"proposed as {entry.name}, a change to {_short(entry.parent)}: {entry.description}"
        out.print(_lines(what), soft_wrap=True)
        out.print(_lines(str(entry.proposal).rstrip()), soft_wrap=True)
    for title, listed in (("its scores, the newest last", own), ("what was made of it", children)):
        if listed:
            _show_entries(title, listed)
    out.print("the program:", style="bold")
    out.print(_lines(text.rstrip()), soft_wrap=True)


def _show_best(archive: Archive, protocol: str | None, *, json: bool) -> None:
    found = archive.best(protocol)
    if json:
        best = [
            {"protocol": one.protocol, "score": one.score, "out_of": one.out_of, "entry": one.entry.as_dict()} for one in found
        ]
        print_json({"archive": str(archive.path), "best": best})
        return
    if not found:
        out.print(f"{archive.path} holds no accepted program{f' under {protocol}' if protocol else ''} yet", soft_wrap=True)
        return
    problems = {one.entry.problem.fingerprint: str(one.entry.problem) for one in found}
    for fingerprint, problem in problems.items():
        rows = [
            [one.protocol, f"{one.score:.4f}", f"{one.out_of}", _short(one.entry.id), one_line(one.entry.name)]
            for one in found
            if one.entry.problem.fingerprint == fingerprint
        ]
        table(f"Best on {problem}", ["protocol", "score", "of scorings", "id", "name"], rows)
    out.print(
        "scores on other traces or setups are never compared; v1, v3 and v4 count time, that of this machine", soft_wrap=True
    )


def _show_entries(title: str, entries: Sequence[Entry]) -> None:
    protocols = [name for name in PROTOCOLS if any(name in entry.scores for entry in entries)]
    problems = {fingerprint: f"{number}" for number, fingerprint in enumerate(dict.fromkeys(map(_fingerprint, entries)), 1)}
    rows = [
        [
            f"{_short(entry.id)} {_cut(entry.name)}",
            _short(entry.parent) or "-",
            problems[_fingerprint(entry)],
            *(_figure(entry, name) for name in protocols),
        ]
        for entry in entries
    ]
    table(title, ["id, name", "parent", "on", *(_HEADERS.get(name, name) for name in protocols)], rows)
    described = {_fingerprint(entry): str(entry.problem) for entry in entries}
    for fingerprint, number in problems.items():
        out.print(f"on {number}: {described[fingerprint]}", soft_wrap=True)
    for entry in entries:
        if not entry.is_accepted:
            out.print(f"{_short(entry.id)} was refused: {one_line(_verdict(entry.verdict), 2000)}", soft_wrap=True)


def _fingerprint(entry: Entry) -> str:
    return entry.problem.fingerprint


def _figure(entry: Entry, protocol: str) -> str:
    score = entry.score(protocol) if entry.is_accepted else None
    return "-" if score is None else f"{score:.{3 if abs(score) < 10 else 2}f}"


def _cut(name: str) -> str:
    shown = one_line(name)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _lines(text: str) -> str:
    """Return lines with what is not printable escaped, but for tabs."""
    return "\n".join("\t".join(one_line(part, 10 * len(part)) for part in line.split("\t")) for line in text.splitlines())


def _verdict(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['kind']}: {verdict['found']}; {verdict['rule']}; {verdict['next_step']}"


def _short(id: str) -> str:
    return id[:_SHOWN]


def _as_plain(value: Any) -> Any:
    return [entry.as_dict() for entry in value] if isinstance(value, list) else value


def score_shown(score: ProgramScore, protocol: str) -> str:
    """Return a score for people: a dash where there is none, or the program never answered."""
    made = score.scores[protocol]
    return "-" if made is None or not score.run.answers else f"{made.score:.4f}"


def change_shown(mean: float, low: float, high: float) -> str:
    """Return a mean difference with its interval for people: a dash where there are too few pairs for one."""
    return "-" if math.isnan(high - low) else f"{mean:+.4f} ± {(high - low) / 2:.4f}"


def _side_by_side(before: ProgramScore, after: ProgramScore, protocol: str) -> list[str]:
    """Return scores, and their change where the protocol refuses neither."""
    shown = [score_shown(score, protocol) for score in (before, after)]
    one, other = before.scores[protocol], after.scores[protocol]
    if one is None or other is None or any(isinstance(made, PublicScore) and made.rejected for made in (one, other)):
        return [*shown, "-", "-"]
    found = difference(other.per_pair, one.per_pair)
    return [*shown, f"{other.score - one.score:+.4f}", change_shown(found.mean, found.low, found.high)]
