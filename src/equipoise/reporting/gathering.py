"""From a load and its placements to all that a report says of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from hashlib import blake2b
from importlib.metadata import version

import numpy as np

from equipoise.engines.starting import in_id_order
from equipoise.errors import ArgumentError, EquipoiseError
from equipoise.files.placements import FORMATS, check_writable, how_to_load
from equipoise.inspection import inspect_trace
from equipoise.placement import Placement
from equipoise.reporting.answering import answer
from equipoise.reporting.asked import Asked, NamedPlacement, Omissions
from equipoise.reporting.balances import draw_maps, find_hottest, weigh
from equipoise.reporting.choices import count_plans, weigh_moves, weigh_slots
from equipoise.reporting.replays import MOST_EXPLAINED, check_simulation, has_windows, replay, what_was_not_compared
from equipoise.reporting.report import Loading, Making, Report, Shape, Source
from equipoise.simulating.results import Simulation
from equipoise.trace import LoadTrace

ID_ORDER = "slots in id order"

_ENGINES = tuple(name for name in FORMATS if name != "json")


def gather(
    trace: LoadTrace,
    placements: Sequence[NamedPlacement],
    asked: Asked | None = None,
    *,
    simulation: Simulation | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Report:
    """Say of a load and its placements all that a report shows.

    Parameters
    ----------
    trace : LoadTrace
        One load a window.
    placements : sequence of NamedPlacement
        In the order in which they came: the last is judged, the first is what was before; one alone is held against slots in
        id order.
    asked : Asked, optional
        How.
    simulation : Simulation, optional
        Of this trace; default: policies and placements are replayed here.
    progress : callable
        Called about once a window of each part, :func:`count_steps` times.

    Raises
    ------
    ArgumentError
        When a placement is of another model or of other ranks, or the simulation of another trace; the mismatch is named.

    Notes
    -----
    About one plan a window for each policy, another on the last 200 windows, and five on the last 48 for slots counts: 48
    windows of 75 layers of 256 experts take four seconds.

    Examples
    --------
    >>> from equipoise import Cluster, plan
    >>> trace = LoadTrace([[[8, 4, 2, 2]], [[2, 2, 4, 8]], [[8, 4, 2, 2]]])
    >>> made = plan(trace, Cluster(2, 3)).placement
    >>> report = gather(trace, [NamedPlacement("this plan", made, is_planned=True)], Asked(policies=("last",)))
    >>> report.timeline.policies[0].name, [round(figure.value, 3) for figure in report.answer.figures]
    ('last', [0.923, 0.96, 1.0, 0.8, 0.889])
    """
    asked = asked or Asked()
    named = _with_before(trace, placements)
    _check_placements(trace, named)
    after = named[-1].placement
    if simulation is not None:
        check_simulation(simulation, trace, after.cluster)
    omissions: Omissions = []
    balance = weigh(trace, named, asked)
    timeline, losses = replay(trace, named, asked, simulation, omissions, progress)
    redundancy = weigh_slots(trace, after.cluster, asked, omissions, progress)
    moves = weigh_moves(trace, named[-2], after, asked, omissions)
    return Report(
        title=asked.name,
        answer=answer(balance, timeline, sum(after.cluster.alive), asked.locality),
        shape=_shape(trace, after, asked),
        balance=balance,
        maps=draw_maps(trace, named, asked),
        hottest=find_hottest(trace, after),
        timeline=timeline,
        losses=losses,
        redundancy=redundancy,
        moves=moves,
        making=_making(trace, asked, what_was_not_compared(simulation)),
        loading=tuple(_loading(engine, trace, after, asked) for engine in ([asked.engine] if asked.engine else _ENGINES)),
        omissions=tuple(omissions),
    )


def count_steps(trace: LoadTrace, simulation: Simulation | None = None) -> int:
    """Return about how often :func:`gather` calls ``progress``."""
    replays = 0
    if has_windows(trace):
        replays = min(trace.num_steps, MOST_EXPLAINED) + (trace.num_steps if simulation is None else 0)
    return replays + count_plans(trace)


def _with_before(trace: LoadTrace, placements: Sequence[NamedPlacement]) -> list[NamedPlacement]:
    if not placements:
        raise ArgumentError("no placements", "a report judges one at least", "plan one")
    if len(placements) > 1:
        return list(placements)
    start = in_id_order(placements[0].placement.cluster, trace.num_layers, trace.num_experts)
    return [NamedPlacement(ID_ORDER, start), placements[0]]


def _check_placements(trace: LoadTrace, named: Sequence[NamedPlacement]) -> None:
    for one in named:
        placement = one.placement
        if (placement.num_layers, placement.num_experts) != (trace.num_layers, trace.num_experts):
            raise ArgumentError(
                f"{one.name} has {placement.num_layers} layers of {placement.num_experts} experts",
                f"the load has {trace.num_layers} of {trace.num_experts}, so it is of another model",
                "report on a placement of the model that was recorded",
            )
    names = [one.name for one in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"{twice} is named twice", "each placement is shown once", "name each once")


def _shape(trace: LoadTrace, after: Placement, asked: Asked) -> Shape:
    cluster = after.cluster
    return Shape(
        layers=trace.num_layers,
        experts=trace.num_experts,
        windows=trace.num_steps,
        ranks=cluster.num_ranks,
        ranks_up=sum(cluster.alive),
        slots=cluster.num_slots,
        nodes=cluster.num_nodes,
        groups=asked.num_groups,
        locality=asked.locality,
        effort=asked.effort,
        dispatch=asked.dispatch,
    )


def fingerprint(trace: LoadTrace) -> str:
    """Return 128 bits of BLAKE2b over shape, type and tokens, in hexadecimal: the same for the same numbers on any machine."""
    load = np.ascontiguousarray(trace.load.astype(trace.load.dtype.newbyteorder("<"), copy=False))
    digest = blake2b(f"{list(load.shape)} {load.dtype.str} ".encode(), digest_size=16)
    digest.update(load.data.cast("B"))
    return digest.hexdigest()


def _making(trace: LoadTrace, asked: Asked, notes: tuple[str, ...]) -> Making:
    return Making(
        command=asked.command,
        versions=(
            ("equipoise", version("equipoise")),
            *((name, version(name)) for name in ("numpy", "numba")),
            ("Python", platform.python_version()),
        ),
        source=Source(
            name=asked.name,
            format="" if trace.origin is None else trace.origin.format,
            steps=asked.steps or f"{trace.num_steps} windows",
            tokens=float(trace.sum().sum(dtype=np.float64)),
            is_in_order=trace.is_in_order,
            fingerprint=fingerprint(trace),
            findings=(*(() if trace.origin is None else trace.origin.remarks), *inspect_trace(trace).findings, *notes),
        ),
        seed=asked.seed,
    )


def _loading(engine: str, trace: LoadTrace, after: Placement, asked: Asked) -> Loading:
    numbers = tuple(trace.layer_ids)
    is_counted = numbers == tuple(range(trace.num_layers))
    found = after.as_found(() if is_counted else numbers, asked.hidden_layers)
    out = f"placement{FORMATS[engine].endings[0]}"
    try:
        check_writable(engine, found)
    except EquipoiseError as error:
        return Loading(engine, (), str(error))
    command, path = asked.writing(engine, out)
    return Loading(engine, (command, how_to_load(path, engine, found)), "")
