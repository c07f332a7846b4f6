"""A page taken apart: its numbers, its scripts, and whatever it would fetch."""

from __future__ import annotations

from html.parser import HTMLParser

FETCHING = ("src", "href", "srcset", "action", "data", "poster", "background", "formaction", "cite", "ping")
VOID = ("meta", "link", "br", "img", "hr", "input", "wbr")


class Page(HTMLParser):
    """What a browser would make of a page, as far as tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: list[tuple[str, str, str]] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words = ""
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.fetched += [str(value) for name, value in attrs if name in FETCHING]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data":
            self.numbers.append((found["data-path"], found["value"], ""))
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
            return
        if inside == "data":
            path, value, text = self.numbers[-1]
            self.numbers[-1] = path, value, text + data
        if inside != "style":
            self.words += data


def at(found, path):
    """Follow a path such as ``balance.placements.0.name`` into JSON."""
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found
