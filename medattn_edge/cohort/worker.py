"""A worker of a cohort: a process that opens the artifact once, and does one case after the other."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from medattn_edge.cohort.case_json import case_from_json, choices_from_json, settings_from_json
from medattn_edge.cohort.fingerprint import artifact_sha256
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import jobs_of
from medattn_edge.cohort.one_case import CaseRunner
from medattn_edge.cohort.opened import check_jobs, with_algorithm
from medattn_edge.errors import HostError
from medattn_edge.process import Reply, leave_the_end_to_the_parent, serve
from medattn_edge.process.channel import Message
from medattn_edge.volume import Array


def main(descriptor: int) -> NoReturn:
    """Serve the run at the other end of a socket, given by its file descriptor."""
    leave_the_end_to_the_parent()
    worker = CaseWorker()

    def opened(request: dict[str, Any], arrays: list[Array]) -> Reply:
        return worker.open(request), ()

    def case(request: dict[str, Any], arrays: list[Array]) -> Reply:
        return worker.case(request), ()

    serve(descriptor, {"open": opened, "case": case})


class CaseWorker:
    """The session of this process, and what it needs for any case; it is never closed, for its process ends."""

    def __init__(self) -> None:
        self._runner: CaseRunner | None = None
        self._stack = ExitStack()

    def open(self, request: Message) -> dict[str, Any]:
        """Open the artifact, and join the run.

        Args:
            request: `artifact`, `folder`, `token`, `worker` (its name), `settings`, `choices`, `cwd` (where relative
                paths start), and `first`, any case.

        Returns:
            What was opened: `spec`, `facts` and `artifact_sha256`.

        Raises:
            HostError: the folder is not on this host, or is of another run by now.
            MedattnError: as `open_session` does, and for what stands against writing labels.
        """
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            raise HostError(
                f"a worker finds no folder {request['cwd']}: {error.strerror}",
                expected="the same folders on the host of every worker",
                hint="a folder on a shared disk, by its full path",
            ) from error
        folder = CohortFolder(Path(request["folder"]))
        folder.join(request["token"], request["worker"])
        settings, choices = settings_from_json(request["settings"]), choices_from_json(request["choices"])
        artifact = Path(request["artifact"])
        session = self._stack.enter_context(settings.opening.open(artifact))
        jobs = jobs_of([case_from_json(request["first"])], settings)
        check_jobs(session.spec, jobs)
        content = artifact_sha256(artifact)
        opened = with_algorithm(artifact, session, jobs[0], settings)
        self._runner, self._settings = CaseRunner(folder, opened, content, settings, choices), settings
        return {"spec": session.spec.to_json(), "facts": session.facts, "artifact_sha256": content}

    def case(self, request: Message) -> dict[str, Any]:
        """Do one case, `case`; its `CaseResult` as JSON. Raises OutputError when the folder cannot be written."""
        assert self._runner is not None, "it is opened first"
        [job] = jobs_of([case_from_json(request["case"])], self._settings)
        [item] = self._runner.taken([job])
        return self._runner.result(item, lambda done, total: None).to_json()
