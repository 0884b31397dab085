"""One destination's thread: every result reaches it, or a dead letter says which did not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.deliver.due import send_when_due
from medattn_edge.scanner.deliver.folder import put
from medattn_edge.scanner.deliver.send import Archive, DeliveryRefused
from medattn_edge.scanner.deliver.web import WebArchive
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.dead_letters import LetterError
from medattn_edge.scanner.store.records import Delivery
from medattn_edge.scanner.store.transitions import TransitionRefused

_BATCH: Final = 100


class Deliverer:
    """`run` is for a thread of its own; one for each destination, since nothing marks a delivery as being under way."""

    def __init__(self, destination: Destination, custody: Custody, log: Log, calling_ae: str) -> None:
        self._destination, self._custody = destination, custody
        self._log, self._calling_ae = log, calling_ae

    def run(self, stopping: threading.Event, wake: threading.Event) -> None:
        """Deliver what is due, again and again, until told to stop; a delivery that is under way is finished."""
        # Without a record what was sent goes again, under the same identity.
        send_when_due(self.deliver_due, self._log, "delivery_waits", stopping=stopping, wake=wake)

    def deliver_due(self, stopping: threading.Event | None = None) -> int:
        """Try what may be tried now, in one association. How many deliveries were tried.

        Where the association ends in the middle, the delivery that it ended with has failed; the others are still due.
        """
        deliveries = self._custody.deliveries_due(self._destination.name, _BATCH)
        due = [(one, self._custody.delivery_files(one)) for one in deliveries if not self._is_lost(one)]
        if not due:
            return 0
        if self._destination.folder is not None:
            folder = self._destination.folder
            return self._try_all(due, stopping, lambda one, files: put(folder, one.key, one.version, files))
        try:
            archive = self._opened([path for _, files in due for path in files])
        except DeliveryRefused as refusal:
            for delivery, _ in due:
                self._failed(delivery, refusal)
            return len(due)
        try:
            return self._try_all(due, stopping, lambda one, files: self._send(archive, one, files), archive)
        finally:
            archive.close()

    def _opened(self, files: Sequence[Path]) -> Archive | WebArchive:
        if self._destination.dicomweb:
            return WebArchive(self._destination)
        return Archive(self._destination, files, self._calling_ae)

    def _try_all(
        self,
        due: Sequence[tuple[Delivery, Sequence[Path]]],
        stopping: threading.Event | None,
        hand_over: Callable[[Delivery, Sequence[Path]], None],
        archive: Archive | WebArchive | None = None,
    ) -> int:
        tried = 0
        for number, (delivery, files) in enumerate(due):
            if (stopping is not None and stopping.is_set()) or (archive is not None and not archive.open and tried):
                break
            tried += 1
            began = time.monotonic()
            try:
                hand_over(delivery, files)
            except DeliveryRefused as refusal:
                failed = due[number:] if refusal.of_all else due[number : number + 1]
                for one, _ in failed:
                    self._failed(one, refusal)
                if refusal.of_all:
                    return len(due)
            else:
                self._delivered(delivery, time.monotonic() - began)
        return tried

    def _send(self, archive: Archive | WebArchive, delivery: Delivery, files: Sequence[Path]) -> None:
        for path in files:
            status = archive.send(path)
            if status:
                self._event("accepted_with_warning", delivery, Level.WARNING, status=status)

    def _is_lost(self, delivery: Delivery) -> bool:
        """Whether the result vanished; then it is made again, under the same identity, as after a restart."""
        requeued = self._custody.requeue_if_lost(delivery)
        if requeued:
            self._event("result_lost", delivery, Level.ERROR)
        return requeued is not None

    def _delivered(self, delivery: Delivery, seconds: float) -> None:
        try:
            self._custody.record_delivered(delivery)
        except TransitionRefused:
            self._overtaken(delivery)
            return
        self._event("delivered", delivery, Level.INFO, seconds=seconds, count=len(delivery.outputs))

    def _failed(self, delivery: Delivery, refusal: DeliveryRefused) -> None:
        reason, attempts = refusal.reason, delivery.attempts + 1
        try:
            try:
                again = self._custody.fail_delivery(delivery, reason, final=refusal.final)
            except LetterError as error:
                # No death without a letter: the last try is not counted until there is room for it.
                self._log.failure("letter_waits", error, key=delivery.key)
                again = self._custody.postpone_delivery(delivery, reason)
        except TransitionRefused:
            self._overtaken(delivery)
            return
        more: dict[str, float] = {"status": refusal.status} if refusal.status else {}
        if again is None:
            self._event("delivery_dead", delivery, Level.ERROR, reason, attempts=attempts, **more)
        else:
            wait = max(0.0, again - self._custody.now())
            self._event("delivery_failed", delivery, Level.WARNING, reason, attempts=attempts, next_try_s=wait, **more)

    def _overtaken(self, delivery: Delivery) -> None:
        """The thread that the destination had before a reload was still at it."""
        self._event("delivery_overtaken", delivery, Level.WARNING)

    def _event(self, name: str, delivery: Delivery, level: Level, reason: str = "", **numbers: float) -> None:
        words = {"reason": reason} if reason else {}
        about: dict[str, float | str] = {**words, **numbers, "version": delivery.version}
        self._log.event(name, key=delivery.key, level=level, destination=self._destination.name, **about)
