"""How far a TensorRT build is, as one number that only grows."""

from __future__ import annotations

import threading
from typing import Any

from medattn_edge.backends.compiler import Progress

STEPS = 100


class Phases:
    """The tree of phases that the builder reports, as hundredths of the whole.

    The builder calls from threads of its own, and an exception must not pass through it: it stops the build and is
    raised afterwards.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.RLock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._best = -1
        self._stopped: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, under another or as the whole."""
        with self._lock:
            self._phases[name] = (parent, max(1, steps), 0)
        self._report()

    def step(self, name: str) -> bool:
        """A step of a phase is done; False asks the builder to stop."""
        with self._lock:
            parent, steps, done = self._phases.get(name, (None, 1, 0))
            self._phases[name] = (parent, steps, min(steps, done + 1))
        self._report()
        return self._stopped is None

    def finish(self, name: str) -> None:
        """A phase is over; not every one reports all its steps."""
        with self._lock:
            self._phases.pop(name, None)

    def done(self) -> None:
        """The engine is there."""
        if self._progress is not None:
            self._progress(STEPS, STEPS)

    def raise_what_stopped_it(self) -> None:
        """Raise what the caller's function raised, if it did."""
        if self._stopped is not None:
            raise self._stopped

    def _report(self) -> None:
        with self._lock:
            roots = [name for name, (parent, _, _) in self._phases.items() if parent not in self._phases]
            value = min(STEPS - 1, int(STEPS * max(map(self._fraction, roots), default=0.0)))
            if self._progress is None or self._stopped is not None or value <= self._best:
                return
            self._best = value
            try:
                self._progress(value, STEPS)
            except BaseException as error:  # noqa: BLE001  raised by raise_what_stopped_it, Ctrl-C too
                self._stopped = error

    def _fraction(self, name: str) -> float:
        _, steps, done = self._phases[name]
        inner = [self._fraction(child) for child, (parent, _, _) in self._phases.items() if parent == name != child]
        return min(1.0, (done + max(inner, default=0.0)) / steps)


def new_monitor(trt: Any, progress: Progress | None) -> Any:
    """What a builder's configuration takes as its progress monitor; its `phases` are the tree."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases(progress)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.phases.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()
