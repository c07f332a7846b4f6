"""OpenEvolve's evaluator: equipoise runs and judges a program, on the load that ships.

OpenEvolve imports this file and calls ``evaluate`` with the path of a candidate. The candidate runs in a process of its own,
with limits; whatever it does, the answer is a score.
"""

from equipoise import LoadTrace
from equipoise.errors import EquipoiseError
from equipoise.scoring.judging import score_programs
from equipoise.scoring.limits import Limits
from equipoise.scoring.setups import Setup

SETUP = Setup(num_slots=40, num_groups=1, num_nodes=1, num_ranks=8)
LIMITS = Limits(call_seconds=2.0, total_seconds=60.0)


def evaluate(program_path):
    """Return OpenEvolve's result: figures to select by, and text for the next prompt."""
    from openevolve.evaluation_result import EvaluationResult

    metrics, artifacts = judge(program_path)
    return EvaluationResult(metrics=metrics, artifacts=artifacts)


def judge(program_path):
    """Return figures and text; the score is the balancedness on the windows after those planned on, 0 for what is refused."""
    try:
        (score,) = score_programs([program_path], LoadTrace.example(), SETUP, protocols=["equipoise"], limits=LIMITS)
    except EquipoiseError as error:
        return {"combined_score": 0.0}, {"verdict": str(error)}
    artifacts = {"verdict": str(score.verdict)}
    if score.run.output:
        artifacts["output"] = score.run.output
    if not score.is_accepted:
        return {"combined_score": 0.0}, artifacts
    ours = score.scores["equipoise"]
    seconds = score.cold_seconds if score.warm_seconds is None else score.warm_seconds
    metrics = {
        "combined_score": ours.score,
        "worst_layer": ours.worst_layer,
        "in_sample": ours.in_sample,
        "moves": ours.moves,
        "milliseconds": 1e3 * seconds,
    }
    return metrics, artifacts
