"""Which part of a trace a command works on, and under which policies."""

from __future__ import annotations

from equipoise.cli.output import working
from equipoise.errors import ArgumentError
from equipoise.placement import Placement
from equipoise.simulating.policies import FixedPolicy, Policy, make_policy
from equipoise.trace import LoadTrace


def read_part(load: str, window: int | None, last: int | None, *, quiet: bool) -> tuple[LoadTrace, str]:
    """Read a trace and cut it: windows of ``window`` steps, or its last ``last`` steps, or all; and say so in words."""
    if window is not None and last is not None:
        raise ArgumentError(f"--window {window} and --last {last}", "they exclude each other", "give one of them")
    with working("reading", quiet=quiet):
        trace = LoadTrace.read(load)
    if window is not None:
        windows = trace.windows(window)
        return windows, f"{windows.num_steps} windows of {window} step{'s' if window > 1 else ''}"
    part = trace if last is None else trace.last(last)
    return part, f"{part.num_steps} of {trace.num_steps} steps"


_PLACEMENT_ENDINGS = (".json", ".npz")


def read_policy(text: str, **defaults: object) -> Policy:
    """Return a policy from an option: a placement file, or a policy by parts with the command's settings as defaults."""
    if text.lower().endswith(_PLACEMENT_ENDINGS):
        return FixedPolicy(Placement.read(text), text)
    return make_policy(text, **defaults)
