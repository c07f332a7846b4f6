"""A sweep on a Ray cluster: the same call as on local cores, inside joblib's own configuration.

    pip install ray
    python examples/sweep_on_ray.py TRACE.npz FOLDER

Started without an address, Ray runs on this machine; with RAY_ADDRESS set, on that cluster, where TRACE and FOLDER must be
readable and writable under the same names. Killed, it goes on where it stopped. Dask is the same with
``joblib.parallel_config(backend="dask")`` inside a ``dask.distributed.Client``.
"""

from __future__ import annotations

import sys

import joblib
import ray
from ray.util.joblib import register_ray

from equipoise import Cluster
from equipoise.simulating.sweeping import sweep


def main(trace: str, folder: str) -> None:
    """Sweep two policies, two slots counts and two intervals over a trace, and print next-window balance."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        cells = sweep({"trace": trace}, Cluster(8, 5), ["last", "auto"], slots=[40, 48], every=[1, 4], folder=folder)
    for cell in cells:
        print(f"{cell.policy:30} {cell.found.policies[0].mean_balancedness:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
