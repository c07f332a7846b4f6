"""A report as one page that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from equipoise.errors import MissingExtraError
from equipoise.files.atomic import whole_file
from equipoise.reporting.answering import share
from equipoise.reporting.figures import draw
from equipoise.reporting.report import Report
from equipoise.reporting.unseen import visible

_PAGE = Path(__file__).parent / "page"


def check_extra() -> None:
    """Refuse to go on without what pages are made with, before seconds go into the work.

    Raises
    ------
    MissingExtraError
        Naming what to install.
    """
    try:
        for name in ("jinja2", "plotly"):
            import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed", "reports are made with jinja2 and plotly", 'pip install "equipoise[report]"'
        ) from error


def write_page(path: str | PathLike[str], report: Report) -> None:
    """Write a report as one HTML file, atomically: the same report gives the same bytes.

    Raises
    ------
    MissingExtraError
        Without the extra ``report``.
    FileError
        When the folder cannot be written.
    """
    page = render(report).encode()
    with whole_file(path) as file:
        file.write(page)


def render(report: Report) -> str:
    """Return the page. Whatever came from files is text on it, never markup.

    Raises
    ------
    MissingExtraError
        Without the extra ``report``.
    """
    check_extra()
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    found = _visible(report.as_json())
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds: dict[str, Callable[[Any], str]] = _KINDS

    def number(path: str, kind: str) -> Markup:
        value = _at(found, path)
        shown = "-" if value is None else kinds[kind](value)
        held = "" if value is None else json.dumps(value)
        return Markup('<data value="{}" data-path="{}">{}</data>').format(held, path, shown)

    return environment.get_template("page.html").render(
        report=found,
        number=number,
        style=Markup((_PAGE / "page.css").read_text()),
        script=Markup((_PAGE / "page.js").read_text()),
        plotly=Markup(get_plotlyjs()),
        figures=Markup(as_script_data(_visible(draw(report)))),
    )


def as_script_data(value: object) -> str:
    r"""Return JSON that may stand inside a script element, whatever texts it holds.

    >>> as_script_data("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _visible(value: Any) -> Any:
    """Return the same with characters that no page may hold replaced."""
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value


def _at(found: Any, path: str) -> Any:
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


_KINDS: dict[str, Callable[[Any], str]] = {
    "share": share,
    "points": lambda value: f"{100 * value:+.2f}",
    "error": lambda value: f"{100 * value:.2f}",
    "count": lambda value: f"{value:,.0f}",
    "times": lambda value: f"{value:.2f}",
    "spare": lambda value: f"{value:.3g}",
    "gigabytes": lambda value: f"{value / 1e9:.1f}",
    "id": str,
}
