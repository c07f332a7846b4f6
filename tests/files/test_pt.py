"""Reading torch's own files, safely."""

from __future__ import annotations

import io
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import EquipoiseError, FileError, MissingExtraError

torch = pytest.importorskip("torch")

LOAD = np.arange(24).reshape(4, 2, 3)


def _pt(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


GOOD = {
    "tensor": (torch.tensor(LOAD), LOAD),
    "dict": ({"logical_count": torch.tensor(LOAD, dtype=torch.int32), "rank": 0}, LOAD),
    "half floats": (torch.ones(2, 3).bfloat16(), np.ones((1, 2, 3))),
    "needs gradients": (torch.ones(2, 3, requires_grad=True), np.ones((1, 2, 3))),
    "sparse": (torch.tensor(LOAD[0]).to_sparse(), LOAD[:1]),
}


@pytest.mark.parametrize("name", GOOD)
def test_tensors_are_read(tmp_path, name):
    """A tensor, or a dict with one under load or logical_count; recognised by content."""
    value, expected = GOOD[name]
    path = tmp_path / "load.dat"
    path.write_bytes(_pt(value))
    assert np.array_equal(LoadTrace.read(path).load, expected)


def test_old_format(tmp_path):
    """Torch's format before 1.6 has no archive: recognised by its first bytes, and loaded as safely."""
    path = tmp_path / "load.dat"
    path.write_bytes(_pt(torch.tensor(LOAD), _use_new_zipfile_serialization=False))
    assert np.array_equal(LoadTrace.read(path).load, LOAD)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (_pt(_Trap()), "cannot be loaded as plain tensors (it asks for "),
        (_pt("x"), "holds a str"),
        (_pt({"other": torch.ones(1, 1)}), "holds a dict"),
        (_pt(torch.ones(2, 2))[:-100], "is damaged (File is not a zip file)"),
        (pickle.dumps(_Trap()), "is or holds a pickle"),
        (_pt(torch.ones(2, 2) * 1j), "holds a tensor of torch.complex64: it must hold real numbers"),
        (_pt(torch.ones(1).expand(10**6, 10**6)), "claims more than memory holds"),
        (_pt(torch.sparse_coo_tensor(size=(10**6, 10**6), check_invariants=False)), "claims more than memory holds"),
    ],
)
def test_bad_files(tmp_path, content, found):
    """Each is named; no pickle runs."""
    path = tmp_path / "load.pt"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        LoadTrace.read(path)
    assert found in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    """Where torch is not installed the message says how to install it."""
    path = tmp_path / "x.pt"
    path.write_bytes(_pt(torch.ones(1, 2)))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'equipoise\[torch\]'"):
        LoadTrace.read(path)


@given(st.data())
def test_damaged_files_give_an_error_or_a_trace(data):
    """Whatever bytes are flipped, nothing but an EquipoiseError or a valid trace comes out."""
    content = bytearray(_pt(torch.tensor(LOAD)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        trace = LoadTrace.read(io.BytesIO(bytes(content)))
    except EquipoiseError:
        return
    assert trace.load.min() >= 0


def test_torchs_own_advice_is_not_passed_on(tmp_path):
    """Its colours, and how to load a pickle all the same."""
    torch.save({"load": object()}, tmp_path / "x.pt")
    with pytest.raises(FileError) as error:
        LoadTrace.read(tmp_path / "x.pt")
    assert "(it asks for " in str(error.value)
    assert not any(text in str(error.value) for text in ("\x1b", "two options", "Weights only"))


def test_rows_of_dense_layers(tmp_path):
    """As other plain files."""
    torch.save({"logical_count": torch.tensor([[[0, 0], [1, 2], [3, 4]]])}, tmp_path / "x.pt")
    trace = LoadTrace.read(tmp_path / "x.pt", layer_ids=[1, 2])
    assert (trace.load.tolist(), trace.layer_ids) == ([[[1, 2], [3, 4]]], (1, 2))
