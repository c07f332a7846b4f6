"""What a terminal gets and what a pipe gets: widths, colours, bars."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest
from rich.console import Console

from equipoise.cli import output

SMALL = {
    "shape": ("--ranks", 8, "--slots", 40),
    "nodes": ("--ranks", 8, "--slots", 40, "--nodes", 4, "--groups", 8),
    "model": ("--model", "gpt-oss-20b"),
}
WIDE = {
    "shape": ("--ranks", 32, "--slots", 288),
    "nodes": ("--ranks", 32, "--slots", 288, "--nodes", 4, "--groups", 8),
    "model": ("--model", "glm-5"),
}
LONG = "auto,every=2,effort=fast,dispatch=optimal,trigger=below:0.99"


def _commands(shape, nodes, model):
    yield ("inspect", "load.npz")
    yield ("plan", "load.npz", *shape)
    yield ("plan", "load.npz", *shape[:2], *model, "--effort", "fast")
    yield ("plan", "load.npz", "--previous", "placement.json", "--max-moves", 2, "--last", 2, "--curve")
    yield ("plan", "load.npz", *nodes, "--locality", "soft", "--home-share", 0.9)
    yield ("compare", "load.npz", *shape, "--packing", "lpt,ensemble+reconstruct,default", "--window", 2, "--candidates", 8)
    yield ("compare", "load.npz", *nodes, "--locality")
    yield ("compare", "load.npz", *shape, "--window", 2, "--explain", "--policy", "auto,effort=fast,dispatch=optimal")
    yield ("compare", "load.npz", *shape[:2], "--slots", f"{shape[3]},{shape[3] * 2}", "--window", 2, "--expert-bytes", "44GB")
    yield ("simulate", "load.npz", *shape, "--policy", LONG, "--policy", "last", "--time-model", "prefill-h100")
    yield ("convert", "placement.json", "map.json", "--for", "sglang", *model)
    yield ("check", "placement.json", "--engine", "vllm", *model, "--load", "load.npz")
    yield ("metrics", "load.npz", "placement.json")
    yield ("schedule", "placement.json", "next.json", *model)
    yield ("dispatch", "placement.json", "load.npz", "--last", 1, "--spare-slots", 1)


def _check_tables(out):
    """Lines of tables fit; none is cut short, and figures stand whole on one line."""
    lines = [line for line in out.splitlines() if line[:1] in "┏┡└┃│├"]
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)
    for line in lines:
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert "%" not in cells[1:], f"a figure without its unit: {line}"


@pytest.mark.compiled
@pytest.mark.parametrize("command", [*_commands(**SMALL)], ids=lambda words: " ".join(map(str, words[:4])))
def test_80_columns(run, prepared, monkeypatch, command):
    """Every command on the load that ships."""
    monkeypatch.setattr(output.out, "width", 80)
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    _check_tables(out)


@pytest.mark.compiled
@pytest.mark.parametrize("command", [*_commands(**WIDE)], ids=lambda words: " ".join(map(str, words[:4])))
def test_80_columns_for_wide_loads(run, wide, monkeypatch, command):
    """And on 75 layers of 256 experts."""
    monkeypatch.setattr(output.out, "width", 80)
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    _check_tables(out)


def _printed(columns, rows, width, **options):
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(output, "out", Console(file=stream, width=width))
        output.table("title", columns, rows, **options)
    return stream.getvalue()


def test_narrow_tables_keep_figures():
    """First headings break, between words; then names do; figures never."""
    columns, row = ["name", "a long heading", "b"], ["x" * 30, "99.99 %", "1,000,000"]
    assert "┃ a long heading ┃" in _printed(columns, [row], 80)
    narrow = _printed(columns, [row], 45)
    assert "a long heading" not in narrow
    assert "│ 99.99 % │ 1,000,000 │" in narrow
    assert narrow.count("x") == 30
    assert max(map(len, narrow.splitlines())) <= 45


def test_words_stand_left():
    """As names do; they wrap where there is no room."""
    out = _printed(["name", "what"], [["a", "one two three four five six"]], 24, words=["what"])
    assert "│ a    │ one two three │" in out
    assert "│      │ four five six │" in out


def _in_terminal(*command, **environment):
    """Run a command whose stdout and stderr are a terminal; return what it was sent."""
    ours, theirs = pty.openpty()
    program = str(Path(sys.executable).with_name("equipoise"))
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment}
    done = subprocess.Popen([program, *map(str, command)], stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    sent = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so that the other end has closed
            break
        if not part:
            break
        sent += part
    os.close(ours)
    assert done.wait() == 0
    return sent.decode()


def test_colours_in_terminals_only(prepared):
    """Bold headings in a terminal, none with NO_COLOR, and none in a pipe."""
    assert "\x1b[1m" in _in_terminal("inspect", "load.npz", NO_COLOR="")
    assert "\x1b[" not in _in_terminal("inspect", "load.npz", NO_COLOR="1")
    program = str(Path(sys.executable).with_name("equipoise"))
    piped = subprocess.run(
        [program, "inspect", "load.npz"], capture_output=True, check=True, env={**os.environ, "NO_COLOR": ""}
    )
    assert b"\x1b" not in piped.stdout
    assert piped.stderr == b""


@pytest.fixture
def terminal(monkeypatch):
    """Stand in for a terminal behind stderr; returns what it was sent. Work counts as long after a hundredth of a second."""
    stream = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=stream, force_terminal=True, width=80))
    monkeypatch.setattr(output, "_PATIENCE", 0.01)
    return stream


def test_long_work_shows_a_bar(terminal):
    """With what is done of how much, and the time left; it is gone in the end."""
    with output.progress_bar("planning", 4, quiet=False) as advance:
        advance()
        sleep(0.3)
        advance()
    sent = terminal.getvalue()
    assert "planning" in sent
    assert "/4" in sent
    assert "left" in sent
    assert sent.endswith("\x1b[2K")
    with output.working("reading", quiet=False):
        sleep(0.3)
    assert "reading" in terminal.getvalue()


def test_short_work_shows_nothing(terminal, monkeypatch):
    """Nor does work that is to be quiet, however long."""
    monkeypatch.setattr(output, "_PATIENCE", 60.0)
    with output.working("reading", quiet=False), output.progress_bar("planning", 4, quiet=False) as advance:
        advance()
    monkeypatch.setattr(output, "_PATIENCE", 0.0)
    with output.working("reading", quiet=True), output.progress_bar("planning", 4, quiet=True) as advance:
        advance()
    assert terminal.getvalue() == ""


def _fail_late():
    sleep(0.2)
    raise ZeroDivisionError


def test_bars_end_with_what_they_show(terminal):
    """An error takes the bar away too."""
    with pytest.raises(ZeroDivisionError), output.working("reading", quiet=False):
        _fail_late()
    assert terminal.getvalue().endswith("\x1b[2K")
