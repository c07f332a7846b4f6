"""Every reader on mutated files (``make fuzz`` runs many more), and on files that claim what they cannot hold."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fuzzing
import samples
from equipoise import LoadTrace, Placement
from equipoise.errors import EquipoiseError
from equipoise.files.loads import format_names
from equipoise.files.placements import FORMATS

RUNNER = Path(fuzzing.__file__)


def test_every_format_has_a_sample():
    """A format without one would not be fuzzed."""
    assert set(samples.LOADS) == set(format_names())
    assert set(samples.PLACEMENTS) == set(FORMATS)


@pytest.mark.parametrize("number", range(len(fuzzing.sample_files())))
def test_samples_are_read_for_what_they_are(tmp_path, number):
    """Unmutated, each is recognised and valid."""
    name, is_placement, files = fuzzing.sample_files()[number]
    path = fuzzing.write_case(files, tmp_path)
    if is_placement:
        assert np.array_equal(Placement.read(path, num_ranks=samples.RANKS).expert_of_slot, samples.EXPERT_OF_SLOT)
        assert np.array_equal(Placement.read(path, name, num_ranks=samples.RANKS).expert_of_slot, samples.EXPERT_OF_SLOT)
    else:
        active = samples.PLACED if name == "vllm-ascend" else None
        trace = LoadTrace.read(path, active=active)
        assert trace.origin.format == name
        assert np.array_equal(LoadTrace.read(path, name, active=active).load, trace.load)


@pytest.mark.parametrize("first", [0, 2000])
@pytest.mark.slow
@pytest.mark.compiled
def test_mutated_files_are_errors_or_values(tmp_path, first):
    """In a process of its own, so that memory can be watched."""
    command = [sys.executable, str(RUNNER), "--first", str(first), "--cases", "1000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_cases_are_the_same_for_the_same_seed():
    """So that a failure can be run again; and different for different ones."""
    cases = [fuzzing.make_case(seed) for seed in range(20)]
    assert cases == [fuzzing.make_case(seed) for seed in range(20)]
    assert len({str(case) for case in cases}) > 15


def _claiming(shape):
    """Return an .npy whose header claims a shape, with a few bytes after it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 64


def _zip(member, content, kind=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr(member, content)
    return file.getvalue()


def _safetensors(shape):
    header = json.dumps({"10_3": {"dtype": "I64", "shape": shape, "data_offsets": [0, 8 * int(np.prod(shape))]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 64


def _strings(count):
    """Return a table that numpy would blow up: one long text beside many short ones."""
    row = ["x" * 10**5, *["y"] * count]
    record = {"record_type": "eplb_load_stats", "step": 1, "expert_load": [row], "p2l_map": [[0] * (count + 1)]}
    return json.dumps(record).encode() + b"\n"


HUGE = {
    "npy, 10^12 elements": lambda: _claiming((10**4, 10**4, 10**4)),
    "npy, 10^24 elements": lambda: _claiming((10**12, 10**6, 10**6)),
    "npy, elements of no size": lambda: _claiming((10**12, 0, 4)),
    "npz, 10^12 elements": lambda: _zip("load.npy", _claiming((10**4, 10**4, 10**4))),
    "npz, zeros packed a thousandfold": lambda: _zip("load.npy", _claiming((10**4, 10**4, 10**4)) + b"\0" * 10**7),
    "npz, a long text as the names of layers": lambda: samples.npz(load=samples.LOAD, layer_ids=np.array("9" * 10**5)),
    "safetensors, 10^12 elements": lambda: _safetensors([10**12]),
    "safetensors, a header of 10^18 bytes": lambda: (10**18).to_bytes(8, "little") + b"{}",
    "json, nested 10^6 deep": lambda: b"[" * 10**6,
    "json, a number of 10^6 digits": lambda: b"[[" + b"9" * 10**6 + b"]]",
    "json lines, texts among numbers": lambda: _strings(10**5),
    "json lines, an expert 10^12": lambda: samples.lines(
        {"record_type": "eplb_load_stats", "step": 1, "expert_load": [[1]], "p2l_map": [[10**12]]}
    ),
    "csv, an expert 10^9": lambda: b"layer,expert,load\n0,1000000000,3\n",
    "placement, 10^12 experts": lambda: samples.PLACEMENTS["json"][0]().replace(b'experts": 6', b'experts": 1000000000000'),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_what_claims_too_much_is_refused_unread(tmp_path, name):
    """By every reader, in little memory."""
    path = tmp_path / "case"
    path.write_bytes(HUGE[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, formats in ((LoadTrace, ("auto", *format_names())), (Placement, ("auto", *FORMATS))):
        for one in formats:
            with pytest.raises(EquipoiseError):
                kind.read(path, one)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10
