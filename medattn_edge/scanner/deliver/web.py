"""The way out by DICOMweb (STOW-RS): what an archive names as stored is delivered, and nothing else."""

from __future__ import annotations

from pathlib import Path

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io.dicomweb.errors import ArchiveError
from medattn_edge.io.dicomweb.store import FINAL, OF_ALL, read_object, store
from medattn_edge.scanner.config.network import archive_of
from medattn_edge.scanner.config.sections import Destination
from medattn_edge.scanner.deliver.send import DeliveryRefused


class WebArchive:
    """One connection for several deliveries. Raises DeliveryRefused for credentials and certificates of no use."""

    def __init__(self, destination: Destination) -> None:
        """Nothing is opened yet."""
        from medattn_edge.io.dicomweb.client import Connection

        try:
            archive = archive_of(destination)
        except UsageError as error:
            raise DeliveryRefused("credentials_unusable", of_all=True) from error
        try:
            self._connection = Connection(archive)
        except UsageError as error:
            raise DeliveryRefused("tls_files_unusable", of_all=True) from error

    @property
    def open(self) -> bool:
        """Whether more can be sent: each request may open a connection of its own."""
        return True

    def send(self, path: Path) -> int:
        """Store one file; 0, or the code of a warning. Raises DeliveryRefused."""
        try:
            dataset = read_object(path)
        except ScanError as error:
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
        self._connection.close()


def ask(destination: Destination) -> None:
    """Raises DeliveryRefused unless the archive answers as DICOMweb; nothing is stored, and nobody's data are read."""
    archive = WebArchive(destination)
    try:
        archive.check()
    finally:
        archive.close()


def _refused(error: ArchiveError, final: bool = False) -> DeliveryRefused:
    return DeliveryRefused(error.reason, error.status, final=final, of_all=error.reason in OF_ALL)
