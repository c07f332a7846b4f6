"""The engines' wheels, and what their policy path imports, in the cache that the race against the peers uses too."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
fetching = importlib.import_module("benchmarks.peers.fetching")

PACKAGES = {"sglang": "sglang/", "vllm": "vllm/", "vllm-ascend": "vllm_ascend/"}
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class EngineMissingError(Exception):
    """An engine's wheel, or what it imports, is not to be had."""


def unpacked(distribution: str) -> Path:
    """Fetch an engine's wheel unless it is in the cache; return the folder that holds all its Python files.

    Raises
    ------
    EngineMissingError
        When the wheel is not to be had: the message is pip's last line.
    """
    wheel = replace(fetching.WHEELS[distribution], member=PACKAGES[distribution])
    try:
        archive = fetching.find_wheel(wheel, fetching.CACHE) or fetching.fetch(wheel, fetching.CACHE)
        folder: Path = fetching.CACHE / f"{wheel.distribution}-{wheel.version}"
        done = folder / ".unpacked"
        if not done.exists():
            done.write_text(fetching.extract(archive, wheel.member, folder))
    except (fetching.NotToBeHadError, OSError, zipfile.BadZipFile) as error:
        raise EngineMissingError(
            f"{wheel.requirement} is not to be had ({error}); put its wheel into {fetching.CACHE}, or set EQUIPOISE_PEERS_CACHE"
        ) from error
    return folder


def dependencies() -> Path:
    """Install, once, what the engines import into a folder of its own; return that folder.

    Raises
    ------
    EngineMissingError
        When pip cannot: the message is its last line.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder: Path = fetching.CACHE / f"engines-{sys.implementation.cache_tag}-{digest}"
    done = folder / ".installed"
    if not done.exists():
        call = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        ran = subprocess.run(
            [*call, "--only-binary=:all:", "--target", str(folder), "--requirement", str(REQUIREMENTS)],
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            said = ran.stderr.strip().splitlines() or ["no word from pip"]
            raise EngineMissingError(f"what the engines import is not to be had: {said[-1]}")
        done.write_text("")
    return folder
