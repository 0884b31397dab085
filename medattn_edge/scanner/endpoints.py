"""The ways in and out of a node: listeners, the watched folder, and one delivery thread for each destination."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final

from medattn_edge.scanner.config.node_config import Destination, NodeConfig
from medattn_edge.scanner.deliver.deliverer import Deliverer
from medattn_edge.scanner.observe.log import Log
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.receive.c_store import Receiver
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

    def open(self) -> None:
        """Deliveries first: what waits from before goes out while the rest starts. Raises HostError."""
        _load_library(self._config)
        for destination in self._config.destinations:
            self._start_delivery(destination)
        self._start_receiving()

    def broken(self) -> str:
        """The part whose thread has ended by itself, "" when all are well."""
        if self._watcher is not None and not self._watcher.thread.is_alive():
            return "watching"
        if any(not running.thread.is_alive() for running in self._deliverers.values()):
            return "delivering"
        return ""

    def wake_deliveries(self) -> None:
        """There is a new result."""
        for running in list(self._deliverers.values()):
            running.wake.set()

    def change(self, old: NodeConfig, new: NodeConfig) -> None:
        """Take over another configuration; what has not changed goes on undisturbed."""
        self._config = new
        _load_library(new)
        if (old.receive, old.tls, old.watch) != (new.receive, new.tls, new.watch):
            self.stop_receiving(time.monotonic() + _CLOSE_S)
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

    def _start_receiving(self) -> None:
        receive, watch = self._config.receive, self._config.watch
        if receive is not None:
            self._receiver = Receiver(receive, self._config.tls, self._custody, self._associations, self._log)
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


def _load_library(config: NodeConfig) -> None:
    """Import what C-STORE needs here, and not first in several threads at once: its modules form a circle."""
    if config.receive is not None or any(one.folder is None for one in config.destinations):
        import pynetdicom  # noqa: F401


def _delivery_of(config: NodeConfig, destination: Destination) -> tuple[Destination, str]:
    return destination, config.calling_ae(destination)
