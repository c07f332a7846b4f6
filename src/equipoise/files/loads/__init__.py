"""Recorded loads: one module a format, told apart by content."""

from equipoise.files.loads.arrays import StepNames
from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.reading import format_names, read_load
from equipoise.files.loads.routed import could_be_picks
from equipoise.files.loads.streaming import FoundSteps, open_steps, read_steps
from equipoise.files.loads.writing import write_load

__all__ = [
    "FoundLoad",
    "FoundSteps",
    "Hints",
    "StepNames",
    "could_be_picks",
    "format_names",
    "open_steps",
    "read_load",
    "read_steps",
    "write_load",
]
