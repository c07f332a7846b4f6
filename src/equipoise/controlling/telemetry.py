"""Telemetry: metrics for Prometheus, and a line of JSON for every decision."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

from equipoise.controlling.decisions import CODES, Decision
from equipoise.errors import MissingExtraError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Telemetry:
    """Tells what a controller sees and decides.

    Parameters
    ----------
    registry : prometheus_client.CollectorRegistry, optional
        Where metrics are registered, so one for each controller; by default a new one.
    log : text stream, optional
        Gets a line of JSON for every decision.

    Raises
    ------
    MissingExtraError
        When prometheus-client is not installed.

    Examples
    --------
    >>> Telemetry().registry.get_sample_value("equipoise_overdue_plans_total")
    0.0
    """

    def __init__(self, registry: CollectorRegistry | None = None, log: TextIO | None = None) -> None:
        try:
            import prometheus_client as client
        except ImportError as error:
            raise MissingExtraError(
                "prometheus-client is not installed", "metrics need it", "run pip install prometheus-client"
            ) from error
        self.registry = client.CollectorRegistry() if registry is None else registry
        self._log = log
        gauge: Any = lambda name, text: client.Gauge(f"equipoise_{name}", text, registry=self.registry)  # noqa: E731
        counter: Any = lambda name, text, *labels: client.Counter(  # noqa: E731
            f"equipoise_{name}", text, labels, registry=self.registry
        )
        self._balance = gauge("balance", "Balance of the placement in use on the last window")
        self._predicted = gauge("balance_predicted", "Balance expected of windows to come, once what was decided is in use")
        self._achieved = gauge("balance_achieved", "Mean balance since the placement in use came into use, or since a restart")
        self._age = gauge("placement_age_windows", "Windows since the placement in use came into use")
        self._gain = gauge("expected_gain_seconds", "Gain expected of the last plan handed out, over its interval")
        self._cost = gauge("expected_cost_seconds", "Seconds that the moves of the last plan handed out are expected to cost")
        self._moves = counter("moves", "Replicas to be received by the plans handed out")
        self._bytes = counter("move_bytes", "Bytes of these")
        self._overdue = counter("overdue_plans", "Plans handed out of which nothing was heard in time")
        self._decisions = counter("decisions", "Decisions by reason", "reason")
        for code in CODES:
            self._decisions.labels(code)
        self._sum = 0.0
        self._windows = 0

    def observed(self, balance: float, age: int) -> None:
        """Take in a window: its balance, and the windows that the placement has been in use for, this one among them."""
        if age == 1:
            self._sum, self._windows = 0.0, 0
        self._sum, self._windows = self._sum + balance, self._windows + 1
        self._balance.set(balance)
        self._achieved.set(self._sum / self._windows)
        self._age.set(age)

    def decided(self, decision: Decision, num_bytes: float) -> None:
        """Take in a decision, and the bytes its moves send."""
        self._decisions.labels(decision.code).inc()
        self._predicted.set(decision.predicted)
        self._overdue.inc(decision.overdue)
        if decision.is_move:
            self._gain.set(decision.gain_seconds)
            self._cost.set(decision.cost_seconds)
            self._moves.inc(decision.moves)
            self._bytes.inc(num_bytes)
        if self._log is not None:
            self._log.write(json.dumps(decision.as_dict()) + "\n")
            self._log.flush()
