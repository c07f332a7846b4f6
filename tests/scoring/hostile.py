"""Programs that misbehave, each with the verdict it must get. ``{outside}`` is a path that none may write to or read."""

from __future__ import annotations

from dataclasses import dataclass

HONEST = """
import torch

def maps(weight, slots):
    layers, experts = weight.shape
    spare = slots - experts
    phy2log = (torch.arange(slots) % experts).repeat(layers, 1)
    log2phy = torch.full((layers, experts, 2), -1)
    log2phy[:, :, 0] = torch.arange(experts)
    log2phy[:, :spare, 1] = torch.arange(experts, slots)
    logcnt = torch.ones(layers, experts, dtype=torch.int64)
    logcnt[:, :spare] = 2
    return phy2log, log2phy, logcnt
"""
"""Fills slots in id order, for experts <= slots <= 2 * experts."""

_CALL = "\ndef rebalance_experts(weight, slots, groups, nodes, ranks):\n"


def program(body: str, before: str = "") -> str:
    """Return a program with some lines as the function's body."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    return HONEST + before + _CALL + lines + "\n"


@dataclass(frozen=True)
class Case:
    """A program, the kind of verdict it must get, and words that its verdict, notes or output must have."""

    name: str
    text: str
    kind: str
    says: str = ""


GOOD = "return maps(weight, slots)"

_SPEAK = """
import json, os, struct

def speak(kind, body=b"", **head):
    text = json.dumps({**head, "kind": kind}).encode()
    data = struct.pack(">4sII", b"eqp1", len(text), len(body)) + text + body
    while data:
        data = data[os.write(3, data) :]

def hear():
    def take(count):
        data = b""
        while len(data) < count:
            data += os.read(3, count - len(data)) or os._exit(0)
        return data
    _, head, body = struct.unpack(">4sII", take(12))
    return json.loads(take(head)), take(body)
"""

_OWN_PROTOCOL = (
    HONEST
    + _SPEAK
    + """
import numpy as np

speak("loaded", unprotected=[])
while True:
    head, body = hear()
    if head["kind"] == "last":
        speak("bye")
        continue
    weight = torch.from_numpy(np.frombuffer(body, head["dtype"]).reshape(head["shape"]).copy())
    sum(i * i for i in range(1_000_000))
    made = [each.numpy() for each in maps(weight, head["arguments"][0])]
    speak("done")
    described = [{"dtype": each.dtype.str, "shape": list(each.shape)} for each in made]
    speak("answer", b"".join(each.tobytes() for each in made), nanoseconds=1, changed=False, threads=1, arrays=described)
"""
)
"""A program that never returns from being loaded: it speaks with the scorer itself, and plans before it says so."""

EARLY = """
import sys

calling = sys.modules["equipoise.scoring.calling"]
usual = calling.{name}

def early(*arguments):
    given = usual(*arguments)
    sum(i * i for i in range(1_000_000))
    return given

calling.{name} = early
"""
"""Plans while it is given its window, before its clock runs."""


def says(kind: str, **head: object) -> str:
    """Return a program that forges a message while it is loaded."""
    return HONEST + _SPEAK + f"speak({kind!r}, **{head!r})\n" + _CALL + "    return maps(weight, slots)\n"


def answers(*arrays: object, **more: object) -> str:
    """Return a program that loads, then forges an answer of no bytes."""
    forged = f"hear()\nspeak('done')\nspeak('answer', arrays={list(arrays)!r}, **{more!r})\n"
    return HONEST + _SPEAK + "speak('loaded', unprotected=[])\n" + forged + _CALL + "    return maps(weight, slots)\n"


def _touches(body: str, name: str) -> Case:
    return Case(name, program(f"import os, resource\n{body}\n{GOOD}"), "raised", "PermissionError")


CASES = (
    Case("honest", program(GOOD), "accepted"),
    Case("empty", "", "no function", "rebalance_experts"),
    Case("no function", "rebalance_experts = 3\n", "no function"),
    Case("syntax error", "import torch\ndef rebalance_experts(:\n", "syntax error", "def rebalance_experts(:"),
    Case("null bytes", "x = '\0'\n", "syntax error"),
    Case("missing package", "import no_such_package\n", "import error", "no_such_package"),
    Case("raises when loaded", "1 / 0\n", "raised", "ZeroDivisionError"),
    Case("raises", program("raise ValueError('no idea')"), "raised", "no idea"),
    Case("raises what cannot be shown", program("class E(Exception):\n    __str__ = None\nraise E()"), "raised"),
    Case("SystemExit", program("raise SystemExit(0)"), "exited", "SystemExit"),
    Case("KeyboardInterrupt", program("raise KeyboardInterrupt"), "exited", "KeyboardInterrupt"),
    Case("os._exit", program("import os; os._exit(3)"), "exited", "3"),
    Case("crashes by a signal", program("import ctypes; ctypes.string_at(0)"), "killed", "SIGSEGV"),
    Case("kills itself", program("import os; os.kill(os.getpid(), 9)"), "killed", "SIGKILL"),
    Case("kills what it came from", program(f"import os\nos.kill(os.getppid(), 9)\n{GOOD}"), "raised", "PermissionError"),
    Case("recursion", program("return rebalance_experts(weight, slots, groups, nodes, ranks)"), "raised", "RecursionError"),
    Case("sleeps", program("import time; time.sleep(60)"), "timed out", "window 0"),
    Case("busy", program("while True: pass"), "timed out"),
    Case("busy when loaded", "while True: pass\n", "timed out", "loading"),
    Case(
        "ignores signals",
        program("import signal, time\nfor s in (2, 3, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"),
        "timed out",
    ),
    Case("memory in lists", program("held = []\nwhile True: held.append(bytearray(1 << 24))"), "out of memory"),
    Case("memory at once", program("import numpy; numpy.ones(1 << 36)"), "out of memory"),
    Case("memory in torch", program("torch.ones(1 << 36)"), "out of memory"),
    Case(
        "raises its limits",
        program("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n" + GOOD),
        "raised",
        "not allowed to raise",
    ),
    Case("fork", program(f"import os\nif os.fork() == 0: os._exit(0)\n{GOOD}"), "raised", "PermissionError"),
    Case("fork bomb", program("import os\nwhile True: os.fork()"), "raised", "PermissionError"),
    Case("subprocess", program("import subprocess; subprocess.run(['/bin/true'])"), "raised"),
    Case("becomes another program", program("import os; os.execv('/bin/sleep', ['sleep', '60'])"), "raised", "PermissionError"),
    Case(
        "daemon",
        program(f"import os\ntry:\n    os.fork() or os.setsid() or os.fork()\nexcept OSError: pass\n{GOOD}"),
        "accepted",
    ),
    Case("prints megabytes", program(f"print('x' * (3 << 20))\n{GOOD}"), "accepted", "it printed"),
    Case(
        "prints rubbish", program(f"import os\nos.write(1, bytes(range(256)) * 9)\nos.write(2, b'\\xff')\n{GOOD}"), "accepted"
    ),
    Case("closes its output", program(f"import os\nos.closerange(1, 3)\n{GOOD}"), "accepted"),
    Case(
        "garbage on every descriptor",
        program(f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'x' * 99)\n    except OSError: pass\n{GOOD}"),
        "garbled",
    ),
    Case("closes every descriptor", program(f"import os\nos.closerange(0, 64)\n{GOOD}"), "exited"),
    Case("writes in its folder", program(f"open('left.txt', 'w').write('x')\n{GOOD}"), "accepted", "wrote 1 file"),
    Case("writes elsewhere", program(f"open('{{outside}}/left.txt', 'w')\n{GOOD}"), "raised", "PermissionError"),
    Case("writes to /tmp", program(f"open('/tmp/equipoise-hostile-left', 'w')\n{GOOD}"), "raised", "PermissionError"),
    Case(
        "writes a large file", program("f = open('x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))"), "raised", "File too large"
    ),
    Case(
        "writes many files",
        program("import time\nfor i in range(2000): open(str(i), 'w').close()\ntime.sleep(9)"),
        "too many files",
    ),
    Case("deletes itself", program(f"import os\nos.remove(__file__)\n{GOOD}"), "raised", "PermissionError"),
    Case("reads the trace", program(f"open('{{outside}}/trace.npz')\n{GOOD}"), "raised", "PermissionError"),
    Case("reads the load that ships", program("from equipoise import LoadTrace; LoadTrace.example()"), "raised", "gpt-oss"),
    Case(
        "reads its parent's memory",
        program(f"import os\nopen(f'/proc/{{{{os.getppid()}}}}/mem')\n{GOOD}"),
        "raised",
        "PermissionError",
    ),
    Case(
        "looks for the trace",
        program(
            "import gc, os, sys\n"
            "seen = [*sys.argv, *os.environ, *os.environ.values()]\n"
            "for name in ('cmdline', 'environ', 'maps'):\n"
            "    try: seen.append(open(f'/proc/{{os.getppid()}}/{{name}}').read())\n"
            "    except OSError: pass\n"
            "seen += [o for o in gc.get_objects() if isinstance(o, str)]\n"
            "assert not any('{outside}' in text for text in seen), 'found it'\n" + GOOD
        )
        .replace("{{", "{")
        .replace("}}", "}"),
        "accepted",
    ),
    Case("opens a socket", program("import socket; socket.create_connection(('127.0.0.1', 9))"), "raised", "PermissionError"),
    Case(
        "patches time",
        program(f"import time\ntime.sleep(0.05)\n{GOOD}", "import time\ntime.perf_counter_ns = lambda: 0\n"),
        "accepted",
    ),
    Case(
        "patches the scorer's clock",
        program(
            f"import sys\nsys.modules['equipoise.scoring.calling']._clock = lambda: 0\nfor i in range(400_000): i * i\n{GOOD}"
        ),
        "clock",
    ),
    Case("replaces torch", program(GOOD, "torch.Tensor.numpy = torch.Tensor.cpu = lambda *_: 1 / 0\n"), "accepted"),
    Case(
        "threads that go on",
        program(f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n{GOOD}"),
        "accepted",
        "threads",
    ),
    Case("returns nothing", program("pass"), "wrong type", "NoneType"),
    Case("returns two", program("return maps(weight, slots)[:2]"), "wrong type", "tuple of 2"),
    Case("returns lists", program("return [m.tolist() for m in maps(weight, slots)]"), "wrong type", "phy2log is a list"),
    Case("floats", program("return [m.double() for m in maps(weight, slots)]"), "wrong type", "float64"),
    Case("nan", program("a, b, c = maps(weight, slots)\nreturn a * float('nan'), b, c"), "wrong type", "float32"),
    Case("sparse", program("a, b, c = maps(weight, slots)\nreturn a.to_sparse(), b, c"), "wrong type"),
    Case("one layer", program("return [m[:1] for m in maps(weight, slots)]"), "wrong shape"),
    Case("too many slots", program("a, b, c = maps(weight, slots)\nreturn torch.cat([a, a], 1), b, c"), "wrong shape"),
    Case(
        "too large an answer",
        program("a, b, c = maps(weight, slots)\nreturn a, b, torch.zeros(1 << 20, dtype=torch.int64)"),
        "wrong shape",
    ),
    Case("negative", program("a, b, c = maps(weight, slots)\na[0, 0] = -1\nreturn a, b, c"), "out of range"),
    Case(
        "beyond the experts", program("a, b, c = maps(weight, slots)\na[1, 2] = 99\nreturn a, b, c"), "out of range", "slot 2"
    ),
    Case(
        "leaves an expert out",
        program("a, b, c = maps(weight, slots)\na[0, 7] = 0\nreturn a, b, c"),
        "expert missing",
        "expert 7",
    ),
    Case("counts wrongly", program("a, b, c = maps(weight, slots)\nc[0, 0] += 1\nreturn a, b, c"), "maps disagree", "logcnt"),
    Case(
        "lists wrongly", program("a, b, c = maps(weight, slots)\nb[1, 3, 0] = 4\nreturn a, b, c"), "maps disagree", "expert 3"
    ),
    Case(
        "lists a slot twice", program("a, b, c = maps(weight, slots)\nb[0, 0, 1] = b[0, 0, 0]\nreturn a, b, c"), "maps disagree"
    ),
    Case("pads with zeros", program("a, b, c = maps(weight, slots)\nb[b < 0] = 0\nreturn a, b, c"), "maps disagree"),
    Case(
        "changes its answer later",
        program(
            "global last\nif last is not None: last[0][0, :2] = torch.tensor([1, 0])\n"
            "last = maps(weight, slots)\nreturn tuple(m.view(m.shape) for m in last)",
            "last = None\n",
        ),
        "changed later",
    ),
    Case("changes what it was given", program(f"weight.zero_()\n{GOOD}"), "accepted"),
    Case("plans before its clock runs", program(GOOD, EARLY.format(name="_given")), "clock"),
    Case("plans while arrays are turned", program(GOOD, EARLY.format(name="_from_numpy")), "clock"),
    Case("speaks the protocol itself", _OWN_PROTOCOL, "clock"),
    Case(
        "plans between an answer and the next window",
        program(
            GOOD,
            "import sys\ncalling = sys.modules['equipoise.scoring.calling']\nusual = calling.Caller._receive\n"
            "def receive(self):\n    sum(i * i for i in range(1_000_000))\n    return usual(self)\n"
            "calling.Caller._receive = receive\n",
        ),
        "clock",
    ),
    _touches("resource.prlimit(os.getppid(), resource.RLIMIT_CPU)", "reads the limits of what it came from"),
    _touches("resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (6, 6))", "limits what it came from"),
    _touches("resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))", "limits others"),
    _touches("os.sched_setaffinity(os.getppid(), {{0}})", "moves what it came from to one core"),
    _touches("os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)", "slows what it came from"),
    _touches("os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))", "idles what it came from"),
    _touches("os.kill(-1, 0)", "signals all"),
    _touches("import signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)", "signals by descriptor"),
    _touches("import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "has signals sent"),
    _touches("os.chmod('{outside}', 0)", "chmod"),
    _touches("os.chmod(os.open('{outside}', os.O_PATH), 0)", "chmod of a descriptor"),
    _touches("os.chown('{outside}', -1, -1)", "chown"),
    _touches("os.utime('{outside}', (1, 1))", "utime"),
    _touches("os.setxattr('{outside}', 'user.x', b'1')", "setxattr"),
    _touches("os.truncate('{outside}/trace.npz', 1)", "truncate"),
    Case(
        "keeps to itself",
        program(
            "import os, resource, signal, threading\nresource.getrlimit(resource.RLIMIT_AS)\n"
            f"signal.signal(signal.SIGUSR1, signal.SIG_IGN)\nos.kill(os.getpid(), signal.SIGUSR1)\n{GOOD}"
        ),
        "accepted",
    ),
    Case(
        "folders deep within each other",
        program(f"import os\nfor i in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n{GOOD}"),
        "too many files",
        "deep",
    ),
    Case("many files at once", program(f"for i in range(300): open(str(i), 'w').close()\n{GOOD}"), "too many files"),
    Case(
        "many bytes at once",
        program(f"for i in range(20): open(str(i), 'wb').write(b'x' * (4 << 20))\n{GOOD}"),
        "too many files",
        "MiB",
    ),
    Case(
        "threads without end",
        program(
            "import threading, time\nthreading.stack_size(65536)\n"
            "for _ in range(200): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\ntime.sleep(60)"
        ),
        "too many processes",
        "threads",
    ),
    Case("forges protections", says("loaded", unprotected=5), "garbled"),
    Case("forges a type of arrays", answers(*[{"dtype": ["x"], "shape": [0]}] * 3), "garbled"),
    Case("forges endless arrays", answers(*[{"dtype": "<i8", "shape": [0, 1 << 39, 1 << 39]}] * 3), "garbled"),
    Case("forges lines of text", says("failed", type="x", message="a\nb\x1b[2J\ud800", line="L\nM", text=""), "garbled"),
    Case("forges a failure of another form", says("failed", type=[1], message={"a": 1}, line=[1, 2]), "garbled"),
    Case("raises what no terminal shows", program(r"raise ValueError('\ud800 \x1b[2J')"), "raised", r"\ud800 \x1b[2J"),
    Case("returns an endless array of nothing", program("return [torch.empty(0, 1 << 45, dtype=int)] * 3"), "wrong shape"),
)
