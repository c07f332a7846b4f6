"""The archive: every program that was scored here, where it came from, and what it scored, in one sqlite file.

Writing takes the file for itself from the first statement on (``BEGIN IMMEDIATE``) and waits for others, so that processes
that write at once lose nothing, and a process that dies leaves nothing half written. A file that is no archive, of a newer
version, or damaged is never written to: it is looked at through a read-only connection first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from equipoise.errors import ArgumentError, FileError
from equipoise.scoring.programs import Program, encodable
from equipoise.scoring.verdicts import ACCEPTED
from equipoise.trace import LoadTrace

VARIABLE = "EQUIPOISE_ARCHIVE"
SCHEMA_VERSION = 1
_APPLICATION_ID = 0x65714172
_WAIT_SECONDS = 60.0
_SHORTEST = 4
_HEADER = 100
_ELSEWHERE = "name another, or take --no-archive"
_TABLES = (
    """CREATE TABLE programs (
        id TEXT PRIMARY KEY CHECK (length(id) = 64),
        text TEXT NOT NULL,
        first_scored TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE scorings (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        program TEXT NOT NULL REFERENCES programs (id),
        parent TEXT REFERENCES programs (id),
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        proposal TEXT,
        trace TEXT NOT NULL,
        problem TEXT NOT NULL,
        verdict TEXT NOT NULL,
        scores TEXT NOT NULL,
        versions TEXT NOT NULL,
        time TEXT NOT NULL
    )""",
    "CREATE INDEX scorings_of_program ON scorings (program)",
)
_COLUMNS = ("program", "parent", "name", "description", "proposal", "trace", "problem", "verdict", "scores", "versions", "time")
_FIND = "SELECT id, text FROM programs WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 9"
_INSERT = f"INSERT INTO scorings ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


@dataclass(frozen=True)
class Problem:
    """What programs were scored on: only scores with the same fingerprint can be compared.

    Parameters
    ----------
    fingerprint : str
        SHA-256, in hexadecimal, over the windows' shape and loads, and over the setup.
    windows, layers, experts : int
        The shape of the load.
    setup : mapping of str to int
        Slots, ranks, nodes, groups.
    """

    fingerprint: str
    windows: int
    layers: int
    experts: int
    setup: Mapping[str, int]

    @classmethod
    def of(cls, trace: LoadTrace, setup: Mapping[str, int]) -> Problem:
        """Return the problem that a trace, a window a step, and a setup are.

        Examples
        --------
        >>> problem = Problem.of(LoadTrace([[[1, 2]], [[3, 4]]]), {"num_slots": 4})
        >>> problem.windows, problem.layers, problem.experts, len(problem.fingerprint)
        (2, 1, 2, 64)
        """
        load = np.ascontiguousarray(trace.load, dtype="<i8" if trace.load.dtype.kind in "iu" else "<f8")
        named = json.dumps([load.dtype.str, load.shape, sorted(setup.items())])
        digest = hashlib.sha256(named.encode() + b"\0" + load.tobytes()).hexdigest()
        windows, layers, experts = (int(size) for size in load.shape)
        return cls(digest, windows, layers, experts, dict(setup))

    def __str__(self) -> str:
        what = ", ".join(f"{value} {name.removeprefix('num_')}" for name, value in self.setup.items())
        return f"trace {self.fingerprint[:8]} ({self.windows} windows, {self.layers} x {self.experts} experts, {what})"


@dataclass(frozen=True)
class Scoring:
    """One program's scores on one problem, and where the program came from.

    Parameters
    ----------
    program : Program
        What was scored.
    problem : Problem
        What it was scored on.
    verdict : mapping
        The judge's: ``kind``, ``found``, ``rule``, ``next_step``.
    scores : mapping
        From a protocol's name to its figures, ``score`` among them, or to None; every one must be JSON, but that figures which
        are not finite are kept as null.
    name, description : str
        The proposal's, or the program's name and nothing.
    parent : Program or None
        The program before the proposal.
    proposal : str or None
        Its text.
    """

    program: Program
    problem: Problem
    verdict: Mapping[str, Any]
    scores: Mapping[str, Any]
    name: str
    description: str = ""
    parent: Program | None = None
    proposal: str | None = None


@dataclass(frozen=True)
class Entry:
    """One scoring as the archive holds it; the texts of programs are asked for apart.

    Parameters
    ----------
    number : int
        The archive's own count, from 1: a larger one was written later.
    id, parent : str
        SHA-256 of the program's text, and of its parent's; the parent's is empty where there is none.
    versions : mapping of str to str
        Of equipoise, python, torch and numpy.
    time : str
        When it was written, UTC, in ISO 8601.
    """

    number: int
    id: str
    parent: str
    name: str
    description: str
    proposal: str | None
    problem: Problem
    verdict: Mapping[str, Any]
    scores: Mapping[str, Any]
    versions: Mapping[str, str]
    time: str

    @property
    def is_accepted(self) -> bool:
        """Whether the judge accepted the program."""
        return self.verdict.get("kind") == ACCEPTED

    def score(self, protocol: str) -> float | None:
        """Return the program's score under a protocol, None where it has none."""
        score = (self.scores.get(protocol) or {}).get("score")
        return None if score is None else float(score)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Best:
    """The best scoring on one problem under one protocol, of ``out_of`` accepted ones."""

    protocol: str
    entry: Entry
    score: float
    out_of: int

    def against(self, entry: Entry, score: float) -> Best:
        """Return the better of this and a newer one."""
        if score > self.score:
            return Best(self.protocol, entry, score, self.out_of + 1)
        return replace(self, out_of=self.out_of + 1)


@dataclass(frozen=True)
class Archive:
    """A file of programs and their scores.

    Parameters
    ----------
    path : Path
        Where it is; made, with its folder, when something is first written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> problem = Problem.of(LoadTrace([[[1, 2]], [[3, 4]]]), {"num_slots": 4})
    >>> scoring = Scoring(Program("mine.py", "..."), problem, {"kind": "accepted"}, {"v1": {"score": 0.5}}, "mine.py")
    >>> with TemporaryDirectory() as folder:
    ...     archive = Archive(Path(folder) / "scores.sqlite")
    ...     archive.add([scoring])
    ...     [(entry.name, entry.score("v1")) for entry in archive.history()]
    [('mine.py', 0.5)]
    """

    path: Path = field(default_factory=lambda: default_path())

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def check(self) -> None:
        """Make sure, without making anything, that scorings could be written.

        Raises
        ------
        FileError
            As :meth:`add` does.
        """
        with self._reading():
            pass
        with self._explaining():
            there = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not (there == self.path or there.is_dir()) or not os.access(there, os.W_OK):
            raise self._refused(f"cannot be written ({there})", "it must be a file in a folder of yours", _ELSEWHERE)

    def add(self, scorings: Sequence[Scoring]) -> None:
        """Write scorings, all of them or none.

        Raises
        ------
        ArgumentError
            When a program's text cannot be written in UTF-8.
        FileError
            When the file cannot be made or written, is no archive of a version known here, or is damaged.
        """
        for scoring in scorings:
            _check_text(scoring.program)
            _check_text(scoring.parent)
        now, versions = datetime.now(UTC).isoformat(timespec="microseconds"), json.dumps(_versions())
        with self._writing() as connection:
            for scoring in scorings:
                for program in (scoring.program, scoring.parent):
                    if program is not None:
                        values = (program.sha256, program.text, now)
                        connection.execute("INSERT INTO programs VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values)
                connection.execute(_INSERT, (*_row(scoring), versions, now))

    def history(self) -> list[Entry]:
        """Return every scoring, the newest last; none where there is no file.

        Raises
        ------
        FileError
            When the file cannot be read, is no archive of a version known here, or is damaged.
        """
        return self._entries("ORDER BY number")

    def show(self, start_of_id: str) -> tuple[str, list[Entry]]:
        """Return a program's text and its scorings, the newest last.

        Parameters
        ----------
        start_of_id : str
            The first hexadecimal digits of its id, at least four, that no other program's begins with.

        Raises
        ------
        ArgumentError
            When no program's id begins so, or several do.
        FileError
            As :meth:`history` does.
        """
        wanted = start_of_id.lower()
        if len(wanted) < _SHORTEST or not set(wanted) <= set("0123456789abcdef"):
            raise ArgumentError(
                f"the id is {start_of_id!r}", f"it must be {_SHORTEST} hexadecimal digits or more", "take one from --history"
            )
        with self._reading() as connection:
            rows = [] if connection is None else connection.execute(_FIND, (len(wanted), wanted)).fetchall()
        if not rows:
            raise ArgumentError(f"no id begins with {wanted}", "it must be one program's", "take one from --history")
        if len(rows) > 1:
            several = ", ".join(str(row[0][:12]) for row in rows)
            raise ArgumentError(f"several ids begin with {wanted}: {several}", "it must be one program's", "give more digits")
        whole, text = rows[0]
        if Program("", text).sha256 != whole:
            raise self._refused(f"is damaged (the text of {whole[:12]} is not that)", "an archive must be whole")
        return text, self._entries("WHERE program = ? OR parent = ? ORDER BY number", whole, whole)

    def best(self, protocol: str | None = None) -> list[Best]:
        """Return the best accepted scoring for each problem and protocol, in the order in which they were first scored.

        Scores on different problems are never compared. Of equal ones the oldest is the best.

        Parameters
        ----------
        protocol : str or None
            One of them only.

        Raises
        ------
        FileError
            As :meth:`history` does.
        """
        best: dict[tuple[str, str], Best] = {}
        for entry in self.history():
            for name in entry.scores if entry.is_accepted else ():
                score = entry.score(name)
                if score is None or protocol not in (None, name):
                    continue
                key = entry.problem.fingerprint, name
                best[key] = best[key].against(entry, score) if key in best else Best(name, entry, score, 1)
        return list(best.values())

    def _entries(self, rest: str, *values: str) -> list[Entry]:
        columns = "number, program, coalesce(parent, ''), name, description, proposal, problem, verdict, scores, versions, time"
        with self._reading() as connection:
            rows = [] if connection is None else connection.execute(f"SELECT {columns} FROM scorings {rest}", values).fetchall()
        try:
            return [_entry(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise self._refused("is damaged (a row is no scoring)", "an archive must be whole") from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a read-only connection to a sound archive, None where there is none yet."""
        with self._explaining():
            if not self._exists():
                yield None
                return
            try:
                connection = self._checked("ro")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK or not self._has_our_header():
                    raise
                connection = self._checked("rw")  # a writer died: what it left half done is taken back first
            with closing(connection):
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that holds the file for itself; what was done with it is written whole, or not at all."""
        with self._reading():
            pass
        with self._explaining():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open("rwc")) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._make_tables(connection)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    def _checked(self, mode: str) -> sqlite3.Connection:
        connection = self._open(mode)
        try:
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        self._check_kind(connection)
        if (said := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._refused(f"is damaged ({' '.join(str(said).split())})", "an archive must be whole")

    def _check_kind(self, connection: sqlite3.Connection) -> None:
        application, found = (_pragma(connection, name) for name in ("application_id", "user_version"))
        if application != _APPLICATION_ID:
            raise self._refused("is no archive of scores", "an archive is what equipoise score wrote")
        if found != SCHEMA_VERSION:
            next_step = "take a newer equipoise, or name another file"
            raise self._refused(f"is of version {found}", f"this equipoise knows version {SCHEMA_VERSION}", next_step)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Make the tables, where the file is empty still now that nobody else can write to it."""
        if _pragma(connection, "application_id") or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._check_kind(connection)
            return
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for table in _TABLES:
            connection.execute(table)

    def _open(self, mode: str) -> sqlite3.Connection:
        address = f"file:{quote(os.fspath(self.path.absolute()))}?mode={mode}"
        return sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)

    def _exists(self) -> bool:
        """Whether something was ever written: a process that makes the file leaves it empty for a moment."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its other end
            raise self._refused("is no file", "it must be a file that can be read and written", _ELSEWHERE)
        return found.st_size > 0

    def _has_our_header(self) -> bool:
        with self.path.open("rb") as file:
            head = file.read(_HEADER)
        return len(head) == _HEADER and int.from_bytes(head[68:72], "big") == _APPLICATION_ID

    def _refused(
        self, what: str, rule: str, next_step: str = "it is left as it is: move it away, or name another file"
    ) -> FileError:
        return FileError(f"the archive {self.path} {what}", rule, next_step)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except OSError as error:
            raise self._refused(
                f"cannot be opened ({error.strerror})",
                "it must be a file that can be read and written",
                _ELSEWHERE,
            ) from error

    def _explained(self, error: sqlite3.Error) -> FileError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return self._refused("is no archive of scores", "an archive is what equipoise score wrote")
        if code == sqlite3.SQLITE_CORRUPT:
            return self._refused(f"is damaged ({error})", "an archive must be whole")
        if code == sqlite3.SQLITE_BUSY:
            return self._refused(f"is in use ({error})", f"others must let go of it within {_WAIT_SECONDS:g} s", "try again")
        return self._refused(f"cannot be used ({error})", "it must be a file that can be read and written", _ELSEWHERE)


def default_path(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the archive is: EQUIPOISE_ARCHIVE, or equipoise/scores.sqlite where the user's data belong (XDG).

    >>> default_path({"EQUIPOISE_ARCHIVE": "mine.sqlite"}).name
    'mine.sqlite'
    >>> default_path({"XDG_DATA_HOME": "/data"}).parts[-3:]
    ('data', 'equipoise', 'scores.sqlite')
    """
    given = os.environ if environment is None else environment
    if given.get(VARIABLE):
        return Path(given[VARIABLE])
    data = Path(given.get("XDG_DATA_HOME") or "")
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "equipoise" / "scores.sqlite"


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _row(scoring: Scoring) -> tuple[str | None, ...]:
    return (
        scoring.program.sha256,
        None if scoring.parent is None else scoring.parent.sha256,
        encodable(scoring.name),
        encodable(scoring.description),
        None if scoring.proposal is None else encodable(scoring.proposal),
        scoring.problem.fingerprint,
        _json(asdict(scoring.problem)),
        _json(scoring.verdict),
        _json(scoring.scores),
    )


def _check_text(program: Program | None) -> None:
    if program is not None and encodable(program.text) != program.text:
        raise ArgumentError(
            f"{encodable(program.name)} holds halves of surrogate pairs",
            "a program is text that UTF-8 can write",
            "write these characters as escapes",
        )


def _json(value: Any) -> str:
    return json.dumps(_clean(value), allow_nan=False)


def _clean(value: Any) -> Any:
    """Escape text that UTF-8 cannot write, and take None for figures that are not finite: JSON has neither."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _entry(row: Sequence[Any]) -> Entry:
    number, program, parent, name, description, proposal, *held, time = row
    problem, verdict, scores, versions = (_clean(json.loads(text)) for text in held)  # older rows were not cleaned
    origin = (int(number), str(program), str(parent), str(name), str(description), proposal)
    return Entry(*origin, Problem(**problem), verdict, scores, versions, str(time))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("equipoise", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
