"""What the site needs beside the pages: files of the project that pages link to, under ``project/``."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NAMED = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the named files, and all that pages link to outside docs/, linked pages' links included."""
    waiting = [*NAMED, *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, _uri(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            found = {_resolve(path, target) for target in LINK.findall((ROOT / path).read_text(encoding="utf-8"))}
            new = sorted(name for name in found - seen if (ROOT / name).is_file() and not name.startswith("docs/"))
            waiting += new
            seen.update(new)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where files lie on the site."""
    here = _path(page.file.src_uri)
    start = posixpath.dirname(page.file.src_uri) or "."
    return LINK.sub(lambda link: posixpath.relpath(_uri(_resolve(here, link[1])), start), markdown)


def _resolve(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _uri(path: str) -> str:
    """Return where a file of the project lies on the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"


def _path(uri: str) -> str:
    """Return where a file of the site lies in the project."""
    return uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"
