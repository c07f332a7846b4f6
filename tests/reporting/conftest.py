"""The report that several tests look at."""

from __future__ import annotations

import pytest

from equipoise.reporting.asked import Asked
from equipoise.reporting.gathering import gather
from reported import make_trace, planned


@pytest.fixture(scope="session")
def small():
    """Return a trace, its placement and its report."""
    trace = make_trace(["a/0", "a/1", "a/2", "b/0", "b/1", "c"])
    made = planned(trace)
    return trace, made, gather(trace, [made], Asked(name="small", expert_bytes=2e6))
