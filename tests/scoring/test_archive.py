"""The archive: nothing lost between processes, nothing compared across problems, and no foreign or damaged file touched."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest

from equipoise import LoadTrace
from equipoise.errors import ArgumentError, FileError
from equipoise.scoring.archive import SCHEMA_VERSION, VARIABLE, Archive, Problem, Scoring, default_path
from equipoise.scoring.programs import Program

SETUP = {"num_slots": 8, "num_ranks": 4}
PROBLEM = Problem.of(LoadTrace([[[1, 2]], [[3, 4]]]), SETUP)
OTHER = Problem.of(LoadTrace([[[1, 2]], [[3, 5]]]), SETUP)
ACCEPTED = {"kind": "accepted", "found": "", "rule": "", "next_step": ""}


def scoring(name="mine", score=0.5, problem=PROBLEM, **more):
    """Return a scoring whose program's text is its name."""
    return Scoring(Program(f"{name}.py", name), problem, ACCEPTED, {"v1": {"score": score}}, name, **more)


@pytest.fixture
def archive(tmp_path):
    """Return an archive that is not made yet, in a folder that is not made yet."""
    return Archive(tmp_path / "new" / "scores.sqlite")


def _write(path, writer, count):
    archive = Archive(path)
    for number in range(count):
        archive.add([scoring(f"{writer}-{number}", number)])


def _die_while_writing(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
        connection.execute("BEGIN IMMEDIATE")
        text = "x" * 4000
        connection.executemany("INSERT INTO programs VALUES (?, ?, '')", [(f"{i:064x}", text) for i in range(500)])
        os.kill(os.getpid(), signal.SIGKILL)


def garbage(archive):
    """Put text in its place."""
    archive.path.write_bytes(b"not a database at all" * 100)


def short_garbage(archive):
    """Put less than a header in its place."""
    archive.path.write_bytes(b"?")


def truncated(archive):
    """Take its last page."""
    archive.path.write_bytes(archive.path.read_bytes()[:-4096])


def truncated_within_a_page(archive):
    """Leave some bytes of its second page."""
    archive.path.write_bytes(archive.path.read_bytes()[:5000])


def overwritten(archive):
    """Overwrite its third page."""
    content = bytearray(archive.path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    archive.path.write_bytes(content)


def another_database(archive):
    """Put another program's database in its place."""
    archive.path.unlink()
    with closing(sqlite3.connect(archive.path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def newer(archive):
    """Pretend that a newer version made it."""
    with closing(sqlite3.connect(archive.path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


class TestReading:
    """What was written comes back, and reading makes nothing."""

    def test_what_is_written_is_read(self, archive):
        parent = Program("parent.py", "parent")
        archive.add([scoring(), scoring("child", 0.25, description="why", parent=parent, proposal="<NAME>...")])
        first, second = archive.history()
        assert (first.number, first.name, first.parent, first.proposal, first.description) == (1, "mine", "", None, "")
        assert (first.id, first.problem, first.verdict) == (Program("", "mine").sha256, PROBLEM, ACCEPTED)
        assert (second.number, second.name, second.description, second.proposal) == (2, "child", "why", "<NAME>...")
        assert (second.parent, second.score("v1"), second.score("v2")) == (parent.sha256, 0.25, None)
        assert set(second.versions) == {"python", "equipoise", "torch", "numpy"}
        assert second.time.endswith("+00:00")
        assert second.as_dict()["problem"]["windows"] == 2
        assert [path.name for path in archive.path.parent.iterdir()] == ["scores.sqlite"], "no journal is left"

    def test_nothing_is_made_by_reading(self, archive):
        assert archive.history() == archive.best() == []
        with pytest.raises(ArgumentError, match=r"no id begins with abcd: .*--history"):
            archive.show("abcd")
        assert not archive.path.parent.exists()

    def test_show_takes_the_start_of_an_id(self, archive):
        parent = Program("parent.py", "parent")
        archive.add([scoring("a", parent=parent), scoring("a", 0.7), scoring("b")])
        whole = Program("", "a").sha256
        text, entries = archive.show(whole[:6].upper())
        assert text == "a"
        assert [entry.score("v1") for entry in entries] == [0.5, 0.7]
        assert archive.show(parent.sha256)[0] == "parent"
        assert [entry.id for entry in archive.show(parent.sha256)[1]] == [whole], "what came of a parent"

    @pytest.mark.parametrize("wrong", ["", "abc", "xyz12", "mine.py", "%%%%"])
    def test_no_start_of_an_id(self, archive, wrong):
        archive.add([scoring()])
        with pytest.raises(ArgumentError, match="4 hexadecimal digits or more"):
            archive.show(wrong)

    def test_the_start_of_several_ids(self, archive):
        texts = {}
        for number in range(2000):  # some two of as many begin alike
            start = Program("", str(number)).sha256[:4]
            if start in texts:
                break
            texts[start] = number
        archive.add([scoring(str(texts[start])), scoring(str(number))])
        with pytest.raises(ArgumentError, match=f"several ids begin with {start}: {start}.*, {start}.*give more digits"):
            archive.show(start)


class TestBest:
    """Only scores on the same windows and setup are compared."""

    def test_the_best_is_of_one_problem_and_one_protocol(self, archive):
        both = replace(
            scoring("both"), scores={"v1": {"score": 0.4}, "v4": {"score": 60.0}, "v2": {"score": None}, "ours": None}
        )
        refused = replace(scoring("refused", 9.0), verdict={**ACCEPTED, "kind": "expert missing"})
        archive.add([scoring("low", 0.3), both, refused, scoring("equal", 0.4), scoring("elsewhere", 0.9, OTHER)])
        found = [(best.protocol, best.entry.problem, best.entry.name, best.out_of) for best in archive.best()]
        assert found == [("v1", PROBLEM, "both", 3), ("v4", PROBLEM, "both", 1), ("v1", OTHER, "elsewhere", 1)]
        assert [best.entry.name for best in archive.best("v4")] == ["both"]
        assert archive.best("v3") == []

    def test_a_negative_score_can_be_the_best(self, archive):
        archive.add([scoring("worse", -3.0), scoring("better", -2.0)])
        assert archive.best()[0].entry.name == "better"

    def test_a_fingerprint_is_of_loads_shape_and_setup(self):
        trace = LoadTrace([[[1, 2, 3, 4]], [[3, 4, 5, 6]]])
        same = Problem.of(LoadTrace(trace.load.astype("int32")), dict(reversed(SETUP.items())))
        assert same.fingerprint == Problem.of(trace, SETUP).fingerprint
        others = [
            Problem.of(LoadTrace(trace.load.reshape(2, 2, 2)), SETUP),
            Problem.of(LoadTrace(trace.load.astype(float)), SETUP),
            Problem.of(LoadTrace(trace.load[::-1]), SETUP),
            Problem.of(trace, {**SETUP, "num_slots": 12}),
        ]
        assert len({problem.fingerprint for problem in (same, *others)}) == 5


class TestWriting:
    """Nothing is lost, and nothing is half written."""

    def test_all_or_nothing(self, archive):
        archive.add([scoring()])
        with pytest.raises(TypeError):
            archive.add([scoring("good"), replace(scoring("bad"), scores={"v1": object()})])
        assert [entry.name for entry in archive.history()] == ["mine"]

    def test_what_json_and_utf8_cannot_hold(self, archive):
        """Figures that are not finite become null, halves of surrogate pairs are escaped, a program's text is refused."""
        scores = {"v1": {"score": float("nan"), "per_pair": [1.0, float("inf")]}}
        verdict = {**ACCEPTED, "found": "ValueError: \ud800"}
        archive.add([replace(scoring("a\udcff", description="\ud800", proposal="\ud800"), scores=scores, verdict=verdict,
            program=Program("a", "a"))])  # fmt: skip
        (entry,) = archive.history()
        assert (entry.name, entry.description, entry.proposal) == ("a\\udcff", "\\ud800", "\\ud800")
        assert entry.verdict["found"] == "ValueError: \\ud800"
        assert entry.scores == {"v1": {"score": None, "per_pair": [1.0, None]}}
        assert entry.score("v1") is None
        with closing(sqlite3.connect(archive.path)) as connection:
            (kept,) = (connection.execute("SELECT scores || verdict FROM scorings").fetchone(),)
        assert "NaN" not in kept[0]
        assert "\\ud800" not in kept[0].replace("\\\\", "")
        for wrong in (scoring("\ud800"), scoring(parent=Program("parent.py", "\ud800"))):
            with pytest.raises(ArgumentError, match="halves of surrogate pairs"):
                archive.add([scoring("good"), wrong])
        assert len(archive.history()) == 1

    def test_rows_of_before_are_cleaned_when_read(self, archive):
        """Halves of surrogate pairs, and NaN, that were written once."""
        archive.add([scoring()])
        with closing(sqlite3.connect(archive.path, isolation_level=None)) as connection:
            verdict, scores = '{"kind": "raised", "found": "\\ud800"}', '{"v1": {"score": NaN}}'
            connection.execute("UPDATE scorings SET verdict = ?, scores = ?", (verdict, scores))
        (entry,) = archive.history()
        assert entry.verdict["found"] == "\\ud800"
        assert entry.score("v1") is None

    def test_processes_that_write_at_once_lose_nothing(self, tmp_path):
        """The file is made by whichever comes first."""
        path, count = tmp_path / "scores.sqlite", 50
        fork = multiprocessing.get_context("fork")
        writers = [fork.Process(target=_write, args=(path, writer, count)) for writer in range(3)]
        for process in writers:
            process.start()
        while any(process.is_alive() for process in writers):
            names = [entry.name for entry in Archive(path).history()]
            assert len(set(names)) == len(names)
            time.sleep(0.02)
        assert [process.exitcode for process in writers] == [0, 0, 0]
        entries = Archive(path).history()
        assert {entry.name for entry in entries} == {f"{writer}-{number}" for writer in range(3) for number in range(count)}
        assert [entry.number for entry in entries] == list(range(1, 3 * count + 1))
        for writer in range(3):
            own = [entry.name for entry in entries if entry.name.startswith(f"{writer}-")]
            assert own == [f"{writer}-{number}" for number in range(count)], "in the order in which it wrote"

    def test_what_a_dead_writer_left_is_taken_back(self, archive):
        archive.add([scoring()])
        whole = archive.path.read_bytes()
        process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(archive.path,))
        process.start()
        process.join()
        assert archive.path.with_name("scores.sqlite-journal").exists()
        assert archive.path.read_bytes() != whole
        assert [entry.name for entry in archive.history()] == ["mine"]
        archive.add([scoring("next")])
        assert [entry.name for entry in archive.history()] == ["mine", "next"]


class TestOtherFiles:
    """What is no sound archive is told in a line, and left alone."""

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (garbage, "is no archive of scores"),
            (short_garbage, "is no archive of scores"),
            (truncated, "is damaged"),
            (truncated_within_a_page, "is damaged"),
            (overwritten, "is damaged"),
            (another_database, "is no archive of scores"),
            (newer, "is of version 2: this equipoise knows version 1; take a newer equipoise"),
        ],
    )
    def test_a_file_that_is_no_sound_archive_is_told_and_left_alone(self, archive, harm, message):
        archive.add([scoring(str(number)) for number in range(200)])
        harm(archive)
        before, files = archive.path.read_bytes(), sorted(archive.path.parent.iterdir())
        for use in (
            archive.history,
            archive.best,
            lambda: archive.show("abcdef"),
            archive.check,
            lambda: archive.add([scoring()]),
        ):
            with pytest.raises(FileError, match=message) as error:
                use()
            assert str(archive.path) in str(error.value)
            assert "\n" not in str(error.value)
        assert archive.path.read_bytes() == before
        assert sorted(archive.path.parent.iterdir()) == files

    @pytest.mark.parametrize(
        ("old", "new"), [(b'{"kind"', b'["kind"'), (b'"windows"', b'"walrus!"'), (b"mine.py-text", b"mine.py-tent")]
    )
    def test_content_that_was_changed(self, archive, old, new):
        """What sqlite itself cannot see."""
        program = Program("mine.py", "mine.py-text")
        archive.add([replace(scoring(), program=program)])
        content = archive.path.read_bytes()
        assert old in content
        archive.path.write_bytes(content.replace(old, new))
        with pytest.raises(FileError, match="is damaged"):
            archive.show(program.sha256)
        assert archive.path.read_bytes() == content.replace(old, new)

    def test_an_empty_file_is_an_archive_that_is_just_being_made(self, archive):
        archive.path.parent.mkdir()
        archive.path.write_bytes(b"")
        assert archive.history() == []
        archive.add([scoring()])
        assert len(archive.history()) == 1

    def test_a_folder_or_a_place_below_a_file(self, tmp_path):
        with pytest.raises(FileError, match="is no file"):
            Archive(tmp_path).add([scoring()])
        (tmp_path / "file").write_text("")
        with pytest.raises(FileError, match=r"cannot be opened .*--no-archive"):
            Archive(tmp_path / "file" / "scores.sqlite").check()

    def test_an_archive_in_use_for_too_long(self, archive, monkeypatch):
        archive.add([scoring()])
        monkeypatch.setattr("equipoise.scoring.archive._WAIT_SECONDS", 0.05)
        with closing(sqlite3.connect(archive.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            with pytest.raises(FileError, match=r"is in use .*within 0\.05 s; try again"):
                archive.add([scoring()])

    def test_a_name_with_odd_characters(self, tmp_path):
        archive = Archive(tmp_path / "a ?mode=ro&b#c%41.sqlite")
        archive.add([scoring()])
        assert [path.name for path in tmp_path.iterdir()] == [archive.path.name]


class TestPlace:
    """The variable, or the folder for data of the user."""

    def test_where_it_is(self, tmp_path, monkeypatch):
        assert default_path({"HOME": "/", VARIABLE: "x.sqlite", "XDG_DATA_HOME": "/data"}).as_posix() == "x.sqlite"
        assert default_path({"XDG_DATA_HOME": "/data"}).as_posix() == "/data/equipoise/scores.sqlite"
        monkeypatch.setenv("HOME", str(tmp_path))
        for relative in ({}, {"XDG_DATA_HOME": "data"}, {VARIABLE: ""}):
            assert default_path(relative) == tmp_path / ".local" / "share" / "equipoise" / "scores.sqlite"
        monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
        assert Archive().path == tmp_path / "mine"
