"""Say of a file that cannot be read what is wrong with it: damaged, a pickle, or too large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from equipoise.errors import FileError, first_line


def a_pickle(name: str) -> FileError:
    """Return what to raise for a file that only a pickle loader could read."""
    return FileError(
        f"{name} is or holds a pickle", "pickles can run any code and are never loaded", "save numbers with numpy.savez"
    )


def too_large(name: str) -> FileError:
    """Return what to raise for a file that claims more than it can hold, or than memory holds."""
    return FileError(f"{name} claims more than memory holds", "it must fit", "record fewer steps")


@contextmanager
def naming_damage(name: str) -> Iterator[None]:
    """Say of any failure within that the file is damaged, or a pickle; numpy and zipfile raise a dozen kinds on bad bytes."""
    try:
        yield
    except (FileError, MemoryError, OverflowError):
        raise
    except Exception as error:
        if "allow_pickle" in str(error):
            raise a_pickle(name) from error
        raise FileError(
            f"{name} is damaged ({first_line(error)})", "it must be a whole numpy or torch file", "write or copy it again"
        ) from error
