"""Which model segments a series or a study, and which channel of it a series is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from medattn_edge.scanner.config.sections import Channel, Model
from medattn_edge.scanner.store.records import Job, Placement


def route(models: Sequence[Model], job: Job) -> Model | None:
    """The first model that takes a job; None when there is none.

    Of a series: whose modality, body part, description and calling AE title fit, and one of its channels where it has
    some. Of a study: the one that its channels were gathered for, while it still has these channels.
    """
    if job.parts:
        channels = [part.channel for part in job.parts]
        known = (model for model in models if model.name == job.model)
        return next((model for model in known if [one.name for one in model.channels] == channels), None)
    return next((model for model in models if _fits(model, job)), None)


def place(models: Sequence[Model], job: Job) -> Placement | None:
    """Which channels of a study a series is; None for a series that a model segments by itself, or none takes."""
    model = route(models, job)
    if model is None or not model.channels or job.parts:
        return None
    fitting = tuple(one.name for one in model.channels if _is_channel(one, job))
    return Placement(model.name, fitting, tuple(one.name for one in model.channels))


def _fits(model: Model, job: Job) -> bool:
    patterns = (
        (model.body_part, job.body_part),
        (model.description, job.description),
        (model.calling_ae, job.calling_ae),
    )
    if not _is_of(model.modality, job) or not all(_matches(pattern, text) for pattern, text in patterns):
        return False
    return not model.channels or any(_is_channel(channel, job) for channel in model.channels)


def _is_channel(channel: Channel, job: Job) -> bool:
    patterns = ((channel.body_part, job.body_part), (channel.description, job.description))
    return _is_of(channel.modality, job) and all(_matches(pattern, text) for pattern, text in patterns)


def _is_of(modality: str, job: Job) -> bool:
    return not modality or modality == job.modality


def _matches(pattern: str, text: str) -> bool:
    # Brackets are letters here, as they are in descriptions.
    return fnmatchcase(text.strip().upper(), pattern.upper().replace("[", "[[]"))
