"""Feed mutated files to every reader of loads and placements: an EquipoiseError or a valid value, nothing else.

``python tests/fuzzing.py --cases 100000 --processes 2`` runs that many from seed 0 on; ``--seed N`` runs one of them again.
The files of a case that fails are kept in build/fuzz/N.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import samples
from equipoise import LoadTrace, Placement
from equipoise.errors import EquipoiseError
from equipoise.files.loads import format_names
from equipoise.files.placements import FORMATS

MOST_MEMORY = 400 * 2**20
"""Bytes that a process may grow by while it reads files of a few kilobytes."""
MOST_SECONDS = 5.0
_HAS_TORCH = find_spec("torch") is not None
_KEPT = Path("build/fuzz")

_NUMBERS = (
    *(
        b"-1",
        b"0",
        b"1",
        b"2",
        b"3",
        b"255",
        b"1000000000000",
        b"1e400",
        b"-0.5",
        b"1.5",
        b"9" * 5000,
        b"0x1F",
        b"1_000",
        b"1:2:3",
    ),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"NaN", b"nan", b"-Infinity", b"2001-99-99"),
    *(b"null", b"true", b'"x"', b"[]", b"{}", b"[[]]", b"'", b"\xff", b"*a", b"!!python/object:os.system"),
)
_VALUES = (
    *(-1, 0, 1, 7, 10**12, 2**63, -(2**63), 2**64, 10**400, 1.5, float("nan"), float("inf"), None, True),
    *("x", "", "\n", [], [[]], {}, {"a": 1}, [1, [2]], [[1, 2], [3]], ["a", 2]),
)
_KINDS = ("i1", "u1", "i4", "u8", "f2", "f4", "f8", "f16", "c8", "?", "U3", "S2", "M8[s]", "m8[s]", ">i8", "V4", "f2,i4")


@cache
def sample_files() -> tuple[tuple[str, bool, samples.Files], ...]:
    """Return every sample: its format, whether it is a placement, its files."""
    found = []
    for is_placement, makers_by_name in ((False, samples.LOADS), (True, samples.PLACEMENTS)):
        for name, makers in makers_by_name.items():
            for make in makers:
                if _HAS_TORCH or is_placement or name not in samples.NEEDS_TORCH:
                    made = make()
                    found.append((name, is_placement, made if isinstance(made, dict) else {"": made}))
    return tuple(found)


def mutate(files: samples.Files, rng: random.Random) -> samples.Files:
    """Return the files after one to three mutations: of a folder's names, or of a file."""
    files = dict(files)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if "" not in files and rng.random() < 0.3:
            files = _mutate_folder(files, rng)
        elif files:
            name = rng.choice(sorted(files))
            files[name] = _mutate_file(files[name], rng)
    return files


def _mutate_folder(files: samples.Files, rng: random.Random) -> samples.Files:
    """Drop, empty, rename, copy or exchange files, or add a foreign one."""
    names = sorted(files)
    if not names:
        return files
    one, other = rng.choice(names), rng.choice(names)
    match rng.randrange(6):
        case 0:
            return {name: content for name, content in files.items() if name != one}
        case 1:
            return files | {one: b""}
        case 2:
            return files | {one: files[other], other: files[one]}
        case 3:
            renamed = re.sub(r"\d+", lambda _: str(rng.choice((0, 1, 2, 5, 10**9, 10**20))), one)
            return files | {renamed: files[one]}
        case 4:
            return files | {f"z{one}": _another(rng)}
        case _:
            return files | {one: _another(rng)}


def _another(rng: random.Random) -> bytes:
    """Return a file of any sample."""
    _, _, files = rng.choice(sample_files())
    return files[rng.choice(sorted(files))]


def _mutate_file(content: bytes, rng: random.Random) -> bytes:
    """Mutate what the file is made of where that is known and still whole, else its bytes."""
    if rng.random() > 0.35:
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if content[:2] == b"PK":
                return _mutate_zip(content, rng)
            if content[8:9] == b"{" and b"\x00" in content[:8]:
                return _mutate_safetensors(content, rng)
            if content.lstrip()[:1] in (b"{", b"["):
                return _mutate_json(content, rng)
            if content[:6] == b"\x93NUMPY":
                return samples.npy(_mutated_array(np.load(io.BytesIO(content), allow_pickle=False), rng))
    return _mutate_bytes(content, rng)


def _mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, drop, repeat, splice, nest, or put another number or text in."""
    data = bytearray(content)
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    match rng.randrange(8):
        case 0:
            for _ in range(rng.choice((1, 1, 4, 16))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[start:]
        case 2:
            del data[start:end]
        case 3:
            data[start:end] = data[start:end] * min(rng.choice((0, 2, 50)), 1 + 2**18 // max(1, end - start))
        case 4:
            other = _another(rng)
            place = rng.randrange(len(other) + 1)
            data[start:end] = other[place : place + rng.choice((4, 64, 4096))]
        case 5:
            data[start:start] = rng.choice((b"[", b'{"a":', b"(", b"- ", b"[[1]," * 2)) * rng.choice((3, 100, 30_000))
        case _:
            found = list(re.finditer(rb"[0-9]+", data[: 2**16]))
            if found:
                at = rng.choice(found)
                data[at.start() : at.end()] = rng.choice(_NUMBERS)
    return bytes(data)


def _mutate_zip(content: bytes, rng: random.Random) -> bytes:
    """Mutate a member and write the archive anew, so that its checksums hold; or arrays and tensors as values."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    is_torch = any(name.endswith("data.pkl") for name, _ in members)
    if rng.random() < 0.6:
        return _mutate_torch(content, rng) if is_torch else _mutate_npz(content, rng)
    place = rng.randrange(len(members))
    name, data = members[place]
    match rng.randrange(4):
        case 0:
            del members[place]
        case 1:
            members.append((f"{name}x", data))
        case 2:
            members[place] = (name, members[rng.randrange(len(members))][1])
        case _:
            members[place] = (name, _mutate_bytes(data, rng))
    file = io.BytesIO()
    kind = zipfile.ZIP_STORED if is_torch else rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return file.getvalue()


def _mutate_npz(content: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    name = rng.choice(sorted(arrays))
    arrays[name] = _mutated_array(arrays[name], rng)
    if rng.random() < 0.1:
        arrays[rng.choice(("load", "layer_ids", "labels", "phases", "source_load", "is_in_order"))] = arrays[name]
    return samples.npz(rng.random() < 0.5, **{key.replace("/", "_") or "x": value for key, value in arrays.items()})


def _mutated_array(array: Any, rng: random.Random) -> Any:
    """Return an array of another type, shape or content."""
    array = np.array(array)
    match rng.randrange(10):
        case 0:
            return array.astype(rng.choice(_KINDS)) if rng.random() < 0.7 else np.zeros(array.shape, rng.choice(_KINDS))
        case 1:
            return array[..., np.newaxis] if rng.random() < 0.5 else array.ravel()
        case 2:
            return array[:0] if array.ndim else np.array([array, array])
        case 3:
            return array[0] if array.ndim and len(array) else np.zeros((0, 3, 0))
        case 4:
            return array.T
        case 5:
            return np.concatenate([array, array], rng.randrange(array.ndim)) if array.ndim else np.array(10**12)
        case 6 | 7:
            if array.size and array.dtype.kind in "iuf":
                bounds = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
                values = [-1, 0, 7, bounds.max, bounds.min, *([np.nan, np.inf, 0.5] if array.dtype.kind == "f" else [])]
                array.flat[rng.randrange(array.size)] = np.array(rng.choice(values)).astype(array.dtype)
            return array
        case 8:
            return np.asfortranarray(array)
        case _:
            return np.array(rng.choice((7, -1, 10**12, "v2", 0.5, np.nan, True)))


def _mutate_torch(content: bytes, rng: random.Random) -> bytes:
    """Put an odd value in the place of one of a torch file's."""
    import torch

    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    file = io.BytesIO()
    torch.save(_replaced(found, rng, _odd_tensor), file)
    return file.getvalue()


def _odd_tensor(value: Any, rng: random.Random) -> Any:
    import torch

    is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.numel() < 10**6
    plain = value if is_plain else torch.ones(2, 3)
    kinds = (torch.int8, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.complex64)
    odd = (
        lambda: plain.to(rng.choice(kinds)),
        lambda: plain.flatten(),
        lambda: plain[:0] if plain.ndim else torch.zeros(0),
        lambda: plain.unsqueeze(0),
        lambda: torch.zeros(1).expand(10**12),
        lambda: torch.zeros(1, dtype=torch.int64).expand(10**4, 10**4, 10**4),
        lambda: plain.to_sparse(),
        lambda: torch.sparse_coo_tensor([[0], [0]], [1], (10**6, 10**6)),
        lambda: plain.mT if plain.ndim > 1 else plain,
        lambda: -plain if plain.dtype != torch.bool else plain,
        lambda: plain.double() * float("nan"),
        lambda: plain.double().requires_grad_(),
        lambda: torch.zeros(2, 3, device="meta"),
        lambda: torch.tensor(2**62),
        lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
        lambda: rng.choice(_VALUES),
    )
    return rng.choice(odd)()


def _mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Mutate the header and set its length anew."""
    length = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + length], content[8 + length :]
    header = _mutate_json(header, rng) if rng.random() < 0.7 else _mutate_bytes(header, rng)
    return len(header).to_bytes(8, "little") + header + rest


def _mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Put an odd value in the place of one, in the whole text or in one line."""
    text = content.split(b"\n")
    place = rng.randrange(len(text))
    with suppress(ValueError):
        text[place] = json.dumps(_replaced(json.loads(text[place]), rng, _odd_value)).encode()
        return b"\n".join(text)
    return json.dumps(_replaced(json.loads(content), rng, _odd_value), indent=1).encode()


def _odd_value(_: Any, rng: random.Random) -> Any:
    return rng.choice(_VALUES)


def _replaced(value: Any, rng: random.Random, odd: Any) -> Any:
    """Go down to a random place and change it: another value, one item less, or one twice."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.1:
            return value | {rng.choice((f"{key}x", "-1", "10_3", 3, None)): value[key]}
        return value | {key: _replaced(value[key], rng, odd)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:place] + value[place + rng.randrange(3) :] + value[:place]
        return [*value[:place], _replaced(value[place], rng, odd), *value[place + 1 :]]
    return odd(value, rng)


def make_case(seed: int) -> tuple[str, bool, samples.Files]:
    """Return the format, whether it is a placement's, and the files of a case; the same for the same seed."""
    rng = random.Random(seed)
    name, is_placement, files = rng.choice(sample_files())
    return name, is_placement, mutate(files, rng)


def write_case(files: samples.Files, folder: Path) -> Path:
    """Write the files of a case; returns what to read."""
    path = folder / "case"
    if "" in files:
        path.write_bytes(files[""])
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
    return path


def read_case(seed: int, path: Path, name: str, is_placement: bool) -> list[str]:
    """Read a case with the readers that recognise it, its own, and one more of each kind; returns what came of each.

    Raises
    ------
    BaseException
        What a reader raised that is no EquipoiseError, or an AssertionError on an error of more than one line.
    """
    rng = random.Random(seed)
    hints = {
        "num_experts": rng.choice((None, None, samples.EXPERTS, samples.SLOTS)),
        "layer_ids": rng.choice(((), (), (3, 4), (0,))),
        "active": rng.choice((None, None, samples.PLACED)),
    }
    loads = ["auto", rng.choice(format_names()), *([] if is_placement else [name])]
    placements = ["auto", rng.choice(sorted(FORMATS)), *([name] if is_placement else [])]
    outcomes = [_outcome(LoadTrace, path, kind, **hints) for kind in loads]
    del hints["active"]
    hints["num_ranks"] = rng.choice((None, samples.RANKS))
    return outcomes + [_outcome(Placement, path, kind, **hints) for kind in placements]


def _outcome(kind: Any, path: Path, format: str, **hints: Any) -> str:  # noqa: A002 - as the readers call it
    try:
        value = kind.read(path, format, **hints)
    except EquipoiseError as error:
        text = str(error)
    else:
        assert isinstance(value, kind)
        return "value"
    assert "\n" not in text, f"an error of several lines: {text!r}"
    assert len(text) < 2000, f"an error of {len(text)} characters: {text[:200]}"
    return "error"


def run_case(seed: int, folder: Path) -> str | None:
    """Run one case; returns what is wrong with it."""
    name, is_placement, files = make_case(seed)
    path = write_case(files, folder)
    memory, start = _peak(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_case(seed, path, name, is_placement)
        wrong = None
    except BaseException:  # even what a Rust library panics with
        wrong = traceback.format_exc()
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if wrong is None and _peak() - memory > MOST_MEMORY:
        wrong = f"memory grew by {(_peak() - memory) >> 20} MiB"
    if wrong is None and time.process_time() - start > MOST_SECONDS:
        wrong = f"took {time.process_time() - start:.1f} s"
    return None if wrong is None else f"{name}: {wrong}"


def run(first: int, count: int, current: Any, failures: Any) -> None:
    """Run cases from ``first`` on in this process; ``current`` holds the seed being run."""
    faulthandler.enable()
    _limit_memory()
    with tempfile.TemporaryDirectory(prefix="equipoise-fuzz-") as folder:
        for seed in range(first, first + count):
            current.value = seed
            faulthandler.dump_traceback_later(60, exit=True)
            wrong = run_case(seed, Path(folder))
            if wrong is not None:
                keep(seed)
                failures.put((seed, wrong))
    faulthandler.cancel_dump_traceback_later()
    current.value = -1


def keep(seed: int) -> None:
    """Keep the files of a case."""
    folder = _KEPT / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_case(make_case(seed)[2], folder)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> None:
    """Let nothing take the machine's memory: what is mapped after all imports, and 4 GiB more."""
    warm_up()
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**32, mapped + 2**32))


def warm_up() -> None:
    """Read every sample once, so that no case pays for imports."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, is_placement, files) in enumerate(sample_files()):
            (Path(folder) / str(number)).mkdir()
            read_case(0, write_case(files, Path(folder) / str(number)), name, is_placement)


def run_all(seeds: range) -> dict[int, str]:
    """Run cases in a process, and in another one from the next case on where a case ended it; returns what failed."""
    context = multiprocessing.get_context("spawn")
    found: dict[int, str] = {}
    while seeds:
        current, failures = context.Value("q", -1), context.SimpleQueue()
        worker = context.Process(target=run, args=(seeds.start, len(seeds), current, failures))
        worker.start()
        while worker.is_alive() or not failures.empty():
            if failures.empty():
                worker.join(0.05)
            else:
                seed, wrong = failures.get()
                found[seed] = wrong
        if worker.exitcode == 0 or current.value < 0:
            if worker.exitcode:
                found[seeds.start] = f"the process did not start: it ended with {worker.exitcode}"
            break
        keep(current.value)
        found[current.value] = f"the process ended with {worker.exitcode} (killed, or a case of more than 60 s)"
        seeds = range(current.value + 1, seeds.stop)
    return found


def _starts(given: argparse.Namespace, share: int) -> range:
    return range(given.first, given.first + given.cases, share)


def main() -> int:
    """Run many cases on several processes, or one again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="run this case alone and show its traceback")
    given = parser.parse_args()
    if given.seed is not None:
        given.first, given.cases, given.processes = given.seed, 1, 1
    start = time.perf_counter()
    share = -(-given.cases // given.processes)
    ranges = [range(first, min(first + share, given.first + given.cases)) for first in _starts(given, share)]
    with ThreadPoolExecutor(len(ranges)) as pool:
        found = {seed: wrong for failures in pool.map(run_all, ranges) for seed, wrong in failures.items()}
    for seed, wrong in sorted(found.items()):
        print(f"seed {seed} ({_KEPT / str(seed)}): {wrong}\n")
    causes = Counter(wrong.strip().splitlines()[-1][:100] for wrong in found.values())
    print(*(f"{count} x {cause}" for cause, count in causes.most_common()), sep="\n")
    print(f"{given.cases:,} cases, {len(found)} failed, {time.perf_counter() - start:.0f} s")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
