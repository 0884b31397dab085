"""What a calibration measured, kept for the next time: JSON files named after everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medattn_edge.atomic import replacing
from medattn_edge.errors import OutputError


@dataclass(frozen=True)
class Cache:
    """A folder of figures that took time to measure.

    Attributes:
        folder: made when something is kept; None keeps nothing.
    """

    folder: Path | None

    @classmethod
    def of_user(cls) -> Cache:
        """The user's own cache folder, as XDG_CACHE_HOME has it."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        return cls(Path(base) / "medattn-edge" / "calibration")

    def load(self, kind: str, key: Mapping[str, Any]) -> Any:
        """What was kept under this key; None when nothing was, or when it cannot be read."""
        if self.folder is None:
            return None
        try:
            document = json.loads(self._path(kind, key).read_text(encoding="utf-8"))
            return document["found"] if document["key"] == dict(key) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        """Keep a JSON value. A folder that cannot be written is no reason to stop: the work is only not kept."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(kind, key)) as file:
                file.write_text(json.dumps({"key": dict(key), "found": value}) + "\n", encoding="utf-8")
        except (OSError, OutputError):
            return

    def _path(self, kind: str, key: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:32]}.json"


NO_CACHE = Cache(None)
