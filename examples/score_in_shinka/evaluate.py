"""ShinkaEvolve's evaluation: equipoise runs and judges a program, on the load that ships.

ShinkaEvolve starts this file with ``--program_path`` and ``--results_dir`` and reads ``metrics.json`` and ``correct.json``. Its
``run_shinka_eval`` imports the program that it is given: it is given this file, and ``judge`` runs the candidate in a process
of its own, with limits. Whatever the candidate does, the answer is a score.
"""

import argparse

from equipoise import LoadTrace
from equipoise.errors import EquipoiseError
from equipoise.scoring.judging import score_programs
from equipoise.scoring.limits import Limits
from equipoise.scoring.setups import Setup

SETUP = Setup(num_slots=40, num_groups=1, num_nodes=1, num_ranks=8)
LIMITS = Limits(call_seconds=2.0, total_seconds=60.0)


def judge(candidate):
    """Return ShinkaEvolve's metrics; the score is the balancedness on the windows after those planned on, 0 if refused."""
    try:
        (score,) = score_programs([candidate], LoadTrace.example(), SETUP, protocols=["equipoise"], limits=LIMITS)
    except EquipoiseError as error:
        return refused(str(error))
    if not score.is_accepted:
        return refused(f"{score.verdict}\n{score.run.output}".rstrip())
    ours = score.scores["equipoise"]
    seconds = score.cold_seconds if score.warm_seconds is None else score.warm_seconds
    public = {"worst_layer": ours.worst_layer, "in_sample": ours.in_sample, "moves": ours.moves}
    private = {"milliseconds": 1e3 * seconds}
    return {"combined_score": ours.score, "public": public, "private": private, "text_feedback": str(score.verdict)}


def refused(verdict):
    """Return the metrics of a program that is not accepted."""
    return {"combined_score": 0.0, "public": {}, "private": {}, "text_feedback": verdict}


def is_valid(metrics):
    """Say whether a program was accepted, and why not."""
    is_accepted = metrics["text_feedback"] == "accepted"
    return is_accepted, None if is_accepted else metrics["text_feedback"]


def main(program_path, results_dir):
    """Write what ShinkaEvolve reads."""
    from shinka.core import run_shinka_eval

    run_shinka_eval(
        program_path=__file__,
        results_dir=results_dir,
        experiment_fn_name="judge",
        num_runs=1,
        get_experiment_kwargs=lambda run: {"candidate": program_path},
        validate_fn=is_valid,
        aggregate_metrics_fn=lambda results: dict(results[0]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program_path", default="initial.py")
    parser.add_argument("--results_dir", default="results")
    arguments = parser.parse_args()
    main(arguments.program_path, arguments.results_dir)
