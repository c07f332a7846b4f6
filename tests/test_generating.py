"""Made traffic: what always holds of it, what its settings do, and what describes it beside recorded loads."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import ArgumentError
from equipoise.generating import (
    BURSTY,
    CHANGING_DOMAINS,
    STEADY_DECODE,
    TrafficSettings,
    describe,
    generate,
    generate_stream,
)
from equipoise.streams import LoadStream

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "traces.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LOADS = Path(os.environ.get("EQUIPOISE_LOADS", ROOT.parent / "shared" / "data" / "expert-load"))
SIZE = {"num_layers": 3, "num_experts": 16}

traffics = st.builds(
    TrafficSettings,
    tokens=st.integers(1, 300),
    top_k=st.integers(1, 16),
    skew=st.sampled_from([(0, 0), (0.5, 1), (3, 3), (100, 100)]),
    drift=st.floats(0, 1),
    drift_steps=st.floats(0.1, 1e4),
    burst_probability=st.sampled_from([0, 0.1, 1]),
    burst_size=st.sampled_from([0.1, 5, 1e6]),
    burst_steps=st.integers(1, 9),
    burst_experts=st.integers(1, 16),
    domains=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
    domain_steps=st.sampled_from([1, 3.5, 1000]),
    shared=st.floats(0, 1),
    noise=st.sampled_from([0, 0.3, 1]),
) | st.builds(TrafficSettings, tokens=st.integers(9, 300), top_k=st.integers(1, 16), noise=st.floats(1, 8))


class TestWhatAlwaysHolds:
    """Whatever the settings."""

    @settings(max_examples=60)
    @given(traffics, st.integers(1, 140), st.integers(0, 2**63 - 1))
    def test_totals_caps_and_seeds(self, traffic, num_steps, seed):
        """Every layer adds up, no expert has more than all tokens, stream and trace agree, and a prefix is a prefix."""
        trace = generate(traffic, num_steps=num_steps, seed=seed, **SIZE)
        assert trace.load.shape == (num_steps, 3, 16)
        assert (trace.load.sum(axis=2) == traffic.tokens * traffic.top_k).all()
        assert trace.load.min() >= 0
        assert trace.load.max() <= traffic.tokens
        assert set(trace.labels) <= set(traffic.domains)
        assert trace.labels[0] == traffic.domains[0]
        stream = generate_stream(traffic, num_steps=num_steps + 70, num_layers=4, num_experts=16, seed=seed)
        assert stream.labels[:num_steps] == trace.labels
        for _, step, made in zip(range(num_steps), stream, trace.load, strict=False):
            assert np.array_equal(step[:3], made)

    def test_seeds_and_layers_differ(self):
        """Another seed gives another trace, and no two layers are alike."""
        one, other = (generate(STEADY_DECODE, num_steps=5, num_layers=2, num_experts=32, seed=seed) for seed in (0, 1))
        assert not np.array_equal(one.load, other.load)
        assert not np.array_equal(one.load[:, 0], one.load[:, 1])

    def test_streams_start_again(self):
        """The second reading gives what the first did."""
        stream = generate_stream(BURSTY, num_steps=130, num_layers=2, num_experts=32, seed=3)
        assert stream.num_steps == 130
        assert np.array_equal(list(stream), list(stream))

    @pytest.mark.compiled
    def test_memory_is_flat(self):
        """230 MB of loads pass through a process that stays below 120 MB."""
        program = """
            from pathlib import Path
            from equipoise.generating import TrafficSettings, generate_stream
            stream = generate_stream(TrafficSettings(tokens=8, top_k=2), num_steps=1500, num_layers=75, num_experts=256)
            assert sum(1 for block in stream.blocks() if block.shape[1:] == (75, 256)) == 24
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            print(status["VmHWM"].split()[0])
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
        assert int(done.stdout) * 1024 < 120e6


class TestSettings:
    """What each does."""

    plain = TrafficSettings(tokens=2000, top_k=4, skew=(0.6, 0.6), drift=0, noise=0)

    def _made(self, num_steps=300, **changes):
        return generate(replace(self.plain, **changes), num_steps=num_steps, num_layers=8, num_experts=32, seed=1)

    def test_skew(self):
        """No skew is level; more is more; standing at 0.6 it gives the lognormal's variation."""
        assert describe(self._made(skew=(0, 0))).skew == 1
        assert describe(self._made()).variation == pytest.approx(math.sqrt(math.expm1(0.36)), rel=0.25)
        assert describe(self._made(skew=(1, 1))).skew > describe(self._made()).skew

    def test_drift_keeps_skew(self):
        """Popularity wanders, and its spread at the end is that of the start."""
        still, wandering = self._made(), self._made(drift=1, drift_steps=30)
        assert describe(still).lasting_skew > 1.2 * describe(wandering).lasting_skew
        variation = [describe(LoadTrace(wandering.load[part])).variation for part in (slice(0, 100), slice(200, 300))]
        assert variation[1] == pytest.approx(variation[0], rel=0.35)
        near, far = (np.abs(wandering.load[k:] - wandering.load[:-k]).mean() for k in (1, 100))
        assert far > 3 * near

    def test_bursts(self):
        """They hit as many experts as said, for as long as said, and not in the same places each time."""
        trace = self._made(skew=(0, 0), burst_probability=0.01, burst_size=3, burst_steps=5, burst_experts=2)
        hot = trace.load > 1.5 * trace.load.mean()
        assert set(hot.sum(axis=2).ravel().tolist()) == {0, 2}
        lengths = np.diff(np.flatnonzero(np.diff(hot.any(axis=2)[:, 0].astype(int), prepend=0, append=0)))[::2]
        assert set(lengths.tolist()) <= set(range(5, 16))
        assert hot.any(axis=0).sum() > 2 * 8

    def test_domains_return(self):
        """A domain that comes back has the same load but for rounding; domains that share nothing differ."""
        trace = self._made(domains=("a", "b", "c"), domain_steps=10, shared=0)
        first = {name: trace.load[trace.labels.index(name)] for name in "abc"}
        assert all(np.allclose(step, first[name], atol=6) for step, name in zip(trace.load, trace.labels, strict=True))
        runs = 1 + sum(one != other for one, other in zip(trace.labels, trace.labels[1:], strict=False))
        assert 15 < runs < 60
        assert np.abs(first["a"] - first["b"]).sum() > 0.3 * first["a"].sum()
        same = self._made(domains=("a", "b", "c"), domain_steps=10, shared=1)
        assert describe(same).change < 0.005

    def test_noise(self):
        """0 is rounding; 1 is sampling alone; 9 changes three times as much, until skew tells."""
        changes = [describe(self._made(noise=noise)) for noise in (0, 0.25, 1, 9)]
        assert changes[0].change < 0.005
        assert changes[1].change == pytest.approx(changes[1].sampling / 2, rel=0.1)
        assert changes[2].change == pytest.approx(changes[2].sampling, rel=0.1)
        assert changes[3].change == pytest.approx(3 * changes[3].sampling, rel=0.1)

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({"tokens": 0}, "tokens is 0"),
            ({"top_k": 1.5}, "top_k is 1.5"),
            ({"burst_steps": True}, "burst_steps is True"),
            ({"drift": 1.1}, "drift is 1.1: it must be a number from 0 to 1"),
            ({"shared": float("nan")}, "shared is nan"),
            ({"drift_steps": 0}, "drift_steps is 0"),
            ({"burst_probability": "a"}, "burst_probability is 'a'"),
            ({"burst_size": 0}, "burst_size is 0"),
            ({"domain_steps": 0.5}, "domain_steps is 0.5"),
            ({"noise": -1}, "noise is -1"),
            ({"noise": 16, "tokens": 2, "top_k": 8}, "noise is 16: it must be below tokens * top_k (16)"),
            ({"tokens": 2**62}, "tokens * top_k is"),
            ({"skew": 0.5}, "skew is 0.5: it must be two numbers"),
            ({"skew": (0.5, -1)}, "skew[1] is -1"),
            ({"skew": (0.5, 0.4)}, "skew is (0.5, 0.4): the lowest must not be above the highest"),
            ({"domains": "code"}, "domains is 'code'"),
            ({"domains": ["a", "a"]}, "domains is ['a', 'a']"),
            ({"domains": ["a", ""]}, "domains is ['a', '']"),
            ({"domains": []}, "domains is []"),
        ],
    )
    def test_bad_settings(self, changes, found):
        """Each is named with its value, on one line."""
        with pytest.raises(ArgumentError) as error:
            TrafficSettings(**changes)
        assert str(error.value).startswith(found)
        assert "\n" not in str(error.value)
        assert error.value.next_step

    @pytest.mark.parametrize(
        ("sizes", "found"),
        [
            ({"num_steps": 0}, "num_steps is 0"),
            ({"num_layers": 2.0}, "num_layers is 2.0"),
            ({"num_experts": 3}, "top_k is 4: it must be at most num_experts (3)"),
            ({"seed": -1}, "seed is -1"),
        ],
    )
    @pytest.mark.parametrize("function", [generate, generate_stream])
    def test_bad_sizes(self, sizes, found, function):
        """Before anything is drawn."""
        with pytest.raises(ArgumentError) as error:
            function(self.plain, **{"num_steps": 2, **SIZE, **sizes})
        assert str(error.value).startswith(found)


class TestDescribe:
    """What a trace looks like over time."""

    def test_figures_by_hand(self):
        """Three steps of two layers, one of them without load."""
        character = describe(LoadTrace([[[30, 10], [0, 0]], [[10, 30], [0, 0]], [[10, 30], [0, 0]]]))
        assert (character.num_steps, character.skew, character.variation) == (3, 1.5, 0.5)
        assert character.lasting_skew == pytest.approx(70 / 60)
        assert character.change == pytest.approx(0.5)
        assert character.change_95 == pytest.approx(0.95)
        assert character.jumps == 0
        expected = [2 * math.sqrt(q * (1 - q) * (2 / 40) * 2 / math.pi) for q in (0.5, 0.25)]
        assert character.sampling == pytest.approx(np.mean(expected))

    def test_streams_and_traces_alike(self):
        """The same figures from either."""
        trace = generate(BURSTY, num_steps=100, num_layers=2, num_experts=32)
        assert describe(LoadStream(trace.load)) == describe(trace)

    @pytest.mark.parametrize("load", [np.zeros((3, 1, 2)), np.ones((1, 1, 2))])
    def test_nothing_to_compare(self, load):
        """One step, or no load: nan where nothing is known, and no warning."""
        character = describe(LoadTrace(load))
        assert math.isnan(character.change)
        assert math.isnan(character.change_95)
        assert math.isnan(character.sampling)
        assert character.jumps == 0
        assert math.isnan(character.skew) == (not load.any())

    def test_presets_are_in_the_range_of_the_load_that_ships(self, example):
        """Decoding in windows of 16 steps: skew, variation and change within a factor of 1.5."""
        real = describe(example)
        made = describe(generate(STEADY_DECODE, num_steps=496, num_layers=24, num_experts=32).windows(16))
        for name in ("skew", "lasting_skew", "variation", "change", "sampling"):
            assert 2 / 3 < getattr(made, name) / getattr(real, name) < 1.5
        assert describe(generate(CHANGING_DOMAINS, num_steps=48, num_layers=8, num_experts=256)).jumps > 0


class TestPage:
    """docs/traces.md."""

    def test_its_examples_run(self, tmp_path, monkeypatch, capsys):
        """And print what their comments say."""
        monkeypatch.chdir(tmp_path)
        for block in BLOCKS[:-1]:
            exec(block, {})
            comments = [line.split("  # ")[1] for line in block.splitlines() if "  # " in line]
            assert capsys.readouterr().out.splitlines() == comments

    @pytest.mark.skipif(not LOADS.exists(), reason="needs the folder of recorded loads")
    def test_its_tables_are_those_its_code_prints(self, monkeypatch, capsys):
        """To the digits shown."""
        monkeypatch.setenv("EQUIPOISE_LOADS", str(LOADS))
        exec(BLOCKS[-1], {})
        for line in capsys.readouterr().out.splitlines():
            assert f"{line}\n" in PAGE
