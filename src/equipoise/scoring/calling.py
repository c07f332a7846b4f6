"""The inside of a program's process: load the program, then call it whenever a window comes.

Clocks and functions are taken before the program is loaded, so that what it replaces changes nothing here. It could still
reach into this module; so nothing here is believed that the scorer cannot check from outside.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from equipoise.scoring.frames import Unpacker, pack

try:
    import torch
except ImportError:  # programs then get arrays
    torch = None

_TEXT = 1_000
_PROGRAM = "<program>"
"""The name that programs are compiled under, whatever theirs is: by it their lines are found."""

_clock = time.perf_counter_ns
_count_threads = threading.active_count
_digest = hashlib.blake2b
_ascontiguous, _frombuffer = np.ascontiguousarray, np.frombuffer
_format_exception, _extract_tb = traceback.format_exception_only, traceback.extract_tb
if torch is not None:
    _Tensor, _from_numpy, _strided = torch.Tensor, torch.from_numpy, torch.strided
    _detach, _cpu, _numpy = torch.Tensor.detach, torch.Tensor.cpu, torch.Tensor.numpy

Digest = list[bytes]


class Caller:
    """Serves one program over a socket until the scorer ends it."""

    def __init__(self, connection: socket.socket, file: str) -> None:
        self._connection, self._file = connection, file
        self._unpacker = Unpacker(1 << 40)
        self._waiting: list[tuple[dict[str, Any], bytes]] = []
        self._last: tuple[Any, Digest] | None = None

    def serve(self, notes: list[str]) -> None:
        """Load the program and answer messages; returns when there are no more."""
        try:
            function = _load(self._file)
        except BaseException as error:
            return self._send("failed", **_told(error, loading=True))
        if not callable(function):
            return self._send("failed", type="no function", message="", line=0, text="")
        self._send("loaded", unprotected=notes)
        while (message := self._receive()) is not None:
            head, body = message
            if head["kind"] == "window":
                self._answer(function, head, body)
            elif head["kind"] == "last":
                self._send("bye", changed=self._has_changed())
        return None

    def _answer(self, function: Callable[..., Any], head: dict[str, Any], body: bytes) -> None:
        weight = _given(head, body)
        arguments = head["arguments"]
        start = _clock()
        try:
            returned = function(weight, *arguments)
        except BaseException as error:
            self._send("done")
            return self._send("failed", **_told(error, loading=False))
        nanoseconds = _clock() - start
        self._send("done")
        try:
            arrays, described = _taken_apart(returned)
            if sum(array.nbytes for array in arrays) > head["longest"]:
                arrays, described = [], {"problem": f"its answer is {described['arrays']}", "wrong": "wrong shape"}
        except BaseException as error:
            return self._send("failed", **_told(error, loading=False))
        changed = self._has_changed()
        self._last = (returned, _digests(arrays)) if arrays else None
        body = b"".join(array.tobytes() for array in arrays)
        self._send("answer", body, nanoseconds=nanoseconds, changed=changed, threads=_count_threads(), **described)
        return None

    def _has_changed(self) -> bool:
        """Whether what the last call returned is no longer what was sent."""
        if self._last is None:
            return False
        returned, digests = self._last
        try:
            return _digests(_taken_apart(returned)[0]) != digests
        except BaseException:
            return True

    def _receive(self) -> tuple[dict[str, Any], bytes] | None:
        while not self._waiting:
            data = self._connection.recv(1 << 20)
            if not data:
                return None
            self._waiting = self._unpacker.feed(data)
        return self._waiting.pop(0)

    def _send(self, kind: str, body: bytes = b"", **head: Any) -> None:
        self._connection.sendall(pack(kind, body, **head))


def _load(file: str) -> Any:
    with open(file, encoding="utf-8") as text:  # noqa: PTH123
        code = compile(text.read(), _PROGRAM, "exec")
    module = types.ModuleType("program")
    module.__file__ = file
    sys.modules["program"] = module
    exec(code, module.__dict__)
    return module.__dict__.get("rebalance_experts")


def _given(head: dict[str, Any], body: bytes) -> Any:
    array = _frombuffer(body, np.dtype(head["dtype"])).reshape(head["shape"]).copy()
    return array if torch is None else _from_numpy(array)


def _taken_apart(returned: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the three arrays, copied, and what to say of them; no arrays where they are not what was asked for."""
    if type(returned) not in (tuple, list) or len(returned) != 3:
        many = f" of {len(returned)}" if type(returned) in (tuple, list) else ""
        return [], {"problem": f"it returned a {type(returned).__name__}{many}"}
    arrays = []
    for name, value in zip(("phy2log", "log2phy", "logcnt"), returned, strict=True):
        array = _as_array(value)
        if array is None or array.dtype.kind not in "iufb":
            return [], {"problem": f"{name} is a {type(value).__name__}{'' if array is None else ' of ' + str(array.dtype)}"}
        arrays.append(array)
    return arrays, {"arrays": [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]}


def _as_array(value: Any) -> Any:
    if torch is None:
        return _ascontiguous(value).copy() if type(value) is np.ndarray else None
    if type(value) is not _Tensor or value.layout is not _strided or str(value.dtype) == "torch.bfloat16":
        return None
    return _ascontiguous(_numpy(_cpu(_detach(value)))).copy()


def _digests(arrays: list[Any]) -> Digest:
    return [_digest(array.tobytes(), digest_size=16).digest() for array in arrays]


def _told(error: BaseException, *, loading: bool) -> dict[str, Any]:
    """Describe an error in a few short texts: its type, its message, and the program's own line it came from."""
    kind = next((known for known in _KINDS if isinstance(error, known)), BaseException).__name__
    line, text = 0, ""
    try:
        message = "".join(_format_exception(error)).strip().splitlines()[-1]
        if isinstance(error, SyntaxError):
            line, text, message = int(error.lineno or 0), str(error.text or "").strip(), str(error.msg)
        else:
            own = [frame.lineno or 0 for frame in _extract_tb(error.__traceback__) if frame.filename == _PROGRAM]
            line = int(own[-1]) if own else 0
    except BaseException:
        message = "an error that cannot be shown"
    return {"type": kind, "message": message[:_TEXT], "line": line, "text": text[:_TEXT], "loading": loading}


_KINDS = (SyntaxError, ImportError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit)
