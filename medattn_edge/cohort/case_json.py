"""Cases and settings of a cohort as JSON, for its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medattn_edge.cohort.case import Case, ScanChoices
from medattn_edge.cohort.settings import CohortSettings, PoolSettings
from medattn_edge.inference import Opening, SegmentSettings
from medattn_edge.io.scan_json import scan_from_json, scan_to_json


def case_to_json(case: Case) -> dict[str, Any]:
    """A case whose scan was found, without the error that another one has.

    Raises:
        UsageError: for a kind of scan that no other process can read.
    """
    assert case.scan is not None, "a case without a scan has nothing to be done"
    return {
        "name": case.name,
        "scan": scan_to_json(case.scan),
        "shown": case.shown,
        "folder": case.folder,
        "found": case.found,
        "hidden": list(case.hidden),
    }


def case_from_json(value: Mapping[str, Any]) -> Case:
    """The case that `case_to_json` wrote."""
    return Case(**{**value, "scan": scan_from_json(value["scan"]), "hidden": tuple(value["hidden"])})


def settings_to_json(settings: CohortSettings) -> dict[str, Any]:
    """Everything that a worker needs of the settings; how many there are is not its concern."""
    value = asdict(replace(settings, pool=PoolSettings()))
    del value["pool"]
    for part, name in (("segment", "scratch"), ("opening", "cache")):
        path = value[part][name]
        value[part][name] = None if path is None else str(path)
    return value


def settings_from_json(value: Mapping[str, Any]) -> CohortSettings:
    """The settings that `settings_to_json` wrote."""
    segment, opening = dict(value["segment"]), dict(value["opening"])
    segment["scratch"] = _path(segment["scratch"])
    opening["cache"] = _path(opening["cache"])
    return CohortSettings(**{**value, "segment": SegmentSettings(**segment), "opening": Opening(**opening)})


def choices_to_json(choices: ScanChoices) -> dict[str, Any]:
    """How the scans are read."""
    return asdict(choices)


def choices_from_json(value: Mapping[str, Any]) -> ScanChoices:
    """What `choices_to_json` wrote."""
    return ScanChoices(**{**value, "pixel_spacing": tuple(value["pixel_spacing"])})


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
