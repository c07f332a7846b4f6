"""What a placement format is, and what all engines ask of a placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from equipoise.errors import ArgumentError
from equipoise.files.placements.content import Content
from equipoise.files.placements.found import FoundPlacement

OWN = "the json format (.json, .npz) holds any placement"


@dataclass(frozen=True)
class Format:
    """One format of placement files.

    Parameters
    ----------
    name : str
        What ``--for`` and ``--from`` call it.
    endings : tuple of str
        File endings that its program takes.
    recognises : callable
        Whether a file is of this format, by its content.
    read : callable
        Content in, placement out; raises FileError.
    encode : callable
        Placement and ending in, bytes out; raises ArgumentError where the format cannot hold it.
    loading : callable
        Path and placement in, how its program loads the file out, in one line.
    """

    name: str
    endings: tuple[str, ...]
    recognises: Callable[[Content], bool]
    read: Callable[[Content], FoundPlacement]
    encode: Callable[[FoundPlacement, str], bytes]
    loading: Callable[[str, FoundPlacement], str]


def check_for_engine(found: FoundPlacement, engine: str) -> None:
    """Refuse what no engine can load: unequal ranks, empty slots, experts without a slot.

    Raises
    ------
    ArgumentError
        Naming the layer and the slot or expert.
    """
    _check_ranks(found, engine)
    placed = found.expert_of_slot
    empty = np.argwhere(placed < 0)
    if empty.size:
        layer, slot = (int(i) for i in empty[0])
        raise ArgumentError(
            f"{found.layer_name(layer)}, slot {slot} is empty",
            f"{engine} cannot hold an empty slot",
            f"plan for the ranks that are up; {OWN}",
        )
    if found.experts_known > found.num_slots:
        raise _without_slot(engine, f"{found.experts_known} experts in {found.num_slots} slots")
    lost = np.argwhere(replica_count(placed, found.experts_known) == 0)
    if lost.size:
        layer, expert = (int(i) for i in lost[0])
        raise _without_slot(engine, f"{found.layer_name(layer)}: expert {expert} has no slot")


def replica_count(placed: npt.NDArray[np.int64], num_experts: int) -> npt.NDArray[np.int64]:
    """Replicas of each expert, int64 [layers, experts], where no slot is empty."""
    layers = len(placed)
    pairs = placed + np.arange(layers)[:, np.newaxis] * num_experts
    return np.bincount(pairs.ravel(), minlength=layers * num_experts).reshape(layers, num_experts)


def layer_numbers(found: FoundPlacement, engine: str) -> tuple[int, ...]:
    """Return the model's number of each layer; refuse to guess them."""
    if found.layer_ids:
        return found.layer_ids
    if found.hidden_layers == found.num_layers:
        return tuple(range(found.num_layers))
    raise ArgumentError(
        f"the model's numbers of the {found.num_layers} layers are not known",
        f"{engine} counts all layers of the model, dense ones too",
        "name the model (--model), or give --layer-ids",
    )


def rows_of_text(rows: npt.NDArray[np.int64], indent: str) -> str:
    """One layer a line: files that people can read and compare."""
    return ",\n".join(f"{indent}{row}" for row in rows.tolist())


def _check_ranks(found: FoundPlacement, engine: str) -> None:
    if found.cluster is not None and not isinstance(found.cluster.slots_per_rank, int):
        raise ArgumentError(
            "ranks have unequally many slots", f"{engine} gives each rank as many", f"plan with equal ranks; {OWN}"
        )
    if found.num_ranks is not None and found.num_slots % found.num_ranks:
        raise ArgumentError(
            f"{found.num_slots} slots on {found.num_ranks} ranks",
            "slots must be divisible by ranks",
            "give the ranks it is for",
        )


def _without_slot(engine: str, what: str) -> ArgumentError:
    return ArgumentError(what, f"{engine} needs a slot for every expert in every layer", f"plan anew; {OWN}")
