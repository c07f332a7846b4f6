"""Recorded loads: one module a format, told apart by content."""

from equipoise.files.loads.found import FoundLoad, Hints
from equipoise.files.loads.plain import FoundSteps, StepNames, open_steps, read_load, read_steps, write_load

__all__ = ["FoundLoad", "FoundSteps", "Hints", "StepNames", "open_steps", "read_load", "read_steps", "write_load"]
