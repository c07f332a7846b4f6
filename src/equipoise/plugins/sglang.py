"""SGLang's balancing call, and the plug-in that puts this planner behind it.

A physical expert is a slot, a logical expert an expert, as everywhere at the border. Light to import: SGLang loads this in
every process, whether the plug-in is on or not.
"""

from __future__ import annotations

import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any

from equipoise.plugins.settings import SWITCH, Settings, is_on, read_settings

if TYPE_CHECKING:
    from equipoise.kernels.types import Ints
    from equipoise.plugins.agreeing import Group
    from equipoise.plugins.answering import Answerer
    from equipoise.plugins.deciding import Call
    from equipoise.tensors import Array

log = logging.getLogger("sglang.equipoise")

TARGET = "sglang.srt.eplb.eplb_algorithms.rebalance_experts"
PARAMETERS = (
    "tokens_per_expert",
    "num_physical_experts",
    "num_local_physical_experts",
    "num_groups",
    "num_nodes",
    "algorithm",
)
ALGORITHMS = tuple(
    f"{kind}{suffix}" for kind in ("deepseek", "deepseek_vec", "elasticity_aware") for suffix in ("", "_hierarchical")
)

_answerer: Answerer | None = None


def rebalance_experts(
    tokens_per_expert: Any,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: Any,
) -> tuple[Any, Any, Any]:
    """Balance experts over GPUs, called like SGLang's function of this name.

    Which experts are where now is asked of SGLang's own metadata, where there are some. Settings are read from the environment
    at the first call, if the plug-in did not read them before.

    Parameters
    ----------
    tokens_per_expert : tensor or array [steps, hidden layers, num_logical_experts]
        Tokens, >= 0; rows of dense layers are zero.
    num_physical_experts, num_local_physical_experts : int
        Slots over all ranks, and of each.
    num_groups : int or None
        Groups of experts.
    num_nodes : int
        Nodes.
    algorithm : EplbAlgorithm or str
        Those that end in ``_hierarchical`` keep groups on nodes, ``elasticity_aware`` ones leave out ranks that are down.

    Returns
    -------
    physical_to_logical_map : int64 [hidden layers, num_physical_experts]
        Valid in every row; slots of ranks that are down hold expert 0, as SGLang has it.
    logical_to_physical_map : int64 [hidden layers, num_logical_experts, largest count], padded with -1
    expert_count : int64 [hidden layers, num_logical_experts]
        Tensors on the CPU for a tensor, else arrays.

    Raises
    ------
    ArgumentError
        When arguments break a rule, and there is no stock function that could answer.

    Examples
    --------
    >>> import numpy as np
    >>> tokens = np.array([[[0, 0, 0], [9, 4, 2]]])
    >>> phy2log, log2phy, count = rebalance_experts(tokens, 4, 2, None, 1, "deepseek")
    >>> phy2log.tolist(), count.tolist()
    ([[0, 1, 2, 0], [0, 1, 0, 2]], [[2, 1, 1], [2, 1, 1]])
    """
    return _rebalance(
        None, tokens_per_expert, num_physical_experts, num_local_physical_experts, num_groups, num_nodes, algorithm
    )


def hook(stock: Any, *args: Any, **kwargs: Any) -> Any:
    """Answer instead of ``stock``, which answers where arguments break a rule: an AROUND hook."""
    given = inspect.signature(rebalance_experts).bind(*args, **kwargs).arguments
    return _rebalance(stock, *(given[name] for name in PARAMETERS))


def register() -> None:
    """Put this planner behind SGLang's balancing call; the entry point of ``sglang.srt.plugins``.

    Does nothing unless ``EQUIPOISE_PLUGIN`` is set to 1, and nothing twice. Whatever fails is logged, and SGLang keeps its own
    algorithms.
    """
    try:
        if is_on():
            _install()
    except Exception:
        log.exception("equipoise: not installed, SGLang keeps its own algorithms")


def _install() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if any(registered[1] is hook for registered in HookRegistry._hooks.get(TARGET, ())):
        return
    _check_engine()
    settings = read_settings()
    from equipoise.plugins.warming import warm_up

    warm_up(settings)
    global _answerer
    _answerer = _make_answerer(settings)
    HookRegistry.register(TARGET, hook, HookType.AROUND)
    log.info("equipoise: answers %s (%s=1), settings=%s %s", TARGET, SWITCH, settings.digest[:16], settings)


def _check_engine() -> None:
    from sglang.srt.eplb import eplb_algorithms, expert_location

    from equipoise.errors import NotSupportedError

    found = tuple(inspect.signature(eplb_algorithms.rebalance_experts).parameters)
    if found != PARAMETERS or not callable(getattr(expert_location, "get_global_expert_location_metadata", None)):
        raise NotSupportedError(
            f"this SGLang's algorithms take {', '.join(found)}",
            f"this version answers {', '.join(PARAMETERS)}, and asks expert_location for the map in use",
            "take an SGLang that is known, or another equipoise",
        )


def _rebalance(stock: Any, *arguments: Any) -> tuple[Any, Any, Any]:
    import numpy as np

    from equipoise.errors import ArgumentError
    from equipoise.plugins.answering import Refusal
    from equipoise.tensors import like

    global _answerer
    if _answerer is None:
        _answerer = _make_answerer(read_settings())
    settings = _answerer.settings
    found = _answerer.answer(lambda: _read(settings, *arguments))
    if isinstance(found, Refusal):
        if stock is None:
            raise ArgumentError(found.reason, "there is no stock function to answer instead", "correct the arguments")
        answer: tuple[Any, Any, Any] = stock(**dict(zip(PARAMETERS, arguments, strict=True)))
        return answer
    give_back = like(arguments[0], on_its_device=False)
    phy2log, log2phy, count = (give_back(array) for array in _maps(found, np.shape(arguments[0])[-1]))
    return phy2log, log2phy, count


def _read(
    settings: Settings, tokens: Any, num_slots: int, slots_per_rank: int, num_groups: int | None, num_nodes: int, algorithm: Any
) -> Call:
    from equipoise.checks import check_choice, check_integer
    from equipoise.errors import ArgumentError
    from equipoise.plugins.deciding import Call
    from equipoise.tensors import as_array, is_tensor

    tokens = tokens if is_tensor(tokens) else as_array("tokens_per_expert", tokens)
    name = getattr(algorithm, "name", algorithm)
    check_choice("algorithm", name, ALGORITHMS)
    num_ranks = check_integer("num_physical_experts", num_slots) // check_integer("num_local_physical_experts", slots_per_rank)
    if num_ranks * slots_per_rank != num_slots:
        raise ArgumentError(
            f"{num_slots} physical experts, {slots_per_rank} a rank", "ranks must divide them", "take a multiple"
        )
    if tokens.ndim != 3:
        raise ArgumentError(
            f"tokens_per_expert has shape {list(tokens.shape)}", "it must be [steps, layers, experts]", "add an axis"
        )
    return Call(
        _add_up(tokens),
        num_slots,
        num_ranks,
        check_integer("num_nodes", num_nodes),
        num_groups,
        name.endswith("_hierarchical"),
        _in_use(),
        _alive(name, num_ranks),
        _windows(tokens, settings),
    )


def _add_up(tokens: Any) -> Array:
    """Add up steps: where they are for whole numbers, which no order changes; in double precision on the CPU for others."""
    from equipoise.tensors import as_array, is_tensor

    if is_tensor(tokens) and not tokens.is_floating_point() and tokens.device.type != "cpu":
        tokens = tokens.sum(dim=0, keepdim=True)
    array = as_array("tokens_per_expert", tokens)
    total: Array = array.sum(axis=0)
    return total


def _in_use() -> Array | None:
    """Return the map in use, [hidden layers, slots]; None before SGLang has one."""
    from equipoise.tensors import as_array

    module = sys.modules.get("sglang.srt.eplb.expert_location")
    metadata = None if module is None else module.get_global_expert_location_metadata()
    return None if metadata is None else as_array("physical_to_logical_map", metadata.physical_to_logical_map_cpu)


def _alive(algorithm: str, num_ranks: int) -> tuple[bool, ...]:
    """Return which ranks are up; empty for all."""
    from equipoise.errors import ArgumentError

    if not algorithm.startswith("elasticity_aware"):
        return ()
    module = sys.modules.get("sglang.srt.elastic_ep.elastic_ep")
    if module is None:
        return ()
    state = module.ElasticEPStateManager.instance()
    active = module.ElasticEPStateManager.healthy_rank_state() if state is None else state.active_ranks
    alive = tuple(bool(up) for up in active.tolist())
    # Behind the ranks there are places kept for those that may join one day (--max-ep-size), which are down.
    if len(alive) < num_ranks or any(alive[num_ranks:]):
        raise ArgumentError(f"{len(alive)} ranks are known to be up or down", f"there are {num_ranks}", "wait for the others")
    return alive[:num_ranks]


def _windows(tokens: Any, settings: Settings) -> Array | None:
    """Return steps in the order of time, added up to windows; None where no forecast is wanted, or their order is not known."""
    import numpy as np

    from equipoise.tensors import as_array

    newest = None if settings.forecast is None else _next_index(len(tokens))
    if newest is None:
        return None
    steps = np.roll(as_array("tokens_per_expert", tokens), -newest, axis=0)
    written = np.flatnonzero(steps.any(axis=(1, 2)))
    if written.size == 0:
        return None
    steps = steps[written[0] :]
    if len(steps) < settings.forecast_windows:
        return None
    begin = np.arange(settings.forecast_windows) * len(steps) // settings.forecast_windows
    windows: Array = np.add.reduceat(steps, begin, axis=0, dtype=np.float64)
    return windows


def _next_index(num_steps: int) -> int | None:
    """Return where SGLang's recorder writes next, which is where its oldest step is; None where that is not known.

    The recorder empties its ring without going back to the start, so a ring does not begin with its oldest step.
    """
    module = sys.modules.get("sglang.srt.eplb.expert_distribution")
    if module is None:
        return None
    recorder = module.get_global_expert_distribution_recorder()
    ring = getattr(getattr(recorder, "_accumulator", None), "_global_physical_count_of_buffered_step", None)
    index = getattr(ring, "_curr_index", None)
    buffer = getattr(ring, "_buffer", None)
    return index if isinstance(index, int) and buffer is not None and len(buffer) == num_steps else None


def _maps(slots: Ints, num_experts: int) -> tuple[Ints, Ints, Ints]:
    """Return the three maps that SGLang expects of expert_of_slot [layers, slots]."""
    import numpy as np

    from equipoise.placement import ABSENT
    from equipoise.plugins.inheriting import count_replicas

    layers, num_slots = slots.shape
    count = count_replicas(slots, num_experts)
    in_order = np.argsort(slots.astype(np.int16) if num_experts < 2**15 else slots, axis=1, kind="stable")
    num_filled = count.sum(axis=1)
    if num_filled.min() < num_slots:
        in_order = in_order[np.arange(num_slots) >= (num_slots - num_filled)[:, np.newaxis]]
    most, each = int(count.max()), count.ravel()
    begin = np.arange(each.size) * most - (np.cumsum(each) - each)
    log2phy = np.full(each.size * most, ABSENT, np.int64)
    log2phy[np.repeat(begin, each) + np.arange(num_filled.sum())] = in_order.ravel()
    return np.maximum(slots, 0), log2phy.reshape(layers, num_experts, most), count


def _make_answerer(settings: Settings) -> Answerer:
    from equipoise.plugins.answering import Answerer

    return Answerer(settings, "sglang", log, lambda: _find_group(settings.wait_seconds))


def _find_group(wait_seconds: float) -> Group | None:
    """Return the ranks that are up; after an elastic scaling the first one alone, whose answer SGLang itself broadcasts.

    None where rank 0 is down: the store that ranks share went with it.
    """
    from equipoise.plugins.agreeing import Group, world

    group = world(wait_seconds)
    module = sys.modules.get("sglang.srt.elastic_ep.elastic_ep")
    state = None if module is None else module.ElasticEPStateManager.instance()
    if group is None or state is None:
        return group
    if state.has_scaled:
        return Group(group.store, 0, 1, "alone", wait_seconds)
    up = [rank for rank, is_up in enumerate(state.active_ranks.tolist()[: group.size]) if is_up]
    if len(up) == group.size:
        return group
    return world(wait_seconds, up) if 0 in up else None
