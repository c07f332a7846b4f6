"""Policies by name: text such as ``auto,every=4,effort=fast``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from equipoise.checks import suggestion
from equipoise.controlling.settings import ControlSettings
from equipoise.errors import ArgumentError
from equipoise.placement import Placement
from equipoise.simulating.policies import CONTROLLER, ONCE, ControlledPolicy, FixedPolicy, PlannedPolicy, Policy

_OF_CONTROLLER = {"num_groups": "num_groups", "locality": "locality", "effort": "effort", "planned_for": "dispatch"}
_WHOLE = ("slots", "every", "moves", "groups", "seed")
_PARTS = ("gain", "home_share")


def make_policies(given: Sequence[str | Policy | Placement]) -> list[Policy]:
    """Return policies as :func:`make_policy` does; at least one, and no two of one name, since results go by name."""
    if isinstance(given, str | Placement) or not isinstance(given, Sequence):
        raise ArgumentError(f"policies is {given!r}", "it must be a list of policies", "give ['last', 'auto']")
    if not given:
        raise ArgumentError("no policies", "there must be at least one", "name one, such as auto")
    made = [make_policy(policy) for policy in given]
    names = [policy.name for policy in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"two policies are called {twice}", "results go by name", "drop one, or give it a label")
    return made


def make_policy(given: str | Policy | Placement, **defaults: object) -> Policy:
    """Return a policy from text: a forecaster's name, then settings with commas between; or wrap a placement.

    ``defaults`` are settings of :class:`PlannedPolicy` that the text may override. ``controller`` takes over ``num_groups``,
    ``locality``, ``effort``, and ``planned_for`` with a ``dispatch`` that is the same, and goes with no other.

    Raises
    ------
    ArgumentError
        When a setting is unknown or does not fit.

    Examples
    --------
    >>> make_policy("exponential:0.5,0.5,every=4,effort=fast").every
    4
    """
    if isinstance(given, Placement):
        return FixedPolicy(given)
    if not isinstance(given, str):
        if not callable(getattr(given, "begin", None)):
            raise ArgumentError(
                f"a policy is a {type(given).__name__}", "it must be text, a placement, or have begin()", "try 'auto'"
            )
        return given
    if given.strip() == CONTROLLER:
        return _controlled(defaults)
    known = {setting.metadata.get("text", setting.name): setting for setting in fields(PlannedPolicy)}
    parts = [part.strip() for part in given.split(",")]
    first = next((i for i, part in enumerate(parts) if "=" in part), len(parts))
    values: dict[str, object] = {**defaults}
    if first:
        values["forecast"] = ",".join(parts[:first])
    for part in parts[first:]:
        key, equals, text = part.partition("=")
        if key not in known or not equals:
            raise ArgumentError(
                f"policy {given!r} has the setting {part!r}",
                f"settings are {', '.join(known)}",
                suggestion(key, known) or "try auto,every=4,effort=fast",
            )
        values[known[key].name] = _setting(given, key, text)
    return PlannedPolicy(**values)  # type: ignore[arg-type]


def _controlled(defaults: dict[str, object]) -> ControlledPolicy:
    """Return the controller's policy with a command's settings; refuse those that it would ignore."""
    usual = {setting.name: setting.default for setting in fields(PlannedPolicy)}
    asked = {name: value for name, value in defaults.items() if value != usual.get(name, MISSING)}
    if asked.get("dispatch") == asked.get("planned_for", usual["planned_for"]):
        del asked["dispatch"]
    for name, value in asked.items():
        if name not in _OF_CONTROLLER:
            raise ArgumentError(
                f"policy {CONTROLLER!r} with {name}={value}",
                f"of these settings it has {', '.join(_OF_CONTROLLER)}",
                "leave it out, or give ControlledPolicy(ControlSettings(...))",
            )
    settings = {_OF_CONTROLLER[name]: value for name, value in asked.items()}
    return ControlledPolicy(ControlSettings(**settings))  # type: ignore[arg-type]


def _setting(policy: str, key: str, text: str) -> object:
    try:
        if key == "every" and text == "once":
            return ONCE
        return int(text) if key in _WHOLE else float(text) if key in _PARTS else text
    except ValueError as error:
        raise ArgumentError(f"policy {policy!r} has {key}={text}", f"{key} must be a number", f"try {key}=4") from error
