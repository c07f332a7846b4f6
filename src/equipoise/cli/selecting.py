"""Which part of a trace a command works on, and under which policies."""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.checks import check_choice
from equipoise.cli.output import counted, working
from equipoise.errors import ArgumentError
from equipoise.files.loads import format_names
from equipoise.files.placements import AUTO, FORMATS, read_any
from equipoise.models import find_model
from equipoise.placement import Placement
from equipoise.simulating.naming import make_policy
from equipoise.simulating.policies import FixedPolicy, Policy
from equipoise.trace import LoadTrace


@dataclass(frozen=True)
class Reading:
    """How a load is read: what --format, --model (or its numbers), --active and --in-order say of it."""

    file_format: str = "auto"
    num_experts: int | None = None
    layer_ids: tuple[int, ...] = ()
    active: str | None = None
    in_order: bool = False

    @classmethod
    def of(cls, file_format: str, model: str | None, active: str | None, in_order: bool) -> Reading:
        """Make one from the options that commands share."""
        check_choice("--format", file_format, (AUTO, *format_names()))
        if model is None:
            return cls(file_format, active=active, in_order=in_order)
        named = find_model(model)
        return cls(file_format, named.num_experts, named.moe_layer_ids, active, in_order)

    def read(self, load: str) -> LoadTrace:
        """Read a load, whether or not it has as many experts as the model."""
        return LoadTrace.read(
            load,
            self.file_format,
            num_experts=self.num_experts,
            layer_ids=self.layer_ids,
            active=self.active,
            is_in_order=True if self.in_order else None,
        )

    def read_fitting(self, load: str) -> LoadTrace:
        """Read a load; refuse one with other experts than the model."""
        trace = self.read(load)
        if self.num_experts not in (None, trace.num_experts):
            raise ArgumentError(
                f"{load} has {trace.num_experts} experts a layer",
                f"the model has {self.num_experts}",
                "name the model that was recorded, and with --active the placement if slots were counted",
            )
        return trace

    def placement(self, path: str, ranks: int | None = None) -> Placement:
        """Read a placement of the model, of any program; ``ranks`` are for files that do not say."""
        found = read_any(path, layer_ids=self.layer_ids, num_experts=self.num_experts)
        return Placement.from_found(found, num_ranks=ranks if found.num_ranks is None else None)


AS_IT_IS = Reading()


def read_part(
    load: str, window: int | None, last: int | None, *, quiet: bool, reading: Reading = AS_IT_IS
) -> tuple[LoadTrace, str]:
    """Read a trace and cut it: windows of ``window`` steps, or its last ``last`` steps, or all; and say so in words."""
    if window is not None and last is not None:
        raise ArgumentError(f"--window {window} and --last {last}", "they exclude each other", "give one of them")
    with working("reading", quiet=quiet):
        trace = reading.read_fitting(load)
    if window is not None:
        return cut(trace, window)
    part = trace if last is None else trace.last(last)
    return part, f"{part.num_steps} of {counted(trace.num_steps, 'step')}"


def cut(trace: LoadTrace, window: int, whole: str = "") -> tuple[LoadTrace, str]:
    """Add up windows of ``window`` steps; say so in words, with the ``whole`` they are cut from and what is left over."""
    windows = trace.windows(window)
    left_over = trace.num_steps % window
    rest = f", {counted(left_over, 'step')} at the end left out" if left_over else ""
    of = f" from {whole}" if whole else ""
    return windows, f"{counted(windows.num_steps, 'window')} of {counted(window, 'step')}{of}{rest}"


_PLACEMENT_ENDINGS = tuple(ending for known in FORMATS.values() for ending in known.endings)


def read_policy(text: str, ranks: int, reading: Reading = AS_IT_IS, **defaults: object) -> Policy:
    """Return a policy from an option: a placement file, or a policy by parts with the command's settings as defaults."""
    if text.lower().endswith(_PLACEMENT_ENDINGS):
        return FixedPolicy(reading.placement(text, ranks), text)
    return make_policy(text, **defaults)
