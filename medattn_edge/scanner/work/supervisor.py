"""The node's hold on one worker: it starts it, waits for it, and ends it when it crashes, hangs or grows too large."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from medattn_edge.errors import HostError
from medattn_edge.process.channel import Channel
from medattn_edge.process.child import spawn
from medattn_edge.reasons import CANCELLED, CRASHED, HUNG, NOT_READY, OUT_OF_MEMORY
from medattn_edge.scanner.config.sections import Limits, Model
from medattn_edge.scanner.observe.allowlist import ERROR_CODES, REASON_CODES
from medattn_edge.scanner.observe.log import Level, Log
from medattn_edge.scanner.work.tasks import Done, Refused, Task, WorkerLost, model_to_json

_WORKER: Final = "medattn_edge.scanner.work.worker"
_LOOK_S: Final = 0.25
_MB: Final = 1_000_000


class Supervisor:
    """One worker process at a time. `start` and `run` are for one thread; the rest may be called by any.

    The worker ends with that thread, however it ends. `stop` is for the end of both.
    """

    def __init__(self, device: str, models: Sequence[Model], limits: Limits, log: Log, root: Path) -> None:
        self.device, self._models, self._limits = device, tuple(models), limits
        self._log, self._root = log, Path(root)
        log.allow_values((device, *REASON_CODES, *ERROR_CODES))
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._channel: Channel | None = None
        self._deadline, self._cancelled, self._stopped = 0.0, False, False
        self._lock = threading.Lock()
        self._opened, self._asking = False, False
        self._starts = 0
        self.busy_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the worker has passed its canary and lives."""
        process = self._process
        return self._opened and process is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the worker, None when there is none."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    @property
    def restarts(self) -> int:
        """How often a worker was started after the first."""
        return max(0, self._starts - 1)

    @property
    def rss_mb(self) -> float:
        """The worker's resident memory in 1e6 bytes, 0 when there is none."""
        pid = self.pid
        return 0.0 if pid is None else _resident(pid) / _MB

    def start(self) -> None:
        """Start a worker that opens every model and runs every canary. Raises WorkerLost (`not_ready`)."""
        self._kill()
        with self._lock:
            if self._stopped:
                raise WorkerLost(NOT_READY, "the node ends")
            self._starts += 1
            self._cancelled = False
            try:
                self._process, self._end = spawn(_WORKER, {})
            except HostError as error:
                raise WorkerLost(NOT_READY, error.message) from error
            self._end.settimeout(_LOOK_S)
            self._channel = Channel(self._end, self._look)
        try:
            asked = {"do": "open", "models": [model_to_json(one) for one in self._models], "root": str(self._root)}
            answer = self._ask(asked, self._limits.start_timeout_s)
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
            if self._process is not None:
                self._process.kill()

    def stop(self, within_s: float) -> None:
        """End the worker for good, at once when it works."""
        with self._lock:
            self._stopped = True
            process, end, asking = self._process, self._end, self._asking
        if process is None:
            return
        if end is not None and not asking:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # it ends by itself when the node is gone
        else:
            process.kill()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not asking:
            self._kill()  # whoever asks closes our end when no answer comes

    def _ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        with self._lock:
            channel = self._channel
            self._asking = channel is not None
        if channel is None:
            raise WorkerLost(NOT_READY)
        self._deadline = time.monotonic() + seconds
        try:
            channel.send(message)
            answer, _ = channel.receive()
        except EOFError:
            raise self._lost(CANCELLED if self._cancelled else CRASHED) from None
        except WorkerLost as lost:
            raise self._lost(lost.reason) from None
        except BaseException:
            self._kill()  # its answer must not be taken for the next one's
            raise
        finally:
            self._asking = False
        return answer

    def _look(self) -> None:
        """Called several times a second while the worker is waited for."""
        process = self._process
        if process is None or process.poll() is not None:
            raise EOFError
        if time.monotonic() > self._deadline:
            raise WorkerLost(HUNG)
        if self._limits.memory_mb and self.rss_mb > self._limits.memory_mb:
            raise WorkerLost(OUT_OF_MEMORY)

    def _lost(self, reason: str) -> WorkerLost:
        """Make sure of its end, and write down how it ended: SIGKILL is also what the kernel takes memory back with."""
        code = self._kill()
        if reason == CRASHED and code is not None:
            ending = "signal" if code < 0 else "exit_code"
            self._log.event("worker_crashed", "", Level.ERROR, device=self.device, **{ending: abs(code)})
        return WorkerLost(reason)

    def _failed(self, answer: dict[str, Any]) -> WorkerLost:
        """What failed once in it may fail for ever: a new process has a new runtime and a new device context."""
        self._kill()
        lost = WorkerLost(answer["lost"], answer.get("found", ""), answer.get("why", ""))
        codes = {"code": lost.why} if lost.why else {}
        self._log.event("worker_failed", level=Level.ERROR, device=self.device, reason=lost.reason, **codes)
        return lost

    def _kill(self) -> int | None:
        self._opened = False
        with self._lock:
            process, end, self._channel = self._process, self._end, None
            self._process = self._end = None
        if end is not None:
            end.close()
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.5) if process.poll() is None else process.returncode
        process.kill()
        return process.wait()


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
