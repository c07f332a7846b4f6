"""Cutting and mixing traces: windows by steps and by tokens, phases, labels, weighted sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equipoise import LoadTrace
from equipoise.errors import ArgumentError, FileError
from equipoise.steps import join_labels, join_phases

LOAD = np.arange(28).reshape(7, 2, 2)
PHASES = ["prefill", "prefill", "decode", "decode", "decode", "prefill", "decode"]

loads = hnp.arrays(np.int64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=8), elements=st.integers(0, 50))


def _refused(function, *arguments, **named):
    """Return the message of the ArgumentError, on one line: found: rule; next step."""
    with pytest.raises(ArgumentError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    assert error.value.next_step
    return str(error.value)


class TestPhases:
    """What each step does."""

    def test_phase_picks_steps_in_order(self):
        """The steps of one phase, with their labels and layer numbers."""
        trace = LoadTrace(LOAD, [3, 5], "abcdefg", PHASES)
        decode = trace.phase("decode")
        assert decode.load.tolist() == LOAD[[2, 3, 4, 6]].tolist()
        assert (decode.labels, decode.phases, decode.layer_ids) == (("c", "d", "e", "g"), ("decode",) * 4, (3, 5))
        assert not decode.load.flags.writeable
        assert trace.last(2).phases == ("prefill", "decode")

    def test_absent_phases_are_named(self):
        """The message lists the phases there are, or says that there are none."""
        assert _refused(LoadTrace(LOAD, phases=PHASES).phase, "train").startswith(
            "phase is 'train': it must be one of the phases of the trace (prefill, decode); "
        )
        assert "(none)" in _refused(LoadTrace(LOAD).phase, "decode")

    @pytest.mark.parametrize(
        ("phases", "found"),
        [
            (["decode"], "phases has 1 entries: it needs one a step (7)"),
            (["decode"] * 6 + [""], "phases[6] is empty"),
            ("decode", "phases is 'decode': it must hold one name a step"),
        ],
    )
    def test_bad_phases(self, phases, found):
        """Each is named with its value."""
        assert found in _refused(LoadTrace, LOAD, phases=phases)

    def test_files_keep_phases(self, tmp_path):
        """Written and read back; an array called phase does as well; a file with a bad one is named."""
        path = tmp_path / "x.npz"
        LoadTrace(LOAD, phases=PHASES).write(path)
        assert LoadTrace.read(path).phases == tuple(PHASES)
        assert LoadTrace.read(path).labels is None
        np.savez(path, load=LOAD, phase=np.array(PHASES))
        assert LoadTrace.read(path).phases == tuple(PHASES)
        np.savez(path, load=LOAD, phases=np.array(["decode"]))
        with pytest.raises(FileError, match=r"x\.npz: phases has 1 entries"):
            LoadTrace.read(path)


class TestWindows:
    """Consecutive steps added up."""

    def test_names_of_windows(self):
        """Shared labels and phases stay; others are joined, or mixed."""
        trace = LoadTrace(LOAD, labels=["x", "x", "x", "y", "z", "z", "z"], phases=PHASES)
        assert trace.windows(2).labels == ("x", "x+y", "z")
        assert trace.windows(2).phases == ("prefill", "decode", "mixed")
        assert trace.windows(1).labels == trace.labels
        assert trace.phase("decode").windows(2).phases == ("decode", "decode")

    def test_many_labels_are_counted(self):
        """The fourth and later ones, however often each comes."""
        assert join_labels("abacdeb") == "a+b+c+2 more"
        assert join_labels(["a"] * 9) == "a"
        assert join_phases(["a", "b", "a"]) == "mixed"

    def test_windows_of_tokens(self):
        """A window ends with the step that fills it; the mean is over layers that have load; the rest is left out."""
        load = np.zeros((6, 3, 2), np.int32)
        load[:, 0, 0] = [4, 4, 10, 1, 1, 1]
        load[:, 2, 1] = [6, 6, 10, 1, 1, 1]
        trace = LoadTrace(load, labels=list("aabbcc"), phases=["p"] * 3 + ["d"] * 3)
        windows = trace.windows_of_tokens(10)
        assert windows.load[:, 0, 0].tolist() == [8, 10]
        assert windows.labels == ("a", "b")
        assert windows.phases == ("p", "p")
        assert trace.windows_of_tokens(23).num_steps == 1
        assert LoadTrace(load / 2).windows_of_tokens(5).load[:, 0, 0].tolist() == [4.0, 5.0]

    @given(loads, st.integers(1, 400))
    def test_windows_of_tokens_hold_enough_and_not_a_step_too_many(self, load, tokens):
        """Every window reaches the size, none would without its last step, and nothing is lost but the end."""
        busy = load.sum(axis=2).any(axis=0)
        sizes = load.sum(axis=2)[:, busy].mean(axis=1) if busy.any() else np.zeros(len(load))
        if sizes.sum() < tokens * (1 - 1e-12):
            assert "must fit in the trace" in _refused(LoadTrace(load).windows_of_tokens, tokens)
            return
        windows = LoadTrace(load).windows_of_tokens(tokens).load
        done = 0
        for window in windows:
            end = done + 1
            while load[done:end].sum(axis=2)[:, busy].sum() < tokens * busy.sum():
                end += 1
            assert np.array_equal(window, load[done:end].sum(axis=0))
            done = end
        assert load[done:].sum(axis=2)[:, busy].sum() < tokens * busy.sum()

    @pytest.mark.parametrize("tokens", [0, -1, float("nan"), float("inf"), "10", True, None])
    def test_bad_sizes(self, tokens):
        """Anything but a number above 0 is refused."""
        assert f"tokens is {tokens!r}: it must be a number above 0" in _refused(LoadTrace(LOAD).windows_of_tokens, tokens)

    def test_too_many_tokens_are_named(self):
        """With what the trace has; a trace without load has none."""
        assert "tokens is 190: a window must fit in the trace, which has 189 in the mean layer" in _refused(
            LoadTrace(LOAD).windows_of_tokens, 190
        )
        assert "which has 0 in" in _refused(LoadTrace(0 * LOAD).windows_of_tokens, 1)


class TestMix:
    """Several traces added up."""

    def test_whole_weights_keep_whole_tokens(self):
        """2.0 is whole; the shortest sets the length; names stay where shared."""
        short = LoadTrace(LOAD[:3], labels="xyz", phases=PHASES[:3])
        long = LoadTrace(2 * LOAD.astype(np.int32), labels="xbcdefg", phases=["decode"] * 7)
        mixed = LoadTrace.mix([short, long], [1, 2.0])
        assert mixed.load.dtype == np.int64
        assert mixed.load.tolist() == (5 * LOAD[:3]).tolist()
        assert mixed.labels == ("x", "y+b", "z+c")
        assert mixed.phases == ("mixed", "mixed", "decode")
        assert LoadTrace.mix([short, LoadTrace(LOAD)]).labels is None
        assert not mixed.load.flags.writeable

    def test_other_weights_do_not_round(self):
        """Floats come out, as they do of float loads."""
        mixed = LoadTrace.mix([LoadTrace(LOAD), LoadTrace(LOAD)], [0.5, 1])
        assert mixed.load.dtype == np.float64
        assert mixed.load.tolist() == (1.5 * LOAD).tolist()
        assert LoadTrace.mix([LoadTrace(LOAD / 2)]).load.tolist() == (LOAD / 2).tolist()

    @given(loads, st.lists(st.integers(1, 5), min_size=1, max_size=4))
    def test_a_mix_is_the_weighted_sum(self, load, weights):
        """Whatever the weights."""
        mixed = LoadTrace.mix([LoadTrace(load)] * len(weights), weights)
        assert np.array_equal(mixed.load, load * sum(weights))

    @pytest.mark.parametrize(
        ("others", "weights", "found"),
        [
            ([LoadTrace(LOAD[:, :1])], None, "traces[1] has 1 layers of 2 experts: it needs those of traces[0], 2 of 2"),
            ([LoadTrace(LOAD, [4, 5])], None, "traces[1] has the layer_ids 4, 5: it needs those of traces[0], 0, 1"),
            ([LOAD], None, "traces[1] is a ndarray"),
            ([], [1, 2], "weights has 2 entries: it needs one a trace (1)"),
            ([], [0], "weights[0] is 0: it must be a number above 0"),
            ([], [float("nan")], "weights[0] is nan"),
            ([], [2**61], "the weighted loads add up to"),
            ([], [10**400], "weights[0] is 1000"),
        ],
    )
    def test_bad_mixes(self, others, weights, found):
        """Each is named with its place and value."""
        assert found in _refused(LoadTrace.mix, [LoadTrace(LOAD), *others], weights)

    def test_overflow_and_nothing(self):
        """Weights beyond 64 bits are refused even for a load of nothing, and so is a mix of nothing."""
        assert "must be at most" in _refused(LoadTrace.mix, [LoadTrace(0 * LOAD)], [10**20])
        assert _refused(LoadTrace.mix, []).startswith("traces is empty")
