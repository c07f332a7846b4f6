"""The package as a whole: what it exports, what it imports and when, and how it starts cold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise

PACKAGE = Path(equipoise.__file__).parent


def _python(program, **environment):
    env = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    return subprocess.run(
        [sys.executable, *program], env={**env, **environment}, capture_output=True, text=True, check=False, timeout=300
    )


def test_public_names():
    """What is exported exists, is listed by dir(), and nothing else is promised."""
    assert set(equipoise.__all__) <= set(dir(equipoise))
    for name in equipoise.__all__:
        assert getattr(equipoise, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rebalance'"):
        _ = equipoise.rebalance


def test_importing_is_light():
    """Importing the package loads neither numba nor torch nor the console; planning loads no torch."""
    program = (
        "import sys, equipoise; heavy = {'numba', 'torch', 'typer', 'rich', 'pydantic', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "equipoise.plan([[3, 2, 1]], equipoise.Cluster(3, 1)); equipoise.rebalance_experts([[3, 2, 1]], 3, 1, 1, 3);"
        "assert not {'torch', 'typer', 'rich'} & set(sys.modules)"
    )
    done = _python(["-c", program])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.compiled
def test_cold_start_without_any_writable_folder(tmp_path):
    """With read-only packages and no home, import and packing work, uncached, with one warning.

    A file in the place of every __pycache__ folder keeps even the superuser from caching there.
    """
    copy = tmp_path / "site" / "equipoise"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    nowhere = str(tmp_path / "site" / "equipoise" / "__init__.py" / "home")
    program = (
        "import equipoise; assert equipoise.__file__.startswith('" + str(tmp_path) + "');"
        "print(equipoise.balanced_packing([[9, 8, 5, 4, 3, 1]], 2)[0].tolist())"
    )
    done = _python(
        ["-P", "-c", program],
        PYTHONPATH=str(tmp_path / "site"),
        HOME=nowhere,
        XDG_CACHE_HOME=nowhere,
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[1, 0, 1, 0, 0, 1]]\n"
    assert done.stderr.count("UncachedKernelsWarning") == 1
    assert "set NUMBA_CACHE_DIR" in done.stderr
