"""The folder that a program may write in: what is in it, and how it is removed, whatever the program made of it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEEPEST = 32
"""Folders within folders that a program may have."""


@dataclass
class Contents:
    """How many entries a folder holds, how many of these are files, bytes on disk, and what keeps from looking further."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    hidden: str = ""


def look_into(folder: str | os.PathLike[str], most: int) -> Contents:
    """Count what a folder holds while others may write there; stops once there are more than ``most`` entries."""
    found = Contents()
    waiting = [(os.fspath(folder), 0)]
    while waiting and found.entries <= most:
        path, depth = waiting.pop()
        if depth > DEEPEST:
            found.hidden = f"folders more than {DEEPEST} deep"
            continue
        try:
            inner = _count(path, most, found)
        except FileNotFoundError:
            continue
        except OSError:
            found.hidden = "a folder that cannot be looked into"
            continue
        waiting += [(each, depth + 1) for each in inner]
    return found


def _count(path: str, most: int, found: Contents) -> list[str]:
    """Count one folder's entries; return the folders among them."""
    folders = []
    with os.scandir(path) as entries:
        for entry in entries:
            found.entries += 1
            if found.entries > most:
                break
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found.bytes += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)
                else:
                    found.files += 1
    return folders


def remove_tree(folder: str | os.PathLike[str]) -> None:
    """Remove a folder that nobody writes to any more, however deep: inner folders are moved to its top and emptied there.

    Raises
    ------
    OSError
        Where the system refuses; no error where it is gone already, or another process removes it too.
    """
    with suppress(FileNotFoundError):
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)
        Path(folder).rmdir()


def _empty(top: int) -> None:
    moved = 0
    while names := os.listdir(top):
        for name in names:
            with suppress(FileNotFoundError):
                if not _opens(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                moved = _lift(name, top, moved)
                os.rmdir(name, dir_fd=top)


def _lift(name: str, top: int, moved: int) -> int:
    """Empty one folder, moving those within it to the top; return how many were moved so far."""
    inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for inner in os.listdir(inside):  # noqa: PTH208 - an open folder, which paths cannot name
            if _opens(inner, inside):
                os.rename(inner, f".moved-{moved}", src_dir_fd=inside, dst_dir_fd=top)
                moved += 1
            else:
                os.unlink(inner, dir_fd=inside)
    finally:
        os.close(inside)
    return moved


def _opens(name: str, parent: int) -> bool:
    """Whether an entry is a folder; if so its owner may do everything with it from now on."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        return False
    os.chmod(name, 0o700, dir_fd=parent)
    return True
