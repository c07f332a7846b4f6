"""Fixtures and strategies that many tests share."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

from equipoise import LoadTrace

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT") == "1"

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25 if INTERPRETED else 150)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Run slow tests first: started last, one of them would keep a core busy while the others are idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=INTERPRETED)
def _wrapping_integers():
    """Let 64-bit integers wrap without a warning where kernels run interpreted: random numbers are made so."""
    with np.errstate(over="ignore"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _archive_of_tests(tmp_path_factory):
    """Keep scores of tests out of the user's archive."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EQUIPOISE_ARCHIVE", str(tmp_path_factory.mktemp("archive") / "scores.sqlite"))
        yield


@pytest.fixture(scope="session")
def example():
    """Return the load that ships: 31 windows, 24 layers, 32 experts."""
    return LoadTrace.example()


@pytest.fixture
def skewed():
    """Return seeded loads, [6 layers, 64 experts], from level to very uneven, without transcendental functions."""
    rng = np.random.default_rng(7)
    power = np.arange(1, 7)[:, np.newaxis]
    return (rng.random((6, 64)) ** power * 10_000).astype(np.int64)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: returns exit code, stdout and stderr."""

    def run_cli(*args: object) -> tuple[int, str, str]:
        from equipoise.cli.main import main

        monkeypatch.setattr("sys.argv", ["equipoise", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run_cli
