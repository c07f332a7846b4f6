"""Placement files: our own and the engines', one module a format, told apart by content."""

from equipoise.files.placements.formats import AUTO, FORMATS, check_ending, check_writable, how_to_load, read_any, write_as
from equipoise.files.placements.found import FoundCluster, FoundPlacement

__all__ = [
    "AUTO",
    "FORMATS",
    "FoundCluster",
    "FoundPlacement",
    "check_ending",
    "check_writable",
    "how_to_load",
    "read_any",
    "write_as",
]
