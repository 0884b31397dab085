"""Evidence as files: a page for people and the same figures for programs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from medattn_edge.atomic import replacing
from medattn_edge.errors import MissingDependency
from medattn_edge.evidence.records import Evidence


def write_report(evidence: Evidence, folder: Path | str, name: str = "report") -> tuple[Path, Path]:
    """Write NAME.html, which needs nothing but itself, and NAME.json, which has every figure of it.

    The same evidence gives the same bytes.

    Args:
        evidence: as `gather` gives it.
        folder: where both go; files that are there are replaced, both or none as far as the disk allows.
        name: of both, without a suffix.

    Returns:
        The paths of the page and of the document.

    Raises:
        OutputError: they cannot be written; what was there is untouched.
        MissingDependency: without Jinja2 or Matplotlib.
    """
    values = (json.dumps(evidence.to_json(), indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
    try:
        from medattn_edge.evidence.page import page_of

        text = page_of(evidence, hashlib.sha256(values).hexdigest())
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "report") from error
    page, document = Path(folder) / f"{name}.html", Path(folder) / f"{name}.json"
    with replacing(document) as figures, replacing(page) as html:
        figures.write_bytes(values)
        html.write_text(text, encoding="utf-8")
    return page, document
