"""The actor of a cohort on Ray: a worker of the cohort in one of Ray's processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from medattn_edge.cohort.worker import CaseWorker
from medattn_edge.host.system import without_core_files
from medattn_edge.process import leave_the_end_to_the_parent
from medattn_edge.process.failures import failure_to_json
from medattn_edge.process.memory import peak_rss_mb


class CaseActor:
    """Answers as a child process of the local engine does: a reply or the failure as JSON, never an exception of ours.

    Exceptions would travel as pickles, which need the same versions at both ends, and those of libraries often cannot.

    Args:
        path: where Python looks for modules, of the run on this host; empty on other hosts, which have their own.
    """

    def __init__(self, path: Sequence[str]) -> None:
        if path:
            sys.path[:] = path
        leave_the_end_to_the_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to answer, which then ends this process
        with contextlib.suppress(ValueError, OSError):
            without_core_files()
        self._worker = CaseWorker()

    def place(self) -> int:
        """Its process, which says that Ray has found a place for it."""
        return os.getpid()

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `CaseWorker.open`."""
        try:
            return _envelope({"reply": self._worker.open(request)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the run raises it
            return _envelope({"failure": failure_to_json(error)})

    def case(self, request: dict[str, Any]) -> dict[str, Any]:
        """As `CaseWorker.case`."""
        try:
            return _envelope({"reply": self._worker.case(request)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the run says what comes of it
            return _envelope({"failure": failure_to_json(error)})


def _envelope(value: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "peak_rss_mb": peak_rss_mb()}
