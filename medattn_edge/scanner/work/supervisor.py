"""The node's hold on one worker: it starts it, waits for it, and ends it when it crashes, hangs or grows too large."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import HostError
from medattn_edge.process import Child, ChildLost
from medattn_edge.reasons import CANCELLED, CRASHED, HUNG, NOT_READY, OUT_OF_MEMORY
from medattn_edge.scanner.config.sections import Limits, Model
from medattn_edge.scanner.observe.allowlist import ERROR_CODES, REASON_CODES
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.work.tasks import Done, Refused, Task, WorkerLost, model_to_json

_WORKER: Final = "medattn_edge.scanner.work.worker"
_POLL_S: Final = 0.25


class Supervisor:
    """One worker process at a time. `start` and `run` are for one thread; the rest may be called by any.

    The worker ends with that thread, however it ends. `stop` is for the end of both.
    shared_cores: whether workers of other devices compute on the same cores.
    """

    def __init__(
        self, device: str, models: Sequence[Model], limits: Limits, log: Log, root: Path, *, shared_cores: bool = False
    ) -> None:
        self._shared_cores = shared_cores
        self.device, self._models, self._limits = device, tuple(models), limits
        self._log, self._root = log, Path(root)
        log.allow_values((device, *REASON_CODES, *ERROR_CODES))
        self._child: Child | None = None
        self._cancelled, self._stopped = False, False
        self._lock = threading.Lock()
        self._opened = False
        self._starts = 0
        self.busy_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the worker has passed its canary and lives."""
        child = self._child
        return self._opened and child is not None and child.alive

    @property
    def pid(self) -> int | None:
        """Of the worker, None when there is none."""
        child = self._child
        return child.pid if child is not None and child.alive else None

    @property
    def restarts(self) -> int:
        """How often a worker was started after the first."""
        return max(0, self._starts - 1)

    @property
    def rss_mb(self) -> float:
        """The worker's resident memory in 1e6 bytes, 0 when there is none."""
        child = self._child
        return 0.0 if child is None else child.rss_mb

    def start(self) -> None:
        """Start a worker that opens every model and runs every canary. Raises WorkerLost (`not_ready`)."""
        self._close()
        with self._lock:
            if self._stopped:
                raise WorkerLost(NOT_READY, "the node ends")
            self._starts += 1
            self._cancelled = False
            try:
                self._child = Child(_WORKER, poll_s=_POLL_S, watch=self._watch_memory)
            except HostError as error:
                raise WorkerLost(NOT_READY, error.message) from error
        try:
            request = {
                "do": "open",
                "models": [model_to_json(one) for one in self._models],
                "root": str(self._root),
                "shared_cores": self._shared_cores,
            }
            answer = self._ask(request, self._limits.start_timeout_s)
        except WorkerLost as lost:
            raise WorkerLost(NOT_READY, f"the worker did not start: {lost.reason}") from lost
        if "lost" in answer:
            failed = self._failed(answer)
            raise WorkerLost(NOT_READY, str(failed), failed.why)
        self._opened = True

    def run(self, task: Task) -> Done | Refused:
        """Have a series segmented. Raises WorkerLost when that cost the worker; the next run has a new one."""
        if not self.ready:
            self.start()
        self.busy_since = time.time()
        try:
            answer = self._ask({"do": "segment", "task": task.to_json()}, self._limits.job_timeout_s)
        finally:
            self.busy_since = None
        if "lost" in answer:
            raise self._failed(answer)
        if "refused" in answer:
            return Refused(answer["refused"]["reason"], answer["refused"]["detail"])
        return Done.from_json(answer["done"])

    def unwanted_modules(self) -> tuple[str, ...]:
        """Which of torch, onnx and safetensors the worker has loaded: none, or something is wrong."""
        return tuple(self._ask({"do": "modules"}, self._limits.start_timeout_s)["modules"])

    def cancel(self) -> None:
        """Nobody waits for what the worker does: end it. `run` raises WorkerLost."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.kill()

    def stop(self, within_s: float) -> None:
        """End the worker for good, at once when it works."""
        with self._lock:
            self._stopped, child = True, self._child
        self._opened = False
        if child is not None:
            child.stop(within_s)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        child = self._child
        if child is None:
            raise WorkerLost(NOT_READY)
        try:
            answer, _ = child.ask(request, timeout_s=timeout_s)
        except ChildLost as lost:
            raise self._lost(lost) from None
        except BaseException:
            self._close()
            raise
        return answer

    def _watch_memory(self) -> None:
        """Called several times a second while the worker is waited for."""
        if self._limits.memory_mb and self.rss_mb > self._limits.memory_mb:
            raise WorkerLost(OUT_OF_MEMORY)

    def _lost(self, lost: ChildLost) -> WorkerLost:
        """Write down how the worker ended: SIGKILL is also what the kernel takes memory back with."""
        self._close()
        if lost.timed_out:
            return WorkerLost(HUNG)
        if self._cancelled:
            return WorkerLost(CANCELLED)
        if lost.returncode is not None:
            ending = "signal" if lost.returncode < 0 else "exit_code"
            self._log.event("worker_crashed", "", Level.ERROR, device=self.device, **{ending: abs(lost.returncode)})
        return WorkerLost(CRASHED)

    def _failed(self, answer: dict[str, Any]) -> WorkerLost:
        """What failed once in it may fail for ever: a new process has a new runtime and a new device context."""
        self._close()
        lost = WorkerLost(answer["lost"], answer.get("found", ""), answer.get("why", ""))
        codes = {"code": lost.why} if lost.why else {}
        self._log.event("worker_failed", level=Level.ERROR, device=self.device, reason=lost.reason, **codes)
        return lost

    def _close(self) -> None:
        self._opened = False
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.close()
