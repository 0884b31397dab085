"""The ways in and out of a node: listeners, the watched folder, and one delivery thread for each destination."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from medattn_edge.scanner.config.node_config import CommitmentPeer, Destination, NodeConfig, Receive, StorageCommitment
from medattn_edge.scanner.config.storage_classes import sop_class_uid
from medattn_edge.scanner.deliver.commitment import CommitmentAnswers
from medattn_edge.scanner.deliver.deliverer import Deliverer
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.receive.c_store import Receiver
from medattn_edge.scanner.receive.n_action import CommitmentProvider
from medattn_edge.scanner.receive.watch import Watcher
from medattn_edge.scanner.store.custody import Custody

_CLOSE_S: Final = 10.0  # for the associations that are open when the allow-lists change
_LEAST_S: Final = 1.0  # to end a thread, however late it is


@dataclass(frozen=True)
class _Running:
    """A thread, and how it is told to end and that there is something to do."""

    thread: threading.Thread
    stopping: threading.Event
    wake: threading.Event

    def stop(self) -> None:
        self.stopping.set()
        self.wake.set()


class Endpoints:
    """Opened, changed and closed by the main thread."""

    def __init__(self, config: NodeConfig, custody: Custody, associations: Associations, log: Log) -> None:
        self._config, self._custody, self._associations, self._log = config, custody, associations, log
        self._receiver: Receiver | None = None
        self._watcher: _Running | None = None
        self._deliverers: dict[str, _Running] = {}
        self._provider: CommitmentProvider | None = None
        self._answers: dict[str, _Running] = {}

    def open(self) -> None:
        """Deliveries first: what waits from before goes out while the rest starts. Raises HostError."""
        _load_library(self._config)
        for destination in self._config.destinations:
            self._start_delivery(destination)
        self._start_answers()
        self._start_receiving()

    def broken(self) -> str:
        """The part whose thread has ended by itself, "" when all are well."""
        if self._watcher is not None and not self._watcher.thread.is_alive():
            return "watching"
        if any(not running.thread.is_alive() for running in self._deliverers.values()):
            return "delivering"
        if any(not running.thread.is_alive() for running in list(self._answers.values())):
            return "committing"
        return ""

    def wake_deliveries(self) -> None:
        """There is a new result."""
        for running in list(self._deliverers.values()):
            running.wake.set()

    def change(self, old: NodeConfig, new: NodeConfig) -> None:
        """Take over another configuration; what has not changed goes on undisturbed."""
        self._config = new
        _load_library(new)
        answers = _commitment_of(old) != _commitment_of(new)
        receiving = (old.receive, old.tls, old.watch) != (new.receive, new.tls, new.watch)
        if answers or receiving:
            self.stop_receiving(time.monotonic() + _CLOSE_S)
            if answers:
                self._stop_answers(time.monotonic() + _CLOSE_S)
                self._start_answers()
            self._start_receiving()
        before = {_delivery_of(old, one) for one in old.destinations}
        after = {_delivery_of(new, one) for one in new.destinations}
        for destination, _ in before - after:
            self._stop_delivery(destination.name, time.monotonic() + _CLOSE_S)
        for destination, _ in after - before:
            self._start_delivery(destination)

    def stop_receiving(self, end: float) -> None:
        """Take nothing new. end: of `time.monotonic`, until when open associations may finish."""
        if self._receiver is not None:
            self._receiver.refuse_new()
            self._receiver.stop(max(0.0, end - time.monotonic()))
            self._receiver = None
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.thread.join(max(_LEAST_S, end - time.monotonic()))
            self._watcher = None

    def finish_deliveries(self, end: float) -> None:
        """Deliver what may be tried now, then end the deliveries."""
        while time.monotonic() < end and self._custody.deliveries_due():
            self.wake_deliveries()
            time.sleep(0.05)
        for running in self._deliverers.values():
            running.stop()
        for name in list(self._deliverers):
            self._stop_delivery(name, end)
        self._stop_answers(end)

    def _start_receiving(self) -> None:
        receive, watch = self._config.receive, self._config.watch
        if receive is not None:
            self._provider = None
            if self._config.storage_commitment.enabled:
                peers = [one.ae_title for one in self._config.commitment_peers]
                self._provider = CommitmentProvider(
                    self._config.storage_commitment, peers, self._custody.commitments, self._log, self._wake_answers
                )
            self._receiver = Receiver(
                receive, self._config.tls, self._custody, self._associations, self._log, self._provider
            )
            for listener, port in self._receiver.start().items():
                self._log.event("listening", listener=listener, port=port)
        if watch is not None:
            watcher = Watcher(watch, self._custody, self._log)
            stopping = threading.Event()
            thread = threading.Thread(target=watcher.run, args=(stopping,), name="watch", daemon=True)
            self._watcher = _Running(thread, stopping, threading.Event())
            thread.start()

    def _start_delivery(self, destination: Destination) -> None:
        calling_ae = self._config.calling_ae(destination)
        deliverer = Deliverer(destination, self._custody, self._log, calling_ae)
        stopping, wake = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=deliverer.run, args=(stopping, wake), name=f"deliver-{destination.name}", daemon=True
        )
        self._deliverers[destination.name] = _Running(thread, stopping, wake)
        thread.start()

    def _stop_delivery(self, name: str, end: float) -> None:
        running = self._deliverers.pop(name)
        running.stop()
        running.thread.join(max(_LEAST_S, end - time.monotonic()))

    # Storage commitment

    def _start_answers(self) -> None:
        if not self._config.storage_commitment.enabled or self._config.receive is None:
            return
        classes = {sop_class_uid(name) for name in self._config.receive.sop_classes}
        for peer in self._config.commitment_peers:
            answers = CommitmentAnswers(
                peer,
                self._config.storage_commitment.keep_days,
                classes,
                self._custody.commitments,
                self._log,
                self._config.receive.ae_title,
                self._association_of,
            )
            stopping, wake = threading.Event(), threading.Event()
            thread = threading.Thread(
                target=answers.run, args=(stopping, wake), name=f"commit-{peer.ae_title}", daemon=True
            )
            self._answers[peer.ae_title] = _Running(thread, stopping, wake)
            thread.start()

    def _stop_answers(self, end: float) -> None:
        answers, self._answers = self._answers, {}
        for running in answers.values():
            running.stop()
        for running in answers.values():
            running.thread.join(max(_LEAST_S, end - time.monotonic()))

    def _wake_answers(self, ae_title: str) -> None:
        if (running := self._answers.get(ae_title)) is not None:
            running.wake.set()

    def _association_of(self, request: int) -> Any:
        return None if self._provider is None else self._provider.association_of(request)


def _commitment_of(config: NodeConfig) -> tuple[StorageCommitment, tuple[CommitmentPeer, ...], Receive | None]:
    return config.storage_commitment, config.commitment_peers, config.receive


def _load_library(config: NodeConfig) -> None:
    """Import what sending needs here, and not first in several threads at once: pynetdicom's modules form a circle."""
    if config.receive is not None or any(one.host for one in config.destinations):
        import pynetdicom  # noqa: F401
    if any(one.dicomweb for one in config.destinations):
        import medattn_edge.io.dicomweb.client  # noqa: F401


def _delivery_of(config: NodeConfig, destination: Destination) -> tuple[Destination, str]:
    return destination, config.calling_ae(destination)
