"""infer with an archive that speaks DICOMweb: the scan from it, and the results to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge.errors import MedattnError, MissingDependency, UsageError, quoted

from . import console
from .renamed import renamed

if TYPE_CHECKING:
    from medattn_edge.cohort import CaseList, ScanChoices
    from medattn_edge.inference import Outputs
    from medattn_edge.io.dicomweb.address import Archive
    from medattn_edge.io.dicomweb.scan import ArchivedScan

TIMEOUT_S = 30.0
LIMIT = 1000

StudyOption = Annotated[
    str, typer.Option("--study", metavar="UID", help="Of an archive: the StudyInstanceUID of the scan.")
]
QueryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--query",
        metavar="KEY=VALUE,...",
        help="Of an archive, with -o FOLDER/: every series that fits, as Modality=CT,StudyDate=20260101-20261126.",
    ),
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, help="Of a query: more series are refused, and none is left out.")
]
FromOption = Annotated[
    str,
    typer.Option("--from", metavar="URL", help="Of an archive: its address, instead of SCAN."),
]
ToOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="URL",
        help="Also store the DICOM results in the archive at this DICOMweb address; with -o FOLDER/ those of each case "
        "once they are written.",
    ),
]
ToCredentialsOption = Annotated[
    Path | None,
    typer.Option("--to-credentials", help="As --credentials, for the archive of --to where it is another one."),
]
SendOption = Annotated[str | None, renamed("--send", "--to")]
CredentialsOption = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        help="File with one line for the archive: bearer TOKEN, or basic USER:PASSWORD; else the variable "
        "MEDATTN_EDGE_DICOMWEB_CREDENTIALS.",
    ),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of who signs the archive's certificate; the system's by default.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Until the archive begins to answer; 30.")
]


@dataclass(frozen=True)
class ArchiveOptions:
    """What was typed of archives.

    Attributes:
        study: StudyInstanceUID, "" for none.
        query: filters, as `parse_query` takes them.
        limit: series that may fit.
        origin: the address that was given as such, "" where the scans say it.
        target: the address that results go to, "" for none.
        credentials: file, None for the variable.
        target_credentials: file for the target alone, None where it is the same archive, or the only one.
        ca: PEM file.
        timeout_s: until an answer begins.
    """

    study: str = ""
    query: Sequence[str] = ()
    limit: int = LIMIT
    origin: str = ""
    target: str = ""
    credentials: Path | None = None
    ca: Path | None = None
    timeout_s: float = TIMEOUT_S
    target_credentials: Path | None = None

    def source(self, scans: Sequence[str]) -> str:
        """The archive's address, as such or among what was given as scans; "" for none.

        Raises:
            UsageError: for neither scans nor an address, for one beside other scans, and for options of an archive
                without one.
        """
        from medattn_edge.io.dicomweb.address import is_url

        if self.origin:
            scans = (*scans, self.origin)
        if not scans:
            raise UsageError(
                "nothing to segment",
                expected="SCAN, or --from URL",
                hint="medattn-edge infer NET SCAN -o labels.nii.gz",
            )
        urls = [scan for scan in scans if is_url(scan) or scan == self.origin]
        if urls and len(scans) > 1:
            raise UsageError(
                "an archive's address beside other scans",
                expected="the address only",
                hint="medattn-edge infer NET URL --study UID -o labels.nii.gz",
            )
        self._check_used(bool(urls))
        return urls[0] if urls else ""

    def _check_used(self, from_archive: bool) -> None:
        lost: list[tuple[str, object]] = []
        if not from_archive:
            lost += [("--study", self.study), ("--query", self.query), ("--limit", self.limit != LIMIT)]
        if not from_archive and not self.target:
            lost += [("--credentials", self.credentials), ("--ca", self.ca)]
            lost += [("--timeout", self.timeout_s != TIMEOUT_S)]
        if not self.target:
            lost += [("--to-credentials", self.target_credentials)]
        for option, value in lost:
            if value:
                raise UsageError(
                    f"{option} without an archive",
                    expected="the address of a DICOMweb service as the scan"
                    + (", or --to" if option in ("--credentials", "--ca", "--timeout", "--to-credentials") else ""),
                    hint="medattn-edge infer NET http://HOST:PORT/dicom-web --study UID -o labels.nii.gz",
                )
        if not 0.05 <= self.timeout_s <= 1e5:
            raise UsageError(f"--timeout {self.timeout_s:g}", expected="0.05 to 100000 s", hint="--timeout 30")

    def listed(self, archive: Archive | None, choices: ScanChoices) -> Callable[[], CaseList] | None:
        """What gives the cases of an archive that fit the query, None without one.

        Raises:
            UsageError: for a query that cannot be read or is none.
        """
        from medattn_edge.cohort import archive_cases
        from medattn_edge.io.dicomweb.query import checked_uid, parse_query

        if archive is None:
            return None
        if not self.study and not self.query:
            raise UsageError(
                "an archive with a folder to write to, and no query",
                expected="which of its series are meant",
                hint="--query Modality=CT,StudyDate=20260101-20261126, or --study UID",
            )
        filters = parse_query(self.query) if self.query else {}
        filters |= {"StudyInstanceUID": checked_uid(self.study, "--study")} if self.study else {}
        return lambda: archive_cases(archive, filters, choices, self.limit)

    def check_one(self) -> None:
        """Raise UsageError for a query with one file to write to."""
        if self.query:
            raise UsageError("--query with one file", expected="a folder to write to, which ends in /", hint="-o OUT/")

    def archive(self, url: str, credentials: Path | None) -> Archive:
        """An archive by its address, with the credentials in a file, or those of the variable.

        Raises:
            UsageError: for what cannot be an address, and for credentials that cannot be used.
            MissingDependency: without the client.
        """
        from medattn_edge.io.dicomweb.address import Archive, Credentials, checked_url

        url = checked_url(url)
        for package in ("pydicom", "dicomweb_client"):
            if find_spec(package) is None:
                raise MissingDependency.of_extra(package, "dicomweb")
        return Archive(url, Credentials.given(credentials), self.ca, timeout_s=self.timeout_s)

    def archives(self, source: str) -> tuple[Archive | None, Archive | None]:
        """The archives that the scan is from and that the results go to; raises as `archive`, and for two with one key.

        Raises:
            UsageError: when credentials would go to two archives.
        """
        own = self.target_credentials
        first = self.archive(source, self.credentials) if source else None
        second = self.archive(self.target, own or self.credentials) if self.target else None
        if first is None or second is None or first.origin == second.origin:
            return first, second
        if own is None and first.credentials is not None:
            raise UsageError(
                f"the same credentials for {first.url} and {second.url}",
                expected="one archive, since it would learn those of the other",
                hint="--to-credentials FILE with those of the second",
            )
        return first, second


def check_sendable(outputs: Outputs) -> None:
    """Raise UsageError where there would be nothing to send."""
    if outputs.dicom_file is None:
        raise UsageError(
            f"--to with {outputs.labels.name!r}",
            expected="a DICOM result",
            hint="-o seg.dcm, or --rtstruct labels.rtstruct.dcm",
        )


def check_archived(spacing: Sequence[float], resample_to_first: bool, geometry: str | None) -> None:
    """Raise UsageError for options of scans that no series of an archive is."""
    given = {"--pixel-spacing": spacing, "--resample-to-first": resample_to_first, "--geometry": geometry}
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} with an archive", expected="one series of DICOM", hint=f"leave {option} out")


@contextmanager
def archived(archive: Archive, study: str, series: str, outputs: Outputs, volume: int) -> Iterator[ArchivedScan]:
    """A series of an archive, retrieved below a bar; its files go in the end.

    Raises:
        UsageError: without a study, and for outputs that cannot be written: nothing is retrieved then.
        ArchiveError, ArchiveDataError: as `choose_listed` and `retrieve` do.
    """
    from medattn_edge.io.dicomweb.client import Connection
    from medattn_edge.io.dicomweb.query import checked_uid
    from medattn_edge.io.dicomweb.retrieve import choose_listed
    from medattn_edge.io.dicomweb.scan import ArchivedScan

    if not study:
        raise UsageError(
            f"{archive.url} without a study",
            expected="the StudyInstanceUID of the scan",
            hint="--study UID, and --series UID where it has several",
        )
    with Connection(archive) as connection:
        listed, notes = choose_listed(connection, checked_uid(study, "--study"), series)
    scan = ArchivedScan(archive, listed, notes, volume=volume)
    outputs.check(scan)
    try:
        with console.timed("retrieving"), console.progress("retrieving") as progress:
            scan.fetch(progress)
        place = str(scan.path)
        try:
            yield scan
        except MedattnError as error:
            # The folder is gone when somebody reads this.
            for name in ("found", "expected", "hint"):
                setattr(error, name, getattr(error, name).replace(place, scan.shown))
            raise
    finally:
        scan.release()


def send_results(archive: Archive, written: Mapping[str, Path]) -> dict[str, str]:
    """Store every DICOM file among the results.

    Returns:
        What each file is -> how it was stored.

    Raises:
        ArchiveError: for the first that is not; the files stay.
    """
    from medattn_edge.io.dicom.files import SUFFIXES
    from medattn_edge.io.dicomweb.client import Connection
    from medattn_edge.io.dicomweb.store import read_object, store

    sent: dict[str, str] = {}
    files = {what: path for what, path in written.items() if path.name.lower().endswith(SUFFIXES)}
    with Connection(archive) as connection, console.progress("storing") as progress:
        for what, path in files.items():
            try:
                warning = store(connection, read_object(path))
            except MedattnError as error:
                done = f"; stored before it: {', '.join(sent)}" if sent else ""
                error.found = f"{path.name} was written and not stored: {error.found}{done}"
                error.hint = f"{error.hint}; doing it again is harmless, {quoted(path)} stays"
                raise
            sent[what] = f"stored with warning 0x{warning:04X}" if warning else "stored"
            progress(len(sent), len(files))
    return sent
