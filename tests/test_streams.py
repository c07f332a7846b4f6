"""LoadStream: files and functions read a few steps at a time, again and again, in flat memory; bad ones named."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import textwrap
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import ArgumentError, EquipoiseError, FileError
from equipoise.streams import LoadStream

LOAD = np.arange(42).reshape(7, 2, 3)


def _save(path, kind, array):
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, array)
    else:
        with path.open("wb") as file:
            {"npz": np.savez, "compressed": np.savez_compressed}[kind](file, load=array)


def _one_line(error):
    assert "\n" not in str(error.value)
    assert error.value.rule
    assert error.value.next_step
    return str(error.value)


class TestFiles:
    """.npy and .npz."""

    @pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
    @pytest.mark.parametrize("dtype", ["int32", "uint64", ">i4", "float16", "float64", "uint8"])
    def test_a_stream_gives_what_a_trace_holds(self, tmp_path, kind, dtype):
        """The same steps and types, as often as asked; told apart by content."""
        path = tmp_path / "load.dat"
        _save(path, kind, LOAD.astype(dtype))
        stream, trace = LoadStream.open(path), LoadTrace.read(path)
        assert (stream.num_steps, stream.num_layers, stream.num_experts) == trace.load.shape
        for _ in range(2):
            steps = list(stream)
            assert np.array_equal(steps, trace.load)
            assert all(step.dtype == trace.load.dtype and not step.flags.writeable for step in steps)
        assert np.array_equal(stream.sum(), trace.sum())
        assert stream.sum().dtype == trace.sum().dtype

    def test_names_come_along(self, tmp_path):
        """Layer numbers, labels, phases; windows join them as a trace's do."""
        path = tmp_path / "x.npz"
        trace = LoadTrace(LOAD, [3, 7], list("aabbccc"), ["prefill"] * 3 + ["decode"] * 4)
        trace.write(path)
        stream = LoadStream.open(path)
        assert (stream.layer_ids, stream.labels, stream.phases) == (trace.layer_ids, trace.labels, trace.phases)
        windows, expected = stream.windows(3), trace.windows(3)
        assert (windows.layer_ids, windows.labels, windows.phases) == ((3, 7), expected.labels, expected.phases)
        assert windows.num_steps == 2
        assert np.array_equal(list(windows), expected.load)

    def test_one_step(self, tmp_path):
        """A 2-D array is one step."""
        np.save(tmp_path / "x.npy", LOAD[0])
        assert [step.tolist() for step in LoadStream.open(tmp_path / "x.npy")] == [LOAD[0].tolist()]

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"layer,expert,load\n0,0,1\n", "is text: only .npy and .npz stream; LoadTrace.read takes the others into memory"),
            (b"[[1, 2]]", "is JSON text: only .npy and .npz stream"),
            (b"", "is empty"),
            (pickle.dumps([1]), "is a pickle: only .npy and .npz stream"),
        ],
    )
    def test_other_formats_are_refused(self, tmp_path, content, found):
        """With what streams, and what to do with the others."""
        path = tmp_path / "load.npz"
        path.write_bytes(content)
        with pytest.raises(FileError) as error:
            LoadStream.open(path)
        assert f"{path} {found}" in _one_line(error)

    @pytest.mark.parametrize(
        ("arrays", "found"),
        [
            ({"a": LOAD, "b": LOAD}, "holds the arrays a, b: one must be called load"),
            ({"load": np.array([[{}]], object)}, "is or holds a pickle"),
            ({"load": np.array([["a"]])}, "holds <U1 of shape [1, 1]"),
            ({"load": np.ones(3)}, "holds float64 of shape [3]"),
            ({"load": np.ones((0, 2, 3))}, "of shape [0, 2, 3]"),
            ({"load": np.asfortranarray(LOAD)}, "is stored column by column: a stream needs each step in one piece"),
            ({"load": LOAD, "layer_ids": np.array([1])}, "x.npz: layer_ids has 1 entries"),
            ({"load": LOAD, "labels": np.array(["a"])}, "x.npz: labels has 1 entries"),
            ({"load": LOAD, "phases": np.array([""] * 7)}, "x.npz: phases[0] is empty"),
            ({"load": LOAD, "phases": np.array([{}], object)}, "is or holds a pickle"),
            ({"archive/data.pkl": LOAD}, "x.npz is damaged"),
        ],
    )
    def test_bad_arrays_are_named(self, tmp_path, arrays, found):
        """Before anything is read of the load."""
        path = tmp_path / "x.npz"
        np.savez(path, **arrays)
        if "archive/data.pkl" in arrays:
            found = "is a torch file: only .npy and .npz stream"
            import zipfile

            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", b"x")
        with pytest.raises(FileError) as error:
            LoadStream.open(path)
        assert found in _one_line(error)

    def test_what_has_no_path_or_no_file(self, tmp_path):
        """Standard input, open files, absent files and folders."""
        for path, found in [
            ("-", "standard input can be read only once"),
            (io.BytesIO(b""), "the stream can be read only once"),
            (tmp_path / "none.npy", "No such file"),
            (tmp_path, "is a folder: only .npy and .npz stream"),
        ]:
            with pytest.raises(FileError) as error:
                LoadStream.open(path)
            assert found in _one_line(error)

    @pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
    def test_bad_loads_are_named_by_place(self, tmp_path, kind):
        """Step, layer and expert, far into the file, where the chunks before were good."""
        load = np.ones((5000, 4, 32))
        load[4321, 2, 17] = np.nan
        _save(tmp_path / "x", kind, load)
        stream = LoadStream.open(tmp_path / "x")
        with pytest.raises(FileError) as error:
            list(stream)
        assert f"{tmp_path / 'x'}: load is nan at step 4321, layer 2, expert 17" in _one_line(error)
        with pytest.raises(FileError, match="step 4321"):
            list(stream.windows(10))

    def test_a_changed_file_is_named(self, tmp_path):
        """Between opening and reading."""
        np.save(tmp_path / "x.npy", LOAD)
        stream = LoadStream.open(tmp_path / "x.npy")
        np.save(tmp_path / "x.npy", LOAD[:3])
        with pytest.raises(FileError, match="has changed since it was opened"):
            list(stream)

    @given(st.sampled_from(["npy", "npz", "compressed"]), st.data())
    def test_damaged_files_give_an_error_or_loads(self, tmp_path_factory, kind, data):
        """Whatever bytes are flipped or cut, nothing but an EquipoiseError or valid steps comes out."""
        path = tmp_path_factory.mktemp("damaged") / "x"
        _save(path, kind, LOAD)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            steps = list(LoadStream.open(path))
        except EquipoiseError:
            return
        assert min(step.min() for step in steps) >= 0


class TestSources:
    """Functions and iterables."""

    @pytest.mark.parametrize(
        "source",
        [LOAD, list(LOAD), LOAD.tolist(), lambda: iter(LOAD), lambda: (LOAD[i : i + 2] for i in range(0, 7, 2)), lambda: LOAD],
        ids=["array", "list of steps", "nested lists", "function", "function of blocks", "function of an array"],
    )
    def test_all_kinds_give_the_same(self, source):
        """Steps or blocks of steps; started anew at each iteration; sizes found out."""
        stream = LoadStream(source)
        assert (stream.num_layers, stream.num_experts, stream.num_steps, stream.layer_ids) == (2, 3, None, (0, 1))
        for _ in range(2):
            assert np.array_equal(list(stream), LOAD)
        assert np.array_equal(np.concatenate(list(stream.blocks())), LOAD)

    def test_a_buffer_may_be_filled_again(self):
        """What can be written is copied."""

        def refill():
            buffer = np.empty((2, 3))
            for step in LOAD:
                buffer[:] = step
                yield buffer

        assert np.array_equal(list(LoadStream(refill)), LOAD)

    @given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.int32, np.float64]))
    def test_windows_are_those_of_a_trace(self, steps, window, dtype):
        """Whatever the length, and however the source is cut into blocks."""
        load = np.arange(steps * 4).reshape(steps, 2, 2).astype(dtype)
        stream = LoadStream(lambda: np.array_split(load, 1 + steps // 3))
        if window > steps:
            with pytest.raises(ArgumentError, match="the source gives 0 steps"):
                list(stream.windows(window))
            with pytest.raises(ArgumentError, match=f"window is {window} steps: it must lie between 1 and the {steps} steps"):
                LoadStream(load, num_steps=steps).windows(window)
            return
        expected = LoadTrace(load).windows(window).load
        assert np.array_equal(list(stream.windows(window)), expected)
        assert next(iter(stream.windows(window))).dtype == expected.dtype

    def test_whole_steps_then_floats(self):
        """Sums turn to floats with the first that is one."""
        stream = LoadStream([[[1, 2]], [[0.5, 1]]])
        assert stream.sum().tolist() == [[1.5, 3]]
        assert [window.tolist() for window in stream.windows(2)] == [[[1.5, 3]]]

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            ({"source": iter(LOAD)}, "that can be read only once: a stream starts again at each iteration"),
            ({"source": 5}, "source is a int: it must be iterable"),
            ({"source": "load.npz"}, "source is 'load.npz': a path is opened first; call LoadStream.open(path)"),
            ({"source": lambda: 5}, "source returns a int"),
            ({"source": []}, "the source gives 0 steps: it needs at least one"),
            ({"source": [[1, 2]]}, "load has shape [2]"),
            ({"num_steps": 0}, "num_steps is 0"),
            ({"num_layers": -1}, "num_layers is -1"),
            ({"labels": ["a"]}, "num_steps is not given: labels and phases need one name a step"),
            ({"num_steps": 7, "labels": ["a"]}, "labels has 1 entries"),
            ({"layer_ids": [1]}, "layer_ids has 1 entries"),
        ],
    )
    def test_bad_arguments(self, arguments, found):
        """Each is named with its value."""
        with pytest.raises(ArgumentError) as error:
            LoadStream(**{"source": LOAD, **arguments})
        assert found in _one_line(error)

    def test_a_function_must_start_anew(self):
        """One that hands out the same iterator is found out before a step is lost."""
        same = iter(LOAD)
        with pytest.raises(ArgumentError, match="can be read only once"):
            LoadStream(lambda: same)
        stream = LoadStream(lambda: same, num_layers=2, num_experts=3)
        assert len(list(stream)) == 7
        with pytest.raises(ArgumentError, match="the source gives 0 steps"):
            list(stream)

    @pytest.mark.parametrize(
        ("steps", "found"),
        [
            ([[[1, 1]], [[1, -2]]], "load is -2 at step 1, layer 0, expert 1"),
            ([[[1, 1]], [[np.inf, 2]]], "load is inf at step 1, layer 0, expert 0"),
            ([[[1, 1]], [[1]]], "step 1 has shape [1, 1]: all steps must have the same, [1, 2]"),
            ([[[1, 1]], [["a", "b"]]], "step 1: load has dtype <U1"),
            ([[[1, 1]], 3], "step 1: load has shape []"),
            ([[[2**61, 2**61]], [[2**61, 2**61]]], "all loads must add up to at most"),
        ],
    )
    def test_bad_steps_are_named(self, steps, found):
        """When they come."""
        stream = LoadStream(lambda: iter(steps))
        given = iter(stream)
        next(given)
        with pytest.raises(ArgumentError) as error:
            next(given)
        assert found in _one_line(error)

    @pytest.mark.parametrize(("num_steps", "found"), [(8, "gives 7 steps: num_steps says 8"), (6, "gives more than num_steps")])
    def test_num_steps_must_be_right(self, num_steps, found):
        """Too few and too many are told."""
        with pytest.raises(ArgumentError) as error:
            list(LoadStream(list(LOAD), num_steps=num_steps))
        assert found in _one_line(error)


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_a_long_file_is_read_in_flat_memory(tmp_path, kind):
    """200 MB of loads, iterated, added up and cut into windows: the process stays below 80 MB (34 MB are Python and numpy)."""
    path = tmp_path / "long"
    load = np.zeros((1000, 100, 250), np.int64)
    load[::7, 3, 5] = 9
    _save(path, kind, load)
    program = f"""
        from pathlib import Path
        from equipoise.streams import LoadStream
        stream = LoadStream.open({str(path)!r})
        assert sum(int(step[3, 5]) for step in stream) == 143 * 9
        assert sum(int(window.sum()) for window in stream.windows(100)) == int(stream.sum()[3, 5]) == 143 * 9
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(status["VmHWM"].split()[0])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 80e6


@pytest.mark.compiled
def test_a_hundred_thousand_steps_take_seconds(tmp_path):
    """24 x 32 each; a bound far above what a free machine needs (0.2 s)."""
    np.save(tmp_path / "x.npy", np.ones((100_000, 24, 32), np.uint8))
    start = perf_counter()
    assert sum(1 for _ in LoadStream.open(tmp_path / "x.npy")) == 100_000
    assert perf_counter() - start < 10
