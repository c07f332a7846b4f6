"""vLLM's policy call, and the plug-in that puts this planner behind it.

A physical expert is a slot, a logical expert an expert, as everywhere at the border. Light to import: vLLM loads this in every
process, whether the plug-in is on or not.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from equipoise.plugins.settings import SWITCH, Settings, is_on, read_settings

if TYPE_CHECKING:
    from equipoise.plugins.agreeing import Group
    from equipoise.plugins.answering import Answerer
    from equipoise.plugins.deciding import Call

log = logging.getLogger("vllm.equipoise")
"""Below vLLM's own logger, the only one that it shows."""

PARAMETERS = ("weight", "num_replicas", "num_groups", "num_nodes", "num_ranks", "old_global_expert_indices")


class Policy:
    """What vLLM calls a policy: one class method, from the load to the placement.

    Settings are read from the environment at the first call, if the plug-in did not read them before.
    """

    stock: Any = None
    answerer: Answerer | None = None
    history: dict[tuple[int, ...], deque[Any]] | None = None

    @classmethod
    def rebalance_experts(
        cls,
        weight: Any,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Any = None,
    ) -> Any:
        """Balance experts over ranks; hierarchical where ``num_nodes`` divides ``num_groups``, as vLLM's own policy.

        Parameters
        ----------
        weight : tensor or array [layers, num_logical_experts]
            Load of each expert, >= 0; all zero while vLLM profiles its memory.
        num_replicas : int
            Physical experts (slots) over all ranks; divisible by ``num_ranks``.
        num_groups, num_nodes, num_ranks : int
            Groups of experts, nodes, ranks.
        old_global_expert_indices : tensor or array [layers, physical experts in use], optional
            The map in use, -1 where a slot is empty; wider than ``num_replicas`` while ranks leave, whole ranks wide.

        Returns
        -------
        tensor int64 [layers, num_replicas]
            On the CPU; an array for an array. Experts that stay on their rank keep their slots.

        Raises
        ------
        ArgumentError
            When arguments break a rule, and there is no stock policy that could answer.

        Examples
        --------
        >>> import numpy as np
        >>> Policy.rebalance_experts(np.array([[90, 30, 20, 20, 10, 10]]), 8, 1, 1, 4).tolist()
        [[0, 2, 0, 3, 0, 4, 1, 5]]
        """
        from equipoise.errors import ArgumentError
        from equipoise.plugins.answering import Refusal
        from equipoise.tensors import like

        arguments = (weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices)
        found = cls._answerer().answer(lambda: cls._read(*arguments))
        if isinstance(found, Refusal):
            if cls.stock is None:
                raise ArgumentError(found.reason, "there is no stock policy to answer instead", "correct the arguments")
            return cls.stock.rebalance_experts(*arguments)
        return like(weight, on_its_device=False)(found)

    @classmethod
    def _answerer(cls) -> Answerer:
        if Policy.answerer is None:
            Policy.answerer = _make_answerer(read_settings())
        return Policy.answerer

    @classmethod
    def _read(cls, weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_ranks: int, in_use: Any) -> Call:
        from equipoise.checks import check_integer
        from equipoise.plugins.deciding import Call
        from equipoise.tensors import as_array

        load = as_array("weight", weight)
        nodes, groups = check_integer("num_nodes", num_nodes), check_integer("num_groups", num_groups)
        held = None if in_use is None else as_array("old_global_expert_indices", in_use)
        windows = cls._remember(load, num_replicas)
        return Call(load, num_replicas, num_ranks, nodes, groups, groups % nodes == 0, held, windows=windows)

    @classmethod
    def _remember(cls, load: Any, num_replicas: int) -> Any:
        """Return the loads of past calls and this one, oldest first, where a forecast wants them and there are two."""
        import numpy as np

        settings = cls._answerer().settings
        if settings.forecast is None or load.ndim != 2 or not load.any():
            return None
        Policy.history = {} if Policy.history is None else Policy.history
        past = Policy.history.setdefault((*load.shape, num_replicas), deque(maxlen=settings.forecast_windows))
        past.append(load.copy())
        return np.stack(past) if len(past) > 1 else None


def register() -> None:
    """Put this planner behind vLLM's policy ``default``; the entry point of ``vllm.general_plugins``.

    Does nothing unless ``EQUIPOISE_PLUGIN`` is set to 1, and nothing twice. Whatever fails is logged, and vLLM keeps its own
    policy; nothing is raised, because vLLM would not start.
    """
    try:
        if is_on():
            _install()
    except Exception:
        log.exception("equipoise: not installed, vLLM keeps its own policy")


def _install() -> None:
    if _balances_nothing():
        log.info("equipoise: not installed, vLLM balances no experts on CPUs")
        return
    from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy

    stock = EPLB_POLICIES["default"]
    if issubclass(stock, Policy):
        return
    _check_signature(stock.rebalance_experts)
    settings = read_settings()
    from equipoise.plugins.warming import warm_up

    warm_up(settings)
    Policy.answerer = _make_answerer(settings)

    class EquipoisePolicy(Policy, AbstractEplbPolicy):  # type: ignore[misc]
        """A policy of vLLM's own kind."""

    EquipoisePolicy.stock = stock
    EPLB_POLICIES["default"] = EquipoisePolicy
    log.info('equipoise: vLLM\'s policy "default" is replaced (%s=1), settings=%s %s', SWITCH, settings.digest[:16], settings)


def _balances_nothing() -> bool:
    """Tell whether this is a CPU: there vLLM refuses to balance, and stumbles over llvmlite once it is imported."""
    from vllm import platforms

    return bool(platforms.current_platform.is_cpu())


def _check_signature(method: Any) -> None:
    from equipoise.errors import NotSupportedError

    found = tuple(inspect.signature(method).parameters)
    if found != PARAMETERS:
        raise NotSupportedError(
            f"this vLLM's policy takes {', '.join(found)}",
            f"this version answers {', '.join(PARAMETERS)}",
            "take a vLLM that is known, or another equipoise",
        )


def _make_answerer(settings: Settings) -> Answerer:
    from equipoise.plugins.answering import Answerer

    return Answerer(settings, "vllm", log, lambda: _find_group(settings.wait_seconds))


def _find_group(wait_seconds: float) -> Group | None:
    """Return the ranks of vLLM's expert-parallel group; all of torch's where vLLM has none; None where no store is shared."""
    from equipoise.plugins.agreeing import world

    ours = getattr(sys.modules.get("vllm.distributed.parallel_state"), "_EP", None)
    if ours is None:
        return world(wait_seconds)
    if any(kind.__name__ == "StatelessGroupCoordinator" for kind in type(ours).__mro__):
        return None
    return world(wait_seconds, ours.ranks)
