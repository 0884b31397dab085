"""The site key, and the series key made with it: what every log, metric, folder and page shows instead of a UID."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from medattn_edge.errors import HostError, IntegrityError, quoted
from medattn_edge.scanner.store.disk import sync_folder

BYTES = 32


@dataclass(frozen=True)
class SiteKey:
    """The secret of one site. Two sites have different keys for one series; without the secret nobody can go back."""

    secret: bytes = field(repr=False)

    def series_key(self, series_uid: str) -> str:
        """32 hex digits that stand for a SeriesInstanceUID."""
        return self._digest("series", series_uid)[:32]

    def study_key(self, study_uid: str, model: str) -> str:
        """32 hex digits that stand for the job of a study with one model."""
        return self._digest("study", f"{study_uid}\0{model}")[:32]

    def object_name(self, sop_uid: str) -> str:
        """The file name of an instance in its series's folder."""
        return f"{self._digest('object', sop_uid)[:32]}.dcm"

    def content_name(self, sop_uid: str, sha256: str) -> str:
        """The file name of a content that replaced another one of the same instance."""
        return self.object_name(f"{sop_uid}\0{sha256}")

    @property
    def fingerprint(self) -> str:
        """Tells whether two files hold the same key, and nothing else about it."""
        return self._digest("fingerprint", "")[:16]

    def _digest(self, purpose: str, text: str) -> str:
        return hmac.new(self.secret, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()


def site_key(path: Path) -> SiteKey:
    """The key in a file, which is made (0600, whole or not at all) where there is none.

    Raises IntegrityError for a file that is no key, HostError for one that others may read.
    """
    path = Path(path)
    if not path.exists():
        _create(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise HostError(
            f"the site key {path} has the mode {mode:04o}: others may read it",
            expected="the mode 0600",
            hint=f"chmod 600 {quoted(path)}",
        )
    secret = path.read_bytes()
    if len(secret) != BYTES:
        raise IntegrityError(
            f"the site key {path} has {len(secret)} bytes",
            expected=f"{BYTES}",
            hint="put the key back from a backup; with a new one every series gets another key",
        )
    return SiteKey(secret)


def _create(path: Path) -> None:
    # Linked, not renamed: of two nodes that start at once, the second takes the key of the first.
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        temporary.unlink()
