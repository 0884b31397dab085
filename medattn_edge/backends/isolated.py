"""IsolatedSession: a session whose runtime lives in a process of its own, where it may crash, hang or leak."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError, MedattnError
from medattn_edge.host.system import SIGKILL
from medattn_edge.process import Child, ChildLost
from medattn_edge.process.channel import Message
from medattn_edge.spec import ModelSpec

TIMEOUT_S = 600.0  # the time limit of opening, and of one run
_OPENER = "medattn_edge.backends:open_session"
_WORKER = "medattn_edge.backends.isolated_worker"


class IsolatedSession(Session):
    """The session that `open_session` would open, in a child process that ends with this one.

    A child that dies or does not answer in time is a BackendError that says why, now and for every later run; an error
    that was raised in the child is raised here as it was. The child writes to stderr only. Several threads may call
    it: one run is done after the other.

    Attributes:
        facts: those of the session, and the child's `pid`.
        opened_s: from the start of the child until its session was open, in s.
        last_ms: how long the last run took, by the device's clock where the session has one, else measured in the
            child, in ms; the way there and back is not in it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        backend: str | None = None,
        options: Options | None = None,
        timeout_s: float = TIMEOUT_S,
        environment: Mapping[str, str] | None = None,
        opener: str = _OPENER,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the child, and open the artifact there.

        Args:
            path: of an artifact or a checkpoint.
            backend: its name, or None for the one that opens such files.
            options: how to open it.
            timeout_s: the time limit of opening, and of each run, in s.
            environment: variables to set for the child beside this process's own.
            opener: `module:function`, imported in the child and called as `open_session` is.
            arguments: JSON values that this function takes beside.
        """
        self._name, self._timeout_s = Path(path).name, timeout_s
        self._gone: tuple[str, str] | None = None  # why there is no child any more, and what to do
        self.last_ms, start = math.nan, time.perf_counter()
        self._child = Child(_WORKER, environment=environment)
        try:
            opened, _ = self._ask(_request(path, backend, options or Options(), opener, arguments or {}))
        except BaseException:
            self.close()
            raise
        self.opened_s = time.perf_counter() - start
        super().__init__(
            ModelSpec.from_json(opened["spec"]),
            batch=opened["batch"],
            fixed_patch=opened["fixed_patch"],
            attention_names=tuple(opened["attention_names"]),
            facts={**opened["facts"], "pid": self._child.pid},
        )

    @property
    def alive(self) -> bool:
        """Whether the child can still be asked."""
        return self._child.alive

    @property
    def peak_rss_mb(self) -> float:
        """The most memory that the child has held, in 1e6 bytes."""
        return self._child.peak_rss_mb

    def close(self) -> None:
        """End the child at once, also while another thread waits for its answer."""
        self._gone = self._gone or ("this session is closed", "open the artifact again")
        self._child.close()

    def _run(self, patches: Patches) -> Patches:
        [logits] = self._timed("run", patches)
        return logits

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        logits, maps = self._timed("run_with_attention", patches)
        return logits, maps

    def _timed(self, do: str, patches: Patches) -> list[Patches]:
        self.last_ms, self.device_ms = math.nan, None  # of a run that fails
        times, answers = self._ask({"do": do}, [patches])
        self.device_ms = times["device_ms"]
        self.last_ms = times["ms"] if self.device_ms is None else self.device_ms
        return answers

    def _ask(self, request: Message, arrays: Sequence[Patches] = ()) -> tuple[dict[str, Any], list[Patches]]:
        try:
            return self._child.ask(request, arrays, timeout_s=self._timeout_s)
        except ChildLost as lost:
            found, hint = self._gone = self._gone or _verdict(lost)
            raise BackendError(found, expected=f"an answer from {self._name}", hint=hint) from None
        except MedattnError as error:
            if self._child.lost is not None:  # it ended itself, because its GPU is lost
                self._gone = self._gone or (error.found, _LOST)
                error.hint = _LOST
            raise
        except BaseException:
            if self._child.lost is not None:  # an interrupted call
                self.close()
            raise


_CRASHED = "open it again; if that crashes too, another --backend"
_HANGS = "a smaller --batch, or another --backend"
_LOST = "open it again, in a new process; dmesg | grep NVRM says more when it comes back"
_KILLED = "a smaller --batch: the kernel kills with SIGKILL when memory runs out, and dmesg tells it"


def _request(
    path: Path | str, backend: str | None, options: Options, opener: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    values = {
        "device": options.device,
        "threads": options.threads,
        "spec": None if options.spec is None else options.spec.to_json(),
        "optimise": options.optimise,
        "provider": options.provider,
        "shared_cores": options.shared_cores,
        **arguments,
    }
    return {"do": "open", "path": str(path), "backend": backend, "options": values, "opener": opener}


def _verdict(lost: ChildLost) -> tuple[str, str]:
    """What became of a child, and what to do about it."""
    hint = _HANGS if lost.timed_out else _KILLED if lost.returncode == -SIGKILL else _CRASHED
    return f"the runtime {lost.how}", hint
