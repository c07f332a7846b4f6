"""Race our planner against the peers' own.

    make bench-peers                                      # everything, about twenty minutes on two cores
    python -m benchmarks.peers --only 256/288/32 strict   # some shapes
    python -m benchmarks.peers --quick                    # a smoke run

Recorded loads come from the folder in EQUIPOISE_LOADS, the peers' wheels are kept in EQUIPOISE_PEERS_CACHE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from benchmarks.peers import reporting
from benchmarks.peers.fetching import CACHE, NotToBeHadError, Source, obtain, scipy_folder
from benchmarks.peers.loads import NAMES, Load, loads_for
from benchmarks.peers.racing import Race, Row, compared, constant_row
from benchmarks.peers.rivals import DEFAULT, Rival, all_rivals
from benchmarks.peers.shapes import Shape, chosen
from benchmarks.peers.verdicts import checks, verdicts
from benchmarks.peers.worker import Setting, Worker
from rich.console import Console

RESULTS = Path(__file__).parent / "results"
SYNTHETIC_SHARE = 0.1
QUICK_WINDOWS = 2


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description="Race our planner against the peers' own.")
    parser.add_argument("--only", nargs="+", default=[], metavar="SHAPE", help="shapes, as experts/slots/ranks, or 'strict'")
    parser.add_argument("--rivals", nargs="+", default=[], metavar="NAME", help="part of a rival's name, any case")
    parser.add_argument("--loads", nargs="+", default=list(NAMES), choices=NAMES, metavar="LOAD", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="few windows and one second a rival, for a smoke run")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds of calls for a rival on a recorded load")
    parser.add_argument("--out", type=Path, help="the JSON result (default: results/<date>-<commit>.json)")
    parser.add_argument("--markdown", type=Path, help="a short Markdown table as well")
    return parser.parse_args(arguments)


class Track:
    """The rivals' processes, kept over the shapes.

    Parameters
    ----------
    names : list of str
        Parts of the names of the rivals that run; none for all. Our ``default`` always does.
    """

    def __init__(self, names: list[str]) -> None:
        wanted = [name.lower() for name in names]
        self.rivals = [
            rival
            for rival in all_rivals()
            if rival.name == DEFAULT or not wanted or any(part in rival.name.lower() for part in wanted)
        ]
        distributions = dict.fromkeys(rival.distribution for rival in self.rivals if rival.distribution is not None)
        self.sources = {name: obtain(name) for name in distributions}
        self.missing: dict[str, str] = {}
        self.workers = {rival.name: self._worker(rival) for rival in self.rivals}
        self.turns = self._worker(next(rival for rival in self.rivals if rival.name == DEFAULT))

    def _worker(self, rival: Rival) -> Worker:
        source: Source | None = self.sources.get(rival.distribution or "")
        if source is not None and source.missing:
            self.missing[rival.name] = source.missing
        extra = None
        if rival.needs_bounds_checks and rival.name not in self.missing:
            try:
                extra = scipy_folder()
            except NotToBeHadError as error:
                self.missing[rival.name] = str(error)
        return Worker(Setting(rival, source.folder if source else None, extra, CACHE / "numba-with-bounds-checks"))

    def run(self, shape: Shape, load: Load, budget_s: float) -> Iterator[Row]:
        """Yield the lines of one shape and load: our ``default`` first, which all others are compared with."""
        race = Race(shape, load, budget_s)
        default = next(rival for rival in self.rivals if rival.name == DEFAULT)
        default_row, ours = race.run(default, self.workers[DEFAULT], None)
        yield default_row
        for rival in self.rivals:
            if rival.name == DEFAULT:
                continue
            if rival.name in self.missing:
                yield Row(shape.name, load.name, rival.name, status=f"not to be had: {self.missing[rival.name]}")
                continue
            row, scores = race.run(rival, self.workers[rival.name], self.turns if rival.is_timed else None)
            yield compared(row, scores, ours)
        constant = constant_row(shape, load, default_row)
        if constant is not None:
            yield constant

    def close(self) -> None:
        """End every process."""
        for worker in (*self.workers.values(), self.turns):
            worker.close()


def race_all(track: Track, options: argparse.Namespace, console: Console) -> list[Row]:
    """Run every shape and load, printing each shape when it is done."""
    rows: list[Row] = []
    for shape in chosen(options.only):
        of_shape: list[Row] = []
        for load in loads_for(shape, tuple(options.loads)):
            console.log(f"{shape.name}, {load.name}")
            budget = options.budget if load.is_recorded or shape.is_scale else SYNTHETIC_SHARE * options.budget
            raced = load.shortened(QUICK_WINDOWS) if options.quick else load
            of_shape += track.run(shape, raced, min(budget, 1.0) if options.quick else budget)
        if of_shape:
            reporting.print_shape(Console(width=reporting.WIDTH), shape.name, of_shape)
        rows += of_shape
    return rows


def result_path(options: argparse.Namespace) -> Path:
    """Return where the result goes; a part of the race never takes the name of a whole one."""
    if options.out is not None:
        return Path(options.out)
    whole = not (options.quick or options.only or options.rivals or set(options.loads) != set(NAMES))
    name = f"{date.today().isoformat()}-{reporting.commit()}"
    return RESULTS / (f"{name}.json" if whole else f"{name}-part.json")


def main(arguments: list[str]) -> None:
    """Race, print, save."""
    options = parse(arguments)
    try:
        chosen(options.only)
    except ValueError as error:
        sys.exit(f"benchmarks.peers: {error}")
    track = Track(options.rivals)
    try:
        rows = race_all(track, options, Console(stderr=True))
    except FileNotFoundError as error:
        sys.exit(f"benchmarks.peers: {error.filename} is missing; set EQUIPOISE_LOADS to the folder of the recorded loads")
    finally:
        track.close()
    facts = reporting.environment(track.sources.values())
    console = Console(width=reporting.WIDTH)
    reporting.print_verdicts(console, verdicts(rows))
    reporting.print_checks(console, checks(rows))
    path = result_path(options)
    reporting.save(path, rows, facts)
    console.print(f"saved {path}")
    if options.markdown is not None:
        options.markdown.write_text(reporting.markdown(rows, facts))


if __name__ == "__main__":
    main(sys.argv[1:])
