"""What a placement makes of a load, layer by layer, and where one beats another (docs/semantics.md, 2 to 6 and 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from benchmarks.peers.shapes import Shape

from equipoise import Placement

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SAME = 1e-9
"""Largest rank loads closer than this, relatively, are the same: sums may differ in their last bits."""


@dataclass(frozen=True, eq=False)
class Score:
    """A placement on a load.

    Attributes
    ----------
    largest, ideal : float64 [layers]
        Largest and mean rank load.
    duplicates : int64 [layers]
        Slots that hold an expert their rank holds already.
    is_invalid : bool [layers]
        Layers in which an expert has no slot, or a group that must stay whole does not.
    """

    largest: Floats
    ideal: Floats
    duplicates: Ints
    is_invalid: npt.NDArray[np.bool_]

    @property
    def balancedness(self) -> float:
        """Sum of ideal over sum of largest."""
        return balancedness(self.largest, self.ideal)

    @property
    def worst_layer(self) -> float:
        """Balancedness of the worst layer that has load."""
        busy = self.largest > 0
        return float((self.ideal[busy] / self.largest[busy]).min()) if busy.any() else 1.0


def balancedness(largest: Floats, ideal: Floats) -> float:
    """Return sum of ideal over sum of largest; 1 for no load."""
    return float(ideal.sum() / largest.sum()) if largest.sum() > 0 else 1.0


def as_placement(expert_of_slot: Ints, shape: Shape) -> Placement:
    """Return a rival's answer as a placement.

    Raises
    ------
    ValueError
        When it has the wrong shape or an expert there is not.
    """
    if expert_of_slot.ndim != 2 or expert_of_slot.shape[1] != shape.slots:
        raise ValueError(f"it returned {list(expert_of_slot.shape)} for {shape.slots} slots")
    if expert_of_slot.min() < -1 or expert_of_slot.max() >= shape.experts:
        raise ValueError(f"it returned experts outside 0..{shape.experts - 1}")
    return Placement(expert_of_slot, shape.cluster(), shape.experts)


def score(placement: Placement, shape: Shape, load: Ints) -> Score:
    """Score a placement on a load [layers, experts]."""
    largest, ideal = placement.layer_times(load)
    lost = (placement.replica_count == 0).any(axis=1)
    return Score(largest, ideal, placement.duplicates, lost | breaks_groups(placement, shape))


def breaks_groups(placement: Placement, shape: Shape) -> npt.NDArray[np.bool_]:
    """Say in which layers a group lies on more than one node, bool [layers]; nowhere where groups may part."""
    layers = placement.num_layers
    if not shape.is_strict:
        return np.zeros(layers, np.bool_)
    group_of_slot = placement.expert_of_slot // (shape.experts // shape.groups)
    node_of_slot = np.asarray(placement.cluster.node_of_rank)[placement.cluster.rank_of_slot]
    on_node = np.zeros((layers, shape.groups, shape.nodes), np.bool_)
    on_node[np.arange(layers)[:, np.newaxis], group_of_slot, node_of_slot] = True
    broken: npt.NDArray[np.bool_] = (on_node.sum(axis=2) > 1).any(axis=1)
    return broken


def moved_share(new: Placement, old: Placement) -> float:
    """Return the share of (rank, expert) pairs that ranks must receive."""
    pairs = new.expert_of_slot.size - int(new.duplicates.sum())
    return float(new.moves_from(old).sum()) / pairs


@dataclass(frozen=True)
class Wins:
    """Layers on which a rival's largest rank load is under ours."""

    fairly: int = 0
    by_duplicates: int = 0

    def __add__(self, other: Wins) -> Wins:
        return Wins(self.fairly + other.fairly, self.by_duplicates + other.by_duplicates)


def wins(rival: Score, ours: Score) -> Wins:
    """Count the valid layers that a rival balances better than we do; with an expert twice on a rank they count apart."""
    layers = len(rival.largest)
    better = (rival.largest < ours.largest[:layers] * (1 - SAME)) & ~rival.is_invalid
    doubled = rival.duplicates > 0
    return Wins(int((better & ~doubled).sum()), int((better & doubled).sum()))
