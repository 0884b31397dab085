"""A receiver on loopback over the durable half of a node, in this process, with its log at hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.scanner.config.node_config import Receive, StorageCommitment, Tls
from medattn_edge.scanner.observe.allowlist import REASON_CODES
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.receive.c_store import Receiver
from medattn_edge.scanner.receive.n_action import CommitmentProvider
from tests.support.durable_node import Node

if TYPE_CHECKING:
    from typing_extensions import Self

RECEIVE = Receive(calling_ae=("SCANNER",), port=0)


class Serving:
    """port: of the plain listener. tls_port: of the other one, 0 without. Everything that is logged is in `text`."""

    def __init__(
        self,
        node: Node,
        tls: Tls | None = None,
        *,
        commitment: StorageCommitment | None = None,
        peers: Sequence[str] = (),
        **receive: Any,
    ) -> None:
        self.node, self.associations, self._text = node, Associations(), io.StringIO()
        self.log = Log(self._text, allow=(*REASON_CODES, "plain", "tls", *peers))
        made = replace(RECEIVE, **receive)
        self.provider = None
        if commitment is not None:
            commitments = node.custody.commitments
            self.provider = CommitmentProvider(commitment, peers, commitments, self.log, lambda title: None)
        self.receiver = Receiver(made, tls, node.custody, self.associations, self.log, self.provider)
        self.port = self.tls_port = 0

    def __enter__(self) -> Self:
        self._captured = captured(self.log)
        self._captured.__enter__()
        ports = self.receiver.start()
        self.port, self.tls_port = ports.get("plain", 0), ports.get("tls", 0)
        return self

    def __exit__(self, *ended: object) -> None:
        self.receiver.stop(5)
        self._captured.__exit__(None, None, None)

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        return [line for line in map(json.loads, self.text.splitlines()) if line["event"] == name]

    @property
    def reasons(self) -> list[str]:
        """Of what was rejected or refused, in order."""
        lines = map(json.loads, self.text.splitlines())
        return [line["reason"] for line in lines if line["event"] in {"rejected", "refused"}]

    def files(self) -> list[Path]:
        """Of the series that are kept."""
        return sorted(self.node.spool.incoming.rglob("*.dcm"))

    def aside(self) -> list[Path]:
        """What is in quarantine without belonging to a series."""
        return sorted(self.node.spool.objects.iterdir())

    def count(self) -> int:
        """Objects on record."""
        with self.node.store.database.reading() as database:
            return int(database.execute("SELECT COUNT(*) FROM instances").fetchone()[0])
