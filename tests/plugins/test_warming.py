"""Everything is compiled when a plug-in loads, and by one process where eight load it at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from equipoise.errors import ArgumentError
from equipoise.plugins.locking import LOCK, one_compiles
from equipoise.plugins.settings import Settings
from equipoise.plugins.warming import warm_up

HERE = Path(__file__).parent
PROCESSES = 8

KERNEL = """
import numpy as np
from equipoise.kernels.compiling import kernel

@kernel
def add_up(values):
    total = 0.0
    for value in values:
        total += np.sqrt(value)
    return total
"""

WARMING = """
import sys
from pathlib import Path
import numpy as np
from numba.core import event
from equipoise.plugins.locking import one_compiles
sys.path.insert(0, sys.argv[1])
from toy import add_up

print("ready", flush=True)
sys.stdin.readline()
with event.install_recorder("numba:compile") as compiled, one_compiles(Path(sys.argv[2]) if sys.argv[2] else None):
    result = add_up(np.arange(10.0))
print(len(compiled.buffer), result, flush=True)
"""


def run_at_once(command: list[str], environment: dict[str, str], *, is_told: bool) -> list[str]:
    """Start processes, let them go on together, and return the last line that each printed."""
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(PROCESSES)
    ]
    try:
        if is_told:
            for process in running:
                assert process.stdout.readline() == "ready\n"
            for process in running:
                process.stdin.write("go\n")
                process.stdin.flush()
        outputs = [process.communicate(timeout=1200) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [out.splitlines()[-1] for out, _ in outputs]


def quiet_environment(**more: str) -> dict[str, str]:
    """Return this environment without settings of the plug-ins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EQUIPOISE_")}
    return kept | more


@pytest.mark.slow
@pytest.mark.compiled
class TestAtOnce:
    """Eight processes that warm up at the same time."""

    def test_one_compiles_and_the_others_load(self, tmp_path):
        (tmp_path / "toy.py").write_text(KERNEL)
        cache = tmp_path / "__pycache__"
        lines = run_at_once([sys.executable, "-c", WARMING, str(tmp_path), str(cache)], quiet_environment(), is_told=True)
        assert sorted(line.split()[0] != "0" for line in lines) == [False] * (PROCESSES - 1) + [True]
        assert len({line.split()[1] for line in lines}) == 1
        assert (cache / LOCK).exists()

    @pytest.mark.machines
    def test_all_kernels(self, tmp_path):
        """From an empty cache, as on a new machine."""
        command = [sys.executable, str(HERE / "warmed.py"), "{}"]
        found = [
            json.loads(line) for line in run_at_once(command, quiet_environment(NUMBA_CACHE_DIR=str(tmp_path)), is_told=False)
        ]
        assert sorted(one["warming"] > 0 for one in found) == [False] * (PROCESSES - 1) + [True]
        assert all(one["left"] == [] for one in found)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"effort": "best", "max_moves": 3},
        {"effort": "fast", "locality": "strict"},
        {"locality": "none", "dispatch": "optimal", "max_moves": 4},
        {"locality": "soft", "home_share": 0.9},
        {"mode": "one_rank", "forecast": "auto"},
    ],
)
def test_calls_find_everything_compiled(settings):
    """No kernel is compiled or even loaded in an engine's step."""
    command = [sys.executable, str(HERE / "warmed.py"), json.dumps(settings)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=quiet_environment())
    result = json.loads(found.stdout)
    assert result["known"] > 5
    assert result["left"] == []


class TestLock:
    """Where no lock can be had, each process goes on by itself."""

    def test_no_folder(self):
        with one_compiles(None):
            pass

    def test_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with one_compiles(tmp_path / "file" / "cache"):
            pass

    def test_file_system_without_locks(self, tmp_path, monkeypatch):
        fcntl = pytest.importorskip("fcntl")

        def refuse(handle, operation):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with one_compiles(tmp_path):
            pass

    def test_it_is_let_go_after_a_fault(self, tmp_path):
        fcntl = pytest.importorskip("fcntl")
        with pytest.raises(RuntimeError), one_compiles(tmp_path):
            raise RuntimeError
        with (tmp_path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_unknown_forecast_is_found_when_the_plug_in_loads():
    """Settings do not know forecasts by name, so that they stay light."""
    with pytest.raises(ArgumentError, match="forecast is 'magic'"):
        warm_up(Settings(mode="one_rank", forecast="magic"))


def test_entry_points():
    """Both plug-ins are announced, and what is announced is there."""
    project = HERE.parents[1] / "pyproject.toml"
    announced = tomllib.loads(project.read_text())["project"]["entry-points"]
    assert announced["vllm.general_plugins"] == {"equipoise": "equipoise.plugins.vllm:register"}
    assert announced["sglang.srt.plugins"] == {"equipoise": "equipoise.plugins.sglang:register"}
