"""Which format a load is in: each is tried in turn by what the file holds, never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from equipoise.errors import FileError
from equipoise.files.loads import (
    arrays,
    ascend,
    jsons,
    megatron,
    recorded,
    routed,
    sglang,
    tables,
    tensorrt_llm,
    torch_files,
    vllm,
)
from equipoise.files.loads.damage import a_pickle, too_large
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.opening import IN_WORDS, Input, Kind, opened

AUTO = "auto"
_NO_HINTS = Hints()


@dataclass(frozen=True)
class Format:
    """One format of load files: the kinds of files it is read from, how it is told apart, and how it is read.

    ``recognises`` gets inputs of its ``kinds`` only and raises nothing but :class:`~equipoise.errors.EquipoiseError`.
    """

    name: str
    kinds: tuple[Kind, ...]
    recognises: Callable[[Input], bool]
    read: Callable[[Input, Hints], FoundLoad]


def _any(_: Input) -> bool:
    return True


FORMATS: tuple[Format, ...] = (
    Format("tensorrt-llm", ("directory", "safetensors"), tensorrt_llm.recognises, tensorrt_llm.read),
    Format("vllm-jsonl", ("json",), vllm.recognises, vllm.read),
    Format("equipoise-record", ("directory", "json"), recorded.recognises, recorded.read),
    Format("megatron", ("directory", "npz"), megatron.recognises, megatron.read),
    Format("sglang-stat", ("torch",), sglang.is_stat, sglang.read_stat),
    Format("sglang-per-token", ("directory", "torch"), sglang.is_per_token, sglang.read_passes),
    Format("sglang-per-pass", ("directory", "torch"), sglang.is_per_pass, sglang.read_passes),
    Format("routed-experts", ("directory", "npy", "npz", "torch"), routed.recognises, routed.read),
    Format("vllm-ascend", ("torch", "npy", "npz"), ascend.recognises, ascend.read),
    Format("npz", ("npz",), _any, arrays.read_npz),
    Format("npy", ("npy",), _any, arrays.read_npy),
    Format("load_history", ("json",), jsons.is_history, partial(jsons.read, key=jsons.HISTORY)),
    Format("json", ("json",), _any, jsons.read),
    Format("pt", ("torch",), _any, torch_files.read),
    Format("csv", ("text",), _any, tables.read),
)
"""In the order in which they are tried: those that look at the content first, plain matrices last."""


def format_names() -> tuple[str, ...]:
    """Names that ``format=`` takes besides ``auto``."""
    return tuple(one.name for one in FORMATS)


def read_load(
    path: str | os.PathLike[str] | BinaryIO,
    format: str = AUTO,  # noqa: A002 - the word that people type
    hints: Hints = _NO_HINTS,
) -> FoundLoad:
    """Read a load from a path, a folder, ``-`` (standard input) or a binary stream.

    Raises
    ------
    FileError, MissingExtraError
        As described for :meth:`equipoise.LoadTrace.read`.
    """
    with opened(path) as given:
        try:
            chosen = recognised(given) if format == AUTO else _named(format, given)
            found = chosen.read(given, hints)
        except (MemoryError, OverflowError) as error:
            raise too_large(given.name) from error
        except OSError as error:
            raise FileError(
                f"{given.name} cannot be read ({error.strerror or error})", "it must be readable", "copy it again"
            ) from error
    found.load.setflags(write=False)
    if found.source_load is not None:
        found.source_load.setflags(write=False)
    return replace(found, name=given.name, format=found.format or chosen.name)


def recognised(given: Input) -> Format:
    """Return the first format that recognises a file or folder.

    Raises
    ------
    FileError
        When none does.
    """
    for one in FORMATS:
        if given.kind in one.kinds and one.recognises(given):
            return one
    raise _unknown(given)


def _named(name: str, given: Input) -> Format:
    chosen = next((one for one in FORMATS if one.name == name), None)
    if chosen is None:
        raise FileError(
            f"format is {name!r}", f"it must be {AUTO} or one of {', '.join(format_names())}", "choose one of these"
        )
    if given.kind not in chosen.kinds:
        raise FileError(
            f"{given.name} is {IN_WORDS[given.kind]}",
            f"the format {name} is read from {' or '.join(IN_WORDS[kind] for kind in chosen.kinds)}",
            f"leave the format {AUTO}, or name another file",
        )
    return chosen


def _unknown(given: Input) -> FileError:
    if given.kind == "pickle":
        return a_pickle(given.name)
    if given.kind == "directory":
        return FileError(
            f"{given.name} is a folder without load files that equipoise knows",
            "a folder holds the dumps of SGLang's, TensorRT-LLM's or Megatron's ranks",
            "name the file itself",
        )
    return FileError(
        f"{given.name} is {IN_WORDS[given.kind]}",
        f"equipoise reads {', '.join(format_names())}",
        "convert it to one of these",
    )
