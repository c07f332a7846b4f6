"""What a trace carries beside its load: tokens by source rank, whether steps are in order, and where it was read from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equipoise import Cluster, LoadStream, LoadTrace, plan, simulate
from equipoise.errors import ArgumentError
from equipoise.trace import Origin

sources = hnp.arrays(np.int64, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.integers(0, 50))


@given(sources, st.data())
def test_sources_go_with_their_steps(by_source, data):
    """However a trace is cut, added up or mixed, over the sources it stays the load."""
    steps = len(by_source)
    phases = data.draw(st.lists(st.sampled_from("ab"), min_size=steps, max_size=steps))
    trace = LoadTrace(by_source.sum(axis=1), phases=phases, source_load=by_source, origin=Origin("npz"))
    size = data.draw(st.integers(1, steps))
    windows = trace.windows(size)
    cut = by_source[: steps // size * size]
    expected = cut.reshape(-1, size, *by_source.shape[1:]).sum(axis=1)
    assert windows.source_load.tolist() == expected.tolist()
    assert trace.last(size).source_load.tolist() == by_source[-size:].tolist()
    kept = [step for step, phase in enumerate(phases) if phase == phases[0]]
    assert trace.phase(phases[0]).source_load.tolist() == by_source[kept].tolist()
    assert LoadTrace.mix([trace, trace], [1, 2]).source_load.tolist() == (3 * by_source).tolist()
    assert windows.origin == Origin("npz")


def test_mixes_without_common_sources_have_none():
    """All traces need them, with as many ranks."""
    one = LoadTrace([[[3]]], source_load=[[[[1]], [[2]]]])
    three = LoadTrace([[[3]]], source_load=[[[[1]], [[1]], [[1]]]])
    assert LoadTrace.mix([one, three]).source_load is None
    assert LoadTrace.mix([one, LoadTrace([[[3]]])]).source_load is None


@pytest.mark.parametrize(
    ("given_sources", "found"),
    [
        ([[[[1], [1]]]], "source_load has shape [1, 1, 2, 1]: it must be [steps, source ranks, layers, experts] beside"),
        ([[[1]]], "source_load has shape [1, 1, 1]"),
        (
            [[[[1]], [[1]]]],
            "source_load adds up to 2 at step 0, layer 0, expert 0: over the source ranks it must be the load, 3",
        ),
        ([[[[4]], [[-1]]]], "source_load is -1 at step 0, source rank 1, layer 0, expert 0"),
        ([[[["x"]]]], "load has dtype"),
    ],
)
def test_bad_sources(given_sources, found):
    """Each is named."""
    with pytest.raises(ArgumentError) as error:
        LoadTrace([[[3]]], source_load=given_sources)
    assert found in str(error.value)


def test_floats_need_not_add_up_to_the_last_bit():
    """A relative 1e-9 is allowed, for sums taken in another order."""
    assert LoadTrace([[[0.3]]], source_load=[[[[0.1]], [[0.2]]]]).source_load.dtype == np.float64
    with pytest.raises(ArgumentError, match="adds up to"):
        LoadTrace([[[0.3]]], source_load=[[[[0.1]], [[0.2001]]]])


def test_files_keep_sources_and_order(tmp_path):
    """Written and read back; a stream of the file knows the order too."""
    by_source = np.arange(24).reshape(3, 2, 2, 2)
    trace = LoadTrace(by_source.sum(axis=1), source_load=by_source, is_in_order=False)
    trace.write(tmp_path / "x.npz")
    again = LoadTrace.read(tmp_path / "x.npz")
    assert again.source_load.tolist() == by_source.tolist()
    assert not again.source_load.flags.writeable
    assert not again.is_in_order
    assert again.origin == Origin("npz")
    stream = LoadStream.open(tmp_path / "x.npz")
    assert not stream.is_in_order
    assert not stream.windows(2).is_in_order
    LoadTrace(trace.load).write(tmp_path / "y.npz")
    assert LoadTrace.read(tmp_path / "y.npz").is_in_order
    assert LoadTrace.read(tmp_path / "x.npz", is_in_order=True).is_in_order


class TestOrder:
    """What needs steps in order of time refuses others, and says what to do."""

    TRACE = LoadTrace([[[3, 1, 2, 2]], [[1, 3, 2, 2]], [[2, 2, 3, 1]]], is_in_order=False)
    CLUSTER = Cluster(2, 3)

    @pytest.mark.parametrize("name", ["last", "forecast", "simulate", "stream"])
    def test_refused(self, name):
        """The message names the use, the rule and the way out."""
        uses = {
            "last": lambda: self.TRACE.last(1),
            "forecast": lambda: plan(self.TRACE, self.CLUSTER, forecast="mean:2"),
            "simulate": lambda: simulate(self.TRACE, self.CLUSTER, ["last"]),
            "stream": lambda: simulate(LoadStream(self.TRACE.load, is_in_order=False), self.CLUSTER, ["last"]),
        }
        with pytest.raises(ArgumentError, match="steps may be out of order: steps must follow one another in time; record"):
            uses[name]()

    def test_what_order_does_not_matter_to(self):
        """Sums, windows, mixes and all steps; none of them puts steps in order."""
        assert self.TRACE.sum().tolist() == [[6, 6, 7, 5]]
        for derived in (self.TRACE.windows(2), self.TRACE.last(3), LoadTrace.mix([self.TRACE, self.TRACE])):
            assert not derived.is_in_order
