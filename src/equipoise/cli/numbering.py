"""How a model numbers its layers, by options: what placement files of engines need beside the placement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from equipoise.checks import check_choice
from equipoise.cli.output import out
from equipoise.errors import ArgumentError
from equipoise.files.placements import FORMATS
from equipoise.models import find_model

_MOST_LAYERS = 100_000

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Model, for the numbers of its layers and experts, not of --groups: deepseek-v3, qwen3-235b-a22b, ...",
    ),
]
HiddenLayers = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST_LAYERS, metavar="N", help="All layers of a model, dense ones too; without --model."),
]
LayerIds = Annotated[
    str, typer.Option(metavar="A-B,...", help="The model's numbers of its MoE layers, such as 3-60; without --model.")
]


@dataclass(frozen=True)
class Numbering:
    """Layer numbers that options gave; ``source`` is the option, for messages."""

    layer_ids: tuple[int, ...] = ()
    hidden_layers: int | None = None
    num_experts: int | None = None
    source: str = ""

    def merged(self, layer_ids: Sequence[int], num_experts: int) -> Numbering:
        """Return these numbers with those that a load brought; refuse where both are told and differ."""
        if self.num_experts not in (None, num_experts):
            raise self._conflict(f"the load has {num_experts} experts", f"has {self.num_experts}")
        if not self.layer_ids:
            return replace(self, layer_ids=known_numbers(layer_ids))
        if len(self.layer_ids) != len(layer_ids):
            raise self._conflict(f"the load has {len(layer_ids)} layers", f"has {len(self.layer_ids)} MoE layers")
        if known_numbers(layer_ids) not in ((), self.layer_ids):
            raise self._conflict(f"the load has the layers {shortened(layer_ids)}", f"has {shortened(self.layer_ids)}")
        return self

    def _conflict(self, found: str, rule: str) -> ArgumentError:
        return ArgumentError(found, f"{self.source} {rule}", "name the model that the load is of")


def check_format(option: str, name: str | None) -> None:
    """Refuse what is no name of a placement format."""
    if name is not None:
        check_choice(option, name, tuple(FORMATS))


def read_numbering(model: str | None, hidden_layers: int | None, layer_ids: str) -> Numbering:
    """Return the layer numbers that the options give."""
    given = [f"{option} {value}" for option, value in (("--hidden-layers", hidden_layers), ("--layer-ids", layer_ids)) if value]
    if model is None:
        return Numbering(_numbers(layer_ids), hidden_layers, source=" ".join(given))
    if given:
        raise ArgumentError(f"--model {model} and {given[0]}", "both number the layers", "give one of them")
    named = find_model(model)
    return Numbering(named.moe_layer_ids, named.num_layers, named.num_experts, f"--model {model}")


def known_numbers(layer_ids: Sequence[int]) -> tuple[int, ...]:
    """Return layer numbers that a load brought, or none where they are but positions, as for a load without any."""
    return () if tuple(layer_ids) == tuple(range(len(layer_ids))) else tuple(layer_ids)


def shortened(layer_ids: Sequence[int]) -> str:
    """Show layer numbers, consecutive ones as a span.

    >>> shortened((1, 3, 4, 5, 8))
    '1,3-5,8'
    """
    spans: list[list[int]] = []
    for layer in layer_ids:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ",".join(shown[:8]) + (",..." if len(shown) > 8 else "")


def show_written(summary: dict[str, Any]) -> None:
    """Say where a placement was written, and how its program loads it."""
    if "out" in summary:
        out.print(f"placement written to {summary['out']}", soft_wrap=True, markup=False)
    if "load_with" in summary:
        out.print(f"load it with: {summary['load_with']}", soft_wrap=True, markup=False)


def _numbers(text: str) -> tuple[int, ...]:
    """Read rising numbers and spans with commas between."""
    found: list[int] = []
    for part in text.split(",") if text.strip() else []:
        span = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        if span is None:
            raise _not_numbers(text)
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first or last >= _MOST_LAYERS or (found and first <= found[-1]):
            raise _not_numbers(text)
        found.extend(range(first, last + 1))
    return tuple(found)


def _not_numbers(text: str) -> ArgumentError:
    return ArgumentError(
        f"--layer-ids is {text!r}", "it must be rising numbers or spans with commas between", "try 3-60 or 3,4,7"
    )
