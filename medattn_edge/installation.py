"""How this installation is added to: the line that fits a clone, an archive or a package index.

pip writes down where a distribution came from in direct_url.json (PEP 610); of an index it writes nothing.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

_NAME = "medattn-edge"


def install_line(extra: str, *, again: bool = False) -> str:
    """What to type for an extra: `pip install 'medattn-edge[nifti]'`, or that of the clone or archive this came from.

    Args:
        extra: of pyproject.toml; "" for none.
        again: have pip install what is there already once more.
    """
    force = "--force-reinstall " if again else ""
    return f"pip install {force}{_requirement(*_origin(), f'[{extra}]' if extra else '')}"


def upgrade_line() -> str:
    """What to type, or to do, for a newer version."""
    kind, place = _origin()
    if kind == "editable":
        return f"git -C {shlex.quote(place)} pull && {install_line('')}"
    if kind == "index":
        return f"pip install --upgrade {_NAME}"
    return f"a newer {_NAME} than {place}, then pip install it"


def _requirement(kind: str, place: str, extra: str) -> str:
    if kind == "index":
        return shlex.quote(f"{_NAME}{extra}") if extra else _NAME
    if kind == "url":
        return shlex.quote(f"{_NAME}{extra} @ {place}")
    quoted = shlex.quote(f"{place}{extra}")
    return f"-e {quoted}" if kind == "editable" else quoted


def _origin() -> tuple[str, str]:
    """`index`, or `editable`, `path` (a folder or an archive) or `url`, and where that is."""
    from importlib import metadata

    source = Path(__file__).parents[1]
    try:
        found = metadata.distribution(_NAME)
        text = found.read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # run from a source tree that nobody installed
        return "editable", str(source)
    if text is None:
        # Beside a clone's pyproject.toml lies what setuptools keeps of its last build, and that is found first there.
        return ("editable", str(source)) if (source / "pyproject.toml").is_file() else ("index", "")
    try:
        kind, place = _told(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError):  # another installer's
        return "index", ""
    gone = kind in ("editable", "path") and not Path(place).exists()  # an image keeps no sources
    return ("index", "") if gone else (kind, place)


def _told(direct: dict[str, Any]) -> tuple[str, str]:
    url = str(direct["url"])
    parts = urlsplit(url)
    if "vcs_info" in direct:
        return "url", f"{direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}"
    if parts.scheme != "file":
        return "url", url
    place = os.path.normpath(url2pathname(unquote(parts.path) if os.name != "nt" else parts.path))
    return ("editable" if direct.get("dir_info", {}).get("editable") else "path"), place
