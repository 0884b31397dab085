"""Which model segments a series."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from medattn_edge.scanner.config.sections import Model
from medattn_edge.scanner.store.records import Job


def route(models: Sequence[Model], job: Job) -> Model | None:
    """The first model whose modality, body part, description and calling AE title fit; None when there is none."""
    return next((model for model in models if _fits(model, job)), None)


def _fits(model: Model, job: Job) -> bool:
    patterns = (
        (model.body_part, job.body_part),
        (model.description, job.description),
        (model.calling_ae, job.calling_ae),
    )
    return (not model.modality or model.modality == job.modality) and all(
        # Brackets are letters here, as they are in descriptions.
        fnmatchcase(text.strip().upper(), pattern.upper().replace("[", "[[]"))
        for pattern, text in patterns
    )
