"""C-STORE and C-ECHO, through pynetdicom. Success is answered when an object is durable and on record, not before."""

from __future__ import annotations

import io
import os
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from medattn_edge.errors import MedattnError, OutputError, ScanError
from medattn_edge.reasons import REPLACED, TOO_LARGE
from medattn_edge.scanner.config.network import is_loopback
from medattn_edge.scanner.config.sections import Receive, Tls
from medattn_edge.scanner.config.storage_classes import sop_class_uid
from medattn_edge.scanner.config.tls import server_context
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.receive.listener import BLANK, Listener, hang_up, peer_of
from medattn_edge.scanner.receive.n_action import NO_SUCH_CLASS, PUSH_MODEL, SYNTAXES, CommitmentProvider
from medattn_edge.scanner.receive.objects import TruncatedObject, header_of, reason_of
from medattn_edge.scanner.receive.stream import JoinedPieces
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.store.records import ConflictRefused, Fate, Header

if TYPE_CHECKING:
    from pynetdicom.association import Association

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
CONFLICTING: Final = 0xC111  # of "cannot understand": a sender keeps the object, and no retry mends it
OTHER_CLASS: Final = 0xA900  # the data set is not what the command announced
NOT_UNDERSTOOD: Final = 0xC000
_REJECTED_PERMANENTLY, _REJECTED_FOR_NOW = (0x01, 0x01, 0x03), (0x02, 0x03, 0x02)
_BUFFER: Final = 1 << 16
_NO_LIMIT: Final = 1_000_000
_IDLE_S: Final = 120.0  # an association on which nothing comes is aborted


class Receiver:
    """The listeners of a node. `start` opens them; the rest may be called from any thread."""

    def __init__(
        self,
        receive: Receive,
        tls: Tls | None,
        custody: Custody,
        associations: Associations,
        log: Log,
        commitment: CommitmentProvider | None = None,
    ) -> None:
        self._receive, self._tls, self._custody = receive, tls, custody
        self._associations, self._log = associations, log
        self._commitment = commitment
        self._max_bytes = receive.max_object_mb * 1_000_000
        self._listeners: dict[str, Listener] = {}
        self._association_ids: dict[Association, int] = {}
        self._incoming_bytes: dict[Association, int] = {}
        self._refusing = False
        self._ae: Any = None
        self._admitted: set[Association] = set()  # that have asked, and were not rejected
        self._admission_lock = threading.Lock()

    def start(self) -> dict[str, int]:
        """Open the listeners; their ports, by name. Raises HostError, UsageError, MissingDependency."""
        self._ae = _application_entity(self._receive)
        if self._commitment is not None:
            # A caller that wants to be the provider itself is not for us.
            self._ae.add_supported_context(PUSH_MODEL, list(SYNTAXES), scu_role=True, scp_role=False)
        where: dict[str, tuple[int, ssl.SSLContext | None]] = {}
        if self._receive.plain or (self._receive.plain is None and self._tls is None):
            where["plain"] = self._receive.port, None
        if self._tls is not None:
            where["tls"] = (self._tls.port, server_context(self._tls))
        try:
            for name, (port, context) in where.items():
                address, networks = (self._receive.host, port), self._receive.addresses
                self._listeners[name] = Listener(
                    name, self._ae, address, networks, context, self._handlers(name), self._log
                )
        except MedattnError:
            self.stop(0)
            raise
        if len(where) > 1 and not is_loopback(self._receive.host):
            # Who may send in the clear will, and titles and networks are no secrets.
            self._log.event(
                "plain_beside_tls", level=Level.WARNING, listener="plain", port=self._listeners["plain"].port
            )
        return {name: listener.port for name, listener in self._listeners.items()}

    def refuse_new(self) -> None:
        """Reject new associations for now; open ones go on."""
        self._refusing = True

    def stop(self, within_s: float) -> None:
        """Close the ports, let open associations end within the limit, abort the rest."""
        end = time.monotonic() + within_s
        self._refusing = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        if self._ae is None:
            return
        for association in self._ae.active_associations:
            if not association.is_established:
                hang_up(association)  # it has asked for nothing yet, and would be rejected
        while self._ae.active_associations and time.monotonic() < end:
            time.sleep(0.02)
        for association in self._ae.active_associations:
            hang_up(association)

    def _handlers(self, listener: str) -> list[Any]:
        from pynetdicom import evt

        return [
            (evt.EVT_REQUESTED, self._requested, [listener]),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store, [listener]),
            (evt.EVT_N_ACTION, self._action, [listener]),
            (evt.EVT_DATA_RECV, self._data),
        ]

    def _requested(self, event: Any, listener: str) -> None:
        """Judge who calls before anything else of the request is looked at; the library says no with a code."""
        association, calling = event.assoc, self._receive.calling_ae
        wanted, peer = association.requestor.primitive, peer_of(association)
        if (opened := self._listeners.get(listener)) is not None:
            opened.asked(association)
        reason = ""
        if self._refusing:
            reason, code = "draining", _REJECTED_FOR_NOW
        elif "*" not in calling and str(wanted.calling_ae_title).strip() not in calling:
            reason, code = "calling_ae", _REJECTED_PERMANENTLY
        elif str(wanted.called_ae_title).strip() != self._receive.ae_title.strip():
            # The library rejects it by itself; here it is only logged.
            self._log.event("rejected", level=Level.WARNING, listener=listener, reason="called_ae", peer=peer)
        else:
            reason, code = self._admit(association, peer), _REJECTED_FOR_NOW
        if reason:
            self._log.event("rejected", level=Level.WARNING, listener=listener, reason=reason, peer=peer)
            association.acse.send_reject(*code)
            # What the library's own rejection does; the connection ends when the caller has read the answer.
            association.is_rejected = True
            association.kill()

    def _admit(self, association: Association, peer: str) -> str:
        """Count an association in; the code of why there is no place for it, "" when there is.

        The library counts connections that have asked for nothing as well, and would let them take all places.
        """
        with self._admission_lock:
            self._admitted = {one for one in self._admitted if one.is_alive()}
            if len(self._admitted) >= self._receive.max_associations:
                return "too_many_associations"
            if sum(peer_of(one) == peer for one in self._admitted) >= self._receive.max_per_address:
                return "too_many_of_address"
            self._admitted.add(association)
        return ""

    def _established(self, event: Any) -> None:
        association = event.assoc
        number = self._associations.opened()
        self._association_ids[association], self._incoming_bytes[association] = number, 0

        def ended() -> None:
            # However it ends, its thread does; the library has paths on which no event says so.
            association.join()
            self._association_ids.pop(association, None)
            self._incoming_bytes.pop(association, None)
            if self._commitment is not None:
                self._commitment.ended(association)
            self._associations.closed(number)

        threading.Thread(target=ended, name="association-end", daemon=True).start()

    def _echo(self, event: Any) -> int:
        return SUCCESS

    def _data(self, event: Any) -> None:
        """Abort whoever sends more for one object than one may have, before memory is full of it."""
        association = event.assoc
        if self._commitment is not None:
            self._commitment.heard(association)
        if association in self._incoming_bytes:
            self._incoming_bytes[association] += len(event.data)
            # A little more than the object: there are heads around its pieces.
            if self._incoming_bytes[association] > 1.1 * self._max_bytes + 1_000_000:
                self._log.event("refused", level=Level.WARNING, reason="too_large")
                self._incoming_bytes.pop(association, None)
                # From a thread of its own: this one, which reads for the association, has to end meanwhile.
                threading.Thread(target=hang_up, args=(association,), name="hang-up", daemon=True).start()

    def _action(self, event: Any, listener: str) -> tuple[int, None]:
        self._incoming_bytes[event.assoc] = 0
        if self._commitment is None:
            return NO_SUCH_CLASS, None
        return self._commitment.requested(event, listener)

    def _store(self, event: Any, listener: str) -> int:
        self._incoming_bytes[event.assoc] = 0
        try:
            file = _file_of(event)
        except Exception as error:  # noqa: BLE001 - a hostile command; the type is logged, and the node goes on
            self._log.failure("refused", error, level=Level.WARNING)
            return NOT_UNDERSTOOD
        with file:
            return self._store_file(event, file, listener)

    def _store_file(self, event: Any, file: BinaryIO, listener: str) -> int:
        request, calling_ae = event.request, str(event.assoc.requestor.ae_title).strip()
        calling_ae = "" if calling_ae == BLANK else calling_ae
        announced = (str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or ""))
        if announced[0] != event.context.abstract_syntax:
            return self._refuse("other_class", listener, OTHER_CLASS)  # perhaps one that is not allowed
        try:
            header = header_of(file)
        except ScanError as error:
            if isinstance(error, TruncatedObject):
                self._record_missing(error.header, reason_of(error), calling_ae)
            return self._put_aside(file, reason_of(error), listener, NOT_UNDERSTOOD)
        if file.seek(0, os.SEEK_END) > self._max_bytes:
            self._record_missing(header, TOO_LARGE, calling_ae)
            return self._refuse("too_large", listener, OUT_OF_RESOURCES)
        if not header.series_uid or not header.sop_uid:
            return self._put_aside(file, "blank_uid", listener, NOT_UNDERSTOOD)
        if announced != (header.sop_class, header.sop_uid):
            return self._put_aside(file, "other_class", listener, OTHER_CLASS)
        try:
            received = self._custody.keep(file, header, calling_ae, self._receive.conflict)
        except ConflictRefused as refusal:
            self._log.event(
                "conflict", refusal.key, Level.WARNING, listener=listener, reason=refusal.reason, status=CONFLICTING
            )
            return CONFLICTING
        except OutputError as error:
            self._log.failure("not_kept", error)
            return OUT_OF_RESOURCES
        number = self._association_ids.get(event.assoc)
        if number is not None:
            self._associations.delivered(number, received.key)
        if received.fate is Fate.REPLACED:
            about = {"listener": listener, "reason": REPLACED}
            self._log.event("conflict", received.key, Level.WARNING, version=received.version, **about)
        elif received.late:
            self._log.event("late_image", key=received.key, version=received.version)
        return SUCCESS

    def _record_missing(self, header: Header, reason: str, calling_ae: str) -> None:
        """Record that a series lacks an object, so that it is not segmented without it."""
        if header.series_uid and header.sop_uid:
            try:
                self._custody.record_refusal(header, reason, calling_ae)
            except OutputError as error:
                self._log.failure("not_recorded", error)

    def _refuse(self, reason: str, listener: str, status: int) -> int:
        self._log.event("refused", level=Level.WARNING, listener=listener, reason=reason, status=status)
        return status

    def _put_aside(self, file: BinaryIO, reason: str, listener: str, status: int) -> int:
        """Keep what cannot be filed, for whoever has to find out what the sender does."""
        try:
            self._custody.keep_unreadable(file, reason)
        except OutputError:
            return self._refuse("not_kept", listener, OUT_OF_RESOURCES)
        return self._refuse(reason, listener, status)


def _file_of(event: Any) -> BinaryIO:
    """The object that came, as the file that it will be, over the library's own memory: it is never there twice."""
    from pynetdicom.dsutils import encode_file_meta

    head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
    pieces = JoinedPieces(head, event.request.DataSet.getbuffer())
    return cast(BinaryIO, io.BufferedReader(pieces, _BUFFER))


def _application_entity(receive: Receive) -> Any:
    """pynetdicom's entity with our classes in every transfer syntax, titles and limits."""
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    _config.LOG_HANDLER_LEVEL = "none"  # the lines that nobody reads cost time, and quote what is sent
    ae = AE(ae_title=receive.ae_title)
    ae.require_called_aet = True
    ae.maximum_associations = _NO_LIMIT  # ours are counted when they ask for something, and not before
    ae.maximum_pdu_size = 131_072
    ae.network_timeout, ae.acse_timeout, ae.dimse_timeout = _IDLE_S, 30.0, 60.0
    ae.add_supported_context(Verification)
    for name in receive.sop_classes:
        ae.add_supported_context(sop_class_uid(name), ALL_TRANSFER_SYNTAXES)
    return ae
