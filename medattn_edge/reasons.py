"""Why a series, a job or a delivery is refused: one catalogue for errors, page, log and retries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        code: for programs: lower case, with underscores; it never changes.
        meaning: what happened, for people; one clause without a full stop, never an identifier of a patient.
        action: what to do about it, in the imperative.
        requeue: whether trying again what is here already can succeed, once somebody has done that.
    """

    code: str
    meaning: str
    action: str
    requeue: bool = False


def catalogue(reasons: Iterable[Reason]) -> Mapping[str, Reason]:
    """Reasons by code.

    Raises:
        ValueError: when a code comes twice.
    """
    by_code: dict[str, Reason] = {}
    for reason in reasons:
        if reason.code in by_code:
            raise ValueError(f"two reasons have the code {reason.code}")
        by_code[reason.code] = reason
    return MappingProxyType(by_code)


SERIES_REASONS: Final = catalogue(
    (
        Reason("unreadable", "a file cannot be parsed", "copy or send it again"),
        Reason("truncated", "a file ends before its pixel data does", "copy or send it again"),
        Reason("missing_file", "the DICOMDIR lists files that are not there", "copy the whole medium"),
        Reason(
            "blank_uid",
            "an identifier is empty, not a UID or used twice, so nothing can be referenced",
            "repair the sender",
        ),
        Reason(
            "not_an_image",
            "the object has no pixels (a report, a plan, a structure set)",
            "send the images that it belongs to",
        ),
        Reason(
            "unsupported_modality",
            "it is no CT, MR or PET image, so there is no 3-D scan in it",
            "choose another series",
        ),
        Reason(
            "unsupported_transfer_syntax",
            "no decoder for the compression is installed",
            "install it, or send uncompressed",
        ),
        Reason(
            "unsupported_pixels",
            "the pixels are stored in a way that no CT, MR or PET scanner uses",
            "export the series again",
        ),
        Reason(
            "rgb", "the pixels have colours, so it is a picture of a scan and not a scan", "choose the original series"
        ),
        Reason(
            "too_large", "there are more voxels than any scan has", "look for a damaged header, or split the series"
        ),
        Reason(
            "no_geometry",
            "the position, direction or spacing of a slice is missing or impossible",
            "export the series again",
        ),
        Reason(
            "no_rescale",
            "stored numbers cannot be turned into physical values",
            "export the series again with its rescaling",
        ),
        Reason("localizer", "it is a scout view, one projection and not a scan", "choose another series"),
        Reason("mixed_series", "slices of different kinds share one series", "remove those that do not belong"),
        Reason("mixed_orientation", "the slices point in different directions", "send one stack of parallel slices"),
        Reason(
            "several_volumes",
            "there are several volumes (times, echoes, kernels, stacks) in one series",
            "send one of them, or take one with --volume",
        ),
        Reason(
            "no_frame_of_reference",
            "the series does not name its coordinates (FrameOfReferenceUID), so no segmentation can lie in them",
            "write the labels as .nii.gz, or give every file of a copy the same FrameOfReferenceUID",
        ),
        Reason(
            "other_patient",
            "the series that were to be the channels of one network are of different patients",
            "give the scans of one study, and correct the PatientID at the sender where it is one patient",
        ),
        Reason(
            "other_frame_of_reference",
            "the series that were to be the channels of one network lie in different coordinates (FrameOfReferenceUID)",
            "register them and export them again, or, where they are known to be registered, write them as .nii.gz",
        ),
        Reason("no_such_volume", "the series has fewer volumes than the number that was asked for", "see inspect"),
        Reason(
            "mosaic",
            "each image is a mosaic of all slices (Siemens), so its rows and columns are not those of a slice",
            "export it without mosaics (as enhanced MR), or convert it with dcm2niix and give the .nii.gz",
        ),
        Reason(
            "single_slice",
            "there is only one slice, and the distance to the next is unknown",
            "give the folder of the whole series",
        ),
        Reason("duplicate_position", "two slices are at one position", "remove the copies, or send one volume"),
        Reason("missing_slice", "a slice is missing between two others", "send the series again"),
        Reason("non_uniform_spacing", "the distance of the slices varies", "reconstruct with equal distances"),
        Reason("gantry_tilt", "the slices are stacked askew (tilted gantry)", "resample to a straight stack first"),
        Reason(
            "shifted_slice",
            "a slice lies beside the others",
            "send the series again, or reconstruct it with one centre",
        ),
    )
)
"""Why a DICOM series cannot become a volume."""

# What a node quarantines a job for, or tries it again for.
DISK_FULL: Final = "disk_full"
TOO_MANY: Final = "too_many_instances"
TOO_LARGE: Final = "series_too_large"
FILE_MISSING: Final = "file_missing"
OBJECT_DAMAGED: Final = "object_damaged"
CLEANED_UP: Final = "cleaned_up"
INTERRUPTED: Final = "interrupted"
RESULT_LOST: Final = "result_lost"
NO_MODEL: Final = "no_model"
ROUTE_CHANGED: Final = "route_changed"
CHANNEL_MISSING: Final = "channel_missing"
AMBIGUOUS_CHANNEL: Final = "ambiguous_channel"
BLANK_UID: Final = "blank_uid"
CUT_OFF: Final = "cut_off"
CRASHED: Final = "crashed"
HUNG: Final = "hung"
OUT_OF_MEMORY: Final = "out_of_memory"
FAILED: Final = "failed"
NOT_READY: Final = "not_ready"
CANCELLED: Final = "cancelled"
OTHER_MODALITY: Final = "other_modality"
CONFLICT: Final = "conflict"
REPLACED: Final = "replaced"
TOO_MANY_CONTENTS: Final = "too_many_contents"
RESULT_REPLACED: Final = "result_replaced"
COMMITMENT_NOT_ALLOWED: Final = "commitment_not_allowed"
COMMITMENT_MALFORMED: Final = "commitment_malformed"
COMMITMENT_TOO_LARGE: Final = "commitment_too_large"
COMMITMENT_TOO_MANY: Final = "commitment_too_many"
_OTHER_MODEL: Final = "choose a model that fits such series, reload, then requeue the series"

JOB_REASONS: Final = catalogue(
    (
        Reason(
            DISK_FULL,
            "objects were refused since the disk was above its watermark or full",
            "see that the disk has room, then have the series sent again",
        ),
        Reason(
            TOO_MANY,
            "more objects were sent than a series may have",
            "split the series, or raise max_instances and have it sent again",
        ),
        Reason(
            TOO_LARGE,
            "more bytes were sent than a series may have",
            "raise max_bytes, or max_object_mb for a single object, and have it sent again",
        ),
        Reason(
            FILE_MISSING,
            "objects that had been received are not on the disk any more",
            "have the series sent again, and look who deletes files of the node",
        ),
        Reason(
            OBJECT_DAMAGED,
            "objects on the disk are not what was received any more",
            "see to the node's disk, then have the series sent again",
        ),
        Reason(
            CLEANED_UP,
            "late images came of a series that was delivered and cleaned up",
            "have the whole series sent again",
        ),
        Reason(
            INTERRUPTED,
            "the node ended again and again while the series was segmented",
            "look in the log why the node ended, then requeue the series",
            requeue=True,
        ),
        Reason(RESULT_LOST, "the result vanished before it was delivered", "nothing, the result is made again"),
        Reason(
            NO_MODEL,
            "no model of the configuration takes such a series",
            "add a model for it to the configuration, reload the node, then requeue the series",
            requeue=True,
        ),
        Reason(
            ROUTE_CHANGED,
            "the configuration changed while the series was claimed",
            "requeue the series",
            requeue=True,
        ),
        Reason(
            CHANNEL_MISSING,
            "a study has not got the series of every channel of the network within max_study_wait_s",
            "have the missing series sent, which starts the job by itself; where it is here under another name, correct"
            " the patterns in channels of the [[model]], reload, then requeue the study",
            requeue=True,
        ),
        Reason(
            AMBIGUOUS_CHANNEL,
            "two series of a study fit one channel of the network, or one series fits two",
            "narrow the patterns in channels of the [[model]], reload, then requeue the study",
            requeue=True,
        ),
        Reason(CUT_OFF, "the worker was ended before the series was segmented", "requeue the series", requeue=True),
        Reason(
            CRASHED,
            "the worker crashed while the series was segmented, and again when it was tried once more",
            "look for worker_lost in the log, then requeue the series",
            requeue=True,
        ),
        Reason(
            HUNG,
            "the worker did not finish the series within the time limit, and not when it was tried once more",
            "see what else keeps the machine busy, or raise job_timeout_s, then requeue the series",
            requeue=True,
        ),
        Reason(
            OUT_OF_MEMORY,
            "the worker needed more memory than it may have",
            "raise memory_mb or choose a smaller model, reload, then requeue the series",
            requeue=True,
        ),
        Reason(
            FAILED,
            "the runtime or the disk failed while the series was segmented, and again when it was tried once more",
            "look for worker_lost in the log, and at the disk, then requeue the series",
            requeue=True,
        ),
        Reason(
            NOT_READY,
            "the worker could not be started",
            "look for worker_waits in the log, then requeue the series",
            requeue=True,
        ),
        Reason(CANCELLED, "the work was ended because a late image came", "nothing, the later version is segmented"),
        # The codes of medattn_edge.errors.InputError and below, where a model cannot judge a series.
        Reason("input", "the series cannot be used", _OTHER_MODEL, requeue=True),
        Reason("scan", "the series cannot be read as a scan", _OTHER_MODEL, requeue=True),
        Reason("geometry", "the position or the spacing of the scan cannot be used", _OTHER_MODEL, requeue=True),
        Reason("shape", "the scan does not fit what the network expects", _OTHER_MODEL, requeue=True),
        Reason(
            OTHER_MODALITY,
            "the series is of another modality than the model was trained on",
            "give such series a model of their own, or set any_modality of this one; reload, then requeue the series",
            requeue=True,
        ),
        Reason("checkpoint", "the model cannot be used", _OTHER_MODEL, requeue=True),
    )
)
"""Why a node does not segment a series, beside those of the series itself."""

_PEER: Final = "have the administrator of the archive look in its log"
_CLASSES: Final = "have the archive take DICOM Segmentations (and Secondary Capture), or choose another kind"

_CONNECTION: Final = (
    ("no_connection", "nobody answers at its address", "see whether the archive and the network are up"),
    ("host_unknown", "the name of its host cannot be looked up", "see to the host name and the DNS"),
    ("no_answer", "it took the connection and did not answer in time", "see whether the archive hangs"),
    ("aborted", "the connection was cut off", "see whether the archive restarts or hangs"),
    (
        "tls_refused",
        "TLS is refused",
        "see to the certificates of both sides: who signed them, for which name, until when",
    ),
)
_WEB: Final = (
    (
        "credentials_refused",
        "it wants credentials, or refuses those that it got",
        "give a file with one line, bearer TOKEN or basic USER:PASSWORD, as credentials",
    ),
    ("forbidden", "it does not allow what was asked", "have the archive allow it to the owner of the credentials"),
    (
        "redirected",
        "it sends the request to another address, which is not followed",
        "give the address that answers by itself, if it is the archive's own",
    ),
    (
        "no_service",
        "there is no such DICOMweb service at its address",
        "see to the path of the address, which is /dicom-web at Orthanc",
    ),
    ("unavailable", "it says that it cannot answer now", "see what the log of the archive says"),
    ("request_refused", "it does not understand the request", "see what the log of the archive says"),
    (
        "not_dicomweb",
        "its answer is not one of DICOMweb",
        "see whether the address is a DICOMweb service, and not a page to log in",
    ),
    (
        "too_slow",
        "its answer comes too slowly, or a byte at a time",
        "see to the network, and whether the archive hangs",
    ),
)

_STORING: Final = (
    ("class_not_supported", "it does not store this kind of object", _CLASSES),
    ("out_of_resources", "it says that it has no room", "free space on the archive"),
    ("data_set_mismatch", "it says that the object does not fit its class", _PEER),
    ("not_understood", "it says that it does not understand the object", _PEER),
    ("refused", "it refuses the object", _PEER),
)
_STORING_BY_WEB: Final = (
    ("object_refused", "it refuses the object for good, without a reason", _PEER),
    (
        "not_confirmed",
        "it answers well and does not say that it stored the object",
        "see whether the object is in the archive, and what answers at the address",
    ),
)

ARCHIVE_REASONS: Final = catalogue(
    Reason(*words, requeue=True)
    for words in (
        *_CONNECTION,
        *_WEB,
        *_STORING,
        *_STORING_BY_WEB,
        ("no_such_study", "it has no series of that study or query", "look the study up in the archive"),
        ("no_such_series", "the study has no such series", "name one of its list with --series"),
        ("several_series", "several series can be meant", "name one with --series"),
        ("no_series", "none of its series is a scan", "name one with --series, to see why it is none"),
        ("no_objects", "it has no object of the series", "send the series to the archive again"),
        (
            "missing_objects",
            "it sent fewer objects than it lists",
            "try again, and look into the archive when it stays so",
        ),
        ("other_object", "it sent an object that was not asked for", "look into the archive"),
        ("repeated_object", "it sent an object twice", "look into the archive"),
        ("not_dicom", "it sent something that is no DICOM object", "look into the archive"),
        ("too_much", "it sends more than is taken of one series", "split the series"),
        ("endless_list", "its list cannot be known to be whole", "narrow the query, until the list fits one page"),
        ("too_many_series", "more series fit the query than were allowed", "narrow the query, or raise --limit"),
        (
            "filter_ignored",
            "its list has series that do not fit the query",
            "ask with keys that the archive can filter by",
        ),
    )
)
"""Why an archive, "it", cannot be asked by DICOMweb, or what is wrong with its answer."""

ARCHIVE_FAULTS: Final = frozenset(code for code, *_ in (*_CONNECTION, *_WEB))
"""Those of the archive and the way to it, and not of what it has."""

DELIVERY_REASONS: Final = catalogue(
    Reason(*words, requeue=True)
    for words in (
        *_CONNECTION,
        *_WEB,
        *_STORING,
        *_STORING_BY_WEB,
        (
            "credentials_unusable",
            "the credentials of the destination cannot be used",
            "correct the file that credentials of the destination names",
        ),
        ("association_rejected", "it rejects the association", _PEER),
        ("calling_title_unknown", "it does not know the node", "enter calling_ae_title of the node in the archive"),
        (
            "called_title_unknown",
            "it has another title",
            "correct ae_title of the destination, and reload the node",
        ),
        ("not_authorised", "it does not allow the node to store", "have the archive allow the node to store"),
        ("class_not_accepted", "it does not take this kind of object", _CLASSES),
        (
            "tls_files_unusable",
            "a certificate or key of the destination cannot be used",
            "correct ca, certificate and key of the destination, and reload the node",
        ),
        (
            "commitment_not_accepted",
            "it does not take answers to storage commitment from the node as their provider",
            "have the peer take N-EVENT-REPORT from the node, with the role of the provider for the node",
        ),
        ("folder_missing", "its folder is not there", "mount or make the folder"),
        ("folder_full", "the disk of its folder is full", "free space there"),
        ("folder_unwritable", "its folder cannot be written", "allow the user of the node to write there"),
        (
            "result_missing",
            "the result is not on the node's disk any more",
            "look who deletes files of the node",
        ),
        ("result_damaged", "the result on the node's disk is damaged", "see to the node's disk"),
        (
            RESULT_REPLACED,
            "the result vanished, and its objects were corrected since, so a later version goes to it instead",
            "see that it has the later version",
        ),
    )
)
"""Why a destination, "it", did not take a result. Each is tried again by itself until it is given up."""

ADMISSION_REASONS: Final = catalogue(
    (
        Reason("address_not_allowed", "a caller's address may not connect", "add its network to [receive] addresses"),
        Reason("no_tls", "a caller did not get through the TLS handshake", "see to the certificates of both sides"),
        Reason(
            "no_request",
            "a caller connected and did not say in time what it wants",
            "see what connects to the port of the node: a scanner of the network, or a sender that hangs",
        ),
        Reason(
            "no_association_request",
            "a caller sent something that is no association request",
            "see what connects to the port of the node, and whether the sender wants TLS",
        ),
        Reason(
            "too_many_connections",
            "too many connections had not said yet what they want, and the oldest was closed",
            "see what connects to the port of the node again and again",
        ),
        Reason(
            "too_many_associations",
            "as many associations as may be were open; the sender tries again",
            "see which senders leave theirs open, or raise [receive] max_associations",
        ),
        Reason(
            "too_many_of_address",
            "as many associations of one address as may be were open; the sender tries again",
            "see whether that sender leaves them open, or raise [receive] max_per_address",
        ),
        Reason("calling_ae", "a caller's title may not send", "add it to [receive] calling_ae"),
        Reason("called_ae", "a caller asked for another title", "correct the title of the node at the sender"),
        Reason("draining", "the node ends and takes nothing new", "send again when it runs"),
        Reason("too_large", "an object is larger than it may be", "raise [receive] max_object_mb"),
        Reason("unparsable", "an object cannot be parsed", "correct the sender; the object is in quarantine"),
        Reason("truncated", "an object ends before its data do", "have it sent again"),
        Reason("other_class", "an object is not what its sender announced", "correct the sender"),
        Reason("blank_uid", "an object has an empty UID", "correct the sender"),
        Reason(
            CONFLICT,
            "an object came again under its UID with other contents, and was refused; its sender still has it",
            "give the corrected objects UIDs of their own at the sender, or take them with"
            ' conflict = "new_version" in [receive] and send them again',
        ),
        Reason(
            TOO_MANY_CONTENTS,
            "an object came under one UID with more contents than it may have, and was refused",
            "correct the sender, or raise max_replacements",
        ),
        Reason(
            REPLACED,
            "an object came again under its UID with other contents: it was corrected, and the series is segmented"
            " again as a new version",
            "see that the archive shows the later segmentation, and remove the earlier one there",
        ),
        Reason(
            COMMITMENT_NOT_ALLOWED,
            "a caller asked for storage commitment and is no [[commitment_peer]]",
            "add it as [[commitment_peer]] with the address for the answer, if it may ask",
        ),
        Reason(
            COMMITMENT_MALFORMED,
            "a request for storage commitment has no transaction UID, no instances, or cannot be parsed",
            "correct the sender; it has no commitment",
        ),
        Reason(
            COMMITMENT_TOO_LARGE,
            "a request for storage commitment names more instances than it may",
            "raise max_instances of [storage_commitment], or have the sender ask for fewer at once",
        ),
        Reason(
            COMMITMENT_TOO_MANY,
            "as many requests for storage commitment as may be wait for their answers",
            "see why the peers do not take their answers, or raise max_waiting of [storage_commitment]",
        ),
        Reason("not_kept", "the disk does not take an object", "see that the disk has room, then have it sent again"),
    )
)
"""Why a node does not let somebody in, or does not take an object."""

WORKER_REASONS: Final = catalogue(
    (
        Reason("bug", "an error that nobody expected", "report it, with the log"),
        Reason(
            "canary_changed",
            "a model's canary has another answer than before",
            "compare the artifact with its checkpoint",
        ),
        Reason("canary_not_finite", "a model's canary is not finite", "compare the artifact with its checkpoint"),
        Reason(
            "gate_not_held",
            "the figures in a model's manifest do not hold the gate that it carries",
            "compare the artifact with its checkpoint on a scan, and calibrate it again",
        ),
        Reason("canary_damaged", "the canaries' known answers are damaged", "remove canary.json from the root"),
        Reason(
            "unwanted_modules",
            "the worker has loaded what nothing beside a scanner needs",
            "report it, with the artifact's manifest",
        ),
    )
)
"""Why a worker failed, beside the codes of medattn_edge.errors."""

READINESS_REASONS: Final = catalogue(
    (
        Reason(
            "starting",
            "the node starts: a worker opens its models and tries them",
            "nothing, this takes a minute or so; what is sent meanwhile is kept",
        ),
        Reason(
            "worker_not_ready",
            "a worker does not come up; series are received and kept, and are not segmented",
            "look for worker_waits and worker_lost in the log of the node; it tries again by itself",
        ),
        Reason(
            DISK_FULL,
            "the disk is above its watermark, so nothing new is taken; senders are told",
            "free space on the disk of the node's folder, or shorten keep_days, or lower min_free_gb; then what"
            " was refused has to be sent again",
        ),
        Reason(
            "draining",
            "the node ends: it finishes what it works on and takes nothing new",
            "nothing, unless nobody stopped it: then look who did, and start it again",
        ),
    )
)
"""Why a node is not ready."""

NO_SCAN: Final = frozenset({"not_an_image", "unsupported_modality", "localizer"})
"""Reasons of series that are no scans: a cohort passes over them in a folder, and says so, instead of failing."""

BROKEN_NEIGHBOUR: Final = "broken_neighbour"
CHANGED_SCAN: Final = "changed_scan"
CHANGED_OUTPUT: Final = "changed_output"
UNEXPECTED: Final = "unexpected"
WORKER_LOST: Final = "worker_lost"
WORKER_HUNG: Final = "worker_hung"

COHORT_REASONS: Final = catalogue(
    (
        Reason(
            BROKEN_NEIGHBOUR,
            "a file that cannot be read lies beside the series and may belong to it",
            "copy the file again, or move it away if it does not belong here",
            requeue=True,
        ),
        Reason(
            CHANGED_SCAN,
            "a file of the scan changed while it was read",
            "wait until whoever writes it is done, then give --resume",
            requeue=True,
        ),
        Reason(
            CHANGED_OUTPUT,
            "a file with the name of an output is there which is not as it was written here, if it ever was",
            "move it away to have it made again, then give --resume",
            requeue=True,
        ),
        Reason(
            UNEXPECTED,
            "the program failed in a way that nobody foresaw",
            "report it with the traceback; the other cases go on",
        ),
        Reason(
            WORKER_LOST,
            "the worker's process ended each time that it was tried",
            "segment the scan by itself to see why; where memory is short, which the kernel answers with SIGKILL, give "
            "--resume with fewer --workers",
            requeue=True,
        ),
        Reason(
            WORKER_HUNG,
            "the worker did not finish it within the timeout, each time that it was tried",
            "give --resume with a longer --case-timeout, or segment the scan by itself",
            requeue=True,
        ),
    )
)
"""Why a case of a cohort fails, beside the reasons of its series and the codes of errors."""
