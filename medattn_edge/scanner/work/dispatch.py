"""One thread for each worker: it claims a series, has it segmented, and puts the result or the reason on record."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medattn_edge.errors import MedattnError
from medattn_edge.reasons import CUT_OFF, OBJECT_DAMAGED, ROUTE_CHANGED
from medattn_edge.scanner.config.node_config import Model
from medattn_edge.scanner.config.routing import place, route
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.store.custody import Custody, FilesLost
from medattn_edge.scanner.store.records import Job, Placement
from medattn_edge.scanner.work.supervisor import Supervisor
from medattn_edge.scanner.work.tasks import Done, Refused, Task, WorkerLost

_IDLE_S: Final = 0.5  # between looks for work, when nobody wakes the thread
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # before a worker that does not come up is tried again
ROOM: Final = 64_000_000  # bytes that a result may need; without them no series is claimed


@dataclass(frozen=True)
class Routes:
    """Which model segments a series, and where its results go.

    Attributes:
        models: in the order in which they are asked.
        destinations: the names of all.
    """

    models: tuple[Model, ...]
    destinations: tuple[str, ...]

    def of(self, job: Job) -> Model | None:
        """The first model that takes the series, or the one of a study; None when there is none."""
        return route(self.models, job)

    def place(self, job: Job) -> Placement | None:
        """Which channel of a study the series is; None for one that is segmented by itself, or by no model."""
        return place(self.models, job)

    def accepts(self, job: Job, device: str) -> bool:
        """Whether a worker of the device segments the job as it is: a channel waits for its study."""
        model = self.of(job)
        return model is not None and model.computes_on == device and bool(model.channels) == bool(job.parts)

    def destinations_of(self, model: Model) -> tuple[str, ...]:
        """Its own destinations; all there are when it names none."""
        return model.destinations or self.destinations


class Dispatcher(threading.Thread):
    """Keeps one worker busy. `routes` may be replaced at any time: it counts for the next series.

    Attributes:
        device: of the worker.
        supervisor: its hold on the worker.
        routes: which model takes a series.
    """

    def __init__(
        self,
        device: str,
        supervisor: Supervisor,
        routes: Routes,
        custody: Custody,
        log: Log,
        on_result: Callable[[], None],
    ) -> None:
        """Nothing starts yet. on_result: called after every result, so that its delivery starts at once."""
        super().__init__(name=f"work-{device}", daemon=True)
        self.device, self.supervisor, self.routes = device, supervisor, routes
        self._custody, self._log, self._on_result = custody, log, on_result
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._leave = self._short = False

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def stop(self, *, leave: bool) -> None:
        """Claim nothing more; the thread ends after the series that it works on.

        leave: a series that is cut off stays `running`, because the node ends: the next start queues it again, and no
        failure is counted against it.
        """
        self._leave = leave
        self._stopping.set()
        self._wake.set()

    def cancel_what_is_superseded(self) -> None:
        """End the work on a series of which a late image has come meanwhile: nobody waits for it any more."""
        with self._lock:
            if self._job is not None and not self._custody.is_held(self._job):
                self.supervisor.cancel()

    def run(self) -> None:
        """The thread: bring the worker up, work, and start again when the worker is lost."""
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                if not self.supervisor.ready:
                    self.supervisor.start()
                    pause = _FIRST_PAUSE_S
                    self._log.event("worker_ready", device=self.device, pid=self.supervisor.pid or 0)
                if not self._work():
                    self._rest(_IDLE_S)
            except MedattnError as error:
                # A worker that does not come up, or a disk that takes nothing: tried again, more and more seldom.
                self._log.failure("worker_waits", error)
                self._rest(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _rest(self, seconds: float) -> None:
        if self._stopping.is_set():
            return
        self._wake.wait(seconds)
        self._wake.clear()

    def _work(self) -> bool:
        """Segment one series; False when there is none for this worker."""
        short = self._custody.disk().free < ROOM
        if short != self._short:
            self._short = short
            self._log.event("no_room", level=Level.WARNING if short else Level.INFO, device=self.device, refused=short)
        if short:
            return False
        job = self._custody.claim(self.device, self._accepts)
        if job is None:
            return False
        # The routes may have changed between the claim and here.
        model = self.routes.of(job)
        if model is None or not self.routes.accepts(job, self.device):
            self._custody.fail(job, ROUTE_CHANGED)
            return True
        self._log.event("claimed", key=job.key, version=job.version, attempt=job.attempt, model=model.name)
        try:
            files = self._custody.channel_files(job)
        except FilesLost as lost:
            self._custody.quarantine(job, lost.reason, lost.found)
            level = Level.ERROR if lost.reason == OBJECT_DAMAGED else Level.WARNING
            self._log.event(lost.reason, key=job.key, level=level, version=job.version)
            self._log.event("quarantined", key=job.key, level=Level.WARNING, version=job.version, reason=lost.reason)
            return True
        folder = self._custody.working_folder(job)
        try:
            self._segment(job, model, Task.of(model.name, files, folder, job.contents))
        finally:
            # Published it is not there any more; what a lost worker left is of no use to the next attempt.
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def _accepts(self, job: Job) -> bool:
        return self.routes.accepts(job, self.device)

    def _segment(self, job: Job, model: Model, task: Task) -> None:
        started = time.monotonic()
        with self._lock:
            self._job = job
        try:
            outcome = self.supervisor.run(task)
        except WorkerLost as lost:
            if self._stopping.is_set() and self._leave:
                return
            reason = CUT_OFF if self._stopping.is_set() else lost.reason
            state = self._custody.fail(job, reason)
            if state is None:
                self._log.event("superseded", key=job.key, version=job.version)
                return
            self._log.event(
                "worker_lost", key=job.key, level=Level.ERROR, version=job.version, reason=reason, state=state
            )
            return
        finally:
            with self._lock:
                self._job = None
        seconds = time.monotonic() - started
        if isinstance(outcome, Refused):
            self._custody.quarantine(job, outcome.reason, outcome.detail)
            self._log.event("quarantined", key=job.key, level=Level.WARNING, version=job.version, reason=outcome.reason)
        else:
            self._keep(job, model, task.folder, outcome, seconds)

    def _keep(self, job: Job, model: Model, folder: Path, outcome: Done, seconds: float) -> None:
        destinations = self.routes.destinations_of(model)
        if self._custody.record_result(job, folder, outcome.outputs, destinations, outcome.volumes_ml):
            about = {"version": job.version, "seconds": seconds}
            about |= {"volume": model.volume} if model.volume else {}
            self._log.event("segmented", job.key, Level.INFO, model=model.name, **about)
            self._on_result()
        else:
            self._log.event("superseded", key=job.key, version=job.version)
