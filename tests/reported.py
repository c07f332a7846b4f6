"""A small trace and its plans, for tests of reports."""

from __future__ import annotations

import numpy as np

from equipoise import Cluster, LoadTrace, plan
from equipoise.reporting.asked import NamedPlacement

CLUSTER = Cluster(4, 3)


def make_trace(labels=None, steps=6, is_in_order=True):
    """Return seeded windows of 3 layers of 8 experts, numbered 3, 4 and 7."""
    load = np.random.default_rng(3).integers(1, 500, (steps, 3, 8)) ** 2
    return LoadTrace(load, [3, 4, 7], labels, is_in_order=is_in_order)


def planned(trace, name="this plan"):
    """Return a plan for the whole trace, by name."""
    return NamedPlacement(name, plan(trace, CLUSTER).placement, is_planned=True)
