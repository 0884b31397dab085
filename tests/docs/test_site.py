"""The pages build without a warning, and neither the build nor a reader's browser fetches anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

from tests.docs.pages import pages
from tests.support import ROOT

pytestmark = pytest.mark.slow

# What a browser loads by itself; a link that somebody follows is none of these.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(https?:)?//|<link\b[^>]*\brel=[\"']?"
    r"(?:stylesheet|preconnect|preload|icon)\b[^>]*\bhref=[\"']?(https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them, by a process whose proxies lead nowhere."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_with_what_it_includes(site: Path) -> None:
    for page in pages():
        html = site / page.replace("README.md", "index.html").replace(".md", ".html")
        text = html.read_text(encoding="utf-8")
        assert "--8&lt;--" not in text, page
        assert "<p>:::" not in text, page
    assert "NoNewPrivileges" in (site / "how-to" / "docker.html").read_text(encoding="utf-8")
    assert "calibrate" in (site / "reference.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_anywhere_else(site: Path) -> None:
    checked = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(checked) > len(pages())
    for path in checked:
        text = path.read_text(encoding="utf-8")
        assert not LOADED.search(text), path
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), path


def test_the_rule_knows_what_loads_and_what_is_a_link() -> None:
    assert LOADED.search('<script src="https://unpkg.com/x.js">')
    assert LOADED.search("<link rel=stylesheet href=//fonts.example/css>")
    assert not LOADED.search('<a href="https://example.org">')
    assert not LOADED.search('<script src="assets/x.js">')
