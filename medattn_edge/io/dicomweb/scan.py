"""ArchivedScan: a series of an archive, as the scan that a folder of its files would be."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.query import ListedSeries, list_objects
from medattn_edge.io.dicomweb.retrieve import Progress, not_kept, retrieve
from medattn_edge.io.scan import Scan
from medattn_edge.process.held_folder import held_folder, remove_tree

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series
    from medattn_edge.spec import ModelSpec

_PREFIX: Final = "medattn-edge-scan-"


class ArchivedScan(Scan):
    """A series of an archive: its files lie in a folder of their own from when they are needed until `release`.

    Attributes:
        archive: where it is.
        listed: the series, as the archive lists it.
        chosen_notes: of how it was chosen, for people.
    """

    def __init__(self, archive: Archive, listed: ListedSeries, notes: tuple[str, ...] = (), *, volume: int = 0) -> None:
        """Nothing is retrieved yet.

        Args:
            archive: where it is.
            listed: the series.
            notes: of how it was chosen.
            volume: which of several volumes, from 1; 0 for the only one.
        """
        super().__init__(Path(tempfile.gettempdir()) / f"{_PREFIX}{listed.hash}", volume=volume)
        self.is_dicom, self.listed = True, listed
        self.archive, self.chosen_notes, self._lock = archive, notes, threading.RLock()
        self._folder: Path | None = None
        self._place: Path | None = None
        self._held = ExitStack()

    def keep_in(self, folder: Path) -> None:
        """As `Scan.keep_in`: a folder that is made for it; without one it is a temporary one of the system."""
        self._place = folder

    def fetch(self, progress: Progress | None = None) -> None:
        """Retrieve it, unless it is here.

        Raises:
            MedattnError: as `retrieve` does; nothing stays on the disk then.
        """
        from medattn_edge.io.dicomweb.client import Connection

        with self._lock:
            if self._folder is not None:
                return
            with ExitStack() as stack:
                folder = self._new_folder(stack)
                with Connection(self.archive) as connection:
                    retrieve(connection, self.listed, folder, progress)
                self._folder = self.path = folder
                self._held = stack.pop_all()

    def listed_sha256(self) -> str:
        """Of the UIDs of its objects, as the archive lists them now.

        Raises:
            MedattnError: as `list_objects` does.
        """
        from medattn_edge.io.dicomweb.client import Connection

        with Connection(self.archive) as connection:
            uids = sorted(one.sop_instance_uid for one in list_objects(connection, self.listed))
        named = (self.archive.url, self.listed.study_uid, self.listed.series_uid, *uids)
        return hashlib.sha256("\0".join(named).encode()).hexdigest()

    def _new_folder(self, stack: ExitStack) -> Path:
        """A folder that goes with the stack."""
        try:
            if self._place is None:
                folder = stack.enter_context(held_folder(_PREFIX)) / "series"
            else:
                folder = self._place
                stack.callback(remove_tree, folder)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise not_kept(self.listed, self._place or Path(tempfile.gettempdir()), error) from error
        return folder

    def assignment(self, spec: ModelSpec) -> tuple[str, ...]:
        """As of any scan, without the folder that it lies in for a while."""
        return tuple(line.replace(self.path.name, self.name) for line in super().assignment(spec))

    def release(self) -> None:
        """Remove its files."""
        with self._lock:
            self._held.close()
            self._folder = None

    @cached_property
    def series(self) -> Series | None:
        """The series, retrieved first; raises as `fetch` and `Scan.series`."""
        from medattn_edge.io.dicom.volume import choose_series

        with self._lock:  # two threads ask
            found: Series | None = self.__dict__.get("series")
            if found is None:
                self.fetch()
                found = choose_series(self.path, "", self.volume)
            return found

    @property
    def shown(self) -> str:
        """The archive, and the hash of the series."""
        return f"{self.archive.url} series {self.listed.hash}"

    @property
    def name(self) -> str:
        """The hash of the series."""
        return f"series {self.listed.hash}" + (f", volume {self.volume}" if self.volume else "")

    def notes(self) -> tuple[str, ...]:
        """As of any scan, and how it was chosen."""
        return (*self.chosen_notes, *super().notes())
