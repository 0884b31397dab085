"""Answers to storage commitment: an N-EVENT-REPORT to who asked, again and again until it is taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from medattn_edge.scanner.config.sections import CommitmentPeer, Destination
from medattn_edge.scanner.deliver.due import send_when_due
from medattn_edge.scanner.deliver.send import DeliveryRefused, associate
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.commitment_requests import CommitmentRequest
from medattn_edge.scanner.store.commitments import Commitments, Judgement

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
INSTANCE: Final = "1.2.840.10008.1.20.1.1"
_SYNTAXES: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_ALL_COMMITTED, _SOME_FAILED = 1, 2  # event types


class CommitmentAnswers:
    """`run` is for a thread of its own; one for each peer, so that none waits for another."""

    def __init__(
        self,
        peer: CommitmentPeer,
        keep_days: float,
        sop_classes: Collection[str],
        commitments: Commitments,
        log: Log,
        calling_ae: str,
        association_of: Callable[[int], Any],
    ) -> None:
        """Nothing happens yet.

        Args:
            peer: who is answered.
            keep_days: that what is promised stays.
            sop_classes: UIDs of those that the node takes.
            commitments: requests and promises.
            log: of the node.
            calling_ae: what the node calls itself.
            association_of: the open association that a request came on and that may be used, or None.
        """
        self._peer, self._keep_days, self._sop_classes = peer, keep_days, sop_classes
        self._commitments, self._log, self._calling_ae = commitments, log, calling_ae
        self._association_of = association_of

    def run(self, stopping: threading.Event, wake: threading.Event) -> None:
        """Answer what is due, again and again, until told to stop."""
        # Nothing may be promised that cannot be recorded.
        send_when_due(self.answer_due, self._log, "commitment_waits", stopping=stopping, wake=wake)

    def answer_due(self, stopping: threading.Event | None = None) -> int:
        """Answer what may be answered now. How many requests were tried."""
        due = self._commitments.requests.due(self._peer.ae_title)
        for request in due:
            if stopping is not None and stopping.is_set():
                break
            self._answer(request)
        return len(due)

    def _answer(self, request: CommitmentRequest) -> None:
        judgement = self._commitments.judge(request, self._keep_days, self._sop_classes)
        count, failures = len(judgement.committed), len(judgement.failed)
        try:
            self._send(request, judgement)
        except DeliveryRefused as refusal:
            again = self._commitments.requests.record_failure(request, refusal.reason)
            about: dict[str, Any] = {"reason": refusal.reason, "attempts": request.attempts + 1}
            if refusal.status:
                about["status"] = refusal.status
            if again is None:
                self._event("commitment_dead", Level.ERROR, **about)
            else:
                wait = max(0.0, again - self._commitments.now())
                self._event("commitment_failed", Level.WARNING, next_try_s=wait, **about)
            return
        self._commitments.requests.record_answered(request, count, failures)
        self._event("commitment_answered", Level.WARNING if failures else Level.INFO, count=count, failures=failures)

    def _send(self, request: CommitmentRequest, judgement: Judgement) -> None:
        """On the association that it came on, where that is still open; else on one of our own."""
        opened = self._association_of(request.id)
        if opened is not None:
            try:
                opened.dimse_timeout = self._peer.timeout_s
                _report(opened, request, judgement, self._peer.timeout_s)
                return
            except DeliveryRefused as refusal:
                # That of many ends there: the standard lets us answer on another one.
                self._event("commitment_failed", Level.INFO, reason=refusal.reason, attempts=request.attempts)
        association = open_as_provider(self._peer.address, self._calling_ae)
        try:
            _report(association, request, judgement, self._peer.timeout_s)
        finally:
            if association.is_established:
                association.release()

    def _event(self, name: str, level: Level, **about: Any) -> None:
        self._log.event(name, level=level, destination=self._peer.ae_title, **about)


def open_as_provider(address: Destination, calling_ae: str) -> Any:
    """An association on which the node is the provider of storage commitment, although it has opened it.

    Raises DeliveryRefused where there is none to be had, and where the peer does not take that role.
    """
    from pynetdicom import build_role
    from pynetdicom.presentation import build_context

    role = build_role(PUSH_MODEL, scu_role=False, scp_role=True)
    try:
        association = associate(address, calling_ae, [build_context(PUSH_MODEL, list(_SYNTAXES))], [role])
    except DeliveryRefused as refusal:
        if refusal.reason == "class_not_accepted":
            raise DeliveryRefused("commitment_not_accepted", refusal.status) from refusal
        raise
    if not any(context.as_scp for context in association.accepted_contexts):
        association.release()
        raise DeliveryRefused("commitment_not_accepted")
    return association


def _report(association: Any, request: CommitmentRequest, judgement: Judgement, timeout_s: float) -> None:
    """N-EVENT-REPORT. Raises DeliveryRefused unless the peer has taken it."""
    from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, code_to_category

    event = _SOME_FAILED if judgement.failed else _ALL_COMMITTED
    began = time.monotonic()
    try:
        reply, _ = association.send_n_event_report(_information(request, judgement), event, PUSH_MODEL, INSTANCE)
    except (RuntimeError, ValueError) as error:
        raise DeliveryRefused("aborted") from error
    if "Status" not in reply:
        raise DeliveryRefused("no_answer" if time.monotonic() - began >= 0.95 * timeout_s else "aborted")
    status = int(reply.Status)
    if code_to_category(status) not in {STATUS_SUCCESS, STATUS_WARNING}:
        raise DeliveryRefused("refused", status)


def _information(request: CommitmentRequest, judgement: Judgement) -> Any:
    from pydicom.dataset import Dataset

    def items(references: Collection[tuple[tuple[str, str], int]]) -> list[Dataset]:
        found = []
        for (sop_class, uid), reason in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            if reason:
                item.FailureReason = reason
            found.append(item)
        return found

    told = Dataset()
    told.TransactionUID = request.transaction_uid
    if judgement.committed:
        told.ReferencedSOPSequence = items([(one, 0) for one in judgement.committed])
    if judgement.failed:
        told.FailedSOPSequence = items(judgement.failed)
    return told
