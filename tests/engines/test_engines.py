"""Each engine's contract, held in a process of its own: an engine's modules take names, and some need stand-ins."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSIDE = {"vllm": "inside_vllm", "sglang": "inside_sglang", "vllm-ascend": "inside_ascend"}


def in_its_own_process(engine: str) -> subprocess.CompletedProcess[str]:
    """Run the tests that are inside an engine; errors of the engine's own warnings are not ours."""
    folder = HERE / INSIDE[engine]
    call = [sys.executable, "-m", "pytest", "-q", "-rA", "--no-header", "--import-mode=importlib", "-p", "no:cacheprovider"]
    only = ["-c", os.devnull, f"--rootdir={folder}", f"--confcutdir={folder}"]
    options = [*only, "-o", "python_files=check_*.py", "-W", "ignore"]
    return subprocess.run([*call, *options, str(folder)], capture_output=True, text=True, cwd=HERE.parents[1], timeout=1800)


def load_wheels():
    """Import wheels.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("engine_wheels", HERE / "wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestEngines:
    """In a process each."""

    @pytest.mark.engines
    @pytest.mark.compiled
    @pytest.mark.parametrize("engine", INSIDE)
    def test_the_engines_own_modules_and_ours_agree(self, engine):
        ran = in_its_own_process(engine)
        assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
        print(ran.stdout)

    def test_an_engine_that_is_not_to_be_had_fails_with_a_reason(self, tmp_path, monkeypatch):
        wheels = load_wheels()
        monkeypatch.setattr(wheels.fetching, "CACHE", tmp_path)
        monkeypatch.setattr(wheels.fetching, "_pip", lambda *_: "ERROR: no network")
        with pytest.raises(wheels.EngineMissingError, match=r"vllm==0\.33\.0 is not to be had .*no network"):
            wheels.unpacked("vllm")
