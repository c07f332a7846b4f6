"""What the plug-ins are told: environment variables, or a file that they name. Light to import: engines load it when off."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from equipoise.errors import ArgumentError, FileError, NotSupportedError, unreadable

PREFIX = "EQUIPOISE_"
SWITCH = PREFIX + "PLUGIN"
FILE = PREFIX + "SETTINGS"
OTHERS = tuple(PREFIX + name for name in ("LOADS", "PEERS_CACHE", "PROOF_SECONDS", "ARCHIVE"))
"""Variables of this project that are no settings of the plug-ins."""

CHOICES: dict[str, tuple[str, ...]] = {
    "effort": ("fast", "default", "best"),
    "locality": ("auto", "none", "soft", "strict"),
    "mode": ("every_rank", "one_rank"),
    "compare": ("settings", "plans"),
    "dispatch": ("equal", "optimal"),
}
_DECIDING = ("effort", "locality", "home_share", "max_moves", "mode", "forecast", "forecast_windows", "dispatch", "compare")
_COMPUTING = ("equipoise", "llvmlite", "numba", "numpy", "scipy")
_FOR_SEVERAL = ("scenarios", "steps", "robust")


@dataclass(frozen=True)
class Settings:
    """How policy calls are answered; each field is a key of the settings file, and ``EQUIPOISE_<NAME>`` in the environment.

    Parameters
    ----------
    effort : "fast", "default" or "best"
        As in :func:`equipoise.plan`.
    locality : "auto", "none", "soft" or "strict"
        ``auto`` keeps groups on nodes where the engine's own rule does.
    home_share : float, optional
        In [0, 1]; with soft locality, and only there.
    max_moves : int, optional
        Moves in each layer, where the engine says which placement is in use.
    mode : "every_rank" or "one_rank"
        Whether each rank plans for itself, or the first one plans and hands its answer to the others.
    forecast : str, optional
        What to plan for, from past windows (``mean:8``, ``auto``, ...), in ``one_rank`` mode alone.
    forecast_windows : int
        Past windows that a forecast sees, >= 2.
    dispatch : "equal" or "optimal"
        How the engine will split batches over replicas.
    compare : "settings" or "plans"
        What ranks compare where they can: settings once, or also the answer of every call before it is used.
    wait_seconds : float
        How long a rank waits for another one before it raises, > 0.
    record : str, optional
        File (JSON lines, ``.jsonl``) to which calls are written.
    record_bytes, record_files : int
        Size at which a new file is begun, >= 1000, and files kept, >= 1.

    Raises
    ------
    ArgumentError
        On a value out of range.
    NotSupportedError
        On settings that do not go together.

    Examples
    --------
    >>> Settings(effort="fast", max_moves=8).mode
    'every_rank'
    """

    effort: str = "default"
    locality: str = "auto"
    home_share: float | None = None
    max_moves: int | None = None
    mode: str = "every_rank"
    forecast: str | None = None
    forecast_windows: int = 8
    dispatch: str = "equal"
    compare: str = "settings"
    wait_seconds: float = 120.0
    record: str | None = None
    record_bytes: int = 100_000_000
    record_files: int = 4

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise _refusal(name, getattr(self, name), f"it must be one of {', '.join(choices)}")
        self._check_whole("max_moves", 0, is_optional=True)
        self._check_whole("forecast_windows", 2)
        self._check_whole("record_bytes", 1000)
        self._check_whole("record_files", 1)
        if not _is_number(self.wait_seconds) or not 0 < self.wait_seconds < float("inf"):
            raise _refusal("wait_seconds", self.wait_seconds, "it must be a number > 0")
        object.__setattr__(self, "wait_seconds", float(self.wait_seconds))
        for name in ("forecast", "record"):
            if getattr(self, name) is not None and not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise _refusal(name, getattr(self, name), "it must be text")
        self._check_record()
        self._check_home_share()
        self._check_combinations()

    @cached_property
    def digest(self) -> str:
        """Hash of all that decides plans, with the versions of what computes them: equal on ranks that will agree."""
        deciding = {name: value for name, value in asdict(self).items() if name in _DECIDING}
        packages = {name: _version(name) for name in _COMPUTING}
        canonical = json.dumps({"settings": deciding, "versions": packages}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _check_whole(self, name: str, least: int, *, is_optional: bool = False) -> None:
        value = getattr(self, name)
        if is_optional and value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise _refusal(name, value, f"it must be a whole number >= {least}")

    def _check_record(self) -> None:
        if self.record is None:
            return
        if not self.record.endswith(".jsonl"):
            raise _refusal("record", self.record, "readers know recordings by the ending .jsonl", "name it so")
        if os.path.isdir(self.record):  # noqa: PTH112 - pathlib costs what engines wait for
            raise _refusal("record", self.record, "it is a folder, and must be a file", "name a file in it")

    def _check_home_share(self) -> None:
        if self.home_share is None:
            if self.locality == "soft":
                raise _refusal("locality", "soft", "soft locality needs a home share", "set home_share, for instance to 0.9")
            return
        if not _is_number(self.home_share) or not 0 <= self.home_share <= 1:
            raise _refusal("home_share", self.home_share, "it must be a number in [0, 1]")
        object.__setattr__(self, "home_share", float(self.home_share))
        if self.locality != "soft":
            raise _refusal("home_share", self.home_share, "it goes with soft locality", "set locality to soft, or leave it out")

    def _check_combinations(self) -> None:
        name = "" if self.forecast is None else self.forecast.strip().partition(":")[0]
        refused = {
            "a forecast in every_rank mode": (
                bool(name) and self.mode != "one_rank",
                "a forecast needs history, which ranks may not share; set mode to one_rank",
            ),
            f"forecast {name}": (name in _FOR_SEVERAL, "a forecast of several loads cannot start from the placement in use"),
            "max_moves with locality soft": (
                self.max_moves is not None and self.locality == "soft",
                "a soft plan cannot start from the placement in use; take strict or none",
            ),
            "dispatch optimal with a locality": (
                self.dispatch == "optimal" and self.locality != "none",
                "plans for optimal dispatch have no locality rule; set locality to none",
            ),
        }
        for found, (is_asked, rule) in refused.items():
            if is_asked:
                raise NotSupportedError(found, rule, "or leave one of them out")


def is_on(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether the plug-ins are turned on.

    Raises
    ------
    ArgumentError
        When ``EQUIPOISE_PLUGIN`` is neither yes nor no.

    Examples
    --------
    >>> is_on({}), is_on({"EQUIPOISE_PLUGIN": "1"})
    (False, True)
    """
    text = (os.environ if environment is None else environment).get(SWITCH, "")
    return _yes_or_no(SWITCH, text)


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings: of the file that ``EQUIPOISE_SETTINGS`` names, and over it those of the environment.

    Raises
    ------
    ArgumentError, NotSupportedError
        On an unknown name, or a value out of range.
    FileError
        When the file cannot be read, or holds no JSON object.

    Examples
    --------
    >>> read_settings({"EQUIPOISE_EFFORT": "best", "EQUIPOISE_MAX_MOVES": "4"}).max_moves
    4
    """
    environment = os.environ if environment is None else environment
    path = environment.get(FILE)
    values = _of_file(path) if path else {}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in (SWITCH, FILE, *OTHERS):
            name = variable.removeprefix(PREFIX).lower()
            _check_known(variable, name)
            if environment[variable]:
                values[name] = _parsed(variable, name, environment[variable])
    return Settings(**values)


def _of_file(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs what engines wait for
            values = json.load(file)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise FileError(f"{path} is no JSON ({error})", "settings are one JSON object", "mend the file") from error
    if not isinstance(values, dict):
        raise FileError(f"{path} holds a {type(values).__name__}", "settings are one JSON object", "mend the file")
    for name in values:
        _check_known(f"{name} in {path}", name)
    return values


def _check_known(found: str, name: str) -> None:
    known = [field.name for field in fields(Settings)]
    if name not in known:
        close = get_close_matches(name, known, 1)
        next_step = f"did you mean {close[0]}?" if close else "remove it"
        raise ArgumentError(f"{found} is unknown", f"settings are {', '.join(known)}", next_step)


def _parsed(variable: str, name: str, text: str) -> Any:
    kinds: dict[str, Callable[[str], Any]] = {
        "home_share": float,
        "wait_seconds": float,
        **dict.fromkeys(("max_moves", "forecast_windows", "record_bytes", "record_files"), int),
    }
    kind = kinds.get(name, str)
    try:
        return kind(text)
    except ValueError as error:
        raise _refusal(variable, text, "it must be a whole number" if kind is int else "it must be a number") from error


def _yes_or_no(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("", "0", "false", "no", "off"):
        return False
    if lowered in ("1", "true", "yes", "on"):
        return True
    raise _refusal(name, text, "it must be 1 or 0", "set it to 1 to turn the plug-in on")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refusal(name: str, value: object, rule: str, next_step: str = "correct it, or leave it out") -> ArgumentError:
    return ArgumentError(f"{name} is {value!r}", rule, next_step)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
