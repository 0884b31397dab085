"""Two ways out of a node: C-STORE to an archive, and a folder. Each raises DeliveryRefused with a code."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import MedattnError
from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.reasons import DELIVERY_REASONS
from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.config.tls import client_context

_VERIFICATION: Final = "1.2.840.10008.1.1"
_IMPLICIT: Final = "1.2.840.10008.1.2"
_CLOSING_S: Final = 2.0  # for the library's thread to end after a refusal
_REWRITABLE: Final = frozenset({_IMPLICIT, "1.2.840.10008.1.2.1"})  # pixels stay as they are
_LEAST_BYTES_PER_S: Final = 125_000  # a slow line is no archive that hangs
_DUPLICATE: Final = 0x0111  # it has the object from an earlier try: the same, since its UID follows from the input
_CODES: Final = {0x0122: "class_not_supported", 0x0124: "not_authorised"}
_FAMILIES: Final = {0xA7: "out_of_resources", 0xA9: "data_set_mismatch"}
_REJECTIONS: Final = {(1, 3): "calling_title_unknown", (1, 7): "called_title_unknown"}  # (source, reason)


class DeliveryRefused(MedattnError):
    """A destination did not take a result.

    Attributes:
        reason: a code of DELIVERY_REASONS.
        status: of DICOM or HTTP, 0 where there was none.
        final: whether it judged the object itself, so that no later try can do better.
        of_all: whether the destination takes nothing now, so that the next result need not be tried.
    """

    code = "delivery_refused"

    def __init__(self, reason: str, status: int = 0, *, final: bool = False, of_all: bool = False) -> None:
        known = DELIVERY_REASONS[reason]
        self.reason, self.status, self.final, self.of_all = reason, status, final, of_all
        super().__init__(
            f"the destination did not take a result ({reason}): {known.meaning}", expected="it to", hint=known.action
        )


class Archive:
    """One association for several deliveries. Raises DeliveryRefused when there is none to be had."""

    def __init__(self, destination: Destination, files: Iterable[Path], calling_ae: str) -> None:
        self._timeout_s, self._sent = destination.timeout_s, 0
        self._kinds = {path: _kind(path) for path in files}
        contexts = _contexts({kind for kind in self._kinds.values() if kind is not None})
        self._association = associate(destination, calling_ae, contexts) if contexts else None

    @property
    def open(self) -> bool:
        """Whether more can be sent."""
        return self._association is None or bool(self._association.is_established)

    def send(self, path: Path) -> int:
        """C-STORE one of the files; the status: 0, or a warning. Raises DeliveryRefused."""
        kind = self._kinds[path]
        if kind is None or self._association is None:
            raise DeliveryRefused("result_damaged" if path.is_file() else "result_missing")
        if not self._takes(*kind):
            raise DeliveryRefused("class_not_accepted")
        dataset = _read(path)
        size = path.stat().st_size
        began, self._sent = time.monotonic(), self._sent % 65535 + 1
        self._association.dimse_timeout = self._timeout_s + size / _LEAST_BYTES_PER_S
        try:
            with quiet():
                answer = self._association.send_c_store(dataset, msg_id=self._sent, priority=0)
        except (ValueError, AttributeError) as error:
            raise DeliveryRefused("result_damaged") from error
        except RuntimeError as error:
            raise DeliveryRefused("aborted") from error
        if "Status" not in answer:
            raise DeliveryRefused("no_answer" if time.monotonic() - began >= 0.95 * self._timeout_s else "aborted")
        return _accepted(int(answer.Status))

    def close(self) -> None:
        """End the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()

    def _takes(self, sop_class: str, syntax: str) -> bool:
        """Whether a context was accepted in which the object can go."""
        assert self._association is not None
        accepted = {
            str(cx.transfer_syntax[0]) for cx in self._association.accepted_contexts if cx.abstract_syntax == sop_class
        }
        return syntax in accepted or (syntax in _REWRITABLE and bool(accepted & _REWRITABLE))


def echo(destination: Destination, calling_ae: str) -> None:
    """C-ECHO: raises DeliveryRefused unless an archive knows us and answers. Nothing is sent."""
    from pynetdicom.presentation import build_context

    association = associate(destination, calling_ae, [build_context(_VERIFICATION)])
    began = time.monotonic()
    try:
        reply = association.send_c_echo()
    except (RuntimeError, ValueError) as error:
        raise DeliveryRefused("aborted") from error
    finally:
        if association.is_established:
            association.release()
    if "Status" not in reply:
        raise DeliveryRefused("no_answer" if time.monotonic() - began >= 0.95 * destination.timeout_s else "aborted")
    _accepted(int(reply.Status))


def _kind(path: Path) -> tuple[str, str] | None:
    """The SOP class and the transfer syntax of a file, None when it cannot be read."""
    from pydicom.filereader import read_file_meta_info

    try:
        with quiet():
            meta = read_file_meta_info(path)
            return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except failures():
        return None


def _read(path: Path) -> Any:
    import pydicom

    try:
        with quiet():
            return pydicom.dcmread(path)
    except failures() as error:
        raise DeliveryRefused("result_damaged" if path.is_file() else "result_missing") from error


def _contexts(kinds: Iterable[tuple[str, str]]) -> Sequence[Any]:
    """Each class in the syntax of its files, and in the one that every archive takes, where they can be rewritten."""
    from pynetdicom.presentation import build_context

    pairs = dict.fromkeys(sorted(kinds))
    pairs |= dict.fromkeys((sop_class, _IMPLICIT) for sop_class, syntax in pairs if syntax in _REWRITABLE)
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def associate(
    destination: Destination, calling_ae: str, contexts: Sequence[Any], negotiation: Sequence[Any] = ()
) -> Any:
    """An association, established. Raises DeliveryRefused when there is none to be had.

    Args:
        destination: whom to connect to.
        calling_ae: what the node calls itself.
        contexts: presentation contexts that are proposed.
        negotiation: items of the extended negotiation, such as roles.
    """
    from pynetdicom import AE, _config, evt

    _config.LOG_HANDLER_LEVEL = "none"
    opened: list[bool] = []

    def on_open(event: Any) -> None:
        opened.append(True)
        # Without it, an archive that stops reading in the middle of an object would hold the thread for ever.
        event.assoc.dul.socket.socket.settimeout(destination.timeout_s)

    ae = AE(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.timeout_s
    tls, refusals, sockets = _tls(destination)
    began = time.monotonic()
    try:
        association = ae.associate(
            destination.host,
            destination.port,
            list(contexts),
            ae_title=destination.ae_title,
            ext_neg=list(negotiation),
            tls_args=tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
        )
    except OSError as error:  # of the look-up: all others, the library keeps to itself
        raise DeliveryRefused("host_unknown") from error
    if association.is_established:
        return association
    association.dul.join(_CLOSING_S)
    if not association.dul.is_alive():
        # The library shuts them down, which fails where TLS was refused, and would leave them to the garbage collector.
        for one in sockets:
            one.close()
    if association.is_rejected:
        reply: Any = association.acceptor.primitive
        raise DeliveryRefused(_REJECTIONS.get((reply.result_source, reply.diagnostic), "association_rejected"))
    if refusals:
        raise DeliveryRefused("tls_refused")
    if not opened:
        raise DeliveryRefused("no_connection")
    if association.rejected_contexts:
        raise DeliveryRefused("class_not_accepted")
    raise DeliveryRefused("no_answer" if time.monotonic() - began >= 0.95 * destination.timeout_s else "aborted")


def _tls(
    destination: Destination,
) -> tuple[tuple[ssl.SSLContext, str] | None, list[ssl.SSLError], list[ssl.SSLSocket]]:
    """What the library needs for TLS, and two lists that are filled later.

    They are what TLS refuses, which the library only logs, and the sockets that were opened.
    """
    refusals: list[ssl.SSLError] = []
    sockets: list[ssl.SSLSocket] = []
    if not destination.tls:
        return None, refusals, sockets
    try:
        context = client_context(destination)
    except MedattnError as error:
        raise DeliveryRefused("tls_files_unusable") from error

    class Watched(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            sockets.append(self)
            try:
                super().do_handshake(block)
            except ssl.SSLError as error:
                refusals.append(error)
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            # With TLS 1.3, that the archive wants a certificate comes after the handshake.
            try:
                return super().recv(buflen, flags)
            except ssl.SSLError as error:
                refusals.append(error)
                raise

    context.sslsocket_class = Watched
    return (context, destination.host), refusals, sockets


def _accepted(status: int) -> int:
    """The status, when it says that the object is stored. Raises DeliveryRefused."""
    from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, code_to_category

    if status == _DUPLICATE or code_to_category(status) in {STATUS_SUCCESS, STATUS_WARNING}:
        return status
    reason = _CODES.get(status) or _FAMILIES.get(status >> 8)
    raise DeliveryRefused(reason or ("not_understood" if 0xC000 <= status <= 0xCFFF else "refused"), status)
