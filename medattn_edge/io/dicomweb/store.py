"""An object to an archive (STOW-RS): stored is what the answer names as stored, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.errors import ScanError
from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.io.dicomweb.entries import items_of, value_of
from medattn_edge.io.dicomweb.errors import ArchiveError

if TYPE_CHECKING:
    from medattn_edge.io.dicomweb.client import Connection

_FAILED, _REFERENCED = "00081198", "00081199"  # FailedSOPSequence, ReferencedSOPSequence
_UID, _FAILURE, _WARNING = "00081155", "00081197", "00081196"
_DUPLICATE: Final = 0x0111  # it has the object from an earlier try: the same, since its UID follows from the input
_CODES: Final = {0x0122: "class_not_supported", 0x0124: "forbidden", 0xC122: "class_not_supported"}
_FAMILIES: Final = {0xA7: "out_of_resources", 0xA9: "data_set_mismatch"}
_STORED: Final = (200, 202)
FINAL: Final = frozenset({"object_refused", "data_set_mismatch", "not_understood"})  # it judged the object itself
# Of the archive as a whole; any other reason is that of one object.
OF_ALL: Final = frozenset(
    {"no_connection", "host_unknown", "no_answer", "tls_refused", "credentials_refused", "redirected", "no_service"}
)


def store(connection: Connection, dataset: Any) -> int:
    """Send an object to an archive, which may have it already.

    Args:
        connection: to the archive.
        dataset: a pydicom data set as it was read from a file, with its meta information.

    Returns:
        0, or the code of a warning with which it was stored.

    Raises:
        ArchiveError: when it is not stored, or the archive does not say that it is. Its `status` is the failure reason
            of DICOM where there is one, else that of HTTP; with a reason of `FINAL` no later try can do better.
    """
    url, uid = connection.archive.url, str(dataset.SOPInstanceUID)
    status, answer = connection.store(dataset)
    for item in items_of(answer, _FAILED):
        if value_of(item, _UID) not in (uid, None):
            continue
        failure = value_of(item, _FAILURE)
        if failure == _DUPLICATE:
            return 0
        number = failure if isinstance(failure, int) else 0
        raise ArchiveError(_reason_of(number), url, f"failure reason 0x{number:04X}", status=number)
    for item in items_of(answer, _REFERENCED):
        if value_of(item, _UID) == uid and status in _STORED:
            warning = value_of(item, _WARNING)
            return warning if isinstance(warning, int) else 0
    raise ArchiveError("not_confirmed" if status in _STORED else "object_refused", url, status=status)


def read_object(path: Path) -> Any:
    """A file as `store` takes it; raises ScanError for one that is no object of DICOM."""
    import pydicom

    try:
        with quiet():
            dataset = pydicom.dcmread(path)
            _ = dataset.SOPInstanceUID
            return dataset
    except failures() as error:
        raise ScanError(f"{path} cannot be read", expected="a DICOM file", hint="make it again") from error


def _reason_of(failure: int) -> str:
    known = _CODES.get(failure) or _FAMILIES.get(failure >> 8)
    return known or ("not_understood" if 0xC000 <= failure <= 0xCFFF else "refused")
