"""Figures measured earlier: the evolved programs' as constants (their code is in no wheel), and the peers' to check ours by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """What the best evolved program reached, in-sample, on the windows that the race plans as well; not measured here."""

    balancedness: float
    next_window: float | None = None
    milliseconds: float | None = None
    duplicates: float | None = None
    moves: float | None = None


EVOLVED = {
    ("256/288/32", "GLM"): Constant(0.9993, 0.7300, 263.0, 0.0014, 0.96),
    ("256/256/32", "GLM"): Constant(0.7843),
    ("256/288/96", "GLM"): Constant(0.9729),
    ("256/288/72", "GLM"): Constant(0.9833),
    ("256/320/64", "GLM"): Constant(0.9889),
    ("32/40/8", "gpt-oss"): Constant(0.9983),
    ("32/36/4", "gpt-oss"): Constant(0.9997),
    ("32/48/16", "gpt-oss"): Constant(0.9834),
}
"""By shape and load."""


def windows_then(shape: str, load: str) -> int:
    """Return how many windows the figures of a shape and load are means of; on fewer they cannot be met."""
    if load == "gpt-oss":
        return 12
    return 48 if shape.startswith("256/288/32") else 6


MEASURED_BEFORE = {
    ("256/288/32", "GLM", "vLLM default"): (0.9923, 0.7291),
    ("256/288/32", "GLM", "TensorRT-LLM twin"): (0.9923, 0.7293),
    ("256/288/32", "GLM", "SGLang deepseek_vec"): (0.9761, 0.7287),
    ("256/288/32", "GLM", "FlashLB"): (0.9927, 0.7080),
    ("256/288/32", "GLM", "SwiftBalancer"): (0.8893, 0.7032),
    ("256/288/32 strict 8g4n", "GLM", "vLLM default"): (0.9357, None),
    ("256/288/32 strict 8g4n", "GLM", "SGLang deepseek"): (0.9357, None),
    ("256/256/32", "GLM", "vLLM default"): (0.7743, None),
    ("256/288/144", "GLM", "vLLM default"): (0.9002, None),
    ("256/288/144", "GLM", "FlashLB"): (0.9009, None),
    ("256/320/160", "GLM", "vLLM default"): (0.9513, None),
    ("256/320/160", "GLM", "FlashLB"): (0.9646, None),
    ("256/288/96", "GLM", "vLLM default"): (0.9545, None),
    ("256/288/72", "GLM", "vLLM default"): (0.9662, None),
    ("256/320/64", "GLM", "vLLM default"): (0.9766, None),
    ("32/40/8", "gpt-oss", "vLLM default"): (0.9739, None),
    ("32/36/4", "gpt-oss", "vLLM default"): (0.9951, None),
    ("32/48/16", "gpt-oss", "vLLM default"): (0.9022, None),
    ("32/64/32", "gpt-oss", "vLLM default"): (0.9032, None),
    ("32/64/32", "gpt-oss", "FlashLB"): (0.9453, None),
}
"""Balancedness in-sample and on the next window when the peers were first measured, by shape, load and rival.

Next-window figures of gpt-oss are left out: they were means over eleven windows, the race scores the twelfth as well.
"""
