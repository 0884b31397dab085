"""Admission: a received object is made durable, then put on record, or it is refused and that is put on record."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.reasons import CONFLICT, DISK_FULL, TOO_LARGE, TOO_MANY, TOO_MANY_CONTENTS
from medattn_edge.scanner.store.disk import Watermark
from medattn_edge.scanner.store.records import (
    Conflict,
    ConflictRefused,
    Content,
    Fate,
    Header,
    Instance,
    Received,
    code,
)
from medattn_edge.scanner.store.spool import Spool, measure
from medattn_edge.scanner.store.store import Store

_HASH_DIGITS: Final = 16  # in the name of a single object in quarantine


class Admission:
    """An object's file is durable before its row, and only then may success be answered. Several threads may call it.

    Attributes:
        watermark: above which nothing is taken; it may be replaced at any time.
    """

    def __init__(self, spool: Spool, store: Store, watermark: Watermark) -> None:
        self._spool, self._store, self.watermark = spool, store, watermark
        self._lock = threading.Lock()
        self._unrecorded: list[tuple[Header, str, str]] = []  # refused, and not on record yet
        self._touched: set[str] = set()  # series of which something was refused: perhaps in quarantine now

    def keep(
        self, content: Content, header: Header, calling_ae: str = "", conflict: Conflict = "new_version"
    ) -> Received:
        """As `Custody.keep`."""
        if not header.series_uid.strip() or not header.sop_uid.strip():
            raise ScanError(
                "an object has an empty SeriesInstanceUID or SOPInstanceUID",
                expected="both",
                hint="correct it at the sender",
            )
        size, sha256 = measure(content)
        key, name = self._store.site.series_key(header.series_uid), self._store.site.object_name(header.sop_uid)
        instance = Instance(header, name, header.sha256 or sha256, size, calling_ae, sha256)
        with self._spool.lock(key):
            received = self._keep(content, instance, key, conflict)
        if received.fate is not Fate.DUPLICATE:
            self.watermark.add(size)
        return received

    def keep_unreadable(self, content: Content, reason: str) -> Path:
        """As `Custody.keep_unreadable`."""
        size, sha256 = measure(content)
        self.check_room(size)
        path = self._spool.keep_object(f"{code(reason)}-{sha256[:_HASH_DIGITS]}.dcm", content)
        self.watermark.add(size)
        return path

    def refuse(self, header: Header, reason: str, calling_ae: str = "") -> None:
        """As `Custody.record_refusal`."""
        with self._lock:
            self._unrecorded.append((header, code(reason), calling_ae))
        self.record_refusals()

    def refuse_unknown(self, header: Header, calling_ae: str = "") -> None:
        """As `Custody.record_no_room`."""
        key = self._store.site.series_key(header.series_uid)
        if self._store.series.known(key, header.sop_uid) is None:
            self.refuse(header, DISK_FULL, calling_ae)

    def record_refusals(self) -> None:
        """Record what was refused. What a full disk does not let us record is, before anything counts as complete."""
        with self._lock:
            while self._unrecorded:
                self._touched.add(self._store.series.record_refusal(*self._unrecorded[-1]))
                self._unrecorded.pop()

    def take_touched(self) -> set[str]:
        """The keys of the series of which something was refused since the last call."""
        with self._lock:
            touched, self._touched = self._touched, set()
        return touched

    def check_room(self, size: int) -> None:
        """Raise OutputError when the disk is above its watermark, or so many more bytes would bring it there."""
        disk = self.watermark.look(size)
        if disk.refuses:
            raise OutputError(
                f"the disk of {self._spool.root} is {disk.used_fraction:.0%} full, {disk.free / 1e9:.1f} GB are free",
                expected="less than the watermark",
                hint="free space, or shorten the time that delivered series are kept",
            )

    def _keep(self, content: Content, instance: Instance, key: str, conflict: Conflict) -> Received:
        known = self._store.series.known(key, instance.header.sop_uid)
        if known is not None:
            if known[0] != instance.sha256:
                return self._replace(content, instance, key, conflict)
            instance = replace(instance, name=known[1])
        reason = None if known is not None else self._excess(key, instance.bytes)
        try:
            if reason is not None:
                raise OutputError(
                    f"the series {key} has more objects or bytes than a series may have",
                    expected=f"at most {self._store.policy.max_instances} and {self._store.policy.max_bytes} bytes",
                    hint="raise the limits of the node if such series are wanted",
                )
            if known is None or not self._spool.has(key, instance.name):
                self.check_room(instance.bytes)
                self._spool.keep(key, instance.name, content)
            return self._store.series.record_received(instance)
        except OutputError:
            if known is None:
                with self._lock:
                    self._unrecorded.append((instance.header, reason or DISK_FULL, instance.calling_ae))
                with suppress(OutputError):  # tried again before anything counts as complete
                    self.record_refusals()
            raise

    def _replace(self, content: Content, instance: Instance, key: str, conflict: Conflict) -> Received:
        """The last content of a UID is what its sender means; the one before it goes to quarantine."""
        sop_uid, policy = instance.header.sop_uid, self._store.policy
        reason = CONFLICT if conflict == "refuse" else ""
        if not reason and self._store.series.replacements(key, sop_uid) >= policy.max_replacements:
            reason = TOO_MANY_CONTENTS
        if not reason and self._store.series.usage(key)[1] + instance.bytes > policy.max_bytes:
            reason = TOO_LARGE
        if reason:
            self._store.series.record_conflict_refused(key, sop_uid)
            raise ConflictRefused(reason, key)
        self.check_room(instance.bytes)
        # A name of its own: a crash in between leaves the acknowledged content under its name, with its row.
        instance = replace(instance, name=self._store.site.content_name(sop_uid, instance.sha256))
        self._spool.keep(key, instance.name, content)
        received, before = self._store.series.record_replacement(instance)
        self._spool.set_object_aside(key, before, "replaced")
        return received

    def _excess(self, key: str, size: int) -> str | None:
        count, total = self._store.series.usage(key)
        if count + 1 > self._store.policy.max_instances:
            return TOO_MANY
        return TOO_LARGE if total + size > self._store.policy.max_bytes else None
