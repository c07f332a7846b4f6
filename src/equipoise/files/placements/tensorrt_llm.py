"""TensorRT-LLM's load balancer YAML: three keys, layers by the model's own numbers.

It is read event by event: no alias is followed, no object is built, and what does not belong is refused where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from equipoise.errors import FileError, first_line
from equipoise.files.placements.content import Content, shown
from equipoise.files.placements.format import Format, check_for_engine, layer_numbers
from equipoise.files.placements.found import FoundPlacement

NAME = "tensorrt-llm"
_ASSIGNMENTS, _SLOTS, _UPDATES = "initial_global_assignments", "num_slots", "layer_updates_per_iter"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


def _recognises(content: Content) -> bool:
    if content.is_zip or content.is_torch:
        return False
    return re.search(rf"(^|[{{,])\s*[\"']?{_ASSIGNMENTS}[\"']?\s*:", content.text[:4096], re.MULTILINE) is not None


def _read(content: Content) -> FoundPlacement:
    given = _Events(content).whole()
    if _ASSIGNMENTS not in given:
        raise content.foreign(f"it has no {_ASSIGNMENTS}")
    rows: dict[int, list[int]] = given[_ASSIGNMENTS]
    layer_ids = tuple(sorted(rows))
    placed = content.rows([rows[i] for i in layer_ids], _ASSIGNMENTS, lambda layer: f"layer {layer_ids[layer]}")
    if given.get(_SLOTS, placed.shape[1]) != placed.shape[1]:
        raise content.foreign(f"{_SLOTS} is {given[_SLOTS]}, but layer {layer_ids[0]} has {placed.shape[1]} slots")
    updates = given.get(_UPDATES, 0)
    remarks = (f"{_UPDATES} is {updates}: the engine moves experts away from this placement",) if updates else ()
    return FoundPlacement(placed, layer_ids, remarks=remarks)


class _Events:
    """The YAML parser's events, taken one by one in the only order that this format allows."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._events = self._parsed()

    def whole(self) -> dict[str, Any]:
        """Return the three keys' values: a dict of lists, and two numbers."""
        for expected in (yaml.StreamStartEvent, yaml.DocumentStartEvent, yaml.MappingStartEvent):
            self._take(expected, "a mapping of three keys")
        given: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._text(event, "a key")
            if key not in (_ASSIGNMENTS, _SLOTS, _UPDATES):
                raise self._wrong(event, f"the key {shown(key)} is none of {_ASSIGNMENTS}, {_SLOTS}, {_UPDATES}")
            self._check_new(event, key, given)
            given[key] = self._layers() if key == _ASSIGNMENTS else self._number(next(self._events), key)
        for expected in (yaml.DocumentEndEvent, yaml.StreamEndEvent):
            self._take(expected, "one document")
        return given

    def _layers(self) -> dict[int, list[int]]:
        self._take(yaml.MappingStartEvent, f"{_ASSIGNMENTS}: layers with their slots")
        rows: dict[int, list[int]] = {}
        for event in self._until(yaml.MappingEndEvent):
            layer = self._number(event, "a layer's number", may_be_quoted=True)
            self._check_new(event, layer, rows)
            self._take(yaml.SequenceStartEvent, f"layer {layer}: a list of experts")
            rows[layer] = [self._number(one, f"an expert of layer {layer}") for one in self._until(yaml.SequenceEndEvent)]
        return rows

    def _until(self, end: type[Any]) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _take(self, expected: type[Any], what: str) -> None:
        event = next(self._events)
        if not isinstance(event, expected) or getattr(event, "tag", None) is not None:
            raise self._wrong(event, f"it needs {what}")

    def _text(self, event: Any, what: str) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise self._wrong(event, f"it needs {what}")
        return str(event.value)

    def _number(self, event: Any, what: str, *, may_be_quoted: bool = False) -> int:
        text = self._text(event, what)
        if not _NUMBER.fullmatch(text) or not (may_be_quoted or event.style in (None, "")):
            raise self._wrong(event, f"{what} is {shown(text)}, not a whole number >= 0")
        return int(text)

    def _check_new(self, event: Any, key: object, given: dict[Any, Any]) -> None:
        if key in given:
            raise self._wrong(event, f"the key {key} stands twice")

    def _parsed(self) -> Iterator[Any]:
        try:
            for event in yaml.parse(self._content.text, Loader=_LOADER):
                if getattr(event, "anchor", None) is not None:
                    raise self._wrong(event, "it has an anchor or alias; lists must be written out")
                yield event
        except yaml.YAMLError as error:
            raise self._content.foreign(_told(error)) from error

    def _wrong(self, event: Any, cause: str) -> FileError:
        return self._content.foreign(f"line {event.start_mark.line + 1}: {cause}")


def _told(error: yaml.YAMLError) -> str:
    """Say what the parser stumbled over, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)


def _encode(found: FoundPlacement, ending: str) -> bytes:
    check_for_engine(found, NAME)
    layer_ids = layer_numbers(found, NAME)
    given = {
        _ASSIGNMENTS: dict(sorted(zip(layer_ids, found.expert_of_slot.tolist(), strict=True))),
        _SLOTS: found.num_slots,
        _UPDATES: 0,
    }
    text: str = yaml.dump(given, Dumper=_DUMPER, default_flow_style=None, width=np.iinfo(np.int32).max, sort_keys=False)
    return text.encode()


def _loading(path: str, found: FoundPlacement) -> str:
    return f"moe_config: {{load_balancer: {path}}} in the YAML of --extra_llm_api_options"


FORMAT = Format(NAME, (".yaml", ".yml"), _recognises, _read, _encode, _loading)
