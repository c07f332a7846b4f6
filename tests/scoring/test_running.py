"""Programs in their own process: whatever they do, a clear verdict, and nothing of them is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.scoring.answers import check_answer
from equipoise.scoring.limits import LEAST_MEMORY, Limits
from equipoise.scoring.programs import Program
from equipoise.scoring.running import Runner, Timing, Transport, _failure, _StoppedError, _unpacked, doubted, transport_of
from equipoise.scoring.scratch import look_into, remove_tree

from .hostile import CASES, GOOD, HONEST, program

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LAYERS, EXPERTS, SLOTS = 2, 12, 16
ARGUMENTS = (SLOTS, 1, 1, 4)
WINDOWS = [np.random.default_rng(number).integers(0, 1000, (LAYERS, EXPERTS)) for number in range(3)]
LIMITS = Limits(call_seconds=1.2, load_seconds=2.0, memory=256 << 20, file_bytes=4 << 20)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Return a folder with a trace that no program may reach."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "trace.npz").write_bytes(b"secret")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _own_folder_for_scratch(tmp_path_factory):
    """Let scratch folders be made where what is left of them can be seen."""
    usual, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("scratch"))
    yield
    tempfile.tempdir = usual


@pytest.fixture(scope="module")
def runner(outside):
    """Return a runner that all cases share, and the transport that it measured."""
    with Runner([outside / "trace.npz"], LIMITS) as shared:
        yield shared


def _of_parent(parent: int) -> set[int]:
    """List all descendants of a process."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {parent}
    while more := {pid for pid, of in parents.items() if of in found} - found:
        found |= more
    return found - {parent}


def _judge(runner, text, name="program.py"):
    """Return the run and the verdict that the judge would give."""
    run = doubted(runner.run(Program(name, text), WINDOWS, ARGUMENTS), Transport(0.005, 0.005))
    wrong = (check_answer(answer, i, LAYERS, EXPERTS, SLOTS) for i, answer in enumerate(run.answers))
    return run, next(filter(None, wrong), run.verdict)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(runner, outside, case):
    """Each gets its verdict in words, ends in time, and leaves no process and no file."""
    text = case.text.replace("{outside}", str(outside)).replace("{{", "{").replace("}}", "}")
    start = time.monotonic()
    run, verdict = _judge(runner, text)
    assert verdict.kind == case.kind, (verdict, run.output)
    assert time.monotonic() - start < 15
    if not verdict.is_accepted:
        assert all((verdict.found, verdict.rule, verdict.next_step)), verdict
        assert str(verdict).isprintable()
    else:
        assert len(run.answers) == len(WINDOWS)
    assert case.says in " ".join([str(verdict), *run.notes, run.output])
    assert len(run.output) <= 4 * 4096
    assert _of_parent(os.getpid()) <= {runner._process.pid}
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert sorted(path.name for path in outside.iterdir()) == ["trace.npz"]


def test_patched_clocks_gain_nothing(runner):
    """A program that works for a while and shows no time is billed what the kernel saw."""
    work = f"import sys\n{{patch}}\nsum(i * i for i in range(1_000_000))\n{GOOD}"
    honest = runner.run(Program("honest", program(work.format(patch=""))), WINDOWS, ARGUMENTS)
    patch = "sys.modules['equipoise.scoring.calling']._clock = lambda: 0"
    cheat = runner.run(Program("cheat", program(work.format(patch=patch))), WINDOWS, ARGUMENTS)
    assert all(timing.own == 0 for timing in cheat.timings)
    assert min(timing.seconds(Transport()) for timing in cheat.timings) > 0.5 * min(timing.own for timing in honest.timings)


def test_work_put_off_is_billed(runner):
    """Nor does it help to say "done" early, and work on."""
    early = program(
        "import sys\nsys.modules['equipoise.scoring.calling']._clock = lambda: 0\n"
        "caller = sys._getframe(1).f_locals['self']\ncaller._send('done')\ncaller._send = later(caller._send)\n"
        f"sum(i * i for i in range(1_000_000))\n{GOOD}",
        "def later(send):\n    return lambda kind, *rest, **head: None if kind == 'done' else send(kind, *rest, **head)\n",
    )
    run = runner.run(Program("early", early), WINDOWS[:1], ARGUMENTS)
    assert run.verdict.is_accepted, run.verdict
    assert run.timings[0].seconds(Transport()) > 0.01
    assert run.timings[0].done < 0.01


def test_scored_windows_are_not_there(runner):
    """Of all windows only those whose turn has come are in the process."""
    text = program(
        "import gc\nprint([int(o.sum()) for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == weight.shape])\n"
        + GOOD
    )
    run = runner.run(Program("look", text), WINDOWS, ARGUMENTS)
    for number, line in enumerate(run.output.splitlines()):
        seen = json.loads(line)
        assert WINDOWS[number].sum() in seen
        assert not {window.sum() for window in WINDOWS[number + 1 :]} & set(seen)


def test_answers_are_looked_at_once_more_at_the_end(runner):
    """One that a thread changes after the last call is refused too."""
    text = program(
        "import threading, time\nanswer = maps(weight, slots)\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), answer[2].zero_()), daemon=True).start()\nreturn answer"
    )
    run = runner.run(Program("late", text), WINDOWS[:1], ARGUMENTS, progress=lambda: time.sleep(0.5))
    assert run.verdict.kind == "changed later"
    assert run.verdict.found.startswith("window 0")


def test_environment(runner, monkeypatch):
    """No variable of ours gets there."""
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("NUMBA_SECRET", "hush")
    with Runner(limits=LIMITS) as fresh:
        run = fresh.run(
            Program("env", program(f"import os, sys\nprint(dict(os.environ), sys.argv, os.listdir())\n{GOOD}")),
            WINDOWS[:1],
            ARGUMENTS,
        )
    assert "hush" not in run.output
    assert "'env'] []" in run.output
    assert run.unprotected == ()


WEAKER = {
    "fork bomb": "import os, time\nfor _ in range(6):\n    os.fork()\ntime.sleep(30)",
    "daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.closerange(0, 64)\n"
        f"        time.sleep(60)\n    os._exit(0)\n{GOOD}"
    ),
}


@pytest.mark.parametrize("name", WEAKER)
def test_what_a_filter_would_refuse_is_ended(name):
    """Where processes can be started they are counted, and killed with their program, in the background or not."""
    builtin = Program(name, program(WEAKER[name]), is_builtin=True)
    before = _of_parent(os.getpid())
    with Runner(limits=LIMITS) as weaker:
        run = weaker.run(builtin, WINDOWS[:1], ARGUMENTS)
        assert _of_parent(os.getpid()) - before <= {weaker._process.pid}
    if name == "daemon":
        assert run.verdict.is_accepted, run.verdict
        assert any("left behind" in note for note in run.notes)
    else:
        assert run.verdict.kind == "too many processes"


@pytest.mark.parametrize("missing", [("landlock",), ("seccomp",), ("landlock", "seccomp")], ids="+".join)
def test_where_the_kernel_has_less(missing, outside):
    """The verdict says what was not in force; Python's own hook still refuses files, sockets and processes."""
    bodies = {
        "read": f"open('{outside}/trace.npz')",
        "write": f"open('{outside}/left.txt', 'w')",
        "fork": "import os; os.fork()",
        "connect": "import socket; socket.create_connection(('127.0.0.1', 9))",
    }
    with Runner(limits=LIMITS, without=missing) as weaker:
        fine = weaker.run(Program("fine", program(GOOD)), WINDOWS, ARGUMENTS)
        assert fine.verdict.is_accepted, fine.verdict
        assert len(fine.unprotected) == len(missing)
        for body in bodies.values():
            run = weaker.run(Program("bad", program(body)), WINDOWS[:1], ARGUMENTS)
            assert run.verdict.kind == "raised", run.verdict
            assert "PermissionError" in run.verdict.found
    assert sorted(path.name for path in outside.iterdir()) == ["trace.npz"]


def test_goes_on_when_its_host_is_killed():
    """Were the process that programs come from to die, that is a verdict too, and the next program gets a new one."""
    before = _of_parent(os.getpid())
    with Runner(limits=LIMITS) as fresh:
        body = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(5)"
        run = fresh.run(Program("killer", program(body), is_builtin=True), WINDOWS[:1], ARGUMENTS)
        assert run.verdict.kind == "killed"
        assert fresh.run(Program("fine", program(GOOD)), WINDOWS, ARGUMENTS).verdict.is_accepted
    assert _of_parent(os.getpid()) <= before


def test_hidden_files_among_packages():
    """A trace within an installed package is hidden; the rest of the package can be read and imported."""
    import equipoise

    shown = program(f"import equipoise.metrics, os\nprint(sorted(os.listdir(os.path.dirname(equipoise.__file__)))[:3])\n{GOOD}")
    hidden = Path(equipoise.__file__).parent / "data" / "SOURCE.md"
    with Runner(limits=LIMITS) as fresh:
        assert fresh.run(Program("shown", shown), WINDOWS[:1], ARGUMENTS).verdict.is_accepted
        run = fresh.run(Program("hidden", program(f"open('{hidden}')")), WINDOWS[:1], ARGUMENTS)
        assert "PermissionError" in run.verdict.found


def test_timing():
    """The larger of what the program says and what outside says, less what messages take; the verdict needs most calls."""
    transport = Transport(0.01, 0.1)
    assert Timing(0.5, 0.505, 0.59).seconds(transport) == 0.5
    assert Timing(0.1, 0.51, 0.55).seconds(transport) == 0.5
    assert Timing(0.1, 0.2, 0.7).seconds(transport) == pytest.approx(0.6)
    assert not Timing(0.5, 0.505, 0.59).is_doubtful(transport)
    assert Timing(0.1, 0.51, 0.55).is_doubtful(transport)


def test_transport(runner):
    """What messages take is milliseconds."""
    found = transport_of(
        runner.run(Program("fine", HONEST + "def rebalance_experts(w, s, *_): return maps(w, s)\n"), WINDOWS, ARGUMENTS)
    )
    assert 0 <= found.done <= found.answer < 0.1


HEADS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["<i8", "|b1", "<c16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "x"]), inner, max_size=3),
    max_leaves=12,
)
ARRAYS = st.fixed_dictionaries({"dtype": HEADS, "shape": st.lists(st.integers(-1, 1 << 62), max_size=9) | HEADS})


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["problem", "wrong"]), HEADS), HEADS | st.lists(ARRAYS, min_size=3, max_size=3))
def test_forged_answers(head, arrays):
    """Whatever a message says, it is three arrays or a verdict in one line."""
    verdict = None
    try:
        verdict = check_answer(_unpacked({**head, "arrays": arrays}, bytes(16), "window 0"), 0, LAYERS, EXPERTS, SLOTS)
    except _StoppedError as stop:
        verdict = stop.verdict
    assert verdict is not None
    assert str(verdict).isprintable()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["failed", "x", "\ud800"]), st.dictionaries(st.sampled_from(["type", "message", "line", "text"]), HEADS))
def test_forged_failures(kind, head):
    """The same holds for what it says of its failures."""
    assert str(_failure({**head, "kind": kind}, "window 0", LIMITS)).isprintable()


def test_lines_are_found_under_any_name(runner):
    """The line that raised is told whatever the program is called."""
    run = runner.run(Program("mine.py + wider", program("weight + 1\n1 / 0")), WINDOWS[:1], ARGUMENTS)
    line = program("weight + 1\n1 / 0").splitlines().index("    1 / 0") + 1
    assert f"line {line}:" in run.verdict.found


def test_a_dead_host_is_replaced():
    """Were the process to fork from to die as a program is handed to it, the next takes over, and nothing is told."""
    with Runner(limits=LIMITS) as fresh:
        assert fresh.run(Program("fine", program(GOOD)), WINDOWS[:1], ARGUMENTS).verdict.is_accepted
        os.kill(fresh._process.pid, 9)
        fresh._process.poll = lambda: None
        assert fresh.run(Program("fine", program(GOOD)), WINDOWS[:1], ARGUMENTS).verdict.is_accepted


@pytest.mark.parametrize("number", [15, 9])
def test_a_killed_scorer_leaves_nothing(tmp_path, number):
    """Neither its folder nor its processes outlive it."""
    code = (
        "import sys, numpy\nfrom equipoise.scoring.programs import Program\nfrom equipoise.scoring.running import Runner\n"
        "text = 'import time\\ndef rebalance_experts(*_): time.sleep(60)\\n'\n"
        "Runner().run(Program('sleeps', text), [numpy.ones((1, 2), int)] * 2, (2, 1, 1, 1))"
    )
    scorer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    _until(lambda: list(tmp_path.glob("equipoise-*/order.json")))
    started = _of_parent(scorer.pid)
    scorer.send_signal(number)
    scorer.wait()
    _until(lambda: not list(tmp_path.iterdir()))
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def _until(is_so):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_contents_and_removal(tmp_path):
    """Counts stop at the most; folders are removed however deep, whatever their modes, and links are not followed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(b"x" * 5000)
    (folder / "link").symlink_to(kept)
    found = look_into(folder, 9)
    assert (found.entries, found.files, found.hidden) == (4, 2, "")
    assert found.bytes >= 5000
    assert look_into(folder, 1).entries == 2
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    assert "deep" in look_into(folder, 9999).hidden
    (folder / "a").chmod(0)
    remove_tree(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept"]
    remove_tree(folder)


def test_little_memory_is_refused():
    """In one line, before anything runs."""
    with pytest.raises(ArgumentError, match="memory is 32 MiB: a program needs 64 MiB or more"):
        Limits(memory=32 << 20)


def test_the_least_memory_is_enough():
    """A program that does little runs within it."""
    with Runner(limits=Limits(memory=LEAST_MEMORY)) as fresh:
        assert fresh.run(Program("fine", program(GOOD)), WINDOWS, ARGUMENTS).verdict.is_accepted
