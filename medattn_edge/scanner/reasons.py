"""Why a node quarantines a series or refuses an object, for people; the readers of DICOM have reasons of their own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DISK_FULL: Final = "disk_full"
TOO_MANY: Final = "too_many_instances"
TOO_LARGE: Final = "series_too_large"
FILE_MISSING: Final = "file_missing"
CLEANED_UP: Final = "cleaned_up"
INTERRUPTED: Final = "interrupted"
RESULT_LOST: Final = "result_lost"
NO_MODEL: Final = "no_model"
ROUTE_CHANGED: Final = "route_changed"
CUT_OFF: Final = "cut_off"

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        DISK_FULL: "objects were refused since the disk was above its watermark or full; have the series sent again",
        TOO_MANY: "more objects were sent than a series may have",
        TOO_LARGE: "more bytes were sent than a series may have",
        FILE_MISSING: "objects that had been received are not on the disk any more; have the series sent again",
        CLEANED_UP: "late images of a series that was delivered and cleaned up; have the whole series sent again",
        INTERRUPTED: "the node ended again and again while the series was segmented; it may be the cause",
        RESULT_LOST: "the result vanished before it was delivered, and is made again",
        NO_MODEL: "no model of the configuration takes such a series; add a route, reload, and requeue it",
        ROUTE_CHANGED: "the configuration changed while the series was claimed; it is routed again",
        CUT_OFF: "the worker was ended before the series was; it is tried again",
    }
)
