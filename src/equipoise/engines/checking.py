"""make_setup() and check(): what is known about an engine, put to one setup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from equipoise.checks import check_choice
from equipoise.engines import sglang, tensorrt_llm, vllm, vllm_ascend
from equipoise.engines.findings import LEVELS, Finding, note
from equipoise.engines.memory import Memory, memory_of
from equipoise.engines.options import Option, Value, parse_options
from equipoise.engines.setups import Rule, Setup
from equipoise.errors import ArgumentError
from equipoise.models import Model
from equipoise.placement import Placement


@dataclass(frozen=True)
class Engine:
    """An engine's rules and options.

    ``redundancy`` names the option that says how many slots there are beyond experts; ``assumed`` is taken as set where
    balancing is asked about. ``is_hierarchical``: whether its own policy keeps groups on nodes. ``interval``: steps from one
    rebalance to the next.
    """

    name: str
    version: str
    options: tuple[Option, ...]
    rules: tuple[Rule, ...]
    redundancy: str
    assumed: Mapping[str, Value]
    is_hierarchical: Callable[[Setup], bool]
    interval: Callable[[Setup], int]


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "vllm", vllm.VERSION, vllm.OPTIONS, vllm.RULES, vllm.REDUNDANCY, vllm.ASSUMED, vllm.is_hierarchical, vllm.interval
        ),
        Engine(
            "sglang",
            sglang.VERSION,
            sglang.OPTIONS,
            sglang.RULES,
            sglang.REDUNDANCY,
            sglang.ASSUMED,
            sglang.is_hierarchical,
            sglang.interval,
        ),
        Engine(
            "tensorrt-llm",
            tensorrt_llm.VERSION,
            tensorrt_llm.OPTIONS,
            tensorrt_llm.RULES,
            tensorrt_llm.REDUNDANCY,
            tensorrt_llm.ASSUMED,
            tensorrt_llm.is_hierarchical,
            tensorrt_llm.interval,
        ),
        Engine(
            "vllm-ascend",
            vllm_ascend.VERSION,
            vllm_ascend.OPTIONS,
            vllm_ascend.RULES,
            vllm_ascend.REDUNDANCY,
            vllm_ascend.ASSUMED,
            vllm_ascend.is_hierarchical,
            vllm_ascend.interval,
        ),
    )
}
"""Engines by name."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a setup: ``findings``, errors first, and ``memory``, None where the model is not known."""

    findings: tuple[Finding, ...]
    memory: Memory | None

    def count(self, level: str) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def make_setup(
    engine: str,
    *,
    num_ranks: int | None = None,
    redundant: int | None = None,
    num_nodes: int | None = None,
    num_experts: int | None = None,
    num_groups: int | None = None,
    model: Model | None = None,
    options: Iterable[str] = (),
    placement: Placement | None = None,
    is_refused: bool = False,
) -> Setup:
    """Return what is to run where, from what is said and what follows from it.

    Parameters
    ----------
    engine : str
        One of ``ENGINES``.
    num_ranks : int, optional
        GPUs of the expert-parallel group. Default: those of the placement.
    redundant : int, optional
        Slots over all ranks less experts. Default: the placement's, or what ``options`` say, or 0.
    num_nodes : int, optional
        Default: those of the placement, or 1.
    num_experts, num_groups : int, optional
        Default: the model's, or the placement's and 1.
    model : Model, optional
        What runs.
    options : iterable of str
        The engine's own, as ``name=value``.
    placement : Placement, optional
        What it is to load at its start.
    is_refused : bool
        Whether a placement was given that cannot be read: nothing is said then of what it alone would tell.

    Raises
    ------
    ArgumentError
        When the engine is not known, or ranks or experts are not said, or two arguments say different things.
    """
    check_choice("engine", engine, tuple(ENGINES))
    known = ENGINES[engine]
    given, refused = parse_options(known.options, options, known.version)
    placed = None if placement is None else placement.cluster
    experts = _said(
        "experts",
        "--model or --experts",
        num_experts,
        None if model is None else model.num_experts,
        None if placement is None else placement.num_experts,
    )
    if placement is not None and redundant is None:
        redundant = placement.cluster.num_slots - placement.num_experts
    # A placement serves without EPLB in SGLang, so none is assumed there.
    assumed = {} if (placement is not None or is_refused) and engine == "sglang" else known.assumed
    return Setup(
        engine=engine,
        num_ranks=_said("ranks", "--ep", num_ranks, None if placed is None else placed.num_ranks),
        num_experts=experts,
        redundant=_agreed_redundancy(known, given, redundant, experts),
        num_nodes=_said("nodes", "--nodes", num_nodes, None if placed is None else placed.num_nodes, 1),
        num_groups=_said("groups", "--groups", num_groups, None if model is None else model.num_groups, 1),
        model=model,
        options={option.name: option.default for option in known.options} | dict(assumed) | given,
        given=frozenset(given),
        refused=tuple(refused),
        placement=placement,
        is_refused=is_refused,
        is_redundancy_known=not is_refused or redundant is not None or known.redundancy in given,
    )


def check(setup: Setup) -> Diagnosis:
    """Check a setup, or a placement, against what its engine does.

    Examples
    --------
    >>> from equipoise.models import find_model
    >>> found = check(make_setup("vllm", num_ranks=32, redundant=30, model=find_model("deepseek-v3")))
    >>> print(found.findings[0].next_step)
    take 0 or 32 redundant, or 26 ranks
    """
    engine = ENGINES[setup.engine]
    found = [*setup.refused, *(finding for rule in engine.rules for finding in rule(setup)), *_assumed(engine, setup)]
    ranked = sorted(found, key=lambda finding: LEVELS.index(finding.level))
    return Diagnosis(tuple(ranked), memory_of(setup))


def _said(what: str, option: str, *values: int | None) -> int:
    """Return the first that is said, or ask for it."""
    for value in values:
        if value is not None:
            return value
    raise ArgumentError(f"the number of {what} is not said", "the rules are about it", f"add {option}")


def _agreed_redundancy(engine: Engine, given: Mapping[str, Value], redundant: int | None, experts: int) -> int:
    """Return how many slots there are beyond experts, which an option may say too."""
    told = given.get(engine.redundancy)
    if told is None:
        return 0 if redundant is None else redundant
    said = int(told) - experts if engine.redundancy == "num_slots" else int(told)
    if redundant is not None and said != redundant and engine.name != "vllm-ascend":
        raise ArgumentError(
            f"{engine.redundancy} is {told}, which makes {said} redundant, and {redundant} are said elsewhere",
            "they must agree",
            "give one of them",
        )
    return said if redundant is None else redundant


def _assumed(engine: Engine, setup: Setup) -> Sequence[Finding]:
    names = [name for name in engine.assumed if name not in setup.given and setup.options[name]]
    if not names:
        return ()
    return (
        note(
            f"{' and '.join(names)} taken as set", "balancing is off by default", "set them when you start it", engine.version
        ),
    )
