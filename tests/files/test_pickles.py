"""What makes torch's own refusal of a pickle take minutes is refused at once."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

import samples
from equipoise.errors import FileError
from equipoise.files.loads.reading import read_load
from equipoise.files.pickles import asks_for_long_name

pytest.importorskip("torch")
LONG = b"c" + b"a" * 300_000


def _archive(text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", text)
        archive.writestr("x/version", "3\n")
    return file.getvalue()


def _old(text):
    return b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + text


@pytest.mark.parametrize("rest", [b"\nb\n.", b"\nb\n\x00", b"", b"\xff\nb\n.", b"\nb"])
@pytest.mark.parametrize("make", [_archive, _old])
def test_long_names_are_refused_at_once(tmp_path, make, rest):
    """In archives and in files from before torch 1.6, whether what follows is whole or not."""
    path = tmp_path / "load.pt"
    path.write_bytes(make(b"\x80\x02" + LONG + rest))
    with pytest.raises(FileError, match="is or holds a pickle"):
        read_load(path)


@pytest.mark.parametrize("is_old", [False, True])
def test_what_torch_writes_and_what_is_cut_short_is_left_to_torch(is_old):
    """Nothing is said of them here; the file is at its start again."""
    content = samples.torch_file({"load": np.arange(6).reshape(2, 3)}, is_old)
    for text in (content, content[:50], content[:20], _archive(b"")):
        file = io.BytesIO(text)
        if text[:2] != b"PK" or zipfile.is_zipfile(file):
            assert not asks_for_long_name(file)
            assert file.tell() == 0
