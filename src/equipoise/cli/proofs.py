"""``equipoise plan --prove``: what an exact solver proves or improves, layer by layer."""

from __future__ import annotations

from equipoise.cli.output import percent, progress_bar, table
from equipoise.cli.shaping import whole_numbers
from equipoise.errors import ArgumentError
from equipoise.planning.planner import Plan
from equipoise.planning.proving import WORST, LayerProof, prove
from equipoise.planning.solver import check_solver


def check_provable(is_wanted: bool, layers: str, uncounted: dict[str, bool]) -> None:
    """Refuse proofs of what a solver does not count (options by name, whether given), without it, and layers without proofs."""
    if not is_wanted:
        if layers:
            raise ArgumentError("--prove-layers without --prove", "it says which layers to prove", "add --prove")
        return
    for option, is_given in uncounted.items():
        if is_given:
            raise ArgumentError(
                f"--prove with {option}", "an exact solver counts neither moves nor replicas", f"leave {option} or --prove out"
            )
    check_solver()


def prove_layers_of(result: Plan, layers: str, seconds: float, *, quiet: bool) -> tuple[Plan, tuple[LayerProof, ...]]:
    """Prove the layers named, or those with the largest gap, behind a progress bar."""
    named = whole_numbers("--prove-layers", layers)
    total = len(named) if named else min(WORST, result.placement.num_layers)
    with progress_bar("proving", total, quiet=quiet) as advance:
        return prove(result, result.load, layers=named or None, seconds=seconds, progress=advance)


def show_proofs(proofs: tuple[LayerProof, ...]) -> None:
    """Print what was proven of each layer; nothing where none was tried."""
    if not proofs:
        return
    table(
        "Proofs by an exact solver, stopped by the clock: another run may find more or less",
        ["layer", "gap before", "gap now", "bound rose by", "rank load fell by", ""],
        [
            [
                str(proof.layer),
                percent(_rise(proof.bound_before, proof.largest_before)),
                percent(proof.gap),
                percent(_rise(proof.bound_before, proof.bound)),
                percent(-_rise(proof.largest_before, proof.largest)),
                "optimal" if proof.is_optimal else "open",
            ]
            for proof in proofs
        ],
    )


def _rise(before: float, now: float) -> float:
    return now / before - 1.0 if before > 0 else 0.0
