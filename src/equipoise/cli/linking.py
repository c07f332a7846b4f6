"""Links between ranks, by name or by speed: ``--link`` and ``--node-link``."""

from __future__ import annotations

from dataclasses import replace

from equipoise.checks import suggestion
from equipoise.cli.shaping import byte_size
from equipoise.errors import ArgumentError
from equipoise.migrating.links import LINKS, Links

USUAL = "h100"


def read_links(link: str | None, node_link: str | None = None) -> Links:
    """Return links by name, or the usual ones at another speed within a node, or between nodes."""
    name = USUAL if link is None else link
    links = LINKS[name] if name in LINKS else replace(LINKS[USUAL], bandwidth=_speed("--link", name, tuple(LINKS)))
    return links if node_link is None else replace(links, node_bandwidth=_speed("--node-link", node_link))


def _speed(option: str, text: str, names: tuple[str, ...] = ()) -> float:
    try:
        return byte_size(option, text)
    except ArgumentError as error:
        named = f"{', '.join(names)}, or " if names else ""
        raise ArgumentError(
            error.found, f"it must be {named}bytes a second, > 0", suggestion(text, names) or "try 50GB"
        ) from error
