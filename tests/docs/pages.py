"""The pages of docs/ in the order of their navigation, and the blocks of commands and code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from tests.support import ROOT

DOCS = ROOT / "docs"
NOT_RUN = "not run by the tests: "
# Why a block may not be run; anything else is a mistake.
REASONS = {
    "needs an NVIDIA GPU",
    "needs a Jetson",
    "needs a Docker daemon",
    "needs a Triton server",
    "starts Ray, or needs a cluster",
    "needs root",
    "needs your own files",
    "takes minutes",
}


@dataclass(frozen=True)
class Block:
    """A fence. reason: why it is not run, or empty; file: the file that it is, or empty."""

    page: str
    line: int
    language: str
    text: str
    reason: str
    file: str


def configuration() -> dict[str, Any]:
    """mkdocs.yml."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return found


def pages() -> list[str]:
    """Paths below docs/ in the order of the navigation."""

    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        values = node.values() if isinstance(node, dict) else node
        return [leaf for value in values for leaf in leaves(value)]

    return leaves(configuration()["nav"])


def blocks(page: str) -> list[Block]:
    """The fences of a page.

    Raises:
        ValueError: A title that is neither a file's name nor a reason that is known.
    """
    found = []
    for token in MarkdownIt().parse((DOCS / page).read_text(encoding="utf-8")):
        if token.type != "fence":
            continue
        language, _, rest = token.info.partition(" ")
        title = match[1] if (match := re.fullmatch(r'title="([^"]+)"', rest.strip())) else ""
        reason = title.removeprefix(NOT_RUN) if title.startswith(NOT_RUN) else ""
        file = "" if reason else title
        line = (token.map or [0])[0] + 1
        if (rest and not title) or (reason and reason not in REASONS) or (file and not re.fullmatch(r"[\w.-]+", file)):
            raise ValueError(f"docs/{page}:{line}: {token.info!r}")
        found.append(Block(page, line, language, token.content, reason, file))
    return found


def relative(path: Path) -> str:
    """As a page is called in the navigation."""
    return path.relative_to(DOCS).as_posix()
