"""The way out by DICOMweb (STOW-RS): what an archive names as stored is delivered, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from medattn_edge.errors import UsageError
from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.io.dicomweb.errors import ArchiveError
from medattn_edge.scanner.config.network import archive_of
from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.config.tls import client_context
from medattn_edge.scanner.deliver.send import DeliveryRefused

# Of the archive as a whole; any other reason is that of one object.
_OF_ALL: Final = frozenset(
    {"no_connection", "host_unknown", "no_answer", "tls_refused", "credentials_refused", "redirected", "no_service"}
)


class WebArchive:
    """One connection for several deliveries. Raises DeliveryRefused for credentials and certificates of no use."""

    def __init__(self, destination: Destination) -> None:
        """Nothing is opened yet."""
        from medattn_edge.io.dicomweb.client import Connection

        try:
            client_context(destination)
        except UsageError as error:
            raise DeliveryRefused("tls_files_unusable", of_all=True) from error
        try:
            self._connection = Connection(archive_of(destination))
        except UsageError as error:
            raise DeliveryRefused("credentials_unusable", of_all=True) from error

    @property
    def open(self) -> bool:
        """Whether more can be sent: each request may open a connection of its own."""
        return True

    def send(self, path: Path) -> int:
        """Store one file; 0, or the code of a warning. Raises DeliveryRefused."""
        import pydicom

        from medattn_edge.io.dicomweb.store import FINAL, store

        try:
            with quiet():
                dataset = pydicom.dcmread(path)
                _ = dataset.SOPInstanceUID
        except failures() as error:
            raise DeliveryRefused("result_damaged" if path.is_file() else "result_missing") from error
        try:
            return store(self._connection, dataset)
        except ArchiveError as error:
            raise _refused(error, error.reason in FINAL) from error

    def check(self) -> None:
        """Ask for what nobody has. Raises DeliveryRefused unless there is an answer."""
        try:
            self._connection.check()
        except ArchiveError as error:
            raise _refused(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.__exit__()


def ask(destination: Destination) -> None:
    """Raises DeliveryRefused unless the archive answers as DICOMweb; nothing is stored, and nobody's data are read."""
    archive = WebArchive(destination)
    try:
        archive.check()
    finally:
        archive.close()


def _refused(error: ArchiveError, final: bool = False) -> DeliveryRefused:
    return DeliveryRefused(error.reason, error.status, final=final, of_all=error.reason in _OF_ALL)
