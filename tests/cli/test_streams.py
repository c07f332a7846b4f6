"""Standard input and output in the place of files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise import Placement
from equipoise.simulating.results import Simulation


@pytest.fixture
def feed(monkeypatch):
    """Put a file's bytes on standard input."""

    def put(path):
        class Input:
            buffer = io.BytesIO(Path(path).read_bytes())

        monkeypatch.setattr("sys.stdin", Input)

    return put


SHAPE = ("--ranks", 8, "--slots", 40)


def test_plan_from_stdin_to_stdout(run, prepared, feed):
    """The same bytes as in a file, and nothing else; engines' text formats too."""
    feed("load.npz")
    code, out, err = run("plan", "-", *SHAPE, "--out", "-")
    assert (code, err) == (0, "")
    run("plan", "load.npz", *SHAPE, "--out", "again.json", "--quiet")
    assert out == Path("again.json").read_text()
    run("plan", "load.npz", *SHAPE, "--out", "map.yaml", "--for", "tensorrt-llm", "--model", "gpt-oss-20b", "--quiet")
    out = run("plan", "load.npz", *SHAPE, "--out", "-", "--for", "tensorrt-llm", "--model", "gpt-oss-20b")[1]
    assert out == Path("map.yaml").read_text()


def test_placements_from_stdin(run, prepared, feed):
    """Wherever a placement is read, the figures are those of the file."""
    for command in (
        ("dispatch", "placement.json", "load.npz", "--last", 1),
        ("metrics", "load.npz", "placement.json"),
        ("schedule", "placement.json", "next.json"),
        ("plan", "load.npz", "--previous", "placement.json", "--max-moves", 1),
        ("check", "placement.json", "--engine", "sglang", "--model", "gpt-oss-20b"),
    ):
        expected = json.loads(run(*command, "--json")[1])
        feed("placement.json")
        code, out, err = run(*("-" if word == "placement.json" else word for word in command), "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        for either in (expected, found):
            either.pop("seconds", None)
            either.pop("findings", None)  # these name the file
        assert found == expected


def test_convert_in_a_pipe(run, prepared, feed):
    """From standard input to standard output."""
    feed("placement.json")
    code, out, err = run("convert", "-", "-", "--for", "sglang", "--model", "gpt-oss-20b")
    assert (code, err) == (0, "")
    Path("map.json").write_text(out)
    placement = Placement.read("map.json", num_ranks=8)
    assert placement.expert_of_slot.tolist() == Placement.read("placement.json").expert_of_slot.tolist()


@pytest.mark.compiled
def test_schedules_and_simulations_to_stdout(run, prepared):
    """The bytes of the file."""
    assert run("schedule", "placement.json", "next.json", "--out", "s.json", "--quiet")[0] == 0
    assert run("schedule", "placement.json", "next.json", "--out", "-")[:2] == (0, Path("s.json").read_text())
    command = ("simulate", "load.npz", *SHAPE, "--every", "once", "--policy", "last", "--out")
    assert run(*command, "s.json", "--quiet")[0] == 0
    assert run(*command, "-")[:2] == (0, Path("s.json").read_text())
    assert Simulation.read("s.json").num_windows == 30


BAD = [
    (("plan", "load.npz", *SHAPE, "--out", "-", "--json"), "--out - with --json: both write to standard output"),
    (("plan", "load.npz", *SHAPE, "--report", "-", "--json"), "--report - with --json: both write to standard output"),
    (("plan", "load.npz", *SHAPE, "--report", "-", "--out", "-"), "--out - with --report -: both write to standard output"),
    (("schedule", "-", "-"), "two files are -: standard input is read once"),
    (("dispatch", "-", "-"), "two files are -"),
    (("metrics", "-", "-"), "two files are -"),
    (("plan", "-", "--previous", "-"), "two files are -"),
    (("compare", "-", "--active", "-"), "two files are -"),
    (("check", "-", "--engine", "vllm", "--load", "-"), "two files are -"),
    (("convert", "placement.json", "-", "--for", "json", "--json"), "--out - with --json"),
    (("simulate", "load.npz", "other.npz", *SHAPE, "--out", "-"), "--out - for 2 traces: standard output holds one"),
]


@pytest.mark.parametrize(("command", "found"), BAD)
def test_one_stream_serves_once(run, prepared, command, found):
    """Exit code 2, one line on stderr, nothing on stdout."""
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: {found}")
    assert err.count("\n") == 1


def test_empty_streams_are_named(run, prepared, feed):
    """As standard input, not as a file called -."""
    Path("nothing").write_bytes(b"")
    feed("nothing")
    assert run("dispatch", "-", "load.npz")[2].startswith("equipoise: standard input is not a placement file (it is empty)")


@pytest.mark.parametrize("command", [("--help",), ("inspect", "load.npz"), ("inspect", "load.npz", "--json")])
def test_a_reader_that_leaves(prepared, command):
    """Exit code 141, as documented, and no word on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-c", "from equipoise.cli.main import main; main()", *command]
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_stdout(prepared):
    """Nothing to write to is no fault."""
    line = f"{sys.executable} -c 'from equipoise.cli.main import main; main()' inspect load.npz >&-"
    done = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.compiled
def test_a_report_to_stdout(run, prepared):
    """The page alone."""
    pytest.importorskip("plotly")
    code, out, err = run("plan", "load.npz", *SHAPE, "--effort", "fast", "--last", 3, "--out", "p.json", "--report", "-")
    assert (code, err) == (0, "")
    assert out.lower().startswith("<!doctype html>")
    assert out.rstrip().endswith("</html>")
    assert Path("p.json").exists()
