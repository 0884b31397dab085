"""N-ACTION of storage commitment, as its provider: success is answered when the request is durable, not before.

The answer to the request itself is an N-EVENT-REPORT, which `deliver/commitment.py` sends.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import OutputError
from medattn_edge.io.dicom.files import quiet
from medattn_edge.reasons import (
    COMMITMENT_MALFORMED,
    COMMITMENT_NOT_ALLOWED,
    COMMITMENT_TOO_LARGE,
    COMMITMENT_TOO_MANY,
)
from medattn_edge.scanner.config.sections import StorageCommitment
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.commitment_requests import Reference
from medattn_edge.scanner.store.commitments import Commitments

if TYPE_CHECKING:
    from pynetdicom.association import Association

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # the one instance of the class that there is
SYNTAXES: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # none that inflates
# Of N-ACTION, PS3.7 C.
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORISED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213
_REQUEST_COMMITMENT: Final = 1
_BYTES_OF_INSTANCE: Final = 1024  # of two UIDs, and whatever else a sender may write beside them
_UID: Final = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
_QUIET_S: Final = 0.3  # whoever wants to go on or hang up has done so by then
_BUSY_S: Final = 3.0  # a sender that goes on for longer gets its answer on an association of its own


class _Refused(Exception):
    """A request is not taken, with a code of ADMISSION_REASONS and a status of DICOM."""

    def __init__(self, reason: str, status: int) -> None:
        self.reason, self.status = reason, status
        super().__init__(reason)


class CommitmentProvider:
    """What a listener answers to N-ACTION. Several associations' threads may call it."""

    def __init__(
        self,
        section: StorageCommitment,
        peers: Collection[str],
        commitments: Commitments,
        log: Log,
        wake: Callable[[str], None],
    ) -> None:
        """Nothing happens yet.

        Args:
            section: how much of it.
            peers: titles of those who may ask.
            commitments: where requests are kept.
            log: of the node.
            wake: told a title for which there is something to answer.
        """
        self._section, self._peers, self._commitments = section, frozenset(peers), commitments
        self._log, self._wake, self._lock = log, wake, threading.Lock()
        self._came_on: dict[int, Association] = {}
        self._heard: dict[Association, float] = {}

    def requested(self, event: Any, listener: str) -> tuple[int, None]:
        """Answer one N-ACTION: the status, and no data set."""
        requester = str(event.assoc.requestor.ae_title).strip()
        try:
            number = self._record(event, requester)
        except _Refused as refusal:
            about = {"listener": listener, "reason": refusal.reason}
            self._log.event("commitment_refused", level=Level.WARNING, status=refusal.status, **about)
            return refusal.status, None
        except OutputError as error:
            self._log.failure("commitment_refused", error)
            return RESOURCE_LIMITATION, None
        except Exception as error:  # noqa: BLE001 - a hostile data set; the type is logged, and the node goes on
            self._log.failure("commitment_refused", error, level=Level.WARNING)
            return PROCESSING_FAILURE, None
        with self._lock:
            self._came_on[number] = event.assoc
            self._heard[event.assoc] = time.monotonic()
        self._log.event("commitment_asked", listener=listener, destination=requester)
        self._wake(requester)
        return SUCCESS, None

    def heard(self, association: Association) -> None:
        """Something came on an association."""
        if association in self._heard:
            self._heard[association] = time.monotonic()

    def ended(self, association: Association) -> None:
        """An association is no more."""
        with self._lock:
            self._heard.pop(association, None)
            self._came_on = {number: one for number, one in self._came_on.items() if one is not association}

    def association_of(self, request: int) -> Association | None:
        """The association that a request came on, once, when its sender keeps it open and is silent.

        None where it has gone, or goes on with something else: an answer in the middle of that would be taken for
        the answer to that.
        """
        with self._lock:
            association = self._came_on.pop(request, None)
        end = time.monotonic() + _BUSY_S
        while association is not None and association.is_established and time.monotonic() < end:
            if time.monotonic() - self._heard.get(association, time.monotonic()) >= _QUIET_S:
                return association
            time.sleep(0.02)
        return None

    def _record(self, event: Any, requester: str) -> int:
        """Put the request on record; its id. Raises _Refused, OutputError."""
        if requester not in self._peers:
            raise _Refused(COMMITMENT_NOT_ALLOWED, NOT_AUTHORISED)
        request = event.request
        for found, expected, status in (
            (str(request.RequestedSOPClassUID), PUSH_MODEL, NO_SUCH_CLASS),
            (str(request.RequestedSOPInstanceUID), INSTANCE, NO_SUCH_INSTANCE),
            (request.ActionTypeID, _REQUEST_COMMITMENT, NO_SUCH_ACTION),
        ):
            if found != expected:
                raise _Refused(COMMITMENT_MALFORMED, status)
        if request.ActionInformation is None:
            raise _Refused(COMMITMENT_MALFORMED, INVALID_ARGUMENT)
        size = request.ActionInformation.getbuffer().nbytes
        if size > _BYTES_OF_INSTANCE * (self._section.max_instances + 1):
            raise _Refused(COMMITMENT_TOO_LARGE, RESOURCE_LIMITATION)
        transaction_uid, instances = _read(event)
        if len(instances) > self._section.max_instances:
            raise _Refused(COMMITMENT_TOO_LARGE, RESOURCE_LIMITATION)
        number = self._commitments.requests.record(requester, transaction_uid, instances, self._section.max_waiting)
        if number is None:
            raise _Refused(COMMITMENT_TOO_MANY, RESOURCE_LIMITATION)
        return number


def _read(event: Any) -> tuple[str, list[Reference]]:
    """The transaction UID and the instances of a request. Raises _Refused for anything that is not whole."""
    try:
        with quiet():
            dataset = event.action_information
            transaction_uid = _uid(dataset.get("TransactionUID"))
            instances = [
                (_uid(one.get("ReferencedSOPClassUID")), _uid(one.get("ReferencedSOPInstanceUID")))
                for one in dataset.get("ReferencedSOPSequence") or ()
            ]
    except Exception as error:  # whatever a reader meets in what a stranger wrote
        raise _Refused(COMMITMENT_MALFORMED, INVALID_ARGUMENT) from error
    if not transaction_uid or not instances or not all(sop_class and uid for sop_class, uid in instances):
        raise _Refused(COMMITMENT_MALFORMED, INVALID_ARGUMENT)
    return transaction_uid, instances


def _uid(value: object) -> str:
    """A UID as it was sent, "" for what is none."""
    text = str(value or "").rstrip("\0 ")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""
