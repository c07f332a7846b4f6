"""The package as strangers get it: built, installed where nothing else is, run from an empty folder. ``make test-install``.

An sdist and, from it, a wheel are built; the wheel goes into a fresh environment without extras. There a placement is made of
the load that ships, a user's program passes mypy --strict against what was installed, and ``pipx run`` runs the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]
WANTED = {"equipoise/py.typed", "equipoise/data/gpt-oss-20b-decode.npz", "equipoise/data/SOURCE.md"}
IN_SDIST = {
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "mkdocs.yml",
    "docs/index.md",
    "tests/test_docs.py",
    "src/equipoise/py.typed",
}
MAIN_JOB = [
    ("equipoise", "inspect", "example.npz", "--quiet"),
    ("equipoise", "plan", "example.npz", "--ranks", "8", "--slots", "40", "--out", "placement.json", "--json"),
    ("equipoise", "dispatch", "placement.json", "example.npz", "--last", "1", "--quiet"),
]
NO_EXTRAS = """
import importlib.util, sys
import equipoise
for name in ("torch", "ortools", "prometheus_client", "plotly"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed without its extra"
assert "site-packages" in equipoise.__file__
for name in equipoise.__all__:
    getattr(equipoise, name)
equipoise.LoadTrace.example().write("example.npz")
"""


def main() -> None:
    """Run all of it; an exception says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "install", help="emptied, then worked in")
    folder = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "empty").mkdir(parents=True)
    started = monotonic()

    def told(what: str) -> None:
        print(f"{monotonic() - started:5.0f} s  {what}", flush=True)

    tools = _environment(folder / "tools", "build", "pipx")
    _run(folder, tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT)
    wheel = _checked(folder / "dist")
    told(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")

    clean = _environment(folder / "clean", str(wheel))
    told("installed without extras")
    _run(folder / "empty", clean / "python", "-c", NO_EXTRAS)
    for command in MAIN_JOB:
        printed = _run(folder / "empty", clean / command[0], *command[1:])
    told("inspected, planned, dispatched")
    plan = json.loads(_run(folder / "empty", clean / "equipoise", *MAIN_JOB[1][1:]))
    assert plan["balancedness"] > 0.999, plan["balancedness"]
    assert (folder / "empty" / "placement.json").exists()
    assert printed == "", "--quiet is not"

    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--python-executable", clean / "python")
    _run(folder / "empty", *mypy, "--cache-dir", folder / "mypy", ROOT / "tests" / "typed" / "user.py")
    told("a user's program passes mypy --strict")

    version = _run(
        folder / "empty", tools / "pipx", "run", "--spec", wheel, "equipoise", "--version", PIPX_HOME=folder / "pipx"
    )
    assert wheel.name.startswith(f"equipoise-{version.split()[-1]}-"), version
    told(f"pipx run: {version.strip()}")


def _environment(path: Path, *packages: str) -> Path:
    """Make a fresh environment with these packages, in the versions of the lock file where it has them; return its bin."""
    venv.create(path, with_pip=True)
    lock = ROOT / "requirements.lock"
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", lock)
    _run(path, path / "bin" / "python", *pip, *packages)
    return path / "bin"


def _checked(dist: Path) -> Path:
    """Return the wheel; both archives hold what they must, and nothing compiled."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= WANTED, WANTED - names
    assert sources >= IN_SDIST, IN_SDIST - sources
    compiled = [name for name in names | sources if name.endswith((".pyc", ".nbi", ".nbc", ".so"))]
    assert not compiled, compiled[:3]
    in_tree = {
        f"equipoise/{path.relative_to(ROOT / 'src' / 'equipoise')}" for path in (ROOT / "src" / "equipoise").rglob("*.py")
    }
    assert names >= in_tree, in_tree - names
    return wheel


def _run(where: Path, *command: object, **environment: object) -> str:
    """Run a command without this project in its way; return what it printed."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NUMBA_", "EQUIPOISE_", "VIRTUAL_"))
    }
    kept |= {key: str(value) for key, value in environment.items()}
    done = subprocess.run([str(word) for word in command], cwd=where, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
