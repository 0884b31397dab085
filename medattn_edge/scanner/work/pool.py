"""The workers of a node, one for each device, and the series that none of them takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from medattn_edge.reasons import NO_MODEL
from medattn_edge.scanner.config.node_config import NodeConfig
from medattn_edge.scanner.config.sections import Channel
from medattn_edge.scanner.observe.health import WorkerSeen
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.custody import Custody
from medattn_edge.scanner.work.dispatch import Dispatcher, Routes
from medattn_edge.scanner.work.supervisor import Supervisor

_LEAST_S: Final = 1.0  # to end a worker, however late it is
_NOBODY: Final = "router"


class WorkerPool:
    """Started, changed and ended by the main thread. result: called by the workers' threads after each result."""

    def __init__(self, config: NodeConfig, custody: Custody, log: Log, result: Callable[[], None]) -> None:
        self._config, self._custody, self._log, self._result = config, custody, log, result
        self._routes = _routes(config)
        self._dispatchers: dict[str, Dispatcher] = {}

    def start(self) -> None:
        """Bring up a worker for each device; they become ready in their own time."""
        for device in _devices(self._config):
            self._start(device)

    @property
    def ready(self) -> bool:
        """Whether every worker has passed its canary."""
        return bool(self._dispatchers) and all(one.supervisor.ready for one in self._dispatchers.values())

    @property
    def why(self) -> str:
        """A code, "" when every worker is ready."""
        if self.ready:
            return ""
        restarts = sum(one.supervisor.restarts for one in self._dispatchers.values())
        return "worker_not_ready" if restarts else "starting"

    def broken(self) -> str:
        """The part whose thread has ended by itself, "" when all are well."""
        return "" if all(one.is_alive() for one in self._dispatchers.values()) else "segmenting"

    def tick(self, *, wake: bool) -> None:
        """Gather studies, quarantine what no model takes, cancel what is superseded, and wake who has work."""
        wake = self._gather() or wake
        while (job := self._custody.claim(_NOBODY, lambda job: self._routes.of(job) is None)) is not None:
            self._custody.quarantine(job, NO_MODEL)
            self._log.event("quarantined", key=job.key, level=Level.WARNING, version=job.version, reason=NO_MODEL)
        for dispatcher in self._dispatchers.values():
            dispatcher.cancel_what_is_superseded()
            if wake:
                dispatcher.wake()

    def _gather(self) -> bool:
        """Let series that are channels join their studies. Whether a study is queued now."""
        gathering = self._custody.gather_studies(self._routes.place)
        for key, _ in gathering.joined:
            self._log.event("joined", key=key)
        for key in gathering.queued:
            self._log.event("complete", key=key)
        for key, reason in gathering.quarantined:
            self._log.event("quarantined", key=key, level=Level.WARNING, reason=reason)
        return bool(gathering.queued)

    def change(self, old: NodeConfig, new: NodeConfig) -> None:
        """Take over other models. A worker that opens the same ones stays; another one ends its series first."""
        self._config, self._routes = new, _routes(new)
        for device in sorted(_devices(old) | _devices(new)):
            if _opened(old, device) != _opened(new, device):
                self._end(device, time.monotonic() + old.limits.drain_s, leave=False)
                if device in _devices(new):
                    self._start(device)
            elif device in self._dispatchers:
                self._dispatchers[device].routes = self._routes

    def finish(self, end: float) -> bool:
        """End every worker after its series, or at `end` of `time.monotonic`. False when one was cut off."""
        for dispatcher in self._dispatchers.values():
            dispatcher.stop(leave=True)
        ended = {device: self._end(device, end, leave=True) for device in list(self._dispatchers)}
        return all(ended.values())

    def seen(self) -> tuple[WorkerSeen, ...]:
        """The workers, for the status page."""
        return tuple(
            WorkerSeen(
                device,
                one.supervisor.ready,
                one.supervisor.busy_since is not None,
                one.supervisor.pid,
                one.supervisor.restarts,
                one.supervisor.rss_mb,
            )
            for device, one in sorted(self._dispatchers.items())
        )

    def models_seen(self) -> tuple[tuple[str, str, str], ...]:
        """(name, device, kind of artifact) of every model."""
        return tuple(
            (model.name, model.computes_on, "release" if model.release_sha256 else model.artifact.suffix.lstrip("."))
            for model in self._config.models
        )

    def _start(self, device: str) -> None:
        models = [model for model in self._config.models if model.computes_on == device]
        limits, root, shared = self._config.limits, self._custody.layout.root, _shared_cores(self._config)
        supervisor = Supervisor(device, models, limits, self._log, root, shared_cores=shared)
        dispatcher = Dispatcher(device, supervisor, self._routes, self._custody, self._log, self._result)
        self._dispatchers[device] = dispatcher
        dispatcher.start()

    def _end(self, device: str, end: float, *, leave: bool) -> bool:
        dispatcher = self._dispatchers.pop(device, None)
        if dispatcher is None:
            return True
        dispatcher.stop(leave=leave)
        dispatcher.join(max(0.0, end - time.monotonic()))
        finished = not dispatcher.is_alive()
        # Ends the worker's process, and with it what the thread waits for.
        dispatcher.supervisor.stop(_LEAST_S)
        dispatcher.join(_LEAST_S)
        return finished


def _routes(config: NodeConfig) -> Routes:
    return Routes(config.models, tuple(one.name for one in config.destinations))


def _devices(config: NodeConfig) -> set[str]:
    return {model.computes_on for model in config.models}


def _shared_cores(config: NodeConfig) -> bool:
    """Whether several workers compute on the host's cores: one of a GPU prepares and restores scans there."""
    return len(_devices(config)) > 1


def _opened(config: NodeConfig, device: str) -> tuple[object, ...]:
    """What a worker depends on: the models of its device without their routes, its own limits, and its neighbours."""
    models = [
        replace(
            model,
            modality="",
            body_part="*",
            description="*",
            calling_ae="*",
            destinations=(),
            channels=tuple(Channel(one.name, volume=one.volume) for one in model.channels),
        )
        for model in config.models
        if model.computes_on == device
    ]
    limits = config.limits
    return (*models, limits.job_timeout_s, limits.start_timeout_s, limits.memory_mb, _shared_cores(config))
