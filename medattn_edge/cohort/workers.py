"""Workers: what does the cases of a cohort in other processes, as the run sees it; one file per engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from medattn_edge.errors import BackendError, HostError, IntegrityError
from medattn_edge.spec import ModelSpec

MAX_STARTS: Final = 3


@dataclass(frozen=True, eq=False)
class WorkerOpened:
    """What a worker opened.

    Attributes:
        spec: what the network expects.
        facts: of its session.
        artifact_sha256: of everything that the artifact computes with.
    """

    spec: ModelSpec
    facts: Mapping[str, Any]
    artifact_sha256: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WorkerOpened:
        """What `CaseWorker.open` answered."""
        return cls(ModelSpec.from_json(value["spec"]), value["facts"], value["artifact_sha256"])


@dataclass(frozen=True, eq=False)
class Finished:
    """A slot's oldest case is done: the `CaseResult` as JSON."""

    slot: int
    result: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Failed:
    """A slot's oldest case came to nothing, by an error that its worker outlived."""

    slot: int
    error: Exception


@dataclass(frozen=True, eq=False)
class Lost:
    """A slot's worker is gone, and every case that it had is not done; another one is started for the next.

    Attributes:
        slot: from 0.
        worker: the name of the one that is gone.
        how: what it did: "crashed: SIGSEGV".
        timed_out: whether it was ended because its time was up.
    """

    slot: int
    worker: str
    how: str
    timed_out: bool = False


@dataclass(frozen=True, eq=False)
class Ready:
    """A slot takes cases now."""

    slot: int


Event = Finished | Failed | Lost | Ready


class Workers(ABC):
    """So many slots, each with one worker at a time; a worker that is lost is followed by another one.

    A slot's cases are done in the order in which they were submitted. The run's own thread calls everything.

    Attributes:
        count: of slots.
        queue_depth: how many cases a slot may have at a time.
        given_up: how many slots found no place for another worker, and are left out from then on.
        peak_rss_mb: the most memory that any worker has held, in 1e6 bytes; 0 where that is not known.
    """

    count: int
    queue_depth: int
    given_up: int = 0
    peak_rss_mb: float = 0.0

    def __init__(self) -> None:
        self._first: WorkerOpened | None = None
        self._early: list[Event] = []

    def opened(self) -> WorkerOpened:
        """Wait until the first worker has opened the artifact.

        Raises:
            MedattnError: what opening it raised there.
            BackendError: no worker can be kept.
        """
        while self._first is None:
            event = self._next()
            if event is not None:
                self._early.append(event)
        self._start_rest()
        return self._first

    def is_ready(self, slot: int) -> bool:
        """Whether a slot takes cases: one whose worker has yet to find a place would keep them from the others."""
        return True

    @abstractmethod
    def submit(self, slot: int, case: Mapping[str, Any]) -> None:
        """Have a slot do a case, as `case_to_json` gives it, after those that it has."""

    def wait(self) -> Event:
        """What happens next.

        Raises:
            OutputError: a worker cannot write into the folder.
            IntegrityError: a worker opened another artifact than the first one did.
            MedattnError: a worker that was started again cannot open the artifact any more.
            BackendError: no worker can be kept.
        """
        while True:
            event = self._early.pop(0) if self._early else self._next()
            if event is not None:
                return event

    @abstractmethod
    def close(self) -> None:
        """End every worker at once, whatever it does."""

    @abstractmethod
    def _start_rest(self) -> None:
        """Start the workers that waited for the first one to open the artifact, if they did."""

    @abstractmethod
    def _next(self) -> Event | None:
        """What a slot tells; None where it is no more than that it is open, or where nothing happened."""

    def _opened(self, opened: WorkerOpened) -> None:
        """Note what a worker opened; raises IntegrityError for another artifact than the first one's."""
        self._first = self._first or opened
        if opened.artifact_sha256 != self._first.artifact_sha256:
            raise IntegrityError(
                f"the artifact has the hash {opened.artifact_sha256[:16]}... now",
                expected=f"{self._first.artifact_sha256[:16]}..., as when the run began",
                hint="put the file back, then give --resume",
            )


def failed_case(slot: int, error: Exception) -> Failed:
    """What a worker raised, as one case's failure.

    Raises:
        HostError: again, for an error of the folder or of the host: the next case would meet the same.
    """
    if isinstance(error, HostError):
        raise error
    return Failed(slot, error)


def check_starts(starts: int, how: str) -> None:
    """Raise BackendError when so many workers of a slot were lost in a row while they opened the artifact."""
    if starts >= MAX_STARTS:
        raise BackendError(
            f"a worker {how} while it opened the artifact, {starts} times in a row",
            expected="room for every worker's session",
            hint="--resume with fewer --workers, or another --backend",
        )
