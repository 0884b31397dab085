"""Workers on Ray: an actor in each slot, on this host or on the nodes of a cluster."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

from medattn_edge.backends.isolated import TIMEOUT_S
from medattn_edge.cohort.ray_actor import CaseActor
from medattn_edge.cohort.ray_session import is_ray_process, ray_session
from medattn_edge.cohort.settings import PoolSettings
from medattn_edge.cohort.workers import Event, Finished, Lost, Ready, WorkerOpened, Workers, check_starts, failed_case
from medattn_edge.errors import BackendError, HostError
from medattn_edge.host import system
from medattn_edge.inference import Opening
from medattn_edge.process.failures import raise_failure

_LOOK_S: Final = 1.0  # between two looks at the clock
_PLACE_S: Final = 300.0  # for Ray to start a process for an actor; more than an import from a cold, shared disk takes


class RayWorkers(Workers):
    """Actors of a Ray that ends with this process, or of a cluster, on which they end with it.

    Only cases and results travel, as JSON: scans and labels are read and written by the workers, under the same paths.

    Args:
        request: what `CaseWorker.open` takes, without the worker's name.
        pool: who does the work.
        opening: how each worker opens the artifact; its threads are the CPUs that it claims.
        one_first: open the artifact once before the others do, because they share a cache of compiled models.

    Raises:
        MedattnError: as `ray_session` does.
    """

    queue_depth = 2  # the next case is there when one is done

    def __init__(
        self, request: Mapping[str, Any], pool: PoolSettings, opening: Opening, *, one_first: bool = False
    ) -> None:
        super().__init__()
        self.count = pool.workers
        self._request, self._timeout_s = dict(request), pool.case_timeout_s
        self._here = not pool.address
        gpu = bool(pool.address) and opening.device.startswith("cuda")
        self._options = {"num_cpus": opening.threads, "num_gpus": int(gpu), "max_restarts": 0, "max_task_retries": 0}
        self._slots = [_Slot(number) for number in range(self.count)]
        self._stack = ExitStack()
        self._ray = self._stack.enter_context(ray_session(pool.address, pool.workers * opening.threads))
        try:
            self._actor = self._ray.remote(CaseActor)
            self._idle = self._slots[1:] if one_first else []
            for slot in self._slots[: 1 if one_first else self.count]:
                self._start(slot)
        except BaseException:
            self.close()
            raise

    def is_ready(self, slot: int) -> bool:
        """As `Workers.is_ready`."""
        return self._slots[slot].open

    def submit(self, slot: int, case: Mapping[str, Any]) -> None:
        """As `Workers.submit`."""
        one = self._slots[slot]
        if not one.refs:
            one.deadline = time.monotonic() + self._timeout_s
        one.refs.append(one.actor.case.remote({"case": case}))

    def close(self) -> None:
        """As `Workers.close`."""
        for slot in self._slots:
            with suppress(Exception):  # Ray may be gone; a cluster ends the actors of a run that left
                self._end(slot)
        self._stack.close()

    def _start_rest(self) -> None:
        for slot in self._idle:
            self._start(slot)
        self._idle = []

    def _start(self, slot: _Slot) -> None:
        """Another actor, which opens the artifact as soon as Ray has a place for it."""
        slot.worker, slot.pid = uuid.uuid4().hex, 0
        slot.starts += 1
        # On this host a worker finds the modules that this process finds.
        slot.actor = self._actor.options(**self._options).remote(sys.path if self._here else [])
        slot.refs.append(slot.actor.place.remote())
        slot.refs.append(slot.actor.open.remote({**self._request, "worker": slot.worker}))
        slot.deadline = time.monotonic() + _PLACE_S

    def _next(self) -> Event | None:
        heads = {slot.refs[0]: slot for slot in self._slots if slot.refs}
        left = min(slot.deadline for slot in heads.values()) - time.monotonic()
        ready, _ = self._ray.wait(list(heads), num_returns=1, timeout=min(max(left, 0), _LOOK_S))
        if ready:
            return self._answered(heads[ready[0]])
        late = next((slot for slot in heads.values() if slot.deadline < time.monotonic()), None)
        return None if late is None else self._late(late)

    def _answered(self, slot: _Slot) -> Event | None:
        """The answer to the oldest request of a slot."""
        ref = slot.refs.popleft()
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if slot.open:
                slot.deadline = time.monotonic() + self._timeout_s
                return failed_case(slot.number, error)
            raise _not_started(error) from error
        except self._ray.exceptions.RayError as error:
            return self._gone(slot, _how(error))
        if isinstance(value, int):
            slot.pid, slot.deadline = value, time.monotonic() + TIMEOUT_S
            return None
        self.peak_rss_mb = max(self.peak_rss_mb, value["peak_rss_mb"])
        if not slot.open:
            self._open(slot, value)
            return Ready(slot.number)
        slot.deadline = time.monotonic() + self._timeout_s  # of the next one
        if "failure" in value:
            try:
                raise_failure(value["failure"])
            except Exception as error:  # noqa: BLE001 - it is raised again where it is not the case's
                return failed_case(slot.number, error)
        return Finished(slot.number, value["reply"])

    def _open(self, slot: _Slot, value: Mapping[str, Any]) -> None:
        if "failure" in value:
            raise_failure(value["failure"])
        slot.open, slot.starts = True, 0
        self._opened(WorkerOpened.from_json(value["reply"]))

    def _late(self, slot: _Slot) -> Event | None:
        """A slot's time is up: for its place, for opening the artifact, or for a case."""
        if not slot.pid:
            if any(one.open for one in self._slots):
                self._end(slot)
                self.given_up += 1
                return None
            raise HostError(
                f"Ray started no process for a worker within {_PLACE_S:g} s",
                expected="free CPUs for every worker, and a GPU for each with --device cuda",
                hint="ray status says what is taken; --resume with fewer --workers",
            )
        limit = self._timeout_s if slot.open else TIMEOUT_S
        return self._gone(slot, f"gave no answer within {limit:g} s", timed_out=True)

    def _gone(self, slot: _Slot, how: str, *, timed_out: bool = False) -> Event | None:
        """A worker that cannot be asked any more is ended, and followed by another one."""
        worker, was_open = slot.worker, slot.open
        self._end(slot)
        self._check_ray(how)
        if not was_open:
            check_starts(slot.starts, how)
        self._start(slot)
        return Lost(slot.number, worker, how, timed_out) if was_open else None

    def _end(self, slot: _Slot) -> None:
        """End its actor, whatever that does."""
        actor, slot.actor = slot.actor, None
        slot.refs.clear()
        slot.open = False
        if self._here and slot.pid and is_ray_process(slot.pid):  # at once, also one that is stopped
            with suppress(ProcessLookupError, PermissionError):
                os.kill(slot.pid, system.SIGKILL)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def _check_ray(self, how: str) -> None:
        """Raise BackendError when it is Ray itself that is gone."""
        try:
            there = any(node["Alive"] for node in self._ray.nodes())
        except Exception:  # noqa: BLE001 - whatever it raises, it does not answer
            there = False
        if not there:
            raise BackendError(f"Ray ended while the run went on: a worker {how}", expected="a Ray", hint="--resume")


class _Slot:
    """One actor at a time.

    Attributes:
        number: from 0.
        actor: its handle.
        worker: its name.
        pid: of its process, on its host; 0 until Ray has started that.
        open: whether it has opened the artifact.
        starts: how often in a row it was started and did not.
        refs: of the answers that will come, in this order.
        deadline: of the first of them, of `time.monotonic`.
    """

    def __init__(self, number: int) -> None:
        self.number, self.actor, self.worker, self.pid = number, None, "", 0
        self.open, self.starts, self.deadline = False, 0, 0.0
        self.refs = deque[Any]()

    actor: Any


def _how(error: Exception) -> str:
    """What a worker did, to stand behind that word."""
    text = str(error)
    if "memory" in text.lower():
        return "was ended by Ray because memory ran short"
    if "node" in text.lower() and "died" in text.lower() and "worker" not in text.lower():
        return "went with its node"
    return "crashed, or was killed"


def _not_started(error: Exception) -> HostError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return HostError(
        f"a worker cannot start on Ray: {lines[-1] if lines else type(error).__name__}",
        expected="this version of medattn-edge on every node",
        hint="pip install it there, in the environment that ray start runs in",
    )
