"""Orthanc, with a storage and ports of its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.dicom_peers import AE_TITLE, free_port

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_dicomweb = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not DICOMWEB_PLUGIN.is_file(), reason="apt-get install orthanc orthanc-dicomweb"
)


class Orthanc:
    """An Orthanc of our own: free ports, a temporary storage, and REST. peers: name -> (title, port).

    tls: PEM files for its DICOM port. dicomweb: with its DICOMweb plugin. user: a name and a password that HTTP wants.
    """

    def __init__(
        self,
        folder: Path,
        tls: dict[str, Path] | None = None,
        *,
        dicomweb: bool = False,
        user: tuple[str, str] | None = None,
    ) -> None:
        self.folder, self.http_port, self.port, self.tls = folder, free_port(), free_port(), tls
        self._user = user
        folder.mkdir(parents=True)
        settings: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": user is not None,
            "RegisteredUsers": {} if user is None else dict([user]),
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "StableAge": 1,
            "Plugins": [str(DICOMWEB_PLUGIN)] if dicomweb else [],
            "DicomWeb": {"Enable": dicomweb, "Root": "/dicom-web/"},
        }
        if tls is not None:
            settings |= {
                "DicomTlsEnabled": True,
                "DicomTlsCertificate": str(tls["certificate"]),
                "DicomTlsPrivateKey": str(tls["key"]),
                "DicomTlsTrustedCertificates": str(tls["ca"]),
                "DicomTlsRemoteCertificateRequired": True,
            }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        with (self.folder / "orthanc.log").open("wb") as log:
            words = ["Orthanc", str(self.folder / "orthanc.json")]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        limit = time.monotonic() + 30
        while True:
            try:
                self.rest("/system")
                return self
            except OSError:
                said = (self.folder / "orthanc.log").read_text()[-2000:]
                assert self._process.poll() is None, said
                assert time.monotonic() < limit, said
                time.sleep(0.1)

    def __exit__(self, *ended: object) -> None:
        if self._process is not None:
            self._process.kill()  # its storage is temporary, and a polite end takes seconds
            self._process.wait(30)

    @property
    def destination(self) -> dict[str, Any]:
        """Its section of a configuration, without TLS."""
        return {"name": "orthanc", "host": "127.0.0.1", "port": self.port, "ae_title": "ORTHANC"}

    @property
    def url(self) -> str:
        """Of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def rest(self, path: str, data: Any = None, method: str = "") -> Any:
        """JSON from the REST interface; `data` is posted, as JSON unless it is bytes."""
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body)
        if method:
            asked.method = method
        if self._user is not None:
            asked.add_header("Authorization", "Basic " + base64.b64encode(":".join(self._user).encode()).decode())
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def raw(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def upload(self, files: Iterable[Path]) -> list[str]:
        """Its own names of the instances."""
        return [self.rest("/instances", path.read_bytes())["ID"] for path in files]

    def knows(self, port: int) -> None:
        """Tell it of a node."""
        node: dict[str, Any] = {"AET": AE_TITLE, "Host": "127.0.0.1", "Port": port}
        self.rest("/modalities/node", {**node, "UseDicomTls": self.tls is not None}, "PUT")

    def send(self, instances: Sequence[str]) -> None:
        """C-STORE by Orthanc to the node; HTTPError when it could not."""
        self.rest("/modalities/node/store", {"Resources": list(instances), "Synchronous": True})

    def find(self, level: str, **query: str) -> list[dict[str, Any]]:
        """What it finds, with its tags."""
        return list(self.rest("/tools/find", {"Level": level, "Query": query, "Expand": True}))

    def commit(self, instances: Sequence[str]) -> Any:
        """Ask the node for storage commitment; the ID and the path of the report."""
        return self.rest("/modalities/node/storage-commitment", {"Resources": list(instances)})
