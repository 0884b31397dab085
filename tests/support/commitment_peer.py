"""A modality that asks for storage commitment, and where it takes the answers."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, NamedTuple

from pydicom import config
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from tests.support.dicom_peers import AE_TITLE, closing_sockets, free_port

PUSH_MODEL, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


class Answer(NamedTuple):
    """One N-EVENT-REPORT. failed: FailureReason by UID."""

    transaction: str
    event: int
    committed: frozenset[str]
    failed: dict[str, int]
    same_association: bool


def information(transaction: str | None, references: Any) -> Dataset:
    """What an N-ACTION carries. references: (class, UID), or whatever may stand in the sequence."""
    dataset = Dataset()
    with config.disable_value_validation():
        if transaction is not None:
            dataset.TransactionUID = transaction
        if references is not None:
            dataset.ReferencedSOPSequence = []
            for sop_class, uid in references:
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
                dataset.ReferencedSOPSequence.append(item)
    return dataset


class CommitmentScu:
    """answers: what came, in order. status: that it answers to each N-EVENT-REPORT. roles: whether it takes ours."""

    def __init__(self, title: str = "SCANNER", *, roles: bool = True, tls: Any = None) -> None:
        self.title, self.status, self.port, self._tls = title, 0x0000, free_port(), tls
        self.answers: list[Answer] = []
        self.came = threading.Event()
        self._roles, self._stack = roles, ExitStack()
        self._server: Any = None

    def __enter__(self) -> CommitmentScu:
        self.up()
        return self

    def __exit__(self, *ended: object) -> None:
        self.down()

    def up(self) -> None:
        """Listen for answers, at the same port as ever."""
        ae = AE(ae_title=self.title)
        roles: dict[str, Any] = {"scu_role": False, "scp_role": True} if self._roles else {}
        ae.add_supported_context(PUSH_MODEL, **roles)
        opened = self._stack.enter_context(closing_sockets())
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._take, [False]), (evt.EVT_CONN_OPEN, opened)]
        address = ("127.0.0.1", self.port)
        self._server = ae.start_server(address, block=False, evt_handlers=handlers, ssl_context=self._tls)

    def down(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        self._stack.close()

    @property
    def peer(self) -> dict[str, Any]:
        """Its section of a configuration."""
        return {"ae_title": self.title, "host": "127.0.0.1", "port": self.port, "timeout_s": 5.0}

    def ask(self, port: int, dataset: Any, *, hold: float = 0.0, role: Any = None, **changes: Any) -> int | None:
        """N-ACTION; the status. hold: seconds that the association stays open for an answer on it.

        changes: action, sop_class and instance of the request.
        """
        ae = AE(ae_title=self.title)
        ae.connection_timeout, ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = 10, 30, 10, 60
        ae.add_requested_context(PUSH_MODEL)
        roles: list[Any] = [] if role is None else [build_role(PUSH_MODEL, scu_role=role[0], scp_role=role[1])]
        with closing_sockets() as opened:
            handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._take, [True]), (evt.EVT_CONN_OPEN, opened)]
            association = ae.associate("127.0.0.1", port, ae_title=AE_TITLE, ext_neg=roles, evt_handlers=handlers)
            if not association.is_established:
                return None
            reply, _ = association.send_n_action(
                dataset,
                changes.get("action", 1),
                PUSH_MODEL,
                changes.get("instance", INSTANCE),
            )
            if hold:
                self.came.wait(hold)
            association.release()
            association.join(5)
        return int(reply.Status) if "Status" in reply else None

    def wait(self, count: int = 1, seconds: float = 10) -> list[Answer]:
        """The answers, once there are so many."""
        for _ in range(count):
            if len(self.answers) >= count:
                break
            assert self.came.wait(seconds), f"{len(self.answers)} of {count} answers"
            self.came.clear()
        return self.answers

    def _take(self, event: Any, same: bool) -> tuple[int, None]:
        told = event.event_information
        if self.status == 0:
            committed = frozenset(str(one.ReferencedSOPInstanceUID) for one in told.get("ReferencedSOPSequence") or ())
            failed = {
                str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in told.get("FailedSOPSequence") or ()
            }
            self.answers.append(Answer(str(told.TransactionUID), event.request.EventTypeID, committed, failed, same))
            self.came.set()
        return self.status, None
