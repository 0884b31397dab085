"""An artifact that is open for a cohort: what can be written with it, and how DICOM results name it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from medattn_edge.backends.session import Session
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.settings import CohortSettings
from medattn_edge.errors import MissingDependency
from medattn_edge.inference import OpenArtifact
from medattn_edge.inference.cleanup import check_cleanup
from medattn_edge.inference.workflow import algorithm_of_run
from medattn_edge.io.listed_channels import ListedChannels
from medattn_edge.spec import ModelSpec


def check_jobs(spec: ModelSpec, jobs: Sequence[Job]) -> None:
    """Raise what stands against writing the labels of any case.

    Raises:
        UsageError: for outputs, or columns of a list, that do not fit the network.
        MissingDependency: for what the network, or a DICOM result, needs.
    """
    outputs = jobs[0].outputs
    outputs.check_spec(spec)
    check_cleanup(spec)
    listed = next((job.case.scan for job in jobs if isinstance(job.case.scan, ListedChannels)), None)
    if listed is not None:
        listed.assignment(spec)  # the columns of a list are those of all its rows
    if outputs.dicom_file is not None and find_spec("highdicom") is None:
        raise MissingDependency.of_extra("highdicom", "dicom")


def with_algorithm(artifact: Path, session: Session, job: Job, settings: CohortSettings) -> OpenArtifact:
    """The session with its name for DICOM results, where any are written; job: any case."""
    outputs = job.outputs
    if outputs.dicom_file is None:
        return OpenArtifact(session)
    backend = str(session.facts["backend"])
    return OpenArtifact(session, algorithm_of_run(artifact, backend, session.spec, outputs, settings.segment))
