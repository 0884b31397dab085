"""Have workers do the cases of a cohort: each once, and one that costs its worker again, but not for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medattn_edge.cohort.case import CaseError
from medattn_edge.cohort.case_json import case_to_json
from medattn_edge.cohort.case_result import CaseResult
from medattn_edge.cohort.cases import scan_of
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.one_case import failure_of
from medattn_edge.cohort.records import read_record
from medattn_edge.cohort.settings import MAX_TRIES
from medattn_edge.cohort.tally import Taker
from medattn_edge.cohort.workers import Failed, Finished, Lost, Ready, Workers
from medattn_edge.errors import MedattnError
from medattn_edge.reasons import WORKER_HUNG, WORKER_LOST

CohortProgress = Callable[[str, float, int], None]  # the case, cases done with the part of this one, cases in total


@dataclass(eq=False)
class _Task:
    """A case, how often it was tried in vain, and its record's state before it was given to a worker."""

    job: Job
    tries: int = 0
    before: tuple[int, int] | None = None


class Distributor:
    """Hands cases out, and takes what comes back.

    Attributes:
        lost: how many workers were lost.
    """

    def __init__(self, workers: Workers, folder: CohortFolder, tally: Taker, progress: CohortProgress | None) -> None:
        self._workers, self._folder, self._tally, self._progress = workers, folder, tally, progress
        self._held: list[deque[_Task]] = [deque() for _ in range(workers.count)]
        self._waiting = deque[_Task]()
        self._total = 0
        self.lost = 0

    def all(self, jobs: Sequence[Job]) -> None:
        """Every case; raises as `Workers.wait` and `CohortFolder.settle` do."""
        self._total = len(jobs)
        for job in jobs:
            try:
                scan_of(job.case)
            except MedattnError as error:  # what is known already needs no worker
                self._take(job, CaseResult(failure=failure_of(job, error)))
            else:
                self._waiting.append(_Task(job))
        while True:
            self._hand_out()
            if not self._waiting and not any(self._held):
                return
            event = self._workers.wait()
            if isinstance(event, Ready):
                continue
            if isinstance(event, Finished):
                task = self._held[event.slot].popleft()
                self._take(task.job, CaseResult.from_json(event.result))
            elif isinstance(event, Failed):
                task = self._held[event.slot].popleft()
                self._take(task.job, CaseResult(failure=failure_of(task.job, event.error)))
            else:
                self._recover(event)

    def _hand_out(self) -> None:
        """Fill the slots, those with the fewest cases first; the last cases are for whoever is idle first."""
        while self._waiting:
            ready = [slot for slot in range(len(self._held)) if self._workers.is_ready(slot)]
            if not ready:
                return
            slot = min(ready, key=lambda one: len(self._held[one]))
            held = len(self._held[slot])
            if held >= self._workers.queue_depth or (held and len(self._waiting) < len(self._held)):
                return
            task = self._waiting.popleft()
            try:
                case = case_to_json(task.job.case)
            except MedattnError as error:
                self._take(task.job, CaseResult(failure=failure_of(task.job, error)))
                continue
            task.before = self._folder.written(task.job)
            self._held[slot].append(task)
            self._workers.submit(slot, case)

    def _recover(self, event: Lost) -> None:
        """What a worker that is gone had: the first case that it has not done is what it was at."""
        self.lost += 1
        tasks, blamed = list(self._held[event.slot]), False
        self._held[event.slot].clear()
        again = list[_Task]()
        for task in tasks:
            self._folder.settle(task.job, event.worker)
            record = None
            if self._folder.written(task.job) != task.before:
                record = read_record(self._folder.path / task.job.record)
            if record is not None:
                self._take(task.job, CaseResult(record))
            elif blamed:
                again.append(task)
            else:
                blamed = True
                self._blame(task, event)
        self._waiting.extendleft(reversed(again))

    def _blame(self, task: _Task, event: Lost) -> None:
        task.tries += 1
        if task.tries < MAX_TRIES:
            self._waiting.append(task)
            return
        reason = WORKER_HUNG if event.timed_out else WORKER_LOST
        error = CaseError(reason, f"{task.job.case.shown} (the worker {event.how}, the last of {task.tries} times)")
        self._take(task.job, CaseResult(failure=failure_of(task.job, error)))

    def _take(self, job: Job, result: CaseResult) -> None:
        self._tally.take(job, result)
        if self._progress is not None:
            self._progress(job.name, self._tally.finished, self._total)
