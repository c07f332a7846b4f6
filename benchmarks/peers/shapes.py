"""The shapes of the race: experts, slots, ranks, nodes and groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equipoise import Cluster


@dataclass(frozen=True)
class Shape:
    """Experts of a layer, slots over all ranks, ranks; with nodes and groups for the group rule."""

    experts: int
    slots: int
    ranks: int
    nodes: int = 1
    groups: int = 1
    is_scale: bool = False

    @property
    def name(self) -> str:
        """Experts/slots/ranks, and the nodes and groups where groups stay whole."""
        plain = f"{self.experts}/{self.slots}/{self.ranks}"
        return f"{plain} strict {self.groups}g{self.nodes}n" if self.is_strict else plain

    @property
    def is_strict(self) -> bool:
        """Whether every group stays on one node."""
        return self.groups > 1

    @property
    def slots_per_rank(self) -> int:
        """Slots of each rank."""
        return self.slots // self.ranks

    def cluster(self) -> Cluster:
        """Return the cluster of this shape."""
        from equipoise import Cluster

        return Cluster(num_ranks=self.ranks, slots_per_rank=self.slots_per_rank, num_nodes=self.nodes)


HEADLINE = Shape(256, 288, 32)
STRICT = Shape(256, 288, 32, nodes=4, groups=8)

SHAPES = (
    HEADLINE,
    STRICT,
    Shape(256, 256, 32),
    *(Shape(256, 288, ranks) for ranks in (8, 16, 72, 96, 144)),
    Shape(256, 320, 64),
    Shape(256, 320, 160),
    Shape(256, 256, 256),
    Shape(384, 416, 32),
    Shape(512, 576, 64),
    Shape(128, 144, 16),
    Shape(64, 72, 8),
    Shape(32, 36, 4),
    Shape(32, 40, 8),
    Shape(32, 48, 16),
    Shape(32, 64, 32),
    Shape(8, 16, 4),
    Shape(512, 1024, 256, is_scale=True),
    Shape(512, 4096, 1024, is_scale=True),
)


def chosen(names: list[str]) -> tuple[Shape, ...]:
    """Return the shapes with these names (``strict`` for short), or all for none.

    Raises
    ------
    ValueError
        On a name that no shape has.
    """
    if not names:
        return SHAPES
    by_name = {shape.name: shape for shape in SHAPES} | {"strict": STRICT}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"no shape {unknown[0]!r}; there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in names)
