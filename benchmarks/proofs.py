"""How far plans are from the best possible: our bounds and plans beside an exact solver's, on real layers named by a rule.

    make bench-proofs                             # loads from ../shared/data/expert-load, or EQUIPOISE_LOADS

The layers are 0, 15, 30, 45 and 60 of GLM's window 2, and 0, 5, 10, 15 and 20 of gpt-oss's first 16 steps. All figures are
ratios to the ideal. The solver stops by the clock, so another run may prove more or less; what it proves holds.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from equipoise import Cluster, plan
from equipoise.planning.proving import LayerProof, prove

ROOT = Path(__file__).parents[1]
LOADS = Path(os.environ.get("EQUIPOISE_LOADS", ROOT.parent / "shared" / "data" / "expert-load"))
GLM = LOADS / "glm52-reap-saliency" / "glm52_6domains.npz"
GPT_OSS = LOADS / "gpt-oss-20b-decode" / "gptoss20b_decode_steps.npz"
SECONDS = float(os.environ.get("EQUIPOISE_PROOF_SECONDS", "10"))


@dataclass(frozen=True)
class Shape:
    """Slots on ranks, and the load's file."""

    experts: int
    slots: int
    ranks: int

    @property
    def name(self) -> str:
        """As in issue and tables: experts/slots/ranks."""
        return f"{self.experts}/{self.slots}/{self.ranks}"

    def load(self) -> np.ndarray:
        """Return the five layers, [5, experts]."""
        if self.experts == 256:
            return np.load(GLM)["load"][2][[0, 15, 30, 45, 60]]
        return np.load(GPT_OSS)["load"][:16].sum(axis=0)[[0, 5, 10, 15, 20]]


SHAPES = (
    Shape(256, 288, 144),
    Shape(256, 320, 160),
    Shape(256, 288, 96),
    Shape(256, 288, 72),
    Shape(256, 288, 32),
    Shape(32, 48, 16),
    Shape(32, 64, 32),
    Shape(32, 40, 8),
    Shape(32, 36, 4),
)


def main() -> None:
    """Prove and print; exits 1 where a bound of ours exceeds what the solver reached."""
    for file in (GLM, GPT_OSS):
        if not file.exists():
            sys.exit(f"benchmarks: {file} is missing; set EQUIPOISE_LOADS to the folder that holds {file.parent.name}")
    table = Table(title=f"Effort best and CP-SAT, {SECONDS:g} s a layer; ratios to the ideal")
    for column in (
        "experts/slots/ranks",
        "layer",
        "default",
        "best",
        "our bound",
        "CP-SAT reached",
        "CP-SAT bound",
        "best's gap",
        "",
    ):
        table.add_column(column, justify="right")
    wrong = 0
    for shape in SHAPES:
        load = shape.load()
        cluster = Cluster(shape.ranks, shape.slots // shape.ranks)
        usual, long = plan(load, cluster), plan(load, cluster, effort="best")
        _, proofs = prove(replace(long, bound=long.ideal), load, layers=range(len(load)), seconds=SECONDS)
        for proof, ours in zip(proofs, long.bound, strict=True):
            wrong += ours > proof.largest * (1 + 1e-9) or (proof.is_optimal and ours > proof.bound * (1 + 1e-7))
            table.add_row(shape.name, str(proof.layer), *figures(proof, usual.largest, ours, long.ideal))
        table.add_section()
    Console(width=128).print(table)
    sys.exit(int(wrong > 0))


def figures(proof: LayerProof, usual: np.ndarray, ours: float, ideal: np.ndarray) -> list[str]:
    """Return a row's cells; the solver is told the ideal only, so that its bound stands beside ours."""
    values = (usual[proof.layer], proof.largest_before, ours, proof.largest, proof.bound)
    ratios = [f"{value / ideal[proof.layer]:.4f}" for value in values]
    gap = proof.largest_before / max(proof.bound, ours) - 1
    return [*ratios, f"{100 * gap:.2f} %", "optimal" if proof.is_optimal else ""]


if __name__ == "__main__":
    main()
