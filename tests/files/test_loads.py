"""Reading loads: every format by content, 2-D and 3-D, files and standard input; bad ones named."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import EquipoiseError, FileError

LOAD = np.arange(24).reshape(4, 2, 3)


def _csv(load, step=True):
    head = ["step,layer,expert,load"] if step else ["layer,expert,load"]
    rows = [f"{t},{layer},{e},{v}" if step else f"{layer},{e},{v}" for (t, layer, e), v in np.ndenumerate(load)]
    return "\n".join(head + rows)


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = {
    "npz, array load": (_npz(load=LOAD, tokens=np.ones(4)), LOAD),
    "npz, only array": (_npz(counts=LOAD), LOAD),
    "npz, 2-D": (_npz(load=LOAD[0]), LOAD[:1]),
    "npy": (_npy(LOAD), LOAD),
    "npy, 2-D floats": (_npy(LOAD[1] / 2), LOAD[1:2] / 2),
    "csv, long": (_csv(LOAD).encode(), LOAD),
    "csv, long, one step": (_csv(LOAD[:1], step=False).encode(), LOAD[:1]),
    "csv, matrix": (b"0,1,2\n3,4,5\n", LOAD[:1]),
    "csv, matrix of floats": (b"0,1.5\n", np.array([[[0, 1.5]]])),
    "csv, byte order mark and blank line": ("\ufefflayer,expert,load\n0,0,7\n\n0,1,8\n".encode(), np.array([[[7, 8]]])),
    "csv, columns in another order": (b"load,expert,layer\n7,0,0\n8,1,0\n", np.array([[[7, 8]]])),
    "json, load_history": (
        json.dumps({"load_history": [{"step": 1, "logical_expert_load": x} for x in LOAD.tolist()]}).encode(),
        LOAD,
    ),
    "json, other keys first": (json.dumps({"model": "m", "logical_count": LOAD.tolist()}).encode(), LOAD),
    "json, logical_count, 2-D": (json.dumps({"logical_count": LOAD[0].tolist()}).encode(), LOAD[:1]),
    "json, 3-D list": (json.dumps(LOAD.tolist(), indent=1).encode(), LOAD),
    "json, 2-D list": (json.dumps(LOAD[0].tolist()).encode(), LOAD[:1]),
    "json, integers, then floats": (b"[[1, 2], [1.5, 2]]", np.array([[[1, 2], [1.5, 2]]])),
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_are_told_apart_by_content(tmp_path, name):
    """Whatever the file is called, what it holds is read; integers stay integers; a stream does as well as a path."""
    content, expected = GOOD[name]
    path = tmp_path / "load.dat"
    path.write_bytes(content)
    for source in (path, str(path), io.BytesIO(content)):
        trace = LoadTrace.read(source)
        assert np.array_equal(trace.load, expected)
        assert (trace.load.dtype.kind == "f") == (np.asarray(expected).dtype.kind == "f")


def test_names_come_along(tmp_path):
    """Layer numbers and labels of an .npz, layer numbers of a .csv."""
    path = tmp_path / "x.npz"
    LoadTrace(LOAD, layer_ids=[3, 7], labels=list("abcd")).write(path)
    trace = LoadTrace.read(path)
    assert trace.layer_ids == (3, 7)
    assert trace.labels == ("a", "b", "c", "d")
    assert np.array_equal(trace.load, LOAD)
    path.write_bytes(b"layer,expert,load\n9,0,1\n9,1,2\n4,0,3\n4,1,4\n")
    assert LoadTrace.read(path).layer_ids == (4, 9)
    assert LoadTrace.read(path).load.tolist() == [[[3, 4], [1, 2]]]


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


BAD = {
    "empty": (b"", "is empty"),
    "blank": (b" \n", "is empty"),
    "pickle": (pickle.dumps(_Trap()), "is or holds a pickle: pickles can run any code and are never loaded"),
    "pickle in npy": (_npy(np.array([_Trap()], object)), "is or holds a pickle"),
    "pickle in npz": (_npz(load=np.array([_Trap()], object)), "is or holds a pickle"),
    "npz of other arrays": (_npz(a=LOAD, b=LOAD), "holds the arrays a, b: one must be called load"),
    "npz of no arrays": (_npz(), "holds the arrays none"),
    "npz, layer numbers in words": (_npz(load=LOAD, layer_ids=["a", "b"]), "has layer_ids of <U1: they must be integers"),
    "npz, sources that do not add up": (_npz(load=LOAD, source_load=LOAD[:, None] + 1), "source_load adds up to 1 at step 0"),
    "safetensors": (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", ""),
    "npz, cut": (_npz(load=LOAD)[:200], "is damaged (File is not a zip file)"),
    "npz, bytes flipped": (_npz(load=LOAD).replace(b"\x93NUMPY", b"\x93NUMPX"), "is damaged"),
    "npy, cut": (_npy(LOAD)[:150], "is damaged"),
    "npy that claims terabytes": (
        _npy(LOAD).replace(b"(4, 2, 3), }          ", b"(4000000000000, 2, 3)}"),
        "is damaged (its header claims 192,000,000,000,000 bytes, 192 are there)",
    ),
    "binary": (b"\x01\x02\x00\x03", "is binary of an unknown kind"),
    "text": (b"hello, world", "is no load file: its text begins with neither"),
    "csv, ragged": (b"1,2,3\n4,5\n", "is not a table of numbers"),
    "csv, word": (b"1,2\n3,x\n", "is not a table of numbers"),
    "a program": (b"import numpy as np, sys\n", "is no load file: its text begins with neither"),
    "csv, many columns": (
        b"load," + b"a" * 50 + b",b" * 50 + b"\n",
        "the columns load, aaaaaaaaaaaaaaaaaaaa, b, b, b, b, b, b, ...",
    ),
    "csv, other columns": (b"layer,expert\n0,0\n", "has the columns layer, expert"),
    "csv, header only": (b"layer,expert,load\n", "holds no rows of numbers"),
    "csv, missing row": (b"layer,expert,load\n0,0,1\n0,1,1\n1,0,1\n", "has 0 rows for layer 1, expert 1"),
    "csv, row twice": (b"layer,expert,load\n0,0,1\n0,0,1\n", "has 2 rows for layer 0, expert 0"),
    "csv, gap": (b"layer,expert,load\n0,0,1\n0,2,1\n", "skips expert 1"),
    "csv, half an expert": (b"layer,expert,load\n0,0.5,1\n", "could not convert string '0.5'"),
    "csv, negative": (b"1,2\n3,-4\n", "load is -4 at step 0, layer 1, expert 1"),
    "csv, nan": (b"layer,expert,load\n0,0,nan\n", "load is nan at step 0, layer 0, expert 0"),
    "csv, latin-1": ("1,2\n3,é".encode("latin-1"), "is not text"),
    "json, cut": (b"[[1, 2], [3", "is not valid JSON at layer 1, expert 1"),
    "json, nan": (b'{"load_history": [{"logical_expert_load": [[1, 2], [3, NaN]]}]}', "at step 0, layer 1, expert 1"),
    "json, infinity": (b"[[[1, Infinity]]]", "at step 0, layer 0, expert 1"),
    "json, word": (b'[[1, 2], [3, "a"]]', "is not a list of numbers"),
    "json, ragged": (b"[[1, 2], [3]]", "entry 1 has shape [1]: all must have the shape of the first, [2]"),
    "json, ragged step": (b"[[[1, 2], [3]]]", "is not a list of numbers"),
    "json, 1-D": (b"[1, 2]", "load has shape [2]"),
    "json, empty list": (b"[]", "holds no load"),
    "json, empty history": (b'{"load_history": []}', "holds no load"),
    "json, other key": (b'{"load_historie": [[1]]}', "without load_history or logical_count or load"),
    "json, other entry": (b'{"load_history": [{"load": [[1]]}]}', "has no logical_expert_load"),
    "json, huge integer": (b"[[1, 123456789012345678901234567890]]", "at layer 0, expert 1"),
    "json, null": (b"[[1, null]]", "is not a list of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    """Each gives one line with file, value and rule; no pickle runs."""
    content, found = BAD[name]
    path = tmp_path / "load.dat"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        LoadTrace.read(path)
    assert found in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    """Both are named with the system's reason."""
    with pytest.raises(FileError, match="No such file"):
        LoadTrace.read(tmp_path / "none.npz")
    with pytest.raises(FileError, match="is a folder without load files"):
        LoadTrace.read(tmp_path)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_damaged_files_give_an_error_or_a_trace(name, data):
    """Whatever bytes are flipped or cut, nothing but an EquipoiseError or a valid trace comes out."""
    content = bytearray(GOOD[name][0])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        trace = LoadTrace.read(io.BytesIO(bytes(content)))
    except EquipoiseError:
        return
    assert trace.load.min() >= 0


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["json", "npz", "csv"])
def test_a_long_trace_is_read_in_under_a_gigabyte(tmp_path, kind):
    """1,200 x 58 x 256: resident memory of the reading process stays below 1 GB, JSON and long .csv included."""
    path = tmp_path / f"long.{kind}"
    rng = np.random.default_rng(0)
    if kind == "npz":
        np.savez_compressed(path, load=rng.integers(0, 900, (1200, 58, 256)))
    elif kind == "json":
        step = json.dumps({"logical_expert_load": rng.integers(0, 900, (58, 256)).tolist()})
        path.write_text('{"load_history": [' + ", ".join([step] * 1200) + "]}")
    else:
        cells = "".join(f",{layer},{e},{(layer * e) % 900}\n" for layer in range(58) for e in range(256)).splitlines(True)
        with path.open("w") as file:
            file.write("step,layer,expert,load\n")
            for step in range(1200):
                file.write("".join([f"{step}{cell}" for cell in cells]))
    program = f"""
        from pathlib import Path
        from equipoise import LoadTrace
        trace = LoadTrace.read({str(path)!r})
        assert trace.load.shape == (1200, 58, 256)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(status["VmHWM"].split()[0])  # unlike ru_maxrss, no memory of the process that started this one
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1e9


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3, 4), [("f0", "<f2"), ("f1", "<i4")]), np.full((2, 3, 4), "x"), np.full((2, 3, 4), np.nan, np.float16)],
    ids=["structured", "text", "nan"],
)
def test_what_is_no_load_is_refused_with_layers_named_too(tmp_path, array):
    """Whether rows are empty is asked of numbers only, so that the error names what is wrong with the array."""
    np.save(tmp_path / "load.npy", array)
    with pytest.raises(EquipoiseError):
        LoadTrace.read(tmp_path / "load.npy", layer_ids=(1, 2))
