"""Placement files: our own and the engines', one module a format, told apart by content."""

from equipoise.files.placements.found import FoundPlacement
from equipoise.files.placements.own import PlacementFile, check_ending, read_placement, write_placement

__all__ = ["FoundPlacement", "PlacementFile", "check_ending", "read_placement", "write_placement"]
