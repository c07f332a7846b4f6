"""warm_up(): no kernel of schedules compiles for a second kind of array."""

from __future__ import annotations

import pytest

from equipoise.kernels import edging, sequencing, sourcing
from equipoise.migrating.recovering import recover
from equipoise.migrating.scheduling import schedule_moves
from equipoise.migrating.warming import warm_up
from migrating.changes import random_change


@pytest.mark.compiled
def test_one_signature_a_kernel():
    """Whatever was scheduled after it."""
    warm_up()
    old, new = random_change(0)
    for mode in ("duplex", "one-peer"):
        for staging in (None, 1):
            recover(schedule_moves(old, new, mode=mode, staging=staging), old, new, (1, 1), [2])
    for kernel in (edging.colour_transfers, edging.colour_pairs, sourcing.choose_sources, sequencing.sequence):
        assert len(kernel.signatures) == 1


def test_interpreted(monkeypatch):
    """Without a compiler there is nothing to do."""
    monkeypatch.setattr("equipoise.migrating.warming.is_interpreted", lambda: True)
    monkeypatch.setattr("equipoise.migrating.warming.schedule_moves", None)
    warm_up()
