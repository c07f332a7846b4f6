"""Look into a torch file's pickle, without loading it, for what makes torch's own refusal take minutes."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import BinaryIO

_LOOKED_AT = 2**20
_LONGEST_NAME = 1000
_PICKLES_OF_OLD_FILES = 4


def asks_for_long_name(file: BinaryIO) -> bool:
    """Say whether a torch file asks for code by a name of more than 1,000 characters; the file is left at its start.

    Torch refuses any such name too, but by a search over its message whose time grows with the square of the length. Pickles
    of more than 1 MiB are not looked at: those are long lists of numbers, and would take seconds.
    """
    try:
        return any(_has_long_name(text) for text in _pickles(file))
    finally:
        file.seek(0)


def _has_long_name(text: BinaryIO) -> bool:
    end = text.tell()
    try:
        for code, name, _ in pickletools.genops(text):
            if code.name == "GLOBAL" and len(str(name)) > _LONGEST_NAME:
                return True
            end = text.tell()
    except ValueError:  # cut short or not understood: torch reads on to the next line's end
        text.seek(end)
        return text.read(1) == b"c" and max(len(text.readline()), len(text.readline())) > _LONGEST_NAME
    return False


def _pickles(file: BinaryIO) -> list[BinaryIO]:
    """Return the pickle of an archive, or the several that stand at the start of an old file, one after another."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            found = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
            return [io.BytesIO(archive.read(info)) for info in found if info.file_size <= _LOOKED_AT]
    file.seek(0)
    return [io.BytesIO(file.read(_LOOKED_AT))] * _PICKLES_OF_OLD_FILES
