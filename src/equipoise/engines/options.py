"""Options of engines by their own names: what each may be, and what an engine takes where it is not given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from equipoise.engines.findings import Finding, error
from equipoise.errors import ArgumentError

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Option:
    """One option of an engine.

    Parameters
    ----------
    name : str
        As the engine's configuration writes it, words joined by underscores.
    kind : type
        bool, int, float or str.
    default : optional
        What the engine takes where it is not given; None for nothing.
    least : float, optional
        The least number it may be.
    choices : tuple of str
        All that it may be; empty for anything.
    """

    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    default: Value = None
    least: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> Value:
        """Return the value that a text says.

        Raises
        ------
        ArgumentError
            When it is no value of this option.

        Examples
        --------
        >>> Option("window_size", int, 1000, least=1).parse("500")
        500
        """
        value = self._converted(text)
        if isinstance(value, (int, float)) and self.least is not None and not value >= self.least:
            raise ArgumentError(f"{self.name} is {text}", f"it must be >= {self.least:g}", "give a number in that range")
        if self.choices and value is not None and value not in self.choices:
            raise ArgumentError(f"{self.name} is {text}", f"it must be one of {', '.join(self.choices)}", "choose one of these")
        return value

    def _converted(self, text: str) -> Value:
        if text.lower() in ("none", "null") and self.default is None:
            return None
        if self.kind is bool and text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        try:
            if self.kind is not bool:
                return self.kind(text)
        except ValueError:
            pass
        name = {bool: "true or false", int: "a whole number", float: "a number"}[self.kind]
        raise ArgumentError(f"{self.name} is {text!r}", f"it must be {name}", "write it so")


def parse_options(options: Sequence[Option], texts: Iterable[str], source: str) -> tuple[dict[str, Value], list[Finding]]:
    """Return the values that texts such as ``window_size=500`` give, and errors for those the engine would refuse.

    Dashes stand for underscores, and a prefix as in ``--eplb-config.window_size`` may be left standing.

    Raises
    ------
    ArgumentError
        When a text is not of the form name=value.

    Examples
    --------
    >>> parse_options([Option("window_size", int, 1000)], ["--eplb-config.window-size=500"], "an engine")
    ({'window_size': 500}, [])
    """
    known = {option.name: option for option in options}
    values: dict[str, Value] = {}
    findings = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(f"--option {text}", "it must be name=value", f"try --option {options[0].name}=...")
        name = name.strip().lstrip("-").replace("-", "_").rpartition(".")[2]
        try:
            values[name] = _named(known, name).parse(value.strip())
        except ArgumentError as refused:
            findings.append(error(refused.found, refused.rule, refused.next_step, source))
    return values, findings


def _named(known: Mapping[str, Option], name: str) -> Option:
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    raise ArgumentError(
        f"option {name}",
        "no option of this name is known to have to do with balancing",
        f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
    )
