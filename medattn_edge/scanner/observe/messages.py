"""Every reason that the status page shows, in words: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from medattn_edge.reasons import SERIES_REASONS
from medattn_edge.scanner import reasons
from medattn_edge.scanner.work import tasks


@dataclass(frozen=True)
class Words:
    """meaning: what happened. todo: what a person does about it. requeue: whether that can help, once it is done."""

    meaning: str
    todo: str
    requeue: bool


_WHY: Final[Mapping[str, Words]] = MappingProxyType(
    {
        "starting": Words(
            "the node starts: a worker opens its models and tries them",
            "nothing, this takes a minute or so; what is sent meanwhile is kept",
            False,
        ),
        "worker_not_ready": Words(
            "a worker does not come up; series are received and kept, and are not segmented",
            "look for worker_waits and worker_lost in the log of the node; it tries again by itself",
            False,
        ),
        "disk_full": Words(
            "the disk is above its watermark, so nothing new is taken; senders are told",
            "free space on the disk of the node's folder, or shorten keep_days, or raise most_used; then what was"
            " refused has to be sent again",
            False,
        ),
        "draining": Words(
            "the node ends: it finishes what it works on and takes nothing new",
            "nothing, unless nobody stopped it: then look who did, and start it again",
            False,
        ),
    }
)
# Of series that stay as they are when they are tried again: the repair comes with what is sent.
_SENT_AGAIN: Final = "a series that is sent again and whole comes in as a new version by itself"
_ADVICE: Final[Mapping[str, tuple[str, bool]]] = MappingProxyType(
    {
        reasons.DISK_FULL: ("see that the disk has room, then have the series sent again", False),
        reasons.TOO_MANY: ("split the series, or raise max_instances and have it sent again", False),
        reasons.TOO_LARGE: ("raise max_bytes, or max_object_mb for a single object, and have it sent again", False),
        reasons.FILE_MISSING: ("have the series sent again, and look who deletes files of the node", False),
        reasons.CLEANED_UP: ("have the whole series sent again", False),
        reasons.INTERRUPTED: ("look in the log why the node ended, then requeue the series", True),
        reasons.RESULT_LOST: ("nothing, the result is made again", False),
        reasons.NO_MODEL: ("add a model for it to the configuration, reload the node, then requeue the series", True),
        reasons.ROUTE_CHANGED: ("requeue the series", True),
        reasons.CUT_OFF: ("requeue the series", True),
        tasks.CRASHED: ("look for worker_lost in the log, then requeue the series", True),
        tasks.HUNG: ("see what else keeps the machine busy, or raise job_timeout_s, then requeue the series", True),
        tasks.OUT_OF_MEMORY: ("raise memory_mb or choose a smaller model, reload, then requeue the series", True),
        tasks.FAILED: ("look for worker_lost in the log, and at the disk, then requeue the series", True),
        tasks.NOT_READY: ("look for worker_waits in the log, then requeue the series", True),
        tasks.CANCELLED: ("nothing, the later version is segmented", False),
    }
)
_ERRORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input": "the series cannot be used",
        "scan": "the series cannot be read as a scan",
        "geometry": "the position or the spacing of the scan cannot be used",
        "shape": "the scan does not fit what the network expects",
        "checkpoint": "the model cannot be used",
    }
)
_PEER: Final = "have the administrator of the archive look in its log"
_DELIVERY: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "no_connection": ("nobody answers at its address", "see whether the archive and the network are up"),
        "host_unknown": ("the name of its host cannot be looked up", "see to the host name and the DNS"),
        "no_answer": ("it took the connection and did not answer in time", "see whether the archive hangs"),
        "aborted": ("the connection was cut off", "see whether the archive restarts or hangs"),
        "association_rejected": ("it rejects the association", _PEER),
        "calling_title_unknown": ("it does not know the node", "enter calling_ae_title of the node in the archive"),
        "called_title_unknown": ("it has another title", "correct ae_title of the destination, and reload the node"),
        "not_authorised": ("it does not allow the node to store", "have the archive allow the node to store"),
        "class_not_accepted": (
            "it does not take this kind of object",
            "have the archive take DICOM Segmentations (and Secondary Capture), or choose another kind",
        ),
        "class_not_supported": (
            "it does not store this kind of object",
            "have the archive take DICOM Segmentations (and Secondary Capture), or choose another kind",
        ),
        "tls_refused": (
            "TLS is refused",
            "see to the certificates of both sides: who signed them, for which name, until when",
        ),
        "tls_files_unusable": (
            "a certificate or key of the destination cannot be used",
            "correct ca, certificate and key of the destination, and reload the node",
        ),
        "out_of_resources": ("it says that it has no room", "free space on the archive"),
        "data_set_mismatch": ("it says that the object does not fit its class", _PEER),
        "not_understood": ("it says that it does not understand the object", _PEER),
        "refused": ("it refuses the object", _PEER),
        "folder_missing": ("its folder is not there", "mount or make the folder"),
        "folder_full": ("the disk of its folder is full", "free space there"),
        "folder_unwritable": ("its folder cannot be written", "allow the user of the node to write there"),
        "result_missing": ("the result is not on the node's disk any more", "look who deletes files of the node"),
        "result_damaged": ("the result on the node's disk is damaged", "see to the node's disk"),
    }
)
_UNKNOWN: Final = "a reason that this page has no words for"


def of_health(why: str) -> Words:
    """Why a node is not ready."""
    return _WHY.get(why) or Words(_UNKNOWN, "look for it in the log of the node", False)


def of_quarantine(reason: str) -> Words:
    """Why a series is in quarantine."""
    if reason in SERIES_REASONS:
        meaning, advice = SERIES_REASONS[reason].meaning, SERIES_REASONS[reason].action
        if reason == "unsupported_transfer_syntax":
            return Words(meaning, f"{advice}; once a decoder is there, requeue the series", True)
        return Words(meaning, f"{advice}; {_SENT_AGAIN}", False)
    if reason in _ERRORS:
        return Words(_ERRORS[reason], "choose a model that fits such series, reload, then requeue the series", True)
    told = reasons.REASONS.get(reason) or tasks.REASONS.get(reason)
    if told is None or reason not in _ADVICE:
        return Words(_UNKNOWN, "look for it in the log of the node, then requeue the series", True)
    return Words(told.partition("; ")[0], *_ADVICE[reason])


def of_delivery(reason: str) -> Words:
    """Why a destination did not take a result; it is tried again by itself until it is given up."""
    meaning, todo = _DELIVERY.get(reason) or (_UNKNOWN, "look for delivery_failed in the log of the node")
    return Words(meaning, todo, True)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
