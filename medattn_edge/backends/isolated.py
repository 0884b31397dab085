"""IsolatedSession: a session whose runtime lives in a process of its own, where it may crash, hang or leak."""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medattn_edge import errors
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.process.channel import Channel, Message
from medattn_edge.process.child import end as end_child
from medattn_edge.process.child import ending, spawn
from medattn_edge.spec import ModelSpec

SECONDS = 600.0  # the time limit of opening, and of one run
_OPENER = "medattn_edge.backends:open_session"
_LOOK_SECONDS = 1.0
_WORKER = "medattn_edge.backends.isolated_worker"


class IsolatedSession(Session):
    """The session that `open_session` would open, in a child process that ends with this one.

    A child that dies or does not answer in time is a BackendError that says why, now and for every later run; an error
    that was raised in the child is raised here as it was. The child writes to stderr only. facts: those of the
    session, and the child's `pid`. Several threads may call it: one run is done after the other.
    opened_s: from the start of the child until its session was open, in s. last_ms: how long the last run took, by the
    device's clock where the session has one, else measured in the child; the way there and back is not in it.
    peak_rss_mb: the most memory that the child has held, in 1e6 bytes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        backend: str | None = None,
        options: Options | None = None,
        seconds: float = SECONDS,
        environment: Mapping[str, str] | None = None,
        opener: str = _OPENER,
    ) -> None:
        """seconds: the time limit of opening, and of each run. environment: variables to set for the child beside this
        process's own. opener: `module:function`, imported in the child and called as `open_session` is.
        """
        self._name, self._seconds = Path(path).name, seconds
        self._ending: tuple[str, str] | None = None  # why there is no child any more, and what to do
        self._deadline = 0.0
        self._lock = threading.RLock()
        self.last_ms, start = math.nan, time.perf_counter()
        self._process, end = spawn(_WORKER, environment or {})
        end.settimeout(_LOOK_SECONDS)
        self._channel = Channel(end, self._look)
        self._end = weakref.finalize(self, end_child, self._process, end)
        try:
            told, _ = self._ask(_request(path, backend, options or Options(), opener))
        except BaseException:
            self.close()
            raise
        self.opened_s, self.peak_rss_mb = time.perf_counter() - start, float(told["peak_rss_mb"])
        super().__init__(
            ModelSpec.from_json(told["spec"]),
            batch=told["batch"],
            fixed_patch=told["fixed_patch"],
            attention_names=tuple(told["attention_names"]),
            facts={**told["facts"], "pid": self._process.pid},
        )

    @property
    def alive(self) -> bool:
        """Whether the child can still be asked."""
        return self._ending is None and self._process.poll() is None

    def close(self) -> None:
        """End the child at once, also while another thread waits for its answer."""
        if self._ending is None:
            self._ending = ("this session is closed", "open the artifact again")
        self._process.kill()
        with self._lock:
            self._end()

    def _run(self, patches: Patches) -> Patches:
        [logits] = self._timed("run", patches)
        return logits

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        logits, maps = self._timed("attention", patches)
        return logits, maps

    def _timed(self, what: str, patches: Patches) -> list[Patches]:
        self.last_ms, self.device_ms = math.nan, None  # of a run that fails
        told, answers = self._ask({"do": what}, [patches])
        self.device_ms, self.peak_rss_mb = told["device_ms"], told["peak_rss_mb"]
        self.last_ms = told["ms"] if self.device_ms is None else self.device_ms
        return answers

    def _ask(self, message: Message, arrays: Sequence[Patches] = ()) -> tuple[dict[str, Any], list[Patches]]:
        with self._lock:
            if self._ending is None:
                self._deadline = time.monotonic() + self._seconds
                try:
                    self._channel.send(message, arrays)
                    answer, answers = self._channel.receive()
                except EOFError:
                    self._ending = self._ending or _cause(self._process)
                except TimeoutError:
                    self._ending = (f"the runtime gave no answer within {self._seconds:g} s", _HANGS)
                    self._process.kill()
                except BaseException:  # an interrupted call: its answer must not be taken for the next one's
                    self.close()
                    raise
            if self._ending is not None:
                found, hint = self._ending
                raise BackendError(found, expected=f"an answer from {self._name}", hint=hint)
            if "lost" in answer:  # the child ends itself
                answer["error"]["hint"] = _LOST
                self._ending = (answer["error"]["found"], _LOST)
                self._process.kill()
        _raise(answer)
        return answer, answers

    def _look(self) -> None:
        """Called every second of waiting."""
        if self._process.poll() is not None:
            raise EOFError
        if time.monotonic() > self._deadline:
            raise TimeoutError


_CRASHED = "open it again; if that crashes too, another --backend"
_HANGS = "a smaller --batch, or another --backend"
_LOST = "open it again, in a new process; dmesg | grep NVRM says more when it comes back"
_KILLED = "a smaller --batch: the kernel kills with SIGKILL when memory runs out, and dmesg tells it"


def _request(path: Path | str, backend: str | None, options: Options, opener: str) -> dict[str, Any]:
    values = {
        "device": options.device,
        "threads": options.threads,
        "spec": None if options.spec is None else options.spec.to_json(),
        "optimise": options.optimise,
        "provider": options.provider,
    }
    return {"path": str(path), "backend": backend, "options": values, "opener": opener}


def _cause(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What ended a child, and what to do about it."""
    how = ending(process)
    if not how:
        process.kill()
        return "the runtime closed the connection to its session", _CRASHED
    return f"the runtime {how}", _KILLED if process.returncode == -signal.SIGKILL else _CRASHED


def _raise(answer: Message) -> None:
    """Raise the error that an answer carries, if it does: of its own type, or of the nearest one known here."""
    if "bug" in answer:
        raise RuntimeError(f"in the process of the session:\n{answer['bug']}")
    if "error" in answer:
        told = answer["error"]
        kind = next((getattr(errors, name) for name in told["kinds"] if hasattr(errors, name)), MedattnError)
        raise kind(told["found"], expected=told["expected"], hint=told["hint"])
