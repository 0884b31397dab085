"""The node: receive, complete, segment, deliver. It wires the pieces, keeps time for them, and ends them in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final

from medattn_edge.errors import HostError, MedattnError
from medattn_edge.scanner.config.load import load_config
from medattn_edge.scanner.config.node_config import NodeConfig, reloadable
from medattn_edge.scanner.config.released import releases_of
from medattn_edge.scanner.endpoints import Endpoints
from medattn_edge.scanner.observe.allowlist import allowed_values
from medattn_edge.scanner.observe.capture import captured
from medattn_edge.scanner.observe.health import Health
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.observe.server import StatusServer
from medattn_edge.scanner.receive.associations import Associations
from medattn_edge.scanner.receive.objects import header_of
from medattn_edge.scanner.store.custody import Custody, open_custody
from medattn_edge.scanner.store.disk import Watermark, locked, make_root
from medattn_edge.scanner.store.layout import OVERLAY, Layout
from medattn_edge.scanner.store.served import record_served
from medattn_edge.scanner.store.snapshot import Snapshot
from medattn_edge.scanner.work.dispatch import ROOM
from medattn_edge.scanner.work.pool import WorkerPool

_LONGEST_TICK_S: Final = 1.0
_CLEAN_EVERY_S: Final = 900.0


def run(config_path: Path) -> int:
    """Run a node until SIGTERM or SIGINT; SIGHUP reads the configuration again. The exit code.

    Raises UsageError for a configuration that cannot be used, HostError when another node has the same root or
    a port is taken, IntegrityError for a damaged database.
    """
    config = load_config(config_path)
    make_root(config.root)
    log = Log(config.log_file, allow=allowed_values(config))
    with (
        _exclusive(config.root),
        captured(log),
        open_custody(config.root, config.policy(), _watermark(config)) as custody,
    ):
        record_served(config.root, releases_of(config).values())
        node = Node(config_path, config, custody, log)
        with _signals(node):
            return node.run()


class Node:
    """What runs in the main thread. Everything else is a thread of `Endpoints` or of `WorkerPool`."""

    def __init__(self, config_path: Path, config: NodeConfig, custody: Custody, log: Log) -> None:
        self.config, self.custody, self.log = config, custody, log
        self._path = config_path
        self._associations = Associations()
        self._workers = WorkerPool(config, custody, log, self._wake_deliveries)
        self._endpoints = Endpoints(config, custody, self._associations, log)
        self._status = StatusServer(config.status, self, log) if config.status is not None else None
        self._wake = threading.Event()
        self._ending = self._reload_wanted = False
        self._was_ready = False
        self._started, self._began = time.time(), time.monotonic()
        self._cleaned = 0.0

    def end(self) -> None:
        """Drain and end; safe in a signal handler."""
        self._ending = True
        self._wake.set()

    def reload(self) -> None:
        """Read the configuration again; safe in a signal handler."""
        self._reload_wanted = True
        self._wake.set()

    def run(self) -> int:
        """Recover, open, work until told to end, drain. 0; 6 when a part of the node has broken."""
        recovery = self.custody.recover(header_of)
        self.log.event(
            "recovered",
            unfinished=recovery.unfinished,
            requeued=recovery.requeued,
            quarantined=recovery.quarantined,
            adopted=recovery.adopted,
            unreadable=recovery.unreadable,
            gone=recovery.gone,
            results_lost=recovery.results_lost,
        )
        self._log_models()
        try:
            if self._status is not None:
                self.log.event("listening", listener="status", port=self._status.start())
            self._endpoints.open()
            self._workers.start()
            while not self._ending:
                self._tick()
                broken = self._endpoints.broken() or self._workers.broken()
                if broken:
                    # A thread that ended is a bug; whoever supervises the node starts it again, and nothing is lost.
                    self.log.event("broken", level=Level.ERROR, stage=broken)
                    return 6
            return 0
        finally:
            self._drain()

    def _tick(self) -> None:
        try:
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload()
            done = self.custody.queue_complete(self._associations.busy())
            for key in done.queued:
                self.log.event("complete", key=key)
            for key in done.quarantined:
                self.log.event("quarantined", key=key, level=Level.WARNING)
            self._workers.tick(wake=bool(done.queued))
            if time.monotonic() - self._cleaned > _CLEAN_EVERY_S or not self._cleaned:
                self._cleaned = time.monotonic()
                cleaned = self.custody.clean(self.config.limits.keep_days, self.config.limits.quarantine_keep_days)
                self.log.event("cleaned", series=cleaned.series, objects=cleaned.objects, bytes=cleaned.bytes)
        except MedattnError as error:
            # A full disk, mostly: what was received is safe, and the next tick tries again.
            self.log.failure("tick_failed", error)
        self._log_readiness()
        self._wake.wait(max(0.05, min(_LONGEST_TICK_S, self.config.limits.quiet_s / 10)))
        self._wake.clear()

    def _wake_deliveries(self) -> None:
        self._endpoints.wake_deliveries()

    def _log_readiness(self) -> None:
        ready = self._workers.ready
        if ready != self._was_ready:
            self._was_ready = ready
            self.log.event("readiness", ready=ready, seconds=time.monotonic() - self._began)

    def _reload(self) -> None:
        """Take over what may change while the node runs; a configuration that cannot be used changes nothing."""
        self.log.reopen()
        try:
            new = load_config(self._path)
        except MedattnError as error:
            self.log.failure("reload_refused", error)
            return
        fixed = reloadable(self.config, new)
        if fixed:
            self.log.allow_values(fixed)
            for name in fixed:
                self.log.event("restart_needed", level=Level.WARNING, kind=name)
            return
        try:
            record_served(new.root, releases_of(new).values())
        except MedattnError as error:
            self.log.failure("reload_refused", error)
            return
        self.log.allow_values(allowed_values(new))
        old, self.config = self.config, new
        self.custody.configure(new.policy(), _watermark(new))
        self._endpoints.change(old, new)
        self._workers.change(old, new)
        self.log.event("reloaded")
        self._log_models()

    def _log_models(self) -> None:
        for model in self.config.models:
            self.log.event("model", model=model.name, device=model.computes_on, sha256=model.sha256)
            if model.release_sha256:
                self.log.event("release", model=model.name, release_sha256=model.release_sha256)

    def _drain(self) -> None:
        """Take nothing new, finish the series that are being segmented, deliver what there is, all within the limit."""
        end = time.monotonic() + self.config.limits.drain_s
        self._ending = True
        self.log.event("draining")
        self._endpoints.stop_receiving(end)
        finished = self._workers.finish(end)
        self._endpoints.finish_deliveries(end)
        if self._status is not None:
            self._status.stop()
        self.log.event("ended", busy=not finished)

    # What the status page shows

    def snapshot(self) -> Snapshot:
        """Counts, times and recent jobs."""
        return self.custody.snapshot()

    def health(self) -> Health:
        """Whether the node works, and why not."""
        disk = self.custody.disk()
        why = (
            "draining"
            if self._ending
            else self._workers.why or ("disk_full" if disk.refuses or disk.free < ROOM else "")
        )
        return Health(
            ready=not why,
            why=why,
            started=self._started,
            version=version("medattn-edge"),
            name=self.config.name,
            site=self.custody.fingerprint,
            config=str(self._path.absolute()),
            draining=self._ending,
            workers=self._workers.seen(),
            models=self._workers.models_seen(),
            model_hashes={model.name: model.sha256 for model in self.config.models},
            destinations=tuple(one.name for one in self.config.destinations),
            associations=self._associations.count,
            disk=disk,
        )

    def thumbnail(self, key: str, version: int) -> Path | None:
        """The picture of a result, None when there is none or none may be shown."""
        if self.config.status is None or not self.config.status.thumbnails:
            return None
        return self.custody.result_file(key, version, OVERLAY)


def _watermark(config: NodeConfig) -> Watermark:
    limits = config.limits
    quota = None if limits.quota_gb is None else round(limits.quota_gb * 1e9)
    return Watermark(
        config.root, max_used_fraction=limits.max_used_fraction, min_free=round(limits.min_free_gb * 1e9), quota=quota
    )


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Hold the root for one node: two would segment and deliver everything twice."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(Layout(root).lock, wait=False))
        except BlockingIOError as error:
            raise HostError(
                f"another node runs in {root}", expected="one node for each root", hint="medattn-edge node status"
            ) from error
        yield


@contextmanager
def _signals(node: Node) -> Iterator[None]:
    """SIGTERM and SIGINT end the node, SIGHUP reloads it, for as long as the block lasts."""

    def on_end(number: int, frame: FrameType | None) -> None:
        node.end()

    def on_reload(number: int, frame: FrameType | None) -> None:
        node.reload()

    handlers = {signal.SIGTERM: on_end, signal.SIGINT: on_end, signal.Signals["SIGHUP"]: on_reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
