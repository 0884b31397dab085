"""The kept client, dicomweb-client, made to give objects as they are sent and to raise what we raise."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.web import _Transaction

from medattn_edge.io.dicom.files import failures, quiet
from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError
from medattn_edge.io.dicomweb.transport import Transport

Entry = Mapping[str, Any]  # of a list: a data set as DICOM's JSON has it
Json = list[Entry]
_WHOLE: Final = 1 << 40  # bytes: an object is sent in one piece, of a known length, which every server takes


class _Session(requests.Session):
    """One that goes where it is sent, and nowhere else."""

    def __init__(self, transport: Transport, archive: Archive) -> None:
        super().__init__()
        self.trust_env = False  # no proxies, no .netrc, no other certificates because of a variable
        self.adapters.clear()
        self.mount(archive.url.partition("//")[0] + "//", transport)
        self.headers.update({"Accept": "application/dicom+json", "Accept-Encoding": "identity"})
        if archive.credentials is not None:
            self.headers["Authorization"] = archive.credentials.header

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


class _Client(DICOMwebClient):
    """With objects as bytes: parsing what comes from elsewhere is for our own reader, which expects the worst."""

    def series_parts(self, study_uid: str, series_uid: str) -> Generator[bytes, None, None]:
        """Every object of a series, each in the transfer syntax that the archive has it in."""
        url = self._get_series_url(_Transaction.RETRIEVE, study_uid, series_uid)
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        answer = self._http_get(url, headers={"Accept": accept}, stream=True)
        if answer.headers.get("Content-Type", "").lower().startswith("application/dicom"):
            yield answer.content  # of a single object, as some archives send it
            return
        with answer:
            for part in self._decode_multipart_message(answer, stream=True):
                yield bytes(part)


class Connection:
    """An archive, for one thread and several requests.

    Attributes:
        archive: where it is.
    """

    def __init__(self, archive: Archive) -> None:
        """Nothing is opened yet. Raises UsageError for certificates that cannot be used."""
        self.archive = archive
        self._transport = Transport(archive)
        self._session = _Session(self._transport, archive)
        self._client = _Client(archive.url, self._session, timeout=archive.timeout_s)
        self._client.set_http_retry_params(retry=False)  # who asks decides when to ask again

    def __enter__(self) -> Connection:
        """Nothing is opened yet."""
        return self

    def __exit__(self, *ended: object) -> None:
        """Close every connection."""
        self._session.close()

    def series_page(self, filters: Mapping[str, str], limit: int, offset: int) -> Json:
        """A page of the list of series (QIDO-RS). Raises ArchiveError."""
        study = filters.get("StudyInstanceUID")
        others = {key: value for key, value in filters.items() if key != "StudyInstanceUID"}
        return self._list(
            lambda: self._client.search_for_series(
                study, limit=limit, offset=offset, search_filters=others, fields=sorted(others)
            )
        )

    def instances_page(self, study_uid: str, series_uid: str, limit: int, offset: int) -> Json:
        """A page of the list of a series' objects (QIDO-RS). Raises ArchiveError."""
        return self._list(
            lambda: self._client.search_for_instances(
                study_uid, series_uid, limit=limit, offset=offset, fields=["ImageType"]
            )
        )

    def check(self) -> None:
        """Ask for a study that nobody has, so that nobody's data come. Raises ArchiveError unless it answers."""
        self._list(lambda: self._client.search_for_studies(limit=1, search_filters={"StudyInstanceUID": "2.25.0"}))

    def objects(self, study_uid: str, series_uid: str) -> Generator[bytes, None, None]:
        """The objects of a series as files (WADO-RS), each in the transfer syntax that the archive has it in.

        Raises:
            ArchiveError: when the answer is none of DICOMweb, or ends in the middle.
            ArchiveDataError: when it is larger than it may be.
        """
        parts = self._client.series_parts(study_uid, series_uid)
        try:
            while True:
                with quiet():  # not while somebody else works with a part
                    part = next(parts, None)
                if part is None:
                    return
                self._transport.pace.object_ended()
                yield part
        except ArchiveError as error:
            if error.status == 404:
                raise ArchiveDataError("no_objects", self.archive.url, "HTTP 404") from error
            raise
        except (requests.RequestException, ValueError, KeyError, LookupError) as error:
            raise ArchiveError("not_dicomweb", self.archive.url, "parts that cannot be told apart") from error
        finally:
            parts.close()

    def store(self, dataset: Any) -> tuple[int, Entry]:
        """Send an object (STOW-RS).

        Returns:
            HTTP's status, and the answer, empty where there is none that can be read.

        Raises:
            ArchiveError: when it did not get that far.
        """
        self._client.set_chunk_size(_WHOLE)
        statuses: list[requests.Response] = []
        self._session.hooks["response"] = [lambda answer, *_, **__: statuses.append(answer)]
        try:
            with quiet():
                self._client.store_instances([dataset])
        except requests.HTTPError:
            pass  # 400 or 409, with an answer that says more
        except failures() as error:  # of who reads the answer, which is read here as well
            if isinstance(error, ArchiveError) or not statuses:
                raise ArchiveError("aborted", self.archive.url) from error
        finally:
            self._session.hooks["response"] = []
        answer = statuses[-1]
        try:
            body = answer.json()
        except ValueError:
            body = {}
        return answer.status_code, body if isinstance(body, dict) else {}

    def _list(self, ask: Any) -> Json:
        try:
            with quiet():
                found = ask()
        except (requests.RequestException, ValueError, TypeError) as error:
            raise ArchiveError("not_dicomweb", self.archive.url, "a list that cannot be read") from error
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ArchiveError("not_dicomweb", self.archive.url, "a list of something else")
        return found
